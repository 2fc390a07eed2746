//! What applications call about keys: arguments in, a verdict out.

mod arguments;
mod authenticate;
mod client_ip;
mod decision;
mod explain;
mod pre_request;
pub mod pre_request_settings;
mod verify;
