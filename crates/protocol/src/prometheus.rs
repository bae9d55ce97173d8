//! Reads the Prometheus text format, as engines' `/metrics` pages have it.
//!
//! Line by line, without copying: comments, lines that are not samples and lines that are not UTF-8 are skipped;
//! timestamps and exemplars are ignored. A damaged page gives the samples that are whole.

use std::borrow::Cow;

use memchr::{memchr, memchr2};

/// One sample of a page.
#[derive(Clone, Copy, Debug)]
pub struct Sample<'a> {
    /// The metric's name.
    pub name: &'a str,
    /// Its labels.
    pub labels: Labels<'a>,
    /// Its value; may be infinite or not a number.
    pub value: f64,
}

/// The labels of a sample: an iterator of names and unescaped values.
#[derive(Clone, Copy, Debug, Default)]
pub struct Labels<'a>(&'a str);

struct Label<'a> {
    name: &'a str,
    escaped: &'a str,
    rest: &'a str,
}

/// Calls `on_sample` for each sample of `page`, in order.
pub fn scan(page: &[u8], mut on_sample: impl FnMut(Sample<'_>)) {
    let mut rest = page;
    while !rest.is_empty() {
        let end = memchr(b'\n', rest).unwrap_or(rest.len());
        if let Some(sample) = std::str::from_utf8(&rest[..end]).ok().and_then(read_line) {
            on_sample(sample);
        }
        rest = rest.get(end + 1..).unwrap_or_default();
    }
}

fn read_line(line: &str) -> Option<Sample<'_>> {
    let line = line.trim_ascii();
    let name_end = line.bytes().position(|byte| !is_name_byte(byte)).filter(|end| *end > 0)?;
    let (name, rest) = line.split_at(name_end);
    let rest = rest.trim_ascii_start();
    let (labels, rest) = match rest.strip_prefix('{') {
        Some(inside) => {
            let rest = after_labels(inside)?;
            (Labels(&inside[..inside.len() - rest.len()]), rest)
        }
        None => (Labels(""), rest),
    };
    let value = rest.split_ascii_whitespace().next()?.parse().ok()?;
    Some(Sample { name, labels, value })
}

fn is_name_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_' || byte == b':'
}

/// What follows the closing brace, if all labels up to it are well formed.
fn after_labels(mut inside: &str) -> Option<&str> {
    loop {
        if let Some(rest) = inside.trim_ascii_start().strip_prefix('}') {
            return Some(rest);
        }
        inside = read_label(inside)?.rest;
    }
}

/// Reads one label with the comma after it.
fn read_label(text: &str) -> Option<Label<'_>> {
    let (name, rest) = text.split_once('=')?;
    let rest = rest.trim_ascii_start().strip_prefix('"')?;
    let mut end = 0;
    loop {
        end += memchr2(b'"', b'\\', &rest.as_bytes()[end..])?;
        if rest.as_bytes()[end] == b'"' {
            break;
        }
        end += 2;
        if end > rest.len() {
            return None;
        }
    }
    let after = rest[end + 1..].trim_ascii_start();
    let rest_after = match after.strip_prefix(',') {
        Some(next) => next,
        None if after.starts_with('}') => after,
        None => return None,
    };
    let name = name.trim_ascii();
    name.bytes().all(is_name_byte).then_some(Label { name, escaped: &rest[..end], rest: rest_after })
}

// === impl Labels ===

impl<'a> Labels<'a> {
    /// The value of the label `name`.
    pub fn get(mut self, name: &str) -> Option<Cow<'a, str>> {
        self.find(|(candidate, _)| *candidate == name).map(|(_, value)| value)
    }
}

impl<'a> Iterator for Labels<'a> {
    type Item = (&'a str, Cow<'a, str>);

    fn next(&mut self) -> Option<Self::Item> {
        let label = read_label(self.0)?;
        self.0 = label.rest;
        Some((label.name, unescape(label.escaped)))
    }
}

fn unescape(escaped: &str) -> Cow<'_, str> {
    if memchr(b'\\', escaped.as_bytes()).is_none() {
        return Cow::Borrowed(escaped);
    }
    let mut text = String::with_capacity(escaped.len());
    let mut characters = escaped.chars();
    while let Some(character) = characters.next() {
        match character {
            '\\' => match characters.next() {
                Some('n') => text.push('\n'),
                Some(other) => text.push(other),
                None => {}
            },
            other => text.push(other),
        }
    }
    Cow::Owned(text)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    type Owned = (String, Vec<(String, String)>, f64);

    fn samples(page: &[u8]) -> Vec<Owned> {
        let mut samples = Vec::new();
        scan(page, |sample| {
            let labels = sample.labels.map(|(name, value)| (name.to_owned(), value.into_owned())).collect();
            samples.push((sample.name.to_owned(), labels, sample.value));
        });
        samples
    }

    fn sample(name: &str, labels: &[(&str, &str)], value: f64) -> Owned {
        let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        (name.to_owned(), labels.iter().map(owned).collect(), value)
    }

    #[test]
    fn a_page_as_engines_write_it() {
        let page =
            b"# HELP vllm:num_requests_running Number of requests.\n# TYPE vllm:num_requests_running gauge\n\
            vllm:num_requests_running{engine=\"0\",model_name=\"m\"} 3.0\n\nplain 1e3\r\n\
            stamped{a=\"b\",} 2 1395066363000\n  spaced { a = \"1\" , b=\"2\" }   5  \n\
            bucket{le=\"+Inf\"} 17 # {trace_id=\"x\"} 0.67 1520879607.789\nlast{} 4";
        let expected = [
            sample("vllm:num_requests_running", &[("engine", "0"), ("model_name", "m")], 3.0),
            sample("plain", &[], 1000.0),
            sample("stamped", &[("a", "b")], 2.0),
            sample("spaced", &[("a", "1"), ("b", "2")], 5.0),
            sample("bucket", &[("le", "+Inf")], 17.0),
            sample("last", &[], 4.0),
        ];
        assert_eq!(samples(page), expected);
    }

    #[test]
    fn label_values_are_unescaped() {
        let page = br#"m{path="C:\\dir\n\"x\"",brace="}{,=",accent="\303\251 \u00e9"} 1"#;
        let labels = [("path", "C:\\dir\n\"x\""), ("brace", "}{,="), ("accent", "303251 u00e9")];
        assert_eq!(samples(page), [sample("m", &labels, 1.0)]);
        scan(br#"m{a="1",b="2"} 1"#, |sample| {
            assert!(matches!(sample.labels.get("b"), Some(Cow::Borrowed("2"))));
            assert_eq!(sample.labels.get("c"), None);
        });
    }

    #[test]
    fn special_values() {
        let values: Vec<_> =
            samples(b"a +Inf\nb -Inf\nc NaN\nd -0.5\n").into_iter().map(|sample| sample.2).collect();
        assert_eq!(values[..2], [f64::INFINITY, f64::NEG_INFINITY]);
        assert!(values[2].is_nan());
        assert_eq!(values[3], -0.5);
    }

    #[test]
    fn bad_lines_cost_only_themselves() {
        let bad: [&[u8]; 12] = [
            b"name",
            b"name x",
            b"{a=\"b\"} 1",
            b"m{a=\"b\" 1",
            b"m{a=\"b} 1",
            b"m{a=b} 1",
            b"m{a} 1",
            b"m{a=\"b\\",
            b"m{a=\"b\" c=\"d\"} 1",
            b"m{a b=\"c\"} 1",
            b"m{l=\"\xff\"} 1",
            b"-1 2",
        ];
        for line in bad {
            let page = [b"before 1\n", line, b"\nafter 2\n"].concat();
            let expected = [sample("before", &[], 1.0), sample("after", &[], 2.0)];
            assert_eq!(samples(&page), expected, "{}", line.escape_ascii());
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_safe(page in prop::collection::vec(any::<u8>(), 0..200)) {
            samples(&page);
        }

        #[test]
        fn any_soup_is_safe(tokens in prop::collection::vec(prop::sample::select(vec![
            "m", "{", "}", "=", "\"", "\\", ",", " ", "\n", "1", "\u{e9}", "#", "NaN",
        ]), 0..40)) {
            samples(tokens.concat().as_bytes());
        }

        #[test]
        fn any_label_value_survives(value in any::<String>()) {
            let escaped = value.replace('\\', r"\\").replace('"', "\\\"").replace('\n', r"\n");
            let page = format!("m{{a=\"{escaped}\",b=\"x\"}} 1\n");
            prop_assert_eq!(samples(page.as_bytes()), [sample("m", &[("a", &value), ("b", "x")], 1.0)]);
        }
    }
}
