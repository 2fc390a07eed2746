//! Records that one server sends to another: each with its number, the oldest first.

/// The most bytes of a record.
const MOST_RECORD: usize = crate::event::MAX_LEN;

/// Adds a record. It is left out if it is too long.
pub fn add(parcel: &mut Vec<u8>, number: u64, record: &[u8]) {
    if let Ok(length) = u16::try_from(record.len())
        && record.len() <= MOST_RECORD
    {
        parcel.extend_from_slice(&number.to_le_bytes());
        parcel.extend_from_slice(&length.to_le_bytes());
        parcel.extend_from_slice(record);
    }
}

/// The records of a parcel. `None` if it is not whole, or if their numbers don't rise.
pub fn open(mut parcel: &[u8]) -> Option<Vec<(u64, &[u8])>> {
    let mut records: Vec<(u64, &[u8])> = Vec::new();
    while !parcel.is_empty() {
        let (number, rest) = parcel.split_first_chunk()?;
        let (length, rest) = rest.split_first_chunk()?;
        let length = usize::from(u16::from_le_bytes(*length));
        let (record, rest) = rest.split_at_checked(length)?;
        let number = u64::from_le_bytes(*number);
        let is_next = records.last().is_none_or(|(before, _)| *before < number);
        // Numbers are stored as bigint.
        if !is_next || length > MOST_RECORD || i64::try_from(number).is_err() {
            return None;
        }
        records.push((number, record));
        parcel = rest;
    }
    Some(records)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_is_put_in_comes_out(
            records in prop::collection::btree_map(
                0..i64::MAX as u64, prop::collection::vec(any::<u8>(), 0..MOST_RECORD), 0..20)
        ) {
            let mut parcel = Vec::new();
            for (number, record) in &records {
                add(&mut parcel, *number, record);
            }
            let opened = open(&parcel).unwrap();
            let expected: Vec<_> = records.iter().map(|(n, r)| (*n, r.as_slice())).collect();
            prop_assert_eq!(opened, expected);
        }

        #[test]
        fn anything_can_be_opened_without_harm(bytes in prop::collection::vec(any::<u8>(), 0..99)) {
            if let Some(records) = open(&bytes) {
                let mut again = Vec::new();
                for (number, record) in records {
                    add(&mut again, number, record);
                }
                prop_assert_eq!(again, bytes);
            }
        }
    }

    fn parcel(records: &[(u64, &[u8])]) -> Vec<u8> {
        let mut parcel = Vec::new();
        for (number, record) in records {
            add(&mut parcel, *number, record);
        }
        parcel
    }

    #[test]
    fn numbers_rise_and_fit() {
        assert!(open(&parcel(&[(1, b"a"), (2, b"b")])).is_some());
        assert!(open(&parcel(&[(2, b"a"), (2, b"b")])).is_none());
        assert!(open(&parcel(&[(2, b"a"), (1, b"b")])).is_none());
        assert!(open(&parcel(&[(u64::MAX, b"a")])).is_none());
    }

    #[test]
    fn a_parcel_that_was_cut_is_refused() {
        let whole = parcel(&[(1, b"abc"), (2, b"def")]);
        let opened = (1..whole.len()).filter(|length| open(&whole[..*length]).is_some());
        // Every cut but the one between the two.
        assert_eq!(opened.collect::<Vec<_>>(), [whole.len() / 2]);
    }

    #[test]
    fn a_record_that_is_too_long_is_left_out() {
        let long = [0; MOST_RECORD + 1];
        assert!(parcel(&[(1, &long)]).is_empty());
        let mut forged = 1u64.to_le_bytes().to_vec();
        forged.extend((long.len() as u16).to_le_bytes());
        forged.extend(long);
        assert!(open(&forged).is_none());
    }
}
