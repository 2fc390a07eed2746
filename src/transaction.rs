//! Registers the functions that run at the commit, at the end and at the savepoints of a
//! transaction.

use crate::usage::session::{pending, settled};
use crate::{audit, identity, ledger, limit};
use pg::transaction::{Course, follow};

pub fn register() {
    follow(Course {
        // Storing usage may wait for other transactions. A transaction that has locked a chain must
        // not wait.
        before_commit: || {
            pending::before_commit();
            settled::before_commit();
            ledger::pending::before_commit()?;
            audit::before_commit()
        },
        before_prepare: || {
            audit::before_prepare()?;
            pending::before_prepare();
            settled::before_prepare();
            ledger::pending::before_commit()
        },
        ended: |is_committed| {
            identity::forget();
            audit::forget();
            ledger::pending::transaction_is_over();
            pending::transaction_is_over(is_committed);
            settled::transaction_is_over(is_committed);
        },
        released: |ended, parent| {
            identity::released(ended, parent);
            audit::released(ended, parent);
            ledger::pending::released(ended, parent);
            limit::slots::released(ended, parent);
        },
        rolled_back: |ended| {
            identity::rolled_back(ended);
            audit::rolled_back(ended);
            ledger::pending::rolled_back(ended);
            limit::slots::rolled_back(ended);
        },
    });
}
