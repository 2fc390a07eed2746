//! The tags that totals are kept by, as keyspaces declare them.

use crate::catalog::Catalog;
use crate::catalog::columns::keyspace as column;
use keysmith_core::event::{Learned, Record};
use pg::error::Result;
use pg::scan::{Room, ScanKey, Snapshot, Varlena};
use std::collections::HashMap;

/// Those of each keyspace of requests with tags. A batch without tags reads nothing.
pub fn of_batch<'a>(
    records: &'a [(i64, Record)],
    told: &HashMap<[u8; 16], Learned>,
) -> Result<HashMap<&'a [u8], Vec<u8>>> {
    let are_told = told.values().any(|told| told.tags.is_some());
    let has_tags = |record: &'a Record| match record {
        Record::Event(event)
            if event.learned.tags.is_some()
                || are_told && told.get(&event.request_id).is_some_and(|t| t.tags.is_some()) =>
        {
            Some(event.keyspace)
        }
        _ => None,
    };
    declared(records.iter().filter_map(|(_, record)| has_tags(record)).collect())
}

/// The names of each of these keyspaces, joined by commas. A keyspace that declares none is left out.
pub fn declared(mut keyspaces: Vec<&[u8]>) -> Result<HashMap<&[u8], Vec<u8>>> {
    let mut names = HashMap::new();
    keyspaces.sort_unstable();
    keyspaces.dedup();
    if keyspaces.is_empty() {
        return Ok(names);
    }
    let (table, snapshot) = (Catalog::open()?.tables.keyspace.open(), Snapshot::now());
    for keyspace in keyspaces {
        let (room, name) = (Room::new(), Varlena::new(keyspace));
        let by_name = [ScanKey::text(column::keyspace, &name)];
        let row = table.first(&snapshot, &room, by_name, |_| true);
        if let Some(declared) = row.as_ref().and_then(|row| row.array(column::usage_tags)) {
            let declared: Vec<&[u8]> = declared.iter().flatten().collect();
            names.insert(keyspace, declared.join(&b","[..]));
        }
    }
    Ok(names)
}
