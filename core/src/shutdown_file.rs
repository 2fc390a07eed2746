//! The file that an incarnation of shared memory leaves on disk for each database.
//!
//! It has a head and a body. The head is written before the first record is accepted, and says how
//! many records a sudden end can cost. The body is added when the server shuts down while records
//! wait. It holds each record with its number, so that a server that has the record already can
//! tell. A checksum of all that is before it ends each part.
//!
//! ```text
//! head   "KSUSAGE", version, incarnation, most waiting, flags, length of name, name, checksum
//! body   dropped, length of records, records (see `parcel`), checksum
//! ```
//!
//! The version and the flags have 1 byte, the length of the name 2, checksums 16, other numbers 8.
//! The lowest byte comes first.

use crate::parcel;
use crate::siphash::SipHasher;

const MAGIC: &[u8; 7] = b"KSUSAGE";
const VERSION: u8 = 1;

const STARTED_CLEANLY: u8 = 1;
const STARTED_AS_STANDBY: u8 = 2;

/// What is known of an incarnation from its start.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Head {
    pub incarnation: i64,
    /// How many records its sudden end can cost.
    pub most_waiting: i64,
    /// Whether the incarnation before it was shut down properly.
    pub started_cleanly: bool,
    pub started_as_standby: bool,
    /// The server's identity and name.
    pub server: String,
}

/// The records that waited when the incarnation was shut down.
#[derive(Debug, PartialEq, Eq)]
pub struct Backlog<'a> {
    pub head: Head,
    /// How many records the incarnation has dropped.
    pub dropped: i64,
    /// Records with their numbers, the oldest first.
    pub records: Vec<(u64, &'a [u8])>,
}

/// A file with a head alone.
pub fn head(head: &Head) -> Vec<u8> {
    let mut file = MAGIC.to_vec();
    file.push(VERSION);
    file.extend(head.incarnation.to_le_bytes());
    file.extend(head.most_waiting.to_le_bytes());
    file.push(
        if head.started_cleanly { STARTED_CLEANLY } else { 0 }
            | if head.started_as_standby { STARTED_AS_STANDBY } else { 0 },
    );
    let length = u16::try_from(head.server.len()).unwrap_or_default();
    let server = head.server.as_bytes().get(..usize::from(length)).unwrap_or_default();
    file.extend(length.to_le_bytes());
    file.extend(server);
    seal(&mut file);
    file
}

/// Adds a body to a file that has a head alone.
pub fn add_body<'a>(
    file: &mut Vec<u8>,
    dropped: i64,
    records: impl Iterator<Item = (u64, &'a [u8])>,
) {
    file.extend(dropped.to_le_bytes());
    let start = file.len();
    file.extend(0u64.to_le_bytes());
    let body = file.len();
    for (number, record) in records {
        parcel::add(file, number, record);
    }
    let length = (file.len() - body) as u64;
    if let Some(place) = file.get_mut(start..body) {
        place.copy_from_slice(&length.to_le_bytes());
    }
    seal(file);
}

/// The head of a file, and what follows. `None` if the head is not whole.
pub fn split_head(file: &[u8]) -> Option<(Head, &[u8])> {
    let rest = file.strip_prefix(MAGIC)?.strip_prefix(&[VERSION])?;
    let (incarnation, rest) = rest.split_first_chunk()?;
    let (most_waiting, rest) = rest.split_first_chunk()?;
    let (flags, rest) = rest.split_first()?;
    let (length, rest) = rest.split_first_chunk()?;
    let (server, rest) = rest.split_at_checked(usize::from(u16::from_le_bytes(*length)))?;
    let rest = unseal(file, rest)?;
    let head = Head {
        incarnation: i64::from_le_bytes(*incarnation),
        most_waiting: i64::from_le_bytes(*most_waiting),
        started_cleanly: flags & STARTED_CLEANLY != 0,
        started_as_standby: flags & STARTED_AS_STANDBY != 0,
        server: String::from_utf8(server.to_vec()).ok()?,
    };
    Some((head, rest))
}

/// What a file holds. `None` unless head and body are whole, and nothing follows.
pub fn read(file: &[u8]) -> Option<Backlog<'_>> {
    let (head, rest) = split_head(file)?;
    let (dropped, rest) = rest.split_first_chunk()?;
    let (length, rest) = rest.split_first_chunk()?;
    let length = usize::try_from(u64::from_le_bytes(*length)).ok()?;
    let (records, rest) = rest.split_at_checked(length)?;
    if !unseal(file, rest)?.is_empty() {
        return None;
    }
    Some(Backlog { head, dropped: i64::from_le_bytes(*dropped), records: parcel::open(records)? })
}

fn checksum(bytes: &[u8]) -> [u8; 16] {
    let mut hasher = SipHasher::new([0; 2]);
    hasher.fixed(bytes);
    hasher.finish().to_le_bytes()
}

fn seal(file: &mut Vec<u8>) {
    file.extend(checksum(file));
}

/// What follows the checksum that `rest` begins with. `None` if the checksum is wrong.
fn unseal<'a>(file: &[u8], rest: &'a [u8]) -> Option<&'a [u8]> {
    let before = file.get(..file.len().checked_sub(rest.len())?)?;
    rest.strip_prefix(&checksum(before))
}

#[cfg(test)]
mod tests {
    use super::*;

    const RECORDS: [(u64, &[u8]); 3] = [(7, b"first"), (8, b""), (4711, b"last")];

    fn known() -> Head {
        Head {
            incarnation: 848_000_000_000_000,
            most_waiting: 24_676,
            started_cleanly: true,
            started_as_standby: false,
            server: "réplica".into(),
        }
    }

    fn file() -> Vec<u8> {
        let mut file = head(&known());
        add_body(&mut file, 12, RECORDS.into_iter());
        file
    }

    #[test]
    fn what_is_written_is_read() {
        let file = file();
        let expected = Backlog { head: known(), dropped: 12, records: RECORDS.to_vec() };
        assert_eq!(read(&file), Some(expected));
        for flags in [(false, false), (false, true), (true, true)] {
            let (started_cleanly, started_as_standby) = flags;
            let other = Head { started_cleanly, started_as_standby, ..known() };
            assert_eq!(split_head(&head(&other)), Some((other, &b""[..])));
        }
    }

    #[test]
    fn a_file_that_was_cut_is_not_read() {
        let file = file();
        let head_ends = head(&known()).len();
        for length in 0..file.len() {
            let cut = &file[..length];
            assert_eq!(read(cut), None, "{length}");
            assert_eq!(split_head(cut).is_some(), length >= head_ends, "{length}");
        }
        assert_eq!(read(&[&file[..], b"x"].concat()), None);
    }

    #[test]
    fn a_file_with_a_changed_bit_is_not_read() {
        let file = file();
        let head_ends = head(&known()).len();
        for place in 0..file.len() {
            for bit in 0..8 {
                let mut changed = file.clone();
                changed[place] ^= 1 << bit;
                assert_eq!(read(&changed), None, "{place}");
                assert_eq!(split_head(&changed).is_some(), place >= head_ends, "{place}");
            }
        }
    }

    /// As after a write in place that was cut off: new bytes in front, old ones or zeros behind.
    #[test]
    fn a_file_that_is_written_in_part_is_not_read() {
        let file = file();
        for length in 0..file.len() {
            let mut changed = vec![0; file.len()];
            changed[..length].copy_from_slice(&file[..length]);
            assert_eq!(read(&changed).is_some(), changed == file, "{length}");
        }
    }
}
