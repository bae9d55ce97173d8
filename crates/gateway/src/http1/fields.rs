//! The fields of a message, as they came, and which of them belong to one hop (RFC 9110, 7.6.1).
//!
//! A field that goes on goes on as its line was: the case of its name, the space after the colon, its place among
//! the others.

use bytes::Bytes;

/// Fields of one message.
pub(crate) const MAX_FIELDS: usize = 100;

/// Fields about one connection, whatever `Connection` says.
const HOP_BY_HOP: [&str; 8] = [
    "connection",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "transfer-encoding",
    "upgrade",
];
/// Fields that a `Connection` line cannot take away: without them a message would mean something else.
const ESSENTIAL: [&str; 4] = ["host", "content-length", "content-type", "authorization"];

/// The fields of one message.
#[derive(Debug, Default)]
pub(crate) struct Fields {
    bytes: Bytes,
    lines: Vec<Line>,
}

/// Where one field lies.
#[derive(Clone, Copy, Debug)]
struct Line {
    start: u32,
    name_end: u32,
    value_start: u32,
    end: u32,
}

/// One field.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Field<'a> {
    pub(crate) name: &'a [u8],
    pub(crate) value: &'a [u8],
    /// Both, with what stood between them.
    pub(crate) line: &'a [u8],
}

/// Where the fields of a head lie, before the head is taken off its buffer.
#[derive(Debug)]
pub(crate) struct Places(Vec<Line>);

// === impl Places ===

impl Places {
    /// The places of what `httparse` found in `buffer`.
    pub(crate) fn of(buffer: &[u8], fields: &[httparse::Header<'_>]) -> Self {
        let place = |text: &[u8]| (text.as_ptr() as usize).wrapping_sub(buffer.as_ptr() as usize) as u32;
        let line = |field: &httparse::Header<'_>| {
            let start = place(field.name.as_bytes());
            let name_end = start + field.name.len() as u32;
            // An empty value has no place of its own; it ends where the colon does.
            let value_start = if field.value.is_empty() { name_end + 1 } else { place(field.value) };
            Line { start, name_end, value_start, end: value_start + field.value.len() as u32 }
        };
        Self(fields.iter().map(line).collect())
    }

    /// The fields, once `bytes`, the whole head, is off its buffer.
    pub(crate) fn in_bytes(self, bytes: Bytes) -> Fields {
        Fields { bytes, lines: self.0 }
    }
}

// === impl Fields ===

impl Fields {
    /// All fields, in their order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = Field<'_>> {
        self.lines.iter().map(|line| {
            let part = |start: u32, end: u32| &self.bytes[start as usize..end as usize];
            Field {
                name: part(line.start, line.name_end),
                value: part(line.value_start, line.end),
                line: part(line.start, line.end),
            }
        })
    }

    /// The values of all fields of this name.
    pub(crate) fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a [u8]> {
        self.iter().filter(move |field| field.is(name)).map(|field| field.value)
    }

    /// The value of the first field of this name.
    pub(crate) fn get<'a>(&'a self, name: &'a str) -> Option<&'a [u8]> {
        self.all(name).next()
    }

    /// Whether there is a field of this name.
    pub(crate) fn contains(&self, name: &str) -> bool {
        self.all(name).next().is_some()
    }

    /// Whether a field of this name has `token` among its comma-separated elements, in any case.
    pub(crate) fn has_token(&self, name: &str, token: &str) -> bool {
        self.all(name).flat_map(elements).any(|element| element.eq_ignore_ascii_case(token.as_bytes()))
    }

    /// The fields that go on to the next hop: not those of this one, and not those that `Connection` names.
    pub(crate) fn end_to_end(&self) -> impl Iterator<Item = Field<'_>> {
        let nominated: Vec<&[u8]> = self
            .all("connection")
            .flat_map(elements)
            .filter(|name| !is_one_of(name, &["close", "keep-alive", "upgrade", "te"]))
            .filter(|name| !is_one_of(name, &ESSENTIAL))
            .collect();
        self.iter().filter(move |field| {
            !is_one_of(field.name, &HOP_BY_HOP)
                && !nominated.iter().any(|name| name.eq_ignore_ascii_case(field.name))
        })
    }

    /// The one length that the fields agree on, which is what equal repetitions do.
    pub(crate) fn content_length(&self) -> Result<Option<u64>, &'static str> {
        let mut length = None;
        for digits in self.all("content-length") {
            let number = std::str::from_utf8(digits)
                .ok()
                .filter(|text| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()))
                .and_then(|text| text.parse::<u64>().ok())
                .ok_or("a Content-Length that is not a number")?;
            if length.is_some_and(|length| length != number) {
                return Err("two Content-Length fields that differ");
            }
            length = Some(number);
        }
        Ok(length)
    }
}

// === impl Field ===

impl Field<'_> {
    /// Whether this is its name, in any case.
    pub(crate) fn is(&self, name: &str) -> bool {
        self.name.eq_ignore_ascii_case(name.as_bytes())
    }
}

fn is_one_of(name: &[u8], names: &[&str]) -> bool {
    names.iter().any(|one| name.eq_ignore_ascii_case(one.as_bytes()))
}

fn elements(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value.split(|&byte| byte == b',').map(<[u8]>::trim_ascii).filter(|element| !element.is_empty())
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn fields(text: &str) -> Fields {
        let mut parsed = [httparse::EMPTY_HEADER; MAX_FIELDS];
        let Ok(httparse::Status::Complete((_, parsed))) =
            httparse::parse_headers(text.as_bytes(), &mut parsed)
        else {
            panic!("not fields: {text}")
        };
        Places::of(text.as_bytes(), parsed).in_bytes(Bytes::copy_from_slice(text.as_bytes()))
    }

    fn lines(fields: &Fields) -> Vec<&str> {
        fields.end_to_end().map(|field| std::str::from_utf8(field.line).unwrap()).collect()
    }

    #[test]
    fn lines_stay_as_they_came() {
        let fields = fields("X-a:1\r\nEmpty:\r\nB:  2 \t\r\nx-A: 3\r\nSpaces:   \r\n\r\n");
        assert_eq!(lines(&fields), ["X-a:1", "Empty:", "B:  2", "x-A: 3", "Spaces:"]);
        assert_eq!(fields.all("X-A").collect::<Vec<_>>(), [b"1", b"3"]);
        assert_eq!(fields.get("empty"), Some(&b""[..]));
    }

    #[test]
    fn connection_takes_away_what_it_names_but_nothing_essential() {
        let fields = fields(
            "Connection: x-a, Host\r\nX-A: 1\r\nHost: h\r\nTE: x\r\nB: 2\r\nConnection: ,B,close\r\n\r\n",
        );
        assert_eq!(lines(&fields), ["Host: h"]);
        assert!(fields.has_token("connection", "CLOSE") && !fields.has_token("connection", "clos"));
    }
}
