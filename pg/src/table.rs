//! Tables that are open for a piece of work.

use crate::lock::Mode;
use crate::relation::RelationView;
use crate::transaction;
use pgrx::pg_sys::{self, LOCKMODE, Oid, PartitionRangeDatumKind};

/// When the lock on an open table is released.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Lock {
    /// At the end of the transaction.
    Kept,
    /// When the table is closed.
    Released,
}

/// Opens a table, runs `body`, and closes the table; after an error the abort closes it. PostgreSQL
/// raises an error if the table does not exist.
pub fn with_table<T>(
    table: Oid,
    mode: Mode,
    lock: Lock,
    body: impl FnOnce(RelationView<'_>) -> T,
) -> T {
    transaction::must_be_in_progress();
    let mode = mode as LOCKMODE;
    let close = if lock == Lock::Kept { pg_sys::NoLock as LOCKMODE } else { mode };
    // SAFETY: inside a transaction. The table is open until it is closed here, and `body` can't
    // keep it: its lifetime ends with the call.
    unsafe {
        let relation = pg_sys::table_open(table, mode);
        let result = body(RelationView::new(relation));
        pg_sys::table_close(relation, close);
        result
    }
}

impl RelationView<'_> {
    /// Whether the table stores rows itself, with PostgreSQL's own access method.
    pub fn is_heap(self) -> bool {
        /// The fixed OID of PostgreSQL's own table access method.
        const HEAP: Oid = Oid::from_u32(2);
        self.class(|class| class.relkind as u8 == pg_sys::RELKIND_RELATION && class.relam == HEAP)
    }

    /// Whether the table has exactly columns of these types, and no dropped or generated column.
    pub fn has_columns(self, types: &[Oid]) -> bool {
        // SAFETY: the table is open, so its row description is complete.
        let columns = self.description().attributes();
        let kinds = columns.iter().map(|column| column.atttypid);
        kinds.eq(types.iter().copied()) && columns.iter().all(|column| column.attgenerated == 0)
    }

    pub fn has_rules(self) -> bool {
        self.class(|class| class.relhasrules)
    }

    pub fn has_row_security(self) -> bool {
        self.class(|class| class.relrowsecurity)
    }

    /// Whether rows of another table are rows of this one as they are.
    pub fn is_laid_out_as(self, other: RelationView<'_>) -> bool {
        // SAFETY: the descriptions of open tables. There is no map where columns are in the
        // same order. Columns that can't be matched are an error of PostgreSQL's.
        unsafe {
            let (from, to) = ((*other.relation()).rd_att, (*self.relation()).rd_att);
            pg_sys::convert_tuples_by_name(from, to).is_null()
        }
    }

    /// The partition for rows of this time, if the table is partitioned by range, by a timestamptz.
    pub fn partition_at(self, at: i64) -> Option<Oid> {
        if self.class(|class| class.relkind as u8) != pg_sys::RELKIND_PARTITIONED_TABLE {
            return None;
        }
        // SAFETY: the partition descriptor of an open table. Bounds of ranges are sorted and have
        // at least one column each. `indexes` has the number of a partition, or -1, for the rows
        // before the first bound and for those after each bound.
        unsafe {
            let partitions = &*pg_sys::RelationGetPartitionDesc(self.relation(), true);
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
