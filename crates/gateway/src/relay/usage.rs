//! Finds usage reports in JSON that passes by, wherever they stand in it: most engines write them last, vLLM before the
//! tokens of the prompt where those are asked for.
//!
//! What is kept is the beginning of the last report, 4 KiB at most. Inside a string its quotes would be escaped.

use std::sync::LazyLock;

use memchr::memmem::Finder;
use protocol::Usage;
use serde::Deserialize;

/// Bytes from its key on in which a report must end.
const MOST_BYTES: usize = 4096;
const KEY: &[u8] = b"\"usage\"";
static FINDER: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new(KEY));

/// The last reports seen, cut anywhere between two looks.
#[derive(Debug, Default)]
pub(super) struct UsageFinder {
    /// From the last key on.
    open: Vec<u8>,
    /// The last bytes: a key may be cut.
    edge: Vec<u8>,
    found: Option<Usage>,
}

impl UsageFinder {
    /// Looks at the next bytes.
    pub(super) fn look(&mut self, data: &[u8]) {
        self.edge.extend_from_slice(&data[..data.len().min(KEY.len() - 1)]);
        if let Some(at) = FINDER.find(&self.edge) {
            self.begin();
            let begun = self.edge.len() - data.len().min(KEY.len() - 1);
            self.open.extend_from_slice(&self.edge[at..begun]);
        }
        let mut rest = data;
        while let Some(at) = FINDER.find(rest) {
            self.go_on(&rest[..at]);
            self.begin();
            self.open.extend_from_slice(KEY);
            rest = &rest[at + KEY.len()..];
        }
        self.go_on(rest);
        if data.len() >= KEY.len() {
            self.edge.clear();
            self.edge.extend_from_slice(&data[data.len() + 1 - KEY.len()..]);
        }
        self.edge.drain(..(self.edge.len() + 1).saturating_sub(KEY.len()));
    }

    /// A key has come.
    fn begin(&mut self) {
        self.read();
        self.open.clear();
    }

    fn go_on(&mut self, data: &[u8]) {
        if !self.open.is_empty() {
            self.open.extend_from_slice(&data[..data.len().min(MOST_BYTES - self.open.len())]);
        }
    }

    /// What was reported since the last time.
    pub(super) fn found(&mut self) -> Option<Usage> {
        self.read();
        if self.open.len() == MOST_BYTES {
            self.open = Vec::new();
        }
        self.found.take()
    }

    /// Takes in the report that was kept, if it is one and whole.
    fn read(&mut self) {
        if let Some(usage) = read(&self.open) {
            self.found.get_or_insert_default().update(usage);
            self.open.clear();
        }
    }
}

/// What follows a key, if that is a report.
fn read(report: &[u8]) -> Option<Usage> {
    let value = report.get(KEY.len()..)?.trim_ascii_start().strip_prefix(b":")?.trim_ascii_start();
    if !value.starts_with(b"{") {
        return None;
    }
    Usage::deserialize(&mut serde_json::Deserializer::from_slice(value)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Tokens of prompt and answer that are found in these reads.
    fn counts<'a>(reads: impl IntoIterator<Item = &'a [u8]>) -> Option<(u32, u32)> {
        let mut finder = UsageFinder::default();
        let mut found: Option<Usage> = None;
        for read in reads {
            finder.look(read);
            assert!(finder.open.len() <= MOST_BYTES && finder.edge.len() < KEY.len());
            if let Some(usage) = finder.found() {
                found.get_or_insert_default().update(usage);
            }
        }
        found.map(|usage| (usage.prompt_tokens, usage.completion_tokens))
    }

    #[test]
    fn reports_are_found_wherever_they_stand_and_however_they_are_cut() {
        let long = "7,".repeat(10_000);
        let report = r#""usage" : {"prompt_tokens":5,"completion_tokens":7}"#;
        for (json, expected) in [
            (format!("{{\"a\":1,{report},\"b\":{{}}}}"), Some((5, 7))),
            (format!("{{{report},\"prompt_token_ids\":[{long}7]}}"), Some((5, 7))),
            (format!("{{\"choices\":[{long}7],{report}}}"), Some((5, 7))),
            (format!("{{{report},\"prompt_logprobs\":[{{\"decoded_token\":\"usage\"}}]}}"), Some((5, 7))),
            (
                format!("{{\"usage\":null}}\n{{{report}}}\n{{\"usage\":{{\"completion_tokens\":9}}}}"),
                Some((5, 9)),
            ),
            (r#"{"usage":null}"#.to_owned(), None),
            (r#"{"text":"the \"usage\":{\"completion_tokens\":1}"}"#.to_owned(), None),
            (r#"{"usage":{"completion_tokens":"#.to_owned(), None),
            (format!("{{\"usage\":{{\"x\":[{long}7],\"completion_tokens\":1}}}}"), None),
            (String::new(), None),
        ] {
            let bytes = json.as_bytes();
            for size in [1, 2, 3, 6, 7, 8, 100, 5000, usize::MAX] {
                assert_eq!(counts(bytes.chunks(size)), expected, "in reads of {size}: {:.99}", json);
            }
        }
    }
}
