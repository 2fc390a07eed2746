//! The settings of usage records. None may be SET by an ordinary user.

use keysmith_core::conninfo;
use keysmith_core::refill::Every;
use pg::call::{Call, sql_functions};
use pg::clock;
use pg::error::Result;
use pg::settings::{About, Check, Choice, Context, Integer, SettingProblem, Text, is_preloading};
use pgrx::pg_sys::{self, Datum};
use std::ffi::CStr;

sql_functions! {
    keysmith_usage_kept_from => usage_kept_from;
}

/// In kB. 32,000 requests: what comes in while the worker stores the batches before it,
/// and through a pause of a second at tens of thousands of requests a second. It is an
/// eighth of PostgreSQL's default for shared_buffers.
static BUFFER: Integer = Integer::new(
    About {
        name: c"keysmith.usage_buffer",
        description: c"Shared memory for usage records that wait to be stored.",
        explanation: c"A request takes 512 bytes until the worker has stored it, and more if it has long tags.",
        context: Context::Postmaster,
        flags: pg_sys::GUC_UNIT_KB,
    },
    64 * 1024,
    64,
    2 * 1024 * 1024 - 1,
);

/// In ms. How old `last_used_at` may be and how much a crash can cost, against a
/// transaction, and the flush of its commit, each time.
static FLUSH_INTERVAL: Integer = Integer::new(
    About {
        name: c"keysmith.usage_flush_interval",
        description: c"The longest time that a usage record waits before it is stored.",
        explanation: c"The worker stores earlier if many records wait.",
        context: Context::Reload,
        flags: pg_sys::GUC_UNIT_MS,
    },
    1000,
    10,
    3_600_000,
);

/// Large enough that a commit's cost is spread thin, and that a key's requests are counted
/// together; small enough to take a third of a second, so that nobody waits long for a
/// worker in the middle of one.
static BATCH_SIZE: Integer = Integer::new(
    About {
        name: c"keysmith.usage_batch_size",
        description:
            c"The greatest number of usage records that the worker stores in one transaction.",
        explanation: c"",
        context: Context::Reload,
        flags: 0,
    },
    50_000,
    1,
    100_000,
);

/// In minutes. A quarter of a year: what an investigation usually needs.
static RETENTION: Integer = Integer::new(
    About {
        name: c"keysmith.usage_retention",
        description: c"How long usage records are kept; 0 keeps them forever.",
        explanation: c"",
        context: Context::Reload,
        flags: pg_sys::GUC_UNIT_MIN,
    },
    90 * 24 * 60,
    0,
    100 * 366 * 24 * 60,
);

/// By default a standby sends its records to where its log comes from: nobody has to
/// name the primary twice, and what follows a new primary sends to it. A connection string
/// leads out of the server, so superusers alone see it.
static CONNINFO: Text<WithoutSecret> = Text::new(
    About {
        name: c"keysmith.usage_conninfo",
        description:
            c"How a standby or subscriber reaches the server that stores its usage records.",
        explanation:
            c"Empty for primary_conninfo or that of the subscription; off to send no records.",
        context: Context::Reload,
        flags: pg_sys::GUC_SUPERUSER_ONLY,
    },
    c"",
);

/// By default nothing is lost that could be kept.
static OVERFLOW: Choice = Choice::new(
    About {
        name: c"keysmith.usage_overflow",
        description: c"How usage records are handled when the buffer has no room.",
        explanation:
            c"write-through: the transaction writes them, if it can; drop: they are counted.",
        context: Context::Superuser,
        flags: 0,
    },
    [c"write-through", c"drop"],
);

/// By default a decision waits for no disk.
static DURABILITY: Choice = Choice::new(
    About {
        name: c"keysmith.usage_durability",
        description: c"Whether usage records are stored later, or by the transaction that made \
                       them.",
        explanation:
            c"commit: the transaction writes a row for each request; async: the worker does, \
                       and a crash can lose records.",
        context: Context::Superuser,
        flags: 0,
    },
    [c"async", c"commit"],
);

/// Monitoring reads all settings, those for superusers too, and so must not find a password.
/// PostgreSQL would log a value that is refused; the message is put in its place.
struct WithoutSecret;

impl Check for WithoutSecret {
    fn problem(value: &CStr) -> Option<SettingProblem> {
        conninfo::holds_secret(value.to_bytes()).then_some(SettingProblem {
            message: Some(c"keysmith.usage_conninfo must hold no password"),
            detail: None,
            hint: Some(c"Put it into a file, and name that by passfile."),
        })
    }
}

/// The value of `keysmith.usage_conninfo` that has a standby send nothing.
const OFF: &str = "off";

/// How a standby reaches the primary; empty to use `primary_conninfo`.
pub fn conninfo() -> String {
    CONNINFO.get()
}

/// Whether a standby sends at all. Asked for each request on a standby.
pub fn is_sending() -> bool {
    CONNINFO.with(|chosen| chosen.to_bytes() != OFF.as_bytes())
}

/// Bytes of shared memory for events.
pub fn buffer() -> usize {
    usize::try_from(BUFFER.get()).unwrap_or_default() * 1024
}

/// Microseconds.
pub fn flush_interval() -> i64 {
    i64::from(FLUSH_INTERVAL.get()) * 1000
}

pub fn batch_size() -> u32 {
    BATCH_SIZE.get().unsigned_abs()
}

/// The time from which on records are kept: the beginning of a day in UTC, since partitions are
/// dropped as a whole. PostgreSQL's `-infinity` if all are kept.
pub fn kept_from() -> i64 {
    match i64::from(RETENTION.get()) {
        0 => i64::MIN,
        minutes => Every::Day.begin(clock::now() - minutes * 60_000_000),
    }
}

/// For SQL. `current_setting` would give what a session has set before the library was loaded.
fn usage_kept_from(_: &Call) -> Result<Option<Datum>> {
    Ok(Some(Datum::from(kept_from())))
}

pub fn writes_through() -> bool {
    OVERFLOW.is_the_first()
}

pub fn is_durable() -> bool {
    !DURABILITY.is_the_first()
}

pub fn define() {
    // Shared memory is sized once, by the postmaster.
    if is_preloading() {
        BUFFER.define();
    }
    FLUSH_INTERVAL.define();
    BATCH_SIZE.define();
    RETENTION.define();
    CONNINFO.define();
    OVERFLOW.define();
    DURABILITY.define();
}
