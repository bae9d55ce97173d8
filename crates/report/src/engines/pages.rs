//! The metrics pages of all servers of a run.

use std::time::{Duration, SystemTime};

use super::{EngineFigures, EngineSeries};

/// What was read of the pages of a run.
#[derive(Clone, Debug)]
pub struct EnginePages {
    /// Base URLs of the targets, then the URLs of further pages.
    pub names: Vec<String>,
    /// What was asked for, in the same order: base URLs with the path of the page.
    pub urls: Vec<String>,
    /// In the same order.
    pub series: Vec<EngineSeries>,
    /// Wall-clock time from which their times count.
    pub begun: SystemTime,
}

impl EnginePages {
    /// A window of the run, whose clock started at `started`, on the clock of the pages.
    pub fn window(&self, started: SystemTime, (start, end): (Duration, Duration)) -> (Duration, Duration) {
        let offset = started.duration_since(self.begun).unwrap_or_default();
        (start + offset, end + offset)
    }

    /// The figures of each page over a window on their own clock.
    pub fn figures(&self, (start, end): (Duration, Duration)) -> Vec<EngineFigures> {
        self.series.iter().map(|series| series.figures(start, end)).collect()
    }

    /// What went wrong with each page, where something did.
    pub fn problems(&self) -> Vec<String> {
        let problem = |(url, series): (&String, &EngineSeries)| {
            let problem = series.problem.as_ref()?;
            Some(format!(
                "{url}: {problem} ({} of {} readings failed)",
                series.failed,
                series.failed + series.fetches.count
            ))
        };
        self.urls.iter().zip(&self.series).filter_map(problem).collect()
    }
}
