//! Histories and attacks.

use super::super::block::Block;
use super::super::keys::Nonce;
use super::super::problem::Problem::{self, *};
use super::super::snapshot::Snapshot;
use super::super::sums::Part;
use super::super::world::{HOME, World, keys, range};
use super::{Chain, Heads};
use proptest::prelude::*;

/// Keys 0 to 19, in five ranges; two blocks, and two differences since.
fn world() -> World {
    let rows: Vec<_> = (0..20).map(|key| (key, 1)).collect();
    let mut world = World::new(&rows);
    world.set(3, 2);
    world.delete(9);
    world.close();
    world.set(5, 3);
    world.set(21, 4);
    world
}

fn attacked(attack: impl FnOnce(&mut World)) -> Vec<Problem> {
    let mut world = world();
    attack(&mut world);
    world.check(&[])
}

#[test]
fn the_table_is_compared_by_ranges() {
    assert_eq!(world().check(&[world().head()]), []);
    let missing = |key, rows| RowsMissing { range: range(key), rows };
    let added = |key, rows| RowsAdded { range: range(key), rows };
    let changed = |key| RowsChanged { range: range(key) };
    assert_eq!(attacked(|world| world.forge(7, None)), [missing(7, 1)]);
    assert_eq!(attacked(|world| world.table.retain(|key, _| *key > 2)), [missing(0, 3)]);
    assert_eq!(attacked(|world| world.forge(8, Some(9))), [changed(8)]);
    // A new row, and an old one that is put back: deleted before a block, and changed after one.
    assert_eq!(attacked(|world| world.forge(40, Some(1))), [added(40, 1)]);
    assert_eq!(attacked(|world| world.forge(9, Some(1))), [added(9, 1)]);
    assert_eq!(attacked(|world| world.forge(5, Some(1))), [changed(5)]);
    // A row whose key was changed.
    let moved = attacked(|world| {
        let value = world.table.remove(&8);
        world.forge(12, value.map(|value| value + 1));
    });
    assert_eq!(moved, [missing(8, 1), changed(12)]);
    assert_eq!(attacked(|world| world.table.clear()).len(), 6);
}

#[test]
fn differences_are_not_altered_removed_or_repeated() {
    let alter = |at: usize| {
        attacked(|world| {
            let mut stored = world.open.pop_first().unwrap();
            let at = stored.len() - 1 - at;
            stored[at] ^= 1;
            world.open.insert(stored);
        })
    };
    let changed = RowsChanged { range: range(5) };
    assert!(
        matches!(alter(0)[..], [DifferenceAltered { xid: Some(_) }, problem] if problem == changed)
    );
    assert!(
        matches!(alter(40)[..], [DifferenceAltered { xid: Some(_) }, problem] if problem == changed)
    );
    let garbage = attacked(|world| world.open.extend([vec![1, 2, 3]]));
    assert_eq!(garbage, [DifferenceAltered { xid: None }]);
    let removed = attacked(|world| drop(world.open.pop_last()));
    assert_eq!(removed, [RowsAdded { range: range(21), rows: 1 }]);

    // What goes unnoticed: a row is removed with its open difference.
    let unnoticed = attacked(|world| {
        world.open.pop_last();
        world.table.remove(&21);
    });
    assert_eq!(unnoticed, []);
    // It is noticed once a block has the difference.
    let mut world = world();
    world.close();
    world.table.remove(&21);
    assert_eq!(world.check(&[]), [RowsMissing { range: range(21), rows: 1 }]);
}

#[test]
fn a_difference_counts_once() {
    let mut world = world();
    let old = world.clone();
    world.delete(21);
    world.close();
    // The row is put back, with the difference that once inserted it.
    world.table.insert(21, 4);
    world.open.extend(old.open.last().cloned());
    let found = world.check(&[]);
    let added = RowsAdded { range: range(21), rows: 1 };
    assert!(
        matches!(found[..], [DifferenceReplayed { .. }, problem] if problem == added),
        "{found:?}"
    );
    // It does not become part of a block.
    assert_eq!(world.close().len(), 1);
    assert_eq!(world.check(&[]), found);

    // Twice, with another nonce: of a point in time to which the database was recovered.
    let mut world = old.clone();
    let mut twin = old.clone();
    world.set(30, 1);
    twin.skip_nonce();
    twin.set(30, 1);
    world.open.extend(twin.open.last().cloned());
    world.table.insert(30, 1);
    let found = world.check(&[]);
    assert!(matches!(found[..], [DifferenceTwice { .. }]), "{found:?}");
    assert_eq!(world.close(), found);
}

#[test]
fn a_transaction_in_progress_belongs_to_a_later_block() {
    let mut world = world();
    world.change(&[(50, Some(1))], true);
    world.change(&[(51, Some(1))], true);
    world.commit();
    let before = world.clone();
    world.close();
    world.commit();
    world.set(52, 1);
    assert_eq!(world.check(&[]), []);
    assert_eq!(world.close(), []);
    assert_eq!(world.check(&[]), []);
    world.open.extend(before.open.last().cloned());
    assert!(matches!(world.check(&[])[..], [DifferenceReplayed { .. }]));
}

#[test]
fn a_restored_dump_goes_on_and_takes_nothing_from_other_copies() {
    let (mut home, head) = (world(), world().head());
    let (mut copy, other) = (home.restored(8), home.restored(9));
    assert_eq!(copy.check(&[head]), []);
    copy.set(60, 1);
    assert_eq!(copy.check(&[head]), []);
    let from_copy = copy.open.last().cloned();
    copy.close();
    copy.delete(60);
    assert_eq!(copy.check(&[head, copy.head()]), []);
    assert_eq!(copy.close(), []);

    // A row that the copy's owner wrote there, moved to the original with its difference.
    let foreign = |world: &mut World| {
        world.open.extend(from_copy.clone());
        world.table.insert(60, 1);
        world.check(&[])
    };
    let found = foreign(&mut home);
    assert!(
        matches!(found[..], [DifferenceForeign { .. }, RowsAdded { rows: 1, .. }]),
        "{found:?}"
    );
    assert_eq!(home.close().len(), 1);
    assert!(matches!(foreign(&mut other.clone())[..], [DifferenceForeign { .. }, ..]));
    // The original's own, which the copy has in a block already.
    copy.open.extend(other.open.first().cloned());
    assert!(matches!(copy.check(&[])[..], [DifferenceForeign { .. }]));
    assert_eq!(home.incarnation, HOME);
}

#[test]
fn a_copy_that_goes_on_is_ahead() {
    let mut world = world();
    let mut copy = world.clone();
    copy.close();
    copy.set(60, 1);
    let from_copy = copy.open.last().cloned();
    let found = |world: &World| {
        let mut world = world.clone();
        world.open.extend(from_copy.clone());
        world.table.insert(60, 1);
        world.check(&[])
    };
    // Its transaction is in the future.
    assert!(matches!(found(&world)[..], [DifferenceForeign { .. }, RowsAdded { rows: 1, .. }]));
    world.set(61, 1);
    world.set(62, 1);
    // What goes unnoticed: a transaction that might have been one of this database.
    world.open.pop_last();
    world.table.remove(&62);
    assert_eq!(found(&world), []);
    world.close();
    assert!(matches!(found(&world)[..], [DifferenceReplayed { .. }, RowsAdded { rows: 1, .. }]));
}

/// A copy of the database has the same id and the same key, and its server closes blocks for everyone
/// who may write there.
#[test]
fn a_block_of_another_copy_is_foreign() {
    let home = world();
    let mut evil = home.restored(9);
    evil.set(60, 6);
    assert_eq!(evil.close(), []);
    evil.set(61, 6);
    assert_eq!(evil.check(&[]), []);
    let (foreign, block) = (BlockForeign { block: 3 }, Block::decode(evil.blocks.last().unwrap()));

    // All of it in the place of the original's.
    let mut moved = evil.restored(HOME);
    assert_eq!(moved.check(&[]), [foreign]);
    assert_eq!(moved.check(&[home.head()]), [foreign]);
    // It stays, even if the original closes blocks afterwards.
    assert_eq!(moved.close(), []);
    moved.set(62, 6);
    moved.close();
    assert_eq!(moved.check(&[home.head()]), [foreign]);
    // A head that was kept after it accepts it.
    assert_eq!(moved.check(&[moved.head()]), []);
    assert_eq!(moved.check(&[(3, block.unwrap().head())]), []);

    // Differences of the original can't be repeated after it: it has the original's snapshot.
    let mut world = home.clone();
    let old = world.open.clone();
    world.close();
    let mut evil = world.restored(9);
    evil.close();
    let mut moved = evil.restored(HOME);
    moved.open.extend(old);
    let found = moved.check(&[]);
    assert_eq!(found[0], BlockForeign { block: 4 });
    assert!(matches!(found[1..], [DifferenceReplayed { .. }, DifferenceReplayed { .. }, ..]));
    assert_eq!(moved.close().len(), 2);
}

/// A dump of a restored dump is put back in the first database. The blocks in between are of another
/// one, and a kept head says that they are meant.
#[test]
fn a_database_may_return_if_a_head_is_kept() {
    let home = world();
    let mut away = home.restored(8);
    away.close();
    away.set(60, 1);
    let mut back = away.restored(HOME);
    let old = home.open.clone();
    assert_eq!(back.check(&[]), [BlockForeign { block: 3 }]);
    assert_eq!(back.check(&[away.head()]), []);
    back.set(61, 1);
    assert_eq!(back.close(), []);
    back.set(62, 1);
    assert_eq!(back.check(&[away.head()]), []);
    assert_eq!(back.check(&[back.head()]), []);
    // Differences that either database has in a block are not accepted again.
    for old in old.iter().chain(&away.open) {
        let mut back = back.clone();
        back.open.insert(old.clone());
        let found = back.check(&[away.head()]);
        assert!(
            matches!(found[..], [DifferenceReplayed { .. } | DifferenceForeign { .. }]),
            "{found:?}"
        );
    }
    // In the copy, blocks of the database that it was made of are usual.
    assert_eq!(away.check(&[]), []);
}

/// A standby that was promoted has the same incarnation.
#[test]
fn a_block_of_a_promoted_copy_is_ahead() {
    let mut home = world();
    let mut copy = home.clone();
    copy.set(60, 6);
    assert_eq!(copy.close(), []);
    let ahead = BlockAhead { block: 3 };
    let moved = |home: &World| home.replaced(&copy);
    assert_eq!(moved(&home).check(&[home.head()]), [ahead]);
    // It can't be continued.
    assert_eq!(moved(&home).close(), [ahead]);
    home.close();
    assert_eq!(moved(&home).check(&[home.head()]), [HeadDiffers { block: 3 }, ahead]);
    // What goes unnoticed without a head: the original has used as many transactions.
    home.skip(9);
    assert_eq!(moved(&home).check(&[]), []);
    assert_eq!(moved(&home).check(&[home.head()]), [HeadDiffers { block: 3 }]);
}

/// Blocks with genuine MACs, as only a holder of the secret can write them.
#[test]
fn a_chain_of_one_incarnation_only_goes_on() {
    let check = |plans: &[(u64, &str, &[u8])]| {
        let (keys, mut last) = (keys(), None);
        let mut chain = Chain::new(&keys, Heads::new(), HOME);
        let mut problems = vec![];
        for (incarnation, snapshot, settings) in plans {
            let when = (*incarnation, 0, Snapshot::parse(snapshot).unwrap());
            let nonce = Nonce::of([0; 16]);
            let block = Block::after(&keys, nonce, last.as_ref(), when, &Part::default(), settings);
            problems.extend(chain.block(&block.encode()));
            last = Some(block);
        }
        problems.extend(chain.finish(Snapshot::parse("20:20:").unwrap(), b"a").1);
        problems
    };
    let ahead = |block| BlockAhead { block };
    assert_eq!(check(&[(8, "9:9:", b"a"), (HOME, "5:5:", b"a"), (HOME, "5:7:5", b"a")]), []);
    assert_eq!(check(&[(HOME, "5:5:", b"a"), (HOME, "5:7:5", b"a")]), []);
    assert_eq!(check(&[(HOME, "5:5:", b"a"), (HOME, "4:7:4", b"a")]), [ahead(1)]);
    assert_eq!(check(&[(HOME, "5:9:", b"a"), (HOME, "5:8:", b"a")]), [ahead(1)]);
    assert_eq!(check(&[(8, "5:9:", b"a"), (9, "1:1:", b"a"), (8, "5:8:", b"a")]), [ahead(2)]);
    // The newest snapshot of the database itself, even if others closed blocks after it.
    assert_eq!(check(&[(HOME, "5:21:", b"a")]), [ahead(1)]);
    let foreign = BlockForeign { block: 2 };
    assert_eq!(check(&[(HOME, "5:21:", b"a"), (8, "5:5:", b"a")]), [foreign, ahead(2)]);
    assert_eq!(check(&[(8, "5:99:", b"a")]), []);

    let altered = |block| SettingsDiffer { block };
    assert_eq!(check(&[(HOME, "5:5:", b"a"), (HOME, "5:5:", b"b")]), [altered(1), altered(2)]);
    assert_eq!(check(&[(HOME, "5:5:", b"b"), (HOME, "5:5:", b"a")]), [altered(1)]);
    assert_eq!(check(&[(HOME, "5:5:", b"b")]), [altered(1)]);
}

#[test]
fn settings_are_those_of_the_last_block() {
    let mut world = world();
    let altered = SettingsDiffer { block: 2 };
    world.settings.push(0);
    assert_eq!(world.check(&[]), [altered]);
    assert_eq!(world.close(), [altered]);
    assert_eq!(world.check(&[]), [altered]);
    world.settings.pop();
    assert_eq!(world.close(), []);
    assert_eq!(world.check(&[]), []);
}

/// Differences don't make a ledger: without blocks, nothing says with which rows it began.
#[test]
fn without_blocks_no_block_is_closed() {
    let mut world = world();
    world.blocks.clear();
    assert_eq!(world.close(), [NoBlocks]);
    assert_eq!(world.check(&[])[0], NoBlocks);
}

/// What goes unnoticed without the newest head: blocks are removed, ranges put back as they were at an
/// older block, and chosen differences since then put back, with their rows.
#[test]
fn any_transactions_since_the_last_kept_head_can_be_undone() {
    let mut world = world();
    world.close();
    let old = world.clone();
    world.set(6, 6);
    world.set(30, 6);
    let open = world.open.clone();
    world.close();
    world.set(40, 6);
    world.close();
    let heads = [old.head(), world.head()];
    assert_eq!(world.check(&heads), []);

    let mut undone = world.replaced(&old);
    undone.open = open.last().cloned().into_iter().collect();
    undone.table.insert(30, 6);
    assert_eq!(undone.check(&heads[..1]), []);
    assert_eq!(undone.check(&heads), [HeadMissing { block: 5 }]);
    // Nothing before a kept head can be undone like this.
    undone.blocks.pop_last();
    assert_eq!(undone.check(&heads[..1])[0], HeadMissing { block: 3 });
}

#[test]
fn blocks_are_not_altered_removed_or_replaced() {
    let mut world = world();
    let old = world.clone();
    world.close();
    world.set(6, 6);
    world.close();
    let (heads, blocks) = ([old.head(), world.head()], world.blocks.iter().cloned());
    let blocks: Vec<_> = blocks.collect();
    assert_eq!(world.check(&heads), []);
    let check = |blocks: &[Vec<u8>], heads: &[(u64, [u8; 32])]| {
        let mut world = world.clone();
        world.blocks = blocks.iter().cloned().collect();
        world.check(heads)
    };
    let [one, two, three, four] = &blocks[..] else { panic!() };

    for at in [30, one.len() - 1] {
        let mut altered = two.clone();
        altered[at] ^= 1;
        let found = check(&[one.clone(), altered, three.clone(), four.clone()], &heads);
        assert_eq!(found, [BlockAltered { block: 2 }]);
    }
    let garbage = [one.clone(), two.clone(), three.clone(), four.clone(), vec![9]];
    assert_eq!(check(&garbage, &heads), [BlockAltered { block: 5 }]);
    let found = check(&[one.clone(), four.clone()], &[]);
    assert_eq!(found, [BlocksMissing { first: 2, last: 3 }]);
    assert_eq!(check(&blocks[1..], &[])[0], BlocksMissing { first: 1, last: 1 });
    assert_eq!(
        check(&[], &heads)[..3],
        [HeadMissing { block: 2 }, HeadMissing { block: 4 }, NoBlocks]
    );

    // The last one removed.
    let found = check(&blocks[..3], &heads);
    assert_eq!(found[..2], [HeadMissing { block: 4 }, RangeAhead { range: range(6), block: 4 }]);
    assert!(found.contains(&RangesDifferFromBlock { block: 3 }), "{found:?}");

    // A block of a history that was given up.
    let mut fork = old.clone();
    fork.set(7, 7);
    fork.close();
    fork.close();
    let forked: Vec<_> = fork.blocks.iter().cloned().collect();
    let found = check(&[one.clone(), two.clone(), forked[2].clone(), four.clone()], &[]);
    assert_eq!(found, [ChainBroken { block: 4 }]);
    let both = [one.clone(), two.clone(), three.clone(), forked[2].clone(), four.clone()];
    assert!(check(&both, &[]).contains(&BlockTwice { block: 3 }));
    // The table and its ledger, from another history: only a head shows it.
    assert_eq!(fork.check(&[]), []);
    assert_eq!(fork.check(&[old.head()]), []);
    assert_eq!(fork.check(&[world.head()]), [HeadDiffers { block: 4 }]);
    // All of it as it was before.
    assert_eq!(old.check(&[]), []);
    assert_eq!(old.check(&[world.head()]), [HeadMissing { block: 4 }]);
    assert_eq!(old.check(&[(0, [0; 32])]), [HeadMissing { block: 0 }]);
}

#[test]
fn what_is_stored_of_ranges_is_checked_by_the_block() {
    let mut world = world();
    let old = world.clone();
    world.close();
    let block = 3;
    let differ = RangesDifferFromBlock { block };
    let (r, gone) = (range(5), range(0));
    let check = |change: &dyn Fn(&mut World)| {
        let mut world = world.clone();
        change(&mut world);
        world.check(&[])
    };
    // The table is right.
    let wrong = check(&|world| drop(world.ranges.insert(r, old.ranges[&r].clone())));
    assert_eq!(wrong, [differ, RangeWrong { range: r }]);
    let removed = check(&|world| drop(world.ranges.remove(&gone)));
    assert_eq!(removed, [differ, RangeWrong { range: gone }]);
    let altered = check(&|world| world.ranges.get_mut(&r).unwrap()[60] ^= 1);
    assert_eq!(altered, [RangeAltered { range: Some(r) }, differ, RangeWrong { range: r }]);
    let twice = check(&|world| drop(world.ranges.insert(u64::MAX, old.ranges[&r].clone())));
    assert_eq!(twice, [RangeTwice { range: r }]);
    let garbage = check(&|world| drop(world.ranges.insert(99, vec![1])));
    assert_eq!(garbage, [RangeAltered { range: None }]);
    // The table was changed as well, so that they agree.
    let both = check(&|world| {
        world.ranges.remove(&gone);
        world.table.retain(|key, _| range(*key) != gone);
    });
    assert_eq!(both, [differ, TableDiffers { rows: -4 }]);
    let both = check(&|world| {
        world.ranges.insert(r, old.ranges[&r].clone());
        world.table.insert(5, 1);
    });
    assert_eq!(both, [differ, TableDiffers { rows: 0 }]);
}

#[derive(Clone, Debug)]
enum Act {
    Change(Vec<(i64, Option<u8>)>, bool),
    CommitAll,
    Close,
    /// Goes on in another database, or again in the first one.
    Restore(bool),
}

fn acts() -> impl Strategy<Value = Vec<Act>> {
    let changes = proptest::collection::vec((0i64..24, proptest::option::of(0u8..3)), 1..4);
    let act = prop_oneof![
        8 => (changes, any::<bool>()).prop_map(|(changes, waits)| Act::Change(changes, waits)),
        2 => Just(Act::CommitAll),
        3 => Just(Act::Close),
        1 => any::<bool>().prop_map(Act::Restore),
    ];
    proptest::collection::vec(act, 1..20)
}

/// All states without transactions in progress, as others may have copied them.
fn lived(acts: &[Act]) -> Vec<World> {
    let mut world = World::new(&[(1, 1), (2, 1), (20, 1)]);
    let mut states = vec![world.clone()];
    for act in acts {
        match act {
            Act::Change(changes, waits) => world.change(changes, *waits),
            Act::CommitAll => world.commit_all(),
            Act::Close => assert_eq!(world.close(), []),
            Act::Restore(returns) => {
                // A dump has the table without what is in progress.
                world.commit_all();
                assert_eq!(world.close(), []);
                let new = 10 + states.len() as u64;
                world = world.restored(if *returns { HOME } else { new });
            }
        }
        let mut settled = world.clone();
        settled.commit_all();
        states.push(settled);
    }
    states
}

proptest! {
    #[test]
    fn an_honest_history_has_no_problems(acts in acts()) {
        let states = lived(&acts);
        let heads: Vec<_> = states.iter().map(World::head).collect();
        for (state, head) in states.iter().zip(1..) {
            prop_assert_eq!(state.check(&heads[..head]), []);
        }
    }

    #[test]
    fn a_table_that_differs_is_found(
        acts in acts(), key in 0i64..24, value in proptest::option::of(0u8..3), closes in any::<bool>(),
    ) {
        let mut world = lived(&acts).pop().unwrap();
        let before = world.table.clone();
        match value {
            Some(value) => world.table.insert(key, value),
            None => world.table.remove(&key),
        };
        if closes {
            world.close();
        }
        let found = world.check(&[world.head()]);
        let found: Vec<_> = found.iter().map(|problem| problem.range()).collect();
        let expected = if world.table == before { vec![] } else { vec![Some(range(key))] };
        prop_assert_eq!(found, expected);
    }

    /// Genuine parts of an older state are put in the place of those of now. That is noticed, unless
    /// only open differences are gone.
    #[test]
    fn parts_of_older_states_are_found(
        acts in acts(), from in any::<proptest::sample::Index>(), parts in 1u8..16,
    ) {
        let states = lived(&acts);
        let (old, now) = (from.get(&states), states.last().unwrap());
        let mut mixed = now.clone();
        if parts & 1 != 0 { mixed.table = old.table.clone() }
        if parts & 2 != 0 { mixed.blocks = old.blocks.clone() }
        if parts & 4 != 0 { mixed.ranges = old.ranges.clone() }
        if parts & 8 != 0 { mixed.open = old.open.clone() }
        if mixed.check(&[now.head()]).is_empty() {
            prop_assert_eq!(mixed.head(), now.head());
            prop_assert!(mixed.open.is_subset(&now.open));
            prop_assert!(mixed.table == now.table || mixed.open != now.open);
        }
    }

    /// Genuine parts of a copy of an older state, which went on, are put in the place of those of now.
    /// Without a head that was kept since, it goes unnoticed only if the copy is a physical one, and
    /// not ahead.
    #[test]
    fn parts_of_copies_are_found(
        before in acts(), after in acts(), from in any::<proptest::sample::Index>(), parts in 1u8..16,
        is_physical in any::<bool>(),
    ) {
        let states = lived(&before);
        let (old, now) = (from.get(&states), states.last().unwrap());
        let incarnation = if is_physical { old.incarnation } else { 9 };
        let mut copy = old.restored(incarnation);
        for act in &after {
            match act {
                Act::Change(changes, _) => copy.change(changes, false),
                // It may refuse differences of the database that it is a copy of.
                _ => drop(copy.close()),
            }
        }
        let mut mixed = now.clone();
        if parts & 1 != 0 { mixed.table = copy.table.clone() }
        if parts & 2 != 0 { mixed.blocks = copy.blocks.clone() }
        if parts & 4 != 0 { mixed.ranges = copy.ranges.clone() }
        if parts & 8 != 0 { mixed.open = copy.open.clone() }
        let is_own = |block: &Block| block.incarnation == now.incarnation;
        let has_own = now.blocks.iter().any(|stored| is_own(&Block::decode(stored).unwrap()));
        // A head that was kept when the copy was made, where the database had closed a block.
        if has_own && old.incarnation == now.incarnation && mixed.check(&[old.head()]).is_empty() {
            if is_physical {
                let last = mixed.last().unwrap();
                prop_assert!(now.is_past(&last.snapshot) || !is_own(&last));
            } else if old.last().is_some_and(|last| is_own(&last)) {
                prop_assert!(mixed.blocks.is_subset(&now.blocks));
                prop_assert!(mixed.open.iter().all(|stored| stored[1..9] != 9u64.to_be_bytes()));
            }
        }
        // The newest head.
        let is_known = !is_physical && now.last().is_some_and(|last| is_own(&last));
        if is_known && mixed.check(&[now.head()]).is_empty() {
            prop_assert_eq!(&mixed.blocks, &now.blocks);
            prop_assert!(mixed.open.iter().all(|stored| stored[1..9] != 9u64.to_be_bytes()));
            prop_assert!(mixed.table == now.table || mixed.open != now.open);
        }
    }

    /// Altered settings are found, whatever happened.
    #[test]
    fn altered_settings_are_found(acts in acts(), closes in any::<bool>()) {
        let mut world = lived(&acts).pop().unwrap();
        world.settings.push(1);
        let block = world.last().unwrap().number;
        if closes {
            prop_assert_eq!(world.close(), [SettingsDiffer { block }]);
        }
        prop_assert_eq!(world.check(&[world.head()]), [SettingsDiffer { block }]);
    }

    /// Chosen transactions since a kept head are undone, whatever blocks there are since then. Heads
    /// of these blocks show it.
    #[test]
    fn transactions_are_undone_only_without_the_newest_head(
        acts in acts(), keys in proptest::collection::vec(100i64..200, 1..6),
        chosen in any::<u8>(), closes in 1u8..4,
    ) {
        let mut world = lived(&acts).pop().unwrap();
        world.close();
        let mut undone = world.clone();
        for (place, key) in keys.iter().enumerate() {
            let before = world.clone();
            world.set(*key, 1);
            let is_new = !before.table.contains_key(key);
            if is_new && chosen & 1u8 << place != 0 {
                undone.table.insert(*key, 1);
                undone.open.extend(world.open.difference(&before.open).cloned());
            }
        }
        for _ in 0..closes {
            world.close();
        }
        let kept = undone.head();
        undone.skip(99);
        prop_assert_eq!(undone.check(&[kept]), []);
        let found = undone.check(&[kept, world.head()]);
        prop_assert_eq!(found, [HeadMissing { block: world.head().0 }]);
    }
}
