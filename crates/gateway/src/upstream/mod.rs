//! The connections to replicas.
//!
//! Written on the socket itself, not with a client library: a response is read, tapped and passed on in the one
//! task that serves its client, so a chunk costs one wake-up, one `recv` and one `send`.

pub(crate) mod connection;
pub(crate) mod pool;
