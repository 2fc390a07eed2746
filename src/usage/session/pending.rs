//! The newest record. It is pending until its transaction ends or the next decision comes, so that
//! `log_request` can complete it. The request happened, so its record goes on whether the
//! transaction commits, aborts or is prepared.

use crate::usage::session::overflow::{Moment, accept, can_write, is_accepted, is_kept_here};
use crate::usage::session::worker_slot;
use crate::usage::session::write_through;
use keysmith_core::event::{Learned, MAX_LEN, Record};
use std::cell::RefCell;

struct Pending {
    request_id: [u8; 16],
    /// 0 if no record is pending.
    length: usize,
    bytes: [u8; MAX_LEN],
    /// The place of the database, if its worker was told to wait for the record.
    place: Option<usize>,
}

thread_local! {
    static PENDING: RefCell<Pending> = const {
        RefCell::new(Pending { request_id: [0; 16], length: 0, bytes: [0; MAX_LEN], place: None })
    };
}

/// Makes a record pending. The one before it goes on.
#[inline(always)]
pub fn put(request_id: &[u8; 16], record: &[u8]) {
    let found = worker_slot::find_place();
    hand_on();
    PENDING.with_borrow_mut(|pending| {
        if let Some(place) = pending.bytes.get_mut(..record.len()) {
            place.copy_from_slice(record);
            pending.length = record.len();
            pending.request_id = *request_id;
            pending.place = None;
        }
        // The worker stays while it knows of the record.
        if let Some((queue, place)) = found
            && is_kept_here()
        {
            pending.place = worker_slot::retain(queue, place);
            worker_slot::ensure(queue, place);
        }
    });
}

/// Hands on the pending record, in the middle of a transaction.
pub fn hand_on() {
    release(Moment::Running);
}

/// Amends the pending record, if it is that of the request, or if no request is named.
pub fn amend(request_id: Option<&[u8; 16]>, told: Learned) -> bool {
    PENDING.with_borrow_mut(|pending| {
        if pending.length == 0 || request_id.is_some_and(|named| *named != pending.request_id) {
            return false;
        }
        let before = pending.bytes;
        let Some(bytes) = before.get(..pending.length) else { return false };
        let Some(Record::Event(mut event)) = Record::decode(bytes) else { return false };
        let weights = event.learned.merged_weights(&told);
        event.learned = event.learned.amended(told);
        event.learned.weights = weights.as_deref().or(event.learned.weights);
        pending.length = Record::Event(event).encode(&mut pending.bytes);
        true
    })
}

fn release(moment: Moment) {
    // It is not borrowed: the callbacks run when no other code of this extension does.
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
        if let Some(place) = place {
            worker_slot::release(place);
        }
    });
}

/// Sends an amendment after a record that has gone on. False if it is not accepted.
pub fn send(amendment: &[u8]) -> bool {
    let found = worker_slot::find_place();
    let is_taken = is_kept_here() && is_accepted(amendment, Moment::Running);
    if is_taken && let Some((queue, place)) = found {
        worker_slot::ensure(queue, place);
    }
    is_taken
}

/// Hands on the pending record, and writes what is to be written through.
pub fn before_commit() {
    release(Moment::BeforeCommit);
    if !write_through::is_empty() && can_write() {
        write_through::write_at_commit();
    }
}

/// Records of a prepared transaction go to the queue if there is room: it may be rolled back,
/// and nothing here would notice that.
pub fn before_prepare() {
    release(Moment::BeforePrepare);
    if let Some((queue, place)) = worker_slot::place() {
        write_through::give_away(|record| queue.push(place, record));
    }
    if !write_through::is_empty() && can_write() {
        write_through::write_at_commit();
    }
}

/// Nothing may fail here: records are copied and counted, and that is all.
pub fn transaction_is_over(is_committed: bool) {
    release(Moment::Over);
    write_through::is_over(is_committed, |record| accept(record, Moment::Over));
}
