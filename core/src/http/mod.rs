//! What the key service says over HTTP: bodies by templates, and headers.

pub mod headers;
pub mod query;
pub mod template;
