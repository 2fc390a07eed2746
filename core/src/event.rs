//! The record of a request. Its size is bounded, so it can wait in shared memory, and copying it
//! there allocates nothing.

use crate::lists;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The most bytes of an encoded record.
pub const MAX_LEN: usize =
    MOST_PLAIN + 8 + 2 * 2 + lists::MOST_UNITS_BYTES + lists::MOST_TAGS_BYTES + MOST_SUBJECT;
/// What a slot of the queue holds. A longer record takes several.
pub const MOST_PLAIN: usize = 496;

/// The most bytes of each text. Tables allow no longer names. Methods and endpoints are cut.
pub const MOST_NAME: usize = 63;
pub const MOST_OUTCOME: usize = 32;
pub const MOST_METHOD: usize = 32;
pub const MOST_ENDPOINT: usize = 200;
/// A member's name is cut, too, so that a record of a person takes no more than another.
pub const MOST_MEMBER: usize = 62;
pub const MOST_SUBJECT: usize = 128;
/// The most credits that usage counts for one request, so that sums do not overflow.
pub const MOST_SPEND: i64 = 1_000_000_000_000;

/// The outcome of a request that was accepted.
pub const ACCEPTED: &[u8] = b"ok";

/// A request of a known key, or of a person.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Event<'a> {
    /// In microseconds since 2000-01-01, as PostgreSQL counts.
    pub at: i64,
    pub request_id: [u8; 16],
    pub key_id: [u8; 16],
    pub tenant_id: [u8; 16],
    pub keyspace: &'a [u8],
    pub environment: &'a [u8],
    pub outcome: &'a [u8],
    pub ip: Option<IpAddr>,
    pub learned: Learned<'a>,
    /// The person, instead of a key: then the id of the key is nil, and the request was accepted.
    pub person: Option<Person<'a>>,
    /// The application's own user.
    pub subject: Option<&'a [u8]>,
    /// Whether the request is counted, and leaves no row.
    pub is_counted_only: bool,
}

/// A person whom the application signed in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Person<'a> {
    /// The member of the tenant; empty for the tenant as a whole.
    pub member: &'a [u8],
    /// The role of the database that signed the person in.
    pub role: &'a [u8],
}

/// What the decision tells first, and the application may report later.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Learned<'a> {
    pub status: Option<i32>,
    /// In microseconds.
    pub latency: Option<i64>,
    pub method: Option<&'a [u8]>,
    pub endpoint: Option<&'a [u8]>,
    /// Credits.
    pub spend: Option<i64>,
    /// Units and tags, as `lists` has them.
    pub weights: Option<&'a [u8]>,
    pub tags: Option<&'a [u8]>,
}

impl<'a> Learned<'a> {
    /// These facts, with those of a later report in their place. Weights are replaced as a whole:
    /// see `lists::merged`.
    pub fn amended(self, told: Learned<'a>) -> Learned<'a> {
        Learned {
            status: told.status.or(self.status),
            latency: told.latency.or(self.latency),
            method: told.method.or(self.method),
            endpoint: told.endpoint.or(self.endpoint),
            spend: told.spend.or(self.spend),
            weights: told.weights.or(self.weights),
            tags: told.tags.or(self.tags),
        }
    }

    /// The weights of both, if both have some.
    pub fn merged_weights(&self, told: &Learned) -> Option<Vec<u8>> {
        Some(lists::merged(self.weights?, told.weights?))
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Record<'a> {
    Event(Event<'a>),
    /// A later report about a request. Its event may still wait, or be stored already.
    Amendment {
        request_id: [u8; 16],
        /// When it was reported, as PostgreSQL counts.
        at: i64,
        told: Learned<'a>,
    },
}

const EVENT: u8 = 1;
const AMENDMENT: u8 = 2;
const EVENT_OF_PERSON: u8 = 3;
const COUNTED_EVENT: u8 = 4;

/// Bits that say which facts follow.
const HAS_STATUS: u8 = 1;
const HAS_LATENCY: u8 = 2;
const HAS_METHOD: u8 = 4;
const HAS_ENDPOINT: u8 = 8;
const HAS_SPEND: u8 = 16;
const HAS_WEIGHTS: u8 = 32;
const HAS_TAGS: u8 = 64;

impl<'a> Record<'a> {
    /// Writes the record and returns its length. Texts that are too long are cut at any byte, so
    /// callers first cut them between characters.
    pub fn encode(&self, into: &mut [u8; MAX_LEN]) -> usize {
        let mut writer = Writer { into, used: 0 };
        match self {
            Record::Event(event) => {
                writer.put(&[match event.person {
                    Some(_) => EVENT_OF_PERSON,
                    None if event.is_counted_only => COUNTED_EVENT,
                    None => EVENT,
                }]);
                writer.put(&event.request_id);
                writer.put_learned(&event.learned);
                writer.put(&event.at.to_le_bytes());
                if event.person.is_none() {
                    writer.put(&event.key_id);
                }
                writer.put(&event.tenant_id);
                writer.put_text(event.keyspace, MOST_NAME);
                match event.person {
                    None => {
                        writer.put_text(event.environment, MOST_NAME);
                        writer.put_text(event.outcome, MOST_OUTCOME);
                    }
                    Some(person) => {
                        writer.put_text(person.member, MOST_MEMBER);
                        writer.put_text(person.role, MOST_NAME);
                    }
                }
                match event.ip {
                    None => writer.put(&[0]),
                    Some(IpAddr::V4(address)) => {
                        writer.put(&[4]);
                        writer.put(&address.octets());
                    }
                    Some(IpAddr::V6(address)) => {
                        writer.put(&[6]);
                        writer.put(&address.octets());
                    }
                }
                writer.put_text(event.subject.unwrap_or_default(), MOST_SUBJECT);
            }
            Record::Amendment { request_id, at, told } => {
                writer.put(&[AMENDMENT]);
                writer.put(request_id);
                writer.put_learned(told);
                writer.put(&at.to_le_bytes());
            }
        }
        writer.used
    }

    /// The record as `encode` writes it.
    pub fn to_vec(&self) -> Vec<u8> {
        let mut room = [0; MAX_LEN];
        let length = self.encode(&mut room);
        room.get(..length).unwrap_or_default().to_vec()
    }

    /// Reads what `encode` wrote; `None` if it is anything else.
    pub fn decode(bytes: &'a [u8]) -> Option<Record<'a>> {
        let mut reader = Reader(bytes);
        let [kind] = reader.take()?;
        let request_id = reader.take()?;
        let learned = reader.take_learned()?;
        match kind {
            AMENDMENT => Some(Record::Amendment {
                request_id,
                told: learned,
                at: i64::from_le_bytes(reader.take()?),
            }),
            EVENT | COUNTED_EVENT | EVENT_OF_PERSON => {
                let is_of_key = kind != EVENT_OF_PERSON;
                let mut event = Event {
                    request_id,
                    learned,
                    at: i64::from_le_bytes(reader.take()?),
                    key_id: if is_of_key { reader.take()? } else { [0; 16] },
                    tenant_id: reader.take()?,
                    keyspace: reader.take_text()?,
                    is_counted_only: kind == COUNTED_EVENT,
                    ..Event::default()
                };
                if is_of_key {
                    event.environment = reader.take_text()?;
                    event.outcome = reader.take_text()?;
                } else {
                    let (member, role) = (reader.take_text()?, reader.take_text()?);
                    event.person = Some(Person { member, role });
                    event.outcome = ACCEPTED;
                }
                event.ip = match reader.take()? {
                    [0] => None,
                    [4] => Some(IpAddr::V4(Ipv4Addr::from(reader.take::<4>()?))),
                    [6] => Some(IpAddr::V6(Ipv6Addr::from(reader.take::<16>()?))),
                    _ => return None,
                };
                event.subject = Some(reader.take_text()?).filter(|subject| !subject.is_empty());
                Some(Record::Event(event))
            }
            _ => None,
        }
    }
}

impl Record<'_> {
    /// When the request was decided, or the amendment reported.
    pub fn at(&self) -> i64 {
        match self {
            Record::Event(event) => event.at,
            Record::Amendment { at, .. } => *at,
        }
    }
}

/// Whether an encoded record is an amendment.
#[inline]
pub fn is_amendment(record: &[u8]) -> bool {
    record.first() == Some(&AMENDMENT)
}

struct Writer<'a> {
    into: &'a mut [u8; MAX_LEN],
    used: usize,
}

impl Writer<'_> {
    /// There is room for the longest texts, as a test shows.
    #[inline]
    fn put(&mut self, bytes: &[u8]) {
        if let Some(place) = self.into.get_mut(self.used..self.used + bytes.len()) {
            place.copy_from_slice(bytes);
            self.used += bytes.len();
        }
    }

    #[inline]
    fn put_text(&mut self, text: &[u8], most: usize) {
        let text = text.get(..most).unwrap_or(text);
        self.put(&[text.len() as u8]);
        self.put(text);
    }

    fn put_learned(&mut self, learned: &Learned) {
        let mark = |is_there: bool, mark: u8| if is_there { mark } else { 0 };
        self.put(&[mark(learned.status.is_some(), HAS_STATUS)
            | mark(learned.latency.is_some(), HAS_LATENCY)
            | mark(learned.method.is_some(), HAS_METHOD)
            | mark(learned.endpoint.is_some(), HAS_ENDPOINT)
            | mark(learned.spend.is_some(), HAS_SPEND)
            | mark(learned.weights.is_some(), HAS_WEIGHTS)
            | mark(learned.tags.is_some(), HAS_TAGS)]);
        if let Some(status) = learned.status {
            self.put(&status.to_le_bytes());
        }
        if let Some(latency) = learned.latency {
            self.put(&latency.to_le_bytes());
        }
        if let Some(method) = learned.method {
            self.put_text(method, MOST_METHOD);
        }
        if let Some(endpoint) = learned.endpoint {
            self.put_text(endpoint, MOST_ENDPOINT);
        }
        if let Some(spend) = learned.spend {
            self.put(&spend.to_le_bytes());
        }
        if let Some(weights) = learned.weights {
            self.put_list(weights, lists::MOST_UNITS_BYTES);
        }
        if let Some(tags) = learned.tags {
            self.put_list(tags, lists::MOST_TAGS_BYTES);
        }
    }

    /// A list that is too long is replaced by an empty one.
    fn put_list(&mut self, list: &[u8], most: usize) {
        let list = if list.len() <= most { list } else { &[] };
        self.put(&(list.len() as u16).to_le_bytes());
        self.put(list);
    }
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (taken, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*taken)
    }

    fn take_text(&mut self) -> Option<&'a [u8]> {
        let [length] = self.take()?;
        let (text, rest) = self.0.split_at_checked(usize::from(length))?;
        self.0 = rest;
        Some(text)
    }

    fn take_list(&mut self) -> Option<&'a [u8]> {
        let length = u16::from_le_bytes(self.take()?);
        let (list, rest) = self.0.split_at_checked(usize::from(length))?;
        self.0 = rest;
        Some(list)
    }

    fn take_learned(&mut self) -> Option<Learned<'a>> {
        let [marks] = self.take()?;
        let mut learned = Learned::default();
        if marks & HAS_STATUS != 0 {
            learned.status = Some(i32::from_le_bytes(self.take()?));
        }
        if marks & HAS_LATENCY != 0 {
            learned.latency = Some(i64::from_le_bytes(self.take()?));
        }
        if marks & HAS_METHOD != 0 {
            learned.method = Some(self.take_text()?);
        }
        if marks & HAS_ENDPOINT != 0 {
            learned.endpoint = Some(self.take_text()?);
        }
        if marks & HAS_SPEND != 0 {
            learned.spend = Some(i64::from_le_bytes(self.take()?));
        }
        if marks & HAS_WEIGHTS != 0 {
            learned.weights = Some(self.take_list()?);
        }
        if marks & HAS_TAGS != 0 {
            learned.tags = Some(self.take_list()?);
        }
        Some(learned)
    }
}

/// A text of at most `most` bytes: the text itself, or its beginning and a mark. `clip` returns
/// how many of the first bytes are whole characters, within a limit. The result is put into
/// `room`.
pub fn cut<'a>(
    text: &'a [u8],
    most: usize,
    mark: &[u8],
    clip: impl FnOnce(&[u8], usize) -> usize,
    room: &'a mut Vec<u8>,
) -> &'a [u8] {
    if text.len() <= most {
        return text;
    }
    let limit = most.saturating_sub(mark.len());
    // The limit and the bytes of one more character are enough.
    let looked_at = text.get(..most).unwrap_or(text);
    let kept = clip(looked_at, limit).min(limit);
    room.clear();
    room.extend_from_slice(text.get(..kept).unwrap_or_default());
    room.extend_from_slice(mark.get(..most - kept).unwrap_or(mark));
    room
}

/// A path without its query and fragment. Those may hold secrets, and are not logged.
pub fn without_query(path: &[u8]) -> &[u8] {
    path.split(|byte| matches!(byte, b'?' | b'#')).next().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// How many bytes of UTF-8 are whole characters, within a limit.
    fn clip(text: &[u8], limit: usize) -> usize {
        let text = std::str::from_utf8(text)
            .unwrap_or_else(|error| std::str::from_utf8(&text[..error.valid_up_to()]).unwrap());
        (0..=limit.min(text.len())).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0)
    }

    fn bytes(most: usize) -> impl Strategy<Value = Vec<u8>> {
        proptest::collection::vec(any::<u8>(), 0..=most)
    }

    fn ip() -> impl Strategy<Value = Option<IpAddr>> {
        proptest::option::of(prop_oneof![
            any::<[u8; 4]>().prop_map(|octets| IpAddr::V4(octets.into())),
            any::<[u8; 16]>().prop_map(|octets| IpAddr::V6(octets.into())),
        ])
    }

    #[test]
    fn the_longest_record_fits() {
        let (long, weights) = ([b'x'; 1000], [b'x'; lists::MOST_UNITS_BYTES]);
        let event = Record::Event(Event {
            keyspace: &long,
            environment: &long,
            outcome: &long,
            ip: Some(IpAddr::V6(Ipv6Addr::UNSPECIFIED)),
            learned: Learned {
                status: Some(1),
                latency: Some(1),
                method: Some(&long),
                endpoint: Some(&long),
                spend: Some(1),
                weights: Some(&weights),
                tags: Some(&long),
            },
            subject: Some(&long),
            ..Event::default()
        });
        let mut room = [0; MAX_LEN];
        let length = event.encode(&mut room);
        let Some(Record::Event(read)) = Record::decode(&room[..length]) else { panic!() };
        assert_eq!(read.ip, Some(IpAddr::V6(Ipv6Addr::UNSPECIFIED)));
        assert_eq!(read.subject.map(<[u8]>::len), Some(MOST_SUBJECT));
        assert_eq!(read.learned.weights.map(<[u8]>::len), Some(lists::MOST_UNITS_BYTES));
        assert_eq!(read.learned.tags.map(<[u8]>::len), Some(lists::MOST_TAGS_BYTES));
        assert_eq!(read.keyspace.len(), MOST_NAME);
        assert_eq!(read.environment.len(), MOST_NAME);
        assert_eq!(read.outcome.len(), MOST_OUTCOME);
        assert_eq!(read.learned.method.map(<[u8]>::len), Some(MOST_METHOD));
        assert_eq!(read.learned.endpoint.map(<[u8]>::len), Some(MOST_ENDPOINT));
        assert!(length <= MAX_LEN);
    }

    #[test]
    fn the_longest_record_of_a_person_fits() {
        let long = [b'x'; 1000];
        let event = Record::Event(Event {
            keyspace: &long,
            ip: Some(IpAddr::V6(Ipv6Addr::UNSPECIFIED)),
            learned: Learned {
                status: Some(1),
                latency: Some(1),
                method: Some(&long),
                endpoint: Some(&long),
                ..Learned::default()
            },
            person: Some(Person { member: &long, role: &long }),
            ..Event::default()
        });
        let mut room = [0; MAX_LEN];
        let length = event.encode(&mut room);
        let Some(Record::Event(read)) = Record::decode(&room[..length]) else { panic!() };
        let lengths = read.person.map(|person| (person.member.len(), person.role.len()));
        assert_eq!(lengths, Some((MOST_MEMBER, MOST_NAME)));
        assert_eq!(read.learned.endpoint.map(<[u8]>::len), Some(MOST_ENDPOINT));
        assert_eq!(read.ip, Some(IpAddr::V6(Ipv6Addr::UNSPECIFIED)));
        assert!(length <= MAX_LEN);
    }

    #[test]
    fn what_is_told_goes_over_what_was_known() {
        let known = Learned { status: Some(200), method: Some(b"GET"), ..Learned::default() };
        let told = Learned { status: Some(503), latency: Some(7), ..Learned::default() };
        let both = known.amended(told);
        assert_eq!(both.status, Some(503));
        assert_eq!(both.latency, Some(7));
        assert_eq!(both.method, Some(&b"GET"[..]));
        assert_eq!(both.endpoint, None);
    }

    #[test]
    fn a_query_is_not_kept() {
        assert_eq!(without_query(b"/v1/images?key=secret"), b"/v1/images");
        assert_eq!(without_query(b"/v1#?"), b"/v1");
        assert_eq!(without_query(b"?"), b"");
        assert_eq!(without_query(b"/v1"), b"/v1");
    }

    proptest! {
        #[test]
        fn events_come_back_as_they_were(
            at in any::<i64>(), ids in any::<[[u8; 16]; 3]>(), keyspace in bytes(MOST_NAME),
            environment in bytes(MOST_NAME), outcome in bytes(MOST_OUTCOME), ip in ip(),
            status in any::<Option<i32>>(), latency in any::<Option<i64>>(),
            method in proptest::option::of(bytes(MOST_METHOD)),
            endpoint in proptest::option::of(bytes(MOST_ENDPOINT)),
            member in proptest::option::of(bytes(MOST_MEMBER)), role in bytes(MOST_NAME),
            is_event in any::<bool>(), is_counted_only in any::<bool>(), spend in any::<Option<i64>>(),
            weights in proptest::option::of(bytes(lists::MOST_UNITS_BYTES)),
            tags in proptest::option::of(bytes(lists::MOST_TAGS_BYTES)),
            subject in proptest::option::of(proptest::collection::vec(any::<u8>(), 1..=MOST_SUBJECT)),
        ) {
            let learned = Learned {
                status, latency, method: method.as_deref(), endpoint: endpoint.as_deref(),
                spend, weights: weights.as_deref(), tags: tags.as_deref(),
            };
            let of_key = Event {
                at, request_id: ids[0], key_id: ids[1], tenant_id: ids[2],
                keyspace: &keyspace, environment: &environment, outcome: &outcome, ip, learned,
                person: None, subject: subject.as_deref(), is_counted_only,
            };
            let record = if let Some(member) = &member && is_event {
                Record::Event(Event {
                    key_id: [0; 16], environment: b"", outcome: ACCEPTED, is_counted_only: false,
                    person: Some(Person { member, role: &role }), ..of_key
                })
            } else if is_event {
                Record::Event(of_key)
            } else {
                Record::Amendment { request_id: ids[0], at, told: learned }
            };
            let mut room = [0xaa; MAX_LEN];
            let length = record.encode(&mut room);
            prop_assert_eq!(is_amendment(&room[..length]), !is_event);
            prop_assert_eq!(Record::decode(&room[..length]), Some(record));
            // No shorter part of it is a record.
            for shorter in 0..length {
                prop_assert_eq!(Record::decode(&room[..shorter]), None);
            }
        }

        #[test]
        fn whatever_is_decoded_does_no_harm(garbage in bytes(MAX_LEN)) {
            let _ = Record::decode(&garbage);
        }

        #[test]
        fn cuts_are_between_characters_and_marked(text in "\\PC{0,300}", most in 3usize..250) {
            let mut room = Vec::new();
            let kept = cut(text.as_bytes(), most, "…".as_bytes(), clip, &mut room);
            prop_assert!(kept.len() <= most);
            let kept = std::str::from_utf8(kept).unwrap();
            if text.len() <= most {
                prop_assert_eq!(kept, &text);
            } else {
                let whole = kept.strip_suffix('…').unwrap();
                prop_assert!(text.starts_with(whole));
                // No more was cut than necessary.
                prop_assert!(whole.len() + 4 > most - 3);
            }
        }
    }
}
