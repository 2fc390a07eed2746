//! A key, from its random birth to the digest that is kept of it.

pub mod digest;
pub mod display;
pub mod foreign;
pub mod format;
pub mod pepper;
pub mod secret;
pub mod subkey;

/// The longest key that is looked at. Ours have at most 81 characters; imported
/// ones may be longer, and nothing above this is hashed.
pub const MAX_KEY_LEN: usize = 1024;
