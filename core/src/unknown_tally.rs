//! Counts that one server sends to another: the requests without a known key, by keyspace and
//! reason.

/// A keyspace, a reason, and a number of requests.
pub type Count<'a> = (&'a [u8], &'a [u8], u64);

/// Adds a count. Names are at most 255 bytes long; a longer one is cut.
pub fn add(tally: &mut Vec<u8>, (keyspace, reason, requests): Count) {
    for name in [keyspace, reason] {
        let name = name.get(..usize::from(u8::MAX)).unwrap_or(name);
        tally.push(name.len() as u8);
        tally.extend_from_slice(name);
    }
    tally.extend_from_slice(&requests.to_le_bytes());
}

/// The counts. `None` if one is cut off or can't be added to a bigint.
pub fn read(mut tally: &[u8]) -> Option<Vec<Count<'_>>> {
    let mut counts = Vec::new();
    while !tally.is_empty() {
        let keyspace = take_name(&mut tally)?;
        let reason = take_name(&mut tally)?;
        let (requests, rest) = tally.split_first_chunk()?;
        let requests = u64::from_le_bytes(*requests);
        // No server ever answers more often.
        if requests > 1 << 50 {
            return None;
        }
        counts.push((keyspace, reason, requests));
        tally = rest;
    }
    Some(counts)
}

fn take_name<'a>(tally: &mut &'a [u8]) -> Option<&'a [u8]> {
    let (length, rest) = tally.split_first()?;
    let (name, rest) = rest.split_at_checked(usize::from(*length))?;
    *tally = rest;
    Some(name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_is_put_in_comes_out(
            counts in prop::collection::vec(
                (prop::collection::vec(any::<u8>(), 0..64), prop::collection::vec(any::<u8>(), 0..33),
                 0..1u64 << 50), 0..9)
        ) {
            let mut tally = Vec::new();
            for (keyspace, reason, requests) in &counts {
                add(&mut tally, (keyspace, reason, *requests));
            }
            let expected: Vec<Count> =
                counts.iter().map(|(k, r, n)| (k.as_slice(), r.as_slice(), *n)).collect();
            prop_assert_eq!(read(&tally).unwrap(), expected);
        }

        #[test]
        fn anything_can_be_read_without_harm(bytes in prop::collection::vec(any::<u8>(), 0..99)) {
            if let Some(counts) = read(&bytes) {
                let mut again = Vec::new();
                counts.into_iter().for_each(|count| add(&mut again, count));
                prop_assert_eq!(again, bytes);
            }
        }
    }

    #[test]
    fn a_count_beyond_reason_is_refused() {
        let mut tally = Vec::new();
        add(&mut tally, (b"k", b"r", u64::MAX));
        assert!(read(&tally).is_none());
    }
}
