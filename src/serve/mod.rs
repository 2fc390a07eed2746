//! What the key service says over HTTP.

mod outcome;
mod response;
