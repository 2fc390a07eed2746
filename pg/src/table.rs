//! Tables that are open for a piece of work.

use crate::lock::Mode;
use crate::relation::RelationView;
use crate::transaction;
use pgrx::pg_sys::{self, LOCKMODE, Oid, PartitionRangeDatumKind};

/// What is done with the lock when the work is over.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Lock {
    /// It is kept until the transaction ends.
    Kept,
    Released,
}

/// Opens a table, and closes it when `body` is over; after an error the abort does. That there is
/// no such table is an error of PostgreSQL's.
pub fn with_table<T>(
    table: Oid,
    mode: Mode,
    lock: Lock,
    body: impl FnOnce(RelationView<'_>) -> T,
) -> T {
    transaction::must_be_in_progress();
    let mode = mode as LOCKMODE;
    let close = if lock == Lock::Kept { pg_sys::NoLock as LOCKMODE } else { mode };
    // SAFETY: inside a transaction. What `body` gets is open until it is closed here.
    unsafe {
        let relation = pg_sys::table_open(table, mode);
        let result = body(RelationView::new(relation));
        pg_sys::table_close(relation, close);
        result
    }
}

impl RelationView<'_> {
    /// Whether the table itself holds rows, in the form that PostgreSQL has by default.
    pub fn is_heap(self) -> bool {
        /// Of which PostgreSQL has the number fixed.
        const HEAP: Oid = Oid::from_u32(2);
        self.class(|class| class.relkind as u8 == pg_sys::RELKIND_RELATION && class.relam == HEAP)
    }

    /// Whether the columns are of these types, with none dropped or generated among them.
    pub fn has_columns(self, types: &[Oid]) -> bool {
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

    /// The partition that takes rows of that time, of a table that is partitioned by ranges of
    /// a timestamptz.
    pub fn partition_at(self, at: i64) -> Option<Oid> {
        if self.class(|class| class.relkind as u8) != pg_sys::RELKIND_PARTITIONED_TABLE {
            return None;
        }
        // SAFETY: PostgreSQL's list of the partitions of an open table. Bounds of ranges are sorted,
        // of one column at least each; before the first and after each of them is a partition's
        // number, or -1.
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
