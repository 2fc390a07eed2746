//! The end of a chain, and what is appended there when a transaction commits.

use crate::catalog::{Catalog, columns};
use crate::pepper;
use keysmith_core::chain::{Entry, START, Seal};
use pg::error::{Code, Error, Result};
use pg::scan::{ScanKey, Snapshot, Varlena};
use pg::spi::{self, Param};
use pg::text;
use pg::varlena;
use pgrx::pg_sys::{self, Datum, Oid};
use std::collections::BTreeMap;

/// An act that was done, to be chained at commit.
pub struct Note {
    /// The table of entries, which is another one if the extension is created again.
    pub table: Oid,
    pub keyspace: String,
    pub at: i64,
    pub action: String,
    /// The digest of what was done.
    pub content: [u8; 32],
}

/// Entries that are written by one statement.
const BATCH: usize = 1000;

/// A commit of more acts than this flushes first what they wrote: see `flush`.
const FLUSH_FROM: usize = 100;

/// Appends notes to the chains of their keyspaces.
pub fn append(catalog: &Catalog, notes: &[Note]) -> Result<()> {
    let mut chains: BTreeMap<(u32, &str), Vec<&Note>> = BTreeMap::new();
    for note in notes {
        chains.entry((lock_number(&note.keyspace), &note.keyspace)).or_default().push(note);
    }
    if notes.len() > FLUSH_FROM {
        flush();
    }
    chains.into_iter().try_for_each(|((number, keyspace), notes)| {
        lock(catalog, number);
        extend(catalog, keyspace, &notes)
    })
}

/// Flushes what this transaction wrote so far. Its commit would do so while it holds the
/// chains' locks, and others would wait for that.
fn flush() {
    // SAFETY: the end of the last record that this backend wrote in the transaction.
    unsafe { pg_sys::XLogFlush(pg_sys::XactLastRecEnd) };
}

/// FNV-1a. Chains that share a number merely take turns.
fn lock_number(keyspace: &str) -> u32 {
    keyspace
        .bytes()
        .fold(0x811c_9dc5, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193))
}

/// Locks a chain until the transaction ends.
fn lock(catalog: &Catalog, number: u32) {
    // SAFETY: a lock on an object of the audit table.
    unsafe {
        pg_sys::LockDatabaseObject(
            catalog.tables.audit_entry.table,
            Oid::from(number),
            0,
            pg_sys::ExclusiveLock as pg_sys::LOCKMODE,
        );
    }
}

/// Numbers, seals and writes entries. The chain must be locked: whatever takes long was
/// done before.
fn extend(catalog: &Catalog, keyspace: &str, notes: &[&Note]) -> Result<()> {
    let (mut entry, mut previous, generation) = end_of(catalog, keyspace);
    let peppers = pepper::peppers();
    let newest = peppers.newest();
    if newest < generation {
        return Err(Error::new(
            Code::Pepper,
            format!("the audit of keyspace {keyspace:?} is sealed with pepper {generation}"),
        )
        .hint("Preload the library, and keep that line in the file of keysmith.pepper_file."));
    }
    for notes in notes.chunks(BATCH) {
        // Its own SPI session: its memory is freed with it.
        spi::session(|| {
            let mut columns: [Vec<Datum>; 5] = Default::default();
            for note in notes {
                entry += 1;
                let sealed = Entry {
                    keyspace,
                    entry,
                    generation: newest,
                    at: note.at,
                    action: &note.action,
                    content: &note.content,
                }
                .seal(peppers, &previous);
                previous =
                    sealed.ok_or_else(|| Error::new(Code::Pepper, "the newest pepper is gone"))?;
                let row = [
                    Datum::from(entry),
                    Datum::from(note.at),
                    text::datum(&note.action),
                    pg::datum::bytes(&note.content),
                    pg::datum::bytes(&previous),
                ];
                columns.iter_mut().zip(row).for_each(|(column, datum)| column.push(datum));
            }
            insert(keyspace, newest, columns)
        })?;
    }
    Ok(())
}

/// Inserts entries, given the columns entry, at, action, content and hash.
fn insert(keyspace: &str, generation: i16, columns: [Vec<Datum>; 5]) -> Result<()> {
    let [entries, times, actions, contents, seals] = columns;
    let array = |kind, element, data| Param::given(kind, Some(varlena::array(data, element)));
    spi::execute(
        "INSERT INTO keysmith_private.audit_entry
             (keyspace, entry, at, action, generation, content, hash)
         SELECT $1, n.entry, n.at, n.action, $2, n.content, n.hash
         FROM ROWS FROM (pg_catalog.unnest($3), pg_catalog.unnest($4), pg_catalog.unnest($5),
                         pg_catalog.unnest($6), pg_catalog.unnest($7))
              AS n (entry, at, action, content, hash)",
        &[
            Param::text(keyspace),
            Param::smallint(generation),
            array(pg_sys::INT8ARRAYOID, pg_sys::INT8OID, entries),
            array(pg_sys::TIMESTAMPTZARRAYOID, pg_sys::TIMESTAMPTZOID, times),
            array(pg_sys::TEXTARRAYOID, pg_sys::TEXTOID, actions),
            array(pg_sys::BYTEAARRAYOID, pg_sys::BYTEAOID, contents),
            array(pg_sys::BYTEAARRAYOID, pg_sys::BYTEAOID, seals),
        ],
    )?;
    Ok(())
}

/// The last entry of a chain, as of now: a transaction at REPEATABLE READ must not
/// chain its own to one that has successors.
fn end_of(catalog: &Catalog, keyspace: &str) -> (i64, Seal, i16) {
    use columns::audit_entry as column;
    let snapshot = Snapshot::now();
    let entries = catalog.tables.audit_entry.open();
    let keyspace = Varlena::new(&text::to_server(keyspace).into_bytes());
    entries
        .last(&snapshot, [ScanKey::text(column::keyspace, &keyspace)], |row| {
            let seal = row.bytes(column::hash).and_then(|hash| hash.try_into().ok());
            (
                row.bigint(column::entry).unwrap_or_default(),
                seal.unwrap_or(START),
                row.smallint(column::generation).unwrap_or_default(),
            )
        })
        .unwrap_or((0, START, 0))
}
