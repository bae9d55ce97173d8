//! What each figure means: the one place where a record becomes numbers.
//!
//! Latencies are taken from answered requests only; how late this side was ([`Metric::ScheduleLag`],
//! [`Metric::SlotWait`], [`Metric::ClientLag`]) from every request that was sent. A value that a request does
//! not have (the TPOT of a single token) is absent, never zero. Other tools' names for the same thing are given
//! with each; where their formula differs, their dialect computes it from the record itself.

use std::{
    fmt,
    ops::{Index, IndexMut},
};

use crate::{Distribution, Record, distribution::nanoseconds};

macro_rules! metrics {
    ($($(#[$doc:meta])* $name:ident = $tag:literal, $unit:expr;)*) => {
        /// A quantity measured per request or per event.
        #[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
        pub enum Metric { $($(#[$doc])* $name,)* }

        impl Metric {
            /// All of them.
            pub const ALL: [Self; [$(Self::$name),*].len()] = [$(Self::$name),*];

            /// The name in files and on the command line.
            pub fn tag(self) -> &'static str {
                match self { $(Self::$name => $tag,)* }
            }

            /// What its values count.
            pub fn unit(self) -> Unit {
                match self { $(Self::$name => $unit,)* }
            }
        }
    };
}

metrics! {
    /// Time to first token: the first payload event (content, reasoning or tool call; never a role-only event)
    /// minus the first byte written.
    Ttft = "ttft", Unit::Time;
    /// The same, from the time at which the plan wanted the request to be sent.
    TtftFromSchedule = "ttft_sched", Unit::Time;
    /// Time to the first event that is not reasoning.
    FirstAnswer = "ttfo", Unit::Time;
    /// Time per output token, one value a request: (E2E - TTFT) / (output tokens - 1). AIPerf: inter token
    /// latency. Absent below two tokens, and where all tokens came in one event.
    Tpot = "tpot", Unit::Time;
    /// Gap between payload events, pooled over all requests. vLLM: inter-token latency; AIPerf: inter chunk latency.
    Gap = "itl", Unit::Time;
    /// The longest gap of each request.
    MaxStall = "max_stall", Unit::Time;
    /// End to end: the last payload event minus the first byte written. AIPerf: request latency.
    E2e = "e2el", Unit::Time;
    /// The same, from the time at which the plan wanted the request to be sent.
    E2eFromSchedule = "e2el_sched", Unit::Time;
    /// E2E over output tokens, so that queueing and prefill are shared out.
    Ntpot = "ntpot", Unit::Time;
    /// First byte written minus scheduled time: slot wait and client lag together.
    ScheduleLag = "schedule_lag", Unit::Time;
    /// Wait for a concurrency slot: what the asked-for concurrency cost, not this client's fault.
    SlotWait = "slot_wait", Unit::Time;
    /// First byte written minus the later of schedule and slot, without the time spent connecting and retrying: this
    /// client's own lateness.
    ClientLag = "client_lag", Unit::Time;
    /// Prompt length.
    InputTokens = "input_tokens", Unit::Tokens;
    /// Output length, reasoning included.
    OutputTokens = "output_tokens", Unit::Tokens;
}

/// What the integers of a [`Distribution`] count.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Unit {
    /// Nanoseconds.
    Time,
    /// Tokens.
    Tokens,
}

/// Nanoseconds in a millisecond: the unit most tables print times in.
pub const MILLISECOND: f64 = 1e6;
/// Nanoseconds in a second.
pub const SECOND: f64 = 1e9;
/// Units of time as users write them, in nanoseconds.
pub(crate) const NANOSECOND_UNITS: [(&str, f64); 4] =
    [("ns", 1.0), ("us", 1e3), ("ms", MILLISECOND), ("s", SECOND)];

/// One distribution for each metric.
#[derive(Clone, Debug, Default)]
pub struct Distributions([Distribution; Metric::ALL.len()]);

// === impl Metric ===

impl Metric {
    /// Calls `take` with each value that `record` has of this metric.
    pub fn values(self, record: &Record, mut take: impl FnMut(u64)) {
        let lateness = matches!(self, Self::ScheduleLag | Self::SlotWait | Self::ClientLag);
        if !record.outcome.is_success() && !lateness {
            return;
        }
        let time = match self {
            Self::Gap => return record.gaps().for_each(|gap| take(nanoseconds(gap))),
            Self::InputTokens => return take(record.input_tokens.tokens.into()),
            Self::OutputTokens => return take(record.output_tokens.tokens.into()),
            Self::Ttft => record.ttft(),
            Self::TtftFromSchedule => record.first_chunk().map(|at| at.saturating_sub(record.scheduled)),
            Self::FirstAnswer => {
                record.first_answer.zip(record.sent).map(|(at, sent)| at.saturating_sub(sent))
            }
            Self::Tpot => record.tpot(),
            Self::MaxStall => record.gaps().max(),
            Self::E2e => record.e2e(),
            Self::E2eFromSchedule => record.end().map(|at| at.saturating_sub(record.scheduled)),
            Self::Ntpot => record.e2e().and_then(|time| time.checked_div(record.output_tokens.tokens)),
            Self::ScheduleLag => record.schedule_lag(),
            Self::SlotWait => record.sent.map(|_| record.admitted.saturating_sub(record.scheduled)),
            Self::ClientLag => record.sent.map(|sent| {
                let ready = record.scheduled.max(record.admitted);
                let others = record.connect.unwrap_or_default() + record.retried_for;
                sent.saturating_sub(ready).saturating_sub(others)
            }),
        };
        if let Some(time) = time {
            take(nanoseconds(time));
        }
    }
}

impl fmt::Display for Metric {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.tag())
    }
}

// === impl Distributions ===

impl Distributions {
    /// Adds the values that `record` has of each of `metrics`.
    pub fn push(&mut self, metrics: &[Metric], record: &Record) {
        for &metric in metrics {
            metric.values(record, |value| self[metric].record(value));
        }
    }

    /// Adds everything that `other` holds.
    pub fn merge(&mut self, other: &Self) {
        self.0.iter_mut().zip(&other.0).for_each(|(ours, theirs)| ours.merge(theirs));
    }
}

impl Index<Metric> for Distributions {
    type Output = Distribution;

    fn index(&self, metric: Metric) -> &Distribution {
        &self.0[metric as usize]
    }
}

impl IndexMut<Metric> for Distributions {
    fn index_mut(&mut self, metric: Metric) -> &mut Distribution {
        &mut self.0[metric as usize]
    }
}
