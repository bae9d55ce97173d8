//! Reads a ShareGPT file, one conversation at a time.
//!
//! The file is one JSON array of `{"conversations": [{"from", "value"}, ...]}`, hundreds of megabytes long, and in
//! the wild it is often cut off in the middle. Only one conversation is in memory at a time; what is complete is
//! kept, and [`Conversations::cut`] tells what was lost.

use std::{
    fmt,
    io::{BufRead, ErrorKind},
    path::{Path, PathBuf},
};

use serde::Deserialize;

use crate::{Error, lines::open};

/// Longest conversation that is read.
const MAX_CONVERSATION_BYTES: usize = 64 << 20;

/// The conversations of a file in order.
pub struct Conversations {
    path: PathBuf,
    reader: Box<dyn BufRead>,
    /// Bytes taken from the reader.
    at: u64,
    read: u64,
    state: State,
    element: Vec<u8>,
}

/// One conversation.
#[derive(Debug, Deserialize)]
pub struct Conversation {
    /// What was said, in order.
    #[serde(rename = "conversations")]
    pub messages: Vec<Said>,
}

/// One message.
#[derive(Debug, Deserialize)]
pub struct Said {
    /// `human`, `gpt`, ...
    #[serde(default)]
    pub from: String,
    /// Text.
    pub value: String,
}

/// A file that ends before its array does.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Cut {
    /// Complete conversations before the cut.
    pub kept: u64,
    /// Where the file ends, in bytes (of the unpacked content).
    pub at_byte: u64,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum State {
    Start,
    Elements,
    Done,
    Cut,
}

impl Conversations {
    /// Opens a file, plain or gzipped.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let reader = open(path)?;
        Ok(Self { path: path.to_owned(), reader, at: 0, read: 0, state: State::Start, element: Vec::new() })
    }

    /// Set once the end of a file was met that was cut off.
    pub fn cut(&self) -> Option<Cut> {
        (self.state == State::Cut).then_some(Cut { kept: self.read, at_byte: self.at })
    }

    /// Conversations read so far.
    pub fn read(&self) -> u64 {
        self.read
    }

    fn advance(&mut self) -> Result<Option<Conversation>, Error> {
        let Some(start) = self.next_element()? else { return Ok(None) };
        serde_json::from_slice(&self.element).map(Some).map_err(|error| {
            let number = self.read - 1;
            Error::byte(&self.path, start, format_args!("conversation {number}: {error}"))
        })
    }

    /// The text of the element that was found last.
    pub(crate) fn element(&self) -> &[u8] {
        &self.element
    }

    /// Finds the next element; where it begins, or nothing at the end.
    pub(crate) fn next_element(&mut self) -> Result<Option<u64>, Error> {
        if self.state == State::Start {
            match self.skip_to_token()? {
                Some(b'[') => self.take_byte(),
                _ => {
                    return Err(Error::byte(
                        &self.path,
                        self.at,
                        "expected the [ of a JSON array of conversations",
                    ));
                }
            }
            self.state = State::Elements;
        }
        if self.state != State::Elements {
            return Ok(None);
        }
        match self.skip_to_token()? {
            None => self.state = State::Cut,
            Some(b']') => self.state = State::Done,
            Some(b'{') => {
                let start = self.at;
                if self.take_element()? {
                    self.read += 1;
                    return Ok(Some(start));
                }
                self.state = State::Cut;
            }
            Some(_) => {
                return Err(Error::byte(&self.path, self.at, "expected a conversation, which begins with {"));
            }
        }
        Ok(None)
    }

    fn take_byte(&mut self) {
        self.reader.consume(1);
        self.at += 1;
    }

    /// Skips white space and commas; returns the byte after them, which is not taken.
    fn skip_to_token(&mut self) -> Result<Option<u8>, Error> {
        loop {
            let bytes = fill(&mut self.reader, &self.path)?;
            let skipped = bytes.iter().position(|byte| !b" \t\r\n,".contains(byte));
            let (skip, token) = (skipped.unwrap_or(bytes.len()), skipped.map(|place| bytes[place]));
            let end = bytes.is_empty();
            self.reader.consume(skip);
            self.at += skip as u64;
            if token.is_some() || end {
                return Ok(token);
            }
        }
    }

    /// Takes one object into `element`; false if the file ends in it.
    fn take_element(&mut self) -> Result<bool, Error> {
        self.element.clear();
        let (mut depth, mut in_string, mut escaped) = (0_u32, false, false);
        loop {
            let bytes = fill(&mut self.reader, &self.path)?;
            if bytes.is_empty() {
                return Ok(false);
            }
            let end = bytes.iter().position(|&byte| {
                if escaped {
                    escaped = false;
                } else if in_string {
                    escaped = byte == b'\\';
                    in_string = byte != b'"';
                } else {
                    match byte {
                        b'"' => in_string = true,
                        b'{' | b'[' => depth += 1,
                        b'}' | b']' => depth = depth.saturating_sub(1),
                        _ => {}
                    }
                }
                depth == 0
            });
            let taken = end.map_or(bytes.len(), |place| place + 1);
            self.element.extend_from_slice(&bytes[..taken]);
            self.reader.consume(taken);
            self.at += taken as u64;
            if end.is_some() {
                return Ok(true);
            }
            if self.element.len() > MAX_CONVERSATION_BYTES {
                return Err(Error::byte(&self.path, self.at, "a conversation of over 64 MiB"));
            }
        }
    }
}

/// The bytes at hand; empty at the end, also where a gzip file ends too early.
fn fill<'a>(reader: &'a mut Box<dyn BufRead>, path: &Path) -> Result<&'a [u8], Error> {
    match reader.fill_buf() {
        Ok(bytes) => Ok(bytes),
        Err(error) if error.kind() == ErrorKind::UnexpectedEof => Ok(&[]),
        Err(error) => Err(Error::read(path, error)),
    }
}

impl Iterator for Conversations {
    type Item = Result<Conversation, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        let next = self.advance().transpose();
        if matches!(next, Some(Err(_))) {
            self.state = State::Done;
        }
        next
    }
}

impl fmt::Debug for Conversations {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = formatter.debug_struct("Conversations");
        shown.field("path", &self.path).field("read", &self.read).field("state", &self.state);
        shown.finish_non_exhaustive()
    }
}

impl fmt::Display for Cut {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { kept, at_byte } = self;
        write!(
            formatter,
            "the file is cut off at byte {at_byte}; the {kept} complete conversations before are kept"
        )
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, io::Write};

    use super::*;

    const TWO: &str = r#"[
        {"id": "a", "conversations": [{"from": "human", "value": "say \"}]\\"}, {"from": "gpt", "value": "é]"}]},
        {"conversations": []}
    ]"#;

    fn read(content: &[u8]) -> (Result<Vec<Vec<String>>, Error>, Option<Cut>) {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), content).unwrap();
        let mut conversations = Conversations::open(file.path()).unwrap();
        let texts = conversations
            .by_ref()
            .map(|conversation| Ok(conversation?.messages.into_iter().map(|said| said.value).collect()))
            .collect();
        (texts, conversations.cut())
    }

    #[test]
    fn all_conversations_of_a_whole_file() {
        let (texts, cut) = read(TWO.as_bytes());
        assert_eq!(texts.unwrap(), [vec!["say \"}]\\".to_owned(), "é]".to_owned()], vec![]]);
        assert_eq!(cut, None);
        assert_eq!(read(b" [ ] ").0.unwrap().len(), 0);
    }

    #[test]
    fn a_file_cut_anywhere_keeps_what_is_complete() {
        let first_end = TWO.find("]},").unwrap() + 2;
        let second_end = TWO.rfind('}').unwrap() + 1;
        for at in 1..TWO.len() {
            let (texts, cut) = read(&TWO.as_bytes()[..at]);
            let kept = u64::from(at >= first_end) + u64::from(at >= second_end);
            assert_eq!(texts.unwrap().len() as u64, kept, "cut at {at}");
            assert_eq!(cut, Some(Cut { kept, at_byte: at as u64 }));
        }
    }

    #[test]
    fn a_gzip_file_that_ends_too_early_is_cut_too() {
        let whole = format!("[{}]", vec![r#"{"conversations":[{"value":"abcdefgh"}]}"#; 9999].join(","));
        let mut packer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        packer.write_all(whole.as_bytes()).unwrap();
        let packed = packer.finish().unwrap();
        let (texts, cut) = read(&packed);
        assert_eq!((texts.unwrap().len(), cut), (9999, None));
        let (texts, cut) = read(&packed[..packed.len() / 2]);
        assert_eq!(texts.unwrap().len() as u64, cut.unwrap().kept);
        assert!((1..9999).contains(&cut.unwrap().kept));
    }

    #[test]
    fn a_wrong_shape_is_an_error_with_its_place() {
        let failure = |content: &str| read(content.as_bytes()).0.unwrap_err().to_string();
        assert!(failure(r#"{"conversations": []}"#).contains("byte 0: expected the ["));
        assert!(failure("").contains("byte 0: expected the ["));
        assert!(failure(r#"[{"conversations": []}, 7]"#).contains("byte 24: expected a conversation"));
        let missing = failure(r#"[{"conversations": []}, {"messages": []}]"#);
        assert!(missing.contains("byte 24: conversation 1: missing field `conversations`"), "{missing}");
        assert!(failure(r#"[{"conversations": [{"value": 3}]}]"#).contains("expected a string"));
        assert!(failure(r#"[{"conversations": [}]"#).contains("byte 1: conversation 0"));
    }
}
