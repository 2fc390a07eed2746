//! The background worker of a database: started by its first event, gone when there
//! have been none for a while, and never in anybody's way.

use super::apart;
use super::flush::{Flusher, Outcome, extension_exists, now};
use super::presence::{self, ABSENT, RUNNING, STARTING};
use super::ring::{Ring, ring};
use super::sender::{End, Sender};
use super::settings;
use pgrx::pg_sys::{self, Datum};
use std::ffi::{CStr, c_int};
use std::ptr::null_mut;
use std::sync::atomic::Ordering::SeqCst;

/// How often to see whether someone wants the database for himself, in microseconds.
pub const LOOKS_AROUND: i64 = 500_000;
const MAINTAINS: i64 = 60_000_000;
/// Requests without a known key are stored less often: a flood of them costs little.
pub const STORES_UNKNOWN: i64 = 5_000_000;
/// Idle for as many flush intervals, it goes. PostgreSQL has eight processes for all
/// workers by default.
const IDLE_INTERVALS: i64 = 10;
/// How long others are thought to want a process after they got none, in microseconds.
const STARVED_FOR: i64 = 5_000_000;

/// How long a stopping server's worker waits for the other backends' last records.
const WAITS_FOR_OTHERS: i64 = 3_000_000;
const WAITS_FOR_HELD: i64 = 10_000_000;
/// How often to try at least: the signal itself may have cut an attempt off.
const LAST_TRIES: u32 = 3;

/// The entry of the worker; its argument is the database's oid.
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn keysmith_usage_worker(argument: Datum) {
    // SAFETY: nothing else is on this frame; an error ends the process.
    unsafe { pg_sys::panic::pgrx_extern_c_guard(|| work(argument.value() as u32)) }
}

/// Ends the current work, which is tried again, and then the worker: see `shut_down`.
unsafe extern "C-unwind" fn on_sigterm(_signal: c_int) {
    // SAFETY: flags for signal handlers, and our own latch.
    unsafe {
        pg_sys::ShutdownRequestPending = 1;
        pg_sys::QueryCancelPending = 1;
        pg_sys::InterruptPending = 1;
        pg_sys::SetLatch(pg_sys::MyLatch);
    }
}

unsafe extern "C-unwind" fn on_sighup(_signal: c_int) {
    // SAFETY: a flag for signal handlers, and our own latch.
    unsafe {
        pg_sys::ConfigReloadPending = 1;
        pg_sys::SetLatch(pg_sys::MyLatch);
    }
}

/// Gives the place up when the process ends, however it does.
unsafe extern "C-unwind" fn at_exit(_code: c_int, place: Datum) {
    let place = place.value();
    let Some(ring) = ring() else { return };
    // SAFETY: set when the process started.
    let pid = unsafe { pg_sys::MyProcPid };
    ring.with(place, |database| {
        if database.worker.pid == pid {
            database.worker.pid = 0;
            database.worker.latch = null_mut();
            if let Some(signals) = ring.signals.get(place)
                && signals.worker.load(SeqCst) == RUNNING
            {
                signals.worker.store(ABSENT, SeqCst);
            }
        }
    });
}

fn work(oid: u32) {
    let Some(ring) = ring() else { return };
    // SAFETY: what background workers do first.
    unsafe {
        pg_sys::pqsignal(pg_sys::SIGTERM as c_int, Some(on_sigterm));
        pg_sys::pqsignal(pg_sys::SIGHUP as c_int, Some(on_sighup));
        pg_sys::BackgroundWorkerUnblockSignals();
        pg_sys::BackgroundWorkerInitializeConnectionByOid(
            oid.into(),
            pg_sys::Oid::INVALID,
            pg_sys::BGWORKER_BYPASS_ALLOWCONN,
        );
    }
    let Some(place) = ring.place_of(oid) else { return };
    let is_alone = ring.with(place, |database| {
        let is_alone = database.worker.pid == 0;
        if is_alone && let Some(signals) = ring.signals.get(place) {
            // SAFETY: both are set for as long as the process lives.
            unsafe {
                database.worker.pid = pg_sys::MyProcPid;
                database.worker.latch = pg_sys::MyLatch;
            }
            database.worker.since = now();
            signals.worker.store(RUNNING, SeqCst);
        }
        is_alone
    });
    if is_alone != Some(true) {
        return;
    }
    // SAFETY: the callback lives as long as the library.
    unsafe { pg_sys::before_shmem_exit(Some(at_exit), Datum::from(place)) };
    be_independent();
    // SAFETY: asks for the server's state.
    let is_standby = unsafe { pg_sys::RecoveryInProgress() };
    if is_standby && Sender::new(ring, place).run() == End::Leaves {
        return;
    }
    Worker::new(Flusher::new(ring, place, oid)).run();
}

/// What databases and roles are set to must not change how the worker works.
fn be_independent() {
    const SETTINGS: [(&CStr, &CStr); 9] = [
        (c"search_path", c"pg_catalog, pg_temp"),
        (c"default_transaction_read_only", c"off"),
        (c"default_transaction_isolation", c"read committed"),
        (c"session_replication_role", c"origin"),
        (c"row_security", c"on"),
        (c"statement_timeout", c"0"),
        (c"idle_in_transaction_session_timeout", c"0"),
        // Nobody is kept waiting long by a worker that waits for somebody else.
        (c"lock_timeout", c"2s"),
        // What is stored leaves the ring: it must be on disk. Standbys may lag.
        (c"synchronous_commit", c"local"),
    ];
    for (name, value) in SETTINGS {
        // SAFETY: settings of PostgreSQL's, in a process of ours.
        unsafe {
            pg_sys::SetConfigOption(
                name.as_ptr(),
                value.as_ptr(),
                pg_sys::GucContext::PGC_SUSET,
                pg_sys::GucSource::PGC_S_OVERRIDE,
            );
        }
    }
}

struct Worker {
    flusher: Flusher,
    is_open: bool,
    flushed_at: i64,
    unknown_at: i64,
    maintained_at: i64,
    /// Whether something was, since.
    has_stored: bool,
    busy_at: i64,
}

impl Worker {
    fn new(flusher: Flusher) -> Worker {
        let start = now();
        Worker {
            flusher,
            is_open: false,
            flushed_at: 0,
            unknown_at: 0,
            maintained_at: start,
            has_stored: false,
            busy_at: start,
        }
    }

    fn run(&mut self) {
        loop {
            attend();
            if shutdown_requested() {
                return self.shut_down();
            }
            if self.is_wanted_gone() {
                return self.make_way();
            }
            if !self.is_open && self.flusher.may_try() && !self.open() {
                return;
            }
            if self.is_open {
                self.flush_if_due();
                if now() - self.maintained_at >= MAINTAINS {
                    self.maintain();
                }
            }
            if now() - self.busy_at >= self.patience() && self.leave() {
                return;
            }
            self.wait();
        }
    }

    /// Makes all ready for the first batch. False if there is nothing to be done here.
    fn open(&mut self) -> bool {
        if !extension_exists() {
            self.flusher.discard();
            return !self.leave();
        }
        self.flusher.prepare();
        match self.flusher.open() {
            Ok(()) => {
                self.is_open = true;
                if let Err(message) = apart::store() {
                    self.flusher.remember(&message);
                }
            }
            Err(failure) => self.flusher.could_not(&failure),
        }
        true
    }

    fn flush_if_due(&mut self) {
        let Some((count, is_asked)) =
            self.flusher.ring.with(self.flusher.place, |d| (d.count, d.worker.asked))
        else {
            return;
        };
        let is_due = now() - self.flushed_at >= settings::flush_interval()
            || (self.flusher.has_failed() && self.flusher.may_try());
        if (count > 0 && is_due) || is_asked || self.flusher.is_worth_it(count) {
            self.flusher.ring.with(self.flusher.place, |d| d.worker.asked = false);
            self.flushed_at = now();
            self.drain();
        }
        if is_asked || now() - self.unknown_at >= STORES_UNKNOWN {
            self.unknown_at = now();
            if self.flusher.unknown() == Outcome::Stored {
                self.busy_at = now();
            }
        }
    }

    fn maintain(&mut self) {
        self.maintained_at = now();
        self.has_stored = false;
        if self.still_has_extension() {
            self.flusher.maintain();
        }
    }

    /// Batch after batch, as long as nobody minds.
    fn drain(&mut self) {
        while self.flusher.may_try() && !shutdown_requested() && !self.is_wanted_gone() {
            match self.flusher.batch() {
                Outcome::Empty => return,
                Outcome::Stored => {
                    self.busy_at = now();
                    self.has_stored = true;
                }
                Outcome::Failed => {
                    self.busy_at = now();
                    if !self.still_has_extension() {
                        return;
                    }
                }
            }
            attend();
        }
    }

    /// Throws away what is there if the extension is gone.
    fn still_has_extension(&mut self) -> bool {
        if !extension_exists() {
            self.flusher.discard();
            self.is_open = false;
        }
        self.is_open
    }

    /// How long to stay with nothing to do: not at all where other databases wait for a
    /// process.
    fn patience(&self) -> i64 {
        if now() - self.flusher.ring.starved_at.load(SeqCst) < STARVED_FOR {
            return 0;
        }
        settings::flush_interval().saturating_mul(IDLE_INTERVALS)
    }

    fn wait(&self) {
        let due = (self.flushed_at + settings::flush_interval() - now()).max(0);
        let microseconds = if self.flusher.may_try() { due } else { LOOKS_AROUND / 10 };
        let milliseconds = (microseconds.min(LOOKS_AROUND) / 1000).max(1);
        wait_for_latch(milliseconds);
    }

    /// Whether someone drops, renames or copies the database, which takes a lock that
    /// excludes those who connect, and waits a few seconds for all others to go.
    fn is_wanted_gone(&self) -> bool {
        let tag = pg_sys::LOCKTAG {
            locktag_field1: 0,
            locktag_field2: pg_sys::DatabaseRelationId.to_u32(),
            // SAFETY: set for as long as the process lives.
            locktag_field3: unsafe { pg_sys::MyDatabaseId }.to_u32(),
            locktag_field4: 0,
            locktag_type: pg_sys::LockTagType::LOCKTAG_OBJECT as u8,
            locktag_lockmethodid: pg_sys::DEFAULT_LOCKMETHOD as u8,
        };
        let mode = pg_sys::RowExclusiveLock as pg_sys::LOCKMODE;
        // SAFETY: the lock of a session, which needs no transaction; given back at once.
        unsafe {
            let taken = pg_sys::LockAcquire(&tag, mode, true, true);
            if taken == pg_sys::LockAcquireResult::LOCKACQUIRE_NOT_AVAIL {
                return true;
            }
            pg_sys::LockRelease(&tag, mode, true);
        }
        false
    }

    /// Goes at once, for somebody who waits. What is left is for a successor, who can
    /// only connect when that somebody is done.
    fn make_way(&mut self) {
        if self.is_open && self.flusher.may_try() {
            self.flusher.batch();
        }
        self.leave_the_rest();
    }

    /// Goes, and has a successor started for what is left.
    fn leave_the_rest(&self) {
        if self.flusher.is_empty() {
            return;
        }
        let (ring, place) = (self.flusher.ring, self.flusher.place);
        let Some(signals) = ring.signals.get(place) else { return };
        ring.with(place, |database| {
            database.worker.since = now();
            database.worker.pid = 0;
            signals.worker.store(STARTING, SeqCst);
        });
        // SAFETY: set for as long as the process lives.
        if !presence::register(unsafe { pg_sys::MyDatabaseId }) {
            ring.with(place, |database| {
                database.counters.failed_starts += 1;
                signals.worker.store(ABSENT, SeqCst);
            });
        }
    }

    /// Leaves if nothing waits. Whoever brings something from then on sees that there
    /// is no worker.
    fn leave(&mut self) -> bool {
        if !self.flusher.is_empty() {
            self.busy_at = now();
            return false;
        }
        // Where requests are few, each worker may be gone before its time to maintain.
        if self.is_open && self.has_stored {
            self.maintain();
        }
        if self.is_open && !self.flusher.close() && self.still_has_extension() {
            return false;
        }
        step_down(self.flusher.ring, self.flusher.place)
    }

    /// Stores what there is. When the server stops, waits for the other backends, which
    /// stop as well: their last records come now.
    fn shut_down(&mut self) {
        let mut start = now();
        let mut tries = 0;
        loop {
            // SAFETY: what was to be cancelled has been.
            unsafe { pg_sys::QueryCancelPending = 0 };
            if !self.is_open {
                self.open();
            }
            while self.is_open && self.flusher.batch() == Outcome::Stored {
                start = now();
            }
            if self.is_open {
                self.flusher.unknown();
            }
            tries += 1;
            if !server_is_stopping() && (tries >= LAST_TRIES || self.flusher.is_empty()) {
                break self.leave_the_rest();
            }
            let held = self.flusher.ring.signals.get(self.flusher.place);
            let is_held = held.is_some_and(|signals| signals.held.load(SeqCst) > 0);
            // SAFETY: counts entries of shared memory.
            let others = unsafe { pg_sys::CountDBBackends(pg_sys::MyDatabaseId) } > 1;
            let waited = now() - start;
            let waits = if is_held {
                waited < WAITS_FOR_HELD
            } else {
                waited < WAITS_FOR_OTHERS && (others || !self.flusher.is_empty())
            };
            if !waits && tries >= LAST_TRIES {
                break;
            }
            wait_for_latch(10);
        }
        if self.is_open && self.flusher.is_empty() {
            self.flusher.close();
        }
    }
}

/// Interrupts and changed settings.
pub fn attend() {
    let attended = pgrx::PgTryBuilder::new(|| {
        pgrx::check_for_interrupts!();
        // SAFETY: set by the signal's handler.
        unsafe {
            if pg_sys::ConfigReloadPending != 0 {
                pg_sys::ConfigReloadPending = 0;
                pg_sys::ProcessConfigFile(pg_sys::GucContext::PGC_SIGHUP);
            }
        }
    });
    // A cancellation that finds nothing to cancel.
    attended.catch_others(|_| ()).execute();
}

/// Gives the place up, unless something came in the meantime.
pub fn step_down(ring: &Ring, place: usize) -> bool {
    let Some(signals) = ring.signals.get(place) else { return true };
    let has_left = ring.with(place, |database| {
        signals.worker.store(ABSENT, SeqCst);
        let is_idle =
            database.count == 0 && database.unknown.is_empty() && signals.held.load(SeqCst) == 0;
        if is_idle {
            database.worker.pid = 0;
            database.worker.latch = null_mut();
            database.worker.since = 0;
        } else {
            signals.worker.store(RUNNING, SeqCst);
        }
        is_idle
    });
    has_left.unwrap_or(true)
}

pub fn shutdown_requested() -> bool {
    // SAFETY: set by the signal's handler.
    unsafe { pg_sys::ShutdownRequestPending != 0 }
}

/// What the postmaster has written of its state, in the line that `pg_ctl` reads. A
/// worker alone that was told to end doesn't wait for others.
fn server_is_stopping() -> bool {
    const STATUS_LINE: usize = 7;
    // SAFETY: set when the server started.
    let directory = unsafe { CStr::from_ptr(pg_sys::DataDir) }.to_string_lossy().into_owned();
    let file = std::fs::read_to_string(format!("{directory}/postmaster.pid"));
    file.is_ok_and(|file| {
        file.lines().nth(STATUS_LINE).is_some_and(|line| line.trim() == "stopping")
    })
}

pub fn wait_for_latch(milliseconds: i64) {
    let events = pg_sys::WL_LATCH_SET | pg_sys::WL_TIMEOUT | pg_sys::WL_EXIT_ON_PM_DEATH;
    // SAFETY: our own latch.
    unsafe {
        let latch = pg_sys::MyLatch;
        pg_sys::WaitLatch(latch, events as c_int, milliseconds, pg_sys::PG_WAIT_EXTENSION);
        pg_sys::ResetLatch(latch);
    }
}
