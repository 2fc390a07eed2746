//! Incarnations that ended suddenly. A file for each database, written before its first record is
//! accepted, says that there is something to lose.
//!
//! `incarnations` is written by a worker. A server may end before there was one: it had just
//! started, all processes were taken, or something was locked. Then the file tells the next
//! worker.

use crate::usage::node::Node;
use crate::usage::queue::Queue;
use crate::usage::restart::files::{self, IncarnationFile, Kind};
use keysmith_core::shutdown_file::{self, Head};
use std::fs;
use std::io;
use std::sync::atomic::Ordering::SeqCst;

/// An incarnation that ended suddenly.
pub struct Lost {
    pub incarnation: i64,
    /// When the next one started.
    pub until: i64,
    pub most_waiting: i64,
    /// The server, as it was then.
    pub node: Node,
    is_backlog: bool,
    file: IncarnationFile,
}

/// Makes sure that this incarnation has its file, for a database with a place.
#[inline]
pub fn prepare(queue: &Queue, place: usize, database: u32) {
    let Some(signals) = queue.signals.get(place) else { return };
    if signals.has_file.load(SeqCst) == 0 {
        match write(queue, database) {
            Ok(()) => signals.has_file.store(1, SeqCst),
            // The next session tries again; requests are not to fail for it.
            Err(error) => pgrx::log!("keysmith: pg_stat can't be written: {error}"),
        }
    }
}

#[cold]
fn write(queue: &Queue, database: u32) -> io::Result<()> {
    let file = IncarnationFile::new(Kind::Running, database, queue.incarnation);
    files::write(&file.path, &shutdown_file::head(&head(queue)))?;
    files::sync_names()
}

/// The head of this incarnation's files.
pub fn head(queue: &Queue) -> Head {
    Head {
        incarnation: queue.incarnation,
        most_waiting: queue.most_waiting(),
        started_cleanly: queue.started_cleanly,
        started_as_standby: queue.started_as_standby,
        server: Node::own(queue.node).to_string(),
    }
}

/// The incarnations that have lost records of a database, until a worker has noted that; the oldest
/// first.
pub fn lost(database: u32, queue: &Queue) -> Vec<Lost> {
    let lost = |file: IncarnationFile| match file.kind {
        Kind::Lost { end } if file.database == database => {
            let content = fs::read(&file.path).unwrap_or_default();
            // A file that was just being written when the power failed may be empty.
            let head = shutdown_file::split_head(&content);
            let most_waiting = head.as_ref().map(|(head, _)| head.most_waiting);
            let node = head.as_ref().map(|(head, _)| Node::parse(&head.server));
            Some(Lost {
                incarnation: file.incarnation,
                until: end,
                most_waiting: most_waiting.unwrap_or_else(|| queue.most_waiting()),
                node: node.unwrap_or_else(|| Node::own(queue.node)),
                is_backlog: head.map_or(!content.is_empty(), |(_, body)| !body.is_empty()),
                file,
            })
        }
        _ => None,
    };
    IncarnationFile::all().into_iter().filter_map(lost).collect()
}

/// Forgets losses that are in `usage_incarnation` now.
pub fn forget(lost: &[Lost]) {
    for Lost { file, is_backlog, .. } in lost {
        let done =
            if *is_backlog { file.keep_as_unreadable() } else { fs::remove_file(&file.path) };
        if let Err(error) = done {
            pgrx::warning!("keysmith: {} can't be removed: {error}", file.path.display());
        }
    }
}

/// Removes all files of a database that was dropped.
pub fn forget_database(database: u32) {
    for file in IncarnationFile::all() {
        if file.database == database {
            let _ = fs::remove_file(file.path);
        }
    }
}
