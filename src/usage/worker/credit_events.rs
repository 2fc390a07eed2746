//! Looks for events of credits.

use crate::usage::settings;
use crate::usage::transaction::{Outcome, transaction};
use pg::clock::monotonic;
use pg::spi;

/// The pause between looks, in flush intervals.
const PAUSE: i64 = 5;

#[derive(Default)]
pub struct CreditEvents {
    due_at: i64,
}

impl CreditEvents {
    pub fn is_due(&self) -> bool {
        monotonic() >= self.due_at
    }

    /// Notes a portion. False if there was none.
    pub fn look(&mut self) -> Outcome<bool> {
        self.due_at = monotonic() + settings::flush_interval().saturating_mul(PAUSE);
        let noted = transaction("noting events of credits", || {
            spi::first("SELECT keysmith_private.note_credit_events()", &[], |row| row.bigint(1))
        })?;
        let has_some = noted.unwrap_or_default() > 0;
        if has_some {
            self.due_at = 0;
        }
        Ok(has_some)
    }
}
