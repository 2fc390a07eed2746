//! Credits: which key or tenant pays for a request, and whether it has enough.

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

/// The outcome of a charge.
pub enum Spending {
    /// The request costs nothing, or its environment does not charge.
    Nothing,
    Spent {
        left: i64,
    },
    /// There are not enough credits. `left` is `None` if there is no row of credits; `retry_after`
    /// is the time until a refill suffices, in microseconds.
    Exhausted {
        left: Option<i64>,
        retry_after: Option<i64>,
    },
    /// The transaction can't write, or this is a subscriber, so it can't spend.
    Unwritable,
    /// Another transaction kept the row of credits locked for longer than the timeout.
    Held,
}

/// Whether to spend credits, or only to look.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Intent {
    Spend,
    /// Report what spending would do.
    Look,
}

/// The credits of a key or of a tenant.
struct Purse {
    credit_id: [u8; 16],
    credits: Credits,
}

/// Spends credits, if the request costs some and its environment charges. Rolling the transaction
/// back undoes it.
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
    // What a subscriber spent, the publisher would not know.
    if !can_write() || catalog.is_subscriber() {
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
                // The row may have been changed by the command that called this function.
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
    /// The outcome is known, and nothing is written.
    Over(Spending),
    /// The row is locked, and `left` is to be written to it.
    Ours { credit_id: [u8; 16], left: i64, refilled_at: i64 },
    /// Wait for another transaction.
    Others(LockHolder),
    /// Read the row again: another transaction changed it meanwhile.
    Again,
}

/// Passes the row of credits that pays to `with`, as it is now at any isolation level: the row of
/// the delegating key, or the key's own, or otherwise the tenant's.
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

    /// The balance and the time of its refill after spending, if there are enough credits.
    fn without(&self, spend: i64) -> Option<(i64, i64)> {
        let (balance, refilled_at) = self.credits.at(clock::now());
        let left = balance.checked_sub(spend).filter(|left| *left >= 0)?;
        Some((left, refilled_at))
    }

    /// The outcome if there are not enough credits. A refill may suffice.
    fn exhausted(&self, spend: i64) -> Spending {
        let now = clock::now();
        let Credits { refill, every, .. } = self.credits;
        let refill = refill.filter(|refill| *refill >= spend);
        let retry_after = refill.and(every).map(|every| every.next(now).saturating_sub(now));
        Spending::Exhausted { left: Some(self.credits.at(now).0), retry_after }
    }
}

/// The balance of a row of credits at a moment, for SQL. The rule is the one for spending.
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

/// Writes the new balance to a row of credits, which the transaction has locked.
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
