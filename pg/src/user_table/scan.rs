//! Reads the rows of a table from its heap. Policies, rules and views do not apply, and no function
//! of the table's owner is called.

use super::UserTable;
use crate::direct;
use crate::error::Result;
use crate::relation::Description;
use crate::scratch::Scratch;
use crate::snapshot::Snapshot;
use crate::transaction::must_be_in_progress;
use crate::value::Value;
use pgrx::pg_sys::{self, ItemPointerData, TupleTableSlot};
use std::ffi::c_int;
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

/// The same snapshot.
impl From<&Snapshot> for Latest {
    fn from(snapshot: &Snapshot) -> Latest {
        // SAFETY: the snapshot is registered, and so valid.
        Latest(unsafe { pg_sys::RegisterSnapshot(snapshot.registered()) })
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
    /// Reads the columns up to this one, all at once.
    pub fn read_up_to(&self, column: i16) {
        // SAFETY: the slot has a row, and its description has so many columns at most.
        unsafe {
            let most = (*(*self.slot).tts_tupleDescriptor).natts;
            if (*self.slot).tts_nvalid < column {
                pg_sys::slot_getsomeattrs_int(self.slot, most.min(column.into()));
            }
        }
    }

    /// The value of a column; `None` for a null, and for a column that does not exist.
    #[inline]
    pub fn value(&self, column: i16) -> Option<Value<'_>> {
        let mut is_null = true;
        // SAFETY: the slot has a row until the scan advances, which ends the borrow of the result.
        // PostgreSQL finds the column by the slot's own description.
        unsafe {
            let description = Description::new((*self.slot).tts_tupleDescriptor);
            let attribute = description.column(column)?;
            let datum = if column <= (*self.slot).tts_nvalid {
                let place = column as usize - 1;
                is_null = *(*self.slot).tts_isnull.add(place);
                *(*self.slot).tts_values.add(place)
            } else {
                pg_sys::slot_getattr(self.slot, i32::from(column), &mut is_null)
            };
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
        let result = go_through(slot, next, body);
        pg_sys::table_endscan(scan);
        result
    }
}

/// Calls `body` for each row of a tuplestore, such as a transition table. The columns up to `last` are
/// read.
///
/// # Safety
/// The tuplestore must have tuples of the description, and allow to be read again.
pub(crate) unsafe fn each_row_in_store(
    store: *mut pg_sys::Tuplestorestate,
    description: pg_sys::TupleDesc,
    last: i16,
    body: impl FnMut(&UserRow) -> Result<ControlFlow<()>>,
) -> Result<()> {
    // SAFETY: as the caller promises. Each reader of a tuplestore has its own pointer, as scans of
    // transition tables have.
    unsafe {
        let slot = pg_sys::MakeSingleTupleTableSlot(description, &pg_sys::TTSOpsMinimalTuple);
        let reader =
            pg_sys::tuplestore_alloc_read_pointer(store, pg_sys::EXEC_FLAG_REWIND as c_int);
        pg_sys::tuplestore_select_read_pointer(store, reader);
        pg_sys::tuplestore_rescan(store);
        let last = c_int::from(last).min((*description).natts);
        let next = || {
            direct::guarded(|| {
                let found = direct::tuplestore_gettupleslot(store, true, false, slot);
                if found {
                    direct::slot_getsomeattrs_int(slot, last);
                }
                found
            })
        };
        go_through(slot, next, body)
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
        let result = go_through(slot, next, body);
        pg_sys::table_endscan(scan);
        result
    }
}

fn place(page: u32, row: u16) -> ItemPointerData {
    let block = pg_sys::BlockIdData { bi_hi: (page >> 16) as u16, bi_lo: page as u16 };
    ItemPointerData { ip_blkid: block, ip_posid: row }
}

/// # Safety
/// `next` must put the next row into the slot, which is dropped at the end. After an error the abort
/// cleans up.
unsafe fn go_through(
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
    unsafe { pg_sys::ExecDropSingleTupleTableSlot(slot) };
    result
}
