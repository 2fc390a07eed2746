//! Credits of keys and tenants: how they are given, changed and taken away.

use super::authority::{self, Caller};
use super::field::{Moment, Within, text_types};
use super::locked_key::LockedKey;
use super::patch::{self, Patch};
use crate::decide::credits as spending;
use keysmith_core::refill::{self, Every};
use pg::clock;
use pg::error::{Code, Error, Result};
use pg::spi::{self, Param, saved};
use serde::de::value::MapAccessDeserializer;
use serde::de::{self, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use std::fmt::{self, Formatter};

const NAME: &str = "credits";

/// The credits that a key or a tenant is given; fields that are not named stay as they are.
#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields, remote = "Self")]
pub struct Credits {
    #[serde(deserialize_with = "patch::not_null")]
    balance: Patch<Within<0, { i64::MAX }>>,
    refill: Patch<Within<1, { i64::MAX }>>,
    every: Patch<Period>,
    anchor: Patch<Anchor>,
    low: Patch<Within<0, { i64::MAX }>>,
}

text_types! {
    Period: is_period, format!("must be one of: {}", Every::NAMES.join(", "));
}

fn is_period(text: &str) -> bool {
    Every::parse(text.as_bytes()).is_some()
}

/// A moment from which periods count.
#[derive(Clone, Copy, Deserialize, Serialize)]
#[serde(try_from = "Moment")]
pub struct Anchor(pub i64);

impl TryFrom<Moment> for Anchor {
    type Error = &'static str;

    fn try_from(Moment(moment): Moment) -> Result<Anchor, &'static str> {
        let is_finite = ![i64::MIN, i64::MAX].contains(&moment);
        is_finite.then_some(Anchor(moment)).ok_or("must be a moment, not infinity")
    }
}

/// The refills of the credits of a new key.
#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields, expecting = r#"an object such as {"amount": 50, "every": "month"}"#)]
pub struct Refill {
    pub amount: Within<1, { i64::MAX }>,
    pub every: Period,
    #[serde(default)]
    pub anchor: Option<Anchor>,
    /// The threshold of `credits.low`.
    #[serde(default)]
    pub low: Option<Within<0, { i64::MAX }>>,
}

const EXPECTED: &str =
    r#"a whole number, or an object such as {"balance": 100, "refill": 50, "every": "month"}"#;

impl<'de> Deserialize<'de> for Credits {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Reader;

        impl<'de> Visitor<'de> for Reader {
            type Value = Credits;

            fn expecting(&self, formatter: &mut Formatter) -> fmt::Result {
                formatter.write_str(EXPECTED)
            }

            fn visit_i64<E: de::Error>(self, balance: i64) -> Result<Credits, E> {
                Credits::plain(balance).map_err(E::custom)
            }

            fn visit_map<A: MapAccess<'de>>(self, fields: A) -> Result<Credits, A::Error> {
                let credits = Credits::deserialize(MapAccessDeserializer::new(fields))?;
                match &credits {
                    Credits {
                        balance: Patch::Absent,
                        refill: Patch::Absent,
                        every: Patch::Absent,
                        anchor: Patch::Absent,
                        low: Patch::Absent,
                    } => Err(de::Error::custom(format!("must be {EXPECTED}"))),
                    _ => Ok(credits),
                }
            }
        }

        deserializer.deserialize_any(Reader)
    }
}

/// A key or a tenant that has credits.
#[derive(Clone, Copy)]
pub enum CreditHolder<'a> {
    Key(&'a [u8; 16]),
    Tenant(&'a [u8; 16]),
}

impl CreditHolder<'_> {
    /// `$1`, the key, and `$2`, the tenant.
    fn params(&self) -> [Param<'_>; 2] {
        let none = Param::uuid_or_null(None);
        match self {
            CreditHolder::Key(id) => [Param::uuid(id), none],
            CreditHolder::Tenant(id) => [none, Param::uuid(id)],
        }
    }
}

impl Credits {
    /// A balance without refills.
    fn plain(balance: i64) -> Result<Credits, &'static str> {
        let balance = Patch::Value(Within(self::balance(balance)?));
        Ok(Credits { balance, ..Credits::default() })
    }

    /// Whether the patch names the threshold alone, so that all else stays as it is stored.
    fn is_low_alone(&self) -> bool {
        let Credits { balance, refill, every, anchor, low } = self;
        let is_unchanged = balance.is_absent() && refill.is_absent() && every.is_absent();
        is_unchanged && anchor.is_absent() && !low.is_absent()
    }

    /// The credits after the change; `held` are those before.
    fn applied(&self, held: Option<&Held>) -> Result<Held> {
        let had_refill = held.and_then(|held| held.refill);
        let had_every = held.and_then(|held| held.every.clone());
        let (refill, every) = (self.refill.change(), self.every.change());
        // To take away one of both is to take away both.
        let (refill, every) = match (refill, every) {
            (Some(None), None | Some(None)) | (None, Some(None)) => (None, None),
            (refill, every) => (
                refill.map_or(had_refill, |refill| refill.map(|refill| refill.0)),
                every.map_or(had_every, |every| every.map(|every| every.0.clone())),
            ),
        };
        if refill.is_some() != every.is_some() {
            return Err(Error::argument(NAME, "must have refill and every, both or neither"));
        }
        let anchor = match self.anchor.change() {
            Some(Some(_)) if every.is_none() => {
                return Err(Error::argument(NAME, "must have refill and every if it has anchor"));
            }
            Some(anchor) => anchor.map(|anchor| anchor.0),
            None => held.and_then(|held| held.anchor).filter(|_| every.is_some()),
        };
        let low = match self.low.change() {
            Some(low) => low.map(|low| low.0),
            None => held.and_then(|held| held.low),
        };
        // The first refill is there from the start.
        let given = self.balance.value().map(|balance| balance.0);
        let balance = given.or(held.map(|held| held.balance)).or(refill);
        let balance =
            balance.ok_or_else(|| Error::argument(NAME, format!("must be {EXPECTED}")))?;
        // A new period begins now: it must not bring a refill at once.
        let keeps_period =
            self.refill.is_absent() && self.every.is_absent() && self.anchor.is_absent();
        let refilled_at = held.filter(|_| keeps_period).and_then(|held| held.refilled_at);
        let told = held.filter(|held| balance <= held.balance).map(|held| held.told);
        let told = told.unwrap_or_default();
        let is_threshold_kept = held.is_some_and(|held| held.low == low);
        let told = refill::Crossing { low: told.low && is_threshold_kept, ..told };
        Ok(Held { balance, refill, every, anchor, low, refilled_at, told })
    }
}

/// Checks a balance that is given. The error completes "credits …".
pub fn balance(balance: i64) -> Result<i64, &'static str> {
    if balance < 0 { Err("must not be negative") } else { Ok(balance) }
}

/// The credits of a holder, with a refill that is due.
#[derive(Default)]
struct Held {
    balance: i64,
    /// The balance after a refill, and the period.
    refill: Option<i64>,
    every: Option<String>,
    anchor: Option<i64>,
    low: Option<i64>,
    /// The time of the last refill; `None` if that is now.
    refilled_at: Option<i64>,
    /// The events that were made since they were last added or refilled.
    told: refill::Crossing,
}

impl Held {
    /// Reads and locks them: acts and requests that spend take turns. Acts that give the first
    /// credits take turns at the row of the key or tenant.
    fn lock(holder: CreditHolder) -> Result<Option<Held>> {
        if let CreditHolder::Key(key_id) = holder {
            spi::execute(
                saved!("SELECT FROM keysmith_private.key WHERE key_id = $1 FOR NO KEY UPDATE"),
                &[Param::uuid(key_id)],
            )?;
        }
        spi::first(
            saved!(
                "SELECT balance, refill, every, anchor, low, refilled_at, told_low, told
                 FROM keysmith_private.credit WHERE key_id = $1 OR tenant_id = $2 FOR UPDATE"
            ),
            &holder.params(),
            |row| {
                let (refill, every, anchor) = (row.bigint(2), row.text(3), row.timestamp(4));
                let parsed = every.as_deref().and_then(|every| Every::parse(every.as_bytes()));
                let credits = refill::Credits {
                    balance: row.bigint(1)?,
                    refill,
                    period: parsed.map(|every| refill::Period { every, anchor }),
                    refilled_at: row.timestamp(6)?,
                };
                let (balance, refilled_at) = credits.at(clock::now());
                let told = match refilled_at == credits.refilled_at {
                    true => refill::Crossing { low: row.boolean(7), exhausted: row.boolean(8) },
                    false => refill::Crossing::default(),
                };
                let (low, refilled_at) = (row.bigint(5), Some(refilled_at));
                Some(Held { balance, refill, every, anchor, low, refilled_at, told })
            },
        )
    }

    /// Stores them; `before` was the balance, if there was one.
    fn store(&self, holder: CreditHolder, before: Option<i64>) -> Result<()> {
        macro_rules! store {
            ($column:literal) => {
                saved!(concat!(
                    "INSERT INTO keysmith_private.credit (
                         key_id, tenant_id, balance, refill, every, refilled_at, anchor, low, told,
                         told_low)
                     VALUES ($1, $2, $3, $4, $5, coalesce($6, pg_catalog.clock_timestamp()), $7, $8, $9, $10)
                     ON CONFLICT (",
                    $column,
                    ") DO UPDATE SET balance = excluded.balance, refill = excluded.refill,
                         every = excluded.every, refilled_at = excluded.refilled_at,
                         anchor = excluded.anchor, low = excluded.low,
                         told = excluded.told, told_low = excluded.told_low
                     RETURNING credit_id"
                ))
            };
        }
        let statement = match holder {
            CreditHolder::Key(_) => store!("key_id"),
            CreditHolder::Tenant(_) => store!("tenant_id"),
        };
        let [key, tenant] = holder.params();
        let before = before.unwrap_or(self.balance);
        let credit_id = spi::first(
            statement,
            &[
                key,
                tenant,
                Param::bigint(Some(self.balance)),
                Param::bigint(self.refill),
                Param::text_or_null(self.every.as_deref()),
                Param::timestamp(self.refilled_at),
                Param::timestamp(self.anchor),
                Param::bigint(self.low),
                Param::boolean(self.told.exhausted),
                Param::boolean(self.told.low),
            ],
            |row| row.uuid(1),
        )?;
        match credit_id {
            Some(credit_id) => spending::note_fall(&credit_id, before, self.balance),
            None => Ok(()),
        }
    }
}

/// Only administrators give credits. Issuers and keys would give them to themselves.
pub fn must_administer(caller: &Caller) -> Result<()> {
    match caller.administers() {
        true => Ok(()),
        false => Err(authority::not_allowed("credits can be given by administrators alone")),
    }
}

/// Changes the credits of a holder, or takes them away.
pub fn set(caller: &Caller, holder: CreditHolder, credits: Option<&Credits>) -> Result<()> {
    must_administer(caller)?;
    give(holder, credits)
}

/// The same, whoever calls: a host gives a new tenant its first credits.
pub fn give(holder: CreditHolder, credits: Option<&Credits>) -> Result<()> {
    match credits {
        Some(credits) => {
            let held = Held::lock(holder)?;
            if held.is_some() && credits.is_low_alone() {
                return set_low(holder, credits.low.value().map(|low| low.0));
            }
            let before = held.as_ref().map(|held| held.balance);
            credits.applied(held.as_ref())?.store(holder, before)
        }
        None => spi::execute(
            saved!("DELETE FROM keysmith_private.credit WHERE key_id = $1 OR tenant_id = $2"),
            &holder.params(),
        )
        .map(|_| ()),
    }
}

/// The balance makes no event if it is at the threshold already.
fn set_low(holder: CreditHolder, low: Option<i64>) -> Result<()> {
    let [key, tenant] = holder.params();
    spi::execute(
        saved!(
            "UPDATE keysmith_private.credit
             SET low = $3, told_low = told_low AND low IS NOT DISTINCT FROM $3
             WHERE key_id = $1 OR tenant_id = $2"
        ),
        &[key, tenant, Param::bigint(low)],
    )
    .map(|_| ())
}

/// The same for an existing key. If it spent the credits of the key that made it, from now on it
/// spends its own, or its tenant's. If a key loses its credits, the keys that it made lose them too.
pub fn set_for_key(caller: &Caller, subject: &LockedKey, credits: Option<&Credits>) -> Result<()> {
    set(caller, CreditHolder::Key(&subject.origin), credits)?;
    spi::execute(
        saved!(
            "UPDATE keysmith_private.key SET purse = NULL
             WHERE tenant_id = $1 AND purse IS NOT NULL
               AND (coalesce(origin, key_id) = $2 OR $3 AND purse = $2)"
        ),
        &[
            Param::uuid(&subject.tenant_id),
            Param::uuid(&subject.origin),
            Param::boolean(credits.is_none()),
        ],
    )?;
    Ok(())
}

/// Adds to the credits of a holder, or gives it its first credits. A negative amount takes away, but
/// never leaves less than nothing.
pub fn add(holder: CreditHolder, amount: i64) -> Result<i64> {
    let held = Held::lock(holder)?;
    if held.is_none() && matches!(holder, CreditHolder::Key(_)) {
        pgrx::notice!(
            "the key had no own credits; from now on it spends these, and not its tenant's"
        );
    }
    let before = held.as_ref().map_or(0, |held| held.balance);
    let balance = before.checked_add(amount).ok_or_else(|| {
        Error::argument("amount", format!("is too much: {before} are held already"))
    })?;
    if amount < 0 && balance < 0 {
        let message =
            format!("{before} credits are held, and {} can't be taken", -i128::from(amount));
        return Err(Error::new(Code::Conflict, message));
    }
    let held = held.unwrap_or_default();
    let told = if amount < 0 { held.told } else { Default::default() };
    Held { balance, told, ..held }.store(holder, Some(before))?;
    Ok(balance)
}
