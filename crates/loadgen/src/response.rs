//! One HTTP/1.1 response: head, framing, and where its body goes.
//!
//! Bytes come in as they are read; a head that is cut by a read is kept until it is whole, a body is decoded in
//! place. Interim responses (1xx) are skipped. Limits: [`HEAD_LIMIT`] bytes and [`HEADER_LIMIT`] lines of head.

use report::Outcome;

use crate::{answer::Answer, chunked::Chunked};

const HEAD_LIMIT: usize = 64 << 10;
const HEADER_LIMIT: usize = 128;

/// The state of reading one response.
#[derive(Debug, Default)]
pub(crate) struct Response {
    /// The start of a head that is not complete.
    partial_head: Vec<u8>,
    framing: Option<Framing>,
    status: u16,
    keep_alive: bool,
}

/// How the end of the body is known.
#[derive(Debug)]
enum Framing {
    Length(u64),
    Chunked(Chunked),
    UntilClose,
}

/// What a response head says, as far as it matters here.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct ResponseHead {
    pub(crate) status: u16,
    pub(crate) content: Content,
}

/// What the server says that the body is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Content {
    /// Server-sent events.
    Events,
    /// One JSON document.
    Json,
    /// Something else, or it does not say.
    Other,
}

/// How far a response has come.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Progress {
    /// More bytes are needed.
    More,
    /// The body is complete.
    Complete {
        /// The connection can serve another request.
        reusable: bool,
    },
}

impl Response {
    /// The status, once the head is complete.
    pub(crate) fn status(&self) -> Option<u16> {
        self.framing.is_some().then_some(self.status)
    }

    /// Whether any byte has been received.
    pub(crate) fn has_begun(&self) -> bool {
        self.framing.is_some() || !self.partial_head.is_empty()
    }

    /// Takes the bytes of one read.
    pub(crate) fn receive(&mut self, bytes: &[u8], answer: &mut Answer) -> Result<Progress, Outcome> {
        let mut rest = bytes;
        let held;
        if self.framing.is_none() {
            if !self.partial_head.is_empty() {
                self.partial_head.extend_from_slice(bytes);
                held = std::mem::take(&mut self.partial_head);
                rest = &held;
            }
            if !self.read_head(&mut rest, answer)? {
                if rest.len() > HEAD_LIMIT {
                    return Err(Outcome::Malformed(format!("a response head over {HEAD_LIMIT} bytes")));
                }
                self.partial_head = rest.to_vec();
                return Ok(Progress::More);
            }
        }
        self.read_body(rest, answer)
    }

    /// The connection has ended in good order.
    pub(crate) fn end_of_stream(&self) -> Result<Progress, Outcome> {
        match (&self.framing, self.has_begun()) {
            (Some(Framing::UntilClose), _) => Ok(Progress::Complete { reusable: false }),
            (Some(_), _) => Err(Outcome::Broken("the connection was closed inside the answer".to_owned())),
            (None, true) => {
                Err(Outcome::Broken("the connection was closed inside the response head".to_owned()))
            }
            (None, false) => Err(Outcome::Broken("the connection was closed without an answer".to_owned())),
        }
    }

    /// Reads heads until the final one is complete. `rest` is then the start of the body.
    fn read_head(&mut self, rest: &mut &[u8], answer: &mut Answer) -> Result<bool, Outcome> {
        loop {
            let mut headers = [httparse::EMPTY_HEADER; HEADER_LIMIT];
            let mut head = httparse::Response::new(&mut headers);
            let parsed = head
                .parse(rest)
                .map_err(|error| Outcome::Malformed(format!("not an HTTP response: {error}")))?;
            let httparse::Status::Complete(bytes) = parsed else { return Ok(false) };
            *rest = &rest[bytes..];
            let status = head.code.unwrap_or(0);
            match status {
                100 | 102..=199 => {}
                101 => return Err(Outcome::Malformed("the server switched to another protocol".to_owned())),
                _ => {
                    self.status = status;
                    let content = self.take_headers(head.version == Some(1), head.headers)?;
                    answer.begin(ResponseHead { status, content });
                    return Ok(true);
                }
            }
        }
    }

    fn take_headers(&mut self, http_1_1: bool, headers: &[httparse::Header<'_>]) -> Result<Content, Outcome> {
        let mut length: Option<u64> = None;
        let (mut chunked, mut other_coding, mut content) = (false, false, Content::Other);
        self.keep_alive = http_1_1;
        for header in headers {
            let has = |token: &str| list_has(header.value, token);
            if header.name.eq_ignore_ascii_case("content-length") {
                let text = std::str::from_utf8(header.value).unwrap_or("").trim();
                let value =
                    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok()).flatten();
                let differs = length.is_some_and(|length| Some(length) != value);
                length = value.filter(|_| !differs);
                if length.is_none() {
                    return Err(Outcome::Malformed("a broken Content-Length".to_owned()));
                }
            } else if header.name.eq_ignore_ascii_case("transfer-encoding") {
                chunked |= has("chunked");
                other_coding |= !has("chunked") && !has("identity");
            } else if header.name.eq_ignore_ascii_case("connection") {
                self.keep_alive = (self.keep_alive || has("keep-alive")) && !has("close");
            } else if header.name.eq_ignore_ascii_case("content-type") {
                let kind = header.value.split(|byte| *byte == b';').next().unwrap_or(&[]).trim_ascii();
                content = match kind {
                    kind if kind.eq_ignore_ascii_case(b"text/event-stream") => Content::Events,
                    kind if kind.eq_ignore_ascii_case(b"application/json") => Content::Json,
                    _ => Content::Other,
                };
            } else if header.name.eq_ignore_ascii_case("content-encoding") && !has("identity") {
                return Err(Outcome::Malformed(
                    "the answer is compressed, which was not asked for".to_owned(),
                ));
            }
        }
        if other_coding {
            return Err(Outcome::Malformed("a transfer coding other than chunked".to_owned()));
        }
        self.framing = Some(match (self.status, chunked, length) {
            (204 | 304, ..) => Framing::Length(0),
            (_, true, _) => Framing::Chunked(Chunked::default()),
            (_, false, Some(length)) => Framing::Length(length),
            (_, false, None) => Framing::UntilClose,
        });
        Ok(content)
    }

    fn read_body(&mut self, mut rest: &[u8], answer: &mut Answer) -> Result<Progress, Outcome> {
        let done = match &mut self.framing {
            None => false,
            Some(Framing::UntilClose) => {
                answer.receive(rest)?;
                return Ok(Progress::More);
            }
            Some(Framing::Length(left)) => {
                let size = usize::try_from(*left).unwrap_or(usize::MAX).min(rest.len());
                answer.receive(&rest[..size])?;
                *left -= size as u64;
                rest = &rest[size..];
                *left == 0
            }
            Some(Framing::Chunked(chunked)) => {
                loop {
                    let data =
                        chunked.next(&mut rest).map_err(|error| Outcome::Malformed(error.to_string()))?;
                    if data.is_empty() {
                        break;
                    }
                    answer.receive(data)?;
                }
                chunked.is_done()
            }
        };
        if !done {
            return Ok(Progress::More);
        }
        // Bytes after the end belong to no request of ours: the connection cannot be trusted any more.
        Ok(Progress::Complete { reusable: self.keep_alive && rest.is_empty() })
    }
}

/// Whether a comma-separated list holds `token`, in any case.
fn list_has(list: &[u8], token: &str) -> bool {
    list.split(|byte| *byte == b',').any(|part| part.trim_ascii().eq_ignore_ascii_case(token.as_bytes()))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;
    use protocol::Endpoint;

    use super::*;

    const SSE: &str = "data: {\"choices\":[{\"delta\":{\"role\":\"assistant\",\"content\":\"\"}}]}\n\n\
                       data: {\"choices\":[{\"delta\":{\"content\":\"Hi\"}}]}\n\n\
                       data: {\"choices\":[{\"delta\":{\"content\":\" you\"},\"finish_reason\":\"stop\"}]}\n\n\
                       data: {\"choices\":[],\"usage\":{\"prompt_tokens\":5,\"completion_tokens\":2}}\n\n\
                       data: [DONE]\n\n";

    /// What became of a response: outcome, whether the connection can be used again, text, and chunk times.
    type Read = (Outcome, bool, String, usize);

    /// Feeds `pieces`, one a second; then the end of the connection if `closes`.
    fn read(stream: bool, pieces: &[&[u8]], closes: bool) -> Read {
        let mut answer =
            Answer::new(Endpoint::ChatCompletions, stream, None, true, false, crate::ChunkRule::Output);
        let mut response = Response::default();
        let mut end = None;
        for (second, piece) in (1..).zip(pieces) {
            answer.set_now(Duration::from_secs(second));
            match response.receive(piece, &mut answer) {
                Ok(Progress::More) => {}
                Ok(Progress::Complete { reusable }) => end = Some((answer.finish(), reusable)),
                Err(outcome) => end = Some((outcome, false)),
            }
            if end.is_some() {
                break;
            }
        }
        let (outcome, reusable) = end.unwrap_or_else(|| match response.end_of_stream() {
            Ok(_) if closes => (answer.finish(), false),
            Err(outcome) if closes => (answer.refusal().unwrap_or(outcome), false),
            _ => (Outcome::Incomplete, false),
        });
        let measured = answer.into_measured();
        (outcome, reusable, measured.text.text, measured.chunks.len())
    }

    fn chunked(body: &str, sizes: &[usize]) -> String {
        let (mut out, mut rest) = (String::new(), body);
        for size in sizes {
            let (chunk, after) = rest.split_at((*size).min(rest.len()));
            if !chunk.is_empty() {
                out += &format!("{:x}\r\n{chunk}\r\n", chunk.len());
            }
            rest = after;
        }
        if !rest.is_empty() {
            out += &format!("{:x}\r\n{rest}\r\n", rest.len());
        }
        out + "0\r\n\r\n"
    }

    fn good(reusable: bool) -> Read {
        (Outcome::Success, reusable, "Hi you".to_owned(), 2)
    }

    #[test]
    fn every_framing_cut_at_every_byte_reads_the_same() {
        let (length, coded) = (SSE.len(), chunked(SSE, &[7, 90, 1]));
        let crlf = SSE.replace('\n', "\r\n");
        let head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\n";
        for (text, closes, reusable) in [
            (format!("{head}Content-Length: {length}\r\n\r\n{SSE}"), false, true),
            (format!("{head}Transfer-Encoding: chunked\r\n\r\n{coded}"), false, true),
            (format!("{head}transfer-encoding: Chunked\r\nConnection: close\r\n\r\n{coded}"), false, false),
            (format!("{head}\r\n{crlf}"), true, false),
            (
                format!("HTTP/1.1 100 Continue\r\n\r\n{head}Transfer-Encoding: chunked\r\n\r\n{coded}"),
                false,
                true,
            ),
            (format!("HTTP/1.0 200 OK\r\n\r\n{SSE}"), true, false),
        ] {
            for cut in 0..=text.len() {
                let (first, second) = text.as_bytes().split_at(cut);
                assert_eq!(read(true, &[first, second], closes), good(reusable), "cut at {cut} of {text:?}");
            }
            let single: Vec<&[u8]> = text.as_bytes().chunks(1).collect();
            assert_eq!(read(true, &single, closes), good(reusable), "byte by byte: {text:?}");
        }
    }

    #[test]
    fn an_answer_that_ends_early_is_broken_wherever_it_is_cut() {
        let text = format!(
            "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n{}",
            chunked(SSE, &[40])
        );
        for cut in 0..text.len() {
            let (outcome, ..) = read(true, &[&text.as_bytes()[..cut]], true);
            assert!(matches!(outcome, Outcome::Broken(_)), "cut at {cut}: {outcome:?}");
        }
    }

    #[test]
    fn a_stream_without_its_end_event_is_broken_even_if_the_framing_is_whole() {
        let body = "data: {\"choices\":[{\"delta\":{\"content\":\"Hi\"}}]}\n\n";
        let text = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len());
        let (outcome, reusable, _, chunks) = read(true, &[text.as_bytes()], false);
        assert!(matches!(outcome, Outcome::Broken(message) if message.contains("end event")));
        assert_eq!((reusable, chunks), (true, 1));
    }

    #[test]
    fn bytes_after_the_answer_spoil_the_connection() {
        let text = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}HTTP";
        let (outcome, reusable, ..) = read(false, &[text.as_bytes()], false);
        assert_eq!((outcome, reusable), (Outcome::Success, false));
    }

    #[test]
    fn a_refusal_keeps_its_status_and_message_even_if_it_breaks_off() {
        let body = r#"{"error":{"message":"slow   down","type":"rate"}}"#;
        let head = format!("HTTP/1.1 429 Too Many Requests\r\nContent-Length: {}\r\n\r\n", body.len());
        let refused = |message: &str| Outcome::Status(429, message.to_owned());
        let whole = read(true, &[head.as_bytes(), body.as_bytes()], false);
        assert_eq!(whole, (refused("slow down"), true, String::new(), 0));
        let (outcome, ..) = read(true, &[head.as_bytes(), b"{\"err"], true);
        assert_eq!(outcome, refused("{\"err"));
        let (empty, ..) = read(true, &[b"HTTP/1.1 503 x\r\nContent-Length: 0\r\n\r\n"], false);
        assert_eq!(empty, Outcome::Status(503, String::new()));
    }

    #[test]
    fn what_is_not_http_is_malformed() {
        for text in [
            "SSH-2.0-OpenSSH\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 1x\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: +1\r\n\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\n\r\n",
            "HTTP/1.1 101 Switching Protocols\r\n\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        ] {
            let (outcome, ..) = read(true, &[text.as_bytes()], true);
            assert!(matches!(outcome, Outcome::Malformed(_)), "{text:?}: {outcome:?}");
        }
        let endless = format!("HTTP/1.1 200 OK\r\nX: {}", "y".repeat(HEAD_LIMIT));
        assert!(matches!(read(true, &[endless.as_bytes()], false).0, Outcome::Malformed(_)));
    }

    proptest! {
        #[test]
        fn no_response_panics_and_cuts_do_not_matter(
            body in prop::collection::vec(any::<u8>(), 0..200),
            start in prop::sample::select(vec![
                "", "HTTP/1.1 200 OK\r\n\r\n", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
                "HTTP/1.1 500 x\r\nContent-Length: 9\r\n\r\n", "HTTP/1.1 204 x\r\n",
            ]),
            cut in 0..300usize,
        ) {
            let text = [start.as_bytes(), &body].concat();
            let (first, second) = text.split_at(cut.min(text.len()));
            let (whole, cut) = (read(true, &[&text], true), read(true, &[first, second], true));
            prop_assert_eq!((whole.0.kind(), whole.3), (cut.0.kind(), cut.3));
        }
    }
}
