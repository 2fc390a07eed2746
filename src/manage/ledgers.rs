//! Heads of ledgers, and the check of tables against their ledgers.

use super::authority;
use super::field::Within;
use super::json;
use super::level::Needs;
use crate::catalog::Catalog;
use crate::ledger::check::{Found, Subject};
use crate::ledger::close;
use crate::ledger::entry::LedgerEntry;
use crate::ledger::stored;
use crate::ledger::triggers::{arguments_of, id_in, no_ledger};
use keysmith_core::ledger::keys::MAC_LEN;
use keysmith_core::ledger::range::{Ranges, Span};
use keysmith_core::ledger::verify::Heads;
use pg::call::{Call, sql_functions};
use pg::error::{Code, Error, Result};
use pg::notice::warning;
use pg::result_set::{Cell, ResultSet};
use pg::scan::Snapshot;
use pg::spi::{self, Param};
use pg::user_table::{ACCESS_SHARE, TableRight, UserTable, is_own, may_read, name_of};
use pg::{output, server, transaction};
use pgrx::pg_sys::{self, Datum, Oid};
use serde::Deserialize;
use serde::de::IgnoredAny;

sql_functions! {
    keysmith_ledger_head => ledger_head;
    keysmith_verify_ledger => verify_ledger;
    keysmith_close_ledgers => close_ledgers;
    keysmith_ledger_state => ledger_state;
}

fn entry_of(catalog: &Catalog, table: &UserTable) -> Result<LedgerEntry> {
    let arguments = arguments_of(table);
    let named = arguments.as_deref().and_then(id_in);
    LedgerEntry::of(catalog, table.oid(), named)?.ok_or_else(|| match arguments {
        None => no_ledger(table),
        Some(_) => Error::new(
            Code::Conflict,
            format!("the ledger of table {} is not there, or is another table's", table.name()),
        )
        .hint(
            "A partition belongs to the ledger of its partitioned table. keysmith.unledger removes \
             triggers that are left over.",
        ),
    })
}

/// Whether the caller may close blocks of a table's ledger. That makes others wait until the
/// transaction ends, so readers get the last block.
fn may_close(table: &UserTable) -> Result<bool> {
    let can = !transaction::is_read_only() && !server::is_in_recovery();
    Ok(can && (is_own(table.oid()) || authority::may(Needs::Admin)?))
}

fn ledger_head(call: &Call) -> Result<Option<Datum>> {
    let table = UserTable::claim(call.datum(0), ACCESS_SHARE, TableRight::Reading)?;
    let catalog = Catalog::open()?;
    let entry = entry_of(&catalog, &table)?;
    let is_open = || stored::is_open(&Snapshot::now(), &entry.id);
    // Without the lock, which lasts until the transaction ends, if there is nothing to close.
    let block = if may_close(&table)? && catalog.as_owner(is_open)? {
        close::lock(&catalog, table.oid());
        let ledger = entry_of(&catalog, &table)?.with_keys()?;
        Some(catalog.as_owner(|| close::close(&ledger))?.0)
    } else {
        catalog.as_owner(|| stored::last_block(&Snapshot::now(), &entry.id))?
    };
    let block = block.ok_or_else(|| {
        Error::new(Code::Conflict, format!("the ledger of table {} has no blocks", table.name()))
            .hint("keysmith.verify_ledger says more.")
    })?;
    let head = hex::encode(block.head());
    ResultSet::of(call).put([
        Cell::regclass(table.oid()),
        Cell::bigint(Some(block.number.cast_signed())),
        Cell::bigint(Some(block.rows)),
        Cell::text(&head),
        Cell::timestamp(Some(block.at)),
    ]);
    Ok(None)
}

/// A head as `ledger_head` has it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Head {
    #[serde(default)]
    relation: Option<String>,
    position: Within<1, { i64::MAX }>,
    head: HeadBytes,
    #[serde(default, rename = "rows")]
    _rows: IgnoredAny,
    #[serde(default, rename = "at")]
    _at: IgnoredAny,
}

#[derive(Deserialize)]
#[serde(try_from = "String")]
struct HeadBytes([u8; MAC_LEN]);

impl TryFrom<String> for HeadBytes {
    type Error = String;

    fn try_from(text: String) -> Result<HeadBytes, String> {
        let mut head = [0; MAC_LEN];
        let read = hex::decode_to_slice(&text, &mut head);
        read.map(|()| HeadBytes(head))
            .map_err(|_| format!("must be {} hexadecimal digits", 2 * MAC_LEN))
    }
}

fn read_heads(call: &Call, n: usize) -> Result<Vec<Head>> {
    let hint =
        "SELECT jsonb_agg(h) FROM keysmith.ledger_head('my_table') h gives an array to keep.";
    let read = json::value(call, n, "heads")?.map(|value| {
        let one = if value.is_object() { vec![value].into() } else { value };
        json::from_value("heads", one)
    });
    Ok(read.transpose().map_err(|error| error.hint(hint))?.unwrap_or_default())
}

/// The heads that were kept of a table. A head names its table as it was called then, and another
/// table may have that name now. So only a head of that other table's own ledger is left out.
fn kept(catalog: &Catalog, table: &UserTable, heads: Vec<Head>) -> Result<Heads> {
    let mut kept = Heads::new();
    for Head { relation, position, head, .. } in heads {
        let number = position.0.cast_unsigned();
        let other = relation.as_deref().map(regclass).transpose()?.flatten();
        let is_others = match other.filter(|other| *other != table.oid()) {
            Some(other) => has_block(catalog, other, position.0, &head.0)?,
            None => false,
        };
        if !is_others {
            kept.entry(number).or_default().push(head.0);
        }
    }
    Ok(kept)
}

/// The relation with a name, if there is one.
fn regclass(name: &str) -> Result<Option<Oid>> {
    if !is_name(name) {
        return Err(Error::argument("heads", "must name tables as ledger_head does"));
    }
    spi::session(|| {
        let statement = "SELECT pg_catalog.to_regclass($1)::pg_catalog.oid";
        spi::first(statement, &[Param::text(name)], |row| row.oid(1))
    })
}

/// Whether a text is one name or two with a dot between, each quoted or plain.
fn is_name(text: &str) -> bool {
    let mut rest = text;
    for _ in 0..2 {
        let length = match rest.strip_prefix('"') {
            Some(quoted) => {
                let whole = quoted.replace("\"\"", "  ");
                whole.find('"').filter(|end| *end > 0).map(|end| end + 2)
            }
            None => {
                let is_plain =
                    |c: char| c.is_alphanumeric() || c == '_' || c == '$' || !c.is_ascii();
                let length = rest.find(|c| !is_plain(c)).unwrap_or(rest.len());
                let starts =
                    rest.starts_with(|c: char| c == '_' || c.is_alphabetic() || !c.is_ascii());
                starts.then_some(length)
            }
        };
        let Some((_, after)) = length.and_then(|length| rest.split_at_checked(length)) else {
            return false;
        };
        match after.strip_prefix('.') {
            _ if after.is_empty() => return true,
            Some(next) => rest = next,
            None => return false,
        }
    }
    false
}

/// Whether a ledger of the table has a block with this head.
fn has_block(catalog: &Catalog, table: Oid, number: i64, head: &[u8; MAC_LEN]) -> Result<bool> {
    let entries = LedgerEntry::all(catalog, &Snapshot::now());
    catalog.as_owner(|| {
        for entry in entries.iter().filter(|entry| entry.relation == table) {
            if stored::block(&entry.id, number)?.is_some_and(|block| block.head() == *head) {
                return Ok(true);
            }
        }
        Ok(false)
    })
}

fn verify_ledger(call: &Call) -> Result<Option<Datum>> {
    let heads = read_heads(call, 1)?;
    let table = UserTable::claim(call.datum(0), ACCESS_SHARE, TableRight::Reading)?;
    let catalog = Catalog::open()?;
    let ledger = entry_of(&catalog, &table)?.with_keys()?;
    let kept = kept(&catalog, &table, heads)?;
    let (parts, snapshot) = parts_at_once(&table);
    let names = ledger.entry.columns.clone().unwrap_or_default();
    let subject = Subject {
        ledger: &ledger,
        table: &table,
        parts: &parts,
        names: &names,
        snapshot: &snapshot,
    };
    let (ranges, kind) = subject.ranges();
    let result = ResultSet::of(call);
    let put = &|found: Found| {
        let (part, place, key) = match found.row {
            Some((part, place, key)) => (Cell::regclass(part), Cell::tid(place), key),
            None => {
                (Cell::null(pg_sys::REGCLASSOID), Cell::null(pg_sys::TIDOID), Cell::jsonb(None))
            }
        };
        let (first, last) = found.range.map_or((None, None), |range| span(ranges, kind, range));
        result.put([
            part,
            place,
            key,
            Cell::text_or_null(first.as_deref()),
            Cell::text_or_null(last.as_deref()),
            Cell::bigint(found.block.map(u64::cast_signed)),
            Cell::text(&found.problem),
        ]);
    };
    for problem in subject.trigger_faults() {
        put(Found { row: None, range: None, block: None, problem });
    }
    let stored = catalog.as_owner(|| subject.stored(kept))?;
    subject.verify(stored, put)?;
    Ok(None)
}

/// The parts of a table, and a snapshot that sees the same parts: partitions can be attached with
/// their rows meanwhile.
fn parts_at_once(table: &UserTable) -> (Vec<UserTable>, Snapshot) {
    loop {
        pgrx::check_for_interrupts!();
        let parts = table.part_ids(ACCESS_SHARE);
        let snapshot = Snapshot::now();
        if table.part_ids(ACCESS_SHARE) == parts {
            return (table.opened(&parts), snapshot);
        }
    }
}

/// The first and the last key of a range, as text. `kind` is the type of the keys.
fn span(ranges: Ranges, kind: Oid, range: u64) -> (Option<String>, Option<String>) {
    let number = |number: i64| Some(output::number_of_type(kind, number));
    let bytes = |bytes: [u8; 8]| Some(format!("\\x{}", hex::encode(bytes)));
    match ranges.span(range) {
        Span::All => (None, None),
        Span::Numbers(first, last) => (number(first), number(last)),
        Span::Bytes(first, last) => (bytes(first), bytes(last)),
    }
}

fn close_ledgers(_: &Call) -> Result<Option<Datum>> {
    let (taken, problems) = close::close_all(&Catalog::open()?)?;
    for (relation, problem) in problems {
        let name = name_of(relation).unwrap_or_else(|| relation.to_u32().to_string());
        warning(format!("the ledger of table {name} is not continued: {problem}"), None);
    }
    Ok(Some(Datum::from(taken)))
}

fn ledger_state(call: &Call) -> Result<Option<Datum>> {
    let result = ResultSet::of(call);
    let catalog = Catalog::open()?;
    let sees_all = authority::sight()?.tenants.is_none();
    let snapshot = Snapshot::now();
    let open = catalog.as_owner(|| stored::open_differences(&snapshot))?;
    for entry in LedgerEntry::all(&catalog, &snapshot) {
        let table = entry.relation;
        if name_of(table).is_none() || !(sees_all || is_own(table) || may_read(table)) {
            continue;
        }
        let block =
            catalog.as_owner(|| Ok(stored::last_block(&snapshot, &entry.id).ok().flatten()))?;
        let block = block.as_ref();
        result.put([
            Cell::regclass(table),
            Cell::texts_or_null(entry.columns.as_deref()),
            Cell::bigint(block.map(|block| block.number.cast_signed())),
            Cell::bigint(block.map(|block| block.rows)),
            Cell::timestamp(block.map(|block| block.at)),
            Cell::bigint(Some(open.get(&entry.id).copied().unwrap_or_default())),
        ]);
    }
    Ok(None)
}
