//! Errors that several acts raise.

use pg::error::Error;
use pg::output;

/// An argument names a member that does not exist.
pub fn unknown_member(argument: &str, member: &str) -> Error {
    let shown: String = member.chars().take(200).collect();
    Error::not_found(format!("{argument} {shown:?} is not a member of the tenant"))
        .hint("Add members with keysmith.set_member.")
}

/// The text form of an id, for messages.
pub fn shown(key_id: &[u8; 16]) -> String {
    output::uuid(key_id)
}

/// A key that does not exist and one that is revoked raise the same error.
pub fn unknown_key(key_id: &[u8; 16]) -> Error {
    Error::not_found(format!("key {} does not exist or is revoked", shown(key_id)))
}
