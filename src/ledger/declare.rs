//! `ledger` and `unledger`.

use super::check::Subject;
use super::close;
use super::entry::{Ledger, LedgerEntry};
use super::form::{covered, kind};
use super::pending;
use super::stored;
use super::table::sums_of;
use super::triggers::{
    arguments, arguments_of, attach, detach, faults, foreign_trigger, id_in, no_ledger,
};
use crate::catalog::Catalog;
use crate::pepper;
use keysmith_core::ledger::keys::{LedgerId, SECRET_LEN};
use keysmith_core::ledger::problem::Problem;
use keysmith_core::ledger::range::{Kind, Ranges};
use keysmith_core::ledger::sums::Sums;
use keysmith_core::ledger::verify::{Check, Heads};
use pg::call::{Call, sql_functions};
use pg::error::{Code, Error, Result};
use pg::notice::notice;
use pg::relation::is_generated;
use pg::scan::Snapshot;
use pg::server;
use pg::spi::{self, Param};
use pg::text::{self, quoted_name};
use pg::user_table::{
    ACCESS_EXCLUSIVE, Latest, SHARE_ROW_EXCLUSIVE, TableRight, UserTable, each_row, is_own,
    lock_ancestors, name_of,
};
use pgrx::pg_sys::{self, Datum, Oid};
use std::ops::ControlFlow;
use std::rc::Rc;

sql_functions! {
    keysmith_ledger => ledger;
    keysmith_unledger => unledger;
}

/// How many rows are looked at to choose the ranges.
const SAMPLE: usize = 10_000;

/// What a call of `ledger` wants.
struct Wanted {
    table: UserTable,
    parts: Vec<UserTable>,
    /// The columns that are named and those of the primary key; none for all.
    names: Vec<String>,
    key_column: String,
    /// The names and types of the columns.
    forms: Vec<String>,
}

fn ledger(call: &Call) -> Result<Option<Datum>> {
    let columns = match call.datum(1) {
        Some(_) => call.strings(1, "columns")?,
        None => Vec::new(),
    };
    let table = UserTable::claim(call.datum(0), SHARE_ROW_EXCLUSIVE, TableRight::Ownership)?;
    // The triggers of a statement that is running would not include the new ones.
    table.must_not_be_in_use(c"keysmith.ledger");
    let wanted = Wanted::of(table, columns)?;
    let catalog = Catalog::open()?;
    close::lock(&catalog, wanted.table.oid());
    must_be_free(&catalog, &wanted)?;
    match known(&catalog, &wanted.table)? {
        Some(ledger) => go_on(&catalog, &wanted, &Rc::new(ledger))?,
        None => begin(&catalog, &wanted)?,
    }
    Ok(None)
}

fn known(catalog: &Catalog, table: &UserTable) -> Result<Option<Ledger>> {
    let named = arguments_of(table).and_then(|arguments| id_in(&arguments));
    LedgerEntry::of(catalog, table.oid(), named)?.map(LedgerEntry::with_keys).transpose()
}

/// Checks that no part belongs to another ledger, and that our names for triggers are free.
fn must_be_free(catalog: &Catalog, wanted: &Wanted) -> Result<()> {
    for part in &wanted.parts {
        if let Some(name) = foreign_trigger(part) {
            let message = format!("table {} has another trigger of the name {name}", part.name());
            return Err(Error::new(Code::Conflict, message).hint("Rename that trigger."));
        }
        let named = arguments_of(part).and_then(|arguments| id_in(&arguments));
        let entry = named.and_then(|id| LedgerEntry::find(catalog, &Snapshot::now(), &id));
        let other = entry.map(|entry| entry.relation).filter(|other| *other != wanted.table.oid());
        if let Some(other) = other.and_then(name_of) {
            let message = format!("table {} belongs to the ledger of {other}", part.name());
            return Err(Error::new(Code::Conflict, message)
                .hint("A table belongs to one ledger. See keysmith.unledger."));
        }
    }
    Ok(())
}

impl Wanted {
    fn of(table: UserTable, columns: Vec<String>) -> Result<Wanted> {
        table.must_not_be_catalog()?;
        let name = table.name();
        if table.is_partition() {
            return Err(refusal("must not be a partition, and", &name, "is")
                .hint("A ledger is of the partitioned table."));
        }
        if let Some(foreign) = table.foreign_part(SHARE_ROW_EXCLUSIVE) {
            return Err(refusal("must have no foreign table as a part, and", &foreign, "is one"));
        }
        let parts = table.parts(SHARE_ROW_EXCLUSIVE, TableRight::Ownership)?;
        if let Some(part) = parts.iter().find(|part| part.is_temporary() || part.is_unlogged()) {
            return Err(refusal(
                "must be a logged and permanent table, and",
                &part.name(),
                "is not",
            ));
        }
        if let Some(parent) = parent_outside(&parts)? {
            return Err(refusal(
                "must not inherit, nor any part, from another table, as from",
                &parent,
                "",
            )
            .hint("A statement that names that table would fire no trigger of the ledger."));
        }
        let key_column = first_key_column(&table)?;
        let names = named(&table, columns)?;
        let forms = forms(&table, &names)?;
        Ok(Wanted { table, parts, names, key_column, forms })
    }

    /// The parts that lack triggers, or have others.
    fn bare(&self, id: &LedgerId) -> Vec<&UserTable> {
        let arguments = arguments(id, &self.names);
        self.parts.iter().filter(|part| !faults(part, &arguments).is_empty()).collect()
    }

    fn attach(&self, id: &LedgerId) {
        let arguments = arguments(id, &self.names);
        self.parts.iter().for_each(|part| attach(part, &self.table, &arguments));
    }
}

/// The name of a table that a part inherits from, and that is no part.
fn parent_outside(parts: &[UserTable]) -> Result<Option<String>> {
    let oids: Vec<Param> = parts.iter().map(|part| Param::oid(part.oid())).collect();
    let found = Catalog::open()?.as_owner(|| {
        spi::first(
            "SELECT i.inhparent FROM pg_catalog.pg_inherits i
             WHERE i.inhrelid = ANY ($1) AND NOT i.inhparent = ANY ($1)",
            &[Param::array(pg_sys::OIDOID, pg_sys::OIDARRAYOID, &oids)],
            |row| row.oid(1),
        )
    })?;
    Ok(found.and_then(name_of))
}

/// The names and types of the columns.
fn forms(table: &UserTable, names: &[String]) -> Result<Vec<String>> {
    let columns = (!names.is_empty()).then_some(names);
    let forms = Catalog::open()?.as_owner(|| {
        spi::first(
            "SELECT keysmith_private.ledger_forms($1, $2)",
            &[Param::oid(table.oid()), Param::texts_or_null(columns)],
            |row| Some(row.texts(1).iter().map(|form| text::lossy(form)).collect()),
        )
    })?;
    Ok(forms.unwrap_or_default())
}

/// The first column of the primary key.
fn first_key_column(table: &UserTable) -> Result<String> {
    let name = table.name();
    let key = table.primary_key();
    if key.is_empty() {
        return Err(refusal("must have a primary key, and", &name, "has none"));
    }
    if key.iter().any(|column| is_generated(column)) {
        return Err(refusal(
            "must have no generated column in its primary key, and",
            &name,
            "has one",
        ));
    }
    let first = Catalog::open()?.as_owner(|| {
        spi::first(
            "SELECT a.attname FROM pg_catalog.pg_constraint c
             JOIN pg_catalog.pg_attribute a ON a.attrelid = c.conrelid AND a.attnum = c.conkey[1]
             WHERE c.conrelid = $1 AND c.contype = 'p'",
            &[Param::oid(table.oid())],
            |row| row.text(1),
        )
    })?;
    first.ok_or_else(|| refusal("must have a primary key, and", &name, "has none"))
}

/// The named columns and those of the primary key, each once; none if no column is named.
fn named(table: &UserTable, mut columns: Vec<String>) -> Result<Vec<String>> {
    if columns.is_empty() {
        return Ok(columns);
    }
    for column in &columns {
        let shown = quoted_name(column);
        let found = table.column(column).ok_or_else(|| {
            let rule = format!("must name columns of {}, which {shown} is not", table.name());
            Error::argument("columns", rule)
        })?;
        if is_generated(found) {
            let rule = format!("must not be generated, and {}.{shown} is", table.name());
            return Err(Error::argument("columns", rule)
                .hint("It is computed from other columns: name those."));
        }
    }
    columns.extend(table.primary_key().into_iter().map(pg::relation::column_name));
    columns.sort();
    columns.dedup();
    Ok(columns)
}

fn refusal(rule: &str, name: &str, fact: &str) -> Error {
    let rule = format!("{rule} {name} {fact}");
    Error::argument("relation", rule.trim_end())
}

/// Brings a ledger up to date with its table's parts. If its columns or their types have changed, the
/// hashes have, too, and a new one begins.
fn go_on(catalog: &Catalog, wanted: &Wanted, ledger: &Rc<Ledger>) -> Result<()> {
    let entry = &ledger.entry;
    let is_same = entry.key_column == wanted.key_column
        && entry.columns.as_deref().unwrap_or_default() == wanted.names;
    let (mut agrees, mut new_rows) = (false, None);
    if is_same {
        let snapshot = Snapshot::now();
        let subject = Subject {
            ledger,
            table: &wanted.table,
            parts: &wanted.parts,
            names: &wanted.names,
            snapshot: &snapshot,
        };
        let (check, problems) = catalog.as_owner(|| subject.stored(Heads::new()))?;
        if let Some(problem) = problems.first() {
            return Err(differs(wanted, &problem.text()));
        }
        let rows = subject.recorded_rows()?;
        agrees = is_right(&check, rows.clone());
        if !agrees && entry.forms == wanted.forms {
            // Partitions may have been attached with their rows.
            let new = subject.rows(wanted.bare(&entry.id))?;
            let mut rest = rows;
            rest.subtract(&new);
            if !is_right(&check, rest) {
                return Err(differs(wanted, "its rows differ"));
            }
            (agrees, new_rows) = (true, Some(new));
        }
    }
    if !agrees {
        catalog.as_owner(|| stored::remove(&entry.id))?;
        begin(catalog, wanted)?;
        let name = wanted.table.name();
        notice(
            format!("a new ledger of {name} begins, since its columns or their types have changed"),
            Some("Heads that were kept are of the old one.".into()),
        );
        return Ok(());
    }
    catalog.as_owner(|| {
        spi::execute(
            "UPDATE keysmith_private.ledger SET forms = $2 WHERE ledger_id = $1",
            &[Param::uuid(&entry.id), Param::texts(&wanted.forms)],
        )
    })?;
    wanted.attach(&entry.id);
    new_rows.map_or(Ok(()), |new| pending::add(ledger, new))
}

fn is_right(check: &Check, rows: Sums) -> bool {
    check.clone().finish(rows).iter().all(|problem: &Problem| !problem.is_of_rows())
}

fn differs(wanted: &Wanted, why: &str) -> Error {
    let name = wanted.table.name();
    Error::new(Code::Conflict, format!("table {name} does not agree with its ledger: {why}")).hint(
        "keysmith.verify_ledger says more. keysmith.unledger and keysmith.ledger begin a new \
             ledger.",
    )
}

/// Begins a ledger with the rows that are there. Nobody else can write meanwhile.
fn begin(catalog: &Catalog, wanted: &Wanted) -> Result<()> {
    let (table, generation) = (&wanted.table, pepper::peppers().newest());
    // Of a table of that name, which was not restored.
    for entry in LedgerEntry::all(catalog, &Snapshot::now()) {
        if entry.relation == table.oid() {
            catalog.as_owner(|| stored::remove(&entry.id))?;
        }
    }
    let mut random = [0; 16 + SECRET_LEN];
    getrandom::fill(&mut random).map_err(Error::no_entropy)?;
    let (id, secret) = random.split_first_chunk::<16>().unwrap_or((&[0; 16], &[]));
    let secret = (generation == 0).then(|| secret.try_into().unwrap_or_default());
    let ranges = ranges(wanted)?;
    let entry = LedgerEntry {
        id: *id,
        relation: table.oid(),
        is_here: true,
        generation,
        secret,
        key_column: wanted.key_column.clone(),
        shift: ranges.shift,
        columns: (!wanted.names.is_empty()).then(|| wanted.names.clone()),
        forms: wanted.forms.clone(),
    };
    let ledger = entry.with_keys()?;
    let snapshot = Snapshot::now();
    let rows = sums_of(&ledger, &wanted.parts, &wanted.names, &snapshot)?;
    let entry = &ledger.entry;
    catalog.as_owner(|| {
        spi::execute(
            "INSERT INTO keysmith_private.ledger
                 (ledger_id, server, database, relation, schema_name, table_name, generation, secret,
                  key_column, shift, columns, forms)
             SELECT $1, $2, $3, c.oid, n.nspname, c.relname, $5, $6, $7, $8, $9, $10
             FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
             WHERE c.oid = $4",
            &[
                Param::uuid(id),
                Param::bigint(Some(server::system_identifier().cast_signed())),
                Param::oid(server::my_database()),
                Param::oid(entry.relation),
                Param::smallint(generation),
                Param::bytes_or_null(entry.secret.as_ref().map(<[u8; SECRET_LEN]>::as_slice)),
                Param::text(&entry.key_column),
                Param::smallint(entry.shift.into()),
                Param::texts_or_null(entry.columns.as_deref()),
                Param::texts(&entry.forms),
            ],
        )?;
        close::begin(&ledger, &snapshot, &rows)
    })?;
    wanted.attach(id);
    Ok(())
}

/// The ranges for the keys that the table has.
fn ranges(wanted: &Wanted) -> Result<Ranges> {
    let column = |part: &UserTable| {
        part.column(&wanted.key_column).map(|column| (column.attnum, column.atttypid))
    };
    let kind = column(&wanted.table).map_or(Kind::Other, |(_, kind_of)| kind(kind_of));
    let (mut numbers, snapshot) = (Vec::new(), Latest::from(&Snapshot::now()));
    for part in wanted.parts.iter().filter(|part| kind != Kind::Other && part.has_rows()) {
        let Some((number, _)) = column(part) else { continue };
        let form = covered(part.oid(), part.view(), std::slice::from_ref(&wanted.key_column));
        let Some(form) = form.first() else { continue };
        each_row(part, &snapshot, |row| {
            if let Some(value) = row.value(number) {
                form.write(value, |content| numbers.push(Ranges::number(kind, content)));
            }
            let has_enough = numbers.len() >= SAMPLE;
            Ok(if has_enough { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
        })?;
    }
    Ok(Ranges::fitting(kind, &numbers))
}

fn unledger(call: &Call) -> Result<Option<Datum>> {
    let catalog = Catalog::open()?;
    // In the order in which PostgreSQL locks them to detach or drop a partition.
    if let Some(oid) =
        call.datum(0).map(|oid| Oid::from(oid.value() as u32)).filter(|oid| is_own(*oid))
    {
        lock_ancestors(oid, ACCESS_EXCLUSIVE);
    }
    let table = UserTable::claim(call.datum(0), ACCESS_EXCLUSIVE, TableRight::Ownership)?;
    let arguments = arguments_of(&table).ok_or_else(|| no_ledger(&table))?;
    let parts = table.parts(ACCESS_EXCLUSIVE, TableRight::Ownership)?;
    let entry = id_in(&arguments).and_then(|id| LedgerEntry::find(&catalog, &Snapshot::now(), &id));
    parts.iter().for_each(detach);
    let Some(entry) = entry else { return Ok(None) };
    let entry = entry.or_of(&catalog, table.oid())?;
    let of = entry.relation;
    if of == table.oid() {
        close::lock(&catalog, of);
        catalog.as_owner(|| stored::remove(&entry.id))?;
    } else if table.view().inherits_from(of) {
        let ledger = Rc::new(entry.with_keys()?);
        leave_out(&ledger, &parts, arguments.get(1..).unwrap_or_default())?;
    }
    Ok(None)
}

/// Takes the rows of some parts out of a ledger.
fn leave_out(ledger: &Rc<Ledger>, parts: &[UserTable], names: &[String]) -> Result<()> {
    let mut removed = Sums::default();
    removed.subtract(&sums_of(ledger, parts, names, &Snapshot::now())?);
    pending::add(ledger, removed)
}
