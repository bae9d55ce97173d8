//! The clients' side: accepting connections, reading requests within limits, and answering.

mod answer;
mod body;
mod client;
mod connection;
mod hang_up;
mod listen;
mod service;
mod tunnel;

pub(crate) use answer::{Manners, write_interim};
pub(crate) use client::{Client, Phase};
pub(crate) use listen::{accept, accept_rest, bind, raise_file_limit};
