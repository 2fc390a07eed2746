//! The records that waited when the server was shut down. The database's next worker stores them, or
//! hands them to the primary. They keep their incarnation and numbers, so that none is stored twice,
//! whatever ends in between.

use crate::usage::node::Node;
use crate::usage::queue::Queue;
use crate::usage::restart::files::IncarnationFile;
use crate::usage::standby::link::{self, Failed};
use crate::usage::standby::load::{Incarnation, Load};
use crate::usage::standby::receive;
use crate::usage::transaction::{Failure, transaction};
use keysmith_core::event;
use keysmith_core::parcel;
use keysmith_core::shutdown_file::{self, Backlog};
use pg::error::Error;
use std::fs;

/// How many records are handed over at a time.
const PORTION: usize = 2_000;

/// Whether there is a backlog of this database.
pub fn exists() -> bool {
    !IncarnationFile::backlogs().is_empty()
}

/// Stores the backlog in this server's own tables.
pub fn store(queue: &Queue, place: usize) -> Result<(), String> {
    let stored = deliver(queue, place, |incarnation, parcel| {
        transaction("storing what waited at the shutdown", || {
            let records = receive::records(parcel)
                .ok_or_else(|| Error::argument("records", "must be whole"))?;
            receive::receive(incarnation, &Load { records, ..Load::default() })
        })
        .map(|_| ())
        .map_err(|Failure { message, .. }| Failed { message })
    });
    stored.map_err(|failed| failed.message)
}

/// Hands over the backlog, a portion at a time, and removes each file when all of it is stored. A
/// file that can't be read is left to the next worker, so that newer records don't wait for it.
pub fn deliver(
    queue: &Queue,
    place: usize,
    mut hand_over: impl FnMut(&Incarnation, &[u8]) -> Result<(), Failed>,
) -> Result<(), Failed> {
    for file in IncarnationFile::backlogs() {
        let warn = |what: &str| pgrx::warning!("keysmith: {} can't be {what}", file.path.display());
        let content = match fs::read(&file.path) {
            Ok(content) => content,
            Err(error) => {
                warn(&format!("read: {error}"));
                continue;
            }
        };
        let Some(Backlog { head, dropped, records }) = shutdown_file::read(&content) else {
            // It was whole when the server started. The next start reports the loss.
            warn("read: it is not whole");
            continue;
        };
        let incarnation = Incarnation {
            node: Node::parse(&head.server),
            is_own: !head.started_as_standby && !link::is_needed(),
            id: head.incarnation,
            most_waiting: head.most_waiting,
            started_cleanly: head.started_cleanly,
            dropped,
        };
        for portion in records.chunks(PORTION) {
            let mut parcel = Vec::new();
            for (number, record) in portion {
                parcel::add(&mut parcel, *number, record);
            }
            hand_over(&incarnation, &parcel)?;
        }
        if let Err(error) = fs::remove_file(&file.path) {
            warn(&format!("removed: {error}"));
        }
        let amendments =
            records.iter().filter(|(_, record)| event::is_amendment(record)).count() as u64;
        queue.with(place, |database| {
            database.backlog = database.backlog.saturating_sub(records.len() as u32);
            database.counters.amendments += amendments;
            database.counters.stored += records.len() as u64 - amendments;
        });
    }
    queue.with(place, |database| database.backlog = 0);
    Ok(())
}

/// Throws away all that waits for an extension that was dropped.
pub fn discard_all(queue: &Queue, place: usize) {
    queue.discard(place);
    for file in IncarnationFile::backlogs() {
        if let Err(error) = fs::remove_file(&file.path) {
            pgrx::warning!("keysmith: {} can't be removed: {error}", file.path.display());
        }
    }
    queue.with(place, |database| {
        database.counters.discarded += u64::from(std::mem::take(&mut database.backlog));
    });
}
