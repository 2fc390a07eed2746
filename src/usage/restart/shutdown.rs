//! The end of the server. What no worker could store came too late for one to start, or there was
//! no process for one. The postmaster, which ends last, writes it to a file for each database.

use crate::usage::queue::{MOST_DATABASES, Queue, queue};
use crate::usage::restart::files::{self, IncarnationFile, Kind};
use crate::usage::restart::losses;
use keysmith_core::shutdown_file;
use pg::server;
use std::ffi::c_int;
use std::fs::File;
use std::io;

/// Called by the postmaster when it starts, and when it starts again after a crash.
pub fn install() {
    pg::exit::at_leaving(at_exit, 0);
}

/// After a shutdown only: after a crash shared memory may be corrupt.
fn at_exit(code: c_int, _: usize) {
    let Some(queue) = queue() else { return };
    if code != 0 || !server::was_shut_down() || queue.waiting() == 0 {
        return;
    }
    for place in 0..MOST_DATABASES {
        let found = queue.with(place, |d| (d.oid, d.records.count, d.counters.dropped));
        let Some((database, count, dropped)) = found else { continue };
        if count > 0
            && let Err(error) = write(queue, place, database, dropped)
        {
            pgrx::log!("keysmith: usage of {count} requests can't be kept: {error}");
        }
    }
}

/// First the name says that there is a backlog, for good. From then on, until the file is whole,
/// it counts as a loss. A name can be changed where there is no room for the rest.
fn write(queue: &Queue, place: usize, database: u32, dropped: u64) -> io::Result<()> {
    let backlog = IncarnationFile::new(Kind::Backlog, database, queue.incarnation);
    match IncarnationFile::new(Kind::Running, database, queue.incarnation).rename(Kind::Backlog) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            File::create(&backlog.path)?;
        }
        done => done?,
    }
    files::sync_names()?;
    let mut content = shutdown_file::head(&losses::head(queue));
    let waiting = queue.peek(place, u32::MAX);
    let records = waiting.iter().map(|record| (record.sequence, record.bytes));
    shutdown_file::add_body(&mut content, i64::try_from(dropped).unwrap_or(i64::MAX), records);
    files::write(&backlog.path, &content)
}
