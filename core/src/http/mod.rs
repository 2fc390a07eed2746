//! What the key service says over HTTP: bodies by templates, and headers.

pub mod error;
pub mod error_body;
pub mod headers;
pub mod query;
pub mod status;
pub mod template;
