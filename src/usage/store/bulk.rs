//! Many rows into one table at once: filled page by page, then each index in turn, with
//! the rows in the index's order. A statement that inserts them one by one takes about
//! three times as long.
//!
//! This is for tables as we make them. Where someone gave one a trigger, a rule or an
//! index that asks for more than is done here, it is refused, and rows go the usual way.

use pgrx::pg_sys::{self, Datum, Oid};
use std::ptr::null_mut;

const LOCK: i32 = pg_sys::RowExclusiveLock as i32;
/// So many rows are handed to the table at once: those of a few pages.
const CHUNK: usize = 250;

/// The values of a row, for as long as what they point to is there.
#[derive(Clone, Copy)]
pub struct Row<const COLUMNS: usize> {
    values: [Datum; COLUMNS],
    nulls: [bool; COLUMNS],
}

impl<const COLUMNS: usize> Row<COLUMNS> {
    pub fn new(values: [Option<Datum>; COLUMNS]) -> Row<COLUMNS> {
        Row {
            values: values.map(|value| value.unwrap_or(Datum::null())),
            nulls: values.map(|value| value.is_none()),
        }
    }

    pub fn as_mut_ptrs(&mut self) -> (*mut Datum, *mut bool) {
        (self.values.as_mut_ptr(), self.nulls.as_mut_ptr())
    }
}

/// A table that is open, with its indexes. An error that PostgreSQL raises leaves it to
/// the end of the transaction.
pub struct Table<const COLUMNS: usize> {
    relation: pg_sys::Relation,
    result: *mut pg_sys::ResultRelInfo,
    estate: *mut pg_sys::EState,
}

impl<const COLUMNS: usize> Table<COLUMNS> {
    /// Opens a table, if it can be filled in this way.
    pub fn open(oid: Oid) -> Option<Table<COLUMNS>> {
        // SAFETY: PostgreSQL raises an error if there is no such table. What is made
        // here is in the memory of the caller's statement.
        unsafe {
            let relation = pg_sys::table_open(oid, LOCK);
            if !is_plain(relation, COLUMNS) {
                pg_sys::table_close(relation, pg_sys::NoLock as i32);
                return None;
            }
            let estate = pg_sys::CreateExecutorState();
            let result =
                pg_sys::palloc0(size_of::<pg_sys::ResultRelInfo>()).cast::<pg_sys::ResultRelInfo>();
            pg_sys::InitResultRelInfo(result, relation, 0, null_mut(), 0);
            pg_sys::ExecOpenIndices(result, false);
            let table = Table { relation, result, estate };
            if table.indexes().all(|(index, info)| is_plain_index(index, info)) {
                return Some(table);
            }
            table.close();
            None
        }
    }

    pub fn relation(&self) -> pg_sys::Relation {
        self.relation
    }

    /// The lock is kept until the transaction ends.
    pub fn close(self) {
        // SAFETY: opened in `open`.
        unsafe {
            pg_sys::ExecCloseIndices(self.result);
            pg_sys::FreeExecutorState(self.estate);
            pg_sys::table_close(self.relation, pg_sys::NoLock as i32);
        }
    }

    /// Inserts the rows. Later statements of the transaction see them.
    pub fn insert(&self, rows: &[Row<COLUMNS>]) {
        let places = self.fill(rows);
        for (index, info) in self.indexes() {
            // SAFETY: open, with what describes it. One that is just being made may not
            // be ready yet.
            if unsafe { (*info).ii_ReadyForInserts } {
                self.fill_index(index, info, rows, &places);
            }
        }
        // SAFETY: inside a transaction, between statements.
        unsafe { pg_sys::CommandCounterIncrement() };
    }

    /// Puts rows into the table, and tells where they are.
    fn fill(&self, rows: &[Row<COLUMNS>]) -> Vec<pg_sys::ItemPointerData> {
        let mut places = Vec::with_capacity(rows.len());
        // SAFETY: slots are for rows of this table, and no more are handed on than were
        // filled.
        unsafe {
            let command = pg_sys::GetCurrentCommandId(true);
            let state = pg_sys::GetBulkInsertState();
            let mut slots: Vec<*mut pg_sys::TupleTableSlot> = (0..rows.len().min(CHUNK))
                .map(|_| pg_sys::table_slot_create(self.relation, null_mut()))
                .collect();
            for rows in rows.chunks(CHUNK) {
                for (row, slot) in rows.iter().zip(&slots) {
                    self.put(row, *slot);
                    self.check(*slot);
                }
                let count = rows.len() as i32;
                pg_sys::heap_multi_insert(
                    self.relation,
                    slots.as_mut_ptr(),
                    count,
                    command,
                    0,
                    state,
                );
                places.extend(slots.iter().take(rows.len()).map(|slot| (**slot).tts_tid));
            }
            for slot in slots {
                pg_sys::ExecDropSingleTupleTableSlot(slot);
            }
            pg_sys::FreeBulkInsertState(state);
        }
        places
    }

    fn fill_index(
        &self,
        index: pg_sys::Relation,
        info: *mut pg_sys::IndexInfo,
        rows: &[Row<COLUMNS>],
        places: &[pg_sys::ItemPointerData],
    ) {
        // SAFETY: described by PostgreSQL when the index was opened.
        let (columns, is_unique, leads_with_uuid) = unsafe {
            let count = (*info).ii_NumIndexAttrs as usize;
            (
                (*info).ii_IndexAttrNumbers.get(..count).unwrap_or_default(),
                (*(*index).rd_index).indisunique,
                *(*index).rd_opcintype == pg_sys::UUIDOID,
            )
        };
        let check = if is_unique {
            pg_sys::IndexUniqueCheck::UNIQUE_CHECK_YES
        } else {
            pg_sys::IndexUniqueCheck::UNIQUE_CHECK_NO
        };
        let columns: Vec<usize> = columns.iter().map(|column| *column as usize - 1).collect();
        let mut values = [Datum::null(); MOST_INDEX_COLUMNS];
        let mut nulls = [true; MOST_INDEX_COLUMNS];
        for n in order(rows, columns.first().copied().filter(|_| leads_with_uuid)) {
            let (Some(row), Some(place)) = (rows.get(n), places.get(n)) else { continue };
            for ((value, null), column) in values.iter_mut().zip(&mut nulls).zip(&columns) {
                *value = row.values.get(*column).copied().unwrap_or(Datum::null());
                *null = row.nulls.get(*column).copied().unwrap_or(true);
            }
            let mut place = *place;
            // SAFETY: the values are of the index's columns; the row is in its table.
            unsafe {
                pg_sys::index_insert(
                    index,
                    values.as_mut_ptr(),
                    nulls.as_mut_ptr(),
                    &mut place,
                    self.relation,
                    check,
                    false,
                    info,
                );
            }
        }
    }

    fn put(&self, row: &Row<COLUMNS>, slot: *mut pg_sys::TupleTableSlot) {
        // SAFETY: the slot has as many columns as the row: see `is_plain`.
        unsafe {
            pg_sys::ExecClearTuple(slot);
            std::ptr::copy_nonoverlapping(row.values.as_ptr(), (*slot).tts_values, COLUMNS);
            std::ptr::copy_nonoverlapping(row.nulls.as_ptr(), (*slot).tts_isnull, COLUMNS);
            pg_sys::ExecStoreVirtualTuple(slot);
        }
    }

    /// Raises an error if a constraint of the table doesn't hold.
    fn check(&self, slot: *mut pg_sys::TupleTableSlot) {
        // SAFETY: the table's own description; the slot holds a row.
        unsafe {
            let constraints = (*(*self.relation).rd_att).constr;
            if constraints.is_null() {
                return;
            }
            pg_sys::ExecConstraints(self.result, slot, self.estate);
            let context = (*self.estate).es_per_tuple_exprcontext;
            if !context.is_null() {
                pg_sys::MemoryContextReset((*context).ecxt_per_tuple_memory);
            }
        }
    }

    fn indexes(&self) -> impl Iterator<Item = (pg_sys::Relation, *mut pg_sys::IndexInfo)> {
        let result = self.result;
        // SAFETY: as many as PostgreSQL opened.
        (0..unsafe { (*result).ri_NumIndices } as usize).map(move |n| unsafe {
            (*(*result).ri_IndexRelationDescs.add(n), *(*result).ri_IndexRelationInfo.add(n))
        })
    }
}

const MOST_INDEX_COLUMNS: usize = pg_sys::INDEX_MAX_KEYS as usize;

/// The rows' numbers, sorted by a column that is a uuid, if there is one: neighbours
/// in the index come one after the other.
fn order<const COLUMNS: usize>(rows: &[Row<COLUMNS>], uuid: Option<usize>) -> Vec<usize> {
    let Some(column) = uuid else { return (0..rows.len()).collect() };
    let key = |row: &Row<COLUMNS>| match (row.values.get(column), row.nulls.get(column)) {
        (Some(value), Some(false)) => {
            // SAFETY: a uuid is a pointer to 16 bytes.
            let uuid = unsafe { *value.cast_mut_ptr::<[u8; 16]>() };
            u128::from_be_bytes(uuid)
        }
        _ => u128::MAX,
    };
    let mut keyed: Vec<(u128, usize)> =
        rows.iter().enumerate().map(|(n, row)| (key(row), n)).collect();
    keyed.sort_unstable();
    keyed.into_iter().map(|(_, n)| n).collect()
}

/// Whether rows can be put into a table, once constraints and indexes are seen to.
///
/// # Safety
/// The relation must be open.
unsafe fn is_plain(relation: pg_sys::Relation, columns: usize) -> bool {
    // SAFETY: PostgreSQL's own description of an open relation.
    unsafe {
        let class = (*relation).rd_rel;
        let constraints = (*(*relation).rd_att).constr;
        (*class).relam == HEAP
            && usize::try_from((*class).relnatts) == Ok(columns)
            && !(*class).relhasrules
            && !(*class).relrowsecurity
            && (constraints.is_null() || !(*constraints).has_generated_stored)
            && !has_row_triggers(relation)
    }
}

/// The access method `heap`, of which PostgreSQL has the number fixed.
const HEAP: Oid = Oid::from_u32(2);

unsafe fn has_row_triggers(relation: pg_sys::Relation) -> bool {
    // SAFETY: as in `is_plain`.
    unsafe {
        let triggers = (*relation).trigdesc;
        !triggers.is_null()
            && ((*triggers).trig_insert_before_row
                || (*triggers).trig_insert_after_row
                || (*triggers).trig_insert_instead_row)
    }
}

unsafe fn is_plain_index(index: pg_sys::Relation, info: *mut pg_sys::IndexInfo) -> bool {
    // SAFETY: PostgreSQL's own description of an open index.
    unsafe {
        let count = (*info).ii_NumIndexAttrs as usize;
        let columns = (*info).ii_IndexAttrNumbers.get(..count).unwrap_or_default();
        (*info).ii_Expressions.is_null()
            && (*info).ii_Predicate.is_null()
            && (*info).ii_ExclusionOps.is_null()
            && (*(*index).rd_index).indimmediate
            && columns.iter().all(|column| *column > 0)
    }
}
