//! A chain of records, each sealed over its content and the seal before it.
//!
//! Whoever changes, removes, reorders or inserts a record must seal anew all that
//! follow. With a pepper nobody can who doesn't have it, as long as the file of peppers
//! doesn't accept what is unpeppered. Without one, or to cut off the end, it can be done,
//! and only a seal that was kept elsewhere shows it.

use crate::key::pepper::{Peppers, UNPEPPERED};
use crate::key::subkey::ForChains;

pub const SEAL_LEN: usize = 32;
pub type Seal = [u8; SEAL_LEN];

/// What the first record is chained to.
pub const START: Seal = [0; SEAL_LEN];

/// The seal of a record, under a generation of the peppers; `None` if there is no
/// such generation.
pub fn seal(
    peppers: &Peppers,
    generation: i16,
    previous: &Seal,
    entry: i64,
    fields: &[Option<&[u8]>],
) -> Option<Seal> {
    // Each field with its length, so that no two records read alike; an absent one
    // has a length that no other has.
    let mut content =
        Vec::with_capacity(64 + fields.iter().flatten().map(|f| f.len() + 8).sum::<usize>());
    content.extend_from_slice(previous);
    content.extend_from_slice(&entry.to_be_bytes());
    for field in fields {
        let length = field.map_or(u64::MAX, |field| field.len() as u64);
        content.extend_from_slice(&length.to_be_bytes());
        content.extend_from_slice(field.unwrap_or_default());
    }
    peppers.digest::<ForChains>(generation, &content)
}

/// A record as it was read.
pub struct Record<'a> {
    pub entry: i64,
    pub generation: i16,
    pub seal: &'a [u8],
    pub fields: &'a [Option<&'a [u8]>],
}

/// The first thing that is wrong with a chain.
#[derive(Debug, PartialEq, Eq)]
pub struct Fault {
    pub entry: i64,
    pub problem: String,
}

/// A chain on its way through a reader who checks it.
pub struct Chain {
    previous: Seal,
    generation: i16,
    last: i64,
    pub entries: i64,
    pub fault: Option<Fault>,
    kept: Vec<(i64, Vec<u8>)>,
}

impl Chain {
    /// With the seals of entries that were kept elsewhere.
    pub fn new(kept: Vec<(i64, Vec<u8>)>) -> Chain {
        Chain { previous: START, generation: UNPEPPERED, last: 0, entries: 0, fault: None, kept }
    }

    /// Takes the next record in the order of entries.
    pub fn follow(&mut self, peppers: &Peppers, record: &Record) {
        self.entries += 1;
        if self.fault.is_none() {
            self.fault =
                self.fault_of(peppers, record).map(|(entry, problem)| Fault { entry, problem });
        }
        self.last = record.entry;
        self.generation = self.generation.max(record.generation);
        if let Ok(seal) = record.seal.try_into() {
            self.previous = seal;
        }
    }

    fn fault_of(&self, peppers: &Peppers, record: &Record) -> Option<(i64, String)> {
        let Record { entry, generation, seal: sealed, fields } = *record;
        let expected = self.last.saturating_add(1);
        if entry > expected {
            return Some((expected, missing(expected, entry - 1)));
        }
        if entry < 1 {
            return Some((entry, format!("entry {entry} was put before the first")));
        }
        if entry < expected {
            return Some((entry, format!("entry {entry} is there twice")));
        }
        if generation < self.generation {
            let why = "is sealed with an older pepper than the one before it, or with none";
            return Some((entry, format!("entry {entry} {why}")));
        }
        match seal(peppers, generation, &self.previous, entry, fields) {
            None => {
                let why = format!("is sealed with pepper {generation}, which is not configured");
                Some((entry, format!("entry {entry} {why}")))
            }
            Some(computed) if computed != *sealed => {
                let why = "was changed, or is not where it was written";
                Some((entry, format!("entry {entry} {why}")))
            }
            Some(_) => {
                let other = self.kept.iter().any(|(at, kept)| *at == entry && kept != sealed);
                other.then(|| (entry, format!("entry {entry} is not the one whose seal was kept")))
            }
        }
    }

    /// Must follow the last record: are all there that were kept? And is the last one
    /// sealed with a pepper that must have been in use by then?
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

    type Row = (i64, i16, Seal, Vec<Option<Vec<u8>>>);

    fn peppers() -> Peppers {
        let line = |n: i32, byte: &str| format!("{n}:{}\n", byte.repeat(32));
        Peppers::parse(&format!("{}{}", line(1, "aa"), line(2, "bb"))).unwrap()
    }

    fn borrowed(fields: &[Option<Vec<u8>>]) -> Vec<Option<&[u8]>> {
        fields.iter().map(|field| field.as_deref()).collect()
    }

    fn chain(contents: &[(i16, Vec<Option<Vec<u8>>>)]) -> Vec<Row> {
        let (mut previous, mut newest) = (START, 0);
        contents
            .iter()
            .zip(1..)
            .map(|((generation, fields), entry)| {
                newest = newest.max(*generation);
                previous = seal(&peppers(), newest, &previous, entry, &borrowed(fields)).unwrap();
                (entry, newest, previous, fields.clone())
            })
            .collect()
    }

    fn check(rows: &[Row], kept: Vec<(i64, Vec<u8>)>) -> Chain {
        let mut chain = Chain::new(kept);
        for (entry, generation, seal, fields) in rows {
            let fields = borrowed(fields);
            chain.follow(
                &peppers(),
                &Record { entry: *entry, generation: *generation, seal, fields: &fields },
            );
        }
        chain.finish(0);
        chain
    }

    fn contents() -> impl Strategy<Value = Vec<(i16, Vec<Option<Vec<u8>>>)>> {
        let field = proptest::option::of(proptest::collection::vec(any::<u8>(), 0..4));
        let record = (0i16..=2, proptest::collection::vec(field, 3));
        proptest::collection::vec(record, 2..12)
    }

    proptest! {
        #[test]
        fn an_honest_chain_holds(contents in contents()) {
            let rows = chain(&contents);
            let kept = rows.iter().map(|row| (row.0, row.2.to_vec())).collect();
            let checked = check(&rows, kept);
            prop_assert_eq!(checked.fault, None);
            prop_assert_eq!(checked.entries, rows.len() as i64);
        }

        #[test]
        fn a_changed_row_is_named(contents in contents(), pick in any::<proptest::sample::Index>()) {
            let mut rows = chain(&contents);
            let at = pick.index(rows.len());
            rows[at].3[1] = Some(b"something else".to_vec());
            let fault = check(&rows, vec![]).fault;
            prop_assert_eq!(fault.map(|fault| fault.entry), Some(at as i64 + 1));
        }

        #[test]
        fn a_removed_row_is_named(contents in contents(), pick in any::<proptest::sample::Index>()) {
            let mut rows = chain(&contents);
            let head = rows.last().map(|row| (row.0, row.2.to_vec())).unwrap();
            let at = pick.index(rows.len());
            rows.remove(at);
            let fault = check(&rows, vec![head]).fault;
            prop_assert_eq!(fault.map(|fault| fault.entry), Some(at as i64 + 1));
        }

        #[test]
        fn swapped_rows_are_found(contents in contents(), pick in any::<proptest::sample::Index>()) {
            let mut rows = chain(&contents);
            let at = pick.index(rows.len() - 1);
            let (one, two) = (rows[at].clone(), rows[at + 1].clone());
            rows[at] = (one.0, two.1, two.2, two.3);
            rows[at + 1] = (two.0, one.1, one.2, one.3);
            let fault = check(&rows, vec![]).fault;
            prop_assert_eq!(fault.map(|fault| fault.entry), Some(at as i64 + 1));
        }
    }

    #[test]
    fn a_chain_that_was_sealed_anew_is_found_by_a_kept_seal() {
        let field = |text: &str| (0, vec![Some(text.as_bytes().to_vec())]);
        let honest = chain(&[field("a"), field("b"), field("c")]);
        let forged = chain(&[field("a"), field("x"), field("c")]);
        assert!(check(&forged, vec![]).fault.is_none());
        let head = (3, honest[2].2.to_vec());
        let fault = check(&forged, vec![head]).fault.unwrap();
        assert_eq!((fault.entry, fault.problem.contains("kept")), (3, true));
    }

    #[test]
    fn without_the_pepper_nothing_can_be_added() {
        let field = |text: &str| vec![Some(text.as_bytes().to_vec())];
        let mut rows = chain(&[(1, field("a"))]);
        let forged = seal(&Peppers::default(), 0, &rows[0].2, 2, &borrowed(&field("b"))).unwrap();
        rows.push((2, 0, forged, field("b")));
        let fault = check(&rows, vec![]).fault.unwrap();
        assert!(fault.entry == 2 && fault.problem.contains("older pepper"), "{fault:?}");
    }

    #[test]
    fn a_chain_that_was_sealed_anew_without_the_pepper_is_older_than_its_keys() {
        let mut forged = Chain::new(vec![]);
        let sealed = seal(&Peppers::default(), 0, &START, 1, &[]).unwrap();
        forged.follow(&peppers(), &Record { entry: 1, generation: 0, seal: &sealed, fields: &[] });
        forged.finish(0);
        assert_eq!(forged.fault, None);
        forged.finish(1);
        assert!(forged.fault.is_some_and(|fault| fault.entry == 1));
    }

    #[test]
    fn an_unknown_pepper_is_named() {
        let rows = vec![(1, 9, START, vec![])];
        let fault = check(&rows, vec![]).fault.unwrap();
        assert!(fault.problem.contains("pepper 9"), "{fault:?}");
    }

    #[test]
    fn absent_and_empty_fields_differ() {
        let sealed = |fields: &[Option<&[u8]>]| seal(&Peppers::default(), 0, &START, 1, fields);
        assert_ne!(sealed(&[None]), sealed(&[Some(b"")]));
        assert_ne!(sealed(&[Some(b"ab"), Some(b"")]), sealed(&[Some(b"a"), Some(b"b")]));
    }
}
