//! Server-sent events, cut out of a byte stream as it arrives.
//!
//! Takes every form the standard allows: lines end in LF, CR or CRLF, also when the read ends between the two;
//! the space after the colon may be missing; several `data` lines are joined with LF; comments, a byte order
//! mark and unknown fields are skipped; an event may be cut at any byte, and a read may hold many. An event that
//! lies whole in one read with one data line is handed out where it lies, without a copy.
//!
//! Bytes are not checked for UTF-8. Memory: a line, an event name and an event's data are each held up to the
//! cap; an event that needs more comes out with its name and no data, and [`SseSplitter::overflowed`] says so from
//! then on. Which events come out never depends on where the reads were cut.

use memchr::memchr2;

const DEFAULT_CAP_BYTES: usize = 1 << 20;
/// Bytes that tell which field a line is, after a byte order mark.
const LINE_START: usize = BYTE_ORDER_MARK.len() + b"data:".len();
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// One event.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct SseEvent<'a> {
    /// The `event` field.
    pub event: Option<&'a [u8]>,
    /// The `data` fields, joined with LF; nothing where the event exceeded the cap.
    pub data: &'a [u8],
}

/// Cuts a stream into events. Which events come out does not depend on how the stream was cut into reads.
///
/// ```
/// let mut splitter = protocol::SseSplitter::new();
/// let mut tokens = Vec::new();
/// for read in ["data: one\n\nda", "ta: two\r\n", "\r\n"] {
///     splitter.feed(read.as_bytes(), |event| tokens.push(event.data.to_vec()));
/// }
/// assert_eq!(tokens, [b"one", b"two"]);
/// ```
#[derive(Debug)]
pub struct SseSplitter {
    cap_bytes: usize,
    /// The start of a line whose end has not come yet.
    line: Vec<u8>,
    /// The unfinished event, as far as it had to be copied.
    event: Option<Vec<u8>>,
    data: Option<Vec<u8>>,
    /// No line has been read yet.
    at_start: bool,
    /// The last byte was the CR that ended a line; an LF now belongs to it.
    after_cr: bool,
    /// The unfinished line is longer than the cap; all but its first bytes is gone.
    line_too_long: bool,
    /// The unfinished event is larger than the cap.
    event_too_large: bool,
    overflowed: bool,
}

/// The fields of the unfinished event that lie in the current read.
#[derive(Default)]
struct InPlace<'b> {
    event: Option<&'b [u8]>,
    data: Option<&'b [u8]>,
}

impl Default for SseSplitter {
    fn default() -> Self {
        Self::new()
    }
}

impl SseSplitter {
    /// A splitter that holds events of up to 1 MiB.
    pub fn new() -> Self {
        Self::with_cap(DEFAULT_CAP_BYTES)
    }

    /// A splitter that holds events of up to `cap_bytes`.
    pub fn with_cap(cap_bytes: usize) -> Self {
        Self {
            cap_bytes,
            line: Vec::new(),
            event: None,
            data: None,
            at_start: true,
            after_cr: false,
            line_too_long: false,
            event_too_large: false,
            overflowed: false,
        }
    }

    /// Whether an event came without its data because it exceeded the cap.
    pub fn overflowed(&self) -> bool {
        self.overflowed
    }

    /// Takes the next bytes of the stream and hands out the events that they complete.
    pub fn feed(&mut self, bytes: &[u8], mut on_event: impl FnMut(SseEvent<'_>)) {
        let mut rest = bytes;
        if let (true, Some(first)) = (self.after_cr, rest.first()) {
            self.after_cr = false;
            rest = &rest[usize::from(*first == b'\n')..];
        }
        let mut in_place = InPlace::default();
        while let Some(end) = memchr2(b'\r', b'\n', rest) {
            let (line, terminator) = rest.split_at(end);
            self.after_cr = terminator == b"\r";
            rest = &terminator[if terminator.starts_with(b"\r\n") { 2 } else { 1 }..];
            if self.holds_line() {
                self.hold(line);
                self.end_held_line(&mut on_event);
            } else {
                self.end_line(line, line.len() > self.cap_bytes, &mut in_place, &mut on_event);
            }
        }
        self.hold(rest);
        self.event = in_place.event.map(<[u8]>::to_vec).or_else(|| self.event.take());
        self.data = in_place.data.map(<[u8]>::to_vec).or_else(|| self.data.take());
    }

    /// Ends the stream: hands out the last event where the stream lacks the blank line after it.
    ///
    /// A stream that broke off inside an event gives the part that came.
    pub fn finish(&mut self, mut on_event: impl FnMut(SseEvent<'_>)) {
        if self.holds_line() {
            self.end_held_line(&mut on_event);
        }
        self.end_event(&mut InPlace::default(), &mut on_event);
    }

    fn holds_line(&self) -> bool {
        self.line_too_long || !self.line.is_empty()
    }

    fn hold(&mut self, part: &[u8]) {
        if self.line_too_long || self.line.len() + part.len() > self.cap_bytes {
            self.line_too_long = true;
            let missing = LINE_START.saturating_sub(self.line.len()).min(part.len());
            self.line.extend_from_slice(&part[..missing]);
            self.line.truncate(LINE_START);
            self.line.shrink_to(LINE_START);
        } else {
            self.line.extend_from_slice(part);
        }
    }

    /// Ends a line that began in an earlier read. It is the first of its read, so no field is in place yet.
    fn end_held_line(&mut self, on_event: &mut impl FnMut(SseEvent<'_>)) {
        let mut line = std::mem::take(&mut self.line);
        let mut in_place = InPlace::default();
        let too_long = std::mem::take(&mut self.line_too_long);
        self.end_line(&line, too_long, &mut in_place, on_event);
        if let Some(name) = in_place.event {
            self.event = Some(name.to_vec());
        }
        if let Some(data) = in_place.data {
            self.data = Some(data.to_vec());
        }
        line.clear();
        self.line = line;
    }

    fn end_line<'b>(
        &mut self,
        line: &'b [u8],
        too_long: bool,
        in_place: &mut InPlace<'b>,
        on_event: &mut impl FnMut(SseEvent<'_>),
    ) {
        let at_start = std::mem::take(&mut self.at_start);
        let line = match line.strip_prefix(BYTE_ORDER_MARK) {
            Some(line) if at_start => line,
            _ => line,
        };
        if too_long {
            self.drop_data(in_place.data.take().is_some() || line.starts_with(b"data:"));
        } else if line.is_empty() {
            self.end_event(in_place, on_event);
        } else if let Some(value) = field(line, b"data") {
            match in_place.data.take() {
                _ if self.event_too_large => self.drop_data(true),
                None if self.data.is_none() => in_place.data = Some(value),
                first => self.join_data(first, value),
            }
        } else if let Some(name) = field(line, b"event") {
            in_place.event = Some(name);
        }
    }

    fn join_data(&mut self, first: Option<&[u8]>, value: &[u8]) {
        let data = self.data.get_or_insert_with(|| first.unwrap_or_default().to_vec());
        if data.len() + 1 + value.len() > self.cap_bytes {
            self.drop_data(true);
        } else {
            data.push(b'\n');
            data.extend_from_slice(value);
        }
    }

    fn end_event(&mut self, in_place: &mut InPlace<'_>, on_event: &mut impl FnMut(SseEvent<'_>)) {
        let InPlace { event, data } = std::mem::take(in_place);
        let (held_event, held_data) = (self.event.take(), self.data.take());
        self.event_too_large = false;
        if let Some(data) = data.or(held_data.as_deref()) {
            on_event(SseEvent { event: event.or(held_event.as_deref()), data });
        }
    }

    /// Leaves out the data of the unfinished event, with the lines of it that still come.
    fn drop_data(&mut self, has_some: bool) {
        self.event_too_large = true;
        self.overflowed = true;
        self.data = (has_some || self.data.is_some()).then(Vec::new);
    }
}

/// The value of `line` if it is the field `name`.
fn field<'a>(line: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    match line.strip_prefix(name)? {
        [] => Some(&[]),
        [b':', b' ', value @ ..] | [b':', value @ ..] => Some(value),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    type Owned = (Option<String>, String);

    fn owned(event: SseEvent<'_>) -> Owned {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (event.event.map(text), text(event.data))
    }

    /// The events of a stream that arrives in these reads, and whether one was too large.
    fn events(cap_bytes: usize, reads: &[&[u8]]) -> (Vec<Owned>, bool) {
        let mut splitter = SseSplitter::with_cap(cap_bytes);
        let mut events = Vec::new();
        for read in reads {
            splitter.feed(read, |event| events.push(owned(event)));
            assert!(splitter.line.len() <= cap_bytes.max(LINE_START), "a held line within the cap");
        }
        splitter.finish(|event| events.push(owned(event)));
        (events, splitter.overflowed())
    }

    fn data(stream: &str) -> Vec<String> {
        let (events, overflowed) = events(DEFAULT_CAP_BYTES, &[stream.as_bytes()]);
        assert!(!overflowed);
        events.into_iter().map(|(_, data)| data).collect()
    }

    #[test]
    fn every_line_end_ends_a_line() {
        for end in ["\n", "\r", "\r\n"] {
            let stream = "data: a\ndata: b\n\ndata: c\n\n".replace('\n', end);
            assert_eq!(data(&stream), ["a\nb", "c"], "line end {end:?}");
        }
        assert_eq!(data("data: a\r\n\ndata: b\r\r\n"), ["a", "b"], "mixed");
    }

    #[test]
    fn fields_follow_the_standard() {
        assert_eq!(data("data:a\n\ndata:  b\n\n"), ["a", " b"], "one space at most belongs to the colon");
        assert_eq!(data("data\n\ndata:\ndata:\n\n"), ["", "\n"], "empty data is data");
        assert_eq!(data(": ping\n\nid: 1\nretry: 5\n\nevent: x\n\n"), [""; 0], "no data, no event");
        assert_eq!(data("database: a\nDATA: b\n data: c\n\n"), [""; 0], "other fields");
        assert_eq!(data("\u{feff}data: a\n\n\u{feff}data: b\n\n"), ["a"], "a mark counts at the start only");
        assert_eq!(data("data: a\n: note\n\ndata: [DONE]"), ["a", "[DONE]"], "no blank line at the end");
    }

    #[test]
    fn the_event_name_belongs_to_one_event() {
        let stream = b"event: one\nevent: two\ndata: a\n\ndata: b\n\nevent: lost\n\ndata: c\n\n";
        let (events, _) = events(DEFAULT_CAP_BYTES, &[stream]);
        let name = |name: &str, data: &str| (Some(name.to_owned()), data.to_owned());
        assert_eq!(events, [name("two", "a"), (None, "b".to_owned()), (None, "c".to_owned())]);
    }

    #[test]
    fn a_whole_event_is_not_copied() {
        let read = b"data: one\n\ndata: two\r\n\r\n";
        let mut offsets = Vec::new();
        SseSplitter::new()
            .feed(read, |event| offsets.push(event.data.as_ptr().addr() - read.as_ptr().addr()));
        assert_eq!(offsets, [6, 17]);
    }

    #[test]
    fn an_event_beyond_the_cap_comes_without_data_and_memory_stays_bounded() {
        let mut splitter = SseSplitter::with_cap(64);
        let mut seen = Vec::new();
        splitter.feed(b"data: before\n\ndata: ", |event| seen.push(owned(event).1));
        for _ in 0..1000 {
            splitter.feed(&[b'x'; 50], |event| seen.push(owned(event).1));
        }
        for _ in 0..1000 {
            splitter.feed(b"\ndata: more of the same event", |event| seen.push(owned(event).1));
        }
        assert!(splitter.overflowed());
        let held = [&splitter.data, &splitter.event].into_iter().flatten().map(Vec::capacity).sum::<usize>();
        assert!(held + splitter.line.capacity() <= 4 * 64, "{held}");
        splitter.feed(b"\n\ndata: after\n\n", |event| seen.push(owned(event).1));
        assert_eq!(seen, ["before", "", "after"]);
    }

    #[test]
    fn an_event_beyond_the_cap_keeps_its_name() {
        let long = "x".repeat(20);
        let none = (None, String::new());
        let named = (Some("big".to_owned()), String::new());
        for (stream, expected) in [
            (format!("event: big\ndata: {long}\n\n"), &[named.clone()][..]),
            (format!("data: {long}\ndata: more\nevent: big\n\n"), &[named]),
            (format!("\u{feff}data: {long}\n\n"), std::slice::from_ref(&none)),
            (format!("data: short\ndata: {long}\n\n"), std::slice::from_ref(&none)),
            (format!("event: big\n: {long}\n\n"), &[]),
            (format!("database: {long}\n\n"), &[]),
        ] {
            let bytes: Vec<_> = stream.as_bytes().chunks(1).collect();
            assert_eq!(events(12, &[stream.as_bytes()]), (expected.to_vec(), true), "{stream}");
            assert_eq!(events(12, &bytes), (expected.to_vec(), true), "{stream}, byte by byte");
        }
    }

    proptest! {
        #[test]
        fn where_reads_are_cut_never_matters(
            fragments in prop::collection::vec(prop::sample::select(vec![
                "data: token", "data:", "data", ":c", "event: e", "id: 1", "\u{feff}", "\n", "\n\n", "\r", "\r\n",
                "\r\n\r\n", "x", "\u{e9}", "data: {\"a\":1}\n\n", " ", "data: 0123456789abcdef",
            ]), 0..40),
            cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..12),
            cap_bytes in prop::sample::select(vec![4, 12, 24, DEFAULT_CAP_BYTES]),
        ) {
            let stream = fragments.concat().into_bytes();
            let mut ends: Vec<_> = cuts.iter().map(|cut| cut.index(stream.len() + 1)).collect();
            ends.push(stream.len());
            ends.sort_unstable();
            let mut start = 0;
            let reads: Vec<_> = ends.iter().map(|end| &stream[std::mem::replace(&mut start, *end)..*end]).collect();
            let bytes: Vec<_> = stream.chunks(1).collect();
            let whole = events(cap_bytes, &[&stream]);
            prop_assert_eq!(&events(cap_bytes, &reads), &whole);
            prop_assert_eq!(&events(cap_bytes, &bytes), &whole);
        }

        #[test]
        fn any_bytes_are_safe(reads in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..64), 0..8)) {
            let whole = events(16, &[&reads.concat()]);
            let reads: Vec<_> = reads.iter().map(Vec::as_slice).collect();
            prop_assert_eq!(events(16, &reads), whole);
        }
    }
}
