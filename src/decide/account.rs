//! Who is charged for a request, and what is left after it.

/// Who is charged, as far as the rows of a key and its tenant tell.
pub struct Account<'a> {
    pub keyspace: &'a [u8],
    pub environment: &'a [u8],
    /// The first of the key's line: successors share its limits and credits.
    pub key: [u8; 16],
    pub tenant: [u8; 16],
    /// The key in whose place it spends credits, if it was given by one that has its own.
    pub purse: Option<[u8; 16]>,
    /// As they are stored.
    pub limits: Option<&'a [u8]>,
    pub shared_limits: Option<&'a [u8]>,
    pub tenants_limits: Option<&'a [u8]>,
}

/// Where a request has left its key.
#[derive(Default)]
pub struct Standing<'a> {
    /// The limit that refuses, or else is the nearest to do so, and the calls in it.
    pub limit: Option<(&'a [u8], u32)>,
    /// In microseconds.
    pub retry_after: Option<i64>,
    pub credits_remaining: Option<i64>,
}
