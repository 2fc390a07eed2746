//! The key service over HTTP: operations, requests, bodies by templates, and headers.

pub mod error;
pub mod error_body;
pub mod headers;
pub mod openapi;
pub mod operation;
pub mod origin;
pub mod query;
pub mod request;
pub mod status;
pub mod template;
pub mod time;
