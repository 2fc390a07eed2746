//! DDL on the table of an OID.
//!
//! A command is written as a statement, so that event triggers see it as usual. It is then
//! executed by the function that PostgreSQL executes such statements with, which takes an
//! OID. The name in the statement is never looked up.

use super::UserTable;
use crate::table_trigger::FiresOn;
use crate::text;
use crate::transaction::must_be_in_progress;
use pgrx::pg_sys::{self, Node, NodeTag, ObjectAddress, Oid};
use std::ffi::{CStr, CString, c_char};
use std::ptr::null_mut;

/// `CREATE TRIGGER`. The function is given by its OID, too.
pub fn create_trigger(table: &UserTable, statement: &str, function: Oid) {
    create_trigger_firing(table, statement, function, FiresOn::Origin);
}

/// `CREATE TRIGGER`, and `ALTER TABLE … ENABLE … TRIGGER`.
pub fn create_trigger_firing(table: &UserTable, statement: &str, function: Oid, mode: FiresOn) {
    let (statement, text) = parsed(statement, NodeTag::T_CreateTrigStmt);
    observed(statement, || {
        // SAFETY: the statement is one of that kind. PostgreSQL locks the table and checks
        // the caller's privileges.
        let address = unsafe {
            pg_sys::CreateTriggerFiringOn(
                statement.cast(),
                text.as_ptr(),
                table.oid(),
                Oid::INVALID,
                Oid::INVALID,
                Oid::INVALID,
                function,
                Oid::INVALID,
                null_mut(),
                false,
                false,
                mode as c_char,
            )
        };
        Some(address)
    });
}

/// `DROP TRIGGER`, for a caller who owns the table.
pub fn drop_trigger(statement: &str, trigger: Oid) {
    let (statement, _text) = parsed(statement, NodeTag::T_DropStmt);
    observed(statement, || {
        let address =
            ObjectAddress { classId: pg_sys::TriggerRelationId, objectId: trigger, objectSubId: 0 };
        // SAFETY: the trigger exists, since its table is locked.
        unsafe {
            pg_sys::performDeletion(&address, pg_sys::DropBehavior::DROP_RESTRICT, 0);
        }
        None
    });
}

/// `ALTER TABLE`, for the table and all tables that inherit from it.
pub fn add_column(table: UserTable, statement: &str) {
    let oid = table.oid();
    let (statement, _text) = parsed(statement, NodeTag::T_AlterTableStmt);
    // SAFETY: the table is open; the command's name is a C string for the error message.
    unsafe { pg_sys::CheckTableNotInUse(table.0, c"ALTER TABLE".as_ptr()) };
    drop(table);
    observed(statement, || {
        // SAFETY: the statement is one of that kind. PostgreSQL locks the tables and checks
        // that the caller owns them.
        unsafe {
            pg_sys::EventTriggerAlterTableStart(statement);
            let commands = (*statement.cast::<pg_sys::AlterTableStmt>()).cmds;
            pg_sys::AlterTableInternal(oid, commands, true);
            pg_sys::EventTriggerAlterTableEnd();
        }
        None
    });
}

/// `COMMENT ON`, for a caller who owns the object.
pub fn comment(class: Oid, object: Oid, column: i16, comment: &str) {
    must_be_in_progress();
    let comment = text::to_server(comment);
    // SAFETY: the comment is a C string, which is copied.
    unsafe {
        pg_sys::CreateComments(object, class, i32::from(column), comment.as_ptr());
        pg_sys::CommandCounterIncrement();
    }
}

/// The comment on an object.
pub fn comment_of(class: Oid, object: Oid) -> Option<String> {
    must_be_in_progress();
    // SAFETY: returns a C string, or null if there is no comment.
    unsafe {
        let comment = pg_sys::GetComment(object, class, 0);
        if comment.is_null() {
            return None;
        }
        text::from_server(CStr::from_ptr(comment).to_bytes())
    }
}

/// Parses a statement, which must be of this kind. Returns its node and its text.
fn parsed(statement: &str, kind: NodeTag) -> (*mut Node, CString) {
    let text = text::to_server(statement);
    // SAFETY: pg_parse_query returns a list of statements, which is null for an empty text, or
    // raises an error.
    let node = unsafe {
        let list = pg_sys::pg_parse_query(text.as_ptr());
        let is_one = !list.is_null() && (*list).length == 1;
        let first = is_one.then(|| (*(*list).elements).ptr_value.cast::<pg_sys::RawStmt>());
        first.map(|first| (*first).stmt).filter(|node| (**node).type_ == kind)
    };
    let Some(node) = node else { pgrx::error!("a statement is not of the kind that it is run as") };
    (node, text)
}

/// Runs a command and fires its event triggers, as PostgreSQL does.
fn observed(statement: *mut Node, command: impl FnOnce() -> Option<ObjectAddress>) {
    struct Observed(bool);
    impl Drop for Observed {
        fn drop(&mut self) {
            if self.0 {
                // SAFETY: this ends what EventTriggerBeginCompleteQuery has begun below, also after
                // an error, and raises no error.
                unsafe { pg_sys::EventTriggerEndCompleteQuery() };
            }
        }
    }
    // SAFETY: the same calls in the same order as for a statement of that kind.
    unsafe {
        let _observed = Observed(pg_sys::EventTriggerBeginCompleteQuery());
        pg_sys::EventTriggerDDLCommandStart(statement);
        if let Some(address) = command() {
            pg_sys::EventTriggerCollectSimpleCommand(address, ObjectAddress::default(), statement);
        }
        pg_sys::EventTriggerSQLDrop(statement);
        pg_sys::EventTriggerDDLCommandEnd(statement);
        pg_sys::CommandCounterIncrement();
    }
}
