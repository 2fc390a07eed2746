//! Bytes as ledgers store them. Numbers are big-endian.

/// What is left to read.
pub struct Reader<'a>(pub &'a [u8]);

impl<'a> Reader<'a> {
    pub fn bytes<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (taken, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*taken)
    }

    pub fn slice(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }

    pub fn u64(&mut self) -> Option<u64> {
        self.bytes().map(u64::from_be_bytes)
    }

    pub fn i64(&mut self) -> Option<i64> {
        self.bytes().map(i64::from_be_bytes)
    }

    /// A number that says how many bytes or elements follow.
    pub fn length(&mut self) -> Option<usize> {
        usize::try_from(self.bytes().map(u32::from_be_bytes)?).ok()
    }

    /// Bytes that have their length before them.
    pub fn sized(&mut self) -> Option<&'a [u8]> {
        let length = self.length()?;
        self.slice(length)
    }

    pub fn end(&self) -> Option<()> {
        self.0.is_empty().then_some(())
    }
}

/// Appends bytes with their length before them.
pub fn sized(to: &mut Vec<u8>, bytes: &[u8]) {
    to.extend_from_slice(&length(bytes.len()));
    to.extend_from_slice(bytes);
}

/// A length as four bytes. PostgreSQL has no value of 4 GB.
pub fn length(length: usize) -> [u8; 4] {
    u32::try_from(length).unwrap_or(u32::MAX).to_be_bytes()
}
