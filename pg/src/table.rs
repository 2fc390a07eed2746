//! Tables that are open for a piece of work.

use crate::lock::Mode;
use crate::{major, transaction};
use pgrx::pg_sys::{self, FormData_pg_class, LOCKMODE, Oid, PartitionRangeDatumKind, Relation};
use std::ffi::{CStr, CString};
use std::marker::PhantomData;

/// An open table. It stays open for `'a`.
#[derive(Clone, Copy)]
pub struct Table<'a> {
    relation: Relation,
    open: PhantomData<&'a ()>,
}

/// When the lock on an open table is released.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Lock {
    /// At the end of the transaction.
    Kept,
    /// When the table is closed.
    Released,
}

/// Opens a table, passes it to `body`, and closes it. After an error the abort closes it.
/// PostgreSQL raises an error if there is no such table.
pub fn with_table<T>(table: Oid, mode: Mode, lock: Lock, body: impl FnOnce(Table<'_>) -> T) -> T {
    transaction::must_be_in_progress();
    let mode = mode as LOCKMODE;
    let close = if lock == Lock::Kept { pg_sys::NoLock as LOCKMODE } else { mode };
    // SAFETY: inside a transaction. The table is open until it is closed here, and `body` can't
    // keep it: its lifetime ends with the call.
    unsafe {
        let relation = pg_sys::table_open(table, mode);
        let result = body(Table { relation, open: PhantomData });
        pg_sys::table_close(relation, close);
        result
    }
}

/// The name of a trigger, and when it fires.
pub struct Trigger {
    pub name: CString,
    pub is_for_inserts: bool,
    /// Whether it fires in a session that applies no replicated changes.
    pub is_enabled: bool,
}

impl<'a> Table<'a> {
    /// PostgreSQL's relation, which is open for `'a`.
    pub(crate) fn relation(self) -> Relation {
        self.relation
    }

    fn class(&self) -> &FormData_pg_class {
        // SAFETY: the table is open, so its relcache entry is valid.
        unsafe { &*(*self.relation).rd_rel }
    }

    /// Whether it is an ordinary table with PostgreSQL's default access method, heap.
    pub fn is_heap(&self) -> bool {
        /// The OID of the access method, which is the same in all databases.
        const HEAP: Oid = Oid::from_u32(2);
        self.class().relkind as u8 == pg_sys::RELKIND_RELATION && self.class().relam == HEAP
    }

    /// Whether the table has exactly columns of these types, and no dropped or generated column.
    pub fn has_columns(&self, types: &[Oid]) -> bool {
        // SAFETY: the table is open, so its row description is complete.
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
        // SAFETY: the table is open. `numtriggers` is the length of the array, and each trigger has
        // a name. PostgreSQL may replace the array when it processes invalidations, so nothing is
        // borrowed.
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

    /// Whether rows of another table are rows of this one without conversion.
    pub fn is_laid_out_as(&self, other: Table<'_>) -> bool {
        // SAFETY: both tables are open. The map is null if the columns are in the same order.
        // PostgreSQL raises an error for columns that can't be matched.
        unsafe {
            let (from, to) = ((*other.relation).rd_att, (*self.relation).rd_att);
            pg_sys::convert_tuples_by_name(from, to).is_null()
        }
    }

    /// The partition for rows of this time, if the table is partitioned by range, by a timestamptz.
    pub fn partition_at(&self, at: i64) -> Option<Oid> {
        if self.class().relkind as u8 != pg_sys::RELKIND_PARTITIONED_TABLE {
            return None;
        }
        // SAFETY: the partition descriptor of an open table. Bounds of ranges are sorted and have
        // at least one column each. `indexes` has the number of a partition, or -1, for the rows
        // before the first bound and for those after each bound.
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
