//! Test vectors, which `tests/ledger_model.py` computed from `docs/ledger-format.md`.

use super::block::Block;
use super::difference::{self, Difference};
use super::incarnation::incarnation;
use super::keys::{LedgerKeys, Nonce};
use super::range::{Kind, Ranges};
use super::row::RowPlan;
use super::settings::settings;
use super::snapshot::Snapshot;
use super::stored_range::{self, StoredRange};
use super::sum::Sum;
use super::sums::{Part, Sums};
use crate::key::pepper::Peppers;
use serde_json::Value;

struct Vector<'a>(&'a Value);

impl Vector<'_> {
    fn text(&self, name: &str) -> &str {
        self.0[name].as_str().unwrap()
    }

    fn bytes(&self, name: &str) -> Vec<u8> {
        hex::decode(self.text(name)).unwrap()
    }

    fn array<const N: usize>(&self, name: &str) -> [u8; N] {
        self.bytes(name).try_into().unwrap()
    }

    fn unsigned(&self, name: &str) -> u64 {
        self.0[name].as_u64().unwrap()
    }

    fn signed(&self, name: &str) -> i64 {
        self.0[name].as_i64().unwrap()
    }

    fn nonce(&self) -> Nonce {
        Nonce::of(self.array("nonce"))
    }

    fn part(&self) -> Part {
        Part { rows: self.signed("rows"), sum: Sum::of(&self.array("sum")) }
    }
}

fn each(name: &str, check: impl Fn(Vector)) {
    let vectors = all();
    let list = vectors[name].as_array().unwrap();
    assert!(!list.is_empty());
    list.iter().for_each(|vector| check(Vector(vector)));
}

fn all() -> Value {
    serde_json::from_str(include_str!("vectors.json")).unwrap()
}

fn keys() -> LedgerKeys {
    let vectors = all();
    let vectors = Vector(&vectors);
    LedgerKeys::unpeppered(&vectors.array("secret"), &vectors.array("id"))
}

#[test]
fn rows_have_the_hashes_of_the_vectors() {
    let vectors = all();
    let vectors = Vector(&vectors);
    let peppers = Peppers::parse(&format!("3:{}", vectors.text("secret"))).unwrap();
    let peppered = LedgerKeys::of(&peppers, 3, &[0; 32], &vectors.array("id")).unwrap();
    each("rows", |vector| {
        let columns = vector.0["columns"].as_array().unwrap();
        let names = columns.iter().map(|column| {
            (column[0].as_str().unwrap().as_bytes(), column[1].as_str().unwrap().as_bytes())
        });
        let names: Vec<_> = names.collect();
        for keys in [&keys(), &peppered] {
            let plan = RowPlan::of(keys, &names);
            let mut row = plan.begin();
            for column in plan.columns() {
                if let Some(content) = columns[column.place][2].as_str() {
                    row.value(column, &hex::decode(content).unwrap());
                }
            }
            assert_eq!(hex::encode(row.finish().to_bytes()), vector.text("hash"));
        }
    });
}

#[test]
fn keys_are_in_the_ranges_of_the_vectors() {
    each("ranges", |vector| {
        let kind = match vector.text("kind") {
            "integer" => Kind::Integer,
            "timestamp" => Kind::Timestamp,
            "date" => Kind::Date,
            "bytes" => Kind::Bytes,
            _ => Kind::Other,
        };
        let range = Ranges::of(kind).range(&vector.bytes("content"));
        assert_eq!(range, vector.unsigned("range"), "{}", vector.0);
    });
    each("incarnations", |vector| {
        let database = u32::try_from(vector.unsigned("database")).unwrap();
        let found = incarnation(vector.unsigned("system_identifier"), database);
        assert_eq!(found, vector.unsigned("incarnation"));
    });
}

#[test]
fn differences_are_those_of_the_vectors() {
    each("differences", |vector| {
        let mut sums = Sums::default();
        for part in vector.0["parts"].as_array().unwrap() {
            let sum = hex::decode(part[2].as_str().unwrap()).unwrap().try_into().unwrap();
            let added = Part { rows: part[1].as_i64().unwrap(), sum: Sum::of(&sum) };
            sums.add_part(part[0].as_u64().unwrap(), &added);
        }
        let (incarnation, xid) = (vector.unsigned("incarnation"), vector.unsigned("xid"));
        let sealed = difference::seal(&keys(), vector.nonce(), incarnation, xid, &sums).unwrap();
        assert_eq!(hex::encode(&sealed), vector.text("bytes"));
        let mut opened = Difference::decode(&sealed).unwrap().open(&keys()).unwrap();
        opened.subtract(&sums);
        assert!(opened.is_zero());
    });
}

#[test]
fn blocks_are_those_of_the_vectors() {
    let vectors = all();
    let mut last = None;
    for vector in vectors["blocks"].as_array().unwrap().iter().map(Vector) {
        let snapshot = Snapshot::parse(vector.text("snapshot")).unwrap();
        let when = (vector.unsigned("incarnation"), vector.signed("at"), snapshot);
        let (part, settings) = (vector.part(), vector.bytes("settings"));
        let block = Block::after(&keys(), vector.nonce(), last.as_ref(), when, &part, &settings);
        assert_eq!(hex::encode(block.encode()), vector.text("bytes"));
        assert_eq!(hex::encode(block.head()), vector.text("head"));
        last = Some(block);
    }
    assert_eq!(last.map(|block| block.number), Some(4));
}

#[test]
fn settings_are_those_of_the_vectors() {
    each("settings", |vector| {
        let names = vector.0["names"].as_array().unwrap().iter();
        let names: Vec<_> = names.map(|name| name.as_str().unwrap().to_owned()).collect();
        let shift = u8::try_from(vector.unsigned("shift")).unwrap();
        let written = settings(vector.text("key_column"), shift, &names);
        assert_eq!(hex::encode(written), vector.text("bytes"));
    });
}

#[test]
fn stored_ranges_are_those_of_the_vectors() {
    each("stored_ranges", |vector| {
        let (block, range) = (vector.unsigned("block"), vector.unsigned("range"));
        let sealed = stored_range::seal(&keys(), vector.nonce(), block, range, &vector.part());
        assert_eq!(hex::encode(&sealed), vector.text("bytes"));
        assert_eq!(StoredRange::decode(&sealed).unwrap().open(&keys()), Some(vector.part()));
    });
}
