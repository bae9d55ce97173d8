//! Speaking HTTP/1.1 to replicas.
//!
//! Written on the socket itself, not with a client library: a response is read, tapped and passed on in the one
//! task that serves its client, so a chunk costs one wake-up, one `recv` and one `send`. The parts that decide
//! where a message ends ([`head`], [`chunked`]) are pure and tested at every cut.

pub(crate) mod body;
pub(crate) mod chunked;
pub(crate) mod connection;
pub(crate) mod head;
pub(crate) mod pool;
