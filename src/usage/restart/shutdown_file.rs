//! What no worker could store before the server stopped: it came too late for one to
//! start, or there was no process for one. The postmaster, who goes last, puts it into
//! a file, and into the ring again when the server starts.

use crate::usage::queue::ring::{MOST_DATABASES, Ring, ring};
use crate::usage::restart::file;
use crate::usage::restart::standby_backlog;
use crate::usage::restart::traces;
use pg::server;
use std::ffi::c_int;
use std::fs;
use std::io;
use std::path::PathBuf;

/// What a file of ours begins with.
const MAGIC: &[u8; 8] = b"KSUSAGE1";

/// Reads the file, if there is one, and has it written at the end. Called by the
/// postmaster, also when it begins anew after a crash.
pub fn take_up(ring: &Ring) {
    let path = path();
    if let Ok(content) = fs::read(&path) {
        // Whatever comes now, these are not read a second time.
        if fs::remove_file(&path).is_ok() && ring.started_cleanly {
            put_back(ring, &content);
        }
    }
    pg::exit::at_leaving(at_exit, 0);
}

fn put_back(ring: &Ring, content: &[u8]) {
    let Some(mut rest) = content.strip_prefix(MAGIC) else { return };
    while let Some((oid, record)) = take_record(&mut rest) {
        let Some(place) = ring.place_of(oid) else { continue };
        traces::leave(ring, place, oid);
        if !ring.push(place, record) {
            ring.count(place, |counters| counters.dropped += 1);
        }
    }
}

/// Takes a database's oid and a record from the front.
fn take_record<'a>(content: &mut &'a [u8]) -> Option<(u32, &'a [u8])> {
    let (oid, rest) = content.split_first_chunk()?;
    let (length, rest) = rest.split_first_chunk()?;
    let (record, rest) = rest.split_at_checked(usize::from(u16::from_le_bytes(*length)))?;
    *content = rest;
    Some((u32::from_le_bytes(*oid), record))
}

/// After a proper end only: of what a worker was at when it was cut off, nobody could
/// tell whether it is stored.
fn at_exit(code: c_int, _: usize) {
    let Some(ring) = ring() else { return };
    let is_proper = code == 0 && server::was_shut_down();
    if !is_proper || ring.waiting() == 0 {
        return;
    }
    let queue = |place| {
        let found = ring.with(place, |d| Queue { place, oid: d.oid, count: d.count });
        found.filter(|queue| queue.count > 0)
    };
    let queues: Vec<Queue> = (0..MOST_DATABASES).filter_map(queue).collect();
    for queue in &queues {
        note(traces::unkept(ring, queue.oid));
    }
    if ring.started_as_standby {
        // The primary may have some of it.
        for queue in &queues {
            settle(
                ring,
                std::slice::from_ref(queue),
                standby_backlog::write(ring, queue.place, queue.oid),
            );
        }
    } else {
        settle(ring, &queues, write(ring, &queues));
    }
}

/// What waits of a database.
struct Queue {
    place: usize,
    oid: u32,
    count: u32,
}

fn settle(ring: &Ring, queues: &[Queue], written: io::Result<()>) {
    match written {
        Ok(()) => queues.iter().for_each(|queue| note(traces::kept(ring, queue.oid))),
        Err(error) => {
            let requests: u32 = queues.iter().map(|queue| queue.count).sum();
            pgrx::log!("keysmith: usage of {requests} requests can't be kept: {error}");
        }
    }
}

fn note(outcome: io::Result<()>) {
    if let Err(error) = outcome {
        pgrx::log!("keysmith: pg_stat can't be written: {error}");
    }
}

fn write(ring: &Ring, queues: &[Queue]) -> io::Result<()> {
    let mut content = MAGIC.to_vec();
    for queue in queues {
        for record in ring.peek(queue.place, u32::MAX) {
            content.extend_from_slice(&queue.oid.to_le_bytes());
            content.extend_from_slice(&(record.bytes.len() as u16).to_le_bytes());
            content.extend_from_slice(record.bytes);
        }
    }
    file::write(&path(), &content)
}

/// Beside the statistics, which PostgreSQL keeps over a restart in the same way.
fn path() -> PathBuf {
    server::data_directory().join("pg_stat/keysmith_usage")
}
