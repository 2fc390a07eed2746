//! What requests cost that were counted without a row, and that the worker no longer remembers.

use keysmith_core::event::MOST_SPEND;
use pg::error::Result;
use pg::scan::Snapshot;
use pg::server;
use pg::spi::{self, Param};
use std::collections::HashSet;

/// Adds to the totals by how much these requests cost more or less than they spent at first, if they were
/// settled: once for each, so their charges forget that they were counted. Returns their ids.
///
/// Those that a crash of the primary or a full queue may have lost are left out: their first cost is in no
/// total. Records that waited for the worker were decided shortly before.
pub fn count(request_ids: &HashSet<[u8; 16]>) -> Result<HashSet<[u8; 16]>> {
    if request_ids.is_empty() {
        return Ok(HashSet::new());
    }
    let request_ids: Vec<_> = request_ids.iter().copied().collect();
    spi::change_now(
        &Snapshot::now(),
        "WITH found AS (
             UPDATE keysmith_private.charge c SET usage_log = 'nothing'
             FROM keysmith_private.tenant t
             WHERE c.tenant_id = t.tenant_id AND c.request_id = ANY ($1) AND c.usage_log = 'totals'
               AND c.settled IS NOT NULL AND NOT EXISTS (
                   SELECT FROM keysmith_private.usage_incarnation i
                   WHERE i.database = $3 AND i.primary_since IS NOT NULL
                     AND (c.at > i.lost_from - interval '1 minute' AND c.at <= i.lost_until
                          OR c.at > i.started_at AND c.at < i.dropped_at + interval '1 minute'))
             RETURNING c.*, least(c.settled, $2) - least(c.spend, $2) AS difference
         ), added AS (
             INSERT INTO keysmith_private.usage_delta (
                 period, tenant_id, key_id, environment, status, outcome, requests, refused, timed,
                 latency, spend)
             SELECT pg_catalog.date_trunc('hour', at, 'UTC'), tenant_id, key_id, environment, 200, 'ok',
                    0, 0, 0, '0', difference
             FROM found WHERE difference <> 0)
         SELECT request_id FROM found",
        &[
            Param::uuids(Some(&request_ids)),
            Param::bigint(Some(MOST_SPEND)),
            Param::oid(server::my_database()),
        ],
        |found| found.iter().filter_map(|row| row.uuid(1)).collect(),
    )
}
