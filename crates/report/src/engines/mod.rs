//! What the engines said about themselves during a run: queue, batch, cache, tokens, and whatever else their metrics
//! pages hold.
//!
//! An [`EngineSeries`] keeps the readings of one page. [`EngineSeries::figures`] cuts the nine figures that every
//! engine has, whatever it calls them, to a window; [`EngineSeries::families`] does so with the whole page. Gauges are
//! samples inside the window, counters their growth in it. A figure that the page lacks is absent.

mod families;
mod gauge;
mod growth;
mod pages;
mod series;

use std::time::Duration;

use protocol::EngineMetrics;
use serde_json::{Value, json};

use self::growth::Grown;
pub use self::{
    families::{FamilyFigures, Figures, Growth, Observed, Rates},
    gauge::Gauge,
    pages::EnginePages,
    series::{COLUMNS, EngineSeries, Fetches, READINGS},
};
pub(crate) use self::{
    families::{PERCENTS, quantile},
    gauge::interpolated,
    series::{Row, SeriesHead},
};
use crate::{Object, TextTable, format::human, summary::ratio};

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

type Field = fn(&EngineMetrics) -> Option<f64>;

const GAUGES: [(&str, Field); 3] = [
    ("requests_running", |engine| engine.running),
    ("requests_waiting", |engine| engine.waiting),
    ("kv_cache_usage", |engine| engine.kv_cache_usage),
];
const COUNTERS: [(&str, Field); 6] = [
    ("prompt_tokens", |engine| engine.prompt_tokens),
    ("generation_tokens", |engine| engine.generation_tokens),
    ("requests_finished", |engine| engine.finished),
    ("preemptions", |engine| engine.preemptions),
    ("prefix_cache_queries", |engine| engine.prefix_queries),
    ("prefix_cache_hits", |engine| engine.prefix_hits),
];

// === impl EngineSeries ===

impl EngineSeries {
    /// The nine figures between two times.
    pub fn figures(&self, start: Duration, end: Duration) -> EngineFigures {
        let inside = |at: Duration| (start..=end).contains(&at);
        let readings = self.rows.iter().filter(|row| inside(row.at)).count();
        let gauges = GAUGES.iter().filter_map(|&(name, field)| {
            let samples = self.rows.iter().filter(|row| inside(row.at));
            Some((name, Gauge::of(samples.filter_map(|row| field(&row.engine)).collect())?))
        });
        let grown = |field: Field| self.growth(|row| field(&row.engine), start, end);
        let counters = COUNTERS.iter().filter_map(|&(name, field)| {
            let Grown { total, seconds } = grown(field)?;
            Some((name, total, ratio(total, seconds)?))
        });
        let hits = grown(|engine| engine.prefix_hits).zip(grown(|engine| engine.prefix_queries));
        EngineFigures {
            readings,
            gauges: gauges.collect(),
            counters: counters.collect(),
            prefix_hit_ratio: hits.and_then(|(hits, queries)| ratio(hits.total, queries.total)),
        }
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
        self.gauges.iter().for_each(|(name, gauge)| object.nest(*name, gauge.json()));
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

    fn push(series: &mut EngineSeries, second: u32, page: &str) {
        assert!(series.push(seconds(second.into()), Duration::ZERO, page.as_bytes()).is_some(), "{page}");
    }

    /// A reading a second: 100 tokens a second from second 2 to second 8, the queue as long as the time.
    fn series() -> EngineSeries {
        let mut series = EngineSeries::default();
        for second in 0..=10 {
            let busy = second.clamp(2, 8) - 2;
            let page = format!(
                "vllm:num_requests_waiting {second}\nvllm:generation_tokens_total {}\nvllm:prefix_cache_queries_total {}\n\
                 vllm:prefix_cache_hits_total {}\n",
                1000 + 100 * busy,
                50 * busy,
                10 * busy
            );
            push(&mut series, second, &page);
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
        assert_eq!(
            (waiting.avg, waiting.min, waiting.max, waiting.percentile(50.0)),
            (5.0, 2.0, 8.0, Some(5.0))
        );
        assert_eq!(figures.gauge("kv_cache_usage"), None, "unknown is not zero");
        let later = series().figures(seconds(2.5), seconds(6.5));
        assert_eq!(
            later.counters[0],
            ("generation_tokens", 450.0, 100.0),
            "the start on a line, the end after it"
        );
        let short = series().figures(seconds(2.5), seconds(3.0));
        assert_eq!(short.counters[0], ("generation_tokens", 100.0, 100.0), "from the last reading before");
        let whole = series().figures(seconds(0.0), seconds(20.0));
        assert_eq!(whole.counters[0], ("generation_tokens", 600.0, 60.0), "nothing is known after second 10");
        let after = series().figures(seconds(11.0), seconds(20.0));
        assert_eq!(after.counters, [], "nothing at all is known");
    }

    #[test]
    fn a_reading_at_an_edge_is_what_the_counter_was() {
        let mut series = EngineSeries::default();
        let page = |tokens: u32| format!("vllm:generation_tokens_total {tokens}\n");
        let readings = [
            (0.0, 0, true),
            (2.0, 400, false),
            (4.1, 600, false),
            // Between the phases, when the page has come up to the last answer.
            (4.2, 700, true),
            (6.0, 900, false),
            (8.0, 1600, false),
            (8.1, 1700, true),
        ];
        for (at, tokens, edge) in readings {
            let page = page(tokens);
            match edge {
                true => series.push_edge(seconds(at), Duration::ZERO, page.as_bytes()),
                false => series.push(seconds(at), Duration::ZERO, page.as_bytes()),
            };
        }
        let grown = |from: f64, to: f64| series.figures(seconds(from), seconds(to)).counters[0].1;
        assert_eq!(grown(0.5, 4.0), 700.0, "the warm-up");
        assert_eq!(grown(4.3, 8.0), 1000.0, "the measured phase, and nothing of the warm-up");
        assert_eq!(grown(2.0, 6.0), 500.0, "an edge long after the window is none of its own");
    }

    #[test]
    fn an_engine_that_starts_again_gives_no_nonsense() {
        let mut series = EngineSeries::default();
        for (second, tokens) in [(0, 500.0), (1, 600.0), (2, 0.0), (3, 50.0)] {
            push(&mut series, second, &format!("vllm:generation_tokens_total {tokens}\n"));
        }
        assert_eq!(series.figures(seconds(0.0), seconds(3.0)).counters[0].1, 150.0);
        assert_eq!(EngineSeries::default().figures(seconds(0.0), seconds(1.0)), EngineFigures::default());
    }

    #[test]
    fn readings_are_bounded() {
        let mut series = EngineSeries::default();
        (0..30_000).for_each(|second| push(&mut series, second, "queue 1\n"));
        let kept: Vec<u64> = series.readings().map(|(at, ..)| at.as_secs()).collect();
        assert!((READINGS / 2 - 1..READINGS).contains(&kept.len()), "{}", kept.len());
        let steps: Vec<u64> = kept.windows(2).map(|pair| pair[1] - pair[0]).collect();
        assert!(steps.iter().all(|step| *step == steps[0]), "evenly");
    }

    #[test]
    fn edges_stay_however_many_readings_there_are() {
        let mut series = EngineSeries::default();
        for second in 0..10_000_u32 {
            let (at, page) = (seconds(second.into()), format!("vllm:generation_tokens_total {second}\n"));
            match second {
                3 | 9001 => series.push_edge(at, Duration::ZERO, page.as_bytes()),
                _ => series.push(at, Duration::ZERO, page.as_bytes()),
            };
        }
        assert!(series.readings().count() <= READINGS + 2);
        let (before, after) = series.edges(seconds(5.0), seconds(9000.0)).unwrap();
        assert_eq!((before.at, after.at), (seconds(3.0), seconds(9001.0)));
        let (_, after) = series.edges(seconds(5.0), seconds(9999.5)).unwrap();
        assert!(
            after.at > seconds(9001.0),
            "the last of all, where the one at the edge failed: {:?}",
            after.at
        );
    }
}
