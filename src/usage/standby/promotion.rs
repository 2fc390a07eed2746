//! Promotion: the records that wait on a standby when it becomes a primary.
//!
//! 1. The `sender` sees that recovery has ended. It closes its connection, and takes off the counts
//!    that the old primary has stored, as far as they were replayed.
//! 2. The same process goes on as a `worker`. `restart::incarnations` takes the row of this
//!    incarnation over, which no longer has a standby's name.
//! 3. Records up to `last_sequence` of that row were stored by the old primary and replayed here.
//!    The worker stores the rest, with their incarnation and numbers as they are.
//! 4. The old primary's records that it had not stored are reported as a loss.

use crate::usage::queue::Queue;
use crate::usage::standby::load::Marks;
use crate::usage::transaction::transaction;
use pg::error::{Code, Error};
use pg::server;
use pg::spi::{self, Param};

/// What is stored of this incarnation, as the tables of this server say.
pub fn replayed(queue: &Queue) -> Option<Marks> {
    let incarnation = queue.incarnation;
    let marks = transaction("looking at what is stored", || {
        let found = spi::first(
            "SELECT last_sequence, unknown_seen FROM keysmith_private.usage_incarnation
             WHERE incarnation = $1 AND database = $2",
            &[Param::bigint(Some(incarnation)), Param::oid(server::my_database())],
            |row| {
                Some(Marks {
                    last_sequence: row.bigint(1).unwrap_or_default(),
                    unknown_seen: row.bigint(2).unwrap_or_default(),
                })
            },
        )?;
        found.ok_or_else(|| Error::new(Code::NotFound, "no such incarnation"))
    });
    marks.ok()
}

/// Takes off the counts that are stored, as far as that was replayed. A worker may have ended
/// between sending counts and taking them off.
pub fn subtract_replayed(queue: &Queue, place: usize) {
    if let Some(marks) = replayed(queue) {
        let counted = marks.unknown_seen.unsigned_abs();
        queue.with(place, |database| database.unknown.subtract_up_to(counted));
    }
}
