//! Warnings about a run against simulated engines that are faster than real ones, told in the engines' time.

use crate::Warning;

impl Warning {
    /// Tells times and rates by the clock of simulated engines that are so many times as fast as real ones.
    pub fn speed_up(&mut self, factor: f64) {
        match self {
            Self::Late { speedup, .. } => *speedup *= factor,
            Self::RateMissed { achieved, scheduled, .. }
            | Self::PacedByConcurrency { achieved, scheduled, .. } => {
                (*achieved, *scheduled) = (*achieved / factor, *scheduled / factor);
            }
            Self::StoodStill { longest_ms, .. } => *longest_ms *= factor,
            Self::ReadLate { p99_ms } => *p99_ms *= factor,
            Self::EnginesLate { step_ms, lag_ms, .. } => {
                (*step_ms, *lag_ms) = (*step_ms * factor, *lag_ms * factor);
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Blame;

    #[test]
    fn a_speed_up_changes_what_is_told_and_not_what_it_weighs() {
        let blame = Blame { stolen: None, rate: "--speedup" };
        let late = Warning::Late { p99_ms: 0.8, median_ttft_ms: 5.0, speedup: 1.0, blame };
        let missed = Warning::RateMissed { achieved: 3000.0, scheduled: 3200.0, blame };
        let engines = Warning::EnginesLate { step_ms: 10.0, lag_ms: 3.0, speedup: "--speedup" };
        for (mut warning, told) in [
            (
                late,
                "up to 3.20 ms late (P99), about as long as the wake-up of a thread takes; the median TTFT is only 20.00 ms",
            ),
            (missed, "750.0 requests/s were sent instead of 800.0"),
            (engines, "engine steps of 40.0 ms ended 12.0 ms late"),
            (Warning::StoodStill { longest_ms: 20.0, touched: 0.1 }, "up to 80 ms"),
            (Warning::ReadLate { p99_ms: 2.0 }, "up to 8.0 ms"),
        ] {
            let weighs = warning.severity();
            warning.speed_up(4.0);
            assert!(warning.to_string().contains(told), "{warning}");
            assert_eq!(warning.severity(), weighs);
        }
    }
}
