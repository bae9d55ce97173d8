//! The head of a request: what a gateway must understand of it, and all its bytes.

use std::{mem::MaybeUninit, ops::Range};

use bytes::{Bytes, BytesMut};
use http::{Method, Uri, uri::Authority};

use super::fields::{Fields, MAX_FIELDS, Places};
use crate::{Reason, error::Refusal};

/// A request up to its body.
#[derive(Debug)]
pub(crate) struct RequestHead {
    pub(crate) method: Method,
    /// HTTP/1.0, whose senders know neither chunks nor connections that stay by themselves.
    pub(crate) is_http_10: bool,
    pub(crate) fields: Fields,
    pub(crate) body: BodyLength,
    /// Whether the client wants to use the connection again.
    pub(crate) keep_alive: bool,
    /// Whose request it is, where the target says so; it wins over the Host field.
    pub(crate) authority: Option<Authority>,
    bytes: Bytes,
    target: Range<usize>,
    path: Range<usize>,
}

/// How the end of a request's body is known.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum BodyLength {
    /// There is none, and nothing is said of it.
    None,
    Known(u64),
    Chunked,
}

// === impl RequestHead ===

impl RequestHead {
    /// Takes a whole head of at most `max_bytes` off the front of `buffer`; `None` while it is not all there.
    pub(crate) fn take(buffer: &mut BytesMut, max_bytes: usize) -> Result<Option<Self>, Refusal> {
        let mut fields = [const { MaybeUninit::uninit() }; MAX_FIELDS];
        let mut request = httparse::Request::new(&mut []);
        let parsed = request.parse_with_uninit_headers(buffer, &mut fields);
        let length = match parsed {
            Ok(httparse::Status::Complete(length)) if length <= max_bytes => length,
            Ok(httparse::Status::Partial) if buffer.len() <= max_bytes => return Ok(None),
            Ok(_) => return Err(too_large(buffer, max_bytes)),
            Err(httparse::Error::TooManyHeaders) => {
                let message = format!("more than {MAX_FIELDS} fields");
                return Err(Refusal::new(Reason::HeadTooLarge, message));
            }
            Err(error) => return Err(bad(format!("not an HTTP/1.1 request: {error}"))),
        };
        let method = Method::from_bytes(request.method.unwrap_or_default().as_bytes())
            .map_err(|_| bad("the method is not a token"))?;
        let target = request.path.unwrap_or_default();
        let (target, path, authority) = read_target(buffer, target, &method)?;
        let is_http_10 = request.version == Some(0);
        let places = Places::of(buffer, request.headers);
        let bytes = buffer.split_to(length).freeze();
        let fields = places.in_bytes(bytes.clone());
        let body = body_length(&fields, is_http_10)?;
        check_host(&fields, is_http_10)?;
        let foreign = |expectation: &[u8]| !expectation.eq_ignore_ascii_case(b"100-continue");
        if fields.all("expect").any(foreign) {
            let message = "an expectation other than `100-continue`";
            return Err(Refusal::new(Reason::ExpectationFailed, message));
        }
        let both_framings = body == BodyLength::Chunked && fields.contains("content-length");
        let keep_alive = match is_http_10 {
            true => fields.has_token("connection", "keep-alive"),
            // Whoever sent both framings may think that the request ends elsewhere: nothing may follow it.
            false => !both_framings && !fields.has_token("connection", "close"),
        };
        Ok(Some(Self { method, is_http_10, fields, body, keep_alive, authority, bytes, target, path }))
    }

    /// The path and the query, as they came; `*` where the whole server is meant.
    pub(crate) fn target(&self) -> &str {
        self.text(&self.target)
    }

    /// The path.
    pub(crate) fn path(&self) -> &str {
        self.text(&self.path)
    }

    /// The protocol that the client wants to change to.
    pub(crate) fn upgrade(&self) -> Option<&[u8]> {
        let asked = !self.is_http_10 && self.fields.has_token("connection", "upgrade");
        self.fields.get("upgrade").filter(|_| asked)
    }

    /// Whether fields after the body are welcome in the answer.
    pub(crate) fn accepts_trailers(&self) -> bool {
        self.fields.has_token("te", "trailers")
    }

    /// Whether the client waits for a word before it sends the body.
    pub(crate) fn expects_continue(&self) -> bool {
        !self.is_http_10 && self.fields.contains("expect")
    }

    fn text(&self, range: &Range<usize>) -> &str {
        match range.is_empty() {
            true => "/",
            false => std::str::from_utf8(&self.bytes[range.clone()]).unwrap_or("/"),
        }
    }
}

fn bad(message: impl Into<String>) -> Refusal {
    Refusal::new(Reason::BadRequest, message)
}

/// A request line that alone exceeds the limit is one thing, fields another.
fn too_large(buffer: &[u8], max_bytes: usize) -> Refusal {
    let line_length = memchr::memchr(b'\n', buffer).unwrap_or(buffer.len());
    if line_length > max_bytes {
        let message = format!("the request line exceeds {max_bytes} bytes");
        return Refusal::new(Reason::TargetTooLong, message);
    }
    Refusal::new(Reason::HeadTooLarge, format!("the request head exceeds {max_bytes} bytes"))
}

/// Where path and query of a target lie in `buffer`, where its path lies, and whose they are if it says so.
#[expect(clippy::type_complexity, reason = "three parts of one thing, taken apart at once")]
fn read_target(
    buffer: &[u8],
    target: &str,
    method: &Method,
) -> Result<(Range<usize>, Range<usize>, Option<Authority>), Refusal> {
    let start = (target.as_ptr() as usize).wrapping_sub(buffer.as_ptr() as usize);
    let (skipped, authority) = match target.as_bytes() {
        [b'/', ..] => (0, None),
        b"*" if method == Method::OPTIONS => (0, None),
        // What it would connect to is nobody's business: the method is refused.
        _ if method == Method::CONNECT => (target.len(), None),
        _ => {
            let uri: Uri = target.parse().map_err(|_| bad("the request target is not a path or a URL"))?;
            let (Some(_), Some(authority)) = (uri.scheme(), uri.authority()) else {
                return Err(bad("the request target is not a path or a URL"));
            };
            if authority.as_str().contains('@') {
                return Err(bad("the request target names a user"));
            }
            let before_path = target.find("://").map_or(0, |scheme| scheme + 3) + authority.as_str().len();
            (before_path, Some(authority.clone()))
        }
    };
    let rest = &target[skipped..];
    let path = rest.find('?').unwrap_or(rest.len());
    let start = start + skipped;
    Ok((start..start + rest.len(), start..start + path, authority))
}

fn body_length(fields: &Fields, is_http_10: bool) -> Result<BodyLength, Refusal> {
    let declared = fields.content_length().map_err(bad)?;
    let mut codings = fields.all("transfer-encoding");
    let Some(coding) = codings.next() else {
        return Ok(declared.map_or(BodyLength::None, BodyLength::Known));
    };
    if is_http_10 {
        return Err(bad("a transfer coding in an HTTP/1.0 request"));
    }
    if codings.next().is_some() {
        return Err(bad("more than one Transfer-Encoding field"));
    }
    let is_chunked = |coding: &[u8]| coding.trim_ascii().eq_ignore_ascii_case(b"chunked");
    if is_chunked(coding) {
        return Ok(BodyLength::Chunked);
    }
    let message = "a transfer coding that is not a single `chunked`";
    let mut listed = coding.rsplit(|&byte| byte == b',');
    let ends_chunked = listed.next().is_some_and(is_chunked);
    if ends_chunked && !listed.any(is_chunked) {
        return Err(Refusal::new(Reason::CodingNotSupported, message));
    }
    Err(bad(message))
}

fn check_host(fields: &Fields, is_http_10: bool) -> Result<(), Refusal> {
    let mut hosts = fields.all("host");
    match (hosts.next(), hosts.next()) {
        (Some(_), Some(_)) => Err(bad("more than one Host field")),
        (None, None) if !is_http_10 => Err(bad("no Host field")),
        (Some(host), None) if !host.is_empty() => {
            let valid = Authority::try_from(host).is_ok_and(|host| !host.as_str().contains('@'));
            if valid { Ok(()) } else { Err(bad("the Host field is not a host name with an optional port")) }
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn take(text: &str) -> Result<Option<RequestHead>, Refusal> {
        RequestHead::take(&mut BytesMut::from(text), 1000)
    }

    fn whole(text: &str) -> RequestHead {
        take(text).unwrap().unwrap()
    }

    #[test]
    fn targets_are_read_and_kept() {
        let head = whole("POST /a//b/../c?x=%zz HTTP/1.1\r\nHost: a\r\n\r\n");
        assert_eq!((head.target(), head.path()), ("/a//b/../c?x=%zz", "/a//b/../c"));
        assert_eq!(head.authority, None);
        let head = whole("GET http://right:1/v1?a HTTP/1.1\r\nHost: wrong\r\n\r\n");
        assert_eq!((head.target(), head.path()), ("/v1?a", "/v1"));
        assert_eq!(head.authority.unwrap(), "right:1");
        assert_eq!(whole("GET http://right HTTP/1.1\r\nHost: a\r\n\r\n").target(), "/");
        assert_eq!(whole("OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n").path(), "*");
        for none in ["GET * HTTP/1.1", "GET a HTTP/1.1", "GET a:80 HTTP/1.1"] {
            assert!(take(&format!("{none}\r\nHost: a\r\n\r\n")).is_err(), "{none}");
        }
    }

    #[test]
    fn a_part_is_awaited_and_limits_hold() {
        assert!(take("GET / HTTP/1.1\r\nHost: a\r\n").unwrap().is_none());
        let long = "a".repeat(1000);
        for (text, reason) in [
            (format!("GET /{long}"), Reason::TargetTooLong),
            (format!("GET /{long} HTTP/1.1\r\nHost: a\r\n\r\n"), Reason::TargetTooLong),
            (format!("GET / HTTP/1.1\r\nHost: a\r\nX: {long}"), Reason::HeadTooLarge),
            (format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", "a:\r\n".repeat(101)), Reason::HeadTooLarge),
        ] {
            assert_eq!(take(&text).unwrap_err().reason, reason, "{text:.40}");
        }
    }

    #[test]
    fn connections_stay_or_close() {
        let stays = |line: &str, fields: &str| {
            whole(&format!("GET / HTTP/{line}\r\nHost: a\r\n{fields}\r\n")).keep_alive
        };
        assert!(stays("1.1", "") && !stays("1.1", "Connection: x, Close\r\n"));
        assert!(!stays("1.0", "") && stays("1.0", "Connection: keep-alive\r\n"));
        assert!(!stays("1.1", "Content-Length: 1\r\nTransfer-Encoding: chunked\r\n"));
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = RequestHead::take(&mut BytesMut::from(&bytes[..]), 200);
        }

        #[test]
        fn no_damage_panics(
            cut in 0usize..85,
            at in 0usize..86,
            byte in any::<u8>(),
        ) {
            let mut bytes = b"POST http://a:1/v1/x?y HTTP/1.1\r\nHost: b\r\nConnection: x, TE\r\nContent-Length: 3\r\nX:\r\n\r\n".to_vec();
            bytes[at] = byte;
            bytes.drain(cut..cut + 1);
            if let Ok(Some(head)) = RequestHead::take(&mut BytesMut::from(&bytes[..]), 200) {
                let _ = (head.target(), head.path(), head.fields.end_to_end().count());
            }
        }
    }
}
