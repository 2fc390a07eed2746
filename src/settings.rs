//! Settings. None that a session may SET weakens anything.

use pg::settings::{About, Context, Integer, Text, is_preloading};
use pgrx::pg_sys;

/// The file with the peppers; empty for none, which is the default: an installation
/// works at once, and a pepper can be added at any time. The setting exists only
/// where the library is preloaded, and takes a restart. A session that loads the
/// library itself could bring a value of its own.
static PEPPER_FILE: Text = Text::new(
    About {
        name: c"keysmith.pepper_file",
        description: c"File outside the data directory with the peppers of key digests.",
        explanation: c"One line a generation, number:hex. Empty means none. Read at the start.",
        context: Context::Postmaster,
        flags: pg_sys::GUC_SUPERUSER_ONLY,
    },
    c"",
);

/// How many rate limits can be under way at once: those that had a call within the time
/// that they take to be unused again. The default takes less than 5 MB, and serves tens
/// of thousands of keys with a limit each.
static MAX_BUCKETS: Integer = Integer::new(
    About {
        name: c"keysmith.max_buckets",
        description: c"Most rate limits that can be under way at once.",
        explanation: c"Each takes some 70 bytes of shared memory. When there is no room, calls \
                       that would need some are refused.",
        context: Context::Postmaster,
        flags: 0,
    },
    65_536,
    16,
    16 * 1024 * 1024,
);

/// How many keys the server remembers the place of, so that decisions about them need
/// no index. The default takes 20 MB, and has room for some 130,000 keys in use; what does
/// not fit is looked up as every row is.
static DIRECTORY_SIZE: Integer = Integer::new(
    About {
        name: c"keysmith.directory_size",
        description: c"Number of keys whose place in the table is remembered.",
        explanation: c"Each takes 80 bytes of shared memory. 0 has every key looked up by the \
                       index.",
        context: Context::Postmaster,
        flags: 0,
    },
    262_144,
    0,
    16 * 1024 * 1024,
);

/// From half on, PostgreSQL itself warns in its log of who does not read notifications.
static EVENT_QUEUE_LIMIT: Integer = Integer::new(
    About {
        name: c"keysmith.event_queue_limit",
        description: c"How full the queue of notifications may be for events to be sent, in \
                       percent.",
        explanation: c"Above it events are left out, and counted, so that no act fails at its \
                       commit for want of room in the queue.",
        context: Context::Superuser,
        flags: 0,
    },
    50,
    0,
    100,
);

/// A commit of acts locks the audit's chain for the time that it takes to number and seal
/// them, and others wait.
static MAX_ACTS: Integer = Integer::new(
    About {
        name: c"keysmith.max_acts",
        description: c"Most acts of management that one transaction may hold.",
        explanation: c"Others who manage the same keyspace wait while its commit writes them to \
                       the audit.",
        context: Context::Superuser,
        flags: 0,
    },
    100_000,
    1,
    10_000_000,
);

static SPEND_TIMEOUT: Integer = Integer::new(
    About {
        name: c"keysmith.spend_timeout",
        description: c"How long a decision waits for credits that another transaction is \
                       spending.",
        explanation: c"Then it refuses. 0 has it refuse at once.",
        context: Context::Superuser,
        flags: pg_sys::GUC_UNIT_MS,
    },
    1_000,
    0,
    3_600_000,
);

pub fn pepper_file() -> Option<String> {
    Some(PEPPER_FILE.get()).filter(|path| !path.is_empty())
}

pub fn max_buckets() -> i32 {
    MAX_BUCKETS.get()
}

pub fn directory_size() -> i32 {
    DIRECTORY_SIZE.get()
}

/// In percent.
pub fn event_queue_limit() -> i32 {
    EVENT_QUEUE_LIMIT.get()
}

pub fn max_acts() -> usize {
    usize::try_from(MAX_ACTS.get()).unwrap_or_default()
}

/// In milliseconds.
pub fn spend_timeout() -> i32 {
    SPEND_TIMEOUT.get()
}

pub fn define() {
    if is_preloading() {
        PEPPER_FILE.define();
        MAX_BUCKETS.define();
        DIRECTORY_SIZE.define();
    }
    EVENT_QUEUE_LIMIT.define();
    MAX_ACTS.define();
    SPEND_TIMEOUT.define();
}
