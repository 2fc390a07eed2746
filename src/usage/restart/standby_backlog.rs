//! What a standby had not handed over when it was shut down: kept in a file for each
//! database, under the names that the records had, so that none is stored twice even if
//! the primary has it already. The database's next worker sends it, or stores it where
//! the server is a standby no more.

use crate::usage::queue::Queue;
use crate::usage::restart::file;
use crate::usage::standby::link::Failed;
use crate::usage::standby::load::{Life, Load};
use crate::usage::standby::name;
use crate::usage::standby::receive;
use crate::usage::transaction::{Failure, transaction};
use keysmith_core::parcel;
use pg::error::Error;
use pg::server;
use std::borrow::Cow;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// What a file of ours begins with.
const MAGIC: &[u8; 8] = b"KSAPART1";
const PREFIX: &str = "keysmith_usage.";
/// What the name of one begins with that isn't whole.
const ASIDE: &str = "unreadable_";
/// How many records are handed over at once.
const PORTION: usize = 2_000;

/// Writes what waits of a database. Only when nobody takes records out.
pub fn write(queue: &Queue, place: usize, oid: u32) -> io::Result<()> {
    let dropped = queue.with(place, |database| database.counters.dropped).unwrap_or_default();
    let standby = name::own();
    let name = standby.get(..standby.len().min(255)).unwrap_or_default();
    let mut content = MAGIC.to_vec();
    content.extend_from_slice(&queue.incarnation.to_le_bytes());
    content.extend_from_slice(&queue.most_waiting().to_le_bytes());
    content.extend_from_slice(&(dropped as i64).to_le_bytes());
    content.push(u8::from(queue.started_cleanly));
    content.push(name.len() as u8);
    content.extend_from_slice(name.as_bytes());
    for record in queue.peek(place, u32::MAX).iter() {
        parcel::add(&mut content, record.sequence, record.bytes);
    }
    let path = directory().join(format!("{PREFIX}{oid}.{}", queue.incarnation));
    file::write(&path, &content)
}

/// Whether there is something of this database's.
pub fn exists() -> bool {
    !files().is_empty()
}

/// Hands over what there is, a portion at a time, and removes each file when all of it
/// is taken. One that isn't whole is set aside, for somebody to look at; what the system
/// denies is left to the next worker, so that newer records don't wait for it.
pub fn deliver(
    mut hand_over: impl FnMut(&Life, &[u8]) -> Result<(), Failed>,
) -> Result<(), Failed> {
    for path in files() {
        let warn = |what, error: io::Error| {
            pgrx::warning!("keysmith: {} can't be {what}: {error}", path.display());
        };
        let content = match fs::read(&path) {
            Ok(content) => content,
            Err(error) => {
                warn("read", error);
                continue;
            }
        };
        let Some((life, records)) = read(&content) else {
            let aside = directory().join(format!("{ASIDE}{}", name(&path)));
            match fs::rename(&path, &aside) {
                Ok(()) => pgrx::warning!("keysmith: {} is not whole", aside.display()),
                Err(error) => warn("set aside", error),
            }
            continue;
        };
        for portion in records.chunks(PORTION) {
            let mut parcel = Vec::new();
            for (number, record) in portion {
                parcel::add(&mut parcel, *number, record);
            }
            hand_over(&life, &parcel)?;
        }
        if let Err(error) = fs::remove_file(&path) {
            warn("removed", error);
        }
    }
    Ok(())
}

/// Stores what there is in this server's own tables.
pub fn store() -> Result<(), String> {
    let stored = deliver(|life, parcel| {
        transaction("storing what was kept", || {
            let records = receive::records(parcel)
                .ok_or_else(|| Error::argument("records", "must be whole"))?;
            receive::take_in(life, &Load { records, ..Load::default() })
        })
        .map(|_| ())
        .map_err(|Failure { message, .. }| Failed { message })
    });
    stored.map_err(|failed| failed.message)
}

type Kept<'a> = (Life, Vec<(u64, &'a [u8])>);

fn read(content: &[u8]) -> Option<Kept<'_>> {
    let rest = content.strip_prefix(MAGIC)?;
    let (incarnation, rest) = rest.split_first_chunk()?;
    let (most_waiting, rest) = rest.split_first_chunk()?;
    let (dropped, rest) = rest.split_first_chunk()?;
    let (started_cleanly, rest) = rest.split_first()?;
    let (length, rest) = rest.split_first()?;
    let (standby, rest) = rest.split_at_checked(usize::from(*length))?;
    let life = Life {
        standby: String::from_utf8(standby.to_vec()).ok()?,
        incarnation: i64::from_le_bytes(*incarnation),
        most_waiting: i64::from_le_bytes(*most_waiting),
        started_cleanly: *started_cleanly != 0,
        dropped: i64::from_le_bytes(*dropped),
    };
    Some((life, parcel::open(rest)?))
}

/// The files of this database, the oldest life first.
fn files() -> Vec<PathBuf> {
    let oid = server::my_database().to_u32();
    let Ok(entries) = fs::read_dir(directory()) else { return Vec::new() };
    let prefix = format!("{PREFIX}{oid}.");
    let is_ours = |path: &PathBuf| name(path).starts_with(&prefix);
    let mut files: Vec<PathBuf> = entries.flatten().map(|e| e.path()).filter(is_ours).collect();
    files.sort();
    files
}

fn name(path: &Path) -> Cow<'_, str> {
    path.file_name().unwrap_or_default().to_string_lossy()
}

/// Beside the statistics, which PostgreSQL keeps over a restart in the same way.
fn directory() -> PathBuf {
    server::data_directory().join("pg_stat")
}
