//! Sessions and workers at a queue of records.

use crate::in_every_order;
use keysmith_core::queue::{Batch, Chain, Pool, Slot, Wanted};
use loom::sync::{Arc, Mutex};
use loom::thread;
use std::ops::Range;

const SLOTS: usize = 40;
/// As many records as take a worker two steps to read.
const MANY: u8 = 34;

/// What the lock guards: here there is one database.
struct Queue {
    slots: Vec<Slot>,
    pool: Pool,
    chain: Chain,
}

/// The table of records, and the number up to which they are stored.
#[derive(Default)]
struct Table {
    stored: Vec<u8>,
    up_to: u64,
}

struct Server {
    queue: Mutex<Queue>,
    table: Mutex<Table>,
}

impl Server {
    /// A server on which so many records wait.
    fn new(waiting: u8) -> Arc<Server> {
        let slots = (0..SLOTS).map(|_| Slot::default()).collect();
        let queue = Queue { slots, pool: Pool::default(), chain: Chain::default() };
        let server = Server { queue: Mutex::new(queue), table: Mutex::default() };
        server.push(0..waiting);
        Arc::new(server)
    }

    fn push(&self, records: Range<u8>) {
        for n in records {
            let Queue { slots, pool, chain } = &mut *self.queue.lock().unwrap();
            assert!(pool.append(slots, chain, &[1, n], SLOTS as u32));
        }
    }

    /// Begins a batch and fills it, as `src/usage/queue` does.
    fn begin(&self, most: u32) -> Batch {
        let wanted = Wanted { after: 0, up_to: u64::MAX, most };
        Batch::new(&self.queue.lock().unwrap().chain, wanted)
    }

    fn fill(&self, batch: &mut Batch) {
        loop {
            batch.make_room();
            let queue = self.queue.lock().unwrap();
            if !batch.read(&queue.slots, &queue.chain) {
                return;
            }
            assert!(batch.len() <= SLOTS, "a record was read twice");
        }
    }

    fn take_out(&self, batch: &Batch) {
        let Some(run) = batch.run() else { return };
        let Queue { slots, pool, chain } = &mut *self.queue.lock().unwrap();
        pool.take_out(slots, chain, &run);
    }

    /// Stores a batch, as `src/usage/worker` does: the transaction fails if another one has
    /// stored more since the worker last looked. Returns how many records were read.
    fn store(&self, most: u32) -> usize {
        let known = self.table.lock().unwrap().up_to;
        let mut batch = self.begin(most);
        self.fill(&mut batch);
        let mut table = self.table.lock().unwrap();
        if table.up_to != known {
            return batch.len();
        }
        let new = batch.iter().filter(|record| record.sequence > known);
        table.stored.extend(new.map(|record| record.bytes[1]));
        table.up_to = known.max(batch.last().unwrap_or(0));
        drop(table);
        self.take_out(&batch);
        batch.len()
    }

    /// Gives the database's place to another one.
    fn forget(&self) {
        let Queue { slots, pool, chain } = &mut *self.queue.lock().unwrap();
        pool.empty(slots, chain);
        *chain = Chain::default();
    }
}

/// Two workers, each with the most records that it reads at a time, and a session that pushes
/// two records.
fn each_record_is_stored_once_and_in_order(waiting: u8, most: [u32; 2]) {
    in_every_order(2, move || {
        let server = Server::new(waiting);
        let session = {
            let server = server.clone();
            thread::spawn(move || server.push(waiting..waiting + 2))
        };
        let worker = {
            let server = server.clone();
            thread::spawn(move || server.store(most[1]))
        };
        server.store(most[0]);
        session.join().unwrap();
        worker.join().unwrap();
        while server.store(most[0]) > 0 {}
        let stored = &server.table.lock().unwrap().stored;
        assert_eq!(*stored, (0..waiting + 2).collect::<Vec<_>>());
        assert_eq!(server.queue.lock().unwrap().pool.used, 0);
    });
}

#[test]
fn two_workers_store_each_record_once() {
    each_record_is_stored_once_and_in_order(MANY, [u32::MAX; 2]);
}

/// A worker whose last batch failed takes smaller ones.
#[test]
fn two_workers_with_batches_of_different_sizes_store_each_record_once() {
    each_record_is_stored_once_and_in_order(3, [2, 1]);
}

/// A worker has begun to read when the place is given to another database.
#[test]
fn no_worker_reads_or_takes_out_records_of_another_database() {
    in_every_order(3, || {
        let server = Server::new(MANY);
        let mut batch = server.begin(u32::MAX);
        let other = {
            let server = server.clone();
            thread::spawn(move || {
                server.forget();
                server.push(100..102);
            })
        };
        server.fill(&mut batch);
        assert!(batch.iter().all(|record| record.bytes[1] < MANY));
        server.take_out(&batch);
        other.join().unwrap();
        let mut left = server.begin(u32::MAX);
        server.fill(&mut left);
        assert_eq!(left.iter().map(|record| record.bytes[1]).collect::<Vec<_>>(), [100, 101]);
    });
}
