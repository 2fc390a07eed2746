//! Words that sessions read and write without a lock.

use crate::in_every_order;
use crate::seqlock::SeqLock;
use loom::sync::Arc;
use loom::thread;

type Words = SeqLock<2>;

/// All words that a writer writes are the same.
fn read(words: &Words) -> Option<u64> {
    words.read().map(|[first, second]| {
        assert_eq!(first, second, "half of one writer, half of another");
        first
    })
}

#[test]
fn words_are_read_whole_while_two_write() {
    in_every_order(3, || {
        let words = Arc::new(Words::default());
        let writers = [1, 2].map(|n| {
            let words = words.clone();
            thread::spawn(move || words.write(&[n; 2]))
        });
        let first = read(&words);
        assert!(first.is_none_or(|n| n > 0), "unwritten words were read");
        let firsts = writers.map(|writer| writer.join().unwrap());
        assert_ne!(firsts[0], firsts[1], "one of them was the first");
        assert!(read(&words).is_some(), "nobody has written");
    });
}

#[test]
fn words_are_read_whole_while_one_writes_twice() {
    in_every_order(3, || {
        let words = Arc::new(Words::default());
        words.write(&[1; 2]);
        let writer = {
            let words = words.clone();
            thread::spawn(move || [2, 3].map(|n| words.write(&[n; 2])))
        };
        let first = read(&words).unwrap_or(0);
        assert!(read(&words).is_none_or(|second| second >= first), "older words were read");
        writer.join().unwrap();
        assert_eq!(read(&words), Some(3));
    });
}

/// A writer that dies stops others neither from reading nor from writing, and what it leaves is
/// not read.
#[test]
fn a_writer_that_dies_leaves_nothing_to_read() {
    in_every_order(3, || {
        let words = Arc::new(Words::default());
        words.write(&[1; 2]);
        let dying = {
            let words = words.clone();
            thread::spawn(move || words.begin().map(|_| words.set(&[2])))
        };
        let other = {
            let words = words.clone();
            thread::spawn(move || words.write(&[3; 2]))
        };
        assert_ne!(read(&words), Some(2));
        let has_begun = dying.join().unwrap().is_some();
        other.join().unwrap();
        assert_eq!(read(&words), if has_begun { None } else { Some(3) });
        words.write(&[4; 2]);
        assert_eq!(read(&words), if has_begun { None } else { Some(4) });
    });
}
