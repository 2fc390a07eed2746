//! The worker's transactions.

use crate::catalog::Catalog;
use pg::attempt;
use pg::error::Result;
use pg::lock::{self, Mode};
use pg::lookup;
use pg::settings::set_for_now;
use pg::transaction::with_snapshot;
use std::ffi::CStr;

pub use pg::attempt::{Failure, Outcome};

const EXTENSION: &CStr = c"keysmith";

/// Runs something in a new transaction, as the extension's owner.
pub fn transaction<T>(what: &str, body: impl FnOnce() -> Result<T>) -> Outcome<T> {
    bare_transaction(what, || {
        let keeps_extension = keep_extension();
        Catalog::open()?.as_owner(|| {
            if !keeps_extension {
                give_way();
            }
            body()
        })
    })
}

/// Has `DROP EXTENSION` wait for the transaction before it locks any table. It locks them in
/// another order, so that it and the transaction could wait for each other.
///
/// Any role can hold a lock on the extension, by ALTER … DEPENDS ON EXTENSION. So this does not
/// wait for one. It returns false without the lock. The caller must `give_way` then.
pub fn keep_extension() -> bool {
    lookup::extension(EXTENSION)
        .is_some_and(|oid| lock::try_object(lock::EXTENSIONS, oid, Mode::AccessShare))
}

/// Ends a wait for a lock long before PostgreSQL looks for a deadlock, after a second by
/// default: of two transactions that wait for each other, this one fails and is tried again.
pub fn give_way() {
    set_for_now(c"lock_timeout", c"100ms");
}

/// Runs something in a new transaction.
pub fn bare_transaction<T>(what: &str, body: impl FnOnce() -> Result<T>) -> Outcome<T> {
    without_snapshot(what, || with_snapshot(body))
}

/// The same for work that reads no table and may take long: a snapshot holds up VACUUM, and on a
/// standby replay.
pub fn without_snapshot<T>(what: &str, body: impl FnOnce() -> Result<T>) -> Outcome<T> {
    attempt::transaction(&format!("keysmith usage: {what}"), body)
}

/// Whether the extension exists. True if that can't be found out.
pub fn extension_exists() -> bool {
    let exists =
        bare_transaction(
            "looking for the extension",
            || Ok(lookup::extension(EXTENSION).is_some()),
        );
    exists.unwrap_or(true)
}
