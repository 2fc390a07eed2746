//! The functions by which applications check keys: they take arguments and return a verdict.

mod arguments;
mod authenticate;
mod client_ip;
mod decision;
mod explain;
mod pre_request;
pub mod pre_request_settings;
mod verify;
