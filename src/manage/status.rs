//! `status`: what there is, in numbers.

use super::listing::put_all;
use crate::audit::event;
use pg::call::{Call, sql_functions};
use pg::error::Result;
use pg::spi::Param;
use pgrx::pg_sys::Datum;

sql_functions! {
    keysmith_status => status;
}

/// Numbers of keys, tenants and other objects.
fn status(call: &Call) -> Result<Option<Datum>> {
    let (count, last_at) = event::unsent();
    put_all(
        call,
        "SELECT 'keys'::text AS topic, k.keyspace || ', ' || k.status AS name,
                pg_catalog.count(*)::text AS value
         FROM keysmith_private.key_listing k GROUP BY k.keyspace, k.status
         UNION ALL
         SELECT 'peppers',
                CASE k.generation WHEN 0 THEN 'without a pepper'
                    ELSE 'pepper ' || k.generation END,
                pg_catalog.count(*) || ' keys'
         FROM keysmith_private.key k WHERE k.revoked_at IS NULL GROUP BY k.generation
         UNION ALL
         SELECT 'events', e.name, e.value
         FROM (VALUES ('events not sent', coalesce($1::text, 'unknown: the library is not preloaded')),
                      ('last event not sent at', $2::text),
                      ('notification queue used, in percent',
                       pg_catalog.round(100 * pg_catalog.pg_notification_queue_usage()::numeric, 4)::text)
              ) e (name, value)
         UNION ALL SELECT 'limits', l.name, l.value FROM keysmith.limit_status() l
         UNION ALL SELECT 'usage', u.name, u.value FROM keysmith.usage_status() u
         ORDER BY 1, 2",
        &[Param::bigint(count), Param::timestamp(last_at)],
    )
}
