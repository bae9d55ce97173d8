//! The figures of everything on a metrics page, over a window: gauges, counters, histograms, each series for itself.

use std::time::Duration;

use protocol::FamilyKind;

use super::{
    gauge::Gauge,
    growth::Grown,
    series::{EngineSeries, SeriesHead},
};
use crate::summary::ratio;

/// The percentiles of files.
pub(crate) const PERCENTS: [f64; 9] = [1.0, 5.0, 10.0, 25.0, 50.0, 75.0, 90.0, 95.0, 99.0];

/// A family with the figures of its series.
#[derive(Clone, Debug, PartialEq)]
pub struct FamilyFigures {
    /// Its name.
    pub name: String,
    /// What it is.
    pub kind: FamilyKind,
    /// What the page says of it.
    pub help: String,
    /// By labels.
    pub series: Vec<(Vec<(String, String)>, Figures)>,
}

/// What a series came to.
#[derive(Clone, Debug, PartialEq)]
pub enum Figures {
    /// Of a gauge, or of what has no kind.
    Gauge(Gauge),
    /// Of a counter.
    Counter(Growth),
    /// Of a histogram.
    Histogram(Observed),
}

/// The growth of a counter, and its rates between readings.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Growth {
    /// Over the window.
    pub total: f64,
    /// That per second.
    pub rate: f64,
    /// Of the rates between two readings inside the window; absent where there are none.
    pub rates: Option<Rates>,
}

/// The rates between two readings.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rates {
    /// Mean, weighted by time.
    pub avg: f64,
    /// Smallest.
    pub min: f64,
    /// Largest.
    pub max: f64,
    /// Standard deviation, not weighted.
    pub std: f64,
}

/// What a histogram observed in the window.
#[derive(Clone, Debug, PartialEq)]
pub struct Observed {
    /// Observations.
    pub count: f64,
    /// Their sum.
    pub sum: f64,
    /// Observations a second.
    pub count_rate: f64,
    /// Sum a second.
    pub sum_rate: f64,
    /// Estimates at [`PERCENTS`]: straight lines inside buckets, as Prometheus draws them.
    pub percentiles: Option<[f64; 9]>,
    /// Observations of at most each bound.
    pub buckets: Vec<(String, f64)>,
}

impl EngineSeries {
    /// The figures of the whole page between two times, by name.
    pub fn families(&self, start: Duration, end: Duration) -> Vec<FamilyFigures> {
        let mut families: Vec<FamilyFigures> = self
            .families
            .iter()
            .map(|head| FamilyFigures {
                name: head.name.clone(),
                kind: head.kind,
                help: head.help.clone(),
                series: Vec::new(),
            })
            .collect();
        for head in &self.series {
            let family = &mut families[head.family];
            if let Some(figures) = self.figures_of(head, family.kind, start, end) {
                family.series.push((head.labels.clone(), figures));
            }
        }
        families.retain(|family| !family.series.is_empty());
        families.iter_mut().for_each(|family| family.series.sort_by(|a, b| a.0.cmp(&b.0)));
        families.sort_by(|a, b| a.name.cmp(&b.name));
        families
    }

    fn figures_of(
        &self,
        head: &SeriesHead,
        kind: FamilyKind,
        start: Duration,
        end: Duration,
    ) -> Option<Figures> {
        let column = |column: usize| self.known(move |row| row.value(column));
        let grown = |column: usize| self.growth(|row| row.value(column), start, end);
        match kind {
            FamilyKind::Gauge | FamilyKind::Unknown => {
                let inside = |(at, _): &(Duration, f64)| (start..=end).contains(at);
                let samples = column(head.column).into_iter().filter(inside).map(|(_, value)| value);
                Gauge::of(samples.collect()).map(Figures::Gauge)
            }
            FamilyKind::Counter => {
                let Grown { total, seconds } = grown(head.column)?;
                let counted = self.counted(|row| row.value(head.column));
                let counted: Vec<_> = counted.into_iter().map(|(row, total)| (row.at, total)).collect();
                let rates = Rates::between(&counted, start, end);
                Some(Figures::Counter(Growth { total, rate: ratio(total, seconds)?, rates }))
            }
            FamilyKind::Histogram => {
                let Grown { total: sum, seconds } = grown(head.column)?;
                let count = grown(head.column + 1)?.total;
                let buckets = head.bounds.iter().zip(head.column + 2..);
                let buckets: Vec<_> =
                    buckets.filter_map(|(bound, place)| Some((bound.clone(), grown(place)?.total))).collect();
                let percentiles =
                    (count > 0.0).then(|| PERCENTS.map(|percent| quantile(&buckets, percent / 100.0)));
                Some(Figures::Histogram(Observed {
                    count,
                    sum,
                    count_rate: ratio(count, seconds)?,
                    sum_rate: ratio(sum, seconds)?,
                    percentiles,
                    buckets,
                }))
            }
        }
    }
}

impl Rates {
    /// `known` never falls.
    fn between(known: &[(Duration, f64)], start: Duration, end: Duration) -> Option<Self> {
        let inside =
            |pair: &&[(Duration, f64)]| pair[0].0 >= start && pair[1].0 <= end && pair[1].0 > pair[0].0;
        let steps = known.windows(2).filter(inside).map(|pair| {
            let seconds = (pair[1].0 - pair[0].0).as_secs_f64();
            ((pair[1].1 - pair[0].1) / seconds, seconds)
        });
        let steps: Vec<(f64, f64)> = steps.collect();
        let all = Gauge::of(steps.iter().map(|step| step.0).collect())?;
        let weighted: f64 = steps.iter().map(|(rate, seconds)| rate * seconds).sum();
        let avg = weighted / steps.iter().map(|step| step.1).sum::<f64>();
        Some(Self { avg, min: all.min, max: all.max, std: all.std })
    }
}

/// Where a share of the observations lies at most; in the last bucket, its lower bound.
pub(crate) fn quantile(buckets: &[(String, f64)], share: f64) -> f64 {
    let mut bounds: Vec<(f64, f64)> =
        buckets.iter().filter_map(|(bound, count)| Some((bound.parse().ok()?, *count))).collect();
    bounds.sort_by(|a, b| a.0.total_cmp(&b.0));
    let rank = share * bounds.last().map_or(0.0, |(_, count)| *count);
    let (mut below, mut before) = (0.0, 0.0);
    for (bound, count) in bounds {
        if bound.is_infinite() {
            break;
        }
        if count >= rank {
            let inside = count - before;
            // A first bucket below zero has no lower bound.
            let low = if bound <= 0.0 { bound } else { below };
            return if inside > 0.0 { low + (bound - low) * (rank - before) / inside } else { low };
        }
        (below, before) = (bound, count);
    }
    below
}

#[cfg(test)]
mod tests {
    use super::*;

    const LATENCY: Duration = Duration::from_millis(2);

    fn page(second: u32) -> String {
        let busy = second.clamp(2, 8) - 2;
        format!(
            "# HELP queue Waiting.\n# TYPE queue gauge\nqueue{{m=\"a\"}} {second}\nqueue{{m=\"b\"}} 7\n\
             # TYPE tokens_total counter\ntokens_total {}\n# TYPE wait_seconds histogram\n\
             wait_seconds_bucket{{le=\"0.1\"}} {}\nwait_seconds_bucket{{le=\"0.5\"}} {}\n\
             wait_seconds_bucket{{le=\"+Inf\"}} {}\nwait_seconds_sum {}\nwait_seconds_count {}\n",
            1000 + 100 * busy,
            5 + 5 * busy,
            9 + 9 * busy,
            10 + 10 * busy,
            3 + 3 * busy,
            10 + 10 * busy
        )
    }

    fn series() -> EngineSeries {
        let mut series = EngineSeries::default();
        for second in 0..=10 {
            assert!(
                series.push(Duration::from_secs(second.into()), LATENCY, page(second).as_bytes()).is_some()
            );
        }
        series
    }

    #[test]
    fn every_series_of_the_page_has_figures_of_the_window_alone() {
        let families = series().families(Duration::from_secs(2), Duration::from_secs(8));
        let names: Vec<_> = families.iter().map(|family| family.name.as_str()).collect();
        assert_eq!(names, ["queue", "tokens", "wait_seconds"]);
        let (labels, Figures::Gauge(gauge)) = &families[0].series[0] else { panic!("{families:?}") };
        assert_eq!(
            (labels.as_slice(), families[0].series.len()),
            (&[("m".to_owned(), "a".to_owned())][..], 2)
        );
        assert_eq!((gauge.avg, gauge.min, gauge.max, gauge.std), (5.0, 2.0, 8.0, 2.0));
        assert_eq!((gauge.percentile(50.0), gauge.percentile(98.0)), (Some(5.0), None));
        assert!((gauge.percentile(99.0).unwrap() - 7.94).abs() < 1e-9);
        let (_, Figures::Counter(growth)) = &families[1].series[0] else { panic!("{families:?}") };
        assert_eq!((growth.total, growth.rate), (600.0, 100.0));
        assert_eq!(growth.rates, Some(Rates { avg: 100.0, min: 100.0, max: 100.0, std: 0.0 }));
        let (_, Figures::Histogram(wait)) = &families[2].series[0] else { panic!("{families:?}") };
        assert_eq!((wait.count, wait.sum, wait.count_rate, wait.sum_rate), (60.0, 18.0, 10.0, 3.0));
        let buckets =
            [("0.1", 30.0), ("0.5", 54.0), ("+Inf", 60.0)].map(|(le, count)| (le.to_owned(), count));
        assert_eq!(wait.buckets, buckets);
        let at = |place: usize| wait.percentiles.unwrap()[place];
        assert!((at(4) - 0.1).abs() < 1e-9, "half of them are in the first bucket");
        assert!((at(5) - 0.35).abs() < 1e-9, "three quarters: 15 of the 24 in the second");
        assert_eq!(at(8), 0.5, "the last bucket has no upper bound");
    }

    #[test]
    fn nothing_in_the_window_is_no_nonsense() {
        let families = series().families(Duration::from_secs(9), Duration::from_secs(10));
        let (_, Figures::Histogram(wait)) = &families[2].series[0] else { panic!("{families:?}") };
        assert_eq!((wait.count, wait.percentiles), (0.0, None));
        let (_, Figures::Counter(growth)) = &families[1].series[0] else { panic!("{families:?}") };
        assert_eq!((growth.total, growth.rate), (0.0, 0.0));
        assert_eq!(EngineSeries::default().families(Duration::ZERO, Duration::from_secs(1)), []);
    }

    #[test]
    fn a_page_comes_back_as_it_was() {
        let series = series();
        let (at, latency, families) = series.readings().nth(4).unwrap();
        assert_eq!((at, latency), (Duration::from_secs(4), LATENCY));
        assert_eq!(families, protocol::families(page(4).as_bytes()));
    }

    #[test]
    fn fetches_are_counted_and_changes_told_apart() {
        let mut series = series();
        series.push(Duration::from_secs(12), LATENCY, page(10).as_bytes());
        let fetches = &series.fetches;
        assert_eq!((fetches.count, fetches.updates), (12, 11), "the queue grows every second, then stands");
        let seconds =
            |span: Option<(Duration, Duration)>| span.map(|(from, to)| (from.as_secs(), to.as_secs()));
        assert_eq!((seconds(fetches.span), seconds(fetches.update_span)), (Some((0, 12)), Some((0, 10))));
        assert!(series.push(Duration::from_secs(13), LATENCY, b"<html>").is_none());
        assert_eq!((series.failed, series.problem.as_deref()), (1, Some("no metrics are on it")));
    }

    #[test]
    fn readings_are_bounded_by_their_numbers_too() {
        let mut series = EngineSeries::with_room(90);
        for second in 0..100 {
            series.push(Duration::from_secs(second), LATENCY, page(5).as_bytes());
        }
        // Eight numbers a page.
        let kept: Vec<u64> = series.readings().map(|(at, ..)| at.as_secs()).collect();
        assert!((5..=11).contains(&kept.len()), "{kept:?}");
        assert!(kept.windows(2).all(|pair| pair[1] - pair[0] == kept[1] - kept[0]), "evenly: {kept:?}");
    }
}
