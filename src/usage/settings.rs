//! The settings of usage records. None may be SET by an ordinary user.

use crate::usage::store::rows;
use keysmith_core::conninfo;
use pg::call::{Call, sql_functions};
use pg::error::Result;
use pgrx::pg_sys::{self, Datum, GucContext, config_enum_entry};
use std::ffi::{CStr, c_char, c_void};
use std::ptr::null_mut;
use std::sync::atomic::{AtomicI32, AtomicPtr, Ordering::Relaxed};

sql_functions! {
    keysmith_usage_retention => usage_retention;
}

/// In kB. 32,000 requests: what comes in while the worker stores the batches before it,
/// and through a pause of a second at tens of thousands of requests a second. It is an
/// eighth of PostgreSQL's default for shared_buffers.
static BUFFER: AtomicI32 = AtomicI32::new(16 * 1024);

/// In ms. How old `last_used_at` may be and how much a crash can cost, against a
/// transaction, and the flush of its commit, each time.
static FLUSH_INTERVAL: AtomicI32 = AtomicI32::new(1000);

/// Large enough that a commit's cost is spread thin, and that a key's requests are counted
/// together; small enough to take a tenth of a second, so that nobody waits long for a
/// worker in the middle of one.
static BATCH_SIZE: AtomicI32 = AtomicI32::new(10_000);

/// By default nothing is lost that could be kept.
static OVERFLOW: AtomicI32 = AtomicI32::new(Overflow::WriteThrough as i32);

/// By default a decision waits for no disk.
static DURABILITY: AtomicI32 = AtomicI32::new(Durability::Async as i32);

/// In minutes. A quarter of a year: what an investigation usually needs. 0 keeps all.
static RETENTION: AtomicI32 = AtomicI32::new(90 * 24 * 60);

/// By default a standby sends its records to where its log comes from: nobody has to
/// name the primary twice, and what follows a new primary sends to it.
static CONNINFO: AtomicPtr<c_char> = AtomicPtr::new(null_mut());

/// The value of `keysmith.usage_conninfo` that has a standby send nothing.
pub const OFF: &str = "off";

/// How a standby reaches the primary; empty to use `primary_conninfo`.
pub fn conninfo() -> String {
    let value = CONNINFO.load(Relaxed);
    if value.is_null() {
        return String::new();
    }
    // SAFETY: PostgreSQL keeps a C string there.
    unsafe { CStr::from_ptr(value) }.to_string_lossy().into_owned()
}

/// Whether a standby sends at all.
pub fn is_sending(has_primary: bool) -> bool {
    let value = CONNINFO.load(Relaxed);
    // SAFETY: null, or a C string that PostgreSQL keeps.
    let chosen = unsafe { if value.is_null() { c"" } else { CStr::from_ptr(value) } };
    if chosen.is_empty() { has_primary } else { chosen.to_bytes() != OFF.as_bytes() }
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Overflow {
    WriteThrough,
    Drop,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    Async,
    Commit,
}

/// A choice of names, ended by an entry without one.
struct Choice([config_enum_entry; 3]);

// SAFETY: never changed; the names are static.
unsafe impl Sync for Choice {}

const fn entry(name: &'static CStr, value: i32) -> config_enum_entry {
    config_enum_entry { name: name.as_ptr(), val: value, hidden: false }
}

const END: config_enum_entry = config_enum_entry { name: std::ptr::null(), val: 0, hidden: false };

static OVERFLOWS: Choice = Choice([
    entry(c"write-through", Overflow::WriteThrough as i32),
    entry(c"drop", Overflow::Drop as i32),
    END,
]);

static DURABILITIES: Choice = Choice([
    entry(c"async", Durability::Async as i32),
    entry(c"commit", Durability::Commit as i32),
    END,
]);

/// Bytes of shared memory for events.
pub fn buffer() -> usize {
    usize::try_from(BUFFER.load(Relaxed)).unwrap_or_default() * 1024
}

/// Microseconds.
pub fn flush_interval() -> i64 {
    i64::from(FLUSH_INTERVAL.load(Relaxed)) * 1000
}

pub fn batch_size() -> u32 {
    BATCH_SIZE.load(Relaxed).unsigned_abs()
}

/// How long rows are kept, in microseconds; 0 for good.
pub fn retention() -> i64 {
    i64::from(RETENTION.load(Relaxed)) * 60_000_000
}

/// For SQL. `current_setting` would give what a session has set before the library was loaded.
fn usage_retention(_: &Call) -> Result<Option<Datum>> {
    Ok(Some(rows::interval(0, retention())))
}

pub fn writes_through() -> bool {
    OVERFLOW.load(Relaxed) == Overflow::WriteThrough as i32
}

pub fn is_durable() -> bool {
    DURABILITY.load(Relaxed) == Durability::Commit as i32
}

/// Monitoring reads all settings, those for superusers too, and so must not find a password.
/// PostgreSQL would log a value that is refused; the message is put in its place.
unsafe extern "C-unwind" fn is_without_secret(
    value: *mut *mut c_char,
    _extra: *mut *mut c_void,
    _source: pg_sys::GucSource::Type,
) -> bool {
    // SAFETY: PostgreSQL passes a place with null or a C string, and reads the texts, which are
    // static, only. Nothing in here allocates or raises an error.
    unsafe {
        let conninfo = if (*value).is_null() { c"" } else { CStr::from_ptr(*value) };
        let is_fit = !conninfo::holds_secret(conninfo.to_bytes());
        if !is_fit {
            pg_sys::GUC_check_errmsg_string =
                c"keysmith.usage_conninfo must hold no password".as_ptr().cast_mut();
            pg_sys::GUC_check_errhint_string =
                c"Put it into a file, and name that by passfile.".as_ptr().cast_mut();
        }
        is_fit
    }
}

struct Number {
    name: &'static CStr,
    description: &'static CStr,
    explanation: &'static CStr,
    place: &'static AtomicI32,
    least: i32,
    most: i32,
    context: GucContext::Type,
    unit: u32,
}

impl Number {
    /// # Safety
    /// As for `define`.
    unsafe fn define(self) {
        // SAFETY: all that is pointed to is static.
        unsafe {
            pg_sys::DefineCustomIntVariable(
                self.name.as_ptr(),
                self.description.as_ptr(),
                self.explanation.as_ptr(),
                self.place.as_ptr(),
                self.place.load(Relaxed),
                self.least,
                self.most,
                self.context,
                self.unit as i32,
                None,
                None,
                None,
            );
        }
    }
}

/// # Safety
/// Only from `_PG_init`.
pub unsafe fn define() {
    // SAFETY: all that is pointed to is static.
    unsafe {
        // Shared memory is sized once, by the postmaster.
        if pg_sys::process_shared_preload_libraries_in_progress {
            Number {
                name: c"keysmith.usage_buffer",
                description: c"Shared memory for usage records that wait to be stored.",
                explanation: c"A request takes 512 bytes until the worker has stored it.",
                place: &BUFFER,
                least: 64,
                most: 2 * 1024 * 1024 - 1,
                context: GucContext::PGC_POSTMASTER,
                unit: pg_sys::GUC_UNIT_KB,
            }
            .define();
        }
        Number {
            name: c"keysmith.usage_flush_interval",
            description: c"How long a usage record waits at most before it is stored.",
            explanation: c"The worker stores earlier where many records wait.",
            place: &FLUSH_INTERVAL,
            least: 10,
            most: 3_600_000,
            context: GucContext::PGC_SIGHUP,
            unit: pg_sys::GUC_UNIT_MS,
        }
        .define();
        Number {
            name: c"keysmith.usage_batch_size",
            description: c"How many usage records the worker stores in a transaction at most.",
            explanation: c"",
            place: &BATCH_SIZE,
            least: 1,
            most: 100_000,
            context: GucContext::PGC_SIGHUP,
            unit: 0,
        }
        .define();
        Number {
            name: c"keysmith.usage_retention",
            description: c"How long usage records are kept; 0 keeps them for good.",
            explanation: c"",
            place: &RETENTION,
            least: 0,
            most: 100 * 366 * 24 * 60,
            context: GucContext::PGC_SIGHUP,
            unit: pg_sys::GUC_UNIT_MIN,
        }
        .define();
        // A connection string leads out of the server.
        pg_sys::DefineCustomStringVariable(
            c"keysmith.usage_conninfo".as_ptr(),
            c"How a standby reaches the primary to hand over its usage records.".as_ptr(),
            c"Empty for primary_conninfo; off to send none.".as_ptr(),
            CONNINFO.as_ptr(),
            c"".as_ptr(),
            GucContext::PGC_SIGHUP,
            pg_sys::GUC_SUPERUSER_ONLY as i32,
            Some(is_without_secret),
            None,
            None,
        );
        pg_sys::DefineCustomEnumVariable(
            c"keysmith.usage_overflow".as_ptr(),
            c"What becomes of usage records for which there is no room.".as_ptr(),
            c"write-through has the transaction write them, if it can; drop counts them.".as_ptr(),
            OVERFLOW.as_ptr(),
            Overflow::WriteThrough as i32,
            OVERFLOWS.0.as_ptr(),
            GucContext::PGC_SUSET,
            0,
            None,
            None,
            None,
        );
        pg_sys::DefineCustomEnumVariable(
            c"keysmith.usage_durability".as_ptr(),
            c"Whether usage records are stored later, or by the transaction that made them."
                .as_ptr(),
            c"commit loses nothing of transactions that write and commit; it costs each a row."
                .as_ptr(),
            DURABILITY.as_ptr(),
            Durability::Async as i32,
            DURABILITIES.0.as_ptr(),
            GucContext::PGC_SUSET,
            0,
            None,
            None,
            None,
        );
    }
}
