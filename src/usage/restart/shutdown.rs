//! The end of the server. What no worker could store came too late for one to start, or there was
//! no process for one. The postmaster, which ends last, writes it to a file for each database.

use crate::usage::queue::{MOST_DATABASES, Queue, queue};
use crate::usage::restart::files::{self, IncarnationFile, Kind};
use crate::usage::restart::losses;
use keysmith_core::shutdown_file;
use pg::server;
use std::ffi::c_int;
use std::fs::{self, File};
use std::io;

/// Called by the postmaster when it starts, and when it starts again after a crash.
pub fn install() {
    pg::exit::at_leaving(at_exit, 0);
}

/// After a shutdown only: after a crash shared memory may be corrupt.
fn at_exit(code: c_int, _: usize) {
    let Some(queue) = queue() else { return };
    if code != 0 || !server::was_shut_down() {
        return;
    }
    if queue.waiting() > 0 {
        write_all(queue);
    }
    // The next start takes a file that is still there for a loss. The control file says that the
    // server was shut down some time before this process ends.
    let nothing_to_lose = IncarnationFile::all().into_iter().filter(|file| {
        file.kind == Kind::Running && file.incarnation == queue.incarnation && !waits(queue, file)
    });
    for file in nothing_to_lose {
        if let Err(error) = fs::remove_file(&file.path) {
            pgrx::log!("keysmith: {} can't be removed: {error}", file.path.display());
        }
    }
    if let Err(error) = files::sync_names() {
        pgrx::log!("keysmith: pg_stat can't be written: {error}");
    }
}

/// Whether records of the file's database wait.
fn waits(queue: &Queue, file: &IncarnationFile) -> bool {
    queue.locked(|state| {
        state.databases.iter().any(|d| d.oid == file.database && d.records.count > 0)
    })
}

fn write_all(queue: &Queue) {
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
