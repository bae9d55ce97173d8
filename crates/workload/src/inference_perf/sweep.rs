//! The stages of a sweep, once the rate up to which they go is known.

use super::{Config, StagePlan, Sweep, SweepMode, SweepType};

/// One stage past the knee: the rate by so much.
const PAST: f64 = 1.2;

/// The stages up to `rate` requests a second. Where `rate` is a knee, one more goes past it.
pub fn sweep_stages(config: &Config, rate: f64, is_knee: bool) -> Vec<StagePlan> {
    let Some(sweep) = &config.load.sweep else { return Vec::new() };
    let past = (is_knee && config.evenload.sweep == SweepMode::Knee).then_some(rate * PAST);
    let rates = rates(sweep, rate).into_iter().chain(past);
    let pattern = config.load.pattern();
    let stage = |(number, rate)| StagePlan::at_rate(number, pattern, rate, sweep.stage_duration);
    (0_u16..).zip(rates).map(stage).collect()
}

/// inference-perf's: from 1 to `most`, in equal steps rounded to cents, or geometrically and close together near
/// `most`.
fn rates(sweep: &Sweep, most: f64) -> Vec<f64> {
    let steps = f64::from(sweep.num_stages.saturating_sub(1)).max(1.0);
    let rate = |place: u32| {
        let share = f64::from(place) / steps;
        let rate = match sweep.r#type {
            Some(SweepType::Geometric) => 1.0 + most - most.powf(1.0 - share),
            _ => 1.0 + (most - 1.0) * share,
        };
        (rate * 100.0).round() / 100.0
    };
    match sweep.num_stages {
        1 => vec![1.0],
        stages => (0..stages).map(rate).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sweep(kind: SweepType, stages: u32) -> Sweep {
        Sweep { r#type: Some(kind), num_stages: stages, ..Sweep::default() }
    }

    #[test]
    fn rates_grow_as_theirs_do() {
        assert_eq!(rates(&sweep(SweepType::Geometric, 5), 154.68), [1.0, 111.82, 143.24, 152.15, 154.68]);
        assert_eq!(rates(&sweep(SweepType::Linear, 3), 154.68), [1.0, 77.84, 154.68]);
        assert_eq!(rates(&sweep(SweepType::Linear, 1), 154.68), [1.0]);
    }

    #[test]
    fn one_stage_lies_past_a_knee_that_is_known() {
        let mut config = Config::default();
        config.load.sweep = Some(sweep(SweepType::Linear, 2));
        let asked = |config: &Config, is_knee| -> Vec<f64> {
            let stages = sweep_stages(config, 100.0, is_knee);
            stages.iter().filter_map(|stage| stage.requested_rate).collect()
        };
        assert_eq!(asked(&config, true), [1.0, 100.0, 120.0]);
        assert_eq!(asked(&config, false), [1.0, 100.0]);
        config.evenload.sweep = SweepMode::Compat;
        assert_eq!(asked(&config, true), [1.0, 100.0]);
        assert_eq!(sweep_stages(&config, 100.0, true)[1].count, Some(18_000));
    }
}
