//! The start of the server: the postmaster looks at the files that incarnations before left.

use crate::usage::queue::{Queue, REGION};
use crate::usage::restart::files::{self, IncarnationFile, Kind};
use crate::usage::restart::shutdown;
use keysmith_core::shutdown_file;
use std::fs;
use std::io;

/// To be called from `_PG_init`, while the library is preloaded.
pub fn install() {
    REGION.when_made(begin);
}

fn begin(queue: &'static Queue) {
    // The server that a backup was taken of reports its losses itself. Its backlog may be in the
    // backup alone, and is stored once wherever it is.
    let is_copy = files::are_of_backup();
    for file in IncarnationFile::all() {
        let done = match file.kind {
            Kind::Running if !is_copy => lose(queue, &file),
            Kind::Lost { .. } if !is_copy => Ok(()),
            Kind::Running | Kind::Lost { .. } => fs::remove_file(&file.path),
            Kind::Backlog => inspect(queue, &file),
        };
        if let Err(error) = done {
            pgrx::log!("keysmith: {} can't be changed: {error}", file.path.display());
        }
    }
    if let Err(error) = files::sync_names() {
        pgrx::log!("keysmith: pg_stat can't be written: {error}");
    }
    shutdown::install();
}

fn lose(queue: &Queue, file: &IncarnationFile) -> io::Result<()> {
    file.rename(Kind::Lost { end: queue.incarnation })
}

/// Counts the records of a backlog, which a worker will store. One that is not whole is a loss.
fn inspect(queue: &Queue, file: &IncarnationFile) -> io::Result<()> {
    let content = match fs::read(&file.path) {
        Ok(content) => content,
        Err(error) => {
            pgrx::log!("keysmith: {} can't be read: {error}", file.path.display());
            return Ok(());
        }
    };
    let backlog = shutdown_file::read(&content);
    let Some(backlog) = backlog.filter(|read| read.head.incarnation == file.incarnation) else {
        pgrx::log!("keysmith: {} is not whole", file.path.display());
        return lose(queue, file);
    };
    if let Some(place) = queue.place_of(file.database) {
        queue.with(place, |database| {
            let count = backlog.records.len() as u32;
            database.backlog = database.backlog.saturating_add(count);
            database.counters.accepted += u64::from(count);
        });
    }
    Ok(())
}
