//! The functions by which applications check keys: they take arguments and return a verdict.

pub mod arguments;
pub mod authenticate;
pub mod client_ip;
pub mod decision;
mod explain;
pub mod pre_request_settings;
mod settle;
mod verify;
