//! Settings. No setting that an ordinary session may SET weakens a check.

use pg::settings::{About, Context, Integer, is_preloading};
use pgrx::pg_sys;

/// The greatest number of rate limits that are in use at the same time. A limit is in use if it had
/// a call within the time that it takes to be full again. The default takes less than 5 MB, and
/// serves tens of thousands of keys with one limit each.
static MAX_BUCKETS: Integer = Integer::new(
    About {
        name: c"keysmith.max_buckets",
        description: c"The greatest number of rate limits that are in use at the same time.",
        explanation:
            c"Each takes some 70 bytes of shared memory. Without room, calls of keys with \
                       limits are refused.",
        context: Context::Postmaster,
        flags: 0,
    },
    65_536,
    16,
    16 * 1024 * 1024,
);

/// An address needs room until all its failed attempts have come back.
static MAX_FAILING_ADDRESSES: Integer = Integer::new(
    About {
        name: c"keysmith.max_failing_addresses",
        description: c"The greatest number of addresses whose failed attempts are counted.",
        explanation: c"Each takes some 70 bytes of shared memory. Without room, failed attempts \
                       are refused and not counted.",
        context: Context::Postmaster,
        flags: 0,
    },
    16_384,
    16,
    16 * 1024 * 1024,
);

/// The greatest number of requests with weights that can still be settled. Without room, the oldest is
/// forgotten. The default takes less than 5 MB.
static MAX_UNSETTLED: Integer = Integer::new(
    About {
        name: c"keysmith.max_unsettled",
        description: c"The greatest number of requests with weights that settle can still charge.",
        explanation: c"Each takes some 600 bytes of shared memory. Without room, the oldest is \
                       forgotten.",
        context: Context::Postmaster,
        flags: 0,
    },
    8_192,
    0,
    4 * 1024 * 1024,
);

/// The number of keys whose place in the table the server caches, so that decisions about them need
/// no index. The default takes 20 MB, and holds about 130,000 keys in use. Other keys are found by
/// the index.
static DIRECTORY_SIZE: Integer = Integer::new(
    About {
        name: c"keysmith.directory_size",
        description: c"The number of keys whose places in the tables the server remembers.",
        explanation: c"Each takes 80 bytes of shared memory. With 0, every key is looked up in \
                       the index.",
        context: Context::Postmaster,
        flags: 0,
    },
    262_144,
    0,
    16 * 1024 * 1024,
);

/// From 50 percent on, PostgreSQL warns in its log about the session that does not read its
/// notifications.
static EVENT_QUEUE_LIMIT: Integer = Integer::new(
    About {
        name: c"keysmith.event_queue_limit",
        description: c"The percentage of the queue of notifications up to which events are sent.",
        explanation:
            c"Above it events are omitted and counted, so that a commit never fails because \
                       the queue is full.",
        context: Context::Superuser,
        flags: 0,
    },
    50,
    0,
    100,
);

/// A commit locks the audit's chain while it numbers and seals its acts, and other commits wait.
static MAX_ACTS: Integer = Integer::new(
    About {
        name: c"keysmith.max_acts",
        description: c"The greatest number of acts of management in one transaction.",
        explanation: c"While its commit writes them to the audit, others who manage the same \
                       keyspace wait.",
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
        explanation: c"Then it refuses the request. With 0 it does not wait.",
        context: Context::Superuser,
        flags: pg_sys::GUC_UNIT_MS,
    },
    1_000,
    0,
    3_600_000,
);

pub fn max_buckets() -> i32 {
    MAX_BUCKETS.get()
}

pub fn max_failing_addresses() -> i32 {
    MAX_FAILING_ADDRESSES.get()
}

pub fn max_unsettled() -> i32 {
    MAX_UNSETTLED.get()
}

pub fn directory_size() -> i32 {
    DIRECTORY_SIZE.get()
}

/// The setting in percent.
pub fn event_queue_limit() -> i32 {
    EVENT_QUEUE_LIMIT.get()
}

pub fn max_acts() -> usize {
    usize::try_from(MAX_ACTS.get()).unwrap_or_default()
}

/// The setting in milliseconds.
pub fn spend_timeout() -> i32 {
    SPEND_TIMEOUT.get()
}

pub fn define() {
    if is_preloading() {
        MAX_BUCKETS.define();
        MAX_FAILING_ADDRESSES.define();
        MAX_UNSETTLED.define();
        DIRECTORY_SIZE.define();
    }
    EVENT_QUEUE_LIMIT.define();
    MAX_ACTS.define();
    SPEND_TIMEOUT.define();
}
