//! The head of a response: its status, its fields, and how its body is framed.

use std::mem::MaybeUninit;

use bytes::{Bytes, BytesMut};
use http::StatusCode;

use super::fields::{Fields, MAX_FIELDS, Places};

/// Bytes of a response head.
pub(crate) const MAX_HEAD_BYTES: usize = 256 * 1024;

/// A response up to its body.
#[derive(Debug)]
pub(crate) struct ResponseHead {
    pub(crate) status: StatusCode,
    /// The reason phrase, as it came.
    pub(crate) reason: Bytes,
    pub(crate) fields: Fields,
    pub(crate) framing: Framing,
    /// Whether the connection may serve another request afterwards.
    pub(crate) keep_alive: bool,
}

/// How the end of a body is known.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Framing {
    /// There is no body, whatever the fields say.
    None,
    /// A number of bytes.
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
    #[error("more than {MAX_HEAD_BYTES} bytes or {MAX_FIELDS} fields of response head")]
    TooLarge,
    #[error("{0}")]
    Framing(&'static str),
}

// === impl ResponseHead ===

impl ResponseHead {
    /// Takes a whole head off the front of `buffer`; `None` while it is not all there. `to_head` says that the
    /// request was a HEAD.
    pub(crate) fn take(buffer: &mut BytesMut, to_head: bool) -> Result<Option<Self>, InvalidHead> {
        let mut fields = [const { MaybeUninit::uninit() }; MAX_FIELDS];
        let mut response = httparse::Response::new(&mut []);
        let parsed = httparse::ParserConfig::default().parse_response_with_uninit_headers(
            &mut response,
            buffer,
            &mut fields,
        );
        let length = match parsed {
            Ok(httparse::Status::Complete(length)) if length <= MAX_HEAD_BYTES => length,
            Ok(httparse::Status::Partial) if buffer.len() < MAX_HEAD_BYTES => return Ok(None),
            Ok(_) | Err(httparse::Error::TooManyHeaders) => return Err(InvalidHead::TooLarge),
            Err(error) => return Err(InvalidHead::Syntax(error)),
        };
        let status = StatusCode::from_u16(response.code.unwrap_or_default())
            .map_err(|_| InvalidHead::Syntax(httparse::Error::Status))?;
        let is_http_10 = response.version == Some(0);
        let reason = response.reason.unwrap_or_default();
        let reason_start = (reason.as_ptr() as usize).wrapping_sub(buffer.as_ptr() as usize);
        let reason = if reason.is_empty() { 0..0 } else { reason_start..reason_start + reason.len() };
        let places = Places::of(buffer, response.headers);
        let bytes = buffer.split_to(length).freeze();
        let reason = bytes.slice(reason);
        let fields = places.in_bytes(bytes);
        let framing = Self::framing(&fields, status, is_http_10, to_head)?;
        let both_framings = framing == Framing::Chunked && fields.contains("content-length");
        let keep_alive = match is_http_10 {
            true => fields.has_token("connection", "keep-alive"),
            false => !fields.has_token("connection", "close"),
        };
        // Whoever sent both framings may think that the answer ends elsewhere: nothing may follow it.
        let keep_alive = keep_alive && !both_framings && framing != Framing::UntilClose;
        Ok(Some(Self { status, reason, fields, framing, keep_alive }))
    }

    /// Whether another head follows.
    pub(crate) fn is_interim(&self) -> bool {
        self.status.is_informational() && self.status != StatusCode::SWITCHING_PROTOCOLS
    }

    /// RFC 9112, 6.3.
    fn framing(
        fields: &Fields,
        status: StatusCode,
        is_http_10: bool,
        to_head: bool,
    ) -> Result<Framing, InvalidHead> {
        if status == StatusCode::SWITCHING_PROTOCOLS && !fields.contains("upgrade") {
            return Err(InvalidHead::Framing("a 101 that does not name its protocol"));
        }
        let length = fields.content_length().map_err(InvalidHead::Framing)?;
        let mut codings = fields.all("transfer-encoding");
        let framing = match (codings.next(), length) {
            (Some(coding), _)
                if !coding.trim_ascii().eq_ignore_ascii_case(b"chunked") || codings.next().is_some() =>
            {
                return Err(InvalidHead::Framing("a transfer coding that is not `chunked`"));
            }
            (Some(_), _) if is_http_10 => {
                return Err(InvalidHead::Framing("a transfer coding in an HTTP/1.0 response"));
            }
            (Some(_), _) => Framing::Chunked,
            (None, Some(length)) => Framing::Length(length),
            (None, None) => Framing::UntilClose,
        };
        let bodiless = to_head
            || status.is_informational()
            || matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
        Ok(if bodiless { Framing::None } else { framing })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Option<ResponseHead>, InvalidHead> {
        ResponseHead::take(&mut BytesMut::from(text), false)
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
        let lines: Vec<_> = head.fields.end_to_end().map(|field| field.line).collect();
        assert_eq!(lines, [&b"Set-Cookie: a"[..], b"set-cookie: b"]);
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
    }

    #[test]
    fn some_responses_have_no_body_whatever_they_say() {
        let text = "HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\n";
        assert_eq!(whole(text).framing, Framing::None);
        let text = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n";
        let head = ResponseHead::take(&mut BytesMut::from(text), true);
        let head = head.unwrap().unwrap();
        assert_eq!((head.framing, head.fields.get("content-length")), (Framing::None, Some(&b"5"[..])));
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
        assert_eq!(ResponseHead::take(&mut huge, false).unwrap_err(), InvalidHead::TooLarge);
        assert_eq!(whole("HTTP/1.1 200 Fine\r\n\r\n").reason, "Fine");
    }
}
