//! Credits of keys and tenants: how they are given, changed and taken away.

use super::authority::{self, Caller};
use super::field::{Within, text_types};
use super::locked_key::LockedKey;
use super::patch::{self, Patch};
use keysmith_core::refill::Every;
use pg::error::{Error, Result};
use pg::spi::{self, Param, saved};
use serde::de::value::MapAccessDeserializer;
use serde::de::{self, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
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
}

text_types! {
    Period: is_period, format!("must be one of: {}", Every::NAMES.join(", "));
}

fn is_period(text: &str) -> bool {
    Every::parse(text.as_bytes()).is_some()
}

/// The refills of the credits of a new key.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, expecting = r#"an object such as {"amount": 50, "every": "month"}"#)]
pub struct Refill {
    pub amount: Within<1, { i64::MAX }>,
    pub every: Period,
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

    /// The credits after the change; `held` are those before.
    fn applied(&self, held: Option<HeldCredits>) -> Result<HeldCredits> {
        let (balance, had) = match held {
            Some(held) => (Some(held.balance), held.refill),
            None => (None, None),
        };
        let (had_refill, had_every) = had.unzip();
        let (refill, every) = (self.refill.change(), self.every.change());
        // To take away one of both is to take away both.
        let refill = match (refill, every) {
            (Some(None), None | Some(None)) | (None, Some(None)) => None,
            (refill, every) => {
                let refill = refill.map_or(had_refill, |refill| refill.map(|refill| refill.0));
                let every = every.map_or(had_every, |every| every.map(|every| every.0.clone()));
                if refill.is_some() != every.is_some() {
                    return Err(Error::argument(
                        NAME,
                        "must have refill and every, both or neither",
                    ));
                }
                refill.zip(every)
            }
        };
        let given = self.balance.value().map(|balance| balance.0);
        // The first refill is there from the start.
        let balance = given.or(balance).or(refill.as_ref().map(|(refill, _)| *refill));
        let balance =
            balance.ok_or_else(|| Error::argument(NAME, format!("must be {EXPECTED}")))?;
        Ok(HeldCredits { balance, refill })
    }
}

/// Checks a balance that is given. The error completes "credits …".
pub fn balance(balance: i64) -> Result<i64, &'static str> {
    if balance < 0 { Err("must not be negative") } else { Ok(balance) }
}

/// The credits of a holder, with a refill that is due.
struct HeldCredits {
    balance: i64,
    /// The balance after a refill, and the period.
    refill: Option<(i64, String)>,
}

impl HeldCredits {
    /// Reads and locks them: acts and requests that spend take turns. Acts that give the first
    /// credits take turns at the row of the key or tenant.
    fn lock(holder: CreditHolder) -> Result<Option<HeldCredits>> {
        if let CreditHolder::Key(key_id) = holder {
            spi::execute(
                saved!("SELECT FROM keysmith_private.key WHERE key_id = $1 FOR NO KEY UPDATE"),
                &[Param::uuid(key_id)],
            )?;
        }
        spi::first(
            saved!(
                "SELECT keysmith_private.credits_at(
                            balance, refill, every, refilled_at, pg_catalog.clock_timestamp()),
                        refill, every
                 FROM keysmith_private.credit WHERE key_id = $1 OR tenant_id = $2 FOR UPDATE"
            ),
            &holder.params(),
            |row| {
                Some(HeldCredits {
                    balance: row.bigint(1)?,
                    refill: row.bigint(2).zip(row.text(3)),
                })
            },
        )
    }

    fn store(&self, holder: CreditHolder) -> Result<()> {
        macro_rules! store {
            ($column:literal) => {
                saved!(concat!(
                    "INSERT INTO keysmith_private.credit (
                         key_id, tenant_id, balance, refill, every, refilled_at)
                     VALUES ($1, $2, $3, $4, $5, pg_catalog.clock_timestamp())
                     ON CONFLICT (",
                    $column,
                    ") DO UPDATE SET balance = excluded.balance, refill = excluded.refill,
                         every = excluded.every, refilled_at = excluded.refilled_at"
                ))
            };
        }
        let statement = match holder {
            CreditHolder::Key(_) => store!("key_id"),
            CreditHolder::Tenant(_) => store!("tenant_id"),
        };
        let [key, tenant] = holder.params();
        let refill = self.refill.as_ref();
        spi::execute(
            statement,
            &[
                key,
                tenant,
                Param::bigint(Some(self.balance)),
                Param::bigint(refill.map(|(refill, _)| *refill)),
                Param::text_or_null(refill.map(|(_, every)| every.as_str())),
            ],
        )?;
        Ok(())
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
        Some(credits) => credits.applied(HeldCredits::lock(holder)?)?.store(holder),
        None => spi::execute(
            saved!("DELETE FROM keysmith_private.credit WHERE key_id = $1 OR tenant_id = $2"),
            &holder.params(),
        )
        .map(|_| ()),
    }
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

/// Adds to the credits of a holder, or gives it its first credits.
pub fn add(holder: CreditHolder, amount: i64) -> Result<i64> {
    let held = HeldCredits::lock(holder)?;
    if held.is_none() && matches!(holder, CreditHolder::Key(_)) {
        pgrx::notice!(
            "the key had no own credits; from now on it spends these, and not its tenant's"
        );
    }
    let mut held = held.unwrap_or(HeldCredits { balance: 0, refill: None });
    held.balance = held.balance.checked_add(amount).ok_or_else(|| {
        Error::argument("amount", format!("is too much: {} are held already", held.balance))
    })?;
    held.store(holder)?;
    Ok(held.balance)
}
