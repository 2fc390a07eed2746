//! Records of the queue: a parsed record must be written as the same bytes, and parsing any
//! bytes must do no harm.

#![no_main]

use keysmith_core::event::{self, MAX_LEN, Record};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    if let Some(record) = Record::decode(data) {
        let mut room = [0; MAX_LEN];
        let length = record.encode(&mut room);
        let again = Record::decode(&room[..length]);
        assert!(again.is_some(), "what was written can't be read");
        // Texts that are longer than a record allows are cut.
        if data.len() >= length && data[..length] == room[..length] {
            assert_eq!(again, Some(record));
        }
        let mut twice = [0; MAX_LEN];
        let again = again.map_or(0, |again| again.encode(&mut twice));
        assert_eq!(twice[..again], room[..length], "writing what was read changes it");
    }
    let mut kept = Vec::new();
    let whole = |text: &[u8], limit: usize| limit.min(text.len());
    let cut = event::cut(data, event::MOST_ENDPOINT, b"...", whole, &mut kept);
    assert!(cut.len() <= event::MOST_ENDPOINT);
    assert!(!event::without_query(data).iter().any(|byte| matches!(byte, b'?' | b'#')));
});
