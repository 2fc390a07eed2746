//! Settings. None that a session may SET weakens anything.

use crate::calls::pre_request_settings;
use crate::lag;
use crate::usage::settings;
use pgrx::pg_sys;
use std::ffi::{CStr, c_char};
use std::ptr::null_mut;
use std::sync::atomic::{AtomicI32, AtomicPtr, Ordering::Relaxed};

/// Where PostgreSQL keeps the value of `keysmith.pepper_file`.
static PEPPER_FILE: AtomicPtr<c_char> = AtomicPtr::new(null_mut());

/// The file with the peppers; empty for none, which is the default: an installation
/// works at once, and a pepper can be added at any time. The setting exists only
/// where the library is preloaded, and takes a restart. A session that loads the
/// library itself could bring a value of its own.
pub fn pepper_file() -> Option<String> {
    let value = PEPPER_FILE.load(Relaxed);
    if value.is_null() {
        return None;
    }
    // SAFETY: PostgreSQL keeps a C string there.
    let path = unsafe { CStr::from_ptr(value) }.to_string_lossy().into_owned();
    (!path.is_empty()).then_some(path)
}

/// Where PostgreSQL keeps the value of `keysmith.max_buckets`.
static MAX_BUCKETS: AtomicI32 = AtomicI32::new(65_536);

/// How many rate limits can be under way at once: those that had a call within the time
/// that they take to be unused again. The default takes less than 5 MB, and serves tens
/// of thousands of keys with a limit each.
pub fn max_buckets() -> i32 {
    MAX_BUCKETS.load(Relaxed)
}

/// Where PostgreSQL keeps the value of `keysmith.directory_size`.
static DIRECTORY_SIZE: AtomicI32 = AtomicI32::new(262_144);

/// How many keys the server remembers the place of, so that decisions about them need
/// no index. The default takes 20 MB, and has room for some 130,000 keys in use; what does
/// not fit is looked up as every row is.
pub fn directory_size() -> i32 {
    DIRECTORY_SIZE.load(Relaxed)
}

/// Where PostgreSQL keeps the value of `keysmith.event_queue_limit`.
static EVENT_QUEUE_LIMIT: AtomicI32 = AtomicI32::new(50);

/// How full the queue of notifications may be for events to be sent, in percent. From half
/// on, PostgreSQL itself warns in its log of who does not read them.
pub fn event_queue_limit() -> i32 {
    EVENT_QUEUE_LIMIT.load(Relaxed)
}

/// Where PostgreSQL keeps the value of `keysmith.max_acts`.
static MAX_ACTS: AtomicI32 = AtomicI32::new(100_000);

/// How many acts of management one transaction may hold. Its commit locks the audit's
/// chain for the time that it takes to number and seal them, and others wait.
pub fn max_acts() -> usize {
    usize::try_from(MAX_ACTS.load(Relaxed)).unwrap_or_default()
}

/// Where PostgreSQL keeps the value of `keysmith.spend_timeout`.
static SPEND_TIMEOUT: AtomicI32 = AtomicI32::new(1_000);

/// How many milliseconds a decision waits for another transaction that holds the credits
/// which it is to spend.
pub fn spend_timeout() -> i32 {
    SPEND_TIMEOUT.load(Relaxed)
}

pub fn define() {
    // SAFETY: called from _PG_init; all strings are static, and so is the place of
    // the value.
    unsafe {
        if pg_sys::process_shared_preload_libraries_in_progress {
            pg_sys::DefineCustomStringVariable(
                c"keysmith.pepper_file".as_ptr(),
                c"File outside the data directory with the peppers of key digests.".as_ptr(),
                c"One line a generation, number:hex. Empty means none. Read at the start.".as_ptr(),
                PEPPER_FILE.as_ptr(),
                c"".as_ptr(),
                pg_sys::GucContext::PGC_POSTMASTER,
                pg_sys::GUC_SUPERUSER_ONLY as i32,
                None,
                None,
                None,
            );
            pg_sys::DefineCustomIntVariable(
                c"keysmith.max_buckets".as_ptr(),
                c"Most rate limits that can be under way at once.".as_ptr(),
                c"Each takes some 70 bytes of shared memory. When there is no room, calls that \
                  would need some are refused."
                    .as_ptr(),
                MAX_BUCKETS.as_ptr(),
                65_536,
                16,
                16 * 1024 * 1024,
                pg_sys::GucContext::PGC_POSTMASTER,
                0,
                None,
                None,
                None,
            );
            pg_sys::DefineCustomIntVariable(
                c"keysmith.directory_size".as_ptr(),
                c"Number of keys whose place in the table is remembered.".as_ptr(),
                c"Each takes 80 bytes of shared memory. 0 has every key looked up by the index."
                    .as_ptr(),
                DIRECTORY_SIZE.as_ptr(),
                262_144,
                0,
                16 * 1024 * 1024,
                pg_sys::GucContext::PGC_POSTMASTER,
                0,
                None,
                None,
                None,
            );
        }
        pg_sys::DefineCustomIntVariable(
            c"keysmith.event_queue_limit".as_ptr(),
            c"How full the queue of notifications may be for events to be sent, in percent."
                .as_ptr(),
            c"Above it events are left out, and counted, so that no act fails at its commit for \
              want of room in the queue."
                .as_ptr(),
            EVENT_QUEUE_LIMIT.as_ptr(),
            50,
            0,
            100,
            pg_sys::GucContext::PGC_SUSET,
            0,
            None,
            None,
            None,
        );
        pg_sys::DefineCustomIntVariable(
            c"keysmith.max_acts".as_ptr(),
            c"Most acts of management that one transaction may hold.".as_ptr(),
            c"Others who manage the same keyspace wait while its commit writes them to the audit."
                .as_ptr(),
            MAX_ACTS.as_ptr(),
            100_000,
            1,
            10_000_000,
            pg_sys::GucContext::PGC_SUSET,
            0,
            None,
            None,
            None,
        );
        pg_sys::DefineCustomIntVariable(
            c"keysmith.spend_timeout".as_ptr(),
            c"How long a decision waits for credits that another transaction is spending.".as_ptr(),
            c"Then it refuses. 0 has it refuse at once.".as_ptr(),
            SPEND_TIMEOUT.as_ptr(),
            1_000,
            0,
            3_600_000,
            pg_sys::GucContext::PGC_SUSET,
            pg_sys::GUC_UNIT_MS as i32,
            None,
            None,
            None,
        );
        settings::define();
        pre_request_settings::define();
        if pg_sys::process_shared_preload_libraries_in_progress {
            lag::install();
        }
        pg_sys::MarkGUCPrefixReserved(c"keysmith".as_ptr());
    }
}
