//! Registers the functions that run at the commit, at the end and at the savepoints of a
//! transaction.

use crate::usage::session::{pending, settled};
use crate::{audit, identity, limit};
use pg::transaction::{Course, follow};

pub fn register() {
    follow(Course {
        // Storing usage may wait for other transactions. A transaction that has locked a chain must
        // not wait.
        before_commit: || {
            pending::before_commit();
            settled::before_commit();
            audit::before_commit()
        },
        before_prepare: || {
            audit::before_prepare()?;
            pending::before_prepare();
            settled::before_prepare();
            Ok(())
        },
        ended: |is_committed| {
            identity::forget();
            audit::forget();
            pending::transaction_is_over(is_committed);
            settled::transaction_is_over(is_committed);
        },
        released: |ended, parent| {
            identity::released(ended, parent);
            audit::released(ended, parent);
            limit::slots::released(ended, parent);
        },
        rolled_back: |ended| {
            identity::rolled_back(ended);
            audit::rolled_back(ended);
            limit::slots::rolled_back(ended);
        },
    });
}
