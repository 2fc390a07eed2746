//! The entry of a ledger in our tables: its table, its keys and its ranges.

use crate::catalog::{Catalog, columns};
use crate::pepper;
use crate::random;
use keysmith_core::ledger::incarnation::incarnation;
use keysmith_core::ledger::keys::{LedgerId, LedgerKeys, Nonce, SECRET_LEN};
use keysmith_core::ledger::settings::settings;
use pg::error::{Code, Error, Result};
use pg::scan::{Room, Row, ScanKey, Snapshot};
use pg::spi::{self, Param};
use pg::{lookup, output, server, text};
use pgrx::pg_sys::Oid;
use std::cell::OnceCell;
use std::rc::Rc;

pub struct LedgerEntry {
    pub id: LedgerId,
    /// The table; `InvalidOid` if it is not known.
    pub relation: Oid,
    /// Whether the table is known by its OID in this database. In a restored one it is found by name.
    pub is_here: bool,
    pub generation: i16,
    pub secret: Option<[u8; SECRET_LEN]>,
    /// The first column of the primary key.
    pub key_column: String,
    pub shift: u8,
    /// The columns that are hashed; `None` for all.
    pub columns: Option<Vec<String>>,
    /// Their names and types when `ledger` was last called.
    pub forms: Vec<String>,
}

/// An entry with its keys.
pub struct Ledger {
    /// The table that has the entry, which is another one if the extension is created again.
    pub register: Oid,
    pub entry: LedgerEntry,
    pub keys: LedgerKeys,
}

impl LedgerEntry {
    fn read(row: &Row) -> Option<LedgerEntry> {
        use columns::ledger as of;
        let texts = |column| {
            let array = row.array(column)?;
            Some(array.iter().flatten().map(text::lossy).collect::<Vec<String>>())
        };
        let (server, database) = (row.bigint(of::server)?, row.oid(of::database)?);
        let is_here = server.cast_unsigned() == server::system_identifier()
            && database == server::my_database();
        let named = || relation_named(&row.text(of::schema_name)?, &row.text(of::table_name)?);
        let relation = if is_here { row.oid(of::relation) } else { named() };
        Some(LedgerEntry {
            id: row.uuid(of::ledger_id)?,
            relation: relation.unwrap_or(Oid::INVALID),
            is_here,
            generation: row.smallint(of::generation)?,
            secret: row.bytes(of::secret).and_then(|secret| secret.try_into().ok()),
            key_column: row.text(of::key_column)?,
            shift: u8::try_from(row.smallint(of::shift)?).ok()?,
            columns: texts(of::columns),
            forms: texts(of::forms).unwrap_or_default(),
        })
    }

    pub fn find(catalog: &Catalog, snapshot: &Snapshot, id: &LedgerId) -> Option<LedgerEntry> {
        let table = catalog.tables.ledger.open();
        let room = Room::new();
        let key = [ScanKey::uuid(columns::ledger::ledger_id, id)];
        table.first(snapshot, &room, key, |_| true).and_then(|row| LedgerEntry::read(&row))
    }

    /// The entry of a table's ledger: the one that its triggers name. If they name none of the table,
    /// the one that was made for it in this database: someone has removed the triggers.
    pub fn of(
        catalog: &Catalog,
        table: Oid,
        named: Option<LedgerId>,
    ) -> Result<Option<LedgerEntry>> {
        let snapshot = Snapshot::now();
        let named = named.and_then(|id| LedgerEntry::find(catalog, &snapshot, &id));
        let named = named.map(|entry| entry.or_of(catalog, table)).transpose()?;
        let named = named.filter(|entry| entry.relation == table);
        let is_made = |entry: &LedgerEntry| entry.is_here && entry.relation == table;
        let made = || LedgerEntry::all(catalog, &snapshot).into_iter().find(is_made);
        Ok(named.or_else(made))
    }

    /// The entry, of a table whose triggers name it. In a restored database, that table may have got
    /// another name before it was found by its own. Then none of that name has such triggers.
    pub fn or_of(self, catalog: &Catalog, table: Oid) -> Result<LedgerEntry> {
        if self.is_here || self.relation == table {
            return Ok(self);
        }
        let id = output::uuid(&self.id);
        let has_triggers = catalog.as_owner(|| {
            spi::first(
                "SELECT true FROM pg_catalog.pg_trigger t
                 WHERE t.tgrelid = $1 AND t.tgfoid = 'keysmith.ledger_changes()'::pg_catalog.regprocedure
                   AND pg_catalog.position(t.tgargs, $2) = 1 LIMIT 1",
                &[Param::oid(self.relation), Param::bytes(id.as_bytes())],
                |row| Some(row.boolean(1)),
            )
        })?;
        let is_its = has_triggers.is_none();
        Ok(if is_its { LedgerEntry { relation: table, ..self } } else { self })
    }

    /// The entries of all ledgers.
    pub fn all(catalog: &Catalog, snapshot: &Snapshot) -> Vec<LedgerEntry> {
        let table = catalog.tables.ledger.open();
        let mut scan = table.scan_all(snapshot);
        let mut found = Vec::new();
        while let Some(row) = scan.next() {
            found.extend(LedgerEntry::read(&row));
        }
        found
    }

    /// Its settings, as blocks cover them.
    pub fn settings(&self) -> Vec<u8> {
        settings(&self.key_column, self.shift, self.columns.as_deref().unwrap_or_default())
    }

    pub fn with_keys(self) -> Result<Ledger> {
        let secret = self.secret.unwrap_or_default();
        let peppers = pepper::knowing(self.generation);
        if self.generation == 0 && self.secret.is_none() {
            return Err(Error::new(Code::Conflict, "the secret of the ledger is missing"));
        }
        match LedgerKeys::of(peppers, self.generation, &secret, &self.id) {
            Ok(keys) => {
                let register = Catalog::open()?.tables.ledger.table;
                Ok(Ledger { register, entry: self, keys })
            }
            Err(problem) => {
                Err(Error::new(Code::Pepper, problem.text())
                    .hint("See \"Peppers\" in SECURITY.md."))
            }
        }
    }
}

impl Ledger {
    /// The ledger that a trigger names, of a table in this family.
    pub fn named(id: &LedgerId, family: Oid) -> Result<Option<Rc<Ledger>>> {
        let catalog = Catalog::open()?;
        let entry = LedgerEntry::find(&catalog, &Snapshot::now(), id);
        let entry = entry.map(|entry| entry.or_of(&catalog, family)).transpose()?;
        Ok(entry.map(LedgerEntry::with_keys).transpose()?.map(Rc::new))
    }
}

fn relation_named(schema: &str, name: &str) -> Option<Oid> {
    let schema = lookup::schema(&text::to_server(schema))?;
    lookup::relation(schema, &text::to_server(name))
}

/// A nonce that is used once.
pub fn nonce() -> Result<Nonce> {
    random::sixteen().map(Nonce::of).map_err(Error::no_entropy)
}

thread_local! {
    static INCARNATION: OnceCell<u64> = const { OnceCell::new() };
}

/// The incarnation of this database. A process has one database.
pub fn own_incarnation() -> u64 {
    INCARNATION.with(|known| {
        *known.get_or_init(|| {
            incarnation(server::system_identifier(), server::my_database().to_u32())
        })
    })
}
