//! The stages of a run, and their arrivals.

use std::{collections::BTreeMap, fmt, sync::Arc, time::Duration};

use super::{
    ArrivalMode, Config, Law, LoadType, Shard, Stage, StagePlan,
    config::Load,
    source::{Source, Traffic, tokenizer},
    talks::Talks,
    times::{Times, count, times},
    trace::Rows,
};
use crate::{Arrival, Error, RequestTemplate, Session, TokenSource, Tokenizer};

/// Bits of a session's id below the number of its stage.
const STAGE_SHIFT: u32 = 48;
/// Number of the first request of a sweep's first probe. Probes have requests of their own, so that the stages after
/// them send the same whatever was probed.
const FIRST_PROBE: u64 = 1 << 40;
/// Requests whose data is read where the number is not known beforehand.
const SWEEP_REQUESTS: usize = 100_000;

/// Everything that a configuration says about what is sent, and when.
pub struct Workload {
    traffic: Traffic,
    /// Times of `trace_replay`.
    trace: Option<Arc<[Duration]>>,
    /// Requests a stage has, where a trace says so.
    rows: Option<u64>,
    mode: ArrivalMode,
    seed: u64,
    /// Number of the next stage's first request or session, and of the next probe's.
    next: u64,
    next_probe: u64,
    notes: Vec<String>,
    counter: Option<Arc<Tokenizer>>,
    /// The number of each stage's first request or session in the run.
    firsts: BTreeMap<u16, u64>,
}

/// What a stage starts, in order.
pub struct StageLoad {
    /// Sessions with their times.
    pub arrivals: Box<dyn Iterator<Item = Arrival> + Send>,
    /// The most requests to send, where the arrivals alone do not say.
    pub requests: Option<u64>,
    /// Sessions of several turns are among them.
    pub has_sessions: bool,
}

impl Workload {
    /// Reads the data that a configuration names, for the model `model`.
    pub fn load(config: &Config, model: &str) -> Result<Self, Error> {
        let (tokenizer, note) = tokenizer(config)?;
        let stages = config.load.stages.iter();
        let asked = stages.map(|stage| match (stage.rate, stage.duration, stage.num_requests) {
            (_, _, Some(requests)) => requests,
            (Some(rate), Some(duration), None) => count(rate, duration),
            _ => 0,
        });
        let asked: u64 = asked.sum();
        let open_ended = config.load.sweep.is_some() || config.load.r#type == LoadType::TraceReplay;
        let limit = if open_ended { SWEEP_REQUESTS } else { usize::try_from(asked).unwrap_or(usize::MAX) };
        let counter = (tokenizer.source() == TokenSource::Tokenizer).then(|| Arc::new(tokenizer.clone()));
        let loaded = Traffic::load(config, model, tokenizer, limit.max(1))?;
        let mut notes: Vec<String> = note.into_iter().chain(loaded.notes).collect();
        notes.extend(counter.as_ref().and_then(|counter| loaded.traffic.source.other_lengths(counter)));
        let trace = match (config.load.r#type, &config.load.trace) {
            (LoadType::TraceReplay, Some(trace)) => {
                let template = RequestTemplate::new(protocol::Endpoint::Completions, model);
                let rows = Rows::load(trace, &template, config.evenload.trace_speed)?;
                notes.extend(
                    rows.notes.iter().filter(|note| !notes.contains(note)).cloned().collect::<Vec<_>>(),
                );
                Some(rows.rows.iter().map(|row| row.at).collect())
            }
            _ => None,
        };
        Ok(Self {
            traffic: loaded.traffic,
            trace,
            rows: loaded.rows,
            mode: config.evenload.arrival,
            seed: config.seed(),
            next: 0,
            next_probe: FIRST_PROBE,
            notes,
            counter,
            firsts: BTreeMap::new(),
        })
    }

    /// What the user should know about the data.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// The tokenizer that the configuration names, if it could be read.
    pub fn counter(&self) -> Option<Arc<Tokenizer>> {
        self.counter.clone()
    }

    /// The file that a session of a stage that was started was read from; nothing if it was made up.
    pub fn file(&self, session: u64) -> Option<&str> {
        let Source::Talks(talks @ Talks::Recorded(recorded)) = &self.traffic.source else { return None };
        let first = self.firsts.get(&u16::try_from(session >> STAGE_SHIFT).ok()?)?;
        let slot = talks.slot(*first, session & ((1 << STAGE_SHIFT) - 1));
        Some(recorded.file(slot as usize))
    }

    /// Whether turns of sessions come some time after the answers before them.
    pub fn pauses(&self) -> bool {
        matches!(&self.traffic.source, Source::Talks(talks) if talks.pause())
    }

    /// The stages of a configuration, and what the user should know about them.
    pub fn stages(&self, config: &Config) -> (Vec<StagePlan>, Vec<String>) {
        let mut notes = Vec::new();
        let default = [Stage::default()];
        let given = match (config.load.r#type, config.load.stages.as_slice()) {
            (LoadType::TraceReplay, []) => &default,
            (_, given) => given,
        };
        let mut sessions = 0;
        let plan = |(number, stage): (usize, &Stage)| {
            self.stage(&config.load, number as u16, stage, &mut sessions, &mut notes)
        };
        (given.iter().enumerate().map(plan).collect(), notes)
    }

    /// `sessions` counts the recorded sessions that stages have taken.
    fn stage(
        &self,
        load: &Load,
        number: u16,
        stage: &Stage,
        sessions: &mut u64,
        notes: &mut Vec<String>,
    ) -> StagePlan {
        let (rate, duration) = (stage.rate.unwrap_or(1.0), stage.duration.unwrap_or(1));
        let mut plan = StagePlan::at_rate(number, load.pattern(), rate, duration);
        match load.r#type {
            LoadType::Constant | LoadType::Poisson => {
                // Only lengths come from the trace then: as many requests as it has.
                if let Some(rows) = self.rows {
                    plan.law = Law::Rate(load.pattern(), rate, (rows as f64 / rate).ceil() as u64);
                    plan.count = Some(rows);
                }
            }
            LoadType::TraceReplay => {
                let trace = self.trace.as_deref().unwrap_or_default();
                let there = trace.len() as u64;
                let asked = match (stage.rate, stage.duration) {
                    (Some(rate), Some(duration)) if self.rows.is_none() => count(rate, duration),
                    _ => there,
                };
                if asked > there {
                    notes.push(format!(
                        "stage {number} asks for {asked} requests, and the trace has {there}: it ends with the trace"
                    ));
                }
                if asked < there {
                    notes.push(format!(
                        "stage {number} sends the first {asked} of the trace's {there} requests: rate x duration"
                    ));
                }
                let taken = asked.min(there);
                let span = taken.checked_sub(1).map_or(Duration::ZERO, |last| trace[last as usize]);
                plan.law = Law::Trace;
                plan.count = Some(taken);
                plan.duration = Some(span);
                plan.requested_rate =
                    (taken > 1 && !span.is_zero()).then(|| (taken - 1) as f64 / span.as_secs_f64());
            }
            LoadType::Concurrent => {
                plan.law = Law::Closed(stage.concurrency_level.unwrap_or(1));
                (plan.requested_rate, plan.duration) = (None, None);
                plan.count = stage.num_requests;
                if stage.rate.is_some() || stage.duration.is_some() {
                    notes.push(format!(
                        "stage {number}: rate and duration have no effect with load.type concurrent"
                    ));
                }
            }
            LoadType::TraceSessionReplay => {
                let at_once = stage.concurrent_sessions.filter(|sessions| *sessions > 0);
                plan.law = Law::Sessions(at_once, stage.session_rate);
                plan.requested_rate = None;
                plan.duration = stage.timeout.map(Duration::from_secs_f64);
                let slots = match &self.traffic.source {
                    Source::Talks(talks) => talks.slots(),
                    Source::Requests(_) => 1,
                };
                plan.count = Some(stage.num_sessions.unwrap_or(slots));
                if let Source::Talks(Talks::Recorded(_)) = &self.traffic.source {
                    let left = slots.saturating_sub(*sessions);
                    let asked = stage.num_sessions.unwrap_or(if left > 0 { left } else { slots });
                    if asked > left {
                        notes.push(format!(
                            "stage {number} asks for {asked} sessions, and {left} of {slots} are left: they are played again"
                        ));
                    }
                    plan.count = Some(asked);
                    *sessions += asked;
                }
            }
        }
        plan
    }

    /// What a stage starts. Stages go on in the data where the one before it ended.
    pub fn start(&mut self, plan: &StagePlan, shard: Shard) -> Result<StageLoad, Error> {
        let next = if plan.number == StagePlan::PROBE { &mut self.next_probe } else { &mut self.next };
        let first = *next;
        *next += plan.count.unwrap_or(0);
        self.firsts.insert(plan.number, first);
        let stage = u64::from(plan.number) << STAGE_SHIFT;
        let planned = usize::try_from(plan.count.unwrap_or(u64::MAX)).unwrap_or(usize::MAX);
        let times: Times = match plan.law {
            Law::Rate(pattern, rate, duration) => {
                let purpose = format!("stage {}", plan.number);
                Box::new(times(pattern, self.mode, rate, duration, self.seed, &purpose)?.take(planned))
            }
            Law::Trace => {
                let trace = self.trace.clone().unwrap_or_else(|| Arc::from([]));
                Box::new((0..planned.min(trace.len())).map(move |place| trace[place]))
            }
            Law::Closed(_) | Law::Sessions(_, None) => Box::new(std::iter::repeat_n(Duration::ZERO, planned)),
            Law::Sessions(_, Some(rate)) => {
                Box::new((0..planned).map(move |number| Duration::from_secs_f64(number as f64 / rate)))
            }
        };
        let traffic = self.traffic.clone();
        let session = move |number: u64, turns| Session { id: stage | number, turns, target: None };
        let mine = move |number: &u64| shard.has(*number);
        Ok(match &self.traffic.source {
            Source::Requests(make) => {
                let make = Arc::clone(make);
                let numbered = (0_u64..).zip(times).filter(move |(number, _)| mine(number));
                let arrivals = numbered.map(move |(number, at)| {
                    let turns = traffic.finish(vec![make(first + number).into()], first + number);
                    Arrival { at, session: session(number, turns) }
                });
                StageLoad { arrivals: Box::new(arrivals), requests: None, has_sessions: false }
            }
            Source::Talks(talks) => {
                let (talks, stage) = (talks.clone(), plan.number);
                match plan.law {
                    Law::Closed(_) | Law::Sessions(..) => {
                        // Whole sessions, in turn; a closed loop of requests is ended by their number.
                        let by_request = matches!(plan.law, Law::Closed(_));
                        let share = shard.share(planned as u64);
                        let arrivals = (0_u64..).zip(times).filter(move |(number, _)| mine(number)).map(
                            move |(number, at)| {
                                let slot = talks.slot(first, number);
                                let turns = talks.turns(slot).map_or(planned, |turns| turns as usize);
                                let turns = if by_request { turns.min(planned) } else { turns };
                                let turns = talks.session(stage, slot, turns);
                                Arrival {
                                    at,
                                    session: session(number, traffic.finish(turns, first + number)),
                                }
                            },
                        );
                        StageLoad {
                            arrivals: Box::new(arrivals),
                            requests: by_request.then_some(share),
                            has_sessions: true,
                        }
                    }
                    Law::Rate(..) | Law::Trace => {
                        let sessions = dealt(&talks, &times.collect::<Vec<_>>());
                        let numbered = (0_u64..).zip(sessions).filter(move |(number, _)| mine(number));
                        let arrivals = numbered.map(move |(number, Dealt { slot, times })| {
                            let mut turns = talks.session(stage, slot, times.len());
                            for (turn, at) in turns.iter_mut().zip(&times).skip(1) {
                                turn.not_before = Some(*at);
                            }
                            let at = times.first().copied().unwrap_or_default();
                            Arrival { at, session: session(number, traffic.finish(turns, first + number)) }
                        });
                        StageLoad { arrivals: Box::new(arrivals), requests: None, has_sessions: true }
                    }
                }
            }
        })
    }
}

/// A session with the times of its turns.
struct Dealt {
    slot: u64,
    times: Vec<Duration>,
}

/// Deals the times of a stage out to the slots in turn, and cuts each slot's times into sessions.
fn dealt(talks: &super::talks::Talks, times: &[Duration]) -> Vec<Dealt> {
    let slots = talks.slots().min(times.len() as u64);
    let mut sessions = Vec::new();
    for slot in 0..slots {
        let mut left: Vec<Duration> =
            times.iter().skip(slot as usize).step_by(talks.slots() as usize).copied().collect();
        while !left.is_empty() {
            let turns = talks.turns(slot).map_or(left.len(), |turns| turns as usize).min(left.len());
            let rest = left.split_off(turns.max(1));
            sessions.push(Dealt { slot, times: std::mem::replace(&mut left, rest) });
        }
    }
    sessions.sort_by_key(|session| session.times.first().copied());
    sessions
}

impl fmt::Debug for Workload {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Workload")
            .field("seed", &self.seed)
            .field("next", &self.next)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for StageLoad {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("StageLoad").field("requests", &self.requests).finish_non_exhaustive()
    }
}
