//! Rows of a table, read from its heap: past policies, rules and views, and without a call
//! of any function of the table's owner.

use super::UserTable;
use crate::error::Result;
use pgrx::pg_sys::{self, Datum, ItemPointerData, TupleTableSlot};
use std::ops::{ControlFlow, Range};
use std::ptr::null_mut;

/// A snapshot of this moment, at any isolation level.
pub struct Latest(pg_sys::Snapshot);

impl Latest {
    /// Take it after the tables are locked, to see what was done before.
    pub fn now() -> Latest {
        // SAFETY: we are inside a transaction, in no parallel worker.
        Latest(unsafe { pg_sys::RegisterSnapshot(pg_sys::GetLatestSnapshot()) })
    }
}

impl Latest {
    /// For PostgreSQL, for as long as this lives.
    pub fn registered(&self) -> pg_sys::Snapshot {
        self.0
    }
}

impl Drop for Latest {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            // SAFETY: registered once. After an error the abort does it.
            unsafe { pg_sys::UnregisterSnapshot(self.0) };
        }
    }
}

/// A row that a scan is at.
pub struct Row(*mut TupleTableSlot);

impl Row {
    /// The value of a column, which is good until the scan goes on.
    pub fn value(&self, column: i16) -> Option<Datum> {
        let mut is_null = true;
        // SAFETY: the slot has a row; PostgreSQL knows the columns that it has by its own
        // description, and others as null.
        unsafe {
            let has = i32::from(column) <= (*(*self.0).tts_tupleDescriptor).natts && column > 0;
            let datum = if has {
                pg_sys::slot_getattr(self.0, i32::from(column), &mut is_null)
            } else {
                Datum::null()
            };
            (!is_null).then_some(datum)
        }
    }

    /// Where it lies.
    pub fn place(&self) -> ItemPointerData {
        // SAFETY: the slot has a row.
        unsafe { (*self.0).tts_tid }
    }

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
    body: impl FnMut(&Row) -> Result<ControlFlow<()>>,
) -> Result<()> {
    let relation = table.relation();
    // SAFETY: the table is open and locked, the snapshot registered.
    unsafe {
        let slot = pg_sys::table_slot_create(relation, null_mut());
        let scan = pg_sys::table_beginscan_strat(relation, snapshot.0, 0, null_mut(), true, false);
        let forward = pg_sys::ScanDirection::ForwardScanDirection;
        let next = || pg_sys::table_scan_getnextslot(scan, forward, slot);
        go_through(scan, slot, next, body)
    }
}

/// The same for some pages.
pub fn each_row_of(
    table: &UserTable,
    pages: Range<u32>,
    snapshot: &Latest,
    body: impl FnMut(&Row) -> Result<ControlFlow<()>>,
) -> Result<()> {
    let relation = table.relation();
    // SAFETY: the table is open and locked, the snapshot registered, its access method one
    // that can do this.
    unsafe {
        if pages.is_empty() || (*(*relation).rd_tableam).scan_set_tidrange.is_none() {
            return Ok(());
        }
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
/// The scan must have begun, and `next` put its next row into the slot. What an error leaves
/// behind, the abort tidies up.
unsafe fn go_through(
    scan: pg_sys::TableScanDesc,
    slot: *mut TupleTableSlot,
    mut next: impl FnMut() -> bool,
    mut body: impl FnMut(&Row) -> Result<ControlFlow<()>>,
) -> Result<()> {
    // SAFETY: as the caller promises.
    unsafe {
        let memory = pg_sys::AllocSetContextCreateInternal(
            pg_sys::CurrentMemoryContext,
            c"keysmith rows".as_ptr(),
            pg_sys::ALLOCSET_DEFAULT_MINSIZE as usize,
            pg_sys::ALLOCSET_DEFAULT_INITSIZE as usize,
            pg_sys::ALLOCSET_DEFAULT_MAXSIZE as usize,
        );
        let mut result = Ok(());
        while next() {
            pgrx::check_for_interrupts!();
            let before = pg_sys::MemoryContextSwitchTo(memory);
            let flow = body(&Row(slot));
            pg_sys::MemoryContextSwitchTo(before);
            pg_sys::MemoryContextReset(memory);
            match flow {
                Ok(ControlFlow::Continue(())) => {}
                Ok(ControlFlow::Break(())) => break,
                Err(error) => {
                    result = Err(error);
                    break;
                }
            }
        }
        pg_sys::table_endscan(scan);
        pg_sys::ExecDropSingleTupleTableSlot(slot);
        pg_sys::MemoryContextDelete(memory);
        result
    }
}
