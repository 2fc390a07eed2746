//! The end of a chain: entries are appended there when a transaction commits.

use super::event::Event;
use crate::catalog::{Catalog, columns};
use crate::pepper;
use keysmith_core::chain::{Entry, START, Seal};
use pg::error::{Code, Error, Result};
use pg::lock::{self, Mode};
use pg::scan::{ScanKey, Snapshot, Varlena};
use pg::spi::{self, Param, saved};
use pg::{text, transaction};
use pgrx::pg_sys::{self, Oid};
use std::collections::BTreeMap;

/// An act that was done. The commit adds it to its chain.
pub struct Note {
    /// The table of entries, which is another one if the extension is created again.
    pub table: Oid,
    pub keyspace: String,
    pub at: i64,
    pub action: String,
    /// The digest of the entry's content.
    pub content: [u8; 32],
    pub event: Option<Event>,
}

/// The most entries that one statement writes.
const BATCH: usize = 1000;

/// A commit of more acts than this first flushes what they wrote: see `flush`.
const FLUSH_FROM: usize = 100;

/// Appends notes to the chains of their keyspaces.
pub fn append(catalog: &Catalog, notes: &[Note]) -> Result<()> {
    let mut chains: BTreeMap<(u32, &str), Vec<&Note>> = BTreeMap::new();
    for note in notes {
        chains.entry((number_of(&note.keyspace), &note.keyspace)).or_default().push(note);
    }
    if notes.len() > FLUSH_FROM {
        // Otherwise the commit would flush while it holds the locks of the chains, and others would
        // wait.
        transaction::flush();
    }
    chains.into_iter().try_for_each(|((number, keyspace), notes)| {
        lock(catalog, number);
        extend(catalog, keyspace, &notes)
    })
}

/// The number by which a keyspace is locked: FNV-1a. Two with the same number share a lock, which only
/// costs time.
pub fn number_of(keyspace: &str) -> u32 {
    keyspace
        .bytes()
        .fold(0x811c_9dc5, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193))
}

/// Locks a chain until the transaction ends.
fn lock(catalog: &Catalog, number: u32) {
    lock::object(catalog.tables.audit_entry.table, Oid::from(number), Mode::Exclusive);
}

/// Numbers, seals and writes entries. The chain must be locked. Everything that takes long was done
/// before that.
fn extend(catalog: &Catalog, keyspace: &str, notes: &[&Note]) -> Result<()> {
    let (mut entry, mut previous, generation) = end_of(catalog, keyspace);
    let peppers = pepper::knowing(generation);
    let newest = peppers.newest();
    must_know(keyspace, newest, generation)?;
    for notes in notes.chunks(BATCH) {
        // Each batch has its own SPI session, which frees its memory.
        spi::session(|| {
            let mut rows = Vec::with_capacity(notes.len());
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
                rows.push((entry, *note, previous));
            }
            insert(keyspace, newest, &rows)
        })?;
    }
    Ok(())
}

fn must_know(keyspace: &str, newest: i16, generation: i16) -> Result<()> {
    if newest >= generation {
        return Ok(());
    }
    Err(Error::new(
        Code::Pepper,
        format!("the audit of keyspace {keyspace:?} is sealed with pepper {generation}"),
    )
    .hint("Preload the library, and keep that line in the file of keysmith.pepper_file."))
}

/// Checks that a chain can be extended, for acts of the worker: a commit that fails would undo what it
/// did in other keyspaces.
pub fn must_be_extensible(catalog: &Catalog, keyspace: &str) -> Result<()> {
    let (.., generation) = end_of(catalog, keyspace);
    must_know(keyspace, pepper::knowing(generation).newest(), generation)
}

/// Inserts entries, given their numbers, notes and seals.
fn insert(keyspace: &str, generation: i16, rows: &[(i64, &Note, Seal)]) -> Result<()> {
    fn column<'a>(
        rows: &'a [(i64, &Note, Seal)],
        cell: impl Fn(&'a (i64, &Note, Seal)) -> Param<'a>,
    ) -> Vec<Param<'a>> {
        rows.iter().map(cell).collect()
    }
    let entries = column(rows, |(entry, ..)| Param::bigint(Some(*entry)));
    let times = column(rows, |(_, note, _)| Param::timestamp(Some(note.at)));
    let actions = column(rows, |(_, note, _)| Param::text(&note.action));
    let contents = column(rows, |(_, note, _)| Param::bytes(&note.content));
    let seals = column(rows, |(.., seal)| Param::bytes(seal));
    spi::execute(
        saved!(
            "INSERT INTO keysmith_private.audit_entry
                 (keyspace, entry, at, action, generation, content, hash)
             SELECT $1, n.entry, n.at, n.action, $2, n.content, n.hash
             FROM ROWS FROM (pg_catalog.unnest($3), pg_catalog.unnest($4), pg_catalog.unnest($5),
                             pg_catalog.unnest($6), pg_catalog.unnest($7))
                  AS n (entry, at, action, content, hash)"
        ),
        &[
            Param::text(keyspace),
            Param::smallint(generation),
            Param::array(pg_sys::INT8OID, pg_sys::INT8ARRAYOID, &entries),
            Param::array(pg_sys::TIMESTAMPTZOID, pg_sys::TIMESTAMPTZARRAYOID, &times),
            Param::array(pg_sys::TEXTOID, pg_sys::TEXTARRAYOID, &actions),
            Param::array(pg_sys::BYTEAOID, pg_sys::BYTEAARRAYOID, &contents),
            Param::array(pg_sys::BYTEAOID, pg_sys::BYTEAARRAYOID, &seals),
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
