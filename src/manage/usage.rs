//! Pages of requests, and the rows that a key changed, for callers who may see them.
//!
//! The rights are checked as the caller; the rows are read as the owner.

use super::authority::{self, Caller};
use super::level::{Needs, functions};
use super::tenant::Tenant;
use pg::call::Call;
use pg::error::{Error, Result};
use pg::result_set::ResultSet;
use pg::settings::in_utc;
use pg::spi::{self, Param};
use pgrx::pg_sys::{self, Datum};
use std::ops::RangeInclusive;

functions! {
    keysmith_usage_logs => usage_logs: Sight;
    keysmith_usage_chart => usage_chart: Sight;
    keysmith_blast_radius => blast_radius: Sight;
}

fn usage_logs(call: &Call) -> Result<Option<Datum>> {
    let tenant = call.required_text(0, "tenant")?;
    let key_id = call.datum(1).map(|_| call.uuid(1, "key_id")).transpose()?;
    let page = call
        .integer(2)
        .filter(|page| *page >= 1)
        .ok_or_else(|| Error::argument("page", "must be 1 or more"))?;
    let per_page = within(call, 3, "per_page", 1..=1000)?;
    let keyspace = call.required_text(4, "keyspace")?;
    authority::look(needs::usage_logs, |caller| {
        let found = Tenant::find(caller, &tenant, &keyspace)?;
        if let Some(key_id) = &key_id
            && tenant_of(caller, key_id)? != Some(found.id)
        {
            return Err(unknown_key());
        }
        spi::first(
            "SELECT keysmith_private.usage_page($1, $2, $3, $4, $5)",
            &[
                Param::uuid(&found.id),
                Param::uuid_or_null(key_id.as_ref()),
                Param::integer(Some(page)),
                Param::integer(Some(per_page)),
                caller.environment(),
            ],
            |row| row.transferred(1),
        )
    })
}

/// The totals of one hour or day.
pub struct Total {
    /// Its beginning, in UTC.
    pub at: String,
    pub requests: i64,
    pub refused: i64,
    pub spend: i64,
    /// The amounts of units, as a JSON object.
    pub units: String,
}

/// The totals of a tenant, or of one of its keys, by hour or by day.
pub fn totals(
    tenant_id: &[u8; 16],
    keyspace: &str,
    key_id: Option<&[u8; 16]>,
    per: &str,
    since: Option<&str>,
    until: Option<&str>,
) -> Result<Vec<Total>> {
    /// The most hours or days of one answer, and those of an answer without bounds.
    const MOST: i32 = 1000;
    let usual = match per {
        "hour" => 24,
        "day" => 30,
        _ => return Err(Error::argument("per", "must be hour or day")),
    };
    authority::look(Needs::Sight, |caller| {
        if !caller.reaches(tenant_id, keyspace) {
            return Err(unknown_key());
        }
        if let Some(key_id) = key_id
            && tenant_of(caller, key_id)? != Some(*tenant_id)
        {
            return Err(unknown_key());
        }
        in_utc();
        spi::all(
            "SELECT pg_catalog.to_jsonb(t.at) #>> '{}', t.requests, t.refused, t.spend, t.units::text
             FROM keysmith_private.usage_totals($1, $2, $3, $4, $5::timestamptz, $6::timestamptz, $7, $8) t",
            &[
                Param::uuid(tenant_id),
                Param::uuid_or_null(key_id),
                caller.environment(),
                Param::text(per),
                Param::text_or_null(since),
                Param::text_or_null(until),
                Param::integer(Some(usual)),
                Param::integer(Some(MOST)),
            ],
            |row| {
                Some(Total {
                    at: row.text(1)?,
                    requests: row.bigint(2)?,
                    refused: row.bigint(3)?,
                    spend: row.bigint(4)?,
                    units: row.text(5)?,
                })
            },
        )
    })
}

fn usage_chart(call: &Call) -> Result<Option<Datum>> {
    let tenant = call.text(0, "tenant")?;
    let per = call.required_text(2, "per")?;
    if !["hour", "day"].contains(&per.as_str()) {
        return Err(Error::argument("per", "must be hour or day"));
    }
    within(call, 3, "bars", 1..=1000)?;
    within(call, 4, "width", 50..=500)?;
    // The years 2000 to 9999, in microseconds since the first of them.
    if call.timestamp(5).is_some_and(|until| !(0..252_455_616_000_000_000).contains(&until)) {
        return Err(Error::argument("until", "must be a time of the years 2000 to 9999"));
    }
    let keyspace = call.required_text(6, "keyspace")?;
    let result = ResultSet::of_values(call);
    authority::look(needs::usage_chart, |caller| {
        let found = tenant.as_ref().map(|tenant| Tenant::find(caller, tenant, &keyspace));
        let found = found.transpose()?.map(|tenant| [tenant.id]);
        let tenants = found.as_ref().map_or(caller.tenants(), |id| Param::uuids(Some(id)));
        spi::query(
            "SELECT keysmith_private.usage_bars($1, $2, $3, $4, $5, $6, $7, $8, $9)",
            &[
                tenants,
                caller.environment(),
                Param::text(&keyspace),
                Param::text_or_null(tenant.as_deref()),
                call.given(1, pg_sys::UUIDOID),
                Param::text(&per),
                Param::integer(call.integer(3)),
                Param::integer(call.integer(4)),
                Param::timestamp(call.timestamp(5)),
            ],
            |rows| rows.put_into(result),
        )
    })?;
    Ok(None)
}

/// An integer that must be within bounds.
fn within(call: &Call, n: usize, name: &str, bounds: RangeInclusive<i32>) -> Result<i32> {
    let rule = || format!("must be {} to {}", bounds.start(), bounds.end());
    let found = call.integer(n).filter(|value| bounds.contains(value));
    found.ok_or_else(|| Error::argument(name, rule()))
}

/// The changes of a key in one table.
struct Touched {
    schema: Option<String>,
    relation: Option<String>,
    rows: Option<i64>,
    first_at: Option<i64>,
    last_at: Option<i64>,
}

fn blast_radius(call: &Call) -> Result<Option<Datum>> {
    let key_id = call.uuid(0, "key_id")?;
    let result = ResultSet::of(call);
    let touched = authority::look(needs::blast_radius, |caller| {
        if tenant_of(caller, &key_id)?.is_none() {
            return Err(unknown_key());
        }
        spi::all(
            "SELECT schema, relation, pg_catalog.sum(rows)::bigint, pg_catalog.min(first_at),
                    pg_catalog.max(last_at)
             FROM keysmith_private.touch WHERE key_id = $1 GROUP BY schema, relation
             ORDER BY 3 DESC NULLS FIRST, 1, 2",
            &[Param::uuid(&key_id)],
            |row| {
                Some(Touched {
                    schema: row.text(1),
                    relation: row.text(2),
                    rows: row.bigint(3),
                    first_at: row.timestamp(4),
                    last_at: row.timestamp(5),
                })
            },
        )
    })?;
    // Names are shown as the caller's search path has them, and tables that are no more
    // as they were called.
    spi::session(|| {
        for touched in &touched {
            spi::query(
                "SELECT CASE WHEN pg_catalog.pg_table_is_visible((
                            SELECT c.oid FROM pg_catalog.pg_class c
                            JOIN pg_catalog.pg_namespace n ON n.oid OPERATOR(pg_catalog.=) c.relnamespace
                            WHERE n.nspname OPERATOR(pg_catalog.=) $1
                              AND c.relname OPERATOR(pg_catalog.=) $2))
                        THEN pg_catalog.quote_ident($2)
                        ELSE pg_catalog.format('%I.%I', $1, $2) END,
                        $3, $4, $5",
                &[
                    Param::text_or_null(touched.schema.as_deref()),
                    Param::text_or_null(touched.relation.as_deref()),
                    Param::bigint(touched.rows),
                    Param::timestamp(touched.first_at),
                    Param::timestamp(touched.last_at),
                ],
                |rows| rows.put_into(result),
            )?;
        }
        Ok(())
    })?;
    Ok(None)
}

/// The tenant of a key that the caller reaches.
fn tenant_of(caller: &Caller, key_id: &[u8; 16]) -> Result<Option<[u8; 16]>> {
    spi::first(
        "SELECT tenant_id FROM keysmith_private.key
         WHERE key_id = $1 AND ($2 IS NULL OR tenant_id = ANY ($2))
           AND ($3 IS NULL OR environment = $3)",
        &[Param::uuid(key_id), caller.tenants(), caller.environment()],
        |row| row.uuid(1),
    )
}

/// The same error for a key of another tenant and for one that does not exist.
fn unknown_key() -> Error {
    Error::not_found("key_id is of no key of the tenant")
}
