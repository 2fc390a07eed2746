//! Tables that are open for a piece of work.

use crate::lock::Mode;
use crate::{major, transaction};
use pgrx::pg_sys::{self, FormData_pg_class, LOCKMODE, Oid, PartitionRangeDatumKind, Relation};
use std::ffi::{CStr, CString};
use std::marker::PhantomData;

/// A table that is open as long as this.
#[derive(Clone, Copy)]
pub struct Table<'a> {
    relation: Relation,
    open: PhantomData<&'a ()>,
}

/// What is done with the lock when the work is over.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Lock {
    /// It is kept until the transaction ends.
    Kept,
    Released,
}

/// Opens a table, and closes it when `body` is over; after an error the abort does. That there is
/// no such table is an error of PostgreSQL's.
pub fn with_table<T>(table: Oid, mode: Mode, lock: Lock, body: impl FnOnce(Table<'_>) -> T) -> T {
    transaction::must_be_in_progress();
    let mode = mode as LOCKMODE;
    let close = if lock == Lock::Kept { pg_sys::NoLock as LOCKMODE } else { mode };
    // SAFETY: inside a transaction. What `body` gets is open until it is closed here.
    unsafe {
        let relation = pg_sys::table_open(table, mode);
        let result = body(Table { relation, open: PhantomData });
        pg_sys::table_close(relation, close);
        result
    }
}

/// A trigger, as far as it is asked for.
pub struct Trigger {
    pub name: CString,
    pub is_for_inserts: bool,
    /// Whether it fires where nothing is replicated.
    pub is_enabled: bool,
}

impl<'a> Table<'a> {
    /// For PostgreSQL, for as long as this lives.
    pub(crate) fn relation(self) -> Relation {
        self.relation
    }

    fn class(&self) -> &FormData_pg_class {
        // SAFETY: an open table's description.
        unsafe { &*(*self.relation).rd_rel }
    }

    /// Whether the table itself holds rows, in the form that PostgreSQL has by default.
    pub fn is_heap(&self) -> bool {
        /// Of which PostgreSQL has the number fixed.
        const HEAP: Oid = Oid::from_u32(2);
        self.class().relkind as u8 == pg_sys::RELKIND_RELATION && self.class().relam == HEAP
    }

    /// Whether the columns are of these types, with none dropped or generated among them.
    pub fn has_columns(&self, types: &[Oid]) -> bool {
        // SAFETY: an open table's description is complete.
        let columns = unsafe { major::attributes((*self.relation).rd_att) };
        let kinds = columns.iter().map(|column| column.atttypid);
        kinds.eq(types.iter().copied()) && columns.iter().all(|column| column.attgenerated == 0)
    }

    pub fn has_rules(&self) -> bool {
        self.class().relhasrules
    }

    pub fn has_row_security(&self) -> bool {
        self.class().relrowsecurity
    }

    pub fn triggers(&self) -> Vec<Trigger> {
        const INSERT: i16 = pg_sys::TRIGGER_TYPE_INSERT as i16;
        const ENABLED: [u8; 2] = [pg_sys::TRIGGER_FIRES_ON_ORIGIN, pg_sys::TRIGGER_FIRES_ALWAYS];
        // SAFETY: an open table's description, which has as many triggers as it says, each with a
        // name. PostgreSQL may replace it when it looks at what others did, so nothing is borrowed.
        unsafe {
            let Some(triggers) = (*self.relation).trigdesc.as_ref() else { return Vec::new() };
            let count = usize::try_from(triggers.numtriggers).unwrap_or_default();
            let all = std::slice::from_raw_parts(triggers.triggers, count).iter();
            all.map(|trigger| Trigger {
                name: CStr::from_ptr(trigger.tgname).to_owned(),
                is_for_inserts: trigger.tgtype & INSERT != 0,
                is_enabled: ENABLED.contains(&(trigger.tgenabled as u8)),
            })
            .collect()
        }
    }

    /// Whether rows of another table are rows of this one as they are.
    pub fn is_laid_out_as(&self, other: Table<'_>) -> bool {
        // SAFETY: the descriptions of open tables. There is no map where columns are in the
        // same order. Columns that can't be matched are an error of PostgreSQL's.
        unsafe {
            let (from, to) = ((*other.relation).rd_att, (*self.relation).rd_att);
            pg_sys::convert_tuples_by_name(from, to).is_null()
        }
    }

    /// The partition that takes rows of that time, of a table that is partitioned by ranges of
    /// a timestamptz.
    pub fn partition_at(&self, at: i64) -> Option<Oid> {
        if self.class().relkind as u8 != pg_sys::RELKIND_PARTITIONED_TABLE {
            return None;
        }
        // SAFETY: PostgreSQL's list of the partitions of an open table. Bounds of ranges are sorted,
        // of one column at least each; before the first and after each of them is a partition's
        // number, or -1.
        unsafe {
            let partitions = &*pg_sys::RelationGetPartitionDesc(self.relation, true);
            let bounds = partitions.boundinfo.as_ref()?;
            if bounds.strategy as u8 != RANGE {
                return None;
            }
            let is_after = |n: usize| match **bounds.kind.add(n) {
                PartitionRangeDatumKind::PARTITION_RANGE_DATUM_MINVALUE => true,
                PartitionRangeDatumKind::PARTITION_RANGE_DATUM_MAXVALUE => false,
                _ => (**bounds.datums.add(n)).value() as i64 <= at,
            };
            let (mut low, mut high) = (0, bounds.ndatums.unsigned_abs() as usize);
            while low < high {
                let middle = usize::midpoint(low, high);
                if is_after(middle) { low = middle + 1 } else { high = middle }
            }
            let number = *bounds.indexes.add(low);
            usize::try_from(number).ok().map(|number| *partitions.oids.add(number))
        }
    }
}

/// PARTITION_STRATEGY_RANGE
const RANGE: u8 = b'r';
