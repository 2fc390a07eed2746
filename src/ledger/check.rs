//! The check of a table against its ledger.

use super::entry::{Ledger, own_incarnation};
use super::form::{RowForm, kind};
use super::pending;
use super::stored;
use super::table::sums_of;
use super::triggers;
use crate::rows::seal;
use crate::rows::verify::broken_seals;
use keysmith_core::ledger::block::Block;
use keysmith_core::ledger::problem::Problem;
use keysmith_core::ledger::range::{Kind, Ranges};
use keysmith_core::ledger::stored_range::StoredRange;
use keysmith_core::ledger::sums::Sums;
use keysmith_core::ledger::verify::{Chain, Check, Heads};
use pg::error::Result;
use pg::result_set::Cell;
use pg::scan::Snapshot;
use pg::types;
use pg::user_table::{Latest, UserTable};
use pgrx::pg_sys::{ItemPointerData, Oid};
use std::collections::BTreeSet;

/// What was found. A row is shown by its table, its place and its primary key.
pub struct Found<'a> {
    pub row: Option<(Oid, ItemPointerData, Cell<'a>)>,
    pub range: Option<u64>,
    pub block: Option<u64>,
    pub problem: String,
}

/// A table with its ledger, at one moment.
pub struct Subject<'a> {
    pub ledger: &'a Ledger,
    pub table: &'a UserTable,
    pub parts: &'a [UserTable],
    /// The columns that the ledger covers; none for all.
    pub names: &'a [String],
    pub snapshot: &'a Snapshot,
}

impl Subject<'_> {
    /// Checks what is stored, as the extension's owner.
    pub fn stored(&self, kept: Heads) -> Result<(Check<'_>, Vec<Problem>)> {
        let (snapshot, id) = (self.snapshot, &self.ledger.entry.id);
        let mut chain = Chain::new(&self.ledger.keys, kept, own_incarnation());
        let mut problems = Vec::new();
        stored::each_block(snapshot, id, |block, number| {
            if Block::decode(block).is_some_and(|block| block.number != number) {
                problems.push(Problem::BlockAltered { block: number });
            }
            problems.extend(chain.block(block));
        })?;
        let (mut check, more) =
            chain.finish(stored::seen(snapshot)?, &self.ledger.entry.settings());
        problems.extend(more);
        stored::each_range(snapshot, id, |stored, range| {
            if StoredRange::decode(stored).is_some_and(|stored| stored.range != range) {
                problems.push(Problem::RangeAltered { range: Some(range) });
            }
            problems.extend(check.range(stored).err());
        })?;
        stored::each_difference(snapshot, id, |difference, _| {
            problems.extend(check.difference(difference).err());
        })?;
        Ok((check, problems))
    }

    /// The sums of the rows of some parts, as the caller.
    pub fn rows<'p>(&self, parts: impl IntoIterator<Item = &'p UserTable>) -> Result<Sums> {
        sums_of(self.ledger, parts, self.names, self.snapshot)
    }

    /// The rows of the table, without what this transaction changed: its difference is not written
    /// yet.
    pub fn recorded_rows(&self) -> Result<Sums> {
        let mut rows = self.rows(self.parts)?;
        rows.subtract(&pending::changed(&self.ledger.entry.id));
        Ok(rows)
    }

    /// Passes on all problems: those of what is stored, those of the rows, and rows with broken seals
    /// in ranges that are wrong.
    pub fn verify(
        &self,
        (check, problems): (Check, Vec<Problem>),
        to: impl Fn(Found),
    ) -> Result<()> {
        let mut all = problems;
        all.extend(check.finish(self.recorded_rows()?));
        for problem in &all {
            let (range, block) = (problem.range(), problem.block());
            to(Found { row: None, range, block, problem: problem.text() });
        }
        let wrong: BTreeSet<Option<u64>> =
            all.iter().filter(|problem| problem.is_of_rows()).map(Problem::range).collect();
        if wrong.is_empty() {
            return Ok(());
        }
        let latest = Latest::from(self.snapshot);
        for part in self.parts.iter().filter(|part| part.has_rows()) {
            let Some(sealed) = part.trigger(seal::TRIGGER, seal::FUNCTION) else { continue };
            let form = RowForm::of(self.ledger, part.view(), self.names)?;
            broken_seals(part, &sealed.arguments, &latest, |row, key, problem| {
                let range = form.with_settings(|| form.hash(|column| row.value(column)).0);
                // Without a range, any row may be the one.
                if wrong.contains(&None) || wrong.contains(&Some(range)) {
                    let row = Some((part.oid(), row.place(), key));
                    to(Found { row, range: Some(range), block: None, problem: problem.to_owned() });
                }
            })?;
        }
        Ok(())
    }

    /// What is wrong with the triggers. New partitions get theirs when `ledger` is called again.
    pub fn trigger_faults(&self) -> Vec<String> {
        let arguments = triggers::arguments(&self.ledger.entry.id, self.names);
        let is_new = |part: &&UserTable| part.oid() != self.table.oid() && triggers::has_none(part);
        let parts = self.parts.iter().filter(|part| !is_new(part));
        parts.flat_map(|part| triggers::faults(part, &arguments)).collect()
    }

    /// The ranges, and the type of the keys.
    pub fn ranges(&self) -> (Ranges, Oid) {
        let column = self.table.column(&self.ledger.entry.key_column);
        let found = column.map(|column| types::base(column.atttypid));
        let kind = found.map_or(Kind::Other, kind);
        (Ranges { kind, shift: self.ledger.entry.shift }, found.unwrap_or(Oid::INVALID))
    }
}
