//! The primary before this one: whether it was shut down, or ended suddenly. The WAL tells that, which
//! this server received from it.

use keysmith_core::timeline::{self, Layout};
use pg::server;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;

/// Whether this server was promoted after a proper shutdown of the primary. The primary's last record
/// was the checkpoint of that shutdown then, and nothing that it had accepted is lost. False if that
/// can't be found out.
pub fn was_shut_down() -> bool {
    let of = server::insertion_timeline();
    let wal = server::data_directory().join("pg_wal");
    let Ok(history) = fs::read_to_string(wal.join(format!("{of:08X}.history"))) else {
        return false;
    };
    let Some(switch) = timeline::last_switch(&history) else { return false };
    let (segment, page) = server::wal_sizes();
    let read = |at: u64, into: &mut [u8]| {
        let number = at.checked_div(segment)?;
        // The segment of the switch was copied to the new timeline.
        let of = if number == switch.at / segment { of } else { switch.from };
        let in_a_log = (1u64 << 32).checked_div(segment)?;
        let name = format!("{of:08X}{:08X}{:08X}", number / in_a_log, number % in_a_log);
        File::open(wal.join(name)).ok()?.read_exact_at(into, at % segment).ok()
    };
    timeline::follows_shutdown(switch.at, Layout { segment, page }, read) == Some(true)
}
