//! The head of a response: its status, its fields without the hop-by-hop ones, and how its body is framed.
//!
//! Framing follows RFC 9112, 6.3. Whatever could be read in two ways is refused, because a body whose end is in
//! doubt would put the next response on the connection in doubt too. It does no I/O.

use bytes::{Bytes, BytesMut};
use http::{
    HeaderMap, HeaderName, HeaderValue, StatusCode, Version,
    header::{CONNECTION, CONTENT_LENGTH, TRANSFER_ENCODING, UPGRADE},
};

use crate::headers;

/// Bytes of a response head.
pub(crate) const MAX_HEAD_BYTES: usize = 256 * 1024;
/// Fields of a response head.
const MAX_FIELDS: usize = 128;

/// A response up to its body.
#[derive(Debug)]
pub(crate) struct ResponseHead {
    /// Its status.
    pub(crate) status: StatusCode,
    /// The reason phrase, where it is not the usual one.
    pub(crate) reason: Option<Bytes>,
    /// Its end-to-end fields, as they came.
    pub(crate) headers: HeaderMap,
    /// How the end of its body is known.
    pub(crate) framing: Framing,
    /// Whether the connection may serve another request afterwards.
    pub(crate) keep_alive: bool,
}

/// How the end of a body is known.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Framing {
    /// A number of bytes; 0 where there is no body.
    Length(u64),
    /// The chunked coding.
    Chunked,
    /// The end of the connection.
    UntilClose,
}

/// Why a response cannot be understood.
#[derive(Debug, Eq, PartialEq, thiserror::Error)]
pub(crate) enum InvalidHead {
    #[error("not an HTTP response: {0}")]
    Syntax(httparse::Error),
    #[error("more than {MAX_HEAD_BYTES} bytes of response head")]
    TooLarge,
    #[error("{0}")]
    Framing(&'static str),
}

/// Takes a whole head off the front of `buffer`; `None` while it is not all there. `searched` bytes were there
/// the last time. `to_head` says that the request was a HEAD.
pub(crate) fn parse(buffer: &mut BytesMut, to_head: bool) -> Result<Option<ResponseHead>, InvalidHead> {
    let mut fields = [httparse::EMPTY_HEADER; MAX_FIELDS];
    let mut response = httparse::Response::new(&mut fields);
    let length = match response.parse(buffer) {
        Ok(httparse::Status::Complete(length)) if length <= MAX_HEAD_BYTES => length,
        Ok(httparse::Status::Partial) if buffer.len() < MAX_HEAD_BYTES => return Ok(None),
        Ok(_) => return Err(InvalidHead::TooLarge),
        Err(error) => return Err(InvalidHead::Syntax(error)),
    };
    let status = StatusCode::from_u16(response.code.unwrap_or_default())
        .map_err(|_| InvalidHead::Syntax(httparse::Error::Status))?;
    let version = if response.version == Some(0) { Version::HTTP_10 } else { Version::HTTP_11 };
    let reason = response
        .reason
        .filter(|&reason| !reason.is_empty() && status.canonical_reason() != Some(reason))
        .map(|reason| Bytes::copy_from_slice(reason.as_bytes()));
    let count = response.headers.len();
    let base = buffer.as_ptr() as usize;
    let mut ranges = [(0, 0, 0, 0); MAX_FIELDS];
    for (range, field) in ranges.iter_mut().zip(response.headers.iter()) {
        let (name, value) = (field.name.as_ptr() as usize - base, field.value.as_ptr() as usize - base);
        *range = (name, name + field.name.len(), value, value + field.value.len());
    }
    let bytes = buffer.split_to(length).freeze();
    let mut head = FieldReader::new(count);
    for &(name, name_end, value, value_end) in &ranges[..count] {
        head.read(&bytes[name..name_end], bytes.slice(value..value_end))?;
    }
    head.finish(status, reason, version, to_head).map(Some)
}

/// Reads a block of fields that ends with an empty line, as trailers do.
pub(crate) fn parse_fields(bytes: &Bytes) -> Result<HeaderMap, InvalidHead> {
    let mut fields = [httparse::EMPTY_HEADER; MAX_FIELDS];
    match httparse::parse_headers(bytes, &mut fields) {
        Ok(httparse::Status::Complete((_, fields))) => {
            let mut reader = FieldReader::new(fields.len());
            for field in fields {
                reader.read(field.name.as_bytes(), bytes.slice_ref(field.value))?;
            }
            Ok(reader.headers)
        }
        Ok(httparse::Status::Partial) => Err(InvalidHead::Syntax(httparse::Error::NewLine)),
        Err(error) => Err(InvalidHead::Syntax(error)),
    }
}

/// Sorts the fields of a head: end-to-end ones are kept, framing and connection ones are understood.
struct FieldReader {
    headers: HeaderMap,
    nominated: Vec<HeaderValue>,
    chunked: Option<bool>,
    upgrade: Option<HeaderValue>,
    close: bool,
    keep_alive: bool,
}

// === impl FieldReader ===

impl FieldReader {
    fn new(count: usize) -> Self {
        Self {
            headers: HeaderMap::with_capacity(count),
            nominated: Vec::new(),
            chunked: None,
            upgrade: None,
            close: false,
            keep_alive: false,
        }
    }

    fn read(&mut self, name: &[u8], value: Bytes) -> Result<(), InvalidHead> {
        let name =
            HeaderName::from_bytes(name).map_err(|_| InvalidHead::Syntax(httparse::Error::HeaderName))?;
        let value = HeaderValue::from_maybe_shared(value)
            .map_err(|_| InvalidHead::Syntax(httparse::Error::HeaderValue))?;
        if name == UPGRADE {
            self.upgrade = Some(value);
        } else if name == CONNECTION {
            self.close |= headers::has_token(&value, "close");
            self.keep_alive |= headers::has_token(&value, "keep-alive");
            self.nominated.push(value);
        } else if name == TRANSFER_ENCODING {
            let chunked = value.as_bytes().trim_ascii().eq_ignore_ascii_case(b"chunked");
            self.chunked = Some(self.chunked.is_none() && chunked);
        } else if !headers::is_hop_by_hop(&name) {
            self.headers.append(name, value);
        }
        Ok(())
    }

    fn finish(
        mut self,
        status: StatusCode,
        reason: Option<Bytes>,
        version: Version,
        to_head: bool,
    ) -> Result<ResponseHead, InvalidHead> {
        headers::remove_nominated(&mut self.headers, &self.nominated);
        let mut keep_alive = if version == Version::HTTP_10 { self.keep_alive } else { !self.close };
        if status == StatusCode::SWITCHING_PROTOCOLS {
            let protocol = self.upgrade.take();
            let protocol = protocol.ok_or(InvalidHead::Framing("a 101 that does not name its protocol"))?;
            self.headers.insert(UPGRADE, protocol);
            self.headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
        }
        let length = content_length(&self.headers)?;
        let bodiless = to_head
            || status.is_informational()
            || matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
        let framing = match (self.chunked, length) {
            (Some(false), _) => {
                return Err(InvalidHead::Framing("a transfer coding that is not `chunked`"));
            }
            (Some(true), _) if version == Version::HTTP_10 => {
                return Err(InvalidHead::Framing("a transfer coding in an HTTP/1.0 response"));
            }
            (Some(true), length) => {
                if length.is_some() {
                    // RFC 9112, 6.3: the coding wins; the peer may think otherwise, so nothing may follow.
                    self.headers.remove(CONTENT_LENGTH);
                    keep_alive = false;
                }
                Framing::Chunked
            }
            (None, Some(length)) => Framing::Length(length),
            (None, None) => Framing::UntilClose,
        };
        let framing = if bodiless { Framing::Length(0) } else { framing };
        if framing == Framing::UntilClose {
            keep_alive = false;
        }
        Ok(ResponseHead { status, reason, headers: self.headers, framing, keep_alive })
    }
}

/// The one length that the fields agree on. Equal repetitions are merged.
fn content_length(headers: &HeaderMap) -> Result<Option<u64>, InvalidHead> {
    let mut length = None;
    for value in headers.get_all(CONTENT_LENGTH) {
        let digits = value.as_bytes();
        let number = std::str::from_utf8(digits)
            .ok()
            .filter(|text| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()))
            .and_then(|text| text.parse::<u64>().ok())
            .ok_or(InvalidHead::Framing("a Content-Length that is not a number"))?;
        if length.is_some_and(|length| length != number) {
            return Err(InvalidHead::Framing("two Content-Length fields that differ"));
        }
        length = Some(number);
    }
    Ok(length)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Option<ResponseHead>, InvalidHead> {
        parse(&mut BytesMut::from(text), false)
    }

    fn whole(text: &str) -> ResponseHead {
        read(text).unwrap().unwrap()
    }

    #[test]
    fn end_to_end_fields_stay_as_they_came() {
        let head = whole(
            "HTTP/1.1 200 OK\r\nSet-Cookie: a\r\nConnection: x-a\r\nX-A: 1\r\nset-cookie: b\r\nX-B: \
             \u{e9}\r\nConnection: close, X-B\r\nKeep-Alive: timeout=5\r\n\r\n",
        );
        assert_eq!(head.headers.get_all("set-cookie").iter().collect::<Vec<_>>(), ["a", "b"]);
        assert_eq!(head.headers.len(), 2, "{:?}", head.headers);
        assert!(!head.keep_alive);
    }

    #[test]
    fn framing_follows_the_rules() {
        let framing = |fields: &str| {
            read(&format!("HTTP/1.1 200 OK\r\n{fields}\r\n")).map(|head| head.unwrap().framing)
        };
        assert_eq!(framing("Content-Length: 5\r\nContent-Length: 5\r\n"), Ok(Framing::Length(5)));
        assert_eq!(framing("Transfer-Encoding: chunked\r\n"), Ok(Framing::Chunked));
        assert_eq!(framing(""), Ok(Framing::UntilClose));
        for bad in [
            "Content-Length: 5\r\nContent-Length: 6\r\n",
            "Content-Length: +5\r\n",
            "Content-Length: 5, 5\r\n",
            "Content-Length: 99999999999999999999\r\n",
            "Content-Length: \r\n",
            "Transfer-Encoding: gzip\r\n",
            "Transfer-Encoding: gzip, chunked\r\n",
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
        ] {
            assert!(framing(bad).is_err(), "{bad}");
        }
        assert!(read("HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").is_err());
    }

    #[test]
    fn both_framings_close_the_connection() {
        let head = whole("HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n");
        assert_eq!((head.framing, head.keep_alive), (Framing::Chunked, false));
        assert!(!head.headers.contains_key(CONTENT_LENGTH));
    }

    #[test]
    fn some_responses_have_no_body_whatever_they_say() {
        let text = "HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\n";
        assert_eq!(whole(text).framing, Framing::Length(0));
        let head = parse(&mut BytesMut::from("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n"), true);
        let head = head.unwrap().unwrap();
        assert_eq!(head.framing, Framing::Length(0));
        assert_eq!(head.headers[CONTENT_LENGTH], "5");
    }

    #[test]
    fn versions_decide_whether_the_connection_stays() {
        assert!(whole("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").keep_alive);
        assert!(!whole("HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n").keep_alive);
        assert!(whole("HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 0\r\n\r\n").keep_alive);
        assert!(!whole("HTTP/1.1 200 OK\r\n\r\n").keep_alive);
    }

    #[test]
    fn garbage_is_refused_and_a_part_is_awaited() {
        assert!(read("hello world, this is not HTTP\r\n\r\n").is_err());
        assert!(read("HTTP/1.1 200 OK\r\nBad Name: 1\r\n\r\n").is_err());
        assert!(read("HTTP/1.1 200 OK\r\nA: 1\r\n").unwrap().is_none());
        let mut huge = BytesMut::from("HTTP/1.1 200 OK\r\nA: ");
        huge.resize(MAX_HEAD_BYTES, b'a');
        assert_eq!(parse(&mut huge, false).unwrap_err(), InvalidHead::TooLarge);
        assert_eq!(whole("HTTP/1.1 200 Fine\r\n\r\n").reason.unwrap(), "Fine");
    }
}
