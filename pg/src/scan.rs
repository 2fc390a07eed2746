//! Finds rows by an index or by TID, under a snapshot that is taken now, without SPI.
//!
//! These scans check no privileges: the right to call a function includes what the function reads.

use crate::column::{Bytea, Column, Definition, Names, Text, Uuid};
use crate::row::{Taken, place_of, tuple_at, writer};
use crate::{direct, major, varlena};
use keysmith_core::directory::Place;
use pgrx::pg_sys::{self, Datum, Oid};
use std::ffi::CStr;
use std::marker::PhantomData;
use std::ops::Deref;

pub use crate::row::{Room, Row, Version};
pub use crate::snapshot::{Snapshot, transactions_ended};

/// An open table, locked against DROP until it is closed. The lock is not held for the rest of the
/// transaction. So TRUNCATE and ALTER EXTENSION don't wait for every transaction that has made a
/// request.
pub struct Relation {
    relation: pg_sys::Relation,
    index: Oid,
}

const LOCK: i32 = pg_sys::AccessShareLock as i32;

impl Relation {
    /// Opens a table. Its scans use this index.
    #[inline]
    pub fn open(table: Oid, index: Oid) -> Relation {
        // SAFETY: PostgreSQL raises an error if the table was dropped. `table_open` also checks the
        // kind of the relation, which callers know to be a table. Nothing inside needs dropping.
        let relation = unsafe {
            direct::guarded(|| {
                direct::LockRelationOid(table, LOCK);
                let relation = direct::RelationIdGetRelation(table);
                if relation.is_null() { direct::table_open(table, LOCK) } else { relation }
            })
        };
        Relation { relation, index }
    }

    /// The row at this TID, if the snapshot sees it.
    #[inline]
    pub fn fetch<'a>(
        &'a self,
        snapshot: &'a Snapshot,
        place: Place,
        room: &'a Room,
    ) -> Option<Pinned<'a>> {
        let mut tuple = tuple_at(place);
        let page = self.page_with(snapshot, &mut tuple)?;
        let taken = room.take();
        // SAFETY: the tuple is in the page, which stays pinned as long as the row lives; so long
        // the room stays reserved.
        Some(Pinned { row: unsafe { self.row(&mut tuple, room) }, _pin: page, _room: taken })
    }

    /// Whether the snapshot sees this version of a row, and the first column of the row is this
    /// text.
    pub fn sees(&self, snapshot: &Snapshot, version: Version, name: &[u8]) -> bool {
        let mut tuple = tuple_at(version.place);
        let Some(_page) = self.page_with(snapshot, &mut tuple) else { return false };
        // SAFETY: the tuple is in the pinned page. Its first column is a text, and begins where its
        // header ends.
        unsafe {
            let header = tuple.t_data;
            let first = header.cast::<u8>().add(usize::from((*header).t_hoff));
            writer(header) == version.writer && varlena::bytes(Datum::from(first)) == name
        }
    }

    /// Fetches the tuple at its TID and pins its page, if the snapshot sees the tuple.
    #[inline]
    fn page_with(&self, snapshot: &Snapshot, tuple: &mut pg_sys::HeapTupleData) -> Option<Pin> {
        let place = place_of(tuple);
        let mut buffer = 0;
        // SAFETY: the relation is open and locked, the snapshot is registered, and the block
        // exists. The page stays pinned until the `Pin` is dropped; after an error the abort
        // releases it. Nothing inside needs dropping.
        unsafe {
            let is_there = place.is_known()
                && direct::guarded(|| {
                    has_block(self.relation, place.block)
                        && direct::heap_fetch(
                            self.relation,
                            snapshot.registered(),
                            tuple,
                            &mut buffer,
                            false,
                        )
                });
            is_there.then(|| Pin::Page(buffer))
        }
    }

    /// The relation, with a ROW SHARE lock until the transaction ends, which locking rows needs.
    ///
    /// # Safety
    /// The result must not be used after this `Relation` is dropped.
    pub unsafe fn for_changes(&self) -> pg_sys::Relation {
        // SAFETY: the relation is open. This may raise an error.
        unsafe {
            let table = (*self.relation).rd_id;
            pg_sys::LockRelationOid(table, pg_sys::RowShareLock as pg_sys::LOCKMODE);
        }
        self.relation
    }

    /// Whether the table has these columns, in this order, and no others.
    pub fn has_columns(&self, columns: &[Definition]) -> bool {
        self.attributes().len() == columns.len() && self.begins_with(columns)
    }

    /// Whether these are the table's first columns.
    #[cold]
    pub fn begins_with(&self, columns: &[Definition]) -> bool {
        let attributes = self.attributes();
        attributes.len() >= columns.len()
            && attributes.iter().zip(columns).all(|(attribute, (name, oid))| {
                attribute_name(attribute) == name.as_bytes()
                    && attribute.atttypid == oid.value()
                    && !attribute.attisdropped
            })
    }

    fn attributes(&self) -> &[pg_sys::FormData_pg_attribute] {
        // SAFETY: the relation is open, so its row description is valid.
        unsafe { major::attributes((*self.relation).rd_att) }
    }

    /// All rows whose leading index columns equal the keys, in index order.
    #[inline]
    pub fn scan<'a, const N: usize>(
        &'a self,
        snapshot: &'a Snapshot,
        keys: [ScanKey<'a>; N],
    ) -> Scan<'a> {
        let mut keys = keys.map(|key| key.0);
        // SAFETY: the relation is open and locked, and the snapshot is registered, as long as the
        // scan lasts. The keys are copied.
        let scan = unsafe {
            pg_sys::systable_beginscan(
                self.relation,
                self.index,
                true,
                snapshot.registered(),
                N as i32,
                keys.as_mut_ptr(),
            )
        };
        Scan { scan, relation: self, room: Room::new() }
    }

    /// All rows, in no order. A process without a database may be unable to open an index.
    pub fn scan_all<'a>(&'a self, snapshot: &'a Snapshot) -> Scan<'a> {
        let (table, seen, none) = (self.relation, snapshot.registered(), std::ptr::null_mut());
        // SAFETY: as in `scan`.
        let scan = unsafe { pg_sys::systable_beginscan(table, self.index, false, seen, 0, none) };
        Scan { scan, relation: self, room: Room::new() }
    }
}

impl Relation {
    /// The first row, in index order, whose leading index columns equal the keys and for which
    /// `is_it` is true.
    pub fn first<'a, const N: usize>(
        &'a self,
        snapshot: &'a Snapshot,
        room: &'a Room,
        keys: [ScanKey; N],
        mut is_it: impl FnMut(&Row) -> bool,
    ) -> Option<Pinned<'a>> {
        let taken = room.take();
        let mut keys = keys.map(|key| key.0);
        // SAFETY: as in `scan`. The values of the keys are read only while the scan advances, and
        // it stays at the row that it found. It is ended when the pin is dropped. So long the room
        // stays reserved.
        unsafe {
            let scan = pg_sys::systable_beginscan(
                self.relation,
                self.index,
                true,
                snapshot.registered(),
                N as i32,
                keys.as_mut_ptr(),
            );
            let pin = Pin::Scan(scan);
            loop {
                let tuple = pg_sys::systable_getnext(scan);
                if tuple.is_null() {
                    return None;
                }
                let row = self.row(tuple, taken.room());
                if is_it(&row) {
                    return Some(Pinned { row, _pin: pin, _room: taken });
                }
            }
        }
    }

    /// Whether there is a row whose leading index columns equal the keys and for which `is_it` is
    /// true.
    pub fn any<const N: usize>(
        &self,
        snapshot: &Snapshot,
        keys: [ScanKey; N],
        is_it: impl FnMut(&Row) -> bool,
    ) -> bool {
        self.first(snapshot, &Room::new(), keys, is_it).is_some()
    }

    /// Passes the last row, in index order, whose leading index columns equal the keys, to `with`.
    pub fn last<T, const N: usize>(
        &self,
        snapshot: &Snapshot,
        keys: [ScanKey; N],
        with: impl FnOnce(&Row) -> T,
    ) -> Option<T> {
        let mut keys = keys.map(|key| key.0);
        // SAFETY: as in `scan`; the index is closed after the scan, and after an error
        // by the abort. The row has the relation's columns.
        unsafe {
            let index = pg_sys::index_open(self.index, LOCK);
            let scan = pg_sys::systable_beginscan_ordered(
                self.relation,
                index,
                snapshot.registered(),
                N as i32,
                keys.as_mut_ptr(),
            );
            let tuple = pg_sys::systable_getnext_ordered(
                scan,
                pg_sys::ScanDirection::BackwardScanDirection,
            );
            let room = Room::new();
            let result = (!tuple.is_null()).then(|| with(&self.row(tuple, &room)));
            pg_sys::systable_endscan_ordered(scan);
            pg_sys::index_close(index, LOCK);
            result
        }
    }

    /// Reads a tuple of this relation.
    ///
    /// # Safety
    /// The tuple must be one of this relation. The tuple and the room must be valid for `'a`, and
    /// must not change. No other row may use the room.
    #[inline]
    unsafe fn row<'a>(&self, tuple: pg_sys::HeapTuple, room: *const Room) -> Row<'a> {
        // SAFETY: as the caller promises; the relation is open, so its row description is valid.
        unsafe { Row::read(tuple, (*self.relation).rd_att, room) }
    }
}

/// A column's name, in the database's encoding.
pub fn attribute_name(attribute: &pg_sys::FormData_pg_attribute) -> &[u8] {
    // SAFETY: a name ends in a zero.
    unsafe { CStr::from_ptr(attribute.attname.data.as_ptr()) }.to_bytes()
}

/// Whether a table has this block. Reading a block that does not exist is an error.
///
/// A table is truncated only under a lock that conflicts with ours, and the truncation invalidates
/// the cached lengths of all sessions. So a cached length may be too short, but never too long.
///
/// # Safety
/// The relation must be open and locked. This may raise an error.
#[inline]
unsafe fn has_block(relation: pg_sys::Relation, block: u32) -> bool {
    const MAIN: pg_sys::ForkNumber::Type = pg_sys::ForkNumber::MAIN_FORKNUM;
    // SAFETY: as the caller promises; storage that is not open yet is null.
    unsafe {
        let storage = (*relation).rd_smgr;
        if !storage.is_null() {
            let known = (*storage).smgr_cached_nblocks[MAIN as usize];
            if known != pg_sys::InvalidBlockNumber && block < known {
                return true;
            }
        }
        block < direct::RelationGetNumberOfBlocksInFork(relation, MAIN)
    }
}

/// A row whose page stays pinned as long as this lives.
pub struct Pinned<'a> {
    row: Row<'a>,
    _pin: Pin,
    _room: Taken<'a>,
}

/// The pin that keeps a row in memory.
enum Pin {
    Page(pg_sys::Buffer),
    /// A scan that does not advance any more.
    Scan(pg_sys::SysScanDesc),
}

impl<'a> Deref for Pinned<'a> {
    type Target = Row<'a>;

    fn deref(&self) -> &Row<'a> {
        &self.row
    }
}

impl Drop for Pin {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            // SAFETY: pinned in `page_with`, or begun in `first`, once. After an error the abort
            // releases it.
            unsafe {
                match *self {
                    Pin::Page(buffer) => direct::ReleaseBuffer(buffer),
                    Pin::Scan(scan) => pg_sys::systable_endscan(scan),
                }
            }
        }
    }
}

impl Drop for Relation {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            // SAFETY: opened and locked in `open`, once; after an error the abort closes it.
            unsafe {
                let mut locked = (*self.relation).rd_lockInfo.lockRelId;
                direct::RelationClose(self.relation);
                direct::UnlockRelationId(&mut locked, LOCK);
            }
        }
    }
}

/// The condition that a column equals a value. The value is borrowed as long as the scan lasts.
#[derive(Clone, Copy)]
pub struct ScanKey<'a>(pg_sys::ScanKeyData, PhantomData<&'a ()>);

impl<'a> ScanKey<'a> {
    #[inline]
    pub fn uuid(column: Column<Uuid>, value: &'a [u8; 16]) -> Self {
        Self::equal(column.number(), pg_sys::F_UUID_EQ, Datum::from(value.as_ptr()))
    }

    pub fn oid(column: Column<impl Names>, value: Oid) -> Self {
        Self::equal(column.number(), pg_sys::F_OIDEQ, Datum::from(value))
    }

    #[inline]
    pub fn bytes(column: Column<Bytea>, value: &'a Varlena) -> Self {
        Self::equal(column.number(), pg_sys::F_BYTEAEQ, value.datum())
    }

    /// Compares texts by their bytes.
    #[inline]
    pub fn text(column: Column<Text>, value: &'a Varlena) -> Self {
        Self::equal(column.number(), pg_sys::F_TEXTEQ, value.datum())
    }

    #[inline]
    fn equal(column: i16, function: u32, value: Datum) -> Self {
        let mut key = pg_sys::ScanKeyData::default();
        // SAFETY: fills in the structure; the comparison functions are built in.
        unsafe {
            pg_sys::ScanKeyInit(
                &mut key,
                column,
                pg_sys::BTEqualStrategyNumber as u16,
                Oid::from(function),
                value,
            );
        }
        ScanKey(key, PhantomData)
    }
}

/// A varlena in Rust's memory.
pub struct Varlena(Vec<u32>);

impl Varlena {
    #[inline]
    pub fn new(content: &[u8]) -> Varlena {
        const HEADER: usize = 4;
        let size = HEADER + content.len();
        let mut words = vec![0u32; size.div_ceil(HEADER)];
        // SAFETY: the buffer has `size` bytes or more, and is aligned for the header.
        unsafe {
            let start = words.as_mut_ptr().cast::<u8>();
            pgrx::set_varsize_4b(start.cast(), size as i32);
            std::ptr::copy_nonoverlapping(content.as_ptr(), start.add(HEADER), content.len());
        }
        Varlena(words)
    }

    fn datum(&self) -> Datum {
        Datum::from(self.0.as_ptr())
    }
}

/// A text in the database's encoding, to be compared with texts of our tables.
pub fn server_text(text: &str) -> Varlena {
    Varlena::new(crate::text::to_server(text).as_bytes())
}

/// A running scan.
pub struct Scan<'a> {
    scan: pg_sys::SysScanDesc,
    relation: &'a Relation,
    room: Room,
}

impl Scan<'_> {
    /// The next row, in a pinned page. It is valid until the scan advances, which an `Iterator`
    /// can't express.
    #[allow(clippy::should_implement_trait)]
    #[inline]
    pub fn next(&mut self) -> Option<Row<'_>> {
        // SAFETY: the scan is open. The tuple and the values in the room are valid until the scan
        // advances, which the row's borrow of `self` prevents.
        unsafe {
            let tuple = pg_sys::systable_getnext(self.scan);
            (!tuple.is_null()).then(|| self.relation.row(tuple, &self.room))
        }
    }
}

impl Drop for Scan<'_> {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            // SAFETY: begun in `scan`, once; after an error the abort ends it.
            unsafe { pg_sys::systable_endscan(self.scan) };
        }
    }
}
