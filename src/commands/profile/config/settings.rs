//! From a document to flags, each with the key and the line that it comes from.

use serde_json::Value;

use super::{
    keys::{KEYS, Meaning},
    tree::{Content, Entry, Node, Problem},
};
use crate::commands::{profile::unsupported::Unsupported, refused::RefusedFlags as _};

/// Keys with a short and a long way to write them.
const PLURALS: [(&str, &str); 2] =
    [("benchmark.models", "benchmark.model"), ("benchmark.datasets", "benchmark.dataset")];
/// A flag that the document asks for.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Setting {
    /// Long name, without dashes.
    pub(super) flag: &'static str,
    /// A flag without a value has none.
    pub(super) values: Vec<String>,
    pub(super) key: String,
    pub(super) line: u64,
}

/// The flags of a document, in its order.
#[derive(Debug, Default)]
pub(super) struct Settings {
    pub(super) all: Vec<Setting>,
    pub(super) user_centric: bool,
    /// A fixed schedule begins with its first entry.
    pub(super) from_first: bool,
    pub(super) from_file: bool,
}

impl Settings {
    pub(super) fn read(document: &Node) -> Result<Self, Problem> {
        let mut settings = Self::default();
        let top = document.map().ok_or_else(|| Problem::new(document.line, "keys and values are wanted"))?;
        settings.from_file = ["dataset", "datasets"].iter().any(|key| {
            let dataset = document.get("benchmark").and_then(|benchmark| benchmark.get(key));
            let one = dataset.map(|dataset| match &dataset.content {
                Content::List(list) => list.first().unwrap_or(dataset),
                _ => dataset,
            });
            one.and_then(|one| one.get("type")).and_then(Node::text).is_some_and(|kind| kind == "file")
        });
        // A sweep's lists replace the single values.
        let (sweeps, rest): (Vec<_>, Vec<_>) = top.iter().partition(|entry| entry.key == "sweep");
        rest.into_iter().chain(sweeps).try_for_each(|entry| settings.entry("", entry))?;
        settings.warm_up_of_its_own();
        // What is not limited has no ramp either.
        if settings.find("prefill-concurrency").is_none() {
            settings.all.retain(|setting| setting.flag != "prefill-concurrency-ramp-duration");
        }
        Ok(settings)
    }

    pub(super) fn entry(&mut self, above: &str, entry: &Entry) -> Result<(), Problem> {
        let key = camel(&entry.key);
        let path = if above.is_empty() { key } else { format!("{above}.{key}") };
        let short = PLURALS.iter().find(|(plural, _)| path == *plural);
        let path = short.map_or(path, |(_, single)| (*single).to_owned());
        self.walk(&path, entry.line, &entry.node)
    }

    pub(super) fn walk(&mut self, path: &str, line: u64, node: &Node) -> Result<(), Problem> {
        match path {
            "benchmark.phases" => return self.phases(line, node),
            "benchmark.profiling" => {
                self.user_centric =
                    node.get("type").and_then(Node::text).is_some_and(|kind| kind == "user_centric");
                let says = |key: &str, says: fn(&Node) -> bool| {
                    let entries = node.map().unwrap_or_default().iter();
                    entries.filter(|entry| camel(&entry.key) == key).any(|entry| says(&entry.node))
                };
                self.from_first = !says("autoOffset", |node| truth(node) == Some(false))
                    && !says("startOffset", |node| node.text().is_some());
            }
            "benchmark.dataset" => {
                if let Content::List(list) = &node.content {
                    return match &list[..] {
                        [one] => self.walk(path, line, one),
                        _ => Err(Problem::new(line, format!("{path}: one data set a run is wanted"))),
                    };
                }
            }
            _ => {}
        }
        if let Some(meaning) = meaning(path) {
            return self.apply(path, line, meaning, node);
        }
        let below = format!("{path}.");
        if !KEYS.iter().any(|(known, _)| known.starts_with(&below)) {
            return Err(unknown(path, line));
        }
        match &node.content {
            Content::Map(entries) => entries.iter().try_for_each(|entry| self.entry(path, entry)),
            Content::Scalar(Value::Null) => Ok(()),
            _ => Err(Problem::new(line, format!("{path}: keys and values are wanted"))),
        }
    }

    /// The general way to write a warm-up and a measured phase.
    fn phases(&mut self, line: u64, node: &Node) -> Result<(), Problem> {
        let phases = match &node.content {
            Content::List(list) => list.as_slice(),
            _ => std::slice::from_ref(node),
        };
        let mut seen = Vec::new();
        for phase in phases {
            let word = |key: &str| phase.get(key).and_then(Node::text).unwrap_or_default();
            let is_warm_up = word("kind") == "warmup"
                || word("kind").is_empty()
                    && (word("name") == "warmup" || word("excludeFromResults") == "true");
            let place = if is_warm_up { "benchmark.warmup" } else { "benchmark.profiling" };
            if seen.contains(&place) {
                return Err(Problem::new(
                    phase.line,
                    "benchmark.phases: one warm-up and one measured phase are run; use lists of values for several",
                ));
            }
            seen.push(place);
            self.walk(place, phase.line, phase)?;
        }
        if seen.contains(&"benchmark.profiling") {
            return Ok(());
        }
        Err(Problem::new(line, "benchmark.phases: no measured phase is among them"))
    }

    pub(super) fn apply(
        &mut self,
        path: &str,
        line: u64,
        meaning: Meaning,
        node: &Node,
    ) -> Result<(), Problem> {
        if matches!(node.content, Content::Scalar(Value::Null)) {
            return Ok(());
        }
        let wrong = |wanted: &str| Problem::new(line, format!("{path}: {wanted}"));
        match meaning {
            Meaning::Value(flag) => {
                let values = each(node, Node::text).ok_or_else(|| wrong("a value is wanted"))?;
                self.set(path, line, flag, values);
            }
            Meaning::Seconds(flag) | Meaning::Ramp(flag) => {
                let node = match (meaning, node.map()) {
                    (Meaning::Ramp(_), Some(entries)) => {
                        let other =
                            entries.iter().find(|entry| !["duration", "strategy"].contains(&&*entry.key));
                        if let Some(other) = other {
                            return Err(unknown(&format!("{path}.{}", other.key), other.line));
                        }
                        let law = node.get("strategy").and_then(Node::text);
                        if law.is_some_and(|law| law != "linear") {
                            return Err(wrong("ramps are linear"));
                        }
                        node.get("duration").ok_or_else(|| wrong("its duration is missing"))?
                    }
                    _ => node,
                };
                let seconds = each(node, seconds)
                    .ok_or_else(|| wrong("a time is wanted: seconds, or 30s, 5m, 2h, inf"))?;
                self.set(path, line, flag, seconds);
            }
            Meaning::Switch(on, off) => {
                let is_on = truth(node).ok_or_else(|| wrong("true or false is wanted"))?;
                if let Some(flag) = if is_on { on } else { off } {
                    self.set(path, line, flag, Vec::new());
                }
            }
            Meaning::Length(mean, spread) => self.length(path, line, (mean, spread), node)?,
            Meaning::Json(flag) => {
                node.map().ok_or_else(|| wrong("keys and values are wanted"))?;
                let is_header = flag == "header";
                let mut object = node.json();
                if is_header && let Value::Object(object) = &mut object {
                    object
                        .values_mut()
                        .filter(|value| !value.is_string())
                        .for_each(|value| *value = value.to_string().into());
                }
                self.set(path, line, flag, vec![object.to_string()]);
            }
            Meaning::Special => self.special(path, line, node)?,
            Meaning::Given(words) => {
                let said = each(node, Node::text);
                let known = |said: &[String]| said.iter().all(|word| words.contains(&word.as_str()));
                if !words.is_empty() && !said.as_deref().is_some_and(known) {
                    return Err(wrong(&format!("only {} is possible", words.join(", "))));
                }
            }
            Meaning::RefusedAs(flag) if !node.is_nothing() => return Err(refused(path, line, reason(flag))),
            Meaning::Refused(why) if !node.is_nothing() => return Err(refused(path, line, why)),
            Meaning::RefusedAs(_) | Meaning::Refused(_) => {}
        }
        Ok(())
    }

    /// A ramp of the measured phase is not the warm-up's, unless that has one.
    fn warm_up_of_its_own(&mut self) {
        let Some((key, line)) = self.find("warmup-arrival-pattern").map(|own| (own.key.clone(), own.line))
        else {
            return;
        };
        for (main, own) in [
            ("concurrency-ramp-duration", "warmup-concurrency-ramp-duration"),
            ("prefill-concurrency-ramp-duration", "warmup-prefill-concurrency-ramp-duration"),
            ("request-rate-ramp-duration", "warmup-request-rate-ramp-duration"),
        ] {
            if self.find(main).is_some() && self.find(own).is_none() {
                self.set(&key, line, own, vec!["0".to_owned()]);
            }
        }
    }

    pub(super) fn find(&self, flag: &str) -> Option<&Setting> {
        self.all.iter().find(|setting| setting.flag == flag)
    }

    /// Sets a flag; what it was before is forgotten.
    pub(super) fn set(&mut self, path: &str, line: u64, flag: &'static str, values: Vec<String>) {
        self.all.retain(|setting| setting.flag != flag);
        self.all.push(Setting { flag, values, key: path.to_owned(), line });
    }
}

pub(super) fn meaning(path: &str) -> Option<Meaning> {
    KEYS.iter().find(|(known, _)| *known == path).map(|(_, meaning)| *meaning)
}

pub(super) fn unknown(path: &str, line: u64) -> Problem {
    Problem::new(line, format!("{path} is not a key of AIPerf's configuration"))
}

pub(super) fn refused(path: &str, line: u64, why: &str) -> Problem {
    Problem::new(line, format!("{path} is not supported: {why}"))
}

/// Why a flag is refused.
fn reason(flag: &str) -> &'static str {
    refusal(flag).unwrap_or("it is not there")
}

/// Why a flag is refused, if it is.
pub(super) fn refusal(flag: &str) -> Option<&'static str> {
    let known = Unsupported::FLAGS.iter().find(|(names, _)| names.split(' ').any(|name| name == flag));
    known.map(|(_, why)| *why)
}

/// The one value, or those of a list.
pub(super) fn each(node: &Node, read: impl Fn(&Node) -> Option<String>) -> Option<Vec<String>> {
    match &node.content {
        Content::List(list) => list.iter().map(read).collect(),
        _ => read(node).map(|value| vec![value]),
    }
}

pub(super) fn truth(node: &Node) -> Option<bool> {
    node.text()?.parse().ok()
}

/// A number of seconds, from one or from a number with a unit.
fn seconds(node: &Node) -> Option<String> {
    let text = node.text()?;
    let text = text.trim().to_ascii_lowercase();
    if ["inf", "infinity"].contains(&text.as_str()) {
        return Some("inf".to_owned());
    }
    let digits = text.find(|letter: char| letter.is_ascii_alphabetic()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let factor = match unit {
        "" | "s" | "sec" => 1.0,
        "m" | "min" => 60.0,
        "h" | "hr" | "hour" => 3600.0,
        _ => return None,
    };
    Some((number.trim().parse::<f64>().ok()? * factor).to_string())
}

/// `url_strategy` as `urlStrategy`.
pub(super) fn camel(key: &str) -> String {
    let mut parts = key.split('_');
    let mut name = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let mut letters = part.chars();
        name.extend(letters.next().map(|letter| letter.to_ascii_uppercase()));
        name.push_str(letters.as_str());
    }
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Vec<(String, u64)>, Problem> {
        let settings = Settings::read(&Node::read(text, |_| None)?)?;
        Ok(settings
            .all
            .iter()
            .map(|setting| {
                let Setting { flag, values, line, .. } = setting;
                (format!("--{flag} {}", values.join("|")).trim_end().to_owned(), *line)
            })
            .collect())
    }

    #[track_caller]
    fn flags(text: &str, expected: &[&str]) {
        let found: Vec<String> = read(text).unwrap().into_iter().map(|(flag, _)| flag).collect();
        assert_eq!(found, expected);
    }

    #[track_caller]
    fn wrong(text: &str, line: u64, part: &str) {
        let problem = read(text).unwrap_err();
        assert!(problem.line == line && problem.said.contains(part), "{problem:?}");
    }

    #[test]
    fn both_ways_to_write_phases_and_data_mean_the_same() {
        let short = "benchmark:\n  model: m\n  dataset: {type: synthetic, isl: {mean: 5, stddev: 1}}\n  warmup: {type: concurrency, requests: 3}\n  profiling: {type: gamma, rate: 2.5, duration: 2m, rate_ramp: 30s}\n";
        let long = "benchmark:\n  models: {items: [{name: m}]}\n  datasets: [{name: main, prompts: {isl: {mean: 5, stddev: 1}}}]\n  phases: [{name: a, excludeFromResults: true, type: concurrency, requests: 3}, {name: b, type: gamma, rate: 2.5, duration: 120, rateRamp: {duration: 30}}]\n";
        for text in [short, long] {
            flags(
                text,
                &[
                    "--model-names m",
                    "--prompt-input-tokens-mean 5",
                    "--prompt-input-tokens-stddev 1",
                    "--warmup-arrival-pattern concurrency-burst",
                    "--warmup-request-count 3",
                    "--arrival-pattern gamma",
                    "--request-rate 2.5",
                    "--benchmark-duration 120",
                    "--request-rate-ramp-duration 30",
                    "--warmup-request-rate-ramp-duration 0",
                ],
            );
        }
    }

    #[test]
    fn sweeps_put_lists_in_the_place_of_single_values() {
        flags(
            "sweep:\n  type: zip\n  parameters:\n    concurrency: [1, 2]\n    datasets.main.prompts.osl: [8, 9]\nbenchmark:\n  dataset: {prompts: {osl: {mean: 1}}}\n  phases: {type: concurrency, concurrency: 7}\n",
            &["--sweep-type zip", "--concurrency 1|2", "--prompt-output-tokens-mean 8|9"],
        );
        wrong("sweep:\n  type: sobol\n", 2, "--search-recipe");
        wrong(
            "sweep:\n  type: grid\n  parameters:\n    endpoint.streaming: [true]\n",
            4,
            "lists are possible",
        );
    }

    #[test]
    fn a_fixed_schedule_begins_with_its_first_entry_unless_told_otherwise_in_any_order() {
        let kinds = [
            ("", &["--fixed-schedule", "--fixed-schedule-auto-offset"][..]),
            ("autoOffset: true", &["--fixed-schedule", "--fixed-schedule-auto-offset"]),
            ("auto_offset: false", &["--fixed-schedule"]),
            ("startOffset: 5", &["--fixed-schedule", "--fixed-schedule-start-offset 5"]),
            ("start_offset: null", &["--fixed-schedule", "--fixed-schedule-auto-offset"]),
        ];
        for (keys, expected) in kinds {
            for phase in [format!("type: fixed_schedule, {keys}"), format!("{keys}, type: fixed_schedule")] {
                let phase = phase.trim_matches([',', ' ']);
                for place in ["profiling", "phases"] {
                    let text = format!("benchmark:\n  {place}: {{{phase}}}\n");
                    let mut found: Vec<String> =
                        read(&text).unwrap().into_iter().map(|(flag, _)| flag).collect();
                    found.sort();
                    assert_eq!(found, expected, "{text}");
                }
            }
        }
    }

    #[test]
    fn parts_that_are_switched_off_are_read_all_the_same() {
        let off =
            "benchmark:\n  serverMetrics: {enabled: false, urls: [x]}\n  gpuTelemetry: {enabled: false}\n";
        flags(off, &["--no-server-metrics"]);
        flags("benchmark: {serverMetrics: {enabled: true, urls: [x]}}", &["--server-metrics x"]);
        for part in ["serverMetrics", "gpuTelemetry"] {
            let text = |keys: &str| format!("benchmark:\n  {part}:\n    {keys}\n");
            wrong(&text("{enabled: false, bogus: 1}"), 3, "bogus is not a key");
            wrong(&text("enabled: maybe"), 3, "only true, false is possible");
        }
    }

    #[test]
    fn what_is_unknown_or_refused_is_said_with_its_line() {
        wrong("benchmark:\n  endpoint:\n    uri: x\n", 3, "benchmark.endpoint.uri is not a key");
        wrong("benchmark:\n  dataset:\n    images: {batchSize: 1}\n", 3, "requests hold text only");
        wrong(
            "benchmark:\n  dataset:\n    isl:\n      mean: 3\n      median: 2\n",
            5,
            "lengths are fixed, normal",
        );
        wrong("benchmark:\n  phases:\n    - {name: a}\n    - {name: b}\n", 4, "one measured phase");
        wrong("benchmark:\n  profiling:\n    duration: 3 days\n", 3, "a time is wanted");
        wrong("schemaVersion: '1.0'\n", 1, "only 2");
        flags("benchmark: {dataset: {images: null, openLoopStrict: false}}", &[]);
    }

    #[test]
    fn times_traces_and_objects_have_their_flags() {
        flags(
            "benchmark:\n  slos: {time_to_first_token: 500, request_latency: 2000.5}\n  endpoint: {headers: {A: 1}, extra: {temperature: 0}, resetKvCache: {path: /x}}\n  datasets: [{type: file, path: t.jsonl, format: mooncake_trace}]\n  phases: {type: poisson, rate: 3, gracePeriod: inf}\n",
            &[
                "--goodput time_to_first_token:500 request_latency:2000.5",
                "--header {\"A\":\"1\"}",
                "--extra-inputs {\"temperature\":0}",
                "--reset-kv-cache",
                "--reset-kv-cache-path /x",
                "--input-file t.jsonl",
                "--custom-dataset-type mooncake_trace",
                "--no-fixed-schedule",
                "--arrival-pattern poisson",
                "--request-rate 3",
                "--benchmark-grace-period inf",
            ],
        );
        flags(
            "benchmark:\n  dataset:\n    prompts:\n      sequenceDistribution: [{isl: {mean: 4, stddev: 1}, osl: 2, probability: 100}]\n",
            &["--seq-dist {\"pairs\":[{\"isl\":4,\"isl_stddev\":1,\"osl\":2,\"prob\":100}]}"],
        );
    }
}
