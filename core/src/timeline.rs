//! How the timeline before this one ended: what the files in `pg_wal` say about the server that wrote
//! it.
//!
//! A server that shuts down writes a checkpoint of that kind as its last record, and sends it to its
//! standbys. So the record before the first one of a new timeline tells a switchover from a crash.

/// The end of a timeline, where the next one begins.
#[derive(Debug, PartialEq, Eq)]
pub struct Switch {
    /// The timeline that ended there.
    pub from: u32,
    /// The position of the new timeline's first record.
    pub at: u64,
}

/// The switches in a timeline's history file, the newest last. Each of its lines has a timeline, the
/// position of its end as two hexadecimal numbers, and a reason.
pub fn switches(history: &str) -> Vec<Switch> {
    let switch = |line: &str| {
        let mut fields = line.split_whitespace();
        let from = fields.next()?.parse().ok()?;
        let (high, low) = fields.next()?.split_once('/')?;
        let half = |digits| u32::from_str_radix(digits, 16).ok().map(u64::from);
        Some(Switch { from, at: half(high)? << 32 | half(low)? })
    };
    history.lines().filter_map(switch).collect()
}

/// Sizes of WAL files and of the pages in them.
#[derive(Clone, Copy)]
pub struct Layout {
    pub segment: u64,
    pub page: u64,
}

/// A page begins with a header, and the first page of a segment with a longer one.
const PAGE_HEADER: u64 = 24;
const SEGMENT_HEADER: u64 = 40;

/// What a record's first bytes say: its length (4 bytes), its transaction (4), the position of the
/// record before it (8), what it is (1), and who reads it (1).
const FIRST_BYTES: usize = 18;
const XLOG: u8 = 0;
const KIND: u8 = 0xF0;
const CHECKPOINT_SHUTDOWN: u8 = 0;

/// Whether the record before the one at `at` says that the server was shut down. `None` if that can't
/// be read. `read` fills a buffer from a position, within one page.
pub fn follows_shutdown(
    at: u64,
    layout: Layout,
    mut read: impl FnMut(u64, &mut [u8]) -> Option<()>,
) -> Option<bool> {
    let first = first_bytes(at, layout, &mut read)?;
    let before = u64::from_ne_bytes(*first.get(8..)?.first_chunk()?);
    if before >= at {
        return None;
    }
    let last = first_bytes(before, layout, &mut read)?;
    let (info, reader) = (last.get(16)?, last.get(17)?);
    Some(*reader == XLOG && info & KIND == CHECKPOINT_SHUTDOWN)
}

/// A record's first bytes, which may go on after the next page's header.
fn first_bytes(
    at: u64,
    layout: Layout,
    read: &mut impl FnMut(u64, &mut [u8]) -> Option<()>,
) -> Option<[u8; FIRST_BYTES]> {
    let mut bytes = [0; FIRST_BYTES];
    let (mut at, mut done) = (at, 0);
    while done < FIRST_BYTES {
        if at.checked_rem(layout.segment)? == 0 {
            at = at.checked_add(SEGMENT_HEADER)?;
        } else if at.checked_rem(layout.page)? == 0 {
            at = at.checked_add(PAGE_HEADER)?;
        }
        let left = layout.page - at.checked_rem(layout.page)?;
        let end = FIRST_BYTES.min(done + usize::try_from(left).ok()?);
        let part = bytes.get_mut(done..end)?;
        read(at, part)?;
        at = at.checked_add(part.len() as u64)?;
        done = end;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LAYOUT: Layout = Layout { segment: 1024, page: 256 };
    /// Of other records, and of the kind that a running server writes now and then.
    const HEAP: (u8, u8) = (0, 10);
    const ONLINE: (u8, u8) = (0x10, XLOG);
    const SHUTDOWN: (u8, u8) = (CHECKPOINT_SHUTDOWN, XLOG);

    /// WAL with a record of a kind at one place, and a record at another that names it.
    fn wal(before: u64, (info, reader): (u8, u8), at: u64) -> Vec<u8> {
        let mut wal = vec![0xEE; 4096];
        for (place, prev, info, reader) in [(before, 0, info, reader), (at, before, 0x90, XLOG)] {
            let mut record = vec![0; 8];
            record.extend(u64::to_ne_bytes(prev));
            record.extend([info, reader]);
            let mut place = place as usize;
            for byte in record {
                place += match place {
                    _ if place.is_multiple_of(1024) => 40,
                    _ if place.is_multiple_of(256) => 24,
                    _ => 0,
                };
                wal[place] = byte;
                place += 1;
            }
        }
        wal
    }

    fn found(wal: &[u8], at: u64) -> Option<bool> {
        follows_shutdown(at, LAYOUT, |at, into| {
            let at = usize::try_from(at).ok()?;
            assert!(at / 256 == (at + into.len() - 1) / 256, "over the end of a page");
            into.copy_from_slice(wal.get(at..at + into.len())?);
            Some(())
        })
    }

    #[test]
    fn the_last_record_is_recognized_wherever_it_is() {
        for (before, at) in
            [(40, 128), (128, 248), (240, 512), (248, 1024), (1016, 1104), (1280, 2048)]
        {
            assert_eq!(found(&wal(before, SHUTDOWN, at), at), Some(true), "{before} {at}");
            assert_eq!(found(&wal(before, ONLINE, at), at), Some(false), "{before} {at}");
            assert_eq!(found(&wal(before, HEAP, at), at), Some(false), "{before} {at}");
        }
    }

    #[test]
    fn what_can_not_be_read_says_nothing() {
        let wal = wal(40, SHUTDOWN, 128);
        assert_eq!(found(&wal, 1 << 40), None);
        assert_eq!(found(&wal, u64::MAX), None);
        // A record that names one after it.
        assert_eq!(found(&vec![0xFF; 4096], 128), None);
    }

    #[test]
    fn each_line_of_a_history_is_a_switch() {
        let history =
            "1\t0/3000148\tno recovery target specified\n\n# words\n2\t1A/DEADBEEF\tbefore x\n";
        let [first, second] = [(1, 0x300_0148), (2, 0x1A_DEAD_BEEF)];
        let switch = |(from, at)| Switch { from, at };
        assert_eq!(switches(history), [switch(first), switch(second)]);
        for none in ["", "\n", "one line", "1 2", "1\tx/y\tz", "1\t1/100000000\tz"] {
            assert_eq!(switches(none), [], "{none:?}");
        }
    }
}
