//! Puts a record into the queue, or, if that is full or must not be used, passes it to
//! `write_through`.

use crate::usage::queue::Queue;
use crate::usage::session::worker_slot::{self, drop_record};
use crate::usage::session::write_through;
use crate::usage::settings;
use crate::usage::standby::link;
use pg::transaction;

/// When a record is accepted.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Moment {
    Running,
    BeforeCommit,
    /// The transaction may be committed later, or rolled back.
    BeforePrepare,
    /// The transaction can write no more, and nothing may fail.
    Over,
}

/// Whether records are kept here. A standby keeps them while there is no primary: there will be one,
/// or the standby becomes one. A subscriber keeps them for its publisher.
pub fn is_kept_here() -> bool {
    !link::is_needed() || settings::is_sending()
}

/// Whether this transaction may write rows.
pub fn can_write() -> bool {
    !transaction::is_read_only() && !link::is_needed()
}

/// Accepts a record, or counts it.
pub fn accept(record: &[u8], moment: Moment) {
    match worker_slot::place() {
        Some((queue, place)) if !is_kept_here() => {
            queue.count(place, |counters| counters.not_logged += 1);
        }
        _ if is_accepted(record, moment) => {}
        _ => drop_record(),
    }
}

/// Puts a record into the queue, or keeps it in this backend until the transaction is about to
/// commit.
pub fn is_accepted(record: &[u8], moment: Moment) -> bool {
    let can_write = moment != Moment::Over && can_write() && write_through::has_room();
    let waits = |(queue, place): (&Queue, usize)| queue.push(place, record);
    if !can_write || !settings::is_durable() || moment == Moment::BeforePrepare {
        let place = worker_slot::place();
        if place.is_some_and(waits) {
            return true;
        }
        if !can_write || place.is_some() && !settings::writes_through() {
            return false;
        }
    }
    write_through::keep(record);
    if moment == Moment::Running {
        write_through::write_if_many(|record| accept(record, Moment::Over));
    }
    true
}
