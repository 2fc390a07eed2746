//! What a trigger left in the row that its statement is at.
//!
//! One row may pass by the triggers twice: `INSERT ... ON CONFLICT DO UPDATE` has those
//! of an insert and then those of an update, and an `UPDATE` that moves a row to another
//! partition has those of an insert there. What the first pass made of a value must be
//! known again in the second, for a digest can't be told from a value by its looks.
//!
//! PostgreSQL calls all triggers of a row in a memory context of the statement's, and
//! resets it before the next row. So the context says which statement it is, and its
//! reset ends what is remembered here.

use pgrx::pg_sys::Oid;
use std::cell::RefCell;

/// Which of the two passes left it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Pass {
    Insert,
    Update,
}

struct Left {
    context: usize,
    pass: Pass,
    family: Oid,
    column: Vec<u8>,
    content: Option<Vec<u8>>,
}

thread_local! {
    static LEFT: RefCell<Vec<Left>> = const { RefCell::new(Vec::new()) };
}

/// Remembers what a pass leaves in a column; `None` is a null. `family` is the topmost
/// table: a partition's column of that name may have another number.
pub fn remember(pass: Pass, family: Oid, column: &[u8], content: Option<Vec<u8>>) {
    let context = pg::context::current();
    let is_first = LEFT.with_borrow(|left| !left.iter().any(|entry| entry.context == context));
    if is_first {
        pg::context::at_reset(forget);
    }
    let entry = Left { context, pass, family, column: column.to_vec(), content };
    LEFT.with_borrow_mut(|left| left.push(entry));
}

/// Whether that is what the pass left in the column of this very row.
pub fn left(pass: Pass, family: Oid, column: &[u8], content: Option<&[u8]>) -> bool {
    let context = pg::context::current();
    LEFT.with_borrow(|left| {
        left.iter().any(|entry| {
            entry.context == context
                && entry.pass == pass
                && entry.family == family
                && entry.column == column
                && entry.content.as_deref() == content
        })
    })
}

/// Nothing of PostgreSQL's is called while this is borrowed, so that it never is here.
fn forget(context: usize) {
    let _ = LEFT.try_with(|left| {
        if let Ok(mut left) = left.try_borrow_mut() {
            left.retain(|entry| entry.context != context);
        }
    });
}
