//! The entry point of the worker.

use crate::usage::queue::queue;
use crate::usage::session::worker_slot::{ABSENT, RUNNING};
use crate::usage::standby::sender::{End, Sender, subscribes};
use crate::usage::worker;
use crate::usage::worker::cycle::Worker;
use crate::usage::worker::flush::Flusher;
use pg::clock::monotonic;
use pg::latch::Latch;
use pg::server;
use pg::worker::{be_independent, begin, keep_freed_memory, worker_entry};
use pgrx::pg_sys::Datum;
use std::ffi::c_int;
use std::sync::atomic::Ordering::SeqCst;

worker_entry!(keysmith_usage_worker => work);

/// Frees the place when the process ends.
fn at_exit(_code: c_int, place: usize) {
    let Some(queue) = queue() else { return };
    let pid = server::my_pid();
    queue.with(place, |database| {
        if database.worker.pid == pid {
            database.worker.pid = 0;
            database.worker.latch = Latch::NONE;
            if let Some(signals) = queue.signals.get(place)
                && signals.worker.load(SeqCst) == RUNNING
            {
                signals.worker.store(ABSENT, SeqCst);
            }
        }
    });
}

/// The argument is the database's OID.
fn work(argument: Datum) {
    let oid = argument.value() as u32;
    let Some(queue) = queue() else { return };
    begin(Some(oid.into()));
    let Some(place) = queue.place_of(oid) else { return };
    let is_alone = queue.with(place, |database| {
        let is_alone = database.worker.pid == 0;
        if is_alone && let Some(signals) = queue.signals.get(place) {
            database.worker.pid = server::my_pid();
            database.worker.latch = Latch::own();
            database.worker.since = monotonic();
            signals.worker.store(RUNNING, SeqCst);
        }
        is_alone
    });
    if is_alone != Some(true) {
        return;
    }
    pg::exit::before_leaving(at_exit, place);
    be_independent();
    keep_freed_memory();
    loop {
        let sends = server::is_in_recovery() || subscribes();
        if sends && Sender::new(queue, place).run() == End::Leaves {
            return;
        }
        if Worker::new(Flusher::new(queue, place, oid)).run() == worker::cycle::End::Leaves {
            return;
        }
    }
}
