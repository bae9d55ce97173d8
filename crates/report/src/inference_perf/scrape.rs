//! `*_prometheus_metrics.json` without a Prometheus server: the same figures from the servers' own metrics pages.
//!
//! Pages are read at the edges of each stage, and in between for their gauges. Counters and histograms are what they grew
//! by from edge to edge; quantiles are Prometheus' own, on straight lines within buckets. Pages of several servers are
//! added up, and gauges are their means. A series that no page has is `null`.

use std::{collections::BTreeMap, time::Duration};

use super::prometheus::{Figure, MetricFamily, figures, file};
use crate::{
    Object,
    engines::{interpolated, quantile},
};

/// Readings of gauges that are kept; when there are more, every second one goes.
const SAMPLES: usize = 4096;

/// What the pages of all servers said at one moment, added up: by the series' name, and the bound of its bucket.
#[derive(Clone, Debug, Default)]
pub struct Reading(BTreeMap<String, Buckets>);

/// Values by upper bounds as they are written; without one, the bound is empty. Each with the number of series in it.
type Buckets = BTreeMap<String, (f64, u32)>;

/// Readings over a run.
#[derive(Clone, Debug)]
pub struct Scrapes {
    family: MetricFamily,
    /// Names that figures need.
    wanted: Vec<String>,
    edges: Vec<(Duration, Reading)>,
    samples: Vec<(Duration, Reading)>,
}

impl Scrapes {
    /// None yet.
    pub fn new(family: MetricFamily) -> Self {
        let names = |(_, figure): (_, Figure)| match figure {
            Figure::Growth(name) | Figure::Rate(name) => both(name).to_vec(),
            Figure::Ratio(_, part, whole) => [both(part), both(whole)].concat(),
            Figure::Gauge(name, _) => vec![name.to_owned()],
            Figure::Mean(name) => vec![format!("{name}_sum"), format!("{name}_count")],
            Figure::Quantile(name, _) => vec![format!("{name}_bucket")],
        };
        let mut wanted: Vec<String> = figures(family).into_iter().flat_map(names).collect();
        wanted.sort();
        wanted.dedup();
        Self { family, wanted, edges: Vec::new(), samples: Vec::new() }
    }

    /// Adds a value of a page to a reading, if a figure needs it.
    pub fn add(&self, reading: &mut Reading, name: &str, bound: Option<&str>, value: f64) {
        if value.is_finite() && self.wanted.binary_search_by(|wanted| wanted.as_str().cmp(name)).is_ok() {
            let buckets = reading.0.entry(name.to_owned()).or_default();
            let (sum, series) = buckets.entry(bound.unwrap_or_default().to_owned()).or_default();
            *sum += value;
            *series += 1;
        }
    }

    /// Keeps a reading from before or after a stage. Times are those of the run's clock and do not fall.
    pub fn edge(&mut self, at: Duration, reading: Reading) {
        self.sample(at, reading.clone());
        self.edges.push((at, reading));
    }

    /// Keeps the gauges of a reading.
    pub fn sample(&mut self, at: Duration, mut reading: Reading) {
        let gauges: Vec<&str> = figures(self.family)
            .into_iter()
            .filter_map(|(_, figure)| if let Figure::Gauge(name, _) = figure { Some(name) } else { None })
            .collect();
        reading.0.retain(|name, _| gauges.contains(&name.as_str()));
        self.samples.push((at, reading));
        if self.samples.len() > SAMPLES {
            let mut kept = false;
            self.samples.retain(|_| {
                kept = !kept;
                kept
            });
        }
    }

    /// The file for a stage, or for the run, from its start to its end; nothing where no page was read.
    pub fn report(&self, start: Duration, end: Duration) -> Option<Object> {
        let before = self.edges.iter().rev().find(|(at, _)| *at <= start).or(self.edges.first())?;
        let after = self.edges.iter().find(|(at, _)| *at >= end).or(self.edges.last())?;
        let inside = self.samples.iter().filter(|(at, _)| (before.0..=after.0).contains(at));
        let window = Window { before, after, gauges: inside.map(|(_, reading)| reading).collect() };
        if after.1.0.is_empty() {
            return None;
        }
        let values: Vec<_> =
            figures(self.family).into_iter().map(|(place, figure)| (place, window.value(figure))).collect();
        Some(file(&values))
    }
}

/// A counter's name with and without the suffix that some versions of the server give it.
fn both(name: &str) -> [String; 2] {
    [format!("{name}_total"), name.to_owned()]
}

struct Window<'a> {
    before: &'a (Duration, Reading),
    after: &'a (Duration, Reading),
    gauges: Vec<&'a Reading>,
}

impl Window<'_> {
    fn value(&self, figure: Figure) -> Option<f64> {
        let value = match figure {
            Figure::Growth(name) => self.counted(name)?,
            Figure::Rate(name) => {
                self.counted(name)? / self.after.0.saturating_sub(self.before.0).as_secs_f64()
            }
            Figure::Ratio(factor, part, whole) => factor * self.counted(part)? / self.counted(whole)?,
            Figure::Gauge(name, share) => self.gauge(name, share)?,
            Figure::Mean(name) => {
                self.growth(&format!("{name}_sum"), "")? / self.growth(&format!("{name}_count"), "")?
            }
            Figure::Quantile(name, share) => self.quantile(&format!("{name}_bucket"), share)?,
        };
        Some(value).filter(|value| value.is_finite())
    }

    fn counted(&self, name: &str) -> Option<f64> {
        both(name).iter().find_map(|name| self.growth(name, ""))
    }

    /// A series that appears in the window has grown from 0; one that starts again, too.
    fn growth(&self, name: &str, bound: &str) -> Option<f64> {
        let value = |reading: &Reading| reading.0.get(name)?.get(bound).map(|(sum, _)| *sum);
        let (end, start) = (value(&self.after.1)?, value(&self.before.1).unwrap_or(0.0));
        Some(if end >= start { end - start } else { end })
    }

    fn gauge(&self, name: &str, share: Option<f64>) -> Option<f64> {
        let mean = |reading: &&Reading| {
            let (sum, series) = reading.0.get(name)?.values().next()?;
            Some(sum / f64::from(*series))
        };
        let mut values: Vec<f64> = self.gauges.iter().filter_map(mean).collect();
        values.sort_by(f64::total_cmp);
        let share_of = |share| match share {
            None => values.iter().sum::<f64>() / values.len() as f64,
            Some(share) => interpolated(&values, share),
        };
        (!values.is_empty()).then(|| share_of(share))
    }

    fn quantile(&self, name: &str, share: f64) -> Option<f64> {
        let bounds = self.after.1.0.get(name)?.keys();
        let grown = |bound: &String| Some((bound.clone(), self.growth(name, bound)?));
        let buckets: Vec<_> = bounds.filter_map(grown).collect();
        let observed = self.growth(name, "+Inf").is_some_and(|all| all > 0.0);
        observed.then(|| quantile(&buckets, share))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reading(scrapes: &Scrapes, values: &[(&str, Option<&str>, f64)]) -> Reading {
        let mut reading = Reading::default();
        values.iter().for_each(|(name, bound, value)| scrapes.add(&mut reading, name, *bound, *value));
        reading
    }

    #[test]
    fn figures_are_what_grew_between_the_edges() {
        let mut scrapes = Scrapes::new(MetricFamily::Vllm);
        let ttft = "vllm:time_to_first_token_seconds";
        let [sum, count, bucket] = ["sum", "count", "bucket"].map(|part| format!("{ttft}_{part}"));
        let page = |done: f64, running: f64| {
            vec![
                ("vllm:request_success_total", None, 100.0 + done / 2.0),
                ("vllm:request_success_total", None, done / 2.0),
                ("vllm:prompt_tokens_total", None, 30.0 * done),
                ("vllm:num_requests_running", None, running),
                (sum.as_str(), None, 0.2 * done),
                (count.as_str(), None, done),
                (bucket.as_str(), Some("0.1"), 0.5 * done),
                (bucket.as_str(), Some("0.3"), 0.9 * done),
                (bucket.as_str(), Some("+Inf"), done),
                ("vllm:unknown", None, 1.0),
            ]
        };
        let second = Duration::from_secs;
        let (first, last) = (reading(&scrapes, &page(0.0, 0.0)), reading(&scrapes, &page(40.0, 3.0)));
        scrapes.edge(second(1), first);
        let between = reading(&scrapes, &page(20.0, 6.0));
        scrapes.sample(second(5), between);
        scrapes.edge(second(11), last);
        let report = serde_json::to_value(scrapes.report(second(2), second(10)).unwrap()).unwrap();
        let at = |path: &str| report.pointer(&format!("/successes/{path}")).unwrap();
        assert_eq!(
            (at("count"), at("rate"), at("prompt_len/mean")),
            (&40.0.into(), &4.0.into(), &30.0.into())
        );
        assert_eq!(at("num_requests_running/mean"), 3.0);
        let close =
            |path: &str, value: f64| assert!((at(path).as_f64().unwrap() - value).abs() < 1e-9, "{path}");
        close("time_to_first_token/mean", 0.2);
        close("time_to_first_token/median", 0.1);
        close("time_to_first_token/p90", 0.3);
        close("time_to_first_token/p99", 0.3);
        assert!(at("kv_block_lifetime/mean").is_null() && at("corrupted_requests").is_null());
        assert!(Scrapes::new(MetricFamily::Tgi).report(second(0), second(1)).is_none(), "no page was read");
    }

    #[test]
    fn samples_are_bounded() {
        let mut scrapes = Scrapes::new(MetricFamily::Vllm);
        (0..20_000).for_each(|second| scrapes.sample(Duration::from_secs(second), Reading::default()));
        assert!(scrapes.samples.len() <= SAMPLES);
    }
}
