//! Inserts many rows into a table: first into its heap, page by page, then into each index in turn,
//! in the order of the index. A statement that inserts them one by one takes about three times as
//! long.
//!
//! Only for tables that are as the extension made them. A table with added triggers, rules or
//! indexes that need more than this is refused, and the caller inserts the rows with a statement.

use crate::cell::Cell;
use crate::relation::RelationView;
use crate::table_trigger::Trigger;
use crate::transaction;
use pgrx::pg_sys::{self, Datum, EState, IndexInfo, ItemPointerData, Oid, Relation, ResultRelInfo};
use std::marker::PhantomData;
use std::ptr::null_mut;

/// The number of rows in one call of `heap_multi_insert`: as many as fill a few pages.
const CHUNK: usize = 250;

/// The values of a row. They may point to memory that is borrowed for `'a`.
struct Values<'a, const COLUMNS: usize> {
    values: [Datum; COLUMNS],
    nulls: [bool; COLUMNS],
    values_of: PhantomData<&'a ()>,
}

/// Builds rows with columns of these types in the current memory context. A text that equals the
/// text of the row before, in the same column, is not copied again.
fn rows<'a, const COLUMNS: usize>(
    types: &[Oid; COLUMNS],
    cells: impl Iterator<Item = [Cell<'a>; COLUMNS]>,
) -> Vec<Values<'a, COLUMNS>> {
    let mut before: Option<[Cell<'a>; COLUMNS]> = None;
    let mut rows: Vec<Values<COLUMNS>> = Vec::with_capacity(cells.size_hint().0);
    for cells in cells {
        let mut row = Values {
            values: [Datum::null(); COLUMNS],
            nulls: [true; COLUMNS],
            values_of: PhantomData,
        };
        for (n, cell) in cells.iter().enumerate() {
            if cell.kind() != types[n] {
                pgrx::error!("the library does not fit the columns of a table");
            }
            let same = before.as_ref().filter(|before| before[n].is_same_text(cell));
            let value = match (same, rows.last()) {
                (Some(_), Some(before)) => Some(before.values[n]),
                _ => cell.borrowed(),
            };
            row.nulls[n] = value.is_none();
            row.values[n] = value.unwrap_or(Datum::null());
        }
        rows.push(row);
        before = Some(cells);
    }
    rows
}

/// Builds an array of the table's row type, and passes it to `with`. The array is valid while
/// `with` runs. `None` if the table has other columns.
pub fn with_array<'a, const COLUMNS: usize, T>(
    table: RelationView<'_>,
    types: &[Oid; COLUMNS],
    cells: impl Iterator<Item = [Cell<'a>; COLUMNS]>,
    with: impl FnOnce(Cell<'_>) -> T,
) -> Option<T> {
    if !table.has_columns(types) {
        return None;
    }
    // SAFETY: the values match the table's columns in number and type, which was checked. They are
    // copied. The array is in the current memory context, and `with` can't keep it: its lifetime
    // ends with the call.
    let array = unsafe {
        let description = (*table.relation()).rd_att;
        let form = |mut row: Values<COLUMNS>| {
            let (values, nulls) = (row.values.as_mut_ptr(), row.nulls.as_mut_ptr());
            let tuple = pg_sys::heap_form_tuple(description, values, nulls);
            pg_sys::heap_copy_tuple_as_datum(tuple, description)
        };
        let elements: Vec<Datum> = rows(types, cells).into_iter().map(form).collect();
        let row_type = (*description).tdtypeid;
        Cell::made(
            pg_sys::get_array_type(row_type),
            Some(crate::varlena::array(elements, row_type)),
        )
    };
    Some(with(array))
}

/// Whether `fill` can insert rows with these columns into the table.
pub fn can_fill<const COLUMNS: usize>(table: RelationView<'_>, types: &[Oid; COLUMNS]) -> bool {
    is_plain(table, types) && with_indexes(table, |target| target.is_plain())
}

/// Inserts rows, and makes them visible to later statements of the transaction. False if `can_fill`
/// is false. Checks no privileges.
pub fn fill<'a, const COLUMNS: usize>(
    table: RelationView<'_>,
    types: &[Oid; COLUMNS],
    cells: impl Iterator<Item = [Cell<'a>; COLUMNS]>,
) -> bool {
    is_plain(table, types)
        && with_indexes(table, |target| {
            let is_plain = target.is_plain();
            if is_plain {
                target.insert(types, &rows(types, cells));
                transaction::increment_command_counter();
            }
            is_plain
        })
}

/// Whether inserting rows into the table involves nothing but its constraints and indexes.
fn is_plain<const COLUMNS: usize>(table: RelationView<'_>, types: &[Oid; COLUMNS]) -> bool {
    let fires = |trigger: &Trigger| trigger.fires && trigger.is_for_inserted_rows();
    table.is_heap()
        && table.has_columns(types)
        && !table.has_rules()
        && !table.has_row_security()
        && !table.triggers().iter().any(fires)
}

/// The table to insert into, with its indexes open.
struct Target {
    relation: Relation,
    result: *mut ResultRelInfo,
    estate: *mut EState,
}

fn with_indexes<T>(table: RelationView<'_>, body: impl FnOnce(&Target) -> T) -> T {
    let relation = table.relation();
    // SAFETY: the table is open. The executor state is made in the current memory context, and
    // freed at the end of this block. After an error the abort closes the indexes.
    unsafe {
        let estate = pg_sys::CreateExecutorState();
        let result = pg_sys::palloc0(size_of::<ResultRelInfo>()).cast::<ResultRelInfo>();
        pg_sys::InitResultRelInfo(result, relation, 0, null_mut(), 0);
        pg_sys::ExecOpenIndices(result, false);
        let done = body(&Target { relation, result, estate });
        pg_sys::ExecCloseIndices(result);
        pg_sys::FreeExecutorState(estate);
        done
    }
}

/// An open index, and PostgreSQL's `IndexInfo` about it.
#[derive(Clone, Copy)]
struct Index {
    relation: Relation,
    info: *mut IndexInfo,
}

impl Index {
    fn columns(&self) -> &[i16] {
        // SAFETY: the index is open, so its relcache entry and `IndexInfo` are valid.
        unsafe {
            let count = usize::try_from((*self.info).ii_NumIndexAttrs).unwrap_or_default();
            (*self.info).ii_IndexAttrNumbers.get(..count).unwrap_or_default()
        }
    }

    fn is_plain(&self) -> bool {
        // SAFETY: as above.
        let is_plain = unsafe {
            let info = &*self.info;
            info.ii_Expressions.is_null()
                && info.ii_Predicate.is_null()
                && info.ii_ExclusionOps.is_null()
                && (*(*self.relation).rd_index).indimmediate
        };
        is_plain && self.columns().iter().all(|column| *column > 0)
    }
}

impl Target {
    fn indexes(&self) -> impl Iterator<Item = Index> {
        let result = self.result;
        // SAFETY: `ri_NumIndices` is the length of both arrays.
        (0..unsafe { (*result).ri_NumIndices } as usize).map(move |n| unsafe {
            Index {
                relation: *(*result).ri_IndexRelationDescs.add(n),
                info: *(*result).ri_IndexRelationInfo.add(n),
            }
        })
    }

    fn is_plain(&self) -> bool {
        self.indexes().all(|index| index.is_plain())
    }

    fn insert<const COLUMNS: usize>(&self, types: &[Oid; COLUMNS], rows: &[Values<COLUMNS>]) {
        // SAFETY: the callers have checked that the table has these columns, and that it and its
        // indexes are plain.
        unsafe {
            let places = self.fill(rows);
            for index in self.indexes() {
                // An index that CREATE INDEX CONCURRENTLY is building may not accept rows yet.
                if (*index.info).ii_ReadyForInserts {
                    self.fill_index(index, types, rows, &places);
                }
            }
        }
    }

    /// Inserts rows into the heap, and returns their TIDs.
    ///
    /// # Safety
    /// The rows must match the table's columns in number and type.
    unsafe fn fill<const COLUMNS: usize>(&self, rows: &[Values<COLUMNS>]) -> Vec<ItemPointerData> {
        let mut places = Vec::with_capacity(rows.len());
        // SAFETY: the slots have the table's row description. PostgreSQL gets no more slots than
        // were filled.
        unsafe {
            let command = pg_sys::GetCurrentCommandId(true);
            let state = pg_sys::GetBulkInsertState();
            let mut slots: Vec<*mut pg_sys::TupleTableSlot> = (0..rows.len().min(CHUNK))
                .map(|_| pg_sys::table_slot_create(self.relation, null_mut()))
                .collect();
            for rows in rows.chunks(CHUNK) {
                for (row, slot) in rows.iter().zip(&slots) {
                    pg_sys::ExecClearTuple(*slot);
                    (**slot).tts_values.cast::<[Datum; COLUMNS]>().write(row.values);
                    (**slot).tts_isnull.cast::<[bool; COLUMNS]>().write(row.nulls);
                    pg_sys::ExecStoreVirtualTuple(*slot);
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

    /// Raises an error if a constraint of the table doesn't hold.
    ///
    /// # Safety
    /// The slot must hold a row of the table.
    unsafe fn check(&self, slot: *mut pg_sys::TupleTableSlot) {
        // SAFETY: the relation is open, so its row description is valid. The slot holds a row, as
        // the caller promises.
        unsafe {
            if (*(*self.relation).rd_att).constr.is_null() {
                return;
            }
            pg_sys::ExecConstraints(self.result, slot, self.estate);
            let context = (*self.estate).es_per_tuple_exprcontext;
            if !context.is_null() {
                pg_sys::MemoryContextReset((*context).ecxt_per_tuple_memory);
            }
        }
    }

    /// # Safety
    /// The index must be a plain index of this table. The rows must be stored in the table under
    /// these TIDs.
    unsafe fn fill_index<const COLUMNS: usize>(
        &self,
        index: Index,
        types: &[Oid; COLUMNS],
        rows: &[Values<COLUMNS>],
        places: &[ItemPointerData],
    ) {
        let columns: Vec<usize> = index.columns().iter().map(|n| *n as usize - 1).collect();
        let is_uuid = columns.first().is_some_and(|column| is_uuid(types, *column));
        // SAFETY: the index is open, so its relcache entry and `IndexInfo` are valid.
        let check = if unsafe { (*(*index.relation).rd_index).indisunique } {
            pg_sys::IndexUniqueCheck::UNIQUE_CHECK_YES
        } else {
            pg_sys::IndexUniqueCheck::UNIQUE_CHECK_NO
        };
        // The values of the index, row after row. The rows themselves are far apart, and not in the
        // processor's cache when the order of the index leads to them.
        let width = columns.len();
        let (mut values, mut nulls): (Vec<Datum>, Vec<bool>) = rows
            .iter()
            .flat_map(|row| columns.iter().map(|n| (row.values[*n], row.nulls[*n])))
            .unzip();
        for Ordered { leading, n } in order(types, rows, columns.first().copied()) {
            let of_row = n * width..(n + 1) * width;
            let (Some(values), Some(nulls), Some(place)) =
                (values.get_mut(of_row.clone()), nulls.get_mut(of_row), places.get(n))
            else {
                continue;
            };
            // Nor is the row's own uuid.
            let leading = leading.to_be_bytes();
            if let (Some(value), [false, ..], true) = (values.first_mut(), &*nulls, is_uuid) {
                *value = Datum::from(leading.as_ptr());
            }
            let mut place = *place;
            // SAFETY: the values are those of the index's columns, and the row was inserted into
            // the table. The leading uuid lives as long as the call.
            unsafe {
                pg_sys::index_insert(
                    index.relation,
                    values.as_mut_ptr(),
                    nulls.as_mut_ptr(),
                    &mut place,
                    self.relation,
                    check,
                    false,
                    index.info,
                );
            }
        }
    }
}

/// A row in the order of an index.
struct Ordered {
    /// The leading column, if that is a uuid.
    leading: u128,
    /// The number of the row.
    n: usize,
}

/// The rows, sorted by the leading column of an index if that is a uuid. So neighbours in the index
/// are inserted one after the other.
fn order<const COLUMNS: usize>(
    types: &[Oid; COLUMNS],
    rows: &[Values<COLUMNS>],
    column: Option<usize>,
) -> Vec<Ordered> {
    let Some(column) = column.filter(|column| is_uuid(types, *column)) else {
        return (0..rows.len()).map(|n| Ordered { leading: 0, n }).collect();
    };
    let key = |row: &Values<COLUMNS>| {
        if row.nulls[column] {
            return u128::MAX;
        }
        // SAFETY: a uuid is a pointer to 16 bytes, which live as long as the row.
        u128::from_be_bytes(unsafe { *row.values[column].cast_mut_ptr::<[u8; 16]>() })
    };
    let mut ordered: Vec<Ordered> =
        rows.iter().enumerate().map(|(n, row)| Ordered { leading: key(row), n }).collect();
    ordered.sort_unstable_by_key(|row| (row.leading, row.n));
    ordered
}

fn is_uuid<const COLUMNS: usize>(types: &[Oid; COLUMNS], column: usize) -> bool {
    types.get(column) == Some(&pg_sys::UUIDOID)
}
