//! Writes a JSON object directly into memory, field by field, as `row_to_json` would.

use crate::jsonb::StoredJsonb;
use crate::output;
use crate::record::RecordWriter;
use crate::scratch::Memory;
use pgrx::pg_sys::Datum;

/// An object that is being written. The fields have the given labels, each with the sign before
/// it, as in `{"a":` and `,"b":`.
pub struct JsonWriter<'m> {
    memory: Memory<'m>,
    bytes: &'m mut [u8],
    used: usize,
    labels: std::slice::Iter<'static, &'static str>,
}

/// A json, as a datum.
pub struct JsonRecord(Datum);

impl JsonRecord {
    pub fn into_datum(self) -> Datum {
        self.0
    }
}

/// The length of a varlena's header.
const HEADER: usize = 4;
/// The room for a value of fixed length.
const ROOM_OF_VALUE: usize = 40;

impl<'m> JsonWriter<'m> {
    /// Begins an object. `variable` is about the total length of its texts.
    #[inline]
    pub fn new(memory: Memory<'m>, labels: &'static [&'static str], variable: usize) -> Self {
        let fields: usize = labels.iter().map(|label| label.len() + ROOM_OF_VALUE).sum();
        let bytes = memory.room(HEADER + fields + variable);
        JsonWriter { memory, bytes, used: HEADER, labels: labels.iter() }
    }

    /// Makes sure that so many bytes fit.
    #[inline]
    fn reserve(&mut self, more: usize) {
        if self.used + more > self.bytes.len() {
            self.grow(more);
        }
    }

    #[cold]
    fn grow(&mut self, more: usize) {
        let larger = self.memory.room((self.used + more).saturating_mul(2));
        larger[..self.used].copy_from_slice(&self.bytes[..self.used]);
        self.bytes = larger;
    }

    #[inline]
    fn write(&mut self, bytes: &[u8]) {
        self.reserve(bytes.len());
        self.bytes[self.used..self.used + bytes.len()].copy_from_slice(bytes);
        self.used += bytes.len();
    }

    #[inline]
    fn field<T>(&mut self, value: Option<T>, put: impl FnOnce(&mut Self, T)) {
        if let Some(label) = self.labels.next() {
            self.write(label.as_bytes());
        }
        match value {
            Some(value) => put(self, value),
            None => self.write(b"null"),
        }
    }

    fn number(&mut self, value: i64) {
        let mut digits = [0; 20];
        let mut begin = digits.len();
        let mut rest = value.unsigned_abs();
        loop {
            begin -= 1;
            digits[begin] = b'0' + (rest % 10) as u8;
            rest /= 10;
            if rest == 0 {
                break;
            }
        }
        if value < 0 {
            self.write(b"-");
        }
        self.write(&digits[begin..]);
    }

    fn quoted(&mut self, text: &[u8]) {
        self.write(b"\"");
        let mut rest = text;
        while let Some(at) = rest.iter().position(|b| matches!(b, b'"' | b'\\' | 0..0x20)) {
            self.write(&rest[..at]);
            match rest[at] {
                b'\n' => self.write(b"\\n"),
                b'\r' => self.write(b"\\r"),
                b'\t' => self.write(b"\\t"),
                0x08 => self.write(b"\\b"),
                0x0c => self.write(b"\\f"),
                control @ 0..0x20 => {
                    let mut digits = [0; 2];
                    // Two digits always fit.
                    let _ = hex::encode_to_slice([control], &mut digits);
                    self.write(b"\\u00");
                    self.write(&digits);
                }
                other => self.write(&[b'\\', other]),
            }
            rest = &rest[at + 1..];
        }
        self.write(rest);
        self.write(b"\"");
    }
}

impl RecordWriter for JsonWriter<'_> {
    type Record = JsonRecord;

    #[inline]
    fn boolean(&mut self, value: bool) {
        self.field(Some(value), |json, value| json.write(if value { b"true" } else { b"false" }));
    }

    #[inline]
    fn integer(&mut self, value: Option<i32>) {
        self.field(value, |json, value| json.number(value.into()));
    }

    #[inline]
    fn bigint(&mut self, value: Option<i64>) {
        self.field(value, JsonWriter::number);
    }

    #[inline]
    fn timestamp(&mut self, value: Option<i64>) {
        self.field(value, |json, value| json.quoted(output::iso_timestamp(value).as_bytes()));
    }

    #[inline]
    fn uuid(&mut self, value: Option<&[u8; 16]>) {
        self.field(value, |json, value| {
            let mut digits = [0; 32];
            // 32 digits always fit.
            let _ = hex::encode_to_slice(value, &mut digits);
            let [a, b, c, d, e] = [0..8, 8..12, 12..16, 16..20, 20..32].map(|part| &digits[part]);
            for part in [b"\"", a, b"-", b, b"-", c, b"-", d, b"-", e, b"\""] {
                json.write(part);
            }
        });
    }

    #[inline]
    fn interval(&mut self, value: Option<i64>) {
        self.field(value, |json, value| json.quoted(output::interval(value).as_bytes()));
    }

    #[inline]
    fn text(&mut self, value: Option<&[u8]>) {
        self.field(value, JsonWriter::quoted);
    }

    fn texts(&mut self, values: Option<&[&[u8]]>) {
        self.field(values, |json, values| {
            json.write(b"[");
            for (n, value) in values.iter().enumerate() {
                if n > 0 {
                    json.write(b",");
                }
                json.quoted(value);
            }
            json.write(b"]");
        });
    }

    fn jsonb(&mut self, value: Option<StoredJsonb>) {
        self.field(value, |json, value| value.with_text(|text| json.write(text)));
    }

    fn finish(mut self) -> JsonRecord {
        self.write(b"}");
        let length = ((self.used as u32) << 2).to_le_bytes();
        self.bytes[..HEADER].copy_from_slice(&length);
        JsonRecord(Datum::from(self.bytes.as_ptr()))
    }
}
