//! `server_metrics_export.*`: everything on the servers' metrics pages, in the shapes of AIPerf's schema 1.1.
//!
//! A series for each page, name and set of labels. Counters are named without `_total`, as Prometheus' client library
//! names them. Differences: rates are the growth between the readings around the measured window, by the time between
//! those two; percentiles of histograms are Prometheus' own estimate, straight lines inside buckets. `problems` in the
//! summary, and under `evenload` the figures that every engine has under one name, are ours.

mod csv;
#[cfg(test)]
mod tests;

use std::{
    collections::BTreeMap,
    io::{self, Write},
    time::{Duration, SystemTime},
};

use protocol::Reading;
use serde_json::{Map, Value, json};

use super::json::{AIPERF_VERSION, Run};
use crate::{
    EngineSeries, FamilyFigures, Figures, Growth, MILLISECOND, Object, Observed, civil::Civil,
    distribution::nanoseconds, engines::PERCENTS, summary::ratio,
};

const SCHEMA_VERSION: &str = "1.1";
const COUNTER_STATISTICS: [&str; 6] = ["total", "rate", "rate_avg", "rate_min", "rate_max", "rate_std"];
/// Endings of names, and the units they stand for; the first that fits counts.
const UNITS: [(&str, &str); 20] = [
    ("_seconds", "seconds"),
    ("_milliseconds", "milliseconds"),
    ("_ms", "milliseconds"),
    ("_nanoseconds", "nanoseconds"),
    ("_ns", "nanoseconds"),
    ("_bytes", "bytes"),
    ("_tokens", "tokens"),
    ("_requests", "requests"),
    ("request_success", "requests"),
    ("_errors", "errors"),
    ("_error_count", "errors"),
    ("_reqs", "requests"),
    ("_blocks", "blocks"),
    ("_ratio", "ratio"),
    ("_percent", "percent"),
    ("_perc", "percent"),
    ("_celsius", "celsius"),
    ("_joules", "joules"),
    ("_watts", "watts"),
    ("_count", "count"),
];

/// The pages of a run.
#[derive(Clone, Copy, Debug)]
pub struct ServerMetrics<'a> {
    /// The run.
    pub run: &'a Run,
    /// Base URLs, or URLs of pages.
    pub names: &'a [String],
    /// What was asked for.
    pub urls: &'a [String],
    /// Their readings.
    pub pages: &'a [EngineSeries],
    /// The wall-clock time from which those count.
    pub begun: SystemTime,
    /// From that time to the first send of the measured phase, and to its end.
    pub measured: (Duration, Duration),
    /// The same of the warm-up, where there was one.
    pub warm_up: Option<(Duration, Duration)>,
    /// What went wrong.
    pub problems: &'a [String],
}

// === impl ServerMetrics ===

impl ServerMetrics<'_> {
    /// `server_metrics_export.json`
    pub fn json(&self) -> Object {
        let mut object = Object::default();
        object.set("schema_version", SCHEMA_VERSION);
        object.set("aiperf_version", AIPERF_VERSION);
        object.set("benchmark_id", &self.run.id);
        object.nest("summary", self.summary());
        object.set("metrics_phase", "profiling");
        object.nest("metrics", self.metrics(self.measured));
        if let Some(window) = self.warm_up {
            object.nest("warmup_metrics", self.metrics(window));
        }
        object.set("input_config", &self.run.input_config);
        let own = self.urls.iter().zip(self.pages).map(|(url, page)| {
            json!({ "endpoint_url": url, "metrics": page.figures(self.measured.0, self.measured.1).json() })
        });
        object.set("evenload", json!({ "engines": own.collect::<Vec<_>>() }));
        object
    }

    /// `server_metrics_export.jsonl`: a line for each reading that was kept.
    ///
    /// # Errors
    /// What `out` says.
    pub fn write_lines(&self, out: &mut impl Write) -> io::Result<()> {
        let within = |at: Duration, (start, end): (Duration, Duration)| (start..=end).contains(&at);
        for (url, page) in self.urls.iter().zip(self.pages) {
            for (at, latency, families) in page.readings() {
                let mut line = Object::default();
                line.set("endpoint_url", url);
                line.set("timestamp_ns", self.wall_ns(at));
                line.set("endpoint_latency_ns", nanoseconds(latency));
                let mut metrics = Map::new();
                for family in families.into_iter().filter(|family| !family.name.ends_with("_info")) {
                    let samples = family.series.iter().map(|series| sample(&series.labels, &series.reading));
                    metrics.insert(family.name, samples.collect());
                }
                line.set("metrics", metrics);
                let phase = if within(at, self.measured) {
                    Some("profiling")
                } else {
                    self.warm_up.filter(|window| within(at, *window)).map(|_| "warmup")
                };
                if let Some(phase) = phase {
                    line.set("benchmark_phase", phase);
                }
                serde_json::to_writer(&mut *out, &line)?;
                out.write_all(b"\n")?;
            }
        }
        Ok(())
    }

    fn summary(&self) -> Object {
        let read = |(_, page): &(&String, &EngineSeries)| page.fetches.count > 0;
        let mut summary = Object::default();
        summary.set("endpoints_configured", self.urls);
        let successful = self.urls.iter().zip(self.pages).filter(read).map(|(url, _)| url);
        summary.set("endpoints_successful", successful.collect::<Vec<_>>());
        let at = |time: Duration| Civil::utc(self.begun + time).iso();
        summary.set("start_time", at(self.measured.0));
        summary.set("end_time", at(self.measured.1));
        let mut information = Object::default();
        for (url, page) in self.urls.iter().zip(self.pages).filter(read) {
            information.nest(url, self.information(page));
        }
        summary.nest("endpoint_info", information);
        let span = |(start, end)| json!({ "start_ns": self.wall_ns(start), "end_ns": self.wall_ns(end) });
        let mut spans = Object::default();
        // AIPerf's own reader takes no range that is empty.
        for (phase, window) in [("profiling", Some(self.measured)), ("warmup", self.warm_up)] {
            if let Some(window) = window.filter(|(start, end)| start < end) {
                spans.set(phase, span(window));
            }
        }
        summary.nest("phase_time_ranges", spans);
        summary.set("problems", self.problems);
        summary
    }

    fn information(&self, page: &EngineSeries) -> Object {
        let fetches = &page.fetches;
        let mut object = Object::default();
        let (first, last) = fetches.span.unwrap_or_default();
        let (first_update, last_update) = fetches.update_span.unwrap_or_default();
        let seconds = last_update.saturating_sub(first_update).as_secs_f64();
        let milliseconds = |time: Option<f64>| time.map(|time| time / MILLISECOND);
        object.set("total_fetches", fetches.count);
        object.set("first_fetch_ns", self.wall_ns(first));
        object.set("last_fetch_ns", self.wall_ns(last));
        object.set("avg_fetch_latency_ms", milliseconds(fetches.latency.mean()).unwrap_or_default());
        object.set("unique_updates", fetches.updates);
        object.set("first_update_ns", self.wall_ns(first_update));
        object.set("last_update_ns", self.wall_ns(last_update));
        object.set("duration_seconds", seconds);
        object.set("avg_update_interval_ms", milliseconds(fetches.update_gaps.mean()).unwrap_or_default());
        if let Some(median) = milliseconds(fetches.update_gaps.percentile(50.0)) {
            object.set("median_update_interval_ms", median);
        }
        object
    }

    /// The families of all pages together, by name.
    fn metrics(&self, (start, end): (Duration, Duration)) -> Object {
        let mut merged: BTreeMap<String, (FamilyFigures, Vec<Object>)> = BTreeMap::new();
        for (url, page) in self.urls.iter().zip(self.pages) {
            for mut family in page.families(start, end) {
                let own = std::mem::take(&mut family.series);
                let entry = merged.entry(family.name.clone()).or_insert_with(|| (family.clone(), Vec::new()));
                // A name that means something else on another page has no place of its own.
                if entry.0.kind == family.kind {
                    entry.1.extend(own.iter().map(|(labels, figures)| series_json(url, labels, figures)));
                }
            }
        }
        let mut metrics = Object::default();
        for (name, (family, series)) in merged {
            let mut metric = Object::default();
            metric.set("type", family.kind.name());
            metric.set("description", &family.help);
            if let Some(unit) = unit(&name, &family.help) {
                metric.set("unit", unit);
            }
            metric.nest_all("series", series);
            metrics.nest(name, metric);
        }
        metrics
    }

    fn wall_ns(&self, at: Duration) -> u64 {
        (self.begun + at).duration_since(SystemTime::UNIX_EPOCH).map(nanoseconds).unwrap_or(0)
    }
}

fn series_json(url: &str, labels: &[(String, String)], figures: &Figures) -> Object {
    let mut object = Object::default();
    object.set("endpoint_url", url);
    if !labels.is_empty() {
        object.nest("labels", labels_json(labels));
    }
    match figures {
        Figures::Gauge(gauge) => object.nest("stats", gauge.json()),
        Figures::Counter(growth) => {
            let mut stats = Object::default();
            for (name, value) in COUNTER_STATISTICS.into_iter().zip(growth.statistics()) {
                if let Some(value) = value {
                    stats.set(name, value);
                }
            }
            object.nest("stats", stats);
        }
        Figures::Histogram(observed) => {
            let mut stats = Object::default();
            for (name, value) in observed.statistics() {
                match (name.as_str(), value) {
                    (_, None) => {}
                    ("count", Some(count)) => stats.set("count", count.round() as u64),
                    (_, Some(value)) => stats.set(name, value),
                }
            }
            object.nest("stats", stats);
            let mut buckets = Object::default();
            observed.buckets.iter().for_each(|(bound, count)| buckets.set(bound, count.round() as u64));
            object.nest("buckets", buckets);
        }
    }
    object
}

/// A sample of one reading.
fn sample(labels: &[(String, String)], reading: &Reading) -> Value {
    let mut sample = Object::default();
    if !labels.is_empty() {
        sample.nest("labels", labels_json(labels));
    }
    match reading {
        Reading::Number(value) => sample.set("value", value),
        Reading::Histogram { sum, count, buckets } => {
            let mut bounds = Object::default();
            buckets.iter().for_each(|(bound, count)| bounds.set(bound, count));
            sample.nest("buckets", bounds);
            sample.set("sum", sum);
            sample.set("count", count);
        }
    }
    json!(sample)
}

fn labels_json(labels: &[(String, String)]) -> Object {
    let mut object = Object::default();
    labels.iter().for_each(|(name, value)| object.set(name, value));
    object
}

/// The unit that a name ends with. A share that its help bounds by 1 is a ratio, whatever its name.
fn unit(name: &str, help: &str) -> Option<&'static str> {
    let bare = name.strip_suffix("_total");
    let ending = |name: &str| UNITS.iter().find(|(ending, _)| name.ends_with(ending)).map(|(_, unit)| *unit);
    let unit = bare.map_or_else(|| ending(name), |bare| ending(bare).or(Some("count")));
    match unit {
        Some("percent") if ["0 to 1", "1 means 100", "0.0-1.0"].iter().any(|hint| help.contains(hint)) => {
            Some("ratio")
        }
        None if name.contains("num_requests_") => Some("requests"),
        unit => unit,
    }
}

// === impl Growth ===

impl Growth {
    /// In the order of [`COUNTER_STATISTICS`].
    fn statistics(&self) -> [Option<f64>; 6] {
        let rates = self.rates;
        [
            Some(self.total),
            Some(self.rate),
            rates.map(|rates| rates.avg),
            rates.map(|rates| rates.min),
            rates.map(|rates| rates.max),
            rates.map(|rates| rates.std),
        ]
    }
}

// === impl Observed ===

impl Observed {
    fn statistics(&self) -> impl Iterator<Item = (String, Option<f64>)> {
        let named = [
            ("count", Some(self.count)),
            ("count_rate", Some(self.count_rate)),
            ("sum", Some(self.sum)),
            ("sum_rate", Some(self.sum_rate)),
            ("avg", ratio(self.sum, self.count)),
        ];
        let percentiles = self.percentiles;
        let estimate = move |(place, percent): (usize, f64)| {
            (format!("p{percent}_estimate"), percentiles.map(|percentiles| percentiles[place]))
        };
        let named = named.into_iter().map(|(name, value)| (name.to_owned(), value));
        named.chain(PERCENTS.into_iter().enumerate().map(estimate))
    }
}
