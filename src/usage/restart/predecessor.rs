//! The primary before this one: whether it was shut down, or ended suddenly. The WAL tells that, which
//! this server received from it.

use keysmith_core::timeline::{self, Layout};
use pg::server;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;

/// Whether the primary of a timeline was shut down properly before another server was promoted. Its
/// last record was the checkpoint of that shutdown then, and nothing that it had accepted is lost.
/// `None` if that can't be found out: the WAL may have been removed since.
pub fn was_shut_down(timeline: i64) -> Option<bool> {
    let own = server::insertion_timeline();
    let wal = server::data_directory().join("pg_wal");
    let history = fs::read_to_string(wal.join(format!("{own:08X}.history"))).ok()?;
    // Others may have been promoted since, and have recorded nothing.
    let mut switches = timeline::switches(&history).into_iter();
    let switch = switches.find(|switch| i64::from(switch.from) == timeline)?;
    let next = switches.next().map_or(own, |switch| switch.from);
    let (segment, page) = server::wal_sizes();
    let read = |at: u64, into: &mut [u8]| {
        let number = at.checked_div(segment)?;
        // The segment of the switch was copied to the new timeline.
        let of = if number == switch.at / segment { next } else { switch.from };
        let in_a_log = (1u64 << 32).checked_div(segment)?;
        let name = format!("{of:08X}{:08X}{:08X}", number / in_a_log, number % in_a_log);
        File::open(wal.join(name)).ok()?.read_exact_at(into, at % segment).ok()
    };
    timeline::follows_shutdown(switch.at, Layout { segment, page }, read)
}
