//! What no worker could store before the server stopped: it came too late for one to
//! start, or there was no process for one. The postmaster, who goes last, puts it into
//! a file, and into the queue again when the server starts.

use crate::usage::queue::{MOST_DATABASES, Queue, queue};
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
pub fn take_up(queue: &Queue) {
    let path = path();
    if let Ok(content) = fs::read(&path) {
        // Whatever comes now, these are not read a second time.
        if fs::remove_file(&path).is_ok() && queue.started_cleanly {
            put_back(queue, &content);
        }
    }
    pg::exit::at_leaving(at_exit, 0);
}

fn put_back(queue: &Queue, content: &[u8]) {
    let Some(mut rest) = content.strip_prefix(MAGIC) else { return };
    while let Some((oid, record)) = take_record(&mut rest) {
        let Some(place) = queue.place_of(oid) else { continue };
        traces::leave(queue, place, oid);
        if !queue.push(place, record) {
            queue.count(place, |counters| counters.dropped += 1);
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
    let Some(queue) = queue() else { return };
    let is_proper = code == 0 && server::was_shut_down();
    if !is_proper || queue.waiting() == 0 {
        return;
    }
    let backlog = |place| {
        let found = queue.with(place, |d| Backlog { place, oid: d.oid, count: d.records.count });
        found.filter(|backlog| backlog.count > 0)
    };
    let backlogs: Vec<Backlog> = (0..MOST_DATABASES).filter_map(backlog).collect();
    for backlog in &backlogs {
        note(traces::unkept(queue, backlog.oid));
    }
    if queue.started_as_standby {
        // The primary may have some of it.
        for backlog in &backlogs {
            let written = standby_backlog::write(queue, backlog.place, backlog.oid);
            settle(queue, std::slice::from_ref(backlog), written);
        }
    } else {
        settle(queue, &backlogs, write(queue, &backlogs));
    }
}

/// What waits of a database.
struct Backlog {
    place: usize,
    oid: u32,
    count: u32,
}

fn settle(queue: &Queue, backlogs: &[Backlog], written: io::Result<()>) {
    match written {
        Ok(()) => {
            backlogs.iter().for_each(|backlog| note(traces::kept(queue, backlog.oid)));
        }
        Err(error) => {
            let requests: u32 = backlogs.iter().map(|backlog| backlog.count).sum();
            pgrx::log!("keysmith: usage of {requests} requests can't be kept: {error}");
        }
    }
}

fn note(outcome: io::Result<()>) {
    if let Err(error) = outcome {
        pgrx::log!("keysmith: pg_stat can't be written: {error}");
    }
}

fn write(queue: &Queue, backlogs: &[Backlog]) -> io::Result<()> {
    let mut content = MAGIC.to_vec();
    for backlog in backlogs {
        for record in queue.peek(backlog.place, u32::MAX).iter() {
            content.extend_from_slice(&backlog.oid.to_le_bytes());
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
