//! Amendments that overtook their events, which transactions hold back: they are tried
//! again for a while.

use crate::clock::monotonic;
use keysmith_core::event::{MAX_LEN, Record};

/// In microseconds.
const WAIT: i64 = 60_000_000;
/// No more than so many are kept.
const MOST: usize = 1_000;

#[derive(Default)]
pub struct Late {
    /// Until when each is tried, and what it says.
    amendments: Vec<(i64, Vec<u8>)>,
}

impl Late {
    pub fn is_empty(&self) -> bool {
        self.amendments.is_empty()
    }

    pub fn forget_overdue(&mut self) {
        let now = monotonic();
        self.amendments.retain(|(until, _)| *until > now);
    }

    pub fn records(&self) -> impl Iterator<Item = Record<'_>> {
        self.amendments.iter().filter_map(|(_, bytes)| Record::decode(bytes))
    }

    /// What is late after a batch, and how many amendments are given up. Records that
    /// have no number were late before.
    pub fn after(&self, records: &[(i64, Record)], unmatched: &[[u8; 16]]) -> (Late, u64) {
        let until = monotonic() + WAIT;
        let mut late = Late::default();
        let mut given_up = 0;
        for (sequence, record) in records {
            let Record::Amendment { request_id, .. } = record else { continue };
            if !unmatched.contains(request_id) {
                continue;
            }
            let mut room = [0; MAX_LEN];
            let length = record.encode(&mut room);
            let bytes = room.get(..length).unwrap_or_default().to_vec();
            let before = self.amendments.iter().find(|(_, known)| *known == bytes);
            match before {
                Some((until, _)) if *sequence == 0 => late.amendments.push((*until, bytes)),
                _ if late.amendments.len() < MOST => late.amendments.push((until, bytes)),
                _ => given_up += 1,
            }
        }
        (late, given_up)
    }
}
