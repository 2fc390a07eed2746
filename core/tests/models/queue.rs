//! Sessions and workers at a queue of records.

use crate::in_every_order;
use keysmith_core::queue::{Batch, Chain, Pool, Slot, Wanted};
use loom::sync::{Arc, Mutex};
use loom::thread;

/// More than a worker reads at a time.
const WAITING: u8 = 34;
const SLOTS: usize = 40;

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
    fn new() -> Arc<Server> {
        let mut slots: Vec<Slot> = (0..SLOTS).map(|_| Slot::default()).collect();
        let (mut pool, mut chain) = (Pool::default(), Chain::default());
        for n in 0..WAITING {
            assert!(pool.append(&mut slots, &mut chain, &record(n), SLOTS as u32));
        }
        let queue = Mutex::new(Queue { slots, pool, chain });
        Arc::new(Server { queue, table: Mutex::default() })
    }

    fn push(&self, n: u8) {
        let Queue { slots, pool, chain } = &mut *self.queue.lock().unwrap();
        assert!(pool.append(slots, chain, &record(n), SLOTS as u32));
    }

    /// As `src/usage/queue` does.
    fn peek(&self) -> Batch {
        let all = Wanted { after: 0, up_to: u64::MAX, most: u32::MAX };
        let mut batch = Batch::new(&self.queue.lock().unwrap().chain, all);
        loop {
            batch.make_room();
            let queue = self.queue.lock().unwrap();
            if !batch.read(&queue.slots, &queue.chain) {
                return batch;
            }
        }
    }

    fn take_out(&self, batch: &Batch) {
        let Some(run) = batch.run() else { return };
        let Queue { slots, pool, chain } = &mut *self.queue.lock().unwrap();
        pool.take_out(slots, chain, &run);
    }

    /// As `src/usage/worker` does: a transaction stores what waits, and fails if another one has
    /// stored more since the worker last looked. Returns how many it took.
    fn store(&self) -> usize {
        let known = self.table.lock().unwrap().up_to;
        let batch = self.peek();
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

fn record(n: u8) -> [u8; 2] {
    [1, n]
}

#[test]
fn two_workers_store_each_record_once_and_in_order() {
    in_every_order(2, || {
        let server = Server::new();
        let session = {
            let server = server.clone();
            thread::spawn(move || (WAITING..WAITING + 2).for_each(|n| server.push(n)))
        };
        let worker = {
            let server = server.clone();
            thread::spawn(move || server.store())
        };
        server.store();
        session.join().unwrap();
        worker.join().unwrap();
        while server.store() > 0 {}
        let stored = &server.table.lock().unwrap().stored;
        assert_eq!(*stored, (0..WAITING + 2).collect::<Vec<_>>());
        assert_eq!(server.queue.lock().unwrap().pool.used, 0);
    });
}

/// A worker that has begun to read meets a place that was given to another database.
#[test]
fn no_worker_reads_records_of_another_database() {
    in_every_order(3, || {
        let server = Server::new();
        let other = {
            let server = server.clone();
            thread::spawn(move || {
                server.forget();
                (100..102).for_each(|n| server.push(n));
            })
        };
        let batch = server.peek();
        let others = batch.iter().filter(|record| record.bytes[1] >= 100).count();
        assert!(others == 0 || others == batch.len(), "records of two databases");
        let begun_before = batch.iter().next().is_none_or(|record| record.bytes[1] < 100);
        if begun_before {
            server.take_out(&batch);
        }
        other.join().unwrap();
        if begun_before {
            let left: Vec<u8> = server.peek().iter().map(|record| record.bytes[1]).collect();
            assert_eq!(left, [100, 101]);
        }
    });
}
