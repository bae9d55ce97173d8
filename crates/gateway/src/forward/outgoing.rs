//! The head of a request as a replica gets it: the client's lines as they came, without those of this hop, and
//! then what a proxy adds.

use std::io::Write;

use super::REQUEST_ID;
use crate::{
    fleet::Backend,
    http1::request::{BodyLength, RequestHead},
    server::Client,
};

/// Room for a usual head.
const HEAD_ROOM: usize = 512;

/// Writes the head for `backend`, with room behind it for a body of `body_length` bytes if that is small.
pub(super) fn write(
    head: &RequestHead,
    client: &Client,
    backend: &Backend,
    request_id: &str,
    body_length: usize,
) -> Vec<u8> {
    let mut out = Vec::with_capacity(HEAD_ROOM + head.target().len() + body_length.min(HEAD_ROOM * 64));
    put(&mut out, &[head.method.as_str().as_bytes(), b" ", backend.path_prefix.as_bytes()]);
    let slash: &[u8] = if head.target().starts_with(['/', '*']) { b"" } else { b"/" };
    put(&mut out, &[slash, head.target().as_bytes(), b" HTTP/1.1\r\n"]);
    // The target's authority wins over the field; a client that names none gets the replica's.
    let mut host_written = false;
    if let Some(authority) = &head.authority {
        host_written = true;
        put_field(&mut out, "host", authority.as_str().as_bytes());
    } else if !head.fields.contains("host") {
        put_field(&mut out, "host", backend.authority.as_bytes());
    }
    let mut length_written = !matches!(head.body, BodyLength::Known(_));
    let (mut knows_protocol, mut knows_id) = (false, false);
    for field in head.fields.end_to_end() {
        // Of equal lengths one is enough, and the length of chunks is not known before their end. An empty id is none.
        if field.is("expect")
            || field.is("trailer")
            || field.is(REQUEST_ID) && field.value.is_empty()
            || field.is("host") && std::mem::replace(&mut host_written, true)
            || field.is("content-length") && std::mem::replace(&mut length_written, true)
        {
            continue;
        }
        knows_protocol |= field.is("x-forwarded-proto");
        knows_id |= field.is(REQUEST_ID);
        put(&mut out, &[field.line, b"\r\n"]);
    }
    if head.body == BodyLength::Chunked {
        // Writing to memory cannot fail.
        let _ = write!(out, "content-length: {body_length}\r\n");
    }
    put_field(&mut out, "via", b"1.1 evenload");
    put_field(&mut out, "x-forwarded-for", client.host.as_bytes());
    if !knows_protocol {
        put_field(&mut out, "x-forwarded-proto", client.scheme().as_bytes());
    }
    if !knows_id {
        put_field(&mut out, REQUEST_ID, request_id.as_bytes());
    }
    if let Some(protocol) = head.upgrade() {
        put_field(&mut out, "connection", b"upgrade");
        put_field(&mut out, "upgrade", protocol);
    } else if head.accepts_trailers() {
        put(&mut out, &[b"te: trailers\r\nconnection: te\r\n"]);
    }
    out.extend_from_slice(b"\r\n");
    out
}

fn put_field(out: &mut Vec<u8>, name: &str, value: &[u8]) {
    put(out, &[name.as_bytes(), b": ", value, b"\r\n"]);
}

fn put(out: &mut Vec<u8>, parts: &[&[u8]]) {
    for part in parts {
        out.extend_from_slice(part);
    }
}
