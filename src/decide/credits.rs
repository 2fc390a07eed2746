//! Credits: which key or tenant pays for a request, and whether it has enough.

use crate::catalog::policy::Policy;
use crate::catalog::tables::Table;
use crate::catalog::{Catalog, columns};
use crate::settings;
use crate::usage::session::worker_slot;
use crate::verdict::Account;
use keysmith_core::refill::{Credits, Crossing, Every, Period};
use keysmith_core::request_id;
use pg::call::{Bytes, Call, sql_functions};
use pg::error::Result;
use pg::row_lock::{Deadline, LockHolder};
use pg::scan::{Relation, Row, ScanKey, Snapshot};
use pg::spi::{self, Param, Statement, saved};
use pg::text::lossy;
use pg::{clock, transaction};
use pgrx::pg_sys::Datum;

sql_functions! {
    keysmith_credits_at => credits_at;
    keysmith_next_refill => next_refill;
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
pub struct Purse {
    credit_id: [u8; 16],
    credits: Credits,
    low: Option<i64>,
    /// The events that were made since they were last added or refilled.
    told: Crossing,
}

/// The request that is charged.
pub struct Asked<'a> {
    pub key_id: &'a [u8; 16],
    pub request_id: &'a [u8; 16],
    pub spend: i64,
}

/// Spends credits, if the request costs some and its environment charges. Rolling the transaction
/// back undoes it.
pub fn charge(
    catalog: &Catalog,
    policy: &Policy,
    account: &Account,
    asked: &Asked,
    intent: Intent,
) -> Result<Spending> {
    let spend = asked.spend;
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
            let Some(change) = purse.without(spend) else {
                // Nobody waits to note that credits are exhausted: another refusal does it.
                let is_noted = intent == Intent::Look || purse.told.exhausted && !purse.is_due();
                let outcome = purse.exhausted(spend);
                return Some(if !is_noted && row.holder().is_none() && row.lock(relation) {
                    Turn::Refused(outcome, purse)
                } else {
                    Turn::Over(outcome)
                });
            };
            Some(match (row.holder(), intent) {
                (Some(holder), _) => Turn::Others(holder),
                (None, Intent::Look) => Turn::Over(Spending::Spent { left: change.after }),
                (None, Intent::Spend) if row.lock(relation) => Turn::Ours(change),
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
            Some(Turn::Refused(outcome, purse)) => {
                catalog.as_owner(|| purse.note_refusal())?;
                outcome
            }
            Some(Turn::Ours(change)) => {
                catalog.as_owner(|| {
                    change.store()?;
                    note_charge(policy, account, asked, &change.credit_id)
                })?;
                Spending::Spent { left: change.after }
            }
        });
    }
}

/// The next step, after a row of credits was read.
enum Turn {
    /// The outcome is known, and nothing is written.
    Over(Spending),
    /// The row is locked, and the change is to be written to it.
    Ours(Change),
    /// The row is locked, and does not suffice. Nobody was told yet.
    Refused(Spending, Purse),
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
    pub fn read(row: &Row) -> Option<Purse> {
        use columns::credit as column;
        Some(Purse {
            credit_id: row.uuid(column::credit_id)?,
            credits: Credits {
                balance: row.bigint(column::balance)?,
                refill: row.bigint(column::refill),
                period: period(row.bytes(column::every), row.timestamp(column::anchor)),
                refilled_at: row.timestamp(column::refilled_at)?,
            },
            low: row.bigint(column::low),
            told: Crossing {
                low: row.boolean(column::told_low),
                exhausted: row.boolean(column::told),
            },
        })
    }

    /// What spending makes of them, if there are enough.
    fn without(&self, spend: i64) -> Option<Change> {
        let change = self.changed_by(spend.checked_neg()?);
        (change.after >= 0).then_some(change)
    }

    /// What they are after an amount was added, or taken if it is negative.
    pub fn changed_by(&self, amount: i64) -> Change {
        let (before, refilled_at) = self.credits.at(clock::now());
        let after = before.saturating_add(amount);
        // `settle` gives back what was there before, so the next fall is not told again.
        let told = if self.is_due() { Crossing::default() } else { self.told };
        let crossing = Crossing::of(before, after, self.low).without(told);
        Change {
            credit_id: self.credit_id,
            after,
            refilled_at,
            told: told.with(crossing),
            crossing,
        }
    }

    fn is_due(&self) -> bool {
        self.credits.at(clock::now()).1 != self.credits.refilled_at
    }

    /// The outcome if there are not enough credits. Refills may suffice.
    fn exhausted(&self, spend: i64) -> Spending {
        let now = clock::now();
        Spending::Exhausted {
            left: Some(self.credits.at(now).0),
            retry_after: self.credits.wait(spend, now),
        }
    }

    /// Notes the first refusal since they were last added or refilled. The row is locked.
    fn note_refusal(&self) -> Result<()> {
        let unchanged = self.changed_by(0);
        let crossing = Crossing { exhausted: true, ..unchanged.crossing };
        Change { told: unchanged.told.with(crossing), crossing, ..unchanged }.store()
    }
}

/// A change of a row of credits, which the transaction has locked.
pub struct Change {
    pub credit_id: [u8; 16],
    pub after: i64,
    refilled_at: i64,
    told: Crossing,
    /// The events that it makes.
    crossing: Crossing,
}

impl Change {
    pub fn store(&self) -> Result<()> {
        change(
            saved!(
                "UPDATE keysmith_private.credit
                 SET balance = $2, refilled_at = $3, told = $4, told_low = $5 WHERE credit_id = $1"
            ),
            &[
                Param::uuid(&self.credit_id),
                Param::bigint(Some(self.after)),
                Param::timestamp(Some(self.refilled_at)),
                Param::boolean(self.told.exhausted),
                Param::boolean(self.told.low),
            ],
        )?;
        note_events(&self.credit_id, self.crossing, self.after)
    }
}

/// Notes the events of an act that took credits away, as owner.
pub fn note_fall(credit_id: &[u8; 16], before: i64, after: i64) -> Result<()> {
    if after >= before {
        return Ok(());
    }
    let found = spi::first(
        saved!("SELECT low, told_low, told FROM keysmith_private.credit WHERE credit_id = $1"),
        &[Param::uuid(credit_id)],
        |row| {
            let told = Crossing { low: row.boolean(2), exhausted: row.boolean(3) };
            Some((row.bigint(1), told))
        },
    )?;
    let (low, told) = found.unwrap_or_default();
    let crossing = Crossing::of(before, after, low).without(told);
    if crossing != Crossing::default() {
        change(
            saved!(
                "UPDATE keysmith_private.credit SET told = told OR $2, told_low = told_low OR $3
                 WHERE credit_id = $1"
            ),
            &[
                Param::uuid(credit_id),
                Param::boolean(crossing.exhausted),
                Param::boolean(crossing.low),
            ],
        )?;
    }
    note_events(credit_id, crossing, after)
}

/// Writes events for the worker, which adds them to the audit. So a spend does not wait for a chain.
fn note_events(credit_id: &[u8; 16], crossing: Crossing, balance: i64) -> Result<()> {
    let events = [(crossing.low, "credits.low"), (crossing.exhausted, "credits.exhausted")];
    if crossing.low || crossing.exhausted {
        worker_slot::want();
    }
    for (_, event) in events.into_iter().filter(|(is_one, _)| *is_one) {
        change(
            saved!(
                "INSERT INTO keysmith_private.credit_event (
                     keyspace, tenant_id, key_id, credit_id, event, balance)
                 SELECT t.keyspace, t.tenant_id, c.key_id, c.credit_id, $2, $3
                 FROM keysmith_private.credit c
                 LEFT JOIN keysmith_private.key k ON k.key_id = c.key_id
                 JOIN keysmith_private.tenant t ON t.tenant_id = coalesce(c.tenant_id, k.tenant_id)
                 WHERE c.credit_id = $1"
            ),
            &[Param::uuid(credit_id), Param::text(event), Param::bigint(Some(balance))],
        )?;
    }
    Ok(())
}

/// Notes what a request spent, for `settle`. A request without an id can't be settled.
fn note_charge(
    policy: &Policy,
    account: &Account,
    asked: &Asked,
    credit_id: &[u8; 16],
) -> Result<()> {
    if *asked.request_id == [0; 16] {
        return Ok(());
    }
    let (keyspace, environment) = (lossy(account.keyspace), lossy(account.environment));
    let at = request_id::moment(asked.request_id).unwrap_or_else(clock::now);
    change(
        saved!(
            "INSERT INTO keysmith_private.charge (
                 request_id, credit_id, tenant_id, key_id, spend, at, keyspace, environment, usage_log)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)"
        ),
        &[
            Param::uuid(asked.request_id),
            Param::uuid(credit_id),
            Param::uuid(&account.tenant),
            Param::uuid(asked.key_id),
            Param::bigint(Some(asked.spend)),
            Param::timestamp(Some(at)),
            Param::text(&keyspace),
            Param::text(&environment),
            Param::text(policy.usage_log.name()),
        ],
    )
}

/// Changes rows as they are now, at any isolation level.
pub fn change<'a>(statement: impl Into<Statement<'a>>, params: &[Param]) -> Result<()> {
    spi::change_now(&Snapshot::now(), statement, params, |_| ())
}

fn period(every: Option<&[u8]>, anchor: Option<i64>) -> Option<Period> {
    every.and_then(Every::parse).map(|every| Period { every, anchor })
}

const LONGEST_PERIOD: usize = 64;

/// The balance of a row of credits at a moment, for SQL. The rule is the one for spending.
fn credits_at(call: &Call) -> Result<Option<Datum>> {
    let (Some(balance), Some(refilled_at), Some(moment)) =
        (call.bigint(0), call.timestamp(4), call.timestamp(5))
    else {
        return Ok(None);
    };
    let period = period_argument(call, 2);
    let credits = Credits { balance, refill: call.bigint(1), period, refilled_at };
    Ok(Some(Datum::from(credits.at(moment).0)))
}

/// The beginning of the next period after a moment, for SQL.
fn next_refill(call: &Call) -> Result<Option<Datum>> {
    let next = period_argument(call, 0).zip(call.timestamp(2));
    Ok(next.map(|(period, moment)| Datum::from(period.next(moment))))
}

/// The period, and the anchor after it.
fn period_argument(call: &Call, n: usize) -> Option<Period> {
    match call.bytes(n, LONGEST_PERIOD) {
        Some(Bytes::Read(name)) => period(Some(name), call.timestamp(n + 1)),
        _ => None,
    }
}

pub fn can_write() -> bool {
    !transaction::is_read_only() && !transaction::is_parallel()
}
