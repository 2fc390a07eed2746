//! The rows of requests without a known key.

use keysmith_core::event::Event;
use keysmith_core::unknown_tally::Count;
use pg::error::Result;
use pg::spi::{self, Param};

/// Adds to the counts of an incarnation, which no other server writes to, and to the samples.
pub fn store(incarnation: i64, counts: &[Count], samples: &[Event]) -> Result<()> {
    for (keyspace, reason, requests) in counts {
        spi::execute(
            "INSERT INTO keysmith_private.usage_unknown AS u
                 (keyspace, reason, hour, requests, incarnation)
             VALUES ($1, $2, pg_catalog.date_trunc('hour', pg_catalog.now(), 'UTC'), $3, $4)
             ON CONFLICT (keyspace, reason, hour, incarnation)
             DO UPDATE SET requests = u.requests + excluded.requests",
            &[
                text(keyspace),
                text(reason),
                Param::bigint(Some(*requests as i64)),
                Param::bigint(Some(incarnation)),
            ],
        )?;
    }
    for event in samples {
        let ip = event.ip.map(|address| address.to_string());
        spi::execute(
            "INSERT INTO keysmith_private.usage_unknown_sample
                 (at, keyspace, reason, method, endpoint, ip)
             VALUES ($1, $2, $3, $4, $5, $6::pg_catalog.inet)",
            &[
                Param::timestamp(Some(event.at)),
                text(event.keyspace),
                text(event.outcome),
                Param::server_text(event.learned.method),
                Param::server_text(event.learned.endpoint),
                Param::text_or_null(ip.as_deref()),
            ],
        )?;
    }
    // The newest thousand are enough to see where they come from.
    spi::execute(
        "DELETE FROM keysmith_private.usage_unknown_sample
         WHERE ctid IN (SELECT o.ctid FROM keysmith_private.usage_unknown_sample o WHERE o.at < (
                            SELECT s.at FROM keysmith_private.usage_unknown_sample s
                            ORDER BY s.at DESC OFFSET 1000 LIMIT 1)
                        FOR UPDATE SKIP LOCKED)",
        &[],
    )?;
    Ok(())
}

fn text(bytes: &[u8]) -> Param<'_> {
    Param::server_text(Some(bytes))
}
