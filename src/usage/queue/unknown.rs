//! Requests without a known key: counted by keyspace and reason, and sampled, in a place that does
//! not grow. Nothing of the key that was presented is kept.

use keysmith_core::event::{Event, MOST_NAME, MOST_OUTCOME, MOST_PLAIN, Record};
use keysmith_core::unknown_tally::Count;
use pg::shmem::shareable;

/// How many pairs of keyspace and reason are told apart between two flushes. More are counted as
/// other.
const MOST_PAIRS: usize = 48;
pub const MOST_SAMPLES: usize = 16;

/// One sample in this many microseconds at most: a flood fills neither table nor log.
const SAMPLE_INTERVAL: i64 = 1_000_000;

shareable! {
    #[derive(Clone, Copy)]
    pub struct Unknown {
        pairs: [Pair; MOST_PAIRS],
        samples: [Sample; MOST_SAMPLES],
        sampled: u32,
        last_sample: i64,
        other: u64,
        /// How many there were since the server started, and how many of them are stored.
        pub seen: u64,
        pub stored: u64,
    }

    /// A keyspace and a reason.
    #[derive(Clone, Copy)]
    pub struct Pair {
        keyspace: [u8; MOST_NAME],
        keyspace_length: u8,
        reason: [u8; MOST_OUTCOME],
        reason_length: u8,
        pub requests: u64,
    }

    #[derive(Clone, Copy)]
    struct Sample {
        length: u16,
        bytes: [u8; MOST_PLAIN],
    }
}

impl Pair {
    const EMPTY: Pair = Pair {
        keyspace: [0; MOST_NAME],
        keyspace_length: 0,
        reason: [0; MOST_OUTCOME],
        reason_length: 0,
        requests: 0,
    };

    pub fn keyspace(&self) -> &[u8] {
        self.keyspace.get(..usize::from(self.keyspace_length)).unwrap_or_default()
    }

    pub fn reason(&self) -> &[u8] {
        self.reason.get(..usize::from(self.reason_length)).unwrap_or_default()
    }

    fn is(&self, keyspace: &[u8], reason: &[u8]) -> bool {
        self.reason() == reason && self.keyspace() == keyspace
    }
}

/// What is to be stored.
pub struct Taken {
    pub pairs: Vec<Pair>,
    pub other: u64,
    pub samples: Vec<Vec<u8>>,
}

impl Taken {
    /// All counts, with those that are not told apart.
    pub fn counts(&self) -> Vec<Count<'_>> {
        let other = (self.other > 0).then_some((&b""[..], &b"other"[..], self.other));
        self.pairs.iter().map(|p| (p.keyspace(), p.reason(), p.requests)).chain(other).collect()
    }

    /// The samples, decoded.
    pub fn events(&self) -> Vec<Event<'_>> {
        let records = self.samples.iter().filter_map(|sample| Record::decode(sample));
        let event = |record| match record {
            Record::Event(event) => Some(event),
            Record::Amendment { .. } => None,
        };
        records.filter_map(event).collect()
    }
}

impl Unknown {
    pub fn new() -> Unknown {
        Unknown {
            pairs: [Pair::EMPTY; MOST_PAIRS],
            samples: [Sample { length: 0, bytes: [0; MOST_PLAIN] }; MOST_SAMPLES],
            sampled: 0,
            last_sample: 0,
            other: 0,
            seen: 0,
            stored: 0,
        }
    }

    /// Counts a request. True if a record of it should be given to `sample`.
    pub fn count(&mut self, keyspace: &[u8], reason: &[u8], now: i64) -> bool {
        self.seen += 1;
        let mut known = self.pairs.iter_mut();
        let pair = known.find(|pair| pair.requests == 0 || pair.is(keyspace, reason));
        match (pair, keyspace.len() <= MOST_NAME && reason.len() <= MOST_OUTCOME) {
            (Some(pair), true) => {
                if pair.requests == 0 {
                    copy(keyspace, &mut pair.keyspace, &mut pair.keyspace_length);
                    copy(reason, &mut pair.reason, &mut pair.reason_length);
                }
                pair.requests += 1;
            }
            _ => self.other += 1,
        }
        let is_due = now - self.last_sample >= SAMPLE_INTERVAL || now < self.last_sample;
        is_due && (self.sampled as usize) < MOST_SAMPLES
    }

    pub fn sample(&mut self, record: &[u8], now: i64) {
        let sample = self.samples.get_mut(self.sampled as usize);
        if let Some(sample) = sample
            && let Some(place) = sample.bytes.get_mut(..record.len())
        {
            place.copy_from_slice(record);
            sample.length = record.len() as u16;
            self.sampled += 1;
            self.last_sample = now;
        }
    }

    pub fn is_empty(&self) -> bool {
        self.seen == self.stored
    }

    /// Subtracts what was stored of a copy that was made before.
    pub fn subtract(&mut self, stored: &Unknown) {
        for (pair, gone) in self.pairs.iter_mut().zip(&stored.pairs) {
            pair.requests = pair.requests.saturating_sub(gone.requests);
        }
        // Pairs in use come first: `count` takes the first that is not.
        self.pairs.sort_unstable_by_key(|pair| pair.requests == 0);
        self.other = self.other.saturating_sub(stored.other);
        let gone = stored.sampled as usize;
        if gone <= self.samples.len() {
            self.samples.rotate_left(gone % MOST_SAMPLES);
        }
        self.sampled = self.sampled.saturating_sub(stored.sampled);
        self.stored = stored.seen;
    }

    /// Subtracts so many, of all since the start, that were stored by a process that ended before it
    /// could say so. The pairs of these requests are not known, as more may have come since. The
    /// sum stays right.
    pub fn subtract_up_to(&mut self, stored: u64) {
        let mut gone = stored.min(self.seen).saturating_sub(self.stored);
        self.stored += gone;
        let others = std::iter::once(&mut self.other);
        for requests in self.pairs.iter_mut().map(|pair| &mut pair.requests).chain(others) {
            let taken = gone.min(*requests);
            *requests -= taken;
            gone -= taken;
        }
        self.pairs.sort_unstable_by_key(|pair| pair.requests == 0);
    }

    pub fn taken(&self) -> Taken {
        let samples = self.samples.iter().take(self.sampled as usize);
        let bytes = |sample: &Sample| sample.bytes.get(..usize::from(sample.length)).map(Vec::from);
        Taken {
            pairs: self.pairs.iter().filter(|pair| pair.requests > 0).copied().collect(),
            other: self.other,
            samples: samples.filter_map(bytes).collect(),
        }
    }
}

fn copy(text: &[u8], place: &mut [u8], length: &mut u8) {
    if let Some(place) = place.get_mut(..text.len()) {
        place.copy_from_slice(text);
        *length = text.len() as u8;
    }
}
