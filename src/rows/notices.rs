//! Notices that tell how far a scan of a table is.

use pg::notice::notice;
use pg::user_table::{UserRow, UserTable};

/// The least number of pages between two notices. A large table has some twenty notices.
const LEAST: u32 = 1000;

pub struct PageNotices<'a> {
    table: &'a UserTable,
    /// What is done with the pages.
    done: &'static str,
    pages: u32,
    portion: u32,
    next: u32,
}

impl<'a> PageNotices<'a> {
    /// For a scan that begins: `checked 1000 of 20000 pages of public.t`.
    pub fn of(table: &'a UserTable, done: &'static str) -> PageNotices<'a> {
        let pages = table.pages();
        let portion = (pages / 20).max(LEAST);
        PageNotices { table, done, pages, portion, next: portion }
    }

    /// To be called with each row.
    #[inline]
    pub fn at(&mut self, row: &UserRow) {
        while self.next < self.pages && row.page() >= self.next {
            let PageNotices { table, done, pages, next, .. } = self;
            notice(format!("{done} {next} of {pages} pages of {}", table.name()), None);
            self.next = self.next.saturating_add(self.portion);
        }
    }
}
