//! A stage as it will be run: what starts its requests, what bounds them, and when it begins.

use std::time::Duration;

use super::{Config, Shard, StageLoad, config::Load, times::count};
use crate::{Limits, Pattern, Phase, PhaseKind};

/// aiohttp's, which inference-perf leaves as it is.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(300);
/// After a sweep's probe, answers are waited for this long.
const PROBE_GRACE: Duration = Duration::from_secs(1);

/// A stage, as it will be run.
#[derive(Clone, Debug, PartialEq)]
pub struct StagePlan {
    /// Place among the stages; names the files.
    pub number: u16,
    /// What starts its requests.
    pub law: Law,
    /// Requests a second that are asked for.
    pub requested_rate: Option<f64>,
    /// Its length as asked for.
    pub duration: Option<Duration>,
    /// Requests; for sessions, sessions; all shards together.
    pub count: Option<u64>,
}

/// What starts the requests of a stage.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Law {
    /// A rate.
    Rate(Pattern, f64, u64),
    /// A trace.
    Trace,
    /// The end of an earlier one: so many at a time.
    Closed(u32),
    /// The same for sessions: so many at a time (`None`: all at once), and no more than so many started a second.
    Sessions(Option<u32>, Option<f64>),
}

impl Law {
    /// Requests come at times of their own, whatever the server does.
    fn is_open(self) -> bool {
        matches!(self, Self::Rate(..) | Self::Trace)
    }

    /// The next one starts when an earlier one has ended, and at no time of its own.
    pub fn is_closed(self) -> bool {
        matches!(self, Self::Closed(_) | Self::Sessions(Some(_), None))
    }
}

// === impl StagePlan ===

impl StagePlan {
    /// The number of a sweep's probes.
    pub const PROBE: u16 = u16::MAX;

    /// A stage at a rate.
    pub(super) fn at_rate(number: u16, pattern: Pattern, rate: f64, duration_s: u64) -> Self {
        Self {
            number,
            law: Law::Rate(pattern, rate, duration_s),
            requested_rate: Some(rate),
            duration: Some(Duration::from_secs(duration_s)),
            count: Some(count(rate, duration_s)),
        }
    }

    /// A probe of a sweep.
    pub fn probe(config: &Config, rate: f64, duration_s: u64) -> Self {
        Self::at_rate(Self::PROBE, config.load.pattern(), rate, duration_s)
    }

    /// The most requests, or sessions, of a shard at a time.
    pub fn concurrency(&self, load: &Load, shard: Shard, has_sessions: bool) -> Option<u32> {
        let share = |level: u32| u32::try_from(shard.share(level.into())).unwrap_or(u32::MAX);
        match self.law {
            Law::Closed(level) => Some(share(level)),
            Law::Sessions(level, _) => level.map(share),
            // A session would keep its slot while it waits for its next turn: its requests are bounded one by one.
            Law::Rate(..) | Law::Trace if has_sessions => None,
            Law::Rate(..) | Law::Trace => load.bound(),
        }
    }

    /// What a shard sends.
    pub fn phase(&self, load: &Load, shard: Shard, starts: StageLoad) -> Phase {
        let duration = match self.law {
            // An overloaded server has a queue when a probe is over; it is not waited for.
            _ if self.number == Self::PROBE => self.duration,
            Law::Rate(..) if load.num_workers == Some(0) => self.duration,
            Law::Sessions(..) => self.duration,
            _ => None,
        };
        let is_open = self.law.is_open();
        let limits = Limits {
            concurrency: self.concurrency(load, shard, starts.has_sessions),
            duration,
            grace: match self.number {
                Self::PROBE => Some(PROBE_GRACE),
                _ => duration.map(|_| Duration::from_secs_f64(load.stage_teardown_grace_seconds)),
            },
            requests_in_flight: load.bound().filter(|_| is_open && starts.has_sessions),
            requests: starts.requests,
            request_timeout: Some(load.request_timeout.map_or(REQUEST_TIMEOUT, Duration::from_secs_f64)),
            ..Limits::default()
        };
        Phase {
            name: format!("stage {}", self.number),
            kind: PhaseKind::Measured,
            limits,
            closed_loop: self.law.is_closed(),
            target_rate: is_open.then(|| shard.rate(self.requested_rate.unwrap_or(1.0))),
            expected_requests: self.count.map(|count| shard.share(count)),
            arrivals: starts.arrivals,
        }
    }

    /// When each stage begins, from the start of the first, if the lengths of all before it are known beforehand.
    pub fn starts(plans: &[Self], pause: Duration) -> Vec<Option<Duration>> {
        let starts = plans.iter().scan(Some(Duration::ZERO), |next, plan| {
            let start = *next;
            let length = plan.duration.filter(|_| plan.law.is_open());
            *next = start.zip(length).map(|(start, length)| start + length + pause);
            Some(start)
        });
        starts.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn starts_nothing() -> StageLoad {
        StageLoad { arrivals: Box::new(std::iter::empty()), requests: None, has_sessions: false }
    }

    #[test]
    fn a_stage_begins_when_those_before_it_and_the_pauses_have_passed() {
        let rate = |number| StagePlan::at_rate(number, Pattern::Constant, 5.0, 10);
        let closed = StagePlan { law: Law::Closed(4), duration: None, ..rate(2) };
        let plans = [rate(0), rate(1), closed, rate(3)];
        let starts = StagePlan::starts(&plans, SECOND);
        assert_eq!(starts, [Some(Duration::ZERO), Some(11 * SECOND), Some(22 * SECOND), None]);
    }

    #[test]
    fn workers_bound_an_open_load_and_shards_share_a_closed_one() {
        let load = Load { num_workers: Some(2), worker_max_concurrency: 3, ..Load::default() };
        let shard = Shard { index: 1, count: 2 };
        let open = StagePlan::at_rate(0, Pattern::Poisson, 10.0, 4);
        let phase = open.phase(&load, shard, starts_nothing());
        assert_eq!((phase.limits.concurrency, phase.limits.duration), (Some(6), None));
        assert_eq!((phase.target_rate, phase.expected_requests), (Some(5.0), Some(20)));
        let closed = StagePlan { law: Law::Closed(5), requested_rate: None, ..open };
        let phase = closed.phase(&load, shard, starts_nothing());
        assert_eq!((phase.limits.concurrency, phase.target_rate), (Some(2), None));
        let probe = StagePlan::probe(&Config::default(), 10.0, 4).phase(&load, shard, starts_nothing());
        assert_eq!((probe.limits.duration, probe.limits.grace), (Some(4 * SECOND), Some(PROBE_GRACE)));
    }

    #[test]
    fn one_process_has_only_its_connections_for_a_bound() {
        let load = |connections| Load {
            num_workers: Some(0),
            worker_max_tcp_connections: connections,
            ..Load::default()
        };
        assert_eq!((load(0).bound(), load(50).bound()), (None, Some(50)));
    }
}
