//! The progress of `protect_existing` in a table.
//!
//! It is stored as the comment of the table's trigger, so that it stays with the table when the
//! table is renamed, dumped or restored. The owner of the table may write anything there. A
//! comment that can't be parsed counts as no progress.

use super::value::is_representable;
use pg::user_table::{Trigger, comment, comment_of};
use pgrx::pg_sys::{self, Oid};
use serde_json::{Map, Value, json};

#[derive(Clone, Default)]
pub struct HashingProgress {
    /// The columns in which every value that has the form of a digest is one.
    pub clean: Vec<String>,
    /// In microseconds since 2000-01-01, as PostgreSQL counts.
    pub started_at: Option<i64>,
    pub finished_at: Option<i64>,
    /// The number of the round. Rows that moved during one round are digested in the next.
    pub round: i64,
    /// The table, partition or child table that is being digested. It is stored by name, since OIDs
    /// change with a restore.
    pub part: Option<String>,
    /// The next page there.
    pub page: i64,
    pub pages_total: i64,
    pub pages_done: i64,
    pub rows: i64,
    /// The number of values that the last round left, and the number of rounds since it last
    /// got smaller.
    pub left: i64,
    pub idle_rounds: i64,
}

/// Longer comments are not read.
const LONGEST: usize = 1 << 20;

impl HashingProgress {
    pub fn of(trigger: Oid) -> HashingProgress {
        let comment = comment_of(pg_sys::TriggerRelationId, trigger);
        let comment = comment.filter(|comment| comment.len() <= LONGEST);
        comment.as_deref().and_then(HashingProgress::read).unwrap_or_default()
    }

    pub fn write(&self, trigger: &Trigger) {
        comment(pg_sys::TriggerRelationId, trigger.oid, 0, &self.to_json().to_string());
    }

    pub fn is_under_way(&self) -> bool {
        self.started_at.is_some() && self.finished_at.is_none()
    }

    /// The share of the pages that are done, in tenths.
    pub fn tenths(&self) -> i64 {
        self.pages_done.min(self.pages_total).saturating_mul(10) / self.pages_total.max(1)
    }

    fn to_json(&self) -> Value {
        json!({
            "clean": self.clean, "started_at": self.started_at, "finished_at": self.finished_at,
            "round": self.round, "part": self.part, "page": self.page,
            "pages_total": self.pages_total, "pages_done": self.pages_done, "rows": self.rows,
            "left": self.left, "idle_rounds": self.idle_rounds,
        })
    }

    /// `None` if the comment was not written by us.
    fn read(comment: &str) -> Option<HashingProgress> {
        let Value::Object(found) = serde_json::from_str(comment).ok()? else { return None };
        let text =
            |value: &Value| value.as_str().filter(|text| is_representable(text)).map(str::to_owned);
        let Value::Array(clean) = found.get("clean")? else { return None };
        let progress = HashingProgress {
            clean: clean.iter().map(text).collect::<Option<_>>()?,
            started_at: optional(&found, "started_at", |value| value.as_i64().filter(is_time))?,
            finished_at: optional(&found, "finished_at", |value| value.as_i64().filter(is_time))?,
            round: count(&found, "round")?,
            part: optional(&found, "part", text)?,
            page: count(&found, "page")?,
            pages_total: count(&found, "pages_total")?,
            pages_done: count(&found, "pages_done")?,
            rows: count(&found, "rows")?,
            left: count(&found, "left")?,
            idle_rounds: count(&found, "idle_rounds")?,
        };
        i32::try_from(progress.round).is_ok().then_some(progress)
    }
}

fn count(found: &Map<String, Value>, name: &str) -> Option<i64> {
    found.get(name)?.as_i64().filter(|count| *count >= 0)
}

/// A value that may be null; `None` if it is neither null nor of the right type.
fn optional<T>(
    found: &Map<String, Value>,
    name: &str,
    read: impl Fn(&Value) -> Option<T>,
) -> Option<Option<T>> {
    match found.get(name)? {
        Value::Null => Some(None),
        value => read(value).map(Some),
    }
}

/// Whether PostgreSQL has such a time.
fn is_time(time: &i64) -> bool {
    let year = 365 * 24 * 3600 * 1_000_000_i64;
    (0..1000 * year).contains(time)
}
