//! A rate over time: straight lines between points, level before the first and after the last.

use std::time::Duration;

use crate::Error;

/// Requests a second, as a function of the time since the start of the phase.
#[derive(Clone, Debug, PartialEq)]
pub struct Rate(Vec<Point>);

#[derive(Clone, Copy, Debug, PartialEq)]
struct Point {
    at_s: f64,
    rate: f64,
    /// Requests expected up to here.
    before: f64,
}

impl Rate {
    /// The same rate for ever.
    pub fn constant(rate: f64) -> Result<Self, Error> {
        Self::series([(Duration::ZERO, rate)])
    }

    /// From one rate to another over a time, then level.
    pub fn ramp(from: f64, to: f64, over: Duration) -> Result<Self, Error> {
        if over.is_zero() { Self::constant(to) } else { Self::series([(Duration::ZERO, from), (over, to)]) }
    }

    /// Straight lines between points in order of time.
    pub fn series(points: impl IntoIterator<Item = (Duration, f64)>) -> Result<Self, Error> {
        let mut series: Vec<Point> = Vec::new();
        for (at, rate) in points {
            if !(0.0..=1e9).contains(&rate) {
                return Err(Error::Setting(format!(
                    "a rate of {rate:?} a second: give a number from 0 to 1e9"
                )));
            }
            let at_s = at.as_secs_f64();
            let before = match series.last() {
                None => rate * at_s,
                Some(last) if last.at_s < at_s => last.before + (last.rate + rate) / 2.0 * (at_s - last.at_s),
                Some(_) => return Err(Error::Setting("the times of a rate series must rise".into())),
            };
            series.push(Point { at_s, rate, before });
        }
        if series.iter().all(|point| point.rate == 0.0) {
            return Err(Error::Setting("a rate of 0 never sends anything".into()));
        }
        Ok(Self(series))
    }

    /// The rate that is reached and kept.
    pub fn last(&self) -> f64 {
        self.0.last().map_or(0.0, |point| point.rate)
    }

    /// The time in seconds by which `count` requests are expected; `None` where the rate falls to 0 before.
    pub(crate) fn time_of(&self, count: f64) -> Option<f64> {
        let after = self.0.partition_point(|point| point.before <= count);
        let Some(start) = after.checked_sub(1).map(|index| self.0[index]) else {
            return Some(count / self.0[0].rate);
        };
        let slope = self.0.get(after).map_or(0.0, |end| (end.rate - start.rate) / (end.at_s - start.at_s));
        let wanted = count - start.before;
        // The root of rate*t + slope/2*t^2 = wanted, in the form that also holds for a slope of 0.
        let end_rate = (start.rate * start.rate + 2.0 * slope * wanted).max(0.0).sqrt();
        let time = if wanted == 0.0 { 0.0 } else { 2.0 * wanted / (start.rate + end_rate) };
        time.is_finite().then_some(start.at_s + time)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn seconds(seconds: f64) -> Duration {
        Duration::from_secs_f64(seconds)
    }

    #[track_caller]
    fn near(actual: Option<f64>, expected: f64) {
        let actual = actual.unwrap();
        assert!((actual - expected).abs() < 1e-9, "{actual} is not {expected}");
    }

    #[test]
    fn times_are_the_inverse_of_the_expected_count() {
        let constant = Rate::constant(4.0).unwrap();
        near(constant.time_of(0.0), 0.0);
        near(constant.time_of(10.0), 2.5);
        // 0 to 10 a second over 2 s is 10 requests; a quarter of them by half the time; then 10 a second.
        let ramp = Rate::ramp(0.0, 10.0, seconds(2.0)).unwrap();
        near(ramp.time_of(2.5), 1.0);
        near(ramp.time_of(10.0), 2.0);
        near(ramp.time_of(30.0), 4.0);
        assert_eq!(ramp.last(), 10.0);
        let down = Rate::series([(seconds(1.0), 6.0), (seconds(3.0), 2.0)]).unwrap();
        near(down.time_of(3.0), 0.5);
        near(down.time_of(11.0), 2.0);
        near(down.time_of(14.0), 3.0);
        near(down.time_of(16.0), 4.0);
    }

    proptest! {
        #[test]
        fn whatever_the_points_as_many_are_expected_by_the_time_as_asked(
            points in prop::collection::vec((1_u64..20_000, 0.0..500.0_f64), 1..8),
            count in 0.0..1e5_f64,
        ) {
            let mut at = 0;
            let points: Vec<(Duration, f64)> = points
                .into_iter()
                .map(|(gap_ms, rate)| {
                    at += gap_ms;
                    (Duration::from_millis(at), rate)
                })
                .collect();
            let expected_by = |time: f64| {
                let mut area = points[0].1 * time.min(points[0].0.as_secs_f64());
                for pair in points.windows(2) {
                    let (start, end) = (pair[0].0.as_secs_f64(), pair[1].0.as_secs_f64());
                    let inside = (time.min(end) - start).max(0.0);
                    let slope = (pair[1].1 - pair[0].1) / (end - start);
                    area += pair[0].1 * inside + slope / 2.0 * inside * inside;
                }
                let last = points[points.len() - 1];
                area + last.1 * (time - last.0.as_secs_f64()).max(0.0)
            };
            let rate = Rate::series(points.clone()).unwrap();
            match rate.time_of(count) {
                Some(time) => prop_assert!((expected_by(time) - count).abs() <= 1e-6 * count.max(1.0)),
                None => prop_assert!(rate.last() == 0.0 && expected_by(1e9) <= count),
            }
        }
    }

    #[test]
    fn a_rate_that_falls_to_zero_ends() {
        let rate = Rate::series([(seconds(0.0), 2.0), (seconds(2.0), 0.0)]).unwrap();
        near(rate.time_of(2.0), 2.0);
        assert_eq!(rate.time_of(2.1), None);
    }

    #[test]
    fn rates_that_cannot_be_kept_are_refused() {
        for rate in [0.0, -1.0, f64::NAN, f64::INFINITY] {
            assert!(Rate::constant(rate).is_err(), "{rate}");
        }
        assert!(Rate::series([]).is_err());
        assert!(Rate::series([(seconds(2.0), 1.0), (seconds(2.0), 3.0)]).is_err());
        assert!(Rate::ramp(1.0, 5.0, Duration::ZERO).is_ok_and(|rate| rate == Rate::constant(5.0).unwrap()));
    }
}
