//! Credits: how they are given to keys and tenants, and how they are spent.

use super::authority::{self, Caller, Needs};
use super::key;
use super::keyspace::policy;
use super::lifecycle::Subjected;
use super::patch::{self, Change, Patch};
use super::sql::{self, Param};
use super::tenant::Tenant;
use crate::audit::{Act, Subject};
use crate::call::{Call, must_not_be_null, sql_functions};
use crate::catalog::Catalog;
use crate::error::{Error, Result};
use keysmith_core::refill::Every;
use pgrx::pg_sys::{self, Datum};
use serde_json::Value;

sql_functions! {
    keysmith_add_credits => add_credits;
}

const NAME: &str = "credits";

/// What a key or a tenant is given.
pub struct Credits {
    balance: i64,
    refill: Option<i64>,
    every: Option<String>,
}

/// Who has credits.
#[derive(Clone, Copy)]
pub enum Holder<'a> {
    Key(&'a [u8; 16]),
    Tenant(&'a [u8; 16]),
}

impl Holder<'_> {
    /// `$1`, the key, and `$2`, the tenant.
    fn params(self) -> [Param; 2] {
        let none = || Param::given(pg_sys::UUIDOID, None);
        match self {
            Holder::Key(id) => [Param::uuid(id), none()],
            Holder::Tenant(id) => [none(), Param::uuid(id)],
        }
    }
}

impl Credits {
    /// So many, and no refills.
    pub fn plain(balance: i64) -> Result<Credits> {
        if balance < 0 {
            return Err(Error::argument(NAME, "must not be negative"));
        }
        Ok(Credits { balance, refill: None, every: None })
    }

    /// An argument of type jsonb.
    pub fn given(call: &Call, n: usize) -> Result<Option<Credits>> {
        match call.datum(n) {
            None => Ok(None),
            Some(datum) => Credits::read(patch::parse(NAME, datum)?).map(Some),
        }
    }

    /// A field of a patch; null takes credits away, so that none are held at all.
    pub fn changed(patch: &mut Patch) -> Result<Change<Credits>> {
        match patch.value(NAME)? {
            None => Ok(None),
            Some(Value::Null) => Ok(Some(None)),
            Some(value) => Credits::read(value).map(|credits| Some(Some(credits))),
        }
    }

    /// `100`, or `{"balance": 100, "refill": 50, "every": "month"}`
    fn read(value: Value) -> Result<Credits> {
        let mistyped = || {
            Error::argument(NAME, "must be a whole number, or an object with a balance or refills")
                .hint(r#"Such as 100, or {"balance": 100, "refill": 50, "every": "month"}."#)
        };
        let fields = match value {
            Value::Number(number) => return Credits::plain(number.as_i64().ok_or_else(mistyped)?),
            Value::Object(fields) => fields,
            _ => return Err(mistyped()),
        };
        let mut fields = Patch::new(NAME, fields);
        let balance = fields.bigint("balance")?.flatten();
        let refill = fields.bigint("refill")?.flatten();
        let every = fields.text("every")?.flatten();
        fields.finish()?;
        if refill.is_some() != every.is_some() {
            return Err(Error::argument(NAME, "must have refill and every, both or neither"));
        }
        if refill.is_some_and(|refill| refill < 1) {
            return Err(Error::argument("credits.refill", "must be 1 or more"));
        }
        if every.as_ref().is_some_and(|every| Every::parse(every.as_bytes()).is_none()) {
            let names = Every::NAMES.join(" or ");
            return Err(Error::argument("credits.every", format!("must be {names}")));
        }
        // The first refill is there from the start.
        let balance = balance.or(refill).ok_or_else(mistyped)?;
        Ok(Credits { refill, every, ..Credits::plain(balance)? })
    }
}

/// Gives credits to a holder in place of what it has. Credits are the administrators'
/// to give: issuers and keys would give them to themselves.
pub fn set(caller: &Caller, holder: Holder, credits: Option<&Credits>) -> Result<()> {
    if !caller.administers() {
        return Err(authority::not_allowed("credits can be given by administrators alone"));
    }
    let mut params = Vec::from(holder.params());
    let Some(credits) = credits else {
        sql::execute(
            "DELETE FROM keysmith_private.credit WHERE key_id = $1 OR tenant_id = $2",
            &params,
        )?;
        return Ok(());
    };
    params.extend([
        Param::bigint(Some(credits.balance)),
        Param::bigint(credits.refill),
        Param::text_or_null(credits.every.as_deref()),
    ]);
    upsert(
        holder,
        "INSERT INTO keysmith_private.credit (key_id, tenant_id, balance, refill, every, refilled_at)
         VALUES ($1, $2, $3, $4, $5, pg_catalog.clock_timestamp())",
        "balance = excluded.balance, refill = excluded.refill, every = excluded.every,
         refilled_at = excluded.refilled_at",
        &params,
    )?;
    Ok(())
}

/// Writes the row of a holder, and gives the balance.
fn upsert(holder: Holder, insert: &str, update: &str, params: &[Param]) -> Result<Option<i64>> {
    let column = match holder {
        Holder::Key(_) => "key_id",
        Holder::Tenant(_) => "tenant_id",
    };
    let statement =
        format!("{insert} ON CONFLICT ({column}) DO UPDATE SET {update} RETURNING balance");
    Ok(sql::query(&statement, params)?.first().and_then(|row| row.bigint(1)))
}

/// Spends credits, if there are as many, and gives how many are left. A refill that is
/// due comes first. Sessions that spend at once take turns at the row, and the second
/// sees what the first has left: the condition is asked again then.
pub fn spend(catalog: &Catalog, credit_id: &[u8; 16], spend: i64) -> Result<Option<i64>> {
    const STATEMENT: &str = "UPDATE keysmith_private.credit AS c
         SET balance = CASE WHEN c.refilled_at < pg_catalog.date_trunc(c.every, $3, 'UTC')
                 THEN greatest(c.balance, c.refill) ELSE c.balance END - $2,
             refilled_at = CASE WHEN c.refilled_at < pg_catalog.date_trunc(c.every, $3, 'UTC')
                 THEN $3 ELSE c.refilled_at END
         WHERE c.credit_id = $1
           AND $2 <= CASE WHEN c.refilled_at < pg_catalog.date_trunc(c.every, $3, 'UTC')
                 THEN greatest(c.balance, c.refill) ELSE c.balance END
         RETURNING c.balance";
    authority::as_owner(catalog, || {
        let params = [
            Param::uuid(credit_id),
            Param::bigint(Some(spend)),
            Param::timestamp(Some(key::clock())),
        ];
        Ok(sql::query(STATEMENT, &params)?.first().and_then(|row| row.bigint(1)))
    })
}

fn add_credits(call: &Call) -> Result<Option<Datum>> {
    let amount = call.bigint(0).ok_or_else(|| must_not_be_null("amount"))?;
    let key_id = call.datum(1).map(|_| call.uuid(1, "key_id")).transpose()?;
    let tenant = call.text(2, "tenant")?;
    let keyspace = call.required_text(3, "keyspace")?;
    if amount < 1 {
        return Err(Error::argument("amount", "must be 1 or more"));
    }
    let balance = authority::act(Needs::Admin, |caller| match (&key_id, &tenant) {
        (Some(key_id), None) => {
            let subject = Subjected::lock(caller, key_id)?;
            let act = Act::on(caller, &subject.keyspace, Subject::Key(key_id))?;
            let balance = add(Holder::Key(&subject.origin), amount)?;
            act.done("add_credits")?;
            Ok(balance)
        }
        (None, Some(tenant)) => {
            policy(caller, &keyspace)?;
            let id = Tenant::lock(caller, tenant, &keyspace)?.id;
            let act = Act::on(caller, &keyspace, Subject::Tenant(tenant))?;
            let balance = add(Holder::Tenant(&id), amount)?;
            act.done("add_credits")?;
            Ok(balance)
        }
        _ => Err(Error::argument("key_id", "or tenant must be given, and not both")),
    })?;
    Ok(balance.map(Datum::from))
}

/// Adds to what a holder has, or gives it its first credits.
fn add(holder: Holder, amount: i64) -> Result<Option<i64>> {
    // A sum that no bigint holds is not added up.
    let rows = sql::query(
        "SELECT balance FROM keysmith_private.credit WHERE (key_id = $1 OR tenant_id = $2) FOR UPDATE",
        &holder.params(),
    )?;
    let held = rows.first().and_then(|row| row.bigint(1)).unwrap_or(0);
    if held.checked_add(amount).is_none() {
        return Err(Error::argument("amount", format!("is too much: {held} are held already")));
    }
    let mut params = Vec::from(holder.params());
    params.push(Param::bigint(Some(amount)));
    upsert(
        holder,
        "INSERT INTO keysmith_private.credit AS c (key_id, tenant_id, balance) VALUES ($1, $2, $3)",
        "balance = CASE
             WHEN c.refilled_at < pg_catalog.date_trunc(c.every, excluded.refilled_at, 'UTC')
             THEN greatest(c.balance, c.refill) ELSE c.balance END + excluded.balance,
         refilled_at = CASE
             WHEN c.refilled_at < pg_catalog.date_trunc(c.every, excluded.refilled_at, 'UTC')
             THEN excluded.refilled_at ELSE c.refilled_at END",
        &params,
    )
}
