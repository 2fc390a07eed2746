//! What a standby hands to its primary, and how that takes it in.

pub mod bounds;
pub mod link;
pub mod load;
pub mod name;
pub mod receive;
pub mod sender;
