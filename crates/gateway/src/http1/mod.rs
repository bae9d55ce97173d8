//! HTTP/1.1 as bytes: the heads of requests and responses, their fields, and where bodies end. It does no I/O.
//!
//! Written by hand, over `httparse`, for both sides of the gateway. Fields are kept as the bytes that came, so
//! that names, values and order go on as they were, and a chunk of a stream costs one `recv` and one `send`.
//! Framing follows RFC 9112, 6.3. Whatever could be read in two ways is refused, because a body whose end is in
//! doubt would put the next message on the connection in doubt too.

pub(crate) mod body;
pub(crate) mod chunked;
pub(crate) mod fields;
pub(crate) mod request;
pub(crate) mod response;
