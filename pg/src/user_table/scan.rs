//! Reads the rows of a table from its heap. Policies, rules and views do not apply, and no function
//! of the table's owner is called.

use super::UserTable;
use crate::error::Result;
use crate::relation::Description;
use crate::scratch::Scratch;
use crate::transaction::must_be_in_progress;
use crate::value::Value;
use pgrx::pg_sys::{self, ItemPointerData, TupleTableSlot};
use std::ops::{ControlFlow, Range};
use std::ptr::null_mut;

/// A snapshot of what is committed now, at any isolation level.
pub struct Latest(pg_sys::Snapshot);

impl Latest {
    /// Call it after the tables are locked, so that it sees what was committed before.
    pub fn now() -> Latest {
        must_be_in_progress();
        // SAFETY: inside a transaction. In a parallel worker it is an error.
        Latest(unsafe { pg_sys::RegisterSnapshot(pg_sys::GetLatestSnapshot()) })
    }

    /// PostgreSQL's snapshot, which is valid as long as this lives.
    pub fn registered(&self) -> pg_sys::Snapshot {
        self.0
    }
}

impl Drop for Latest {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            // SAFETY: registered once. After an error the abort unregisters it.
            unsafe { pg_sys::UnregisterSnapshot(self.0) };
        }
    }
}

/// The current row of a scan.
pub struct UserRow<'a> {
    slot: *mut TupleTableSlot,
    /// Memory that is freed when the scan advances.
    memory: &'a Scratch,
}

impl UserRow<'_> {
    /// The value of a column; `None` for a null, and for a column that does not exist.
    pub fn value(&self, column: i16) -> Option<Value<'_>> {
        let mut is_null = true;
        // SAFETY: the slot has a row until the scan advances, which ends the borrow of the result.
        // PostgreSQL finds the column by the slot's own description.
        unsafe {
            let description = Description::new((*self.slot).tts_tupleDescriptor);
            let attribute = description.column(column)?;
            let datum = pg_sys::slot_getattr(self.slot, i32::from(column), &mut is_null);
            (!is_null).then(|| Value::new(datum, attribute, self.memory.get()))
        }
    }

    /// Its TID.
    pub fn place(&self) -> ItemPointerData {
        // SAFETY: the slot has a row.
        unsafe { (*self.slot).tts_tid }
    }

    /// The number of its page.
    pub fn page(&self) -> u32 {
        let block = self.place().ip_blkid;
        u32::from(block.bi_hi) << 16 | u32::from(block.bi_lo)
    }
}

/// Calls `body` for each row, from the first page to the last. Memory that it allocates is
/// freed after each row.
pub fn each_row(
    table: &UserTable,
    snapshot: &Latest,
    body: impl FnMut(&UserRow) -> Result<ControlFlow<()>>,
) -> Result<()> {
    if !table.has_rows() {
        return Ok(());
    }
    let relation = table.0;
    // SAFETY: the table is open and locked, and stores rows; the snapshot is registered.
    unsafe {
        let slot = pg_sys::table_slot_create(relation, null_mut());
        let scan = pg_sys::table_beginscan_strat(relation, snapshot.0, 0, null_mut(), true, false);
        let forward = pg_sys::ScanDirection::ForwardScanDirection;
        let next = || pg_sys::table_scan_getnextslot(scan, forward, slot);
        go_through(scan, slot, next, body)
    }
}

/// Calls `body` for each row in a range of pages, likewise.
pub fn each_row_of(
    table: &UserTable,
    pages: Range<u32>,
    snapshot: &Latest,
    body: impl FnMut(&UserRow) -> Result<ControlFlow<()>>,
) -> Result<()> {
    if !table.has_rows() || !table.can_be_read_by_pages() || pages.is_empty() {
        return Ok(());
    }
    let relation = table.0;
    // SAFETY: the table is open and locked, and stores rows; the snapshot is registered.
    unsafe {
        let (mut from, mut to) = (place(pages.start, 1), place(pages.end - 1, u16::MAX));
        let slot = pg_sys::table_slot_create(relation, null_mut());
        let scan = pg_sys::table_beginscan_tidrange(relation, snapshot.0, &mut from, &mut to);
        let forward = pg_sys::ScanDirection::ForwardScanDirection;
        let next = || pg_sys::table_scan_getnextslot_tidrange(scan, forward, slot);
        go_through(scan, slot, next, body)
    }
}

fn place(page: u32, row: u16) -> ItemPointerData {
    let block = pg_sys::BlockIdData { bi_hi: (page >> 16) as u16, bi_lo: page as u16 };
    ItemPointerData { ip_blkid: block, ip_posid: row }
}

/// # Safety
/// The scan must have begun, and `next` must put its next row into the slot. After an error the
/// abort cleans up.
unsafe fn go_through(
    scan: pg_sys::TableScanDesc,
    slot: *mut TupleTableSlot,
    mut next: impl FnMut() -> bool,
    mut body: impl FnMut(&UserRow) -> Result<ControlFlow<()>>,
) -> Result<()> {
    // SAFETY: dropped at the end of this function, with the same context current.
    let memory = unsafe { Scratch::new() };
    let mut result = Ok(());
    while next() {
        pgrx::check_for_interrupts!();
        let flow = memory.run(|| body(&UserRow { slot, memory: &memory }));
        // SAFETY: values of the row are borrowed from the `UserRow`, which no longer exists.
        unsafe { memory.reset() };
        match flow {
            Ok(ControlFlow::Continue(())) => {}
            Ok(ControlFlow::Break(())) => break,
            Err(error) => {
                result = Err(error);
                break;
            }
        }
    }
    // SAFETY: as the caller promises.
    unsafe {
        pg_sys::table_endscan(scan);
        pg_sys::ExecDropSingleTupleTableSlot(slot);
    }
    result
}
