//! Tables of applications, held by OID.
//!
//! The owner of a table or of its schema can rename it at any moment. A name that is printed
//! from an OID and looked up again may then mean another table. So a table is locked by its
//! OID and checked under the lock, and the lock stays until the transaction ends. Nothing
//! here runs code of the table's owner as the caller.

mod catalogs;
mod command;
mod function;
mod restricted;
mod scan;
mod trigger;
mod update;

pub use crate::relation::column_name;
pub use crate::table_trigger::{FiresOn, Trigger};
pub use command::{
    add_column, comment, comment_of, create_trigger, create_trigger_firing, drop_trigger,
};
pub use function::ours;
pub use restricted::as_owner;
pub(crate) use scan::each_row_in_store;
pub use scan::{Latest, UserRow, each_row, each_row_of};
pub use update::{set_constraints_immediate, update_in_place};

use crate::PRIVATE;
use crate::error::{Code, Error, Result};
use crate::relation::{Description, RelationView};
use crate::transaction::must_be_in_progress;
use crate::{major, text};
use catalogs::Columns;
use pgrx::PgLogLevel;
use pgrx::PgSqlErrorCode::ERRCODE_INSUFFICIENT_PRIVILEGE;
use pgrx::pg_sys::{self, Datum, FormData_pg_attribute, LOCKMODE, Oid, Relation};
use std::ffi::{CStr, c_int};

pub const ACCESS_SHARE: LOCKMODE = pg_sys::AccessShareLock as LOCKMODE;
pub const ROW_EXCLUSIVE: LOCKMODE = pg_sys::RowExclusiveLock as LOCKMODE;
/// One transaction at a time holds it. Others can write rows.
pub const SHARE_UPDATE_EXCLUSIVE: LOCKMODE = pg_sys::ShareUpdateExclusiveLock as LOCKMODE;
/// One transaction at a time holds it. Others can't write rows.
pub const SHARE_ROW_EXCLUSIVE: LOCKMODE = pg_sys::ShareRowExclusiveLock as LOCKMODE;
pub const ACCESS_EXCLUSIVE: LOCKMODE = pg_sys::AccessExclusiveLock as LOCKMODE;
const NO_LOCK: LOCKMODE = pg_sys::NoLock as LOCKMODE;

/// The right that the caller must have on a table.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum TableRight {
    /// To own it.
    Ownership,
    /// To read all of its rows.
    Reading,
}

/// An open table, locked until the transaction ends.
pub struct UserTable(Relation);

impl UserTable {
    /// Locks and opens a table that was passed as a regclass.
    pub fn claim(relation: Option<Datum>, lock: LOCKMODE, needs: TableRight) -> Result<UserTable> {
        let oid = relation.map(|relation| Oid::from(relation.value() as u32));
        let oid = oid.ok_or_else(|| refusal("null"))?;
        // The first check keeps a caller without the right from waiting for a lock on the table.
        // The second check decides, since everything may have changed during the wait.
        check(oid, needs)?;
        // SAFETY: any OID can be locked.
        unsafe { pg_sys::LockRelationOid(oid, lock) };
        check(oid, needs)?;
        let table = UserTable::open(oid);
        if table.is_of_another_session() {
            return Err(Error::argument(
                "relation",
                "must not be a temporary table of another session",
            ));
        }
        Ok(table)
    }

    /// Locks and opens a table that inherits from another one, if the caller owns it; `None` if it
    /// was dropped or stores no rows.
    pub fn claim_part(oid: Oid, lock: LOCKMODE) -> Result<Option<UserTable>> {
        let is_one = || facts(oid).is_some_and(|facts| facts.kind == pg_sys::RELKIND_RELATION);
        if !is_one() {
            return Ok(None);
        }
        check(oid, TableRight::Ownership)?;
        // SAFETY: any OID can be locked.
        unsafe { pg_sys::LockRelationOid(oid, lock) };
        if !is_one() {
            return Ok(None);
        }
        check(oid, TableRight::Ownership)?;
        Ok(Some(UserTable::open(oid)).filter(|part| !part.is_of_another_session()))
    }

    /// A table that TRUNCATE is about to empty, and so has locked.
    pub fn being_truncated(table: RelationView) -> UserTable {
        UserTable::open(table.oid())
    }

    /// The tables among some of `part_ids`, without a check of rights on these: who may read or change a
    /// table may do so with their rows. Temporary tables of other sessions are left out.
    pub fn opened(&self, parts: &[Oid]) -> Vec<UserTable> {
        let is_one = |oid: &&Oid| is_table(facts(**oid).map_or(0, |facts| facts.kind));
        let parts = parts.iter().filter(is_one).map(|oid| UserTable::open(*oid));
        parts.filter(|part| !part.is_of_another_session()).collect()
    }

    /// Opens a table that is locked.
    fn open(oid: Oid) -> UserTable {
        // SAFETY: PostgreSQL raises an error if the table was dropped.
        let table = UserTable(unsafe { pg_sys::table_open(oid, NO_LOCK) });
        if table.kind() == pg_sys::RELKIND_PARTITIONED_TABLE {
            // PostgreSQL evaluates constant parts of a partition key when a session first
            // reads it. That may run functions of the table's owner.
            // SAFETY: the table is open, and its relcache entry keeps the key.
            as_owner(&table, true, || unsafe { catalogs::read_partition_key(table.0) });
        }
        table
    }

    /// Takes a stronger lock.
    pub fn lock(&self, lock: LOCKMODE) {
        // SAFETY: the table is open.
        unsafe { pg_sys::LockRelationOid(self.oid(), lock) };
    }

    /// Locks and opens the table and all tables that inherit from it. The caller must have the
    /// right on each. Foreign tables and temporary tables of other sessions are left out.
    pub fn parts(&self, lock: LOCKMODE, needs: TableRight) -> Result<Vec<UserTable>> {
        let mut parts = Vec::new();
        for oid in self.part_ids(lock) {
            if !is_table(facts(oid).map_or(0, |facts| facts.kind)) {
                continue;
            }
            let part = UserTable::open(oid);
            if !part.is_of_another_session() {
                check(oid, needs)?;
                parts.push(part);
            }
        }
        Ok(parts)
    }

    /// The OIDs of the table and of all tables that inherit from it. All are locked.
    pub fn part_ids(&self, lock: LOCKMODE) -> Vec<Oid> {
        // SAFETY: the table is open.
        unsafe { catalogs::inheritors(self.oid(), lock) }
    }

    pub fn view(&self) -> RelationView<'_> {
        // SAFETY: the table is open as long as `self` lives.
        unsafe { RelationView::new(self.0) }
    }

    pub fn oid(&self) -> Oid {
        self.view().oid()
    }

    pub fn owner(&self) -> Oid {
        self.view().class(|class| class.relowner)
    }

    pub fn description(&self) -> Description<'_> {
        self.view().description()
    }

    fn kind(&self) -> u8 {
        self.view().class(|class| class.relkind as u8)
    }

    /// Whether it stores rows, unlike a partitioned table.
    pub fn has_rows(&self) -> bool {
        self.kind() == pg_sys::RELKIND_RELATION
    }

    /// Whether it needs a separate trigger when `top` gets one. PostgreSQL creates the triggers of
    /// partitions.
    pub fn needs_trigger(&self, top: &UserTable) -> bool {
        self.oid() == top.oid() || !self.view().class(|class| class.relispartition)
    }

    /// Whether the table is partitioned, or other tables inherit from it or did so before.
    pub fn has_or_had_children(&self) -> bool {
        !self.has_rows() || self.view().class(|class| class.relhassubclass)
    }

    /// Returns an error for a table in `pg_catalog`.
    pub fn must_not_be_catalog(&self) -> Result<()> {
        let schema = self.view().class(|class| class.relnamespace);
        let is_catalog = schema == Oid::from(pg_sys::PG_CATALOG_NAMESPACE);
        if is_catalog { Err(refusal(&self.name())) } else { Ok(()) }
    }

    /// Raises an error if a statement of this session is using the table. `command` is for its message.
    pub fn must_not_be_in_use(&self, command: &CStr) {
        // SAFETY: the table is open, once; the command is a C string.
        unsafe { pg_sys::CheckTableNotInUse(self.0, command.as_ptr()) };
    }

    pub fn is_temporary(&self) -> bool {
        self.view().class(|class| class.relpersistence as u8) == pg_sys::RELPERSISTENCE_TEMP
    }

    pub fn is_unlogged(&self) -> bool {
        self.view().class(|class| class.relpersistence as u8) == pg_sys::RELPERSISTENCE_UNLOGGED
    }

    pub fn is_partition(&self) -> bool {
        self.view().class(|class| class.relispartition)
    }

    pub fn is_partitioned(&self) -> bool {
        self.kind() == pg_sys::RELKIND_PARTITIONED_TABLE
    }

    /// The name of a foreign table that inherits from it, if there is one.
    pub fn foreign_part(&self, lock: LOCKMODE) -> Option<String> {
        let is_foreign = |oid: &Oid| {
            facts(*oid).is_some_and(|facts| facts.kind == pg_sys::RELKIND_FOREIGN_TABLE)
        };
        self.part_ids(lock).into_iter().find(is_foreign).and_then(name_of)
    }

    fn is_of_another_session(&self) -> bool {
        // SAFETY: the table is open.
        self.is_temporary() && !unsafe { (*self.0).rd_islocaltemp }
    }

    /// How many pages it has now.
    pub fn pages(&self) -> u32 {
        if !self.has_rows() {
            return 0;
        }
        // SAFETY: the table is open, and has storage.
        unsafe { pg_sys::RelationGetNumberOfBlocksInFork(self.0, pg_sys::ForkNumber::MAIN_FORKNUM) }
    }

    /// Whether a range of its pages can be scanned.
    pub fn can_be_read_by_pages(&self) -> bool {
        // SAFETY: the table is open; one with rows has an access method.
        !self.has_rows() || unsafe { (*(*self.0).rd_tableam).scan_set_tidrange.is_some() }
    }

    /// Its name with the schema, quoted.
    pub fn name(&self) -> String {
        name_of(self.oid()).unwrap_or_default()
    }

    /// The columns that are not dropped.
    pub fn columns(&self) -> impl Iterator<Item = &FormData_pg_attribute> {
        self.description().columns()
    }

    pub fn column(&self, name: &str) -> Option<&FormData_pg_attribute> {
        self.columns().find(|attribute| column_name(attribute) == name)
    }

    /// Whether the partition key uses this column.
    pub fn is_partitioned_by(&self, column: i16) -> bool {
        // SAFETY: the table is open, and `open` has read its partition key.
        unsafe { catalogs::is_partitioned_by(self.0, column) }
    }

    /// The columns of the primary key; empty if there is no primary key.
    pub fn primary_key(&self) -> Vec<&FormData_pg_attribute> {
        // SAFETY: the table is open.
        let key = unsafe { Columns::of_primary_key(self.oid()) };
        self.columns().filter(|attribute| key.has(attribute.attnum)).collect()
    }

    /// Whether row-level security may hide rows from the caller.
    pub fn hides_rows(&self) -> bool {
        hides_rows(self.oid())
    }
}

impl Drop for UserTable {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            // SAFETY: opened once; the lock is kept. After an error the abort closes the table.
            unsafe { pg_sys::table_close(self.0, NO_LOCK) };
        }
    }
}

struct Facts {
    kind: u8,
    namespace: Oid,
    name: Vec<u8>,
}

fn facts(oid: Oid) -> Option<Facts> {
    must_be_in_progress();
    // SAFETY: the entry is released after it is read.
    unsafe {
        let entry =
            pg_sys::SearchSysCache1(pg_sys::SysCacheIdentifier::RELOID as c_int, oid.into());
        if entry.is_null() {
            return None;
        }
        let class = &*pg_sys::GETSTRUCT(entry).cast::<pg_sys::FormData_pg_class>();
        let facts = Facts {
            kind: class.relkind as u8,
            namespace: class.relnamespace,
            name: CStr::from_ptr(class.relname.data.as_ptr()).to_bytes_with_nul().to_vec(),
        };
        pg_sys::ReleaseSysCache(entry);
        Some(facts)
    }
}

/// A relation's name with its schema, quoted; `None` if it was dropped.
pub fn name_of(oid: Oid) -> Option<String> {
    let facts = facts(oid)?;
    // SAFETY: names are C strings, and so are the results, in the current memory context.
    unsafe {
        let schema = pg_sys::get_namespace_name(facts.namespace);
        let quoted = pg_sys::quote_qualified_identifier(schema, facts.name.as_ptr().cast());
        Some(text::lossy(CStr::from_ptr(quoted).to_bytes()))
    }
}

/// Locks the tables that a partition belongs to, the topmost first. The caller must own the partition.
pub fn lock_ancestors(partition: Oid, lock: LOCKMODE) {
    must_be_in_progress();
    // SAFETY: inside a transaction; look-ups in catalogs. Any OID can be locked.
    unsafe {
        if pg_sys::get_rel_relispartition(partition) {
            for ancestor in catalogs::ancestors(partition).into_iter().rev() {
                pg_sys::LockRelationOid(ancestor, lock);
            }
        }
    }
}

/// Whether the relation exists and the caller owns it.
pub fn is_own(oid: Oid) -> bool {
    // SAFETY: looks up the owner of a relation that exists.
    facts(oid).is_some() && unsafe { major::owns_table(oid, pg_sys::GetUserId()) }
}

/// Whether the caller may read all rows of a relation that exists.
pub fn may_read(oid: Oid) -> bool {
    const SELECT: pg_sys::AclMode = pg_sys::ACL_SELECT as pg_sys::AclMode;
    // SAFETY: looks up the privileges of a relation that exists.
    let has_right = || unsafe { pg_sys::pg_class_aclcheck(oid, pg_sys::GetUserId(), SELECT) };
    facts(oid).is_some() && has_right() == pg_sys::AclResult::ACLCHECK_OK && !hides_rows(oid)
}

fn is_table(kind: u8) -> bool {
    kind == pg_sys::RELKIND_RELATION || kind == pg_sys::RELKIND_PARTITIONED_TABLE
}

fn refusal(what: &str) -> Error {
    Error::argument("relation", format!("must be a table of an application, not {what}"))
}

/// Raises an error if the relation is not a table of an application, or if the caller lacks the
/// right.
fn check(oid: Oid, needs: TableRight) -> Result<()> {
    // SAFETY: a syscache look-up by name, which returns InvalidOid if there is no such schema.
    let private = unsafe { pg_sys::get_namespace_oid(PRIVATE.as_ptr(), true) };
    let facts = facts(oid)
        .filter(|facts| is_table(facts.kind) && facts.namespace != private)
        .ok_or_else(|| refusal(&name_of(oid).unwrap_or_else(|| oid.to_u32().to_string())))?;
    // SAFETY: looks up privileges; the error copies the name, a C string.
    unsafe {
        let user = pg_sys::GetUserId();
        let (is_allowed, error) = match needs {
            TableRight::Ownership => {
                (major::owns_table(oid, user), pg_sys::AclResult::ACLCHECK_NOT_OWNER)
            }
            TableRight::Reading => (
                pg_sys::pg_class_aclcheck(oid, user, pg_sys::AclMode::from(pg_sys::ACL_SELECT))
                    == pg_sys::AclResult::ACLCHECK_OK,
                pg_sys::AclResult::ACLCHECK_NO_PRIV,
            ),
        };
        if !is_allowed {
            pg_sys::aclcheck_error(
                error,
                pg_sys::ObjectType::OBJECT_TABLE,
                facts.name.as_ptr().cast(),
            );
        }
    }
    if needs == TableRight::Reading && hides_rows(oid) {
        let name = name_of(oid).unwrap_or_default();
        pgrx::ereport!(
            PgLogLevel::ERROR,
            ERRCODE_INSUFFICIENT_PRIVILEGE,
            format!("row-level security may hide rows of {name} from this role")
        );
    }
    Ok(())
}

fn hides_rows(oid: Oid) -> bool {
    // SAFETY: looks up the relation and the current user.
    let state = unsafe { pg_sys::check_enable_rls(oid, Oid::INVALID, true) };
    state == pg_sys::CheckEnableRlsResult::RLS_ENABLED as c_int
}

/// The error for a caller who may not see all rows.
pub fn hidden_rows(table: &UserTable) -> Error {
    Error::new(
        Code::NotAllowed,
        format!("row-level security may hide rows of {} from this role", table.name()),
    )
    .hint("A superuser, or a role with BYPASSRLS, sees all rows.")
}
