//! A standby hands its records to the primary, which receives them.

pub mod bounds;
pub mod link;
pub mod load;
pub mod promotion;
pub mod receive;
pub mod sender;
