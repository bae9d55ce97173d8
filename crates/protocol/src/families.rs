//! A Prometheus page as metric families: kind, help, and one entry for each set of labels.
//!
//! Families are named as Prometheus' own client library names them: a counter without its `_total`, a histogram
//! without `_bucket`, `_sum` and `_count`. Kinds come from the `# TYPE` lines; what has none is [`Unknown`]. Left out
//! are summaries, whose quantiles are those of the server's whole life, the `_created` times of series, and values
//! that are not finite. The page's order is kept. A damaged page gives the lines that are whole.
//!
//! [`Unknown`]: FamilyKind::Unknown

use std::collections::HashMap;

use memchr::memchr;

use crate::prometheus::{Sample, scan};

/// What the values of a family mean.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum FamilyKind {
    /// A value of the moment.
    Gauge,
    /// A count since the server started.
    Counter,
    /// Counts of observations by size, since the server started.
    Histogram,
    /// The page does not say.
    Unknown,
}

/// All series of one name.
#[derive(Clone, Debug, PartialEq)]
pub struct Family {
    /// Its name.
    pub name: String,
    /// What it is.
    pub kind: FamilyKind,
    /// What the page says of it.
    pub help: String,
    /// One for each set of labels.
    pub series: Vec<Series>,
}

/// One set of labels with what it holds.
#[derive(Clone, Debug, PartialEq)]
pub struct Series {
    /// Names and values, by name; without the `le` of a histogram.
    pub labels: Vec<(String, String)>,
    /// What was read.
    pub reading: Reading,
}

/// A number, or a histogram.
#[derive(Clone, Debug, PartialEq)]
pub enum Reading {
    /// Of a gauge, a counter, or what has no kind.
    Number(f64),
    /// Of a histogram.
    Histogram {
        /// Of all observations.
        sum: f64,
        /// Number of observations.
        count: f64,
        /// Observations of at most each bound, as the page writes the bound.
        buckets: Vec<(String, f64)>,
    },
}

/// Which part of a histogram a sample is.
#[derive(Clone, Copy)]
enum Part {
    Bucket,
    Sum,
    Count,
}

/// What the comments of a page declare.
#[derive(Default)]
struct Declared<'a> {
    kinds: HashMap<&'a str, &'a str>,
    helps: HashMap<&'a str, &'a str>,
}

/// Families in the making, and where each stands.
#[derive(Default)]
struct Collected {
    families: Vec<Family>,
    places: HashMap<String, usize>,
    series: HashMap<(usize, Vec<(String, String)>), usize>,
}

/// Reads a page.
pub fn families(page: &[u8]) -> Vec<Family> {
    let declared = Declared::read(page);
    let mut collected = Collected::default();
    scan(page, |sample| {
        if sample.value.is_finite() {
            collected.take(&sample, &declared);
        }
    });
    let mut families = collected.families;
    for family in &mut families {
        family.series.retain(|series| series.reading.is_whole());
    }
    families.retain(|family| !family.series.is_empty());
    families
}

impl<'a> Declared<'a> {
    fn read(page: &'a [u8]) -> Self {
        let mut declared = Self::default();
        let mut rest = page;
        while !rest.is_empty() {
            let end = memchr(b'\n', rest).unwrap_or(rest.len());
            if let Some(comment) = rest[..end].strip_prefix(b"# ")
                && let Ok(comment) = std::str::from_utf8(comment)
                && let Some((what, about)) = comment.trim_ascii().split_once(' ')
            {
                let (name, text) = about.split_once(' ').unwrap_or((about, ""));
                match what {
                    "TYPE" => drop(declared.kinds.insert(name, text.trim_ascii())),
                    "HELP" => drop(declared.helps.insert(name, text.trim_ascii())),
                    _ => {}
                }
            }
            rest = rest.get(end + 1..).unwrap_or_default();
        }
        declared
    }

    fn help(&self, name: &str) -> String {
        let help = self.helps.get(name).copied().unwrap_or_default();
        help.replace("\\n", "\n").replace("\\\\", "\\")
    }
}

impl Collected {
    fn take(&mut self, sample: &Sample<'_>, declared: &Declared<'_>) {
        let kind = |name: &str| declared.kinds.get(name).copied();
        let name = sample.name;
        let parts = [("_bucket", Part::Bucket), ("_sum", Part::Sum), ("_count", Part::Count)];
        for (ending, part) in parts {
            let Some(family) = name.strip_suffix(ending) else { continue };
            match kind(family) {
                Some("histogram") => return self.part(sample, family, part, declared),
                Some("summary") => return,
                _ => {}
            }
        }
        if name.ends_with("_created") || matches!(kind(name), Some("summary" | "histogram")) {
            return;
        }
        let counter = name.strip_suffix("_total");
        let (family, declared_as, kind) = match (kind(name), counter.map(|family| (family, kind(family)))) {
            (Some("counter"), _) => (counter.unwrap_or(name), name, FamilyKind::Counter),
            (_, Some((family, Some("counter")))) => (family, family, FamilyKind::Counter),
            (Some("gauge"), _) => (name, name, FamilyKind::Gauge),
            _ => (name, name, FamilyKind::Unknown),
        };
        if let Reading::Number(value) = self.reading(sample, family, kind, || declared.help(declared_as)) {
            *value = sample.value;
        }
    }

    fn part(&mut self, sample: &Sample<'_>, family: &str, part: Part, declared: &Declared<'_>) {
        let bound = sample.labels.get("le");
        let reading = self.reading(sample, family, FamilyKind::Histogram, || declared.help(family));
        let Reading::Histogram { sum, count, buckets } = reading else { return };
        match (part, bound) {
            (Part::Sum, _) => *sum = sample.value,
            (Part::Count, _) => *count = sample.value,
            (Part::Bucket, Some(bound)) if bound.parse::<f64>().is_ok() => {
                buckets.push((bound.into_owned(), sample.value));
            }
            (Part::Bucket, _) => {}
        }
    }

    /// The place of a sample's value.
    fn reading(
        &mut self,
        sample: &Sample<'_>,
        name: &str,
        kind: FamilyKind,
        help: impl FnOnce() -> String,
    ) -> &mut Reading {
        let place = match self.places.get(name) {
            Some(place) => *place,
            None => {
                self.places.insert(name.to_owned(), self.families.len());
                let family = Family { name: name.to_owned(), kind, help: help(), series: Vec::new() };
                self.families.push(family);
                self.families.len() - 1
            }
        };
        let family = &mut self.families[place];
        let own = |(label, _): &(&str, _)| !(family.kind == FamilyKind::Histogram && *label == "le");
        let mut labels: Vec<(String, String)> =
            sample.labels.filter(own).map(|(label, value)| (label.to_owned(), value.into_owned())).collect();
        labels.sort();
        let series = *self.series.entry((place, labels)).or_insert_with_key(|(_, labels)| {
            let reading = match family.kind {
                FamilyKind::Histogram => {
                    Reading::Histogram { sum: f64::NAN, count: f64::NAN, buckets: Vec::new() }
                }
                FamilyKind::Gauge | FamilyKind::Counter | FamilyKind::Unknown => Reading::Number(f64::NAN),
            };
            family.series.push(Series { labels: labels.clone(), reading });
            family.series.len() - 1
        });
        &mut family.series[series].reading
    }
}

// === impl FamilyKind ===

impl FamilyKind {
    /// The word of `# TYPE` lines.
    pub fn name(self) -> &'static str {
        match self {
            Self::Gauge => "gauge",
            Self::Counter => "counter",
            Self::Histogram => "histogram",
            Self::Unknown => "unknown",
        }
    }
}

// === impl Reading ===

impl Reading {
    /// Whether no part is missing.
    fn is_whole(&self) -> bool {
        match self {
            Self::Number(value) => value.is_finite(),
            Self::Histogram { sum, count, buckets } => {
                sum.is_finite() && count.is_finite() && !buckets.is_empty()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn number(value: f64, labels: &[(&str, &str)]) -> Series {
        let labels = labels.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        Series { labels: labels.collect(), reading: Reading::Number(value) }
    }

    #[test]
    fn families_are_named_and_typed_as_the_client_library_does() {
        let page = b"# HELP vllm:prompt_tokens_total Prompt tokens,\\nall.\n# TYPE vllm:prompt_tokens_total counter\n\
            vllm:prompt_tokens_total{model_name=\"m\",engine=\"1\"} 3\nvllm:prompt_tokens_total{engine=\"0\",model_name=\"m\"} 4\n\
            # TYPE vllm:prompt_tokens_created gauge\nvllm:prompt_tokens_created{engine=\"0\"} 1.7e9\n\
            # TYPE open counter\nopen_total 5\nopen_created 7\n\
            # TYPE queue gauge\nqueue 2\nbare_total 6\nlost NaN\n\
            # TYPE rpc summary\nrpc{quantile=\"0.5\"} 1\nrpc_sum 2\nrpc_count 3\n\
            # TYPE wait histogram\nwait_bucket{le=\"0.1\",m=\"x\"} 1\nwait_bucket{le=\"+Inf\",m=\"x\"} 2\nwait_sum{m=\"x\"} 0.5\n\
            wait_count{m=\"x\"} 2\nwait_bucket{le=\"0.1\",m=\"half\"} 1\n";
        let read = families(page);
        let names: Vec<_> = read.iter().map(|family| (family.name.as_str(), family.kind)).collect();
        let expected = [
            ("vllm:prompt_tokens", FamilyKind::Counter),
            ("open", FamilyKind::Counter),
            ("queue", FamilyKind::Gauge),
            ("bare_total", FamilyKind::Unknown),
            ("wait", FamilyKind::Histogram),
        ];
        assert_eq!(names, expected);
        assert_eq!(read[0].help, "Prompt tokens,\nall.");
        let series = [
            number(3.0, &[("engine", "1"), ("model_name", "m")]),
            number(4.0, &[("engine", "0"), ("model_name", "m")]),
        ];
        assert_eq!(read[0].series, series);
        assert_eq!((&read[1].series, &read[2].series), (&vec![number(5.0, &[])], &vec![number(2.0, &[])]));
        let wait = Series {
            labels: vec![("m".to_owned(), "x".to_owned())],
            reading: Reading::Histogram {
                sum: 0.5,
                count: 2.0,
                buckets: vec![("0.1".to_owned(), 1.0), ("+Inf".to_owned(), 2.0)],
            },
        };
        assert_eq!(read[4].series, [wait], "one without its sum and count is left out");
    }

    proptest! {
        #[test]
        fn any_soup_is_safe(tokens in prop::collection::vec(prop::sample::select(vec![
            "m", "m_bucket", "m_sum", "{", "}", "=", "\"", "le", ",", " ", "\n", "1", "# TYPE m histogram\n",
            "# HELP m ", "# TYPE m", "NaN", "\u{e9}",
        ]), 0..60)) {
            for family in families(tokens.concat().as_bytes()) {
                prop_assert!(family.series.iter().all(|series| series.reading.is_whole()));
            }
        }
    }
}
