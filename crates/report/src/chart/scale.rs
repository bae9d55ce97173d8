//! From values to places: linear and logarithmic scales with round ticks.

use crate::format::thousands;

/// Maps values to places along an axis of length one.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Scale {
    low: f64,
    high: f64,
    logarithmic: bool,
    step: f64,
}

impl Scale {
    /// From zero to at least `max`, in about `ticks` round steps.
    pub(super) fn linear(max: f64, ticks: f64) -> Self {
        let max = if max.is_finite() && max > 0.0 { max } else { 1.0 };
        let step = round_up(max / ticks, &[1.0, 2.0, 2.5, 5.0]);
        Self { low: 0.0, high: (max / step - 1e-9).ceil() * step, logarithmic: false, step }
    }

    /// From zero to exactly `max`: for bars and for time.
    pub(super) fn exact(max: f64, ticks: f64) -> Self {
        let scale = Self::linear(max, ticks);
        let high = if max.is_finite() && max > 0.0 { max } else { scale.high };
        Self { high, ..scale }
    }

    /// From the next of 1, 2, 5 times a power of ten at or below `min` to the next at or above `max`; the step
    /// is in powers of ten.
    pub(super) fn logarithmic(min: f64, max: f64) -> Self {
        let usable = |value: f64| if value.is_finite() && value > 0.0 { value } else { 1.0 };
        let low = -round_up(1.0 / usable(min).max(1e-300), &[1.0, 2.0, 5.0]).log10();
        let high = round_up(usable(max).max(usable(min) * 2.0), &[1.0, 2.0, 5.0]).log10();
        Self { low, high, logarithmic: true, step: ((high - low) / 6.0).ceil() }
    }

    /// 0 at the low end, 1 at the high end; values beyond an end count as that end.
    pub(super) fn place(&self, value: f64) -> f64 {
        let value = if self.logarithmic { value.max(f64::MIN_POSITIVE).log10() } else { value };
        ((value - self.low) / (self.high - self.low)).clamp(0.0, 1.0)
    }

    /// Places and labels of the ticks.
    pub(super) fn ticks(&self) -> Vec<(f64, String)> {
        let values: Vec<f64> = if self.logarithmic {
            let factors: &[f64] = if self.high - self.low > 2.01 { &[1.0] } else { &[1.0, 2.0, 5.0] };
            let powers = (self.low.floor() as i32..=self.high.ceil() as i32).step_by(self.step as usize);
            let values =
                powers.flat_map(|power| factors.iter().map(move |factor| factor * 10_f64.powi(power)));
            values.filter(|value| (self.low - 1e-9..=self.high + 1e-9).contains(&value.log10())).collect()
        } else {
            let count = ((self.high - self.low) / self.step + 1e-9).floor() as usize;
            (0..=count).map(|index| self.low + index as f64 * self.step).collect()
        };
        values.into_iter().map(|value| (self.place(value), self.label(value))).collect()
    }

    /// As many decimals as the step has, so that ticks line up.
    fn label(&self, value: f64) -> String {
        let unit = if self.logarithmic { value } else { self.step };
        let decimals = (0..9).find(|&decimals| {
            let scaled = unit * 10_f64.powi(decimals);
            scaled >= 0.999 && (scaled - scaled.round()).abs() < 1e-6 * scaled
        });
        thousands(value, decimals.unwrap_or(9) as usize)
    }
}

/// The next of `factors` times a power of ten.
fn round_up(rough: f64, factors: &[f64]) -> f64 {
    let power = 10_f64.powf(rough.log10().floor());
    let round = factors.iter().find(|&&factor| rough <= factor * power * (1.0 + 1e-9));
    round.unwrap_or(&10.0) * power
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(scale: &Scale) -> Vec<String> {
        scale.ticks().into_iter().map(|(_, label)| label).collect()
    }

    #[test]
    fn ticks_are_round() {
        assert_eq!(labels(&Scale::linear(69_408.0, 4.0)), ["0", "20,000", "40,000", "60,000", "80,000"]);
        assert_eq!(labels(&Scale::linear(1.0, 4.0)), ["0.00", "0.25", "0.50", "0.75", "1.00"]);
        assert_eq!(labels(&Scale::linear(0.0, 4.0)).len(), 5, "nothing to show still has an axis");
        assert_eq!(labels(&Scale::linear(f64::NAN, 4.0)), labels(&Scale::linear(1.0, 4.0)));
        assert_eq!(labels(&Scale::exact(105.0, 4.0)), ["0", "50", "100"]);
        assert_eq!(labels(&Scale::exact(60.0, 5.0)), ["0", "20", "40", "60"]);
        assert_eq!(labels(&Scale::linear(3.0, 4.0)), ["0", "1", "2", "3"]);
        assert_eq!(labels(&Scale::linear(9.0, 4.0)), ["0.0", "2.5", "5.0", "7.5", "10.0"]);
        assert_eq!(labels(&Scale::logarithmic(12.0, 4_000.0)), ["10", "100", "1,000"]);
        assert_eq!(labels(&Scale::logarithmic(0.03, 0.9)), ["0.02", "0.05", "0.1", "0.2", "0.5", "1"]);
        assert!(labels(&Scale::logarithmic(1e-300, 1e300)).len() <= 8);
    }

    #[test]
    fn places_are_within_the_axis() {
        let scale = Scale::linear(100.0, 4.0);
        assert_eq!((scale.place(50.0), scale.place(-3.0), scale.place(1e9)), (0.5, 0.0, 1.0));
        let scale = Scale::logarithmic(1.0, 100.0);
        assert!((scale.place(10.0) - 0.5).abs() < 1e-9 && scale.place(0.0) == 0.0);
    }
}
