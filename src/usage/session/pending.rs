//! The newest record, held back until its transaction ends or the next decision comes,
//! so that `log_request` can complete it. The request happened, so its record goes on
//! whether the transaction commits, aborts or is prepared.

use crate::usage::queue::Queue;
use crate::usage::session::destination::can_write;
use crate::usage::session::destination::is_kept_here;
use crate::usage::session::worker_slot;
use crate::usage::session::worker_slot::drop_record;
use crate::usage::session::write_through;
use crate::usage::settings;
use keysmith_core::event::{Learned, MAX_LEN, Record};
use std::cell::RefCell;
use std::sync::atomic::Ordering::SeqCst;

struct Pending {
    request_id: [u8; 16],
    /// 0 if there is none.
    length: usize,
    bytes: [u8; MAX_LEN],
    /// The database's place whose worker was told to wait for it.
    place: Option<usize>,
}

thread_local! {
    static PENDING: RefCell<Pending> = const {
        RefCell::new(Pending { request_id: [0; 16], length: 0, bytes: [0; MAX_LEN], place: None })
    };
}

/// At which moment a record is handed on.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Moment {
    Running,
    BeforeCommit,
    /// Whether it will be committed is not known here, nor when.
    BeforePrepare,
    /// The transaction can write no more, and nothing may fail.
    Over,
}

/// Holds a record back. The one before it goes on.
pub fn hold(request_id: &[u8; 16], record: &[u8]) {
    let found = worker_slot::find_place();
    hand_on();
    PENDING.with_borrow_mut(|pending| {
        if let Some(place) = pending.bytes.get_mut(..record.len()) {
            place.copy_from_slice(record);
            pending.length = record.len();
            pending.request_id = *request_id;
            pending.place = None;
        }
        // The worker, while it knows of the record, stays.
        if let Some((queue, place)) = found
            && is_kept_here()
            && let Some(signals) = queue.signals.get(place)
        {
            signals.pending.fetch_add(1, SeqCst);
            pending.place = Some(place);
            worker_slot::ensure(queue, place);
        }
    });
}

/// Lets the record that is held back go on, in the middle of a transaction.
pub fn hand_on() {
    release(Moment::Running);
}

/// Puts what was told over the record that is held back, if it is that of the request,
/// or of any where none is named.
pub fn amend(request_id: Option<&[u8; 16]>, told: Learned) -> bool {
    PENDING.with_borrow_mut(|pending| {
        if pending.length == 0 || request_id.is_some_and(|named| *named != pending.request_id) {
            return false;
        }
        let before = pending.bytes;
        let Some(bytes) = before.get(..pending.length) else { return false };
        let Some(Record::Event(mut event)) = Record::decode(bytes) else { return false };
        event.learned = event.learned.amended(told);
        pending.length = Record::Event(event).encode(&mut pending.bytes);
        true
    })
}

fn release(moment: Moment) {
    // Held by nobody else: the callbacks run when no other code of ours does.
    let _ = PENDING.try_with(|pending| {
        let Ok(mut pending) = pending.try_borrow_mut() else { return };
        if pending.length == 0 {
            return;
        }
        let Pending { bytes, length, .. } = *pending;
        let place = pending.place.take();
        pending.length = 0;
        drop(pending);
        accept(bytes.get(..length).unwrap_or_default(), moment);
        if let Some((queue, _)) = worker_slot::place()
            && let Some(signals) = place.and_then(|place| queue.signals.get(place))
        {
            signals.pending.fetch_sub(1, SeqCst);
        }
    });
}

/// Sends an amendment after a record that has gone on. False where it can't be taken.
pub fn send(amendment: &[u8]) -> bool {
    let found = worker_slot::find_place();
    let is_taken = is_kept_here() && is_accepted(amendment, Moment::Running);
    if is_taken && let Some((queue, place)) = found {
        worker_slot::ensure(queue, place);
    }
    is_taken
}

/// Hands a record on, or counts it.
fn accept(record: &[u8], moment: Moment) {
    match worker_slot::place() {
        Some((queue, place)) if !is_kept_here() => {
            queue.count(place, |counters| counters.not_logged += 1);
        }
        _ if is_accepted(record, moment) => {}
        _ => drop_record(),
    }
}

/// Brings a record to where it is to wait: in shared memory or, where that is not
/// possible or not enough, in this backend until the transaction is about to commit.
fn is_accepted(record: &[u8], moment: Moment) -> bool {
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

/// Hands on what is held back, and writes what is to be written in place.
pub fn before_commit() {
    release(Moment::BeforeCommit);
    if !write_through::is_empty() && can_write() {
        write_through::write_at_commit();
    }
}

/// Records of a prepared transaction go on without it, as long as there is room: it may be
/// rolled back, and nothing here would notice that.
pub fn before_prepare() {
    release(Moment::BeforePrepare);
    if let Some((queue, place)) = worker_slot::place() {
        write_through::give_away(|record| queue.push(place, record));
    }
    if !write_through::is_empty() && can_write() {
        write_through::write_at_commit();
    }
}

/// All that is done when nothing may fail is to copy, and to count.
pub fn transaction_is_over(is_committed: bool) {
    release(Moment::Over);
    write_through::is_over(is_committed, |record| accept(record, Moment::Over));
}
