use super::{Batch, Chain, Pool, Slot, Wanted};
use crate::event::{MAX_LEN, MOST_PLAIN, is_amendment};
use proptest::prelude::*;
use std::collections::VecDeque;

const SLOTS: usize = 120;
const SHARE: u32 = 90;

#[derive(Clone, Debug)]
enum Act {
    Append { database: usize, kind: u8, count: usize },
    Begin { reader: usize, database: usize, skip: u64, leave: u64, most: u32 },
    Read { reader: usize },
    TakeOut { reader: usize },
    Empty { database: usize },
    Forget { database: usize },
}

fn act() -> impl Strategy<Value = Act> {
    let (database, reader) = (0..2usize, 0..2usize);
    let some = prop_oneof![Just(u32::MAX), 0..50u32];
    prop_oneof![
        6 => (database.clone(), 1..3u8, 1..40usize)
            .prop_map(|(database, kind, count)| Act::Append { database, kind, count }),
        3 => (reader.clone(), database.clone(), 0..4u64, 0..4u64, some).prop_map(
            |(reader, database, skip, leave, most)| Act::Begin { reader, database, skip, leave, most }
        ),
        9 => reader.clone().prop_map(|reader| Act::Read { reader }),
        4 => reader.prop_map(|reader| Act::TakeOut { reader }),
        1 => database.clone().prop_map(|database| Act::Empty { database }),
        1 => database.prop_map(|database| Act::Forget { database }),
    ]
}

type Record = (u64, Vec<u8>);

fn slots_of<'a>(records: impl Iterator<Item = &'a Record>) -> usize {
    records.map(|(_, record)| record.len().div_ceil(MOST_PLAIN)).sum()
}

/// A batch in the making, what it may hold, and whether a record was taken out since it began.
#[derive(Default)]
struct Reader {
    database: usize,
    batch: Batch,
    wanted: Vec<Record>,
    most: usize,
    is_disturbed: bool,
    is_read: bool,
}

impl Reader {
    fn records(&self) -> Vec<Record> {
        self.batch.iter().map(|record| (record.sequence, record.bytes.to_vec())).collect()
    }

    /// The batch holds wanted records that follow one another: all of them, unless others took
    /// records out.
    fn check(&self) {
        let (found, wanted) = (self.records(), &self.wanted);
        assert!(found.len() <= self.most);
        assert!(
            found.is_empty() || wanted.windows(found.len()).any(|part| part == found),
            "{found:?} of {wanted:?}"
        );
        let all = &wanted[..self.most.min(wanted.len())];
        assert!(self.is_disturbed || !self.is_read || found == all);
    }
}

proptest! {
    /// A queue compared with lists.
    #[test]
    fn each_record_is_read_in_order_and_no_slot_is_lost(acts in prop::collection::vec(act(), 1..80)) {
        let mut slots: Vec<Slot> = (0..SLOTS).map(|_| Slot::default()).collect();
        let (mut pool, mut chains) = (Pool::default(), [Chain::default(), Chain::default()]);
        let mut model: [VecDeque<Record>; 2] = Default::default();
        let mut readers = [Reader::default(), Reader::default()];
        let mut newest = 0;
        for act in acts {
            match act {
                Act::Append { database, kind, count } => for _ in 0..count {
                    // Some are long, and one in two is of another length than the one before.
                    let length = [1, 7, MOST_PLAIN, MOST_PLAIN + 1, 3, MAX_LEN][newest as usize % 6];
                    let record = vec![kind; length];
                    let known = &mut model[database];
                    let needed = length.div_ceil(MOST_PLAIN);
                    let amendments = slots_of(known.iter().filter(|(_, record)| is_amendment(record)));
                    let is_over = is_amendment(&record) && amendments + needed > SHARE as usize / 4;
                    let fits = slots_of(known.iter()) + needed <= SHARE as usize && !is_over
                        && pool.used as usize + needed <= SLOTS;
                    let chain = &mut chains[database];
                    prop_assert_eq!(pool.append(&mut slots, chain, &record, SHARE), fits);
                    if fits {
                        newest += 1;
                        prop_assert_eq!(chain.sequence, newest);
                        known.push_back((newest, record));
                    }
                },
                Act::Begin { reader, database, skip, leave, most } => {
                    let known = &model[database];
                    let after = known.front().map_or(0, |(first, _)| first - 1) + skip;
                    let up_to = known.back().map_or(0, |(last, _)| *last).saturating_sub(leave);
                    let wanted = Wanted { after, up_to, most };
                    let is_wanted = |(number, _): &&Record| *number > after && *number <= up_to;
                    readers[reader] = Reader {
                        database,
                        batch: Batch::new(&chains[database], wanted),
                        wanted: known.iter().filter(is_wanted).cloned().collect(),
                        most: most as usize,
                        ..Reader::default()
                    };
                    // It is the same whether the caller bounds it, or the newest record does.
                    if leave == 0 {
                        let wanted = Wanted { up_to: u64::MAX, ..wanted };
                        readers[reader].batch = Batch::new(&chains[database], wanted);
                    }
                }
                Act::Read { reader } => {
                    let Reader { database, batch, is_read, .. } = &mut readers[reader];
                    batch.make_room();
                    *is_read |= !batch.read(&slots, &chains[*database]);
                    readers[reader].check();
                }
                Act::TakeOut { reader } => {
                    let Reader { database, batch, .. } = &readers[reader];
                    let known = &mut model[*database];
                    let records = readers[reader].records();
                    if let Some(run) = batch.run() {
                        let chain = &mut chains[*database];
                        pool.take_out(&mut slots, chain, &run);
                        if known.front().map(|(first, _)| *first) == records.first().map(|(n, _)| *n) {
                            prop_assert_eq!(known.drain(..records.len()).collect::<Vec<_>>(), records);
                            prop_assert_eq!(Some(chain.done), batch.last());
                        }
                    }
                    disturb(&mut readers);
                }
                Act::Empty { database } | Act::Forget { database } => {
                    let count = pool.empty(&mut slots, &mut chains[database]);
                    prop_assert_eq!(count as usize, model[database].len());
                    model[database].clear();
                    if matches!(act, Act::Forget { .. }) {
                        chains[database] = Chain::default();
                    }
                    disturb(&mut readers);
                }
            }
            for (chain, known) in chains.iter().zip(&model) {
                prop_assert_eq!(chain.count as usize, known.len());
            }
            prop_assert_eq!(pool.used as usize, model.iter().map(|known| slots_of(known.iter())).sum::<usize>());
        }
        for chain in &mut chains {
            pool.empty(&mut slots, chain);
        }
        for n in 0..2 * SLOTS {
            let is_in = pool.append(&mut slots, &mut chains[n % 2], &[1], SHARE);
            prop_assert_eq!(is_in, n < SLOTS);
        }
    }
}

fn disturb(readers: &mut [Reader]) {
    for reader in readers {
        reader.is_disturbed = true;
    }
}

#[test]
fn a_record_that_is_too_long_takes_no_slot() {
    let mut slots: Vec<Slot> = (0..4).map(|_| Slot::default()).collect();
    let (mut pool, mut chain) = (Pool::default(), Chain::default());
    let long = [1; MAX_LEN + 1];
    assert!(!pool.append(&mut slots, &mut chain, &long, 4));
    assert!(pool.append(&mut slots, &mut chain, &long[1..], 4));
    let mut room = [0; MAX_LEN];
    assert_eq!(chain.copy_head(&slots, &mut room), MAX_LEN);
    assert_eq!(room[..], long[1..]);
    assert!(!pool.append(&mut slots, &mut chain, &[1], 5));
}
