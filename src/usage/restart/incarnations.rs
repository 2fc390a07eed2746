//! The table `usage_incarnation`. An incarnation is the time from one start of the server's shared
//! memory to the next. The table says which of its records are stored, and how many its end may
//! have cost.

use crate::usage::node::Node;
use crate::usage::queue::Queue;
use crate::usage::restart::losses::{self, Lost};
use crate::usage::restart::predecessor;
use crate::usage::transaction::{Outcome, transaction};
use pg::clock;
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
        let node = Node::own(self.queue.node);
        let [incarnation, database, server, started_at, most_waiting] = self.params();
        let (stored_up_to, losses) = transaction("opening", || {
            let opened = spi::first(
                "INSERT INTO keysmith_private.usage_incarnation AS i
                     (incarnation, database, server, started_at, most_waiting, node, node_name,
                      primary_since, timeline)
                 VALUES ($1, $2, $3, $4, $5, $6, $7, pg_catalog.now(), $8)
                 ON CONFLICT (incarnation, database) DO UPDATE
                 SET closed_at = NULL, primary_since = coalesce(i.primary_since, pg_catalog.now()),
                     timeline = excluded.timeline
                 RETURNING last_sequence, primary_since = pg_catalog.now()",
                &[
                    incarnation,
                    database,
                    server,
                    started_at,
                    most_waiting,
                    Param::text(&node.id),
                    Param::text(&node.name),
                    Param::bigint(Some(pg::server::insertion_timeline().into())),
                ],
                |row| Some((row.bigint(1).unwrap_or_default(), row.boolean(2))),
            )?;
            let (stored_up_to, is_new) = opened.unwrap_or_default();
            let mut losses = Vec::new();
            for lost in &lost {
                losses.extend(self.enter(lost)?);
            }
            let own = self.queue.incarnation;
            losses.extend(close_before(own, self.oid, &node, !self.queue.started_cleanly)?);
            if is_new && self.queue.started_as_standby {
                let [incarnation, database, server, ..] = self.params();
                let before =
                    spi::first(BEFORE_OF_PRIMARY, &[incarnation, database, server], |row| {
                        Some((row.bigint(1)?, row.bigint(2)))
                    })?;
                if let Some((before, timeline)) = before {
                    let was_shut_down = timeline.and_then(predecessor::was_shut_down);
                    let is_loss = was_shut_down.map(|was_shut_down| !was_shut_down);
                    losses.extend(close(before, self.oid, is_loss, clock::now())?);
                }
            }
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
        spi::all(
            "INSERT INTO keysmith_private.usage_incarnation AS i
                 (incarnation, database, server, started_at, most_waiting, node, node_name,
                  lost_at_most, lost_from, lost_until)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $5, $4, $8)
             ON CONFLICT (incarnation, database) DO UPDATE
             SET lost_at_most = i.most_waiting, lost_until = excluded.lost_until,
                 lost_from = coalesce(i.closed_at, i.last_flush_at, i.started_at)
             WHERE i.lost_at_most IS NULL
             RETURNING i.lost_at_most, i.lost_from::pg_catalog.text,
                       i.lost_until::pg_catalog.text, i.node, i.node_name",
            &[
                Param::bigint(Some(lost.incarnation)),
                database,
                server,
                Param::timestamp(Some(lost.incarnation)),
                Param::bigint(Some(lost.most_waiting)),
                Param::text(&lost.node.id),
                Param::text(&lost.node.name),
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
                  last_sequence, stored, dropped, last_flush_at, dropped_at)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, pg_catalog.clock_timestamp(),
                     CASE WHEN $8 > 0 THEN pg_catalog.clock_timestamp() END)
             ON CONFLICT (incarnation, database) DO UPDATE
             SET last_sequence = greatest(i.last_sequence, excluded.last_sequence),
                 stored = i.stored + excluded.stored, dropped = excluded.dropped,
                 last_flush_at = excluded.last_flush_at, closed_at = NULL,
                 dropped_at = CASE WHEN excluded.dropped > i.dropped THEN excluded.dropped_at
                     ELSE i.dropped_at END
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

/// The incarnation of the same server before `$1`. A standby that was rewound, or copied again, has a
/// new identity at the place of the one before. The loss of a primary is reported by the server that
/// is promoted.
const BEFORE_OF_SERVER: &str = "
    SELECT l.incarnation FROM keysmith_private.usage_incarnation AS l
    WHERE l.database = $2 AND l.incarnation < $1
      AND (l.node = $3 OR l.primary_since IS NULL
                          AND pg_catalog.right(l.node, 16) = pg_catalog.right($3, 16))
    ORDER BY l.node = $3 DESC, l.incarnation DESC LIMIT 1";
/// The incarnation of the primary before, and its timeline. It may have started long before its server
/// became the primary.
const BEFORE_OF_PRIMARY: &str = "
    SELECT l.incarnation, l.timeline FROM keysmith_private.usage_incarnation AS l
    WHERE l.database = $2 AND l.server = $3 AND l.incarnation <> $1 AND l.primary_since IS NOT NULL
    ORDER BY l.primary_since DESC LIMIT 1";

/// Closes the incarnation of the server before `incarnation`, and returns the message about its loss.
pub fn close_before(
    incarnation: i64,
    database: u32,
    node: &Node,
    is_loss: bool,
) -> Result<Vec<String>> {
    let params =
        [Param::bigint(Some(incarnation)), Param::oid(database.into()), Param::text(&node.id)];
    match spi::first(BEFORE_OF_SERVER, &params, |row| row.bigint(1))? {
        Some(before) => close(before, database, Some(is_loss), incarnation),
        None => Ok(Vec::new()),
    }
}

/// Closes an incarnation. If it has lost records, this is noted, and the message about it is returned.
/// If nobody knows, it has lost none if all had been stored.
fn close(
    incarnation: i64,
    database: u32,
    is_loss: Option<bool>,
    until: i64,
) -> Result<Vec<String>> {
    spi::all(
        "UPDATE keysmith_private.usage_incarnation AS i
         SET lost_at_most = CASE WHEN l.is_loss THEN i.most_waiting END,
             lost_from = CASE WHEN l.is_loss THEN
                 CASE WHEN coalesce(i.closed_at, i.last_flush_at) < $4
                      THEN coalesce(i.closed_at, i.last_flush_at) ELSE i.started_at END END,
             lost_until = CASE WHEN l.is_loss THEN $4 END,
             closed_at = CASE WHEN l.is_loss THEN i.closed_at ELSE coalesce(i.closed_at, $4) END
         FROM (SELECT coalesce($3, o.closed_at IS NULL) AS is_loss
               FROM keysmith_private.usage_incarnation AS o
               WHERE o.incarnation = $1 AND o.database = $2) AS l
         WHERE i.incarnation = $1 AND i.database = $2 AND i.lost_at_most IS NULL
         RETURNING i.lost_at_most, i.lost_from::pg_catalog.text,
                   i.lost_until::pg_catalog.text, i.node, i.node_name",
        &[
            Param::bigint(Some(incarnation)),
            Param::oid(database.into()),
            Param::boolean_or_null(is_loss),
            Param::timestamp(Some(until)),
        ],
        loss_message,
    )
}

/// The message about a loss, if a row is one: its greatest size, its time, and the server.
fn loss_message(row: ResultRow) -> Option<String> {
    let most = row.bigint(1)?;
    let (from, until, node, name) = (row.text(2)?, row.text(3)?, row.text(4)?, row.text(5)?);
    Some(format!(
        "usage of at most {most} requests may have been lost between {from} and {until}, \
         on server {name} ({node})"
    ))
}
