//! Credits: how they are given to keys and tenants, and how they are spent.

use super::authority::{self, Caller};
use super::locked_key::LockedKey;
use super::patch::{self, Change, Patch};
use keysmith_core::refill::Every;
use pg::call::Call;
use pg::error::{Error, Result};
use pg::spi::{self, Param};
use serde_json::Value;

const NAME: &str = "credits";

/// What a key or a tenant is given; what is not named stays as it is.
pub struct Credits {
    balance: Option<i64>,
    refill: Change<i64>,
    every: Change<String>,
}

/// Who has credits.
#[derive(Clone, Copy)]
pub enum Holder<'a> {
    Key(&'a [u8; 16]),
    Tenant(&'a [u8; 16]),
}

impl Holder<'_> {
    /// `$1`, the key, and `$2`, the tenant.
    fn params(&self) -> [Param<'_>; 2] {
        let none = Param::uuid_or_null(None);
        match self {
            Holder::Key(id) => [Param::uuid(id), none],
            Holder::Tenant(id) => [none, Param::uuid(id)],
        }
    }
}

impl Credits {
    /// So many.
    pub fn plain(balance: i64) -> Result<Credits> {
        if balance < 0 {
            return Err(Error::argument(NAME, "must not be negative"));
        }
        Ok(Credits { balance: Some(balance), refill: None, every: None })
    }

    /// An argument of type jsonb.
    pub fn given(call: &Call, n: usize) -> Result<Option<Credits>> {
        match call.jsonb(n) {
            None => Ok(None),
            Some(json) => Credits::read(patch::parse(NAME, json)?).map(Some),
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
        let fields = match value {
            Value::Number(number) => return Credits::plain(number.as_i64().ok_or_else(mistyped)?),
            Value::Object(fields) if !fields.is_empty() => fields,
            _ => return Err(mistyped()),
        };
        let mut fields = Patch::new(NAME, fields);
        let balance = fields.bigint("balance")?;
        let refill = fields.bigint("refill")?;
        let every = fields.text("every")?;
        fields.finish()?;
        if balance.is_some_and(|balance| balance.is_none_or(|balance| balance < 0)) {
            return Err(Error::argument("credits.balance", "must be 0 or more"));
        }
        if refill.flatten().is_some_and(|refill| refill < 1) {
            return Err(Error::argument("credits.refill", "must be 1 or more, or null"));
        }
        let is_period = |every: &String| Every::parse(every.as_bytes()).is_some();
        if every.as_ref().is_some_and(|every| !every.as_ref().is_none_or(is_period)) {
            let names = Every::NAMES.join(", ");
            return Err(Error::argument("credits.every", format!("must be {names} or null")));
        }
        Ok(Credits { balance: balance.flatten(), refill, every })
    }

    /// What there is after the change, if before it there was `held`.
    fn applied(&self, held: Option<Held>) -> Result<Held> {
        let (balance, had) = match held {
            Some(held) => (Some(held.balance), held.refill),
            None => (None, None),
        };
        let (had_refill, had_every) = had.unzip();
        // To take away one of both is to take away both.
        let refill = match (&self.refill, &self.every) {
            (Some(None), None | Some(None)) | (None, Some(None)) => None,
            (refill, every) => {
                let refill = refill.unwrap_or(had_refill);
                let every = every.clone().unwrap_or(had_every);
                if refill.is_some() != every.is_some() {
                    return Err(Error::argument(
                        NAME,
                        "must have refill and every, both or neither",
                    ));
                }
                refill.zip(every)
            }
        };
        // The first refill is there from the start.
        let balance = self.balance.or(balance).or(refill.as_ref().map(|(refill, _)| *refill));
        Ok(Held { balance: balance.ok_or_else(mistyped)?, refill })
    }
}

fn mistyped() -> Error {
    Error::argument(NAME, "must be a whole number, or an object with a balance or refills")
        .hint(r#"Such as 100, or {"balance": 100, "refill": 50, "every": "month"}."#)
}

/// What a holder has, a refill that is due included.
struct Held {
    balance: i64,
    /// To how many, and when.
    refill: Option<(i64, String)>,
}

impl Held {
    /// Locked, so that acts and requests that spend take turns. Those that give the first
    /// credits do so at the row of the key or tenant that gets them.
    fn lock(holder: Holder) -> Result<Option<Held>> {
        if let Holder::Key(key_id) = holder {
            spi::execute(
                "SELECT FROM keysmith_private.key WHERE key_id = $1 FOR NO KEY UPDATE",
                &[Param::uuid(key_id)],
            )?;
        }
        spi::first(
            "SELECT keysmith_private.credits_at(
                        balance, refill, every, refilled_at, pg_catalog.clock_timestamp()),
                    refill, every
             FROM keysmith_private.credit WHERE key_id = $1 OR tenant_id = $2 FOR UPDATE",
            &holder.params(),
            |row| Some(Held { balance: row.bigint(1)?, refill: row.bigint(2).zip(row.text(3)) }),
        )
    }

    fn store(&self, holder: Holder) -> Result<()> {
        let column = match holder {
            Holder::Key(_) => "key_id",
            Holder::Tenant(_) => "tenant_id",
        };
        let mut params = Vec::from(holder.params());
        let refill = self.refill.as_ref();
        params.extend([
            Param::bigint(Some(self.balance)),
            Param::bigint(refill.map(|(refill, _)| *refill)),
            Param::text_or_null(refill.map(|(_, every)| every.as_str())),
        ]);
        spi::execute(
            &format!(
                "INSERT INTO keysmith_private.credit (
                     key_id, tenant_id, balance, refill, every, refilled_at)
                 VALUES ($1, $2, $3, $4, $5, pg_catalog.clock_timestamp())
                 ON CONFLICT ({column}) DO UPDATE SET balance = excluded.balance,
                     refill = excluded.refill, every = excluded.every,
                     refilled_at = excluded.refilled_at"
            ),
            &params,
        )?;
        Ok(())
    }
}

/// Changes the credits of a holder, or takes them away. Credits are the administrators'
/// to give: issuers and keys would give them to themselves.
pub fn set(caller: &Caller, holder: Holder, credits: Option<&Credits>) -> Result<()> {
    if !caller.administers() {
        return Err(authority::not_allowed("credits can be given by administrators alone"));
    }
    match credits {
        Some(credits) => credits.applied(Held::lock(holder)?)?.store(holder),
        None => spi::execute(
            "DELETE FROM keysmith_private.credit WHERE key_id = $1 OR tenant_id = $2",
            &holder.params(),
        )
        .map(|_| ()),
    }
}

/// The same for a key that is there. One that spent the credits of the key that gave it has
/// its own from now on, or its tenant's. If a key loses its credits, so do the keys
/// that it gave.
pub fn set_for_key(caller: &Caller, subject: &LockedKey, credits: Option<&Credits>) -> Result<()> {
    set(caller, Holder::Key(&subject.origin), credits)?;
    spi::execute(
        "UPDATE keysmith_private.key SET purse = NULL
         WHERE tenant_id = $1 AND purse IS NOT NULL
           AND (coalesce(origin, key_id) = $2 OR $3 AND purse = $2)",
        &[
            Param::uuid(&subject.tenant_id),
            Param::uuid(&subject.origin),
            Param::boolean(credits.is_none()),
        ],
    )?;
    Ok(())
}

/// Adds to what a holder has, or gives it its first credits.
pub fn add(holder: Holder, amount: i64) -> Result<i64> {
    let held = Held::lock(holder)?;
    if held.is_none() && matches!(holder, Holder::Key(_)) {
        pgrx::notice!(
            "the key had no credits of its own; from now on it spends these, and not its tenant's"
        );
    }
    let mut held = held.unwrap_or(Held { balance: 0, refill: None });
    held.balance = held.balance.checked_add(amount).ok_or_else(|| {
        Error::argument("amount", format!("is too much: {} are held already", held.balance))
    })?;
    held.store(holder)?;
    Ok(held.balance)
}
