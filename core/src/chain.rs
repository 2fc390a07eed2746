//! A chain of entries. Each has a seal over its content and over the seal before it.
//!
//! An entry can't be changed, removed, moved or inserted without sealing all later entries again.
//! That takes the pepper, unless the pepper file accepts unpeppered entries. Without a pepper
//! anybody can do it, and anybody can cut off the end of a chain. Only a seal that was kept
//! elsewhere shows either.
//!
//! The seal covers a digest of the content. The content is stored elsewhere, with a random salt.
//! Once both are deleted, the digest says nothing about the content, and the chain still holds.

use crate::key::pepper::{Peppers, UNPEPPERED};
use crate::key::subkey::ForChains;
use sha2::{Digest, Sha256};

pub const SEAL_LEN: usize = 32;
pub type Seal = [u8; SEAL_LEN];

/// The seal before the first entry.
pub const START: Seal = [0; SEAL_LEN];

pub const SALT_LEN: usize = 32;

/// The domain of the digests of contents, which need no pepper. No domain of `key::subkey` begins
/// with it, and it begins with none of them.
const CONTENT: &[u8] = b"keysmith.content.v1\0";

/// The digest of an entry's content.
pub fn content_digest(salt: &[u8; SALT_LEN], fields: &[Option<&[u8]>]) -> [u8; 32] {
    let mut digest = Sha256::new().chain_update(CONTENT).chain_update(salt);
    // Each field has its length before it, so different contents have different bytes. A null
    // has a length that no value has.
    for field in fields {
        let length = field.map_or(u64::MAX, |field| field.len() as u64);
        digest.update(length.to_be_bytes());
        digest.update(field.unwrap_or_default());
    }
    digest.finalize().into()
}

/// All that a seal covers, except the seal before it.
#[derive(Clone, Copy)]
pub struct Entry<'a> {
    pub keyspace: &'a str,
    pub entry: i64,
    /// The generation of the pepper that the entry is sealed with.
    pub generation: i16,
    /// In microseconds since the year 2000.
    pub at: i64,
    pub action: &'a str,
    /// The digest of its content.
    pub content: &'a [u8],
}

impl Entry<'_> {
    /// Its seal. `None` if there is no such generation.
    pub fn seal(&self, peppers: &Peppers, previous: &Seal) -> Option<Seal> {
        let mut sealed = Vec::with_capacity(256);
        sealed.extend_from_slice(previous);
        sealed.extend_from_slice(&self.entry.to_be_bytes());
        sealed.extend_from_slice(&self.generation.to_be_bytes());
        sealed.extend_from_slice(&self.at.to_be_bytes());
        for part in [self.content, self.keyspace.as_bytes(), self.action.as_bytes()] {
            sealed.extend_from_slice(&(part.len() as u64).to_be_bytes());
            sealed.extend_from_slice(part);
        }
        peppers.digest::<ForChains>(self.generation, &sealed)
    }
}

/// An entry as it was read.
pub struct Record<'a> {
    pub entry: Entry<'a>,
    pub seal: &'a [u8],
    /// The digest of the stored content, if there is any.
    pub found: Option<[u8; 32]>,
}

/// The first fault of a chain.
#[derive(Debug, PartialEq, Eq)]
pub struct Fault {
    pub entry: i64,
    pub problem: String,
}

/// A chain that is being checked.
pub struct Chain {
    previous: Seal,
    generation: i16,
    last: i64,
    pub entries: i64,
    pub fault: Option<Fault>,
    kept: Vec<(i64, Vec<u8>)>,
    erased: Vec<Erased>,
}

/// Entries whose content was deleted, as a later entry says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Erased {
    pub first: i64,
    pub last: i64,
    /// The entry that says so.
    pub by: i64,
}

impl Chain {
    /// Begins a check. `kept` are the seals of entries that were kept elsewhere. What says that
    /// contents were erased is in the chain itself, and so is checked with it.
    pub fn new(kept: Vec<(i64, Vec<u8>)>, mut erased: Vec<Erased>) -> Chain {
        erased.sort_unstable_by_key(|range| range.first);
        Chain {
            previous: START,
            generation: UNPEPPERED,
            last: 0,
            entries: 0,
            fault: None,
            kept,
            erased,
        }
    }

    /// Whether a later entry says that the content of this one was erased. An entry loses its content
    /// once, so ranges don't overlap.
    fn is_erased(&self, entry: i64) -> bool {
        let after = self.erased.partition_point(|range| range.first <= entry);
        let range = after.checked_sub(1).and_then(|place| self.erased.get(place));
        range.is_some_and(|range| entry <= range.last && entry < range.by)
    }

    /// Checks the next entry, in the order of numbers.
    pub fn follow(&mut self, peppers: &Peppers, record: &Record) {
        self.entries += 1;
        if self.fault.is_none() {
            self.fault =
                self.fault_of(peppers, record).map(|(entry, problem)| Fault { entry, problem });
        }
        self.last = record.entry.entry;
        self.generation = self.generation.max(record.entry.generation);
        if let Ok(seal) = record.seal.try_into() {
            self.previous = seal;
        }
    }

    fn fault_of(&self, peppers: &Peppers, record: &Record) -> Option<(i64, String)> {
        let Record { entry: sealed, seal, found } = record;
        let Entry { entry, generation, .. } = *sealed;
        let expected = self.last.saturating_add(1);
        if entry > expected {
            return Some((expected, missing(expected, entry - 1)));
        }
        let problem = if entry < 1 {
            "was put before the first".into()
        } else if entry < expected {
            "is there twice".into()
        } else if generation < self.generation {
            "is sealed with an older pepper than the one before it, or with none".into()
        } else {
            match sealed.seal(peppers, &self.previous) {
                None => format!("is sealed with pepper {generation}, which is not configured"),
                Some(computed) if computed != **seal => {
                    "was changed, or is not where it was written".into()
                }
                Some(_) if found.is_none() && !self.is_erased(entry) => {
                    "has no content any more".into()
                }
                Some(_) if found.is_some_and(|found| found != *sealed.content) => {
                    "was changed: it has another content".into()
                }
                Some(_) => {
                    let other = self.kept.iter().any(|(at, kept)| *at == entry && kept != seal);
                    other.then(|| "is not the one whose seal was kept".into())?
                }
            }
        };
        Some((entry, format!("entry {entry} {problem}")))
    }

    /// To be called after the last entry. Checks that all kept entries are there, and that the
    /// last entry is sealed with a pepper that was in use at its time.
    pub fn finish(&mut self, generation: i16) {
        let last_kept = self.kept.iter().map(|(entry, _)| *entry).max().unwrap_or(0);
        if self.fault.is_none() && last_kept > self.last {
            let first = self.last + 1;
            self.fault = Some(Fault { entry: first, problem: missing(first, last_kept) });
        }
        if self.fault.is_none() && self.generation < generation && self.entries > 0 {
            let why = format!("is sealed with an older pepper than {generation}, or with none");
            let problem = format!("entry {} {why}, as no chain of these keys can end", self.last);
            self.fault = Some(Fault { entry: self.last, problem });
        }
    }
}

fn missing(first: i64, last: i64) -> String {
    if first == last {
        format!("entry {first} is missing")
    } else {
        format!("entries {first} to {last} are missing")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// An entry as it is stored, with the digest of the content beside it.
    #[derive(Clone)]
    struct Row {
        entry: i64,
        generation: i16,
        at: i64,
        content: Vec<u8>,
        seal: Seal,
        found: Option<[u8; 32]>,
    }

    impl Row {
        fn entry(&self) -> Entry<'_> {
            Entry {
                keyspace: "default",
                entry: self.entry,
                generation: self.generation,
                at: self.at,
                action: "mint",
                content: &self.content,
            }
        }

        fn reseal(&mut self, peppers: &Peppers, previous: &Seal) -> Seal {
            self.seal = self.entry().seal(peppers, previous).unwrap();
            self.seal
        }
    }

    fn peppers() -> Peppers {
        let line = |n: i32, byte: &str| format!("{n}:{}\n", byte.repeat(32));
        Peppers::parse(&format!("{}{}", line(1, "aa"), line(2, "bb"))).unwrap()
    }

    fn digest(content: &str) -> [u8; 32] {
        content_digest(&[7; 32], &[Some(content.as_bytes())])
    }

    fn chain(contents: &[(i16, String)]) -> Vec<Row> {
        let (mut previous, mut newest) = (START, 0);
        contents
            .iter()
            .zip(1..)
            .map(|((generation, content), entry)| {
                newest = newest.max(*generation);
                let found = digest(content);
                let mut row = Row {
                    entry,
                    generation: newest,
                    at: 1000 * entry,
                    content: found.to_vec(),
                    seal: START,
                    found: Some(found),
                };
                previous = row.reseal(&peppers(), &previous);
                row
            })
            .collect()
    }

    fn unpeppered(contents: &[&str]) -> Vec<Row> {
        let contents: Vec<_> = contents.iter().map(|text| (0, text.to_string())).collect();
        chain(&contents)
    }

    fn check(rows: &[Row], kept: Vec<(i64, Vec<u8>)>) -> Chain {
        check_erased(rows, kept, vec![])
    }

    fn check_erased(rows: &[Row], kept: Vec<(i64, Vec<u8>)>, erased: Vec<Erased>) -> Chain {
        let mut chain = Chain::new(kept, erased);
        for row in rows {
            let record = Record { entry: row.entry(), seal: &row.seal, found: row.found };
            chain.follow(&peppers(), &record);
        }
        chain.finish(0);
        chain
    }

    fn contents() -> impl Strategy<Value = Vec<(i16, String)>> {
        proptest::collection::vec((0i16..=2, "[a-z]{0,4}"), 2..12)
    }

    fn head(rows: &[Row]) -> (i64, Vec<u8>) {
        rows.last().map(|row| (row.entry, row.seal.to_vec())).unwrap()
    }

    // Seals outlive releases. These were computed by Python's hashlib and hmac.
    #[test]
    fn the_forms_are_stable() {
        let fields: [Option<&[u8]>; 3] = [Some(b"role"), None, Some(b"")];
        let content = content_digest(&[7; 32], &fields);
        assert_eq!(
            hex::encode(content),
            "915cd11b607a1a16f5a8bb1f91df9c6e4d8322007bb082ece4d61922d53809ef"
        );
        let entry = Entry {
            keyspace: "default",
            entry: 258,
            generation: 0,
            at: -3,
            action: "mint",
            content: &content,
        };
        assert_eq!(
            hex::encode(entry.seal(&peppers(), &[9; 32]).unwrap()),
            "44ad3a3783577d45b93b47515348f373d8c7f8169872f02b75635fac1ba32584"
        );
        let entry = Entry { generation: 2, ..entry };
        assert_eq!(
            hex::encode(entry.seal(&peppers(), &[9; 32]).unwrap()),
            "c63fa7a296c09476bd3919e5213314c33ae0c4ad717afde5d5c0dd1149470013"
        );
    }

    proptest! {
        #[test]
        fn an_honest_chain_holds(contents in contents()) {
            let rows = chain(&contents);
            let kept = rows.iter().map(|row| (row.entry, row.seal.to_vec())).collect();
            let checked = check(&rows, kept);
            prop_assert_eq!(checked.fault, None);
            prop_assert_eq!(checked.entries, rows.len() as i64);
        }

        #[test]
        fn a_changed_row_is_named(
            contents in contents(), pick in any::<proptest::sample::Index>(), what in 0..6,
        ) {
            let mut rows = chain(&contents);
            let at = pick.index(rows.len());
            let row = &mut rows[at];
            match what {
                0 => row.at += 1,
                1 => row.content = digest("something else").to_vec(),
                2 => row.content.truncate(31),
                3 => row.found = Some(digest("something else")),
                4 => row.found = None,
                _ => row.seal[31] ^= 1,
            }
            let fault = check(&rows, vec![]).fault;
            prop_assert_eq!(fault.map(|fault| fault.entry), Some(at as i64 + 1));
        }

        #[test]
        fn a_removed_row_is_named(contents in contents(), pick in any::<proptest::sample::Index>()) {
            let mut rows = chain(&contents);
            let head = head(&rows);
            let at = pick.index(rows.len());
            rows.remove(at);
            let fault = check(&rows, vec![head]).fault;
            prop_assert_eq!(fault.map(|fault| fault.entry), Some(at as i64 + 1));
        }

        #[test]
        fn swapped_rows_are_found(contents in contents(), pick in any::<proptest::sample::Index>()) {
            let mut rows = chain(&contents);
            let at = pick.index(rows.len() - 1);
            rows.swap(at, at + 1);
            let (one, two) = (rows[at].entry, rows[at + 1].entry);
            (rows[at].entry, rows[at + 1].entry) = (two, one);
            let fault = check(&rows, vec![]).fault;
            prop_assert_eq!(fault.map(|fault| fault.entry), Some(at as i64 + 1));
        }

        /// Moving bytes from one field to its neighbour makes another content.
        #[test]
        fn no_two_contents_read_alike(
            one in proptest::collection::vec(proptest::option::of("[ab]{0,3}"), 0..4),
            other in proptest::collection::vec(proptest::option::of("[ab]{0,3}"), 0..4),
        ) {
            let digest = |fields: &[Option<String>]| {
                let fields: Vec<_> = fields.iter().map(|f| f.as_deref().map(str::as_bytes)).collect();
                content_digest(&[7; 32], &fields)
            };
            prop_assert_eq!(digest(&one) == digest(&other), one == other);
        }
    }

    #[test]
    fn every_part_is_sealed() {
        let rows = unpeppered(&["a"]);
        let seal = |entry: Entry| entry.seal(&peppers(), &START);
        let entry = rows[0].entry();
        assert_eq!(seal(entry), Some(rows[0].seal));
        for other in [
            Entry { keyspace: "defaul", action: "tmint", ..entry },
            Entry { keyspace: "other", ..entry },
            Entry { action: "revoke", ..entry },
            Entry { entry: 2, ..entry },
            Entry { at: 0, ..entry },
            Entry { generation: 1, ..entry },
            Entry { content: &entry.content[1..], ..entry },
        ] {
            assert_ne!(seal(other), Some(rows[0].seal));
        }
        assert_ne!(entry.seal(&peppers(), &[1; 32]), Some(rows[0].seal));
    }

    #[test]
    fn a_chain_that_was_sealed_anew_is_found_by_a_kept_seal() {
        let honest = unpeppered(&["a", "b", "c"]);
        let forged = unpeppered(&["a", "x", "c"]);
        assert!(check(&forged, vec![]).fault.is_none());
        let fault = check(&forged, vec![head(&honest)]).fault.unwrap();
        assert_eq!((fault.entry, fault.problem.contains("kept")), (3, true));
    }

    #[test]
    fn content_may_be_missing_if_a_later_entry_says_so() {
        let mut rows = unpeppered(&["a", "b", "c", "d", "e"]);
        let fault = |rows: &[Row], erased: &[(i64, i64, i64)]| {
            let erased = erased.iter().map(|&(first, last, by)| Erased { first, last, by });
            check_erased(rows, vec![], erased.collect()).fault.map(|fault| fault.entry)
        };
        for missing in [0, 2, 3] {
            rows[missing].found = None;
        }
        assert_eq!(fault(&rows, &[(3, 4, 5), (1, 1, 5)]), None);
        assert_eq!(fault(&rows, &[(3, 4, 5)]), Some(1));
        assert_eq!(fault(&rows, &[(1, 1, 5), (3, 3, 5)]), Some(4));
        // Neither an entry itself nor one before it can say so.
        assert_eq!(fault(&rows, &[(1, 1, 5), (3, 4, 4)]), Some(4));
        assert_eq!(fault(&rows, &[(1, 1, 1), (3, 4, 5)]), Some(1));
        // Content that is there is checked all the same.
        rows[1].found = Some(digest("x"));
        assert_eq!(fault(&rows, &[(1, 4, 5)]), Some(2));
    }

    #[test]
    fn without_the_pepper_nothing_can_be_added() {
        let mut rows = chain(&[(1, "a".into()), (1, "b".into())]);
        rows[1].generation = 0;
        let previous = rows[0].seal;
        rows[1].reseal(&Peppers::default(), &previous);
        let fault = check(&rows, vec![]).fault.unwrap();
        assert!(fault.entry == 2 && fault.problem.contains("older pepper"), "{fault:?}");
    }

    #[test]
    fn a_chain_that_was_sealed_anew_without_the_pepper_is_older_than_its_keys() {
        let mut forged = check(&unpeppered(&["a"]), vec![]);
        assert_eq!(forged.fault, None);
        forged.finish(1);
        assert!(forged.fault.is_some_and(|fault| fault.entry == 1));
    }

    #[test]
    fn an_unknown_pepper_is_named() {
        let mut rows = unpeppered(&["a"]);
        rows[0].generation = 9;
        let fault = check(&rows, vec![]).fault.unwrap();
        assert!(fault.problem.contains("pepper 9"), "{fault:?}");
    }
}
