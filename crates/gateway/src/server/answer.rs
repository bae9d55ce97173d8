//! The head of an answer as the client gets it: the replica's fields as they came, without those of that hop and
//! with those of this one; or evenload's own words.

use std::io::Write;

use bytes::{BufMut, Bytes, BytesMut};
use http::{Response, StatusCode};

use crate::http1::{
    request::RequestHead,
    response::{Framing, ResponseHead},
};

/// What the client's request says about the form of its answer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Manners {
    pub(crate) to_head: bool,
    pub(crate) is_http_10: bool,
    pub(crate) keep_alive: bool,
    pub(crate) accepts_trailers: bool,
}

// === impl Manners ===

impl Manners {
    pub(crate) fn of(head: &RequestHead) -> Self {
        Self {
            to_head: head.method == http::Method::HEAD,
            is_http_10: head.is_http_10,
            keep_alive: head.keep_alive,
            accepts_trailers: head.accepts_trailers(),
        }
    }

    /// Those of a client whose request could not be read.
    pub(crate) fn unread() -> Self {
        Self { to_head: false, is_http_10: false, keep_alive: false, accepts_trailers: false }
    }

    /// Writes the head of a replica's answer. Afterwards `keep_alive` says whether the connection stays.
    pub(crate) fn write_head(&mut self, head: &ResponseHead, out: &mut BytesMut) {
        write_line(out, head.status, &head.reason);
        let counts_bytes = !matches!(head.framing, Framing::Chunked)
            && !head.status.is_informational()
            && head.status != StatusCode::NO_CONTENT;
        let mut length_written = !counts_bytes;
        for field in head.fields.end_to_end() {
            if field.is("content-length") && std::mem::replace(&mut length_written, true) {
                continue;
            }
            put_line(out, &[field.line]);
        }
        if head.status == StatusCode::SWITCHING_PROTOCOLS {
            put_line(
                out,
                &[b"connection: upgrade\r\nupgrade: ", head.fields.get("upgrade").unwrap_or_default()],
            );
            out.put_slice(b"\r\n");
            return;
        }
        if matches!(head.framing, Framing::Chunked | Framing::UntilClose) {
            if self.is_http_10 {
                self.keep_alive = false;
            } else {
                put_line(out, &[b"transfer-encoding: chunked"]);
            }
        }
        self.end_head(out);
    }

    /// Writes a whole answer of evenload's own.
    pub(crate) fn write_own(self, response: &Response<Bytes>, out: &mut BytesMut) {
        let status = response.status();
        write_line(out, status, status.canonical_reason().unwrap_or_default().as_bytes());
        for (name, value) in response.headers() {
            put_line(out, &[name.as_str().as_bytes(), b": ", value.as_bytes()]);
        }
        // Writing to memory cannot fail.
        let _ = write!(out.writer(), "content-length: {}\r\n", response.body().len());
        self.end_head(out);
        if !self.to_head {
            out.put_slice(response.body());
        }
    }

    fn end_head(self, out: &mut BytesMut) {
        if !self.keep_alive {
            put_line(out, &[b"connection: close"]);
        } else if self.is_http_10 {
            put_line(out, &[b"connection: keep-alive"]);
        }
        out.put_slice(b"\r\n");
    }
}

/// Writes the head of an answer that another one follows.
pub(crate) fn write_interim(head: &ResponseHead, out: &mut BytesMut) {
    write_line(out, head.status, &head.reason);
    for field in head.fields.end_to_end().filter(|field| !field.is("content-length")) {
        put_line(out, &[field.line]);
    }
    out.put_slice(b"\r\n");
}

fn write_line(out: &mut BytesMut, status: StatusCode, reason: &[u8]) {
    put_line(out, &[b"HTTP/1.1 ", status.as_str().as_bytes(), b" ", reason]);
}

fn put_line(out: &mut BytesMut, parts: &[&[u8]]) {
    for part in parts {
        out.put_slice(part);
    }
    out.put_slice(b"\r\n");
}
