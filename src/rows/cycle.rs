//! Remembers the digests and seals that a trigger has put into the current row of its statement.
//!
//! PostgreSQL may call the triggers twice for one row: `INSERT ... ON CONFLICT DO UPDATE` calls
//! those for an insert and then those for an update, and an `UPDATE` that moves a row to another
//! partition calls those for an insert there. The second pass must recognize the digests of the
//! first, and not digest them again: a value may have the form of a digest.
//!
//! PostgreSQL calls all triggers of a row in a memory context of the statement, and resets it
//! before the next row. So the context identifies the statement, and its reset clears what is
//! remembered here.

use pgrx::pg_sys::Oid;
use std::cell::RefCell;

/// The pass that left the value.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Pass {
    Insert,
    Update,
}

struct Left {
    context: usize,
    pass: Pass,
    family: Oid,
    column: Vec<u8>,
    content: Option<Vec<u8>>,
}

thread_local! {
    static LEFT: RefCell<Vec<Left>> = const { RefCell::new(Vec::new()) };
}

/// Remembers the value that a pass leaves in a column; `None` is a null. `family` is the topmost
/// table: in a partition the column of that name may have another number.
pub fn remember(pass: Pass, family: Oid, column: &[u8], content: Option<Vec<u8>>) {
    let context = pg::context::current();
    let is_first = LEFT.with_borrow(|left| !left.iter().any(|entry| entry.context == context));
    if is_first {
        pg::context::at_reset(forget);
    }
    let entry = Left { context, pass, family, column: column.to_vec(), content };
    LEFT.with_borrow_mut(|left| left.push(entry));
}

/// Whether the pass has left that value in the column of the current row.
pub fn left(pass: Pass, family: Oid, column: &[u8], content: Option<&[u8]>) -> bool {
    let context = pg::context::current();
    LEFT.with_borrow(|left| {
        left.iter().any(|entry| {
            entry.context == context
                && entry.pass == pass
                && entry.family == family
                && entry.column == column
                && entry.content.as_deref() == content
        })
    })
}

/// No function of PostgreSQL is called while this is borrowed, so it is never borrowed here.
fn forget(context: usize) {
    let _ = LEFT.try_with(|left| {
        if let Ok(mut left) = left.try_borrow_mut() {
            left.retain(|entry| entry.context != context);
        }
    });
}
