//! Records that can't be stored, for example because of a constraint that somebody put on the
//! table. They are noted in `usage_set_aside`, and the others go on.

use crate::usage::session::worker_slot;
use crate::usage::store::insert::{self, Numbers, Stored};
use keysmith_core::event::Record;
use pg::error::{Code, Error, Result};
use pg::spi::{self, Param};

/// If so many are quarantined with nothing stored in between, the records are not to blame. The rest
/// is kept until the fault is fixed.
pub const MOST_IN_A_ROW: u32 = 10;

/// Notes a record, and why it can't be stored.
pub fn note(incarnation: i64, sequence: i64, record: &Record, why: &str) -> Result<()> {
    let (request_id, key_id, at) = match record {
        Record::Event(event) => (event.request_id, Some(event.key_id), Some(event.at)),
        Record::Amendment { request_id, .. } => (*request_id, None, None),
    };
    spi::execute(
        "INSERT INTO keysmith_private.usage_set_aside
             (incarnation, sequence, at, request_id, key_id, error)
         VALUES ($1, $2, $3, $4, $5, $6)",
        &[
            Param::bigint(Some(incarnation)),
            Param::bigint(Some(sequence)),
            Param::timestamp(at),
            Param::uuid(&request_id),
            Param::uuid_or_null(key_id.as_ref()),
            Param::text(why),
        ],
    )?;
    // The newest thousand are enough to tell what is wrong.
    spi::execute(
        "DELETE FROM keysmith_private.usage_set_aside
         WHERE ctid IN (SELECT o.ctid FROM keysmith_private.usage_set_aside o WHERE o.set_aside_at < (
                            SELECT s.set_aside_at FROM keysmith_private.usage_set_aside s
                            ORDER BY s.set_aside_at DESC OFFSET 1000 LIMIT 1)
                        FOR UPDATE SKIP LOCKED)",
        &[],
    )?;
    Ok(())
}

/// Stores records of another incarnation in the caller's transaction. If that fails, the records
/// that are to blame are quarantined.
pub fn store_or_quarantine(records: &[(i64, Record)], incarnation: i64) -> Result<Stored> {
    // Batches of a standby may be small: the count goes on from the one before.
    let place = worker_slot::find_place();
    let before = place.and_then(|(queue, n)| queue.with(n, |d| d.worker.quarantined_in_a_row));
    let mut quarantined = Quarantined { all: 0, in_a_row: before.unwrap_or_default() };
    let stored = store_or_note(records, incarnation, &mut quarantined)?;
    if let Some((queue, n)) = place {
        queue.with(n, |database| {
            database.worker.quarantined_in_a_row = quarantined.in_a_row;
            database.counters.quarantined += u64::from(quarantined.all);
        });
    }
    Ok(stored)
}

/// How many records of a call are noted, to tell what is wrong with them. All are counted.
const MOST_NOTED: usize = 10;

/// Notes records that are not taken.
pub fn note_unfit(unfit: &[(i64, Record, &str)], incarnation: i64) -> Result<()> {
    for (sequence, record, why) in unfit.iter().take(MOST_NOTED) {
        note(incarnation, *sequence, record, why)?;
    }
    if let (false, Some((queue, place))) = (unfit.is_empty(), worker_slot::find_place()) {
        queue.count(place, |counters| counters.quarantined += unfit.len() as u64);
    }
    Ok(())
}

struct Quarantined {
    all: u32,
    in_a_row: u32,
}

fn store_or_note(
    records: &[(i64, Record)],
    incarnation: i64,
    quarantined: &mut Quarantined,
) -> Result<Stored> {
    let failure = match insert::attempt(records, Numbers::Received { incarnation }) {
        Ok(stored) => {
            if stored.events > 0 {
                quarantined.in_a_row = 0;
            }
            return Ok(stored);
        }
        Err(failure) => failure,
    };
    if failure.is_passing || quarantined.in_a_row >= MOST_IN_A_ROW {
        return Err(Error::new(Code::Conflict, failure.message));
    }
    if let [(sequence, record)] = records {
        note(incarnation, *sequence, record, &failure.message)?;
        pgrx::warning!(
            "keysmith: a usage record can't be stored and is in usage_set_aside: {}",
            failure.message
        );
        quarantined.all += 1;
        quarantined.in_a_row += 1;
        return Ok(Stored::default());
    }
    let (first, second) = records.split_at(records.len() / 2);
    let mut stored = store_or_note(first, incarnation, quarantined)?;
    let rest = store_or_note(second, incarnation, quarantined)?;
    stored.events += rest.events;
    stored.unmatched.extend(rest.unmatched);
    Ok(stored)
}
