//! Keys: how they are made, written, shown and stored.

pub mod digest;
pub mod display;
pub mod foreign;
pub mod format;
pub mod pepper;
pub mod secret;
pub mod secret_file;
pub mod subkey;

/// The longest key that is looked at. Our keys have at most 81 characters. Imported keys may be
/// longer. No longer text is hashed.
pub const MAX_KEY_LEN: usize = 1024;
