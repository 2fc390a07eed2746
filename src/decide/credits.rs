//! Credits: who pays for a request, and whether they can.

use super::toll::Account;
use crate::catalog::policy::Policy;
use crate::catalog::scan::{Relation, ScanKey, Snapshot};
use crate::catalog::tables::Table;
use crate::catalog::{Catalog, columns};
use crate::error::Result;
use crate::manage::credits;
use keysmith_core::refill::{self, Every};
use pgrx::pg_sys;

/// What became of a charge.
pub enum Charge {
    /// There was nothing to pay, here and now.
    Nothing,
    Spent {
        left: i64,
    },
    /// How many are left, if there were any, and when a refill will do, in microseconds.
    Exhausted {
        left: Option<i64>,
        retry_after: Option<i64>,
    },
    /// Nothing can be written, so nothing can be spent.
    Unavailable,
}

/// The credits of a key or of a tenant.
struct Purse {
    credit_id: [u8; 16],
    balance: i64,
    refill: Option<i64>,
    every: Option<Every>,
    refilled_at: i64,
}

/// Spends credits, if the request costs some and its environment charges. What is spent
/// comes back if the transaction is rolled back.
pub fn charge(catalog: &Catalog, policy: &Policy, account: &Account, spend: i64) -> Result<Charge> {
    if spend == 0 || !policy.charges(account.environment) {
        return Ok(Charge::Nothing);
    }
    if !can_write() {
        return Ok(Charge::Unavailable);
    }
    let Some(purse) = Purse::of(catalog, account) else {
        return Ok(Charge::Exhausted { left: None, retry_after: None });
    };
    Ok(match credits::spend(catalog, &purse.credit_id, spend)? {
        Some(left) => Charge::Spent { left },
        None => purse.exhausted(spend),
    })
}

/// Says what `charge` would do, and spends nothing.
pub fn look(catalog: &Catalog, policy: &Policy, account: &Account, spend: i64) -> Charge {
    if spend == 0 || !policy.charges(account.environment) {
        return Charge::Nothing;
    }
    if !can_write() {
        return Charge::Unavailable;
    }
    let Some(purse) = Purse::of(catalog, account) else {
        return Charge::Exhausted { left: None, retry_after: None };
    };
    match purse.balance_at(now()).checked_sub(spend) {
        Some(left) if left >= 0 => Charge::Spent { left },
        _ => purse.exhausted(spend),
    }
}

impl Purse {
    /// That of the key that gave it, or the key's own, or else its tenant's.
    fn of(catalog: &Catalog, account: &Account) -> Option<Purse> {
        use columns::credit as column;
        let tables = &catalog.tables;
        let of_key = |key| Self::find(tables.credit_of_key, ScanKey::uuid(column::key_id, key));
        match &account.purse {
            Some(giver) => of_key(giver),
            None => of_key(&account.key).or_else(|| {
                let key = ScanKey::uuid(column::tenant_id, &account.tenant);
                Self::find(tables.credit_of_tenant, key)
            }),
        }
    }

    fn find(table: Table, key: ScanKey) -> Option<Purse> {
        use columns::credit as column;
        let snapshot = Snapshot::now(table);
        let relation = Relation::open(table);
        let mut scan = relation.scan(&snapshot, [key]);
        let row = scan.next()?;
        Some(Purse {
            credit_id: row.uuid(column::credit_id)?,
            balance: row.bigint(column::balance)?,
            refill: row.bigint(column::refill),
            every: row.bytes(column::every).and_then(Every::parse),
            refilled_at: row.timestamp(column::refilled_at)?,
        })
    }

    fn balance_at(&self, now: i64) -> i64 {
        match self.refill {
            Some(refill) if refill::is_due(self.every, self.refilled_at, now) => {
                self.balance.max(refill)
            }
            _ => self.balance,
        }
    }

    /// There is not enough; a refill may be.
    fn exhausted(&self, spend: i64) -> Charge {
        let now = now();
        let refill = self.refill.filter(|refill| *refill >= spend);
        let retry_after = refill.and(self.every).map(|every| every.next(now).saturating_sub(now));
        Charge::Exhausted { left: Some(self.balance_at(now)), retry_after }
    }
}

fn now() -> i64 {
    // SAFETY: reads the clock.
    unsafe { pg_sys::GetCurrentTimestamp() }
}

fn can_write() -> bool {
    // SAFETY: reads the transaction's state. It is read-only on a standby, always.
    unsafe { !pg_sys::XactReadOnly && !pg_sys::IsInParallelMode() }
}
