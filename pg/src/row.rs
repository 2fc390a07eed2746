//! A row of one of our tables, read in its page.

use crate::column::{
    Array, Bigint, Boolean, Column, Integer, Interval, Jsonb, Kind, Names, Smallint, Text,
    Timestamp, Uuid, Varying,
};
use crate::jsonb::StoredJsonb;
use crate::varlena::{self, ArrayView, StoredValue};
use crate::{direct, text};
use keysmith_core::directory::Place;
use pgrx::pg_sys::{self, Datum, Oid};
use std::cell::{Cell, UnsafeCell};
use std::mem::MaybeUninit;

/// The most columns that one of our tables may have.
const MAX_COLUMNS: usize = 40;

/// Space for the values of one row at a time. A `Row` points to it, so that moving a `Row` copies
/// no values.
pub struct Room {
    values: UnsafeCell<MaybeUninit<[Datum; MAX_COLUMNS]>>,
    nulls: UnsafeCell<MaybeUninit<[bool; MAX_COLUMNS]>>,
    is_taken: Cell<bool>,
}

impl Room {
    /// Writes only the flag. The values stay uninitialized until a row is read.
    #[inline(always)]
    pub fn new() -> Room {
        let mut room = MaybeUninit::<Room>::uninit();
        // SAFETY: the other fields may be uninitialized.
        unsafe {
            (&raw mut (*room.as_mut_ptr()).is_taken).write(Cell::new(false));
            room.assume_init()
        }
    }

    /// Reserves the room for a row, until the result is dropped.
    #[inline(always)]
    pub(crate) fn take(&self) -> Taken<'_> {
        if self.is_taken.replace(true) {
            pgrx::error!("two rows are read into the room of one");
        }
        Taken(self)
    }
}

impl Default for Room {
    #[inline(always)]
    fn default() -> Room {
        Room::new()
    }
}

/// A reserved room, which no other row can use.
pub(crate) struct Taken<'a>(&'a Room);

impl Taken<'_> {
    #[inline]
    pub fn room(&self) -> &Room {
        self.0
    }
}

impl Drop for Taken<'_> {
    #[inline]
    fn drop(&mut self) {
        self.0.is_taken.set(false);
    }
}

/// A row of a table. The type of each value comes from its `Column`.
pub struct Row<'a> {
    values: &'a [Datum],
    nulls: &'a [bool],
    place: Place,
    header: pg_sys::HeapTupleHeader,
}

impl<'a> Row<'a> {
    /// Reads the values of a tuple into the room.
    ///
    /// # Safety
    /// The tuple must have this description. The tuple and the room must be valid for `'a`, and
    /// must not change. No other row may use the room.
    #[inline]
    pub(crate) unsafe fn read(
        tuple: pg_sys::HeapTuple,
        description: pg_sys::TupleDesc,
        room: *const Room,
    ) -> Row<'a> {
        // SAFETY: the tuple has the columns of the description, and the room has space for them.
        // All of their values are filled in.
        unsafe {
            let columns = (*description).natts as usize;
            assert!(columns <= MAX_COLUMNS, "one of our tables is too wide");
            let values = (*room).values.get().cast::<Datum>();
            let nulls = (*room).nulls.get().cast::<bool>();
            direct::heap_deform_tuple(tuple, description, values, nulls);
            Row {
                values: std::slice::from_raw_parts(values, columns),
                nulls: std::slice::from_raw_parts(nulls, columns),
                place: place_of(&*tuple),
                header: (*tuple).t_data,
            }
        }
    }

    /// The block and the offset of the row.
    pub fn place(&self) -> Place {
        self.place
    }

    /// The identity of this version of the row.
    pub fn version(&self) -> Version {
        // SAFETY: the header is in the row's page, which is pinned.
        Version { place: self.place, writer: unsafe { writer(self.header) } }
    }

    /// The tuple header, in the pinned page.
    pub fn header(&self) -> pg_sys::HeapTupleHeader {
        self.header
    }

    /// A tuple that has only the TID of this row.
    pub fn tuple(&self) -> pg_sys::HeapTupleData {
        tuple_at(self.place)
    }

    #[inline]
    pub fn is_null<T: Kind>(&self, column: Column<T>) -> bool {
        self.datum(column).is_none()
    }

    #[inline]
    fn datum<T: Kind>(&self, column: Column<T>) -> Option<Datum> {
        let index = usize::from(column.number().unsigned_abs()).checked_sub(1)?;
        if *self.nulls.get(index)? { None } else { self.values.get(index).copied() }
    }

    #[inline]
    pub fn bytes(&self, column: Column<impl Varying>) -> Option<&[u8]> {
        // SAFETY: a text or bytea of this row, which lies in the pinned page, or was
        // fetched into the current memory context.
        self.datum(column).map(|datum| unsafe { varlena::bytes(datum) })
    }

    /// A value of variable length as it is stored.
    #[inline]
    pub fn stored(&self, column: Column<impl Varying>) -> Option<StoredValue<'_>> {
        // SAFETY: a varlena of this row, which lies in the pinned page.
        self.datum(column).map(|datum| unsafe { StoredValue::new(datum) })
    }

    #[inline]
    pub fn jsonb(&self, column: Column<Jsonb>) -> Option<StoredJsonb<'_>> {
        // SAFETY: the column is one of jsonb.
        self.stored(column).map(|value| unsafe { StoredJsonb::new(value) })
    }

    /// A text as a Rust string; `None` for a null, and for a text that has no UTF-8 form.
    pub fn text(&self, column: Column<Text>) -> Option<String> {
        self.bytes(column).and_then(text::from_server)
    }

    #[inline]
    pub fn array(&self, column: Column<impl Array + Varying>) -> Option<ArrayView<'_>> {
        self.bytes(column).map(ArrayView::new)
    }

    #[inline]
    pub fn uuid(&self, column: Column<Uuid>) -> Option<[u8; 16]> {
        // SAFETY: a uuid of this row: 16 bytes in the page.
        self.datum(column).map(|datum| unsafe { *datum.cast_mut_ptr::<[u8; 16]>() })
    }

    #[inline]
    pub fn timestamp(&self, column: Column<Timestamp>) -> Option<i64> {
        self.datum(column).map(|datum| datum.value() as i64)
    }

    /// The microseconds of an interval, without its days and months.
    #[inline]
    pub fn microseconds(&self, column: Column<Interval>) -> Option<i64> {
        // SAFETY: an interval of this row, in the page: its microseconds come first.
        self.datum(column).map(|datum| unsafe { datum.cast_mut_ptr::<i64>().read_unaligned() })
    }

    pub fn bigint(&self, column: Column<Bigint>) -> Option<i64> {
        self.datum(column).map(|datum| datum.value() as i64)
    }

    pub fn integer(&self, column: Column<Integer>) -> Option<i32> {
        self.datum(column).map(|datum| datum.value() as i32)
    }

    pub fn smallint(&self, column: Column<Smallint>) -> Option<i16> {
        self.datum(column).map(|datum| datum.value() as i16)
    }

    pub fn oid(&self, column: Column<impl Names>) -> Option<Oid> {
        self.datum(column).map(|datum| Oid::from(datum.value() as u32))
    }

    pub fn boolean(&self, column: Column<Boolean>) -> bool {
        self.datum(column).is_some_and(|datum| datum.value() as u8 != 0)
    }
}

/// One version of a row: each change makes a new version. Two versions that one snapshot can see
/// differ in place or writer.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Version {
    pub place: Place,
    /// The transaction that wrote it.
    pub writer: pg_sys::TransactionId,
}

impl Version {
    /// Whether the current transaction wrote it.
    pub fn is_own(&self) -> bool {
        // SAFETY: reads the state of the transaction.
        unsafe { pg_sys::TransactionIdIsCurrentTransactionId(self.writer) }
    }
}

/// A tuple that has only a TID, to be fetched.
pub fn tuple_at(place: Place) -> pg_sys::HeapTupleData {
    pg_sys::HeapTupleData {
        t_self: pg_sys::ItemPointerData {
            ip_blkid: pg_sys::BlockIdData {
                bi_hi: (place.block >> 16) as u16,
                bi_lo: place.block as u16,
            },
            ip_posid: place.offset,
        },
        ..Default::default()
    }
}

/// The block and the offset of a tuple.
pub fn place_of(tuple: &pg_sys::HeapTupleData) -> Place {
    let at = tuple.t_self;
    let block = (u32::from(at.ip_blkid.bi_hi) << 16) | u32::from(at.ip_blkid.bi_lo);
    Place { block, offset: at.ip_posid }
}

/// The transaction that inserted the row version (xmin).
///
/// # Safety
/// The header must be that of a table's row.
pub unsafe fn writer(header: pg_sys::HeapTupleHeader) -> pg_sys::TransactionId {
    // SAFETY: as the caller promises; a row of a table has this form of the header.
    unsafe { (*header).t_choice.t_heap.t_xmin }
}
