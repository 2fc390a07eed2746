//! NOTIFY from within a commit, without the risk that it fails the commit.

use crate::{settings, text, transaction};
use pgrx::pg_sys::ffi::pg_guard_ffi_boundary;
use pgrx::pg_sys::{self, LOCKMODE, LOCKTAG, LockAcquireResult, LockTagType};
use std::ffi::c_char;
use std::thread::sleep;
use std::time::Duration;

/// The pages of the queue where the server has no setting for it, which is before 17.
const PAGES: f64 = 1_048_576.0;

/// How long to wait for others who send, in milliseconds.
const LONGEST_WAIT: u32 = 500;

unsafe extern "C-unwind" {
    fn Async_Notify(channel: *const c_char, payload: *const c_char);
}

/// Has only this transaction add to the queue of notifications, until it ends. A commit that sends takes
/// the same lock. False if another transaction keeps it.
pub fn keep_queue() -> bool {
    transaction::must_be_in_progress();
    let tag = LOCKTAG {
        locktag_field1: 0,
        locktag_field2: pg_sys::DatabaseRelationId.to_u32(),
        locktag_field3: 0,
        locktag_field4: 0,
        locktag_type: LockTagType::LOCKTAG_OBJECT as u8,
        locktag_lockmethodid: pg_sys::DEFAULT_LOCKMETHOD as u8,
    };
    let mode = pg_sys::AccessExclusiveLock as LOCKMODE;
    for _ in 0..LONGEST_WAIT {
        // SAFETY: inside a transaction, whose end releases the lock.
        let taken = unsafe { pg_sys::LockAcquire(&tag, mode, false, true) };
        if taken != LockAcquireResult::LOCKACQUIRE_NOT_AVAIL {
            return true;
        }
        sleep(Duration::from_millis(1));
    }
    false
}

/// The part of the queue that is in use, and the size of the queue in bytes.
pub fn queue() -> (f64, f64) {
    // SAFETY: the function takes no arguments and returns a double.
    let used =
        unsafe { pgrx::direct_function_call::<f64>(pg_sys::pg_notification_queue_usage, &[]) };
    let pages = settings::custom(c"max_notify_queue_pages");
    let pages = pages.and_then(|pages| pages.to_str().ok()?.parse().ok());
    (used.unwrap_or(1.0), pages.unwrap_or(PAGES) * f64::from(pg_sys::BLCKSZ))
}

/// The longest payload, and the longest name of a channel, in bytes.
const MOST_PAYLOAD: usize = 7_999;
const MOST_CHANNEL: usize = 63;

/// Sends a notification when the transaction commits. False if PostgreSQL would refuse its texts.
pub fn send(channel: &str, payload: &str) -> bool {
    let (channel, payload) = (text::to_server(channel), text::to_server(payload));
    let length = channel.count_bytes();
    if !(1..=MOST_CHANNEL).contains(&length) || payload.count_bytes() > MOST_PAYLOAD {
        return false;
    }
    transaction::must_be_in_progress();
    let (channel, payload) = (channel.as_ptr(), payload.as_ptr());
    // SAFETY: both texts end with a NUL and live through the call, which copies them.
    unsafe { pg_guard_ffi_boundary(|| Async_Notify(channel, payload)) };
    true
}
