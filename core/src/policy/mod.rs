//! Who may do what: the rules of a decision, and the parts that they are made of.

pub mod allowlist;
pub mod expression;
pub mod failures;
pub mod forwarded;
pub mod header;
pub mod implications;
pub mod lifetime;
pub mod limits;
pub mod name;
pub mod parameter;
pub mod proxies;
pub mod route;
pub mod rules;
pub mod scope;
pub mod verdict;
pub mod weights;
