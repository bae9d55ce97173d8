//! By how much counters grew in a window.
//!
//! A rate is the growth between two readings, by the time between them. The first is on the line between the readings
//! around the window's start, or, in a window of only a few readings, the last one before it; the second is the first one
//! after its end. A reading at an edge was taken while nothing was under way: where one was the last before the window,
//! or comes within [`AT_ONCE`] after it, it is what the counter was then.
//!
//! A counter that is not on the page yet stands at 0, because servers make a series when they first count something for
//! it; only what the first reading of all shows had been counted before. A counter that falls was started again, from 0.

use std::time::Duration;

use super::series::{EngineSeries, Row};

/// So soon after a window, a reading at an edge is that of its end.
const AT_ONCE: Duration = Duration::from_secs(1);
/// A window of so many gaps between readings is long enough for straight lines.
const FINE: u32 = 4;

/// What a counter counted.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Grown {
    pub(super) total: f64,
    /// In so many seconds.
    pub(super) seconds: f64,
}

impl EngineSeries {
    /// A counter at each reading, from 0 at the first.
    pub(super) fn counted(&self, value: impl Fn(&Row) -> Option<f64>) -> Vec<(&Row, f64)> {
        let Some(first) = self.rows.iter().position(|row| value(row).is_some()) else { return Vec::new() };
        let (mut total, mut last) = (0.0, None);
        let counted = self.rows.iter().enumerate().filter_map(|(index, row)| {
            let now = if index < first { 0.0 } else { value(row)? };
            total += match last.replace(now) {
                Some(before) if now >= before => now - before,
                Some(_) => now,
                None => 0.0,
            };
            Some((row, total))
        });
        counted.collect()
    }

    /// By how much a counter grew in a window.
    pub(super) fn growth(
        &self,
        value: impl Fn(&Row) -> Option<f64>,
        start: Duration,
        end: Duration,
    ) -> Option<Grown> {
        let counted = self.counted(value);
        let after = counted.partition_point(|(row, _)| row.at < end);
        let edge = counted[after..].iter().find(|(row, _)| row.edge && row.at <= end + AT_ONCE);
        let (row, last) = edge.or(counted.get(after)).or(counted.last())?;
        let (since, first) = at_start(&counted, start, end)?;
        let seconds = row.at.saturating_sub(since).as_secs_f64();
        Some(Grown { total: (last - first).max(0.0), seconds })
    }
}

/// A counter's value at the start of a window, and when that was.
fn at_start(counted: &[(&Row, f64)], start: Duration, end: Duration) -> Option<(Duration, f64)> {
    let after = counted.partition_point(|(row, _)| row.at <= start);
    match (counted[..after].last(), counted.get(after)) {
        (Some(&(before, v0)), Some(&(next, v1))) if !before.edge => {
            let (t0, t1) = (before.at, next.at);
            let fine = (t1 - t0) * FINE <= end.saturating_sub(start);
            let share = (start - t0).as_secs_f64() / (t1 - t0).as_secs_f64();
            Some(if fine { (start, v0 + (v1 - v0) * share) } else { (t0, v0) })
        }
        (Some((row, value)), _) | (None, Some((row, value))) => Some((row.at, *value)),
        (None, None) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{FamilyFigures, Figures};

    fn seconds(seconds: u32) -> Duration {
        Duration::from_secs(seconds.into())
    }

    fn families(pages: &[&str], from: u32, to: u32) -> Vec<FamilyFigures> {
        let mut series = EngineSeries::default();
        for (second, page) in (0..).zip(pages) {
            assert!(series.push(seconds(second), Duration::ZERO, page.as_bytes()).is_some(), "{page}");
        }
        series.families(seconds(from), seconds(to))
    }

    #[test]
    fn a_series_that_appears_has_counted_from_nothing() {
        let late = |done: u32| {
            format!(
                "queue 1\n# TYPE done_total counter\ndone_total{{code=\"200\"}} {done}\n# TYPE wait histogram\n\
                 wait_bucket{{le=\"1\"}} {done}\nwait_bucket{{le=\"+Inf\"}} {done}\nwait_sum {}\nwait_count {done}\n",
                2 * done
            )
        };
        let pages = ["queue 1\n".to_owned(), "queue 1\n".to_owned(), late(30), late(40), late(40)];
        let pages: Vec<&str> = pages.iter().map(String::as_str).collect();
        let found = families(&pages, 0, 4);
        let (_, Figures::Counter(done)) = &found[0].series[0] else { panic!("{found:?}") };
        assert_eq!((done.total, done.rate), (40.0, 10.0));
        assert_eq!(done.rates.map(|rates| (rates.min, rates.max)), Some((0.0, 30.0)));
        let (_, Figures::Histogram(wait)) = &found[2].series[0] else { panic!("{found:?}") };
        assert_eq!((wait.count, wait.sum, wait.buckets[0].1), (40.0, 80.0, 40.0));
        let found = families(&pages[2..], 0, 2);
        let (_, Figures::Counter(done)) = &found[0].series[0] else { panic!("{found:?}") };
        assert_eq!(done.total, 10.0, "what the first reading shows was counted before");
    }

    #[test]
    fn a_counter_that_starts_again_goes_on_counting() {
        let pages = ["x_total 500\n", "x_total 600\n", "x_total 20\n", "x_total 50\n"];
        let pages = pages.map(|line| format!("# TYPE x_total counter\n{line}"));
        let found = families(&pages.each_ref().map(String::as_str), 0, 3);
        let (_, Figures::Counter(growth)) = &found[0].series[0] else { panic!("{found:?}") };
        assert_eq!(growth.total, 150.0);
        assert_eq!(growth.rates.map(|rates| (rates.min, rates.max)), Some((20.0, 100.0)));
    }

    #[test]
    fn a_rate_is_by_the_time_between_the_readings() {
        let mut series = EngineSeries::default();
        for (at, edge) in [(0.0, true), (1.0, false), (2.0, false), (3.0, false), (3.4, true)] {
            let page = format!("# TYPE x_total counter\nx_total {}\n", 100.0 * at);
            let at = Duration::from_secs_f64(at);
            match edge {
                true => series.push_edge(at, Duration::ZERO, page.as_bytes()),
                false => series.push(at, Duration::ZERO, page.as_bytes()),
            };
        }
        let found = series.families(Duration::from_secs_f64(0.2), Duration::from_secs_f64(3.2));
        let (_, Figures::Counter(growth)) = &found[0].series[0] else { panic!("{found:?}") };
        assert!((growth.rate - 100.0).abs() < 1e-9, "no more than in any part of it: {growth:?}");
    }
}
