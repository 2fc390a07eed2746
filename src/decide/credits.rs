//! Credits: who pays for a request, and whether they can.

use crate::catalog::policy::Policy;
use crate::catalog::tables::Table;
use crate::catalog::{Catalog, columns};
use crate::settings;
use crate::verdict::Account;
use keysmith_core::refill::{Credits, Every};
use pg::call::{Bytes, Call, sql_functions};
use pg::error::Result;
use pg::row_lock::{Deadline, LockHolder};
use pg::scan::{Relation, Row, ScanKey, Snapshot};
use pg::spi::{self, Param, saved};
use pg::{clock, transaction};
use pgrx::pg_sys::Datum;

sql_functions! {
    keysmith_credits_at => credits_at;
}

/// What became of a charge.
pub enum Spending {
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
    Unwritable,
    /// Another transaction has held them for too long.
    Held,
}

/// The reason for which credits are looked for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Intent {
    Spend,
    /// Says what spending would do.
    Look,
}

/// The credits of a key or of a tenant.
struct Purse {
    credit_id: [u8; 16],
    credits: Credits,
}

/// Spends credits, if the request costs some and its environment charges. What is spent
/// comes back if the transaction is rolled back.
pub fn charge(
    catalog: &Catalog,
    policy: &Policy,
    account: &Account,
    spend: i64,
    intent: Intent,
) -> Result<Spending> {
    if spend == 0 || !policy.charges(account.environment) {
        return Ok(Spending::Nothing);
    }
    if !can_write() {
        return Ok(Spending::Unwritable);
    }
    let deadline = Deadline::after(settings::spend_timeout());
    loop {
        pgrx::check_for_interrupts!();
        let turn = with_purse(catalog, account, |row, relation| {
            let purse = Purse::read(row)?;
            let Some((left, refilled_at)) = purse.without(spend) else {
                return Some(Turn::Over(purse.exhausted(spend)));
            };
            Some(match (row.holder(), intent) {
                (Some(holder), _) => Turn::Others(holder),
                (None, Intent::Look) => Turn::Over(Spending::Spent { left }),
                (None, Intent::Spend) if row.lock(relation) => {
                    Turn::Ours { credit_id: purse.credit_id, left, refilled_at }
                }
                (None, Intent::Spend) => Turn::Again,
            })
        });
        return Ok(match turn {
            None => Spending::Exhausted { left: None, retry_after: None },
            Some(Turn::Over(charge)) => charge,
            Some(Turn::Again) => {
                // It may have been the command that this is a part of.
                transaction::increment_command_counter();
                continue;
            }
            Some(Turn::Others(holder)) if deadline.wait_for(&holder) => continue,
            Some(Turn::Others(_)) => Spending::Held,
            Some(Turn::Ours { credit_id, left, refilled_at }) => {
                leave(catalog, &credit_id, left, refilled_at)?;
                Spending::Spent { left }
            }
        });
    }
}

/// The next step, after a row of credits was read.
enum Turn {
    /// The answer is known, and nothing is changed.
    Over(Spending),
    /// The row is locked, and so much will be left in it.
    Ours { credit_id: [u8; 16], left: i64, refilled_at: i64 },
    /// To wait for another transaction.
    Others(LockHolder),
    /// To read it again: another transaction changed it meanwhile.
    Again,
}

/// Hands on the row that pays, as it is now, whatever the transaction's isolation level:
/// that of the key that gave it, or the key's own, or else its tenant's.
fn with_purse<T>(
    catalog: &Catalog,
    account: &Account,
    with: impl Fn(&Row, &Relation) -> Option<T>,
) -> Option<T> {
    use columns::credit as column;
    let tables = &catalog.tables;
    let in_table = |table: Table, key: ScanKey| {
        let snapshot = Snapshot::now();
        let relation = table.open();
        let mut scan = relation.scan(&snapshot, [key]);
        let row = scan.next()?;
        with(&row, &relation)
    };
    let of_key = |key| in_table(tables.credit_of_key, ScanKey::uuid(column::key_id, key));
    match &account.purse {
        Some(delegator) => of_key(delegator),
        None => of_key(&account.key).or_else(|| {
            let key = ScanKey::uuid(column::tenant_id, &account.tenant);
            in_table(tables.credit_of_tenant, key)
        }),
    }
}

impl Purse {
    fn read(row: &Row) -> Option<Purse> {
        use columns::credit as column;
        Some(Purse {
            credit_id: row.uuid(column::credit_id)?,
            credits: Credits {
                balance: row.bigint(column::balance)?,
                refill: row.bigint(column::refill),
                every: row.bytes(column::every).and_then(Every::parse),
                refilled_at: row.timestamp(column::refilled_at)?,
            },
        })
    }

    /// The same once so many are spent, if there are as many.
    fn without(&self, spend: i64) -> Option<(i64, i64)> {
        let (balance, refilled_at) = self.credits.at(clock::now());
        let left = balance.checked_sub(spend).filter(|left| *left >= 0)?;
        Some((left, refilled_at))
    }

    /// There is not enough; a refill may be.
    fn exhausted(&self, spend: i64) -> Spending {
        let now = clock::now();
        let Credits { refill, every, .. } = self.credits;
        let refill = refill.filter(|refill| *refill >= spend);
        let retry_after = refill.and(every).map(|every| every.next(now).saturating_sub(now));
        Spending::Exhausted { left: Some(self.credits.at(now).0), retry_after }
    }
}

/// The balance of a row of credits at a moment, for SQL: the same rule as when they are spent.
fn credits_at(call: &Call) -> Result<Option<Datum>> {
    const LONGEST: usize = 64;
    let (Some(balance), Some(refilled_at), Some(moment)) =
        (call.bigint(0), call.timestamp(3), call.timestamp(4))
    else {
        return Ok(None);
    };
    let every = match call.bytes(2, LONGEST) {
        Some(Bytes::Read(name)) => Every::parse(name),
        _ => None,
    };
    let credits = Credits { balance, refill: call.bigint(1), every, refilled_at };
    Ok(Some(Datum::from(credits.at(moment).0)))
}

fn can_write() -> bool {
    !transaction::is_read_only() && !transaction::is_parallel()
}

/// Writes what is left of credits, whose row the transaction has locked.
fn leave(catalog: &Catalog, credit_id: &[u8; 16], balance: i64, refilled_at: i64) -> Result<()> {
    catalog.as_owner(|| {
        let params = [
            Param::uuid(credit_id),
            Param::bigint(Some(balance)),
            Param::timestamp(Some(refilled_at)),
        ];
        let snapshot = Snapshot::now();
        spi::change_now(
            &snapshot,
            saved!(
                "UPDATE keysmith_private.credit SET balance = $2, refilled_at = $3
                 WHERE credit_id = $1"
            ),
            &params,
            |_| (),
        )
    })
}
