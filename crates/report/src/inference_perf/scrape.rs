//! `*_prometheus_metrics.json` without a Prometheus server: the same figures from the servers' own metrics pages.
//!
//! Counters and histograms are what they grew by between the readings at the edges of a stage; quantiles are
//! Prometheus' own, on straight lines within buckets. Series of several servers are added up, and gauges are the
//! means of theirs. A series that no page has is `null`.

use std::{collections::BTreeMap, time::Duration};

use protocol::FamilyKind;

use super::prometheus::{Figure, MetricFamily, figures, file};
use crate::{
    Object,
    engines::{EnginePages, EngineSeries, Row, SeriesHead, interpolated, quantile},
};

/// The file for a window on the clock of the pages, from the series of these models and from those of no model; nothing
/// where no page was read.
pub fn scraped_report(
    pages: &EnginePages,
    family: MetricFamily,
    models: &[&str],
    (start, end): (Duration, Duration),
) -> Option<Object> {
    let read = |series| Page::read(series, models, start, end);
    let window = Window(pages.series.iter().filter_map(read).collect());
    if window.0.is_empty() {
        return None;
    }
    let values: Vec<_> =
        figures(family).into_iter().map(|(place, figure)| (place, window.value(figure))).collect();
    Some(file(&values))
}

/// A page, at the edges of a window.
struct Page<'a> {
    series: &'a EngineSeries,
    heads: BTreeMap<&'a str, (FamilyKind, Vec<&'a SeriesHead>)>,
    before: &'a Row,
    after: &'a Row,
}

struct Window<'a>(Vec<Page<'a>>);

impl<'a> Page<'a> {
    fn read(series: &'a EngineSeries, models: &[&str], start: Duration, end: Duration) -> Option<Self> {
        let (before, after) = series.edges(start, end)?;
        let mut heads: BTreeMap<&str, (FamilyKind, Vec<&SeriesHead>)> = BTreeMap::new();
        for head in &series.series {
            let model = head.labels.iter().find(|(label, _)| label == "model_name");
            if model.is_none_or(|(_, model)| models.contains(&model.as_str())) {
                let family = &series.families[head.family];
                heads.entry(&family.name).or_insert((family.kind, Vec::new())).1.push(head);
            }
        }
        Some(Self { series, heads, before, after })
    }

    fn histograms(&self, name: &str) -> impl Iterator<Item = &'a SeriesHead> {
        let found = self.heads.get(name).filter(|(kind, _)| *kind == FamilyKind::Histogram);
        found.into_iter().flat_map(|(_, heads)| heads.iter().copied())
    }

    /// The columns of a number: a family of its own, with or without the suffix of counters, or a part of a histogram.
    fn numbers(&self, name: &str) -> Vec<usize> {
        let part = |ending: &str, place: usize| {
            let family = name.strip_suffix(ending).unwrap_or_default();
            self.histograms(family).map(move |head| head.column + place)
        };
        let own = self.heads.get(name).or_else(|| self.heads.get(format!("{name}_total").as_str()));
        let own = own.filter(|(kind, _)| *kind != FamilyKind::Histogram).into_iter();
        let own = own.flat_map(|(_, heads)| heads.iter().map(|head| head.column));
        own.chain(part("_sum", 0)).chain(part("_count", 1)).collect()
    }

    /// A series that appears in the window has grown from 0; one that starts again, too.
    fn growth(&self, column: usize) -> Option<f64> {
        let (end, start) = (self.after.value(column)?, self.before.value(column).unwrap_or(0.0));
        Some(if end >= start { end - start } else { end })
    }

    fn counted(&self, name: &str) -> Option<f64> {
        self.numbers(name).into_iter().filter_map(|column| self.growth(column)).reduce(|a, b| a + b)
    }

    /// The values of a gauge's series, each in order.
    fn gauges(&self, name: &str) -> impl Iterator<Item = Vec<f64>> {
        let inside = self.before.at..=self.after.at;
        self.numbers(name).into_iter().map(move |column| {
            let known = self.series.known(|row| row.value(column)).into_iter();
            let mut values: Vec<f64> =
                known.filter(|(at, _)| inside.contains(at)).map(|(_, value)| value).collect();
            values.sort_by(f64::total_cmp);
            values
        })
    }
}

impl Window<'_> {
    fn value(&self, figure: Figure) -> Option<f64> {
        let value = match figure {
            Figure::Growth(name) => self.counted(name)?,
            Figure::Rate(name) => {
                let rate = |page: &Page<'_>| {
                    Some(page.counted(name)? / page.after.at.saturating_sub(page.before.at).as_secs_f64())
                };
                self.0.iter().filter_map(rate).reduce(|a, b| a + b)?
            }
            Figure::Ratio(factor, part, whole) => factor * self.counted(part)? / self.counted(whole)?,
            Figure::Gauge(name, share) => self.gauge(name, share)?,
            Figure::Mean(name) => {
                self.counted(&format!("{name}_sum"))? / self.counted(&format!("{name}_count"))?
            }
            Figure::Quantile(name, share) => self.quantile(name, share)?,
        };
        Some(value).filter(|value| value.is_finite())
    }

    fn counted(&self, name: &str) -> Option<f64> {
        self.0.iter().filter_map(|page| page.counted(name)).reduce(|a, b| a + b)
    }

    fn gauge(&self, name: &str, share: Option<f64>) -> Option<f64> {
        let over_time = |values: Vec<f64>| match share {
            _ if values.is_empty() => None,
            None => Some(values.iter().sum::<f64>() / values.len() as f64),
            Some(share) => Some(interpolated(&values, share)),
        };
        let series: Vec<f64> =
            self.0.iter().flat_map(|page| page.gauges(name)).filter_map(over_time).collect();
        (!series.is_empty()).then(|| series.iter().sum::<f64>() / series.len() as f64)
    }

    fn quantile(&self, name: &str, share: f64) -> Option<f64> {
        let mut grown: BTreeMap<&str, f64> = BTreeMap::new();
        for page in &self.0 {
            for head in page.histograms(name) {
                for (bound, column) in head.bounds.iter().zip(head.column + 2..) {
                    *grown.entry(bound).or_default() += page.growth(column).unwrap_or(0.0);
                }
            }
        }
        let buckets: Vec<_> = grown.into_iter().map(|(bound, count)| (bound.to_owned(), count)).collect();
        let observed = buckets.iter().any(|(bound, count)| bound == "+Inf" && *count > 0.0);
        observed.then(|| quantile(&buckets, share))
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use serde_json::Value;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);
    const TTFT: &str = "vllm:time_to_first_token_seconds";

    /// A page after so many requests.
    fn page(done: f64, running: f64) -> String {
        format!(
            "# TYPE vllm:request_success_total counter\n\
             vllm:request_success_total{{model_name=\"m\",finished_reason=\"stop\"}} {}\n\
             vllm:request_success_total{{model_name=\"m\",finished_reason=\"length\"}} {}\n\
             vllm:request_success_total{{model_name=\"other\",finished_reason=\"stop\"}} {}\n\
             # TYPE vllm:prompt_tokens counter\nvllm:prompt_tokens_total{{model_name=\"m\"}} {}\n\
             # TYPE vllm:num_requests_running gauge\nvllm:num_requests_running{{model_name=\"m\"}} {running}\n\
             # TYPE {TTFT} histogram\n{TTFT}_bucket{{le=\"0.1\"}} {}\n{TTFT}_bucket{{le=\"0.3\"}} {}\n\
             {TTFT}_bucket{{le=\"+Inf\"}} {done}\n{TTFT}_sum {}\n{TTFT}_count {done}\n",
            100.0 + done / 2.0,
            done / 2.0,
            7.0 * done,
            30.0 * done,
            0.5 * done,
            0.9 * done,
            0.2 * done,
        )
    }

    fn server(steps: &[(u32, f64, f64, bool)]) -> EngineSeries {
        let mut series = EngineSeries::default();
        for (second, done, running, edge) in steps {
            let (at, text) = (SECOND * *second, page(*done, *running));
            let kept = match edge {
                true => series.push_edge(at, Duration::ZERO, text.as_bytes()),
                false => series.push(at, Duration::ZERO, text.as_bytes()),
            };
            assert!(kept.is_some());
        }
        series
    }

    fn report(series: Vec<EngineSeries>, start: u32, end: u32) -> Value {
        let pages =
            EnginePages { names: Vec::new(), urls: Vec::new(), series, begun: SystemTime::UNIX_EPOCH };
        let window = (SECOND * start, SECOND * end);
        let report = scraped_report(&pages, MetricFamily::Vllm, &["m"], window).unwrap();
        serde_json::to_value(report).unwrap()["successes"].clone()
    }

    #[track_caller]
    fn assert_close(report: &Value, path: &str, expected: f64) {
        let value = report.pointer(path).and_then(Value::as_f64);
        assert!(value.is_some_and(|value| (value - expected).abs() < 1e-9), "{path}: {value:?}");
    }

    #[test]
    fn figures_are_what_grew_between_the_edges() {
        // The reading at second 10 is no edge: what it lacks is in the one after it.
        let steps =
            [(1, 0.0, 0.0, true), (5, 20.0, 6.0, false), (10, 38.0, 3.0, false), (11, 40.0, 3.0, true)];
        let report = report(vec![server(&steps)], 2, 10);
        for (path, expected) in [
            ("/count", 40.0),
            ("/rate", 4.0),
            ("/prompt_len/mean", 30.0),
            ("/num_requests_running/mean", 3.0),
            ("/time_to_first_token/mean", 0.2),
            ("/time_to_first_token/median", 0.1),
            ("/time_to_first_token/p90", 0.3),
            ("/time_to_first_token/p99", 0.3),
        ] {
            assert_close(&report, path, expected);
        }
        assert!(report["kv_block_lifetime"]["mean"].is_null() && report["corrupted_requests"].is_null());
    }

    #[test]
    fn servers_are_added_up_and_gauges_averaged() {
        let one = server(&[(1, 0.0, 2.0, true), (11, 40.0, 4.0, true)]);
        let two = server(&[(1, 100.0, 8.0, true), (11, 120.0, 10.0, true)]);
        let restarted = server(&[(1, 50.0, 0.0, true), (11, 10.0, 0.0, true)]);
        let both = report(vec![one, two], 2, 10);
        assert_close(&both, "/count", 60.0);
        assert_close(&both, "/rate", 6.0);
        assert_close(&both, "/num_requests_running/mean", 6.0);
        // It started again: 105 with the first reason and 5 with the second since then.
        assert_close(&report(vec![restarted], 2, 10), "/count", 110.0);
    }

    #[test]
    fn stages_have_edges_of_their_own() {
        let series =
            server(&[(1, 0.0, 0.0, true), (5, 10.0, 0.0, true), (6, 10.0, 0.0, true), (9, 40.0, 0.0, true)]);
        assert_close(&report(vec![series.clone()], 2, 4), "/count", 10.0);
        assert_close(&report(vec![series.clone()], 7, 8), "/count", 30.0);
        assert_close(&report(vec![series], 2, 8), "/count", 40.0);
    }

    #[test]
    fn what_no_page_says_is_no_report() {
        let pages = EnginePages {
            names: Vec::new(),
            urls: Vec::new(),
            series: vec![EngineSeries::default()],
            begun: SystemTime::UNIX_EPOCH,
        };
        assert_eq!(scraped_report(&pages, MetricFamily::Tgi, &["m"], (Duration::ZERO, SECOND)), None);
    }
}
