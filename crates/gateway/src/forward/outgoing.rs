//! The head of a request as a replica gets it: the client's fields, with those of this hop taken out and those
//! that every proxy adds put in.

use http::{
    HeaderName, HeaderValue, Version,
    header::{CONTENT_LENGTH, EXPECT, HOST, TE, TRAILER, TRANSFER_ENCODING, UPGRADE},
    request::Parts,
};

use super::REQUEST_ID;
use crate::{fleet::Backend, headers, server::client::Client};

/// Added to what clients say about the path of a request.
const VIA: &[u8] = b"via: 1.1 evenload\r\n";
const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
/// Room for a usual head.
const HEAD_ROOM: usize = 768;

/// Writes the head for `backend`. `connection` holds the client's `Connection` fields.
pub(super) fn write(
    head: &Parts,
    connection: &[HeaderValue],
    client: &Client,
    backend: &Backend,
    request_id: &str,
    body_length: usize,
) -> Vec<u8> {
    let mut out = Vec::with_capacity(HEAD_ROOM);
    put(&mut out, &[head.method.as_str().as_bytes(), b" ", backend.path_prefix.as_bytes()]);
    let target = head.uri.path_and_query().map_or("/", |target| target.as_str());
    put(&mut out, &[target.as_bytes(), b" HTTP/1.1\r\nhost: ", host(head, backend), b"\r\n"]);
    let fields = &head.headers;
    for (name, value) in fields {
        let own = [HOST, CONTENT_LENGTH, EXPECT, TRAILER, FORWARDED_FOR].contains(name);
        if !own && !headers::is_hop_by_hop(name) {
            field(&mut out, name.as_str(), value.as_bytes());
        }
    }
    if fields.contains_key(CONTENT_LENGTH) || fields.contains_key(TRANSFER_ENCODING) {
        field(&mut out, "content-length", body_length.to_string().as_bytes());
    }
    out.extend_from_slice(VIA);
    out.extend_from_slice(b"x-forwarded-for: ");
    for earlier in fields.get_all(FORWARDED_FOR) {
        put(&mut out, &[earlier.as_bytes(), b", "]);
    }
    put(&mut out, &[client.address.ip().to_canonical().to_string().as_bytes(), b"\r\n"]);
    if !fields.contains_key(FORWARDED_PROTO) {
        field(&mut out, FORWARDED_PROTO.as_str(), b"http");
    }
    if !fields.contains_key(REQUEST_ID) {
        field(&mut out, REQUEST_ID.as_str(), request_id.as_bytes());
    }
    write_hop(&mut out, head, connection);
    out.extend_from_slice(b"\r\n");
    out
}

/// The fields of this hop: what the client asked of its own hop and the gateway passes on.
fn write_hop(out: &mut Vec<u8>, head: &Parts, connection: &[HeaderValue]) {
    let fields = &head.headers;
    if let Some(protocol) = upgrade(head, connection) {
        field(out, "connection", b"upgrade");
        field(out, "upgrade", protocol.as_bytes());
    } else if fields.get_all(TE).iter().any(|value| headers::has_token(value, "trailers")) {
        out.extend_from_slice(b"te: trailers\r\nconnection: te\r\n");
    }
}

/// The protocol that the client wants to change to.
pub(super) fn upgrade<'a>(head: &'a Parts, connection: &[HeaderValue]) -> Option<&'a HeaderValue> {
    let asked = connection.iter().any(|value| headers::has_token(value, "upgrade"));
    head.headers.get(UPGRADE).filter(|_| asked && head.version == Version::HTTP_11)
}

/// The target's authority wins over the field; a client that names none gets the replica's.
fn host<'a>(head: &'a Parts, backend: &'a Backend) -> &'a [u8] {
    match (head.uri.authority(), head.headers.get(HOST)) {
        (Some(authority), _) => authority.as_str().as_bytes(),
        (None, Some(host)) => host.as_bytes(),
        (None, None) => backend.authority.as_bytes(),
    }
}

fn field(out: &mut Vec<u8>, name: &str, value: &[u8]) {
    put(out, &[name.as_bytes(), b": ", value, b"\r\n"]);
}

fn put(out: &mut Vec<u8>, parts: &[&[u8]]) {
    for part in parts {
        out.extend_from_slice(part);
    }
}
