//! Writes the fields of a record one after the other, in the order of their columns, and reads those
//! of an argument.

use crate::call::Call;
use crate::column::Definition;
use crate::jsonb::StoredJsonb;
use crate::scan::attribute_name;
use crate::varlena::{self, ArrayView, StoredValue};
use crate::{lookup, major};
use pgrx::pg_sys::{self, BuiltinOid, Datum, HeapTupleHeaderData, Interval};

/// A record that is being written. A field that is `None` is null.
pub trait RecordWriter {
    type Record;

    fn boolean(&mut self, value: bool);
    fn integer(&mut self, value: Option<i32>);
    fn bigint(&mut self, value: Option<i64>);
    fn timestamp(&mut self, value: Option<i64>);
    fn uuid(&mut self, value: Option<&[u8; 16]>);
    /// An interval of this many microseconds.
    fn interval(&mut self, value: Option<i64>);
    /// A text in the server's encoding.
    fn text(&mut self, value: Option<&[u8]>);
    fn texts(&mut self, values: Option<&[&[u8]]>);
    fn jsonb(&mut self, value: Option<StoredJsonb>);
    /// The finished record.
    fn finish(self) -> Self::Record;
}

/// Passes the fields of a composite argument to a writer, unless the argument is null. A null boolean
/// is false. An error if the argument does not have exactly these columns.
pub fn copied<W: RecordWriter>(
    call: &Call,
    n: usize,
    columns: &[Definition],
    mut writer: W,
) -> Option<W::Record> {
    let fields = fields(call.datum(n)?, columns);
    for ((_, kind), field) in columns.iter().zip(fields) {
        // SAFETY: the field has the type of its column, and belongs to the argument, which lives as
        // long as the call.
        unsafe { write(&mut writer, *kind, field) };
    }
    Some(writer.finish())
}

fn fields(record: Datum, expected: &[Definition]) -> Vec<Option<Datum>> {
    // SAFETY: a composite value is a varlena that begins with this header.
    let (kind, mut tuple) = unsafe {
        let header = pg_sys::pg_detoast_datum(record.cast_mut_ptr()).cast::<HeapTupleHeaderData>();
        let head = (*header).t_choice.t_datum;
        let length = (head.datum_len_ as u32) >> 2;
        let tuple = pg_sys::HeapTupleData { t_len: length, t_data: header, ..Default::default() };
        (head.datum_typeid, tuple)
    };
    let expected = expected.iter().map(|(name, kind)| (name.as_bytes(), kind.value(), false));
    lookup::with_row_type(kind, |description| {
        // SAFETY: the row description is complete, and pinned until this closure returns.
        let columns = unsafe { major::attributes(description) };
        let is_expected = columns
            .iter()
            .map(|column| (attribute_name(column), column.atttypid, column.attisdropped))
            .eq(expected);
        if !is_expected {
            pgrx::error!("the library does not fit the columns of an argument");
        }
        let mut values = vec![Datum::null(); columns.len()];
        let mut nulls = vec![true; columns.len()];
        let (data, marks) = (values.as_mut_ptr(), nulls.as_mut_ptr());
        // SAFETY: the tuple has this row description, and the arrays are as long as it.
        unsafe { pg_sys::heap_deform_tuple(&mut tuple, description, data, marks) };
        values.into_iter().zip(nulls).map(|(value, is_null)| (!is_null).then_some(value)).collect()
    })
}

/// # Safety
/// The field must have this type, and must live as long as the writer uses it.
unsafe fn write(writer: &mut impl RecordWriter, kind: BuiltinOid, field: Option<Datum>) {
    // SAFETY: as the caller promises. A uuid and an interval are passed as pointers.
    let bytes = |datum: Datum| unsafe { varlena::bytes(datum) };
    match kind {
        BuiltinOid::BOOLOID => writer.boolean(field.is_some_and(|datum| datum.value() as u8 != 0)),
        BuiltinOid::INT4OID => writer.integer(field.map(|datum| datum.value() as i32)),
        BuiltinOid::INT8OID => writer.bigint(field.map(|datum| datum.value() as i64)),
        BuiltinOid::TIMESTAMPTZOID => writer.timestamp(field.map(|datum| datum.value() as i64)),
        BuiltinOid::UUIDOID => {
            // SAFETY: as above.
            writer.uuid(field.map(|datum| unsafe { &*datum.cast_mut_ptr::<[u8; 16]>() }));
        }
        BuiltinOid::INTERVALOID => {
            // SAFETY: as above.
            let interval = field.map(|datum| unsafe { *datum.cast_mut_ptr::<Interval>() });
            writer.interval(interval.and_then(microseconds));
        }
        BuiltinOid::TEXTOID => writer.text(field.map(bytes)),
        BuiltinOid::TEXTARRAYOID => {
            let array = field.map(|datum| ArrayView::new(bytes(datum)).iter().flatten().collect());
            let array: Option<Vec<&[u8]>> = array;
            writer.texts(array.as_deref());
        }
        BuiltinOid::JSONBOID => {
            // SAFETY: as above.
            writer.jsonb(field.map(|datum| unsafe { StoredJsonb::new(StoredValue::new(datum)) }));
        }
        other => pgrx::error!("fields of type {} are not read", other.value()),
    }
}

/// An interval in microseconds, with months of 30 days. `None` for an interval that is infinite, or
/// longer than that can say.
fn microseconds(interval: Interval) -> Option<i64> {
    const DAY: i64 = 86_400_000_000;
    let days = i64::from(interval.month) * 30 + i64::from(interval.day);
    days.checked_mul(DAY)?.checked_add(interval.time)
}
