//! The clients' side: accepting connections, reading requests within limits, and answering.

pub(crate) mod client;
mod connection;
mod listen;
mod service;
mod tunnel;

pub(crate) use listen::{accept, bind, raise_file_limit};
pub(crate) use tunnel::{Exit, Tunnel};
