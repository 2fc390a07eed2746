//! Snapshots, as `pg_snapshot` has them: which transactions were decided.

use std::fmt;

/// More transactions than a server can have in progress.
const MOST_IN_PROGRESS: usize = 1 << 19;

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Snapshot {
    xmin: u64,
    xmax: u64,
    in_progress: Vec<u64>,
}

impl Snapshot {
    /// Reads the text of a `pg_snapshot`: `xmin:xmax:xip,xip`. Accepts only the text that PostgreSQL
    /// writes, so that a snapshot has one text.
    pub fn parse(text: &str) -> Option<Snapshot> {
        let mut parts = text.splitn(3, ':');
        let mut next = || parts.next();
        let (xmin, xmax) = (number(next()?)?, number(next()?)?);
        let list = next()?;
        let mut in_progress = Vec::new();
        for xid in list.split(',').filter(|_| !list.is_empty()) {
            let xid = number(xid)?;
            let rises = in_progress.last().is_none_or(|before| *before < xid);
            if !rises || xid < xmin || xid >= xmax || in_progress.len() == MOST_IN_PROGRESS {
                return None;
            }
            in_progress.push(xid);
        }
        (xmin > 0 && xmin <= xmax).then_some(Snapshot { xmin, xmax, in_progress })
    }

    /// The snapshot, with a transaction in progress that PostgreSQL does not list: the one that took
    /// it.
    pub fn in_progress(mut self, own: u64) -> Snapshot {
        if own < self.xmax
            && let Err(place) = self.in_progress.binary_search(&own)
        {
            self.in_progress.insert(place, own);
            self.xmin = self.xmin.min(own);
        }
        self
    }

    /// Whether a transaction was decided when the snapshot was taken. If it was committed, the
    /// snapshot sees what it did.
    pub fn covers(&self, xid: u64) -> bool {
        xid < self.xmax && (xid < self.xmin || self.in_progress.binary_search(&xid).is_err())
    }

    /// Whether it covers each transaction that another one covers, as a newer snapshot of the same
    /// server does.
    pub fn covers_all(&self, other: &Snapshot) -> bool {
        let is_not_covered = |xid: &u64| !other.covers(*xid);
        // Those that only the other one may cover: they begin later than this snapshot.
        let later = other.xmax.saturating_sub(self.xmax);
        let in_progress = other.in_progress.iter().filter(|xid| **xid >= self.xmax).count();
        self.in_progress.iter().all(is_not_covered) && in_progress as u64 == later
    }
}

fn number(text: &str) -> Option<u64> {
    let is_plain = text.bytes().all(|byte| byte.is_ascii_digit()) && !text.starts_with('0');
    is_plain.then(|| text.parse().ok()).flatten()
}

impl fmt::Display for Snapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:", self.xmin, self.xmax)?;
        for (place, xid) in self.in_progress.iter().enumerate() {
            write!(f, "{}{xid}", if place > 0 { "," } else { "" })?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_snapshot_has_one_text(text in "[0-9]{0,3}:[0-9]{0,3}:([0-9]{1,2},?){0,4}") {
            if let Some(snapshot) = Snapshot::parse(&text) {
                prop_assert_eq!(snapshot.to_string(), text);
            }
        }

        #[test]
        fn a_snapshot_covers_all_that_another_covers(one in snapshots(), other in snapshots()) {
            let covers_all = (0..24).all(|xid| one.covers(xid) || !other.covers(xid));
            prop_assert_eq!(one.covers_all(&other), covers_all, "{} {}", one, other);
            prop_assert!(one.covers_all(&one));
        }

        #[test]
        fn any_text_can_be_read(text in any::<String>()) {
            Snapshot::parse(&text);
        }
    }

    fn snapshots() -> impl Strategy<Value = Snapshot> {
        (1u64..20, 0u64..4, any::<u8>()).prop_map(|(xmin, length, listed)| {
            let listed: Vec<_> = (0..length).filter(|bit| listed & 1u8 << bit != 0).collect();
            let listed: Vec<_> = listed.iter().map(|xid| (xmin + xid).to_string()).collect();
            Snapshot::parse(&format!("{xmin}:{}:{}", xmin + length, listed.join(","))).unwrap()
        })
    }

    #[test]
    fn a_newer_snapshot_covers_all_that_an_older_one_covers() {
        let covers_all = |one: &str, other: &str| {
            Snapshot::parse(one).unwrap().covers_all(&Snapshot::parse(other).unwrap())
        };
        for (older, newer) in [
            ("10:20:10,14", "10:20:10,14"),
            ("10:20:10,14", "10:20:10"),
            ("10:20:10,14", "14:20:14"),
            ("10:20:10,14", "10:25:10,14,20,24"),
            // The newest transactions of the older one are in progress.
            ("10:20:18,19", "18:18:"),
        ] {
            assert!(covers_all(newer, older), "{newer} {older}");
        }
        for (ahead, behind) in [
            ("10:20:10,14", "10:19:10,14"),
            ("10:20:10", "10:20:10,14"),
            ("20:20:", "19:20:19"),
            ("10:20:18", "18:18:"),
            ("10:18446744073709551615:", "10:20:"),
        ] {
            assert!(!covers_all(behind, ahead), "{behind} {ahead}");
        }
    }

    #[test]
    fn only_what_postgresql_writes_is_read() {
        for text in
            ["1:1:", "10:20:10,14,19", "10:10:", "18446744073709551614:18446744073709551615:"]
        {
            assert_eq!(Snapshot::parse(text).map(|read| read.to_string()).as_deref(), Some(text));
        }
        for text in [
            "",
            ":",
            "1:2",
            "::",
            "0:1:",
            "01:2:",
            "+1:2:",
            "2:1:",
            "10:20:9",
            "10:20:20",
            "10:20:14,10",
            "10:20:14,14",
            "10:20:14,",
            "10:20:,14",
            "10:20: 14",
            "10:20:14:",
            "1:99999999999999999999:",
        ] {
            assert_eq!(Snapshot::parse(text), None, "{text}");
        }
    }

    #[test]
    fn ones_own_transaction_is_in_progress() {
        for (own, text) in [
            (9, "9:20:9,14"),
            (12, "10:20:12,14"),
            (14, "10:20:14"),
            (19, "10:20:14,19"),
            (20, "10:20:14"),
        ] {
            let snapshot = Snapshot::parse("10:20:14").unwrap().in_progress(own);
            assert_eq!(snapshot.to_string(), text);
            assert_eq!(Snapshot::parse(text).as_ref(), Some(&snapshot));
            assert!(!snapshot.covers(own));
        }
    }

    #[test]
    fn what_is_in_progress_is_not_covered() {
        let snapshot = Snapshot::parse("10:20:10,14").unwrap();
        let covered: Vec<_> = (8..22).filter(|xid| snapshot.covers(*xid)).collect();
        assert_eq!(covered, [8, 9, 11, 12, 13, 15, 16, 17, 18, 19]);
    }
}
