//! When it is sent: the phases of a run.
//!
//! Arrivals are absolute times from one seed. Later turns of a session follow its answers and think times, whatever
//! the rate; in AIPerf they take the place of a new session in the rate. A fixed schedule, users, a rate and a closed
//! loop are told apart in this order.

use std::{fs, path::Path, time::Duration};

use anyhow::Context;
use report::PhaseShape;
use serde::Deserialize;
use workload::{Arrivals, Limits, Pattern, Phase, PhaseKind, Plan, Rate, user_arrivals};

use super::{
    Arguments,
    data::Data,
    flags::{ArrivalPattern, Grace},
    wrong,
};

/// AIPerf steps a rate ramp every so often, from its first step on.
const RAMP_STEP_S: f64 = 0.1;
/// Answers are waited for so long after the run's duration.
const GRACE: Duration = Duration::from_secs(30);
/// Fewest requests of a run that says nothing about their number.
const FEWEST_REQUESTS: u64 = 10;

/// A plan, and what the output says about it.
#[derive(Debug)]
pub(super) struct Made {
    pub(super) plan: Plan,
    pub(super) shapes: Vec<PhaseShape>,
    /// How the measured phase is paced, as AIPerf names it.
    pub(super) strategy: String,
    /// The measured phase follows the times of a trace.
    pub(super) replays: bool,
    /// Requests of each phase, where they are known.
    pub(super) expected: Vec<Option<u64>>,
    /// Length of each phase, where it is bounded.
    pub(super) durations: Vec<Option<Duration>>,
}

/// How a phase is paced, from flags that both kinds of phases have.
struct Pace {
    concurrency: Option<u32>,
    rate: Option<Rate>,
    pattern: Pattern,
}

impl Made {
    pub(super) fn new(arguments: &Arguments, data: &Data, seed: u64) -> anyhow::Result<Self> {
        let mut phases = Vec::new();
        if arguments.load.warm_up.is_wanted() {
            phases.push(warm_up(arguments, data, seed)?);
        }
        let (phase, strategy) = profiling(arguments, data, seed)?;
        phases.push(phase);
        let shape = |phase: &Phase| PhaseShape {
            name: phase.name.clone(),
            measured: phase.kind == PhaseKind::Measured,
            target_rate: phase.target_rate,
            concurrency: phase.limits.concurrency,
            closed_loop: phase.closed_loop,
        };
        Ok(Self {
            shapes: phases.iter().map(shape).collect(),
            expected: phases.iter().map(|phase| phase.expected_requests).collect(),
            durations: phases.iter().map(|phase| phase.limits.duration).collect(),
            plan: Plan::new(phases),
            replays: data.is_scheduled(arguments)?,
            strategy,
        })
    }
}

fn profiling(arguments: &Arguments, data: &Data, seed: u64) -> anyhow::Result<(Phase, String)> {
    let load = &arguments.load;
    let duration = load.benchmark_duration.first().copied();
    let mut limits = Limits {
        concurrency: load.concurrency.first().copied(),
        prefill_concurrency: load.prefill_concurrency.first().copied(),
        requests_in_flight: None,
        concurrency_ramp: load.concurrency_ramp_duration,
        prefill_ramp: load.prefill_concurrency_ramp_duration,
        duration,
        // Without a duration the run ends with its last answer.
        grace: duration.and(load.benchmark_grace_period.map_or(Some(GRACE), |Grace(grace)| grace)),
        requests: load.request_count.first().copied(),
        request_timeout: Some(arguments.endpoint.request_timeout_seconds),
        failed_share: load.failed_request_threshold,
        drifting: false,
    };
    let sessions = load.conversation_num.first().copied();
    if data.is_scheduled(arguments)? {
        let mut arrivals = data.arrivals(arguments, seed)?;
        arrivals.truncate(sessions.and_then(|count| usize::try_from(count).ok()).unwrap_or(usize::MAX));
        let requests: usize = arrivals.iter().map(|arrival| arrival.session.turns.len()).sum();
        let mut phase = Phase::scheduled("profiling", arrivals);
        let counted = requests as u64;
        phase.expected_requests = Some(limits.requests.map_or(counted, |limit| limit.min(counted)));
        phase.limits = limits;
        return Ok((phase, "Fixed_Schedule strategy (times of the trace)".to_owned()));
    }
    let users = load.num_users.first().copied();
    if limits.requests.is_none() && sessions.is_none() && duration.is_none() {
        limits.requests = Some(match data.size() {
            Some((_, requests)) => requests,
            None => FEWEST_REQUESTS.max(2 * u64::from(limits.concurrency.or(users).unwrap_or(1))),
        });
    }
    let stream = data.sessions(arguments, seed, false)?;
    let stream = stream.take(sessions.and_then(|count| usize::try_from(count).ok()).unwrap_or(usize::MAX));
    let (mut phase, strategy) = if let (Some(rate), Some(users)) = (load.user_centric_rate, users) {
        let mut phase = Phase::scheduled("profiling", user_arrivals(users, rate, stream)?);
        phase.target_rate = Some(rate);
        (phase, format!("User_Centric_Rate strategy ({users} users, {rate} req/s)"))
    } else {
        let pace = Pace {
            concurrency: limits.concurrency,
            rate: rate(arguments)?,
            pattern: pattern(load.arrival_pattern, load.arrival_smoothness)?,
        };
        let strategy = pace.describe();
        (pace.phase("profiling", load.arrival_pattern, stream, seed)?, strategy)
    };
    limits.concurrency = phase.limits.concurrency;
    phase.expected_requests = limits.requests.or(match arguments.input.conversation_turn_mean[..] {
        [1.0] if arguments.input.is_synthetic() => sessions,
        _ => None,
    });
    phase.limits = limits;
    Ok((phase, strategy))
}

fn warm_up(arguments: &Arguments, data: &Data, seed: u64) -> anyhow::Result<Phase> {
    let (load, own) = (&arguments.load, &arguments.load.warm_up);
    let Grace(grace) = own.warmup_grace_period;
    let users = load.num_users.first().copied();
    let law = own.warmup_arrival_pattern.or(load.arrival_pattern);
    // That of the measured phase, where the warm-up has its law.
    let smoothness = load.arrival_smoothness.filter(|_| matches!(law, None | Some(ArrivalPattern::Gamma)));
    let rate = match own.warmup_request_rate {
        Some(rate) => {
            let over = own_ramp(own.warmup_request_rate_ramp_duration, load.request_rate_ramp_duration);
            Some(ramped(rate, over)?)
        }
        None => rate(arguments)?,
    };
    let pace = Pace {
        concurrency: own.warmup_concurrency.or(load.concurrency.first().copied()).or(users),
        rate,
        pattern: pattern(law, smoothness)?,
    };
    let sessions =
        own.num_warmup_sessions.and_then(|count| usize::try_from(count).ok()).unwrap_or(usize::MAX);
    // Another stream of random times than the measured phase has.
    let stream = data.sessions(arguments, seed, true)?.take(sessions);
    let mut phase = pace.phase("warmup", law, stream, seed ^ 1)?;
    let concurrency = phase.limits.concurrency;
    phase.kind = PhaseKind::Warmup;
    phase.expected_requests = own.warmup_request_count;
    phase.limits = Limits {
        concurrency,
        prefill_concurrency: own.warmup_prefill_concurrency.or(load.prefill_concurrency.first().copied()),
        concurrency_ramp: own_ramp(own.warmup_concurrency_ramp_duration, load.concurrency_ramp_duration),
        prefill_ramp: own_ramp(
            own.warmup_prefill_concurrency_ramp_duration,
            load.prefill_concurrency_ramp_duration,
        ),
        duration: own.warmup_duration,
        grace,
        requests: own.warmup_request_count,
        request_timeout: Some(arguments.endpoint.request_timeout_seconds),
        ..Limits::default()
    };
    Ok(phase)
}

/// A warm-up's ramp: its own, none where that is zero, else the measured phase's.
fn own_ramp(own: Option<Duration>, measured: Option<Duration>) -> Option<Duration> {
    own.or(measured).filter(|ramp| !ramp.is_zero())
}

impl Pace {
    fn phase(
        self,
        name: &str,
        law: Option<ArrivalPattern>,
        sessions: impl Iterator<Item = Vec<workload::Turn>> + Send + 'static,
        seed: u64,
    ) -> anyhow::Result<Phase> {
        let burst = law == Some(ArrivalPattern::ConcurrencyBurst);
        Ok(match self.rate.filter(|_| !burst) {
            Some(rate) => {
                let mut phase = Phase::open_loop(name, Arrivals::new(self.pattern, rate, seed)?, sessions);
                phase.limits.concurrency = self.concurrency;
                phase
            }
            None => Phase::closed_loop(name, self.concurrency.unwrap_or(1), sessions),
        })
    }

    fn describe(&self) -> String {
        match &self.rate {
            Some(rate) => format!("Request_Rate strategy ({:.1} req/s)", rate.last()),
            None => format!("Concurrency strategy ({} in flight)", self.concurrency.unwrap_or(1)),
        }
    }
}

fn pattern(law: Option<ArrivalPattern>, smoothness: Option<f64>) -> anyhow::Result<Pattern> {
    Ok(match (law, smoothness) {
        (None | Some(ArrivalPattern::Gamma), Some(shape)) => Pattern::Gamma(shape),
        (Some(ArrivalPattern::Gamma), None) => Pattern::Gamma(1.0),
        (Some(_), Some(_)) => return Err(wrong("--arrival-smoothness is for --arrival-pattern gamma")),
        (Some(ArrivalPattern::Constant), None) => Pattern::Constant,
        (None | Some(ArrivalPattern::Poisson | ArrivalPattern::ConcurrencyBurst), None) => Pattern::Poisson,
    })
}

fn rate(arguments: &Arguments) -> anyhow::Result<Option<Rate>> {
    let load = &arguments.load;
    if let Some(path) = &load.request_rate_series {
        return rate_series(path).map(Some);
    }
    let rate = load.request_rate.first().copied();
    rate.map(|rate| ramped(rate, load.request_rate_ramp_duration)).transpose()
}

/// From one step's share of the rate to all of it, as AIPerf's ramps go.
fn ramped(rate: f64, over: Option<Duration>) -> anyhow::Result<Rate> {
    Ok(match over {
        None => Rate::constant(rate)?,
        Some(over) => Rate::ramp((rate * RAMP_STEP_S / over.as_secs_f64()).min(rate), rate, over)?,
    })
}

/// A list of `{"time_s", "qps"}`, or an object with such a list as `points`.
fn rate_series(path: &Path) -> anyhow::Result<Rate> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Point {
        time_s: f64,
        qps: f64,
    }
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Series {
        List(Vec<Point>),
        Named { points: Vec<Point> },
    }
    let wrong = || format!("--request-rate-series {}", path.display());
    let text = fs::read_to_string(path).with_context(wrong)?;
    let series: Series = serde_json::from_str(&text).ok().with_context(|| {
        format!(
            r#"--request-rate-series {}: a list like [{{"time_s": 0, "qps": 5}}, ...] is wanted"#,
            path.display()
        )
    })?;
    let (Series::List(points) | Series::Named { points }) = series;
    let points = points.into_iter().map(|Point { time_s, qps }| {
        Ok((Duration::try_from_secs_f64(time_s).with_context(|| format!("a time of {time_s} s"))?, qps))
    });
    let points: anyhow::Result<Vec<(Duration, f64)>> = points.collect();
    Rate::series(points.with_context(wrong)?).with_context(wrong)
}
