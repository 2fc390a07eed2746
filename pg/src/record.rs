//! Writes the fields of a record one after the other, in the order of their columns.

use crate::jsonb::StoredJsonb;

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
