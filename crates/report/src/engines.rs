//! What the engines said about themselves during a run: queue, batch, cache, tokens.
//!
//! An [`EngineSeries`] keeps the readings of one metrics page; [`EngineSeries::figures`] cuts them to a window. Gauges
//! are samples inside the window. Counters are differences from its start to its end, divided by its length, so that
//! a rate is that of the window and not of the time between two readings: the end is the first reading after it, when
//! nothing is under way any more; the start lies on the line between two readings, or, in a window of only a few
//! readings, is the last one before it. A figure that the page lacks is absent. When [`READINGS`] are kept, every second one is dropped and every second further one is taken.

use std::time::Duration;

use serde_json::{Value, json};

use crate::{Object, TextTable, format::human, summary::ratio};

/// A window of so many gaps between readings is long enough for straight lines.
const FINE: u32 = 4;

/// Readings kept of one page.
pub const READINGS: usize = 4096;

/// One reading of an engine's page. Counters are as the engine counts them, since it started.
#[derive(Clone, Copy, Debug, Default, PartialEq, serde::Serialize)]
pub struct EngineReading {
    /// Requests that are being computed.
    pub running: Option<f64>,
    /// Requests that wait.
    pub waiting: Option<f64>,
    /// Share of the KV cache in use, 0 to 1.
    pub kv_cache_usage: Option<f64>,
    /// Counter: prompt tokens looked up in the prefix cache.
    pub prefix_queries: Option<f64>,
    /// Counter: prompt tokens found in it.
    pub prefix_hits: Option<f64>,
    /// Counter: requests put back to waiting.
    pub preemptions: Option<f64>,
    /// Counter: prompt tokens.
    pub prompt_tokens: Option<f64>,
    /// Counter: tokens generated.
    pub generation_tokens: Option<f64>,
    /// Counter: requests that ended.
    pub finished: Option<f64>,
}

/// The readings of one page over time.
#[derive(Clone, Debug, Default)]
pub struct EngineSeries {
    readings: Vec<(Duration, EngineReading)>,
    /// Every so many readings one is taken; a power of two.
    stride_bits: u32,
    seen: u64,
    /// Readings that failed.
    pub failed: u64,
    /// Why the last one failed.
    pub problem: Option<String>,
}

/// The figures of one page over a window.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct EngineFigures {
    /// Readings inside the window.
    pub readings: usize,
    /// By the name of the gauge.
    pub gauges: Vec<(&'static str, Gauge)>,
    /// By the name of the counter: its growth, and that per second.
    pub counters: Vec<(&'static str, f64, f64)>,
    /// Share of the looked-up prompt tokens that were found.
    pub prefix_hit_ratio: Option<f64>,
}

/// Statistics of a gauge's samples.
#[derive(Clone, Copy, Debug, Default, PartialEq, serde::Serialize)]
pub struct Gauge {
    /// Mean.
    pub avg: f64,
    /// Smallest.
    pub min: f64,
    /// Median.
    pub p50: f64,
    /// 90th percentile.
    pub p90: f64,
    /// 99th percentile.
    pub p99: f64,
    /// Largest.
    pub max: f64,
    /// Standard deviation.
    pub std: f64,
}

type Field = fn(&EngineReading) -> Option<f64>;

const GAUGES: [(&str, Field); 3] = [
    ("requests_running", |reading| reading.running),
    ("requests_waiting", |reading| reading.waiting),
    ("kv_cache_usage", |reading| reading.kv_cache_usage),
];
const COUNTERS: [(&str, Field); 6] = [
    ("prompt_tokens", |reading| reading.prompt_tokens),
    ("generation_tokens", |reading| reading.generation_tokens),
    ("requests_finished", |reading| reading.finished),
    ("preemptions", |reading| reading.preemptions),
    ("prefix_cache_queries", |reading| reading.prefix_queries),
    ("prefix_cache_hits", |reading| reading.prefix_hits),
];

// === impl EngineSeries ===

impl EngineSeries {
    /// Keeps a reading; `at` counts from the start of the run and never falls.
    pub fn push(&mut self, at: Duration, reading: EngineReading) {
        let taken = self.seen & ((1 << self.stride_bits) - 1) == 0;
        self.seen += 1;
        if !taken {
            return;
        }
        self.readings.push((at, reading));
        if self.readings.len() == READINGS {
            let mut kept = false;
            self.readings.retain(|_| {
                kept = !kept;
                kept
            });
            self.stride_bits += 1;
        }
    }

    /// Notes a reading that failed.
    pub fn fail(&mut self, problem: impl Into<String>) {
        self.failed += 1;
        self.problem = Some(problem.into());
    }

    /// The readings kept.
    pub fn readings(&self) -> &[(Duration, EngineReading)] {
        &self.readings
    }

    /// The figures between two times since the start of the run.
    pub fn figures(&self, start: Duration, end: Duration) -> EngineFigures {
        let inside = |at: Duration| (start..=end).contains(&at);
        let readings = self.readings.iter().filter(|(at, _)| inside(*at)).count();
        let gauges = GAUGES.iter().filter_map(|&(name, field)| {
            let samples = self.readings.iter().filter(|(at, _)| inside(*at));
            Some((name, Gauge::of(samples.filter_map(|(_, reading)| field(reading)).collect())?))
        });
        let growth =
            |field: Field| Some((self.at_end(field, end)? - self.at_start(field, start, end)?).max(0.0));
        let seconds = end.saturating_sub(start).as_secs_f64();
        let counters = COUNTERS.iter().filter_map(|&(name, field)| {
            let growth = growth(field)?;
            Some((name, growth, ratio(growth, seconds)?))
        });
        let hits = growth(|reading| reading.prefix_hits).zip(growth(|reading| reading.prefix_queries));
        EngineFigures {
            readings,
            gauges: gauges.collect(),
            counters: counters.collect(),
            prefix_hit_ratio: hits.and_then(|(hits, queries)| ratio(hits, queries)),
        }
    }

    fn known(&self, field: Field) -> impl Iterator<Item = (Duration, f64)> {
        self.readings.iter().filter_map(move |(at, reading)| Some((*at, field(reading)?)))
    }

    /// A counter at the start of a window.
    fn at_start(&self, field: Field, start: Duration, end: Duration) -> Option<f64> {
        let before = self.known(field).take_while(|(time, _)| *time <= start).last();
        let after = self.known(field).find(|(time, _)| *time > start);
        match (before, after) {
            (Some((t0, v0)), Some((t1, v1))) if v1 >= v0 && (t1 - t0) * FINE <= end.saturating_sub(start) => {
                Some(v0 + (v1 - v0) * (start - t0).as_secs_f64() / (t1 - t0).as_secs_f64())
            }
            (Some((_, value)), _) | (None, Some((_, value))) => Some(value),
            (None, None) => None,
        }
    }

    /// A counter at the end of a window.
    fn at_end(&self, field: Field, end: Duration) -> Option<f64> {
        let after = self.known(field).find(|(time, _)| *time >= end);
        after.or_else(|| self.known(field).last()).map(|(_, value)| value)
    }
}

impl Gauge {
    fn of(mut samples: Vec<f64>) -> Option<Self> {
        samples.sort_by(f64::total_cmp);
        let (min, max) = (*samples.first()?, *samples.last()?);
        let count = samples.len() as f64;
        let avg = samples.iter().sum::<f64>() / count;
        let variance = samples.iter().map(|sample| (sample - avg).powi(2)).sum::<f64>() / count;
        let percentile = |percent: f64| samples[((count - 1.0) * percent / 100.0).round() as usize];
        let [p50, p90, p99] = [50.0, 90.0, 99.0].map(percentile);
        Some(Self { avg, min, p50, p90, p99, max, std: variance.sqrt() })
    }

    /// The statistics by their names.
    pub(crate) fn statistics(self) -> [(&'static str, f64); 7] {
        let Self { avg, min, p50, p90, p99, max, std } = self;
        [("avg", avg), ("min", min), ("p50", p50), ("p90", p90), ("p99", p99), ("max", max), ("std", std)]
    }
}

// === impl EngineFigures ===

impl EngineFigures {
    /// Whether the page said nothing.
    pub fn is_empty(&self) -> bool {
        self.gauges.is_empty() && self.counters.is_empty()
    }

    /// The statistics of a gauge.
    pub fn gauge(&self, name: &str) -> Option<Gauge> {
        self.gauges.iter().find(|(known, _)| *known == name).map(|(_, gauge)| *gauge)
    }

    /// The object for files.
    pub fn json(&self) -> Value {
        let mut object = Object::default();
        object.set("readings", self.readings);
        self.gauges.iter().for_each(|(name, gauge)| object.set(*name, gauge));
        for (name, total, rate) in &self.counters {
            object.set(*name, json!({ "total": total, "rate": rate }));
        }
        object.set("prefix_cache_hit_ratio", self.prefix_hit_ratio);
        json!(object)
    }
}

/// The table of the engines, for a page.
pub fn engine_table(names: &[String], engines: &[EngineFigures]) -> TextTable {
    let table =
        TextTable::new("What the engines' metrics pages said, over the measured window.", engine_columns());
    names.iter().zip(engines).fold(table, |table, (name, figures)| {
        table.row(std::iter::once(name.clone()).chain(engine_cells(figures)))
    })
}

/// The columns of the table of engines.
pub(crate) fn engine_columns() -> [&'static str; 9] {
    [
        "URL",
        "running avg",
        "running max",
        "waiting avg",
        "waiting max",
        "KV avg",
        "KV max",
        "prefix hits",
        "output tokens/s",
    ]
}

/// A row of it, without the name.
pub(crate) fn engine_cells(figures: &EngineFigures) -> [String; 8] {
    let cell = |value: Option<f64>| value.map_or_else(|| "N/A".to_owned(), human);
    let percent = |share: Option<f64>| {
        share.map_or_else(|| "N/A".to_owned(), |share| format!("{:.1} %", share * 100.0))
    };
    let gauge = |name: &str| figures.gauge(name);
    let rate =
        figures.counters.iter().find(|(name, ..)| *name == "generation_tokens").map(|(.., rate)| *rate);
    [
        cell(gauge("requests_running").map(|gauge| gauge.avg)),
        cell(gauge("requests_running").map(|gauge| gauge.max)),
        cell(gauge("requests_waiting").map(|gauge| gauge.avg)),
        cell(gauge("requests_waiting").map(|gauge| gauge.max)),
        percent(gauge("kv_cache_usage").map(|gauge| gauge.avg)),
        percent(gauge("kv_cache_usage").map(|gauge| gauge.max)),
        percent(figures.prefix_hit_ratio),
        cell(rate),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(seconds: f64) -> Duration {
        Duration::from_secs_f64(seconds)
    }

    /// A reading a second: 100 tokens a second from second 2 to second 8, the queue as long as the time.
    fn series() -> EngineSeries {
        let mut series = EngineSeries::default();
        for second in 0..=10 {
            let busy = f64::from(second.clamp(2, 8) - 2);
            let reading = EngineReading {
                waiting: Some(f64::from(second)),
                generation_tokens: Some(1000.0 + 100.0 * busy),
                prefix_queries: Some(50.0 * busy),
                prefix_hits: Some(10.0 * busy),
                ..EngineReading::default()
            };
            series.push(seconds(f64::from(second)), reading);
        }
        series
    }

    #[test]
    fn rates_are_those_of_the_window() {
        let figures = series().figures(seconds(2.0), seconds(8.0));
        assert_eq!(figures.readings, 7);
        assert_eq!(figures.counters[0], ("generation_tokens", 600.0, 100.0));
        assert_eq!(figures.prefix_hit_ratio, Some(0.2));
        let waiting = figures.gauge("requests_waiting").unwrap();
        assert_eq!((waiting.avg, waiting.min, waiting.max, waiting.p50), (5.0, 2.0, 8.0, 5.0));
        assert_eq!(figures.gauge("kv_cache_usage"), None, "unknown is not zero");
        let later = series().figures(seconds(2.5), seconds(6.5));
        assert_eq!(
            later.counters[0],
            ("generation_tokens", 450.0, 112.5),
            "the start on a line, the end after it"
        );
        let short = series().figures(seconds(2.5), seconds(3.0));
        assert_eq!(short.counters[0], ("generation_tokens", 100.0, 200.0), "all that came in between");
        let whole = series().figures(seconds(0.0), seconds(20.0));
        assert_eq!(whole.counters[0], ("generation_tokens", 600.0, 30.0));
    }

    #[test]
    fn an_engine_that_starts_again_gives_no_nonsense() {
        let mut series = EngineSeries::default();
        for (second, tokens) in [(0, 500.0), (1, 600.0), (2, 0.0), (3, 50.0)] {
            let reading = EngineReading { generation_tokens: Some(tokens), ..EngineReading::default() };
            series.push(Duration::from_secs(second), reading);
        }
        assert_eq!(series.figures(seconds(0.0), seconds(3.0)).counters[0].1, 0.0);
        assert_eq!(EngineSeries::default().figures(seconds(0.0), seconds(1.0)), EngineFigures::default());
    }

    #[test]
    fn readings_are_bounded() {
        let mut series = EngineSeries::default();
        (0..100_000).for_each(|second| series.push(Duration::from_secs(second), EngineReading::default()));
        let kept = series.readings();
        assert!((READINGS / 2 - 1..READINGS).contains(&kept.len()), "{}", kept.len());
        let steps: Vec<u64> = kept.windows(2).map(|pair| (pair[1].0 - pair[0].0).as_secs()).collect();
        assert!(steps.iter().all(|step| *step == steps[0]), "evenly");
    }
}
