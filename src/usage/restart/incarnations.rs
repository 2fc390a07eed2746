//! The table `usage_incarnation`. An incarnation is the time from one start of the server's shared
//! memory to the next. The table says which of its records are stored, and how many its end may
//! have cost.

use crate::usage::queue::Queue;
use crate::usage::restart::losses::{self, Lost};
use crate::usage::standby::name;
use crate::usage::transaction::{Outcome, transaction};
use pg::error::{Code, Error, Result};
use pg::spi::{self, Param, ResultRow};

/// The row of the incarnation that runs, for one database.
#[derive(Clone, Copy)]
pub struct CurrentIncarnation {
    pub queue: &'static Queue,
    pub oid: u32,
}

/// What a batch adds to the row.
pub struct Progress {
    /// All records up to this number were known to be stored before, and are now.
    pub from: u64,
    pub to: u64,
    pub stored: usize,
    pub dropped: u64,
}

impl CurrentIncarnation {
    /// Opens the row, and reports what earlier incarnations may have lost. Returns the number up to
    /// which all records are stored.
    pub fn open(&self) -> Outcome<u64> {
        let lost = losses::lost(self.oid, self.queue);
        let (stored_up_to, losses) = transaction("opening", || {
            let found = spi::first(
                "INSERT INTO keysmith_private.usage_incarnation
                     (incarnation, database, server, started_at, most_waiting)
                 VALUES ($1, $2, $3, $4, $5)
                 ON CONFLICT (incarnation, database) DO UPDATE SET closed_at = NULL, standby = ''
                 RETURNING last_sequence",
                &self.params(),
                |row| row.bigint(1),
            )?;
            let stored_up_to = found.unwrap_or_default();
            let mut losses = Vec::new();
            for lost in &lost {
                losses.extend(self.enter(lost)?);
            }
            let [incarnation, database, server, ..] = self.params();
            let started_cleanly = Param::boolean(self.queue.started_cleanly);
            let started_as_standby = Param::boolean(self.queue.started_as_standby);
            let params = [incarnation, database, server, started_cleanly, started_as_standby];
            losses.extend(spi::all(LOSSES, &params, loss_message)?);
            Ok((stored_up_to, losses))
        })?;
        losses::forget(&lost);
        for loss in losses {
            pgrx::warning!("keysmith: {loss}");
        }
        Ok(stored_up_to.unsigned_abs())
    }

    /// Notes what an earlier incarnation may have lost. It may have no row yet.
    fn enter(&self, lost: &Lost) -> Result<Vec<String>> {
        let [_, database, server, ..] = self.params();
        let standby = if self.queue.started_as_standby { name::own() } else { String::new() };
        spi::all(
            "INSERT INTO keysmith_private.usage_incarnation AS i
                 (incarnation, database, server, started_at, most_waiting, standby,
                  lost_at_most, lost_from, lost_until)
             VALUES ($1, $2, $3, $4, $5, $6, $5, $4, $7)
             ON CONFLICT (incarnation, database) DO UPDATE
             SET lost_at_most = i.most_waiting, lost_until = excluded.lost_until,
                 lost_from = coalesce(i.closed_at, i.last_flush_at, i.started_at)
             WHERE i.lost_at_most IS NULL
             RETURNING pg_catalog.format(
                 'usage of at most %s requests may have been lost between %s and %s',
                 i.lost_at_most, i.lost_from, i.lost_until), i.lost_at_most",
            &[
                Param::bigint(Some(lost.incarnation)),
                database,
                server,
                Param::timestamp(Some(lost.incarnation)),
                Param::bigint(Some(lost.most_waiting)),
                Param::text(&standby),
                Param::timestamp(Some(lost.until)),
            ],
            loss_message,
        )
    }

    /// The number up to which all records are stored, as committed.
    pub fn stored_up_to(&self) -> Outcome<u64> {
        let [incarnation, database, ..] = self.params();
        transaction("looking what is stored", || {
            let found = spi::first(
                "SELECT last_sequence FROM keysmith_private.usage_incarnation
                 WHERE incarnation = $1 AND database = $2",
                &[incarnation, database],
                |row| row.bigint(1),
            )?;
            let stored_up_to = found.unwrap_or_default();
            Ok(stored_up_to.unsigned_abs())
        })
    }

    /// Notes what is stored, in the transaction that stores it. It is an error if another worker has
    /// stored more than is known here: nothing is stored twice.
    pub fn note(&self, progress: &Progress) -> Result<()> {
        let [incarnation, database, server, started_at, most_waiting] = self.params();
        let noted = spi::execute(
            "INSERT INTO keysmith_private.usage_incarnation AS i
                 (incarnation, database, server, started_at, most_waiting,
                  last_sequence, stored, dropped, last_flush_at)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, pg_catalog.clock_timestamp())
             ON CONFLICT (incarnation, database) DO UPDATE
             SET last_sequence = greatest(i.last_sequence, excluded.last_sequence),
                 stored = i.stored + excluded.stored, dropped = excluded.dropped,
                 last_flush_at = excluded.last_flush_at, closed_at = NULL
             WHERE i.last_sequence <= $9",
            &[
                incarnation,
                database,
                server,
                started_at,
                most_waiting,
                Param::bigint(Some(progress.to as i64)),
                Param::bigint(Some(progress.stored as i64)),
                Param::bigint(Some(progress.dropped as i64)),
                Param::bigint(Some(progress.from as i64)),
            ],
        )?;
        match noted {
            0 => Err(Error::new(Code::Conflict, "usage records are stored already")),
            _ => Ok(()),
        }
    }

    /// Notes that all is stored: an end of the server costs nothing from here on.
    pub fn close(&self) -> Outcome<usize> {
        let [incarnation, database, ..] = self.params();
        transaction("closing", || {
            spi::execute(
                "UPDATE keysmith_private.usage_incarnation
                 SET closed_at = pg_catalog.clock_timestamp()
                 WHERE incarnation = $1 AND database = $2",
                &[incarnation, database],
            )
        })
    }

    fn params(&self) -> [Param<'static>; 5] {
        let incarnation = self.queue.incarnation;
        [
            Param::bigint(Some(incarnation)),
            Param::oid(self.oid.into()),
            Param::bigint(Some(server())),
            Param::timestamp(Some(incarnation)),
            Param::bigint(Some(self.queue.most_waiting())),
        ]
    }
}

/// The server's system identifier, as the table has it.
pub fn server() -> i64 {
    pg::server::system_identifier() as i64
}

/// Closes the incarnation before this one. If the server was not shut down properly, the loss is
/// noted. A standby that was promoted does not know how the primary before it ended, and that one's
/// incarnation may have started after its own.
const LOSSES: &str = "
    UPDATE keysmith_private.usage_incarnation AS i
    SET lost_at_most = CASE WHEN l.is_loss THEN i.most_waiting END,
        lost_from = CASE WHEN l.is_loss
                         THEN coalesce(i.closed_at, i.last_flush_at, i.started_at) END,
        lost_until = CASE WHEN l.is_loss
                          THEN CASE WHEN $5 THEN pg_catalog.now() ELSE c.started_at END END,
        closed_at = CASE WHEN l.is_loss THEN i.closed_at ELSE coalesce(i.closed_at, c.started_at) END
    FROM keysmith_private.usage_incarnation AS c, (SELECT $5 OR NOT $4 AS is_loss) AS l
    WHERE c.incarnation = $1 AND c.database = $2
      AND i.database = $2 AND i.lost_at_most IS NULL AND i.incarnation = (
          SELECT pg_catalog.max(l.incarnation) FROM keysmith_private.usage_incarnation AS l
          WHERE l.database = $2 AND l.server = $3 AND l.standby = ''
            AND l.incarnation <> $1 AND ($5 OR l.incarnation < $1))
    RETURNING pg_catalog.format('usage of at most %s requests may have been lost between %s and %s',
                                i.lost_at_most, i.lost_from, i.lost_until), i.lost_at_most";

/// The message about a loss, if a row is one.
pub fn loss_message(row: ResultRow) -> Option<String> {
    row.bigint(2).and_then(|_| row.text(1))
}
