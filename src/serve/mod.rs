//! What the key service says over HTTP.

mod outcome;
mod pre_request;
mod response;
