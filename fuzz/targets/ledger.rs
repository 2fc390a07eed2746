//! What ledgers store: reading any bytes must do no harm, what was read must be written as the same
//! bytes, and nothing is genuine that was made without the key.

#![no_main]

use keysmith_core::key::pepper::Peppers;
use keysmith_core::ledger::block::Block;
use keysmith_core::ledger::difference::Difference;
use keysmith_core::ledger::keys::LedgerKeys;
use keysmith_core::ledger::snapshot::Snapshot;
use keysmith_core::ledger::sums::Sums;
use keysmith_core::ledger::verify::{Chain, Heads};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Ok(keys) = LedgerKeys::of(&Peppers::default(), 0, &[1; 32], &[2; 16]) else { return };
    if let Some(block) = Block::decode(data) {
        assert_eq!(block.encode(), data);
        assert!(!block.is_genuine(&keys));
    }
    if let Some(read) = Difference::decode(data) {
        read.rows();
        assert!(read.open(&keys).is_none());
    }
    let text = String::from_utf8_lossy(data);
    let Some(now) = Snapshot::parse("9:9:") else { return };
    if let Some(snapshot) = Snapshot::parse(&text) {
        assert_eq!(snapshot.to_string(), text);
        assert!(snapshot.covers_all(&snapshot));
        // Two that cover different transactions do not both cover all of the other.
        let is_same = (0..32).all(|xid| snapshot.covers(xid) == now.covers(xid));
        assert!(is_same || !snapshot.covers_all(&now) || !now.covers_all(&snapshot));
    }
    let mut chain = Chain::new(&keys, Heads::new(), 1);
    assert_eq!(chain.block(data).len(), 1);
    let (mut check, _) = chain.finish(now, data);
    assert!(check.range(data).is_err() && check.difference(data).is_err());
    assert!(check.finish(Sums::default()).is_empty());
});
