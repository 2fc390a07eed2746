//! The hash of a row: an HMAC over its values, each with its column.
//!
//! Nulls are left out, so a column that was added and is null changes no hash. Each column has a mark
//! that stands for its name and type. Marks have the same length, and each value has its length
//! before it, so different rows have different bytes.

use super::bytes;
use super::keys::{Keyed, LedgerKeys};
use super::sum::Sum;
use hmac::Mac;

const MARK_LEN: usize = 16;

/// The columns of a table whose values are hashed.
pub struct RowPlan {
    key: Keyed,
    columns: Vec<Column>,
}

/// A column of a plan.
pub struct Column {
    /// Its place in the list that the plan was made of.
    pub place: usize,
    mark: [u8; MARK_LEN],
}

impl RowPlan {
    /// `columns` are the names and the types of the columns. Values come in the order of the names,
    /// because the order in the table may change with a restore, and differ in a partition.
    pub fn of(keys: &LedgerKeys, columns: &[(&[u8], &[u8])]) -> RowPlan {
        let mut places: Vec<_> = (0..columns.len()).collect();
        places.sort_by_key(|place| columns.get(*place));
        let column = |place: usize| {
            let (name, kind) = columns.get(place)?;
            let mut mark = keys.column.clone();
            for part in [name, kind] {
                mark.update(&bytes::length(part.len()));
                mark.update(part);
            }
            let mark: [u8; 32] = mark.finalize().into_bytes().into();
            Some(Column { place, mark: *mark.first_chunk()? })
        };
        let columns = places.into_iter().filter_map(column).collect();
        RowPlan { key: keys.row.clone(), columns }
    }

    /// The columns, in the order in which a row's values are to be given.
    pub fn columns(&self) -> &[Column] {
        &self.columns
    }

    #[inline]
    pub fn begin(&self) -> RowHasher {
        RowHasher(self.key.clone())
    }
}

/// A row that is being hashed.
pub struct RowHasher(Keyed);

impl RowHasher {
    /// Adds the value of the next column that is not null.
    #[inline]
    pub fn value(&mut self, column: &Column, value: &[u8]) {
        let mut head = [0; MARK_LEN + 4];
        head[..MARK_LEN].copy_from_slice(&column.mark);
        head[MARK_LEN..].copy_from_slice(&bytes::length(value.len()));
        self.0.update(&head);
        self.0.update(value);
    }

    #[inline]
    pub fn finish(self) -> Sum {
        Sum::of(&self.0.finalize().into_bytes().into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    type Named<'a> = (&'a str, &'a str, Option<Vec<u8>>);

    fn hash(columns: &[Named]) -> Sum {
        let keys = LedgerKeys::unpeppered(&[1; 32], &[2; 16]);
        let names: Vec<_> = columns.iter().map(|(n, k, _)| (n.as_bytes(), k.as_bytes())).collect();
        let plan = RowPlan::of(&keys, &names);
        let mut row = plan.begin();
        for column in plan.columns() {
            if let Some(value) = &columns[column.place].2 {
                row.value(column, value);
            }
        }
        row.finish()
    }

    fn values() -> impl Strategy<Value = Vec<Option<Vec<u8>>>> {
        let value = proptest::collection::vec(0u8..3, 0..3);
        proptest::collection::vec(proptest::option::of(value), 3)
    }

    fn row(values: &[Option<Vec<u8>>]) -> Vec<Named<'static>> {
        let names = [("a", "int8"), ("b", "text"), ("c", "text")];
        names.into_iter().zip(values).map(|((n, k), value)| (n, k, value.clone())).collect()
    }

    proptest! {
        /// Moving bytes from one value to its neighbour makes another row.
        #[test]
        fn no_two_rows_read_alike(one in values(), other in values()) {
            prop_assert_eq!(hash(&row(&one)) == hash(&row(&other)), one == other);
        }

        #[test]
        fn neither_order_nor_columns_that_are_null_matter(values in values(), turn in 0usize..4) {
            let mut columns = row(&values);
            let hashed = hash(&columns);
            columns.push(("added", "text", None));
            columns.rotate_left(turn);
            prop_assert_eq!(hash(&columns), hashed);
        }
    }

    #[test]
    fn a_value_has_its_column() {
        let value = || Some(b"x".to_vec());
        let one = hash(&[("a", "text", value())]);
        assert_ne!(hash(&[("b", "text", value())]), one);
        assert_ne!(hash(&[("a", "varchar", value())]), one);
        // Bytes that moved from the type to the name.
        assert_ne!(hash(&[("at", "ext", value())]), one);
        assert_ne!(hash(&[("a", "text", value()), ("b", "text", Some(vec![]))]), one);
        assert_ne!(hash(&[("a", "text", None), ("b", "text", value())]), one);
    }
}
