//! Traces of lives: a file for each database that a life of the shared memory has had
//! records of, made before the first of them is taken in.
//!
//! The book of lives is written by a worker. A server may end before one could: it had
//! just begun, all processes were taken, or something was locked. Then the trace tells
//! the next worker of a life that is in no book, and of what it may have cost.

use crate::usage::queue::Queue;
use pg::server::data_directory;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering::SeqCst;

/// Of the life that is, of one whose records could not be kept for the next, and of one that
/// ended without having stored all, whose file has the moment of its end in its name.
const ALIVE: &str = "keysmith_life";
const UNKEPT: &str = "keysmith_unkept";
const LOST: &str = "keysmith_lost";

/// A life that ended suddenly.
pub struct Lost {
    pub incarnation: i64,
    /// When the next began.
    pub until: i64,
    pub most_waiting: i64,
    path: PathBuf,
}

/// Sees to it that there is a trace of this life, for a database with a place.
#[inline]
pub fn leave(queue: &Queue, place: usize, oid: u32) {
    let Some(signals) = queue.signals.get(place) else { return };
    if signals.traced.load(SeqCst) == 0 {
        match write(queue, oid) {
            Ok(()) => signals.traced.store(1, SeqCst),
            // The next session tries again; requests are not to fail for it.
            Err(error) => pgrx::log!("keysmith: pg_stat can't be written: {error}"),
        }
    }
}

#[cold]
fn write(queue: &Queue, oid: u32) -> io::Result<()> {
    let mut file = File::create(of_this_life(ALIVE, queue, oid))?;
    file.write_all(queue.most_waiting().to_string().as_bytes())?;
    file.sync_all()?;
    sync()
}

/// Has the names of files outlast a power cut.
fn sync() -> io::Result<()> {
    File::open(directory())?.sync_all()
}

/// Notes that a database's records are not kept, before that is tried: it may fail, for want
/// of room or of power, and a file's name can be changed where there is no room for another.
pub fn unkept(queue: &Queue, oid: u32) -> io::Result<()> {
    let unkept = of_this_life(UNKEPT, queue, oid);
    fs::rename(of_this_life(ALIVE, queue, oid), &unkept)
        .or_else(|_| File::create(unkept).map(drop))?;
    sync()
}

/// They are kept after all.
pub fn kept(queue: &Queue, oid: u32) -> io::Result<()> {
    // Before that the names of the files that keep them.
    sync()?;
    fs::rename(of_this_life(UNKEPT, queue, oid), of_this_life(ALIVE, queue, oid))
}

fn of_this_life(kind: &str, queue: &Queue, oid: u32) -> PathBuf {
    directory().join(format!("{kind}.{oid}.{}", queue.incarnation))
}

/// Notes how the life before ended. Called by the postmaster when another begins.
pub fn begin(queue: &Queue) {
    // A backup has the traces of the server that it was taken of, which lives on.
    let is_copy = data_directory().join("backup_label").exists();
    for path in files() {
        let named = parts(&path);
        let done = match named {
            Some((kind, oid, incarnation, None))
                if !is_copy && (kind == UNKEPT || kind == ALIVE && !queue.started_cleanly) =>
            {
                let name = format!("{LOST}.{oid}.{incarnation}.{}", queue.incarnation);
                fs::rename(&path, path.with_file_name(name))
            }
            Some((ALIVE, ..)) => fs::remove_file(&path),
            Some(_) if is_copy => fs::remove_file(&path),
            _ => Ok(()),
        };
        if let Err(error) = done {
            pgrx::log!("keysmith: {} can't be changed: {error}", path.display());
        }
    }
}

/// The lives of a database that ended suddenly, and of which no worker has read yet,
/// the oldest first.
pub fn lost(database: u32, queue: &Queue) -> Vec<Lost> {
    let lost = |path: PathBuf| match parts(&path)? {
        (LOST, oid, incarnation, Some(until)) if oid == database => {
            // A file that came to be just before the power failed may be empty.
            let written = fs::read_to_string(&path).ok().and_then(|text| text.parse().ok());
            let most_waiting = written.unwrap_or_else(|| queue.most_waiting());
            Some(Lost { incarnation, until, most_waiting, path })
        }
        _ => None,
    };
    let mut all: Vec<Lost> = files().into_iter().filter_map(lost).collect();
    all.sort_by_key(|lost| lost.incarnation);
    all
}

/// Forgets lives that are in the book now.
pub fn forget(lost: &[Lost]) {
    for Lost { path, .. } in lost {
        if let Err(error) = fs::remove_file(path) {
            pgrx::warning!("keysmith: {} can't be removed: {error}", path.display());
        }
    }
}

/// Forgets all of a database that is no more.
pub fn forget_database(database: u32) {
    for path in files() {
        if parts(&path).is_some_and(|(_, oid, ..)| oid == database) {
            let _ = fs::remove_file(path);
        }
    }
}

/// What a file's name says: of what kind it is, the database, the life, and its end.
fn parts(path: &Path) -> Option<(&'static str, u32, i64, Option<i64>)> {
    let mut parts = path.file_name()?.to_str()?.split('.');
    let kind = parts.next()?;
    let kind = [ALIVE, UNKEPT, LOST].into_iter().find(|known| *known == kind)?;
    let (oid, incarnation) = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
    let until = match parts.next() {
        None => None,
        Some(until) => Some(until.parse().ok()?),
    };
    Some((kind, oid, incarnation, until))
}

fn files() -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(directory()) else { return Vec::new() };
    entries.flatten().map(|entry| entry.path()).filter(|path| parts(path).is_some()).collect()
}

/// Beside the statistics, which a server keeps where its tables are.
fn directory() -> PathBuf {
    data_directory().join("pg_stat")
}
