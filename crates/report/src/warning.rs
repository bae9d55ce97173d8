//! What the user should know before quoting a number, in words, with the flag that mends it.

use std::fmt;

use crate::{CountSource, verdict::STALLED_SHARE};

/// Lateness up to a tick of the kernel's scheduler is the noise of its wake-ups; beyond it, this side had no core.
const TICK_MS: f64 = 1.0;
/// Failures above this share make the latencies those of the lucky.
const FAILED_SHARE: f64 = 0.01;

/// How much a warning weighs.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// How to read the figures.
    Note,
    /// A figure may be off.
    Suspect,
    /// A headline figure is wrong.
    Invalid,
}

/// Why this side was slow, and what mends it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Blame {
    /// Share of the processors' time that the host took, if it is enough to be the cause.
    pub stolen: Option<f64>,
    /// See [`crate::Flags::rate`].
    pub rate: &'static str,
}

/// Something that the user should know before quoting a number.
#[derive(Clone, Debug, PartialEq)]
pub enum Warning {
    /// No request was answered.
    NothingAnswered,
    /// This side sent late, beyond what the concurrency limit explains.
    Late {
        /// 99th percentile of the lateness.
        p99_ms: f64,
        /// What it has to be compared with.
        median_ttft_ms: f64,
        /// Seconds that both are told in, for each of this machine's: how much the lateness weighs does not change.
        speedup: f64,
        /// Why.
        blame: Blame,
    },
    /// The rate was missed, and the concurrency limit does not explain it.
    RateMissed {
        /// Sends per second.
        achieved: f64,
        /// What the schedule asked for.
        scheduled: f64,
        /// Why.
        blame: Blame,
    },
    /// The rate was missed because the concurrency limit held: a closed loop.
    PacedByConcurrency {
        /// Sends per second.
        achieved: f64,
        /// What the schedule asked for; infinite where all was due at one moment.
        scheduled: f64,
        /// The limit.
        limit: u32,
        /// See [`crate::Flags::concurrency`].
        concurrency: &'static str,
    },
    /// A closed loop had fewer requests in flight than its name says.
    ConcurrencyMissed {
        /// What was asked for.
        nominal: u32,
        /// Mean over the window.
        in_flight: f64,
        /// See [`crate::Flags::requests`].
        requests: &'static str,
    },
    /// Requests fell due and were never sent.
    NotSent {
        /// How many.
        count: u64,
        /// See [`crate::Flags::concurrency`].
        concurrency: &'static str,
    },
    /// The host of this virtual machine gave its processors to others.
    Stolen {
        /// Share of their time.
        share: f64,
    },
    /// This side did nothing for a while.
    StoodStill {
        /// The longest.
        longest_ms: f64,
        /// Share of the requests that have it in their latencies.
        touched: f64,
    },
    /// An I/O thread had no time left.
    ThreadBusy {
        /// Its share of a core.
        share: f64,
        /// See [`crate::Flags::rate`].
        rate: &'static str,
    },
    /// The simulated engines behind the figures did not keep up with their own clock.
    EnginesLate {
        /// Mean length of their steps.
        step_ms: f64,
        /// How late they ended, on average.
        lag_ms: f64,
        /// What makes the engines slower.
        speedup: &'static str,
    },
    /// Bytes lay in the kernel before they were read.
    ReadLate {
        /// 99th percentile.
        p99_ms: f64,
    },
    /// Many reads held several events.
    Bunched {
        /// Share of the reads.
        share: f64,
    },
    /// Events hold several tokens.
    SeveralTokensAnEvent {
        /// Mean.
        tokens: f64,
    },
    /// A percentile rests on too few samples.
    TooFewSamples {
        /// The lowest percentile that is not supported.
        percentile: f64,
        /// What there is.
        samples: u64,
        /// What it takes.
        needed: u64,
        /// See [`crate::Flags::requests`].
        requests: &'static str,
    },
    /// Failures are in no latency figure.
    Failures {
        /// How many.
        failed: u64,
        /// Of how many.
        requests: u64,
        /// The most frequent kind and message.
        example: String,
    },
    /// Requests under way when the run ended are in no latency figure.
    CutOff {
        /// How many.
        count: u64,
        /// Of how many.
        requests: u64,
    },
    /// Token figures rest on estimates.
    Estimated {
        /// `prompt` or `output`.
        what: &'static str,
        /// Share of the answered requests, in percent.
        percent: f64,
        /// Who counted.
        source: CountSource,
        /// See [`crate::Flags::tokenizer`].
        tokenizer: &'static str,
    },
    /// The same prompts were sent again.
    ReusedPrompts {
        /// Different prompts.
        unique: u64,
        /// Requests sent.
        sent: u64,
        /// See [`crate::Flags::prompts`].
        prompts: &'static str,
    },
    /// The run was ended before its end.
    Interrupted {
        /// What ended it; the user, if nothing.
        by: Option<String>,
    },
}

// === impl Warning ===

impl Warning {
    /// How much it weighs.
    pub fn severity(&self) -> Severity {
        match self {
            Self::Late { p99_ms, .. } if *p99_ms <= TICK_MS => Severity::Suspect,
            Self::NothingAnswered
            | Self::Late { .. }
            | Self::RateMissed { .. }
            | Self::ThreadBusy { .. }
            | Self::EnginesLate { .. } => Severity::Invalid,
            Self::StoodStill { touched, .. } => match *touched {
                share if share > 0.5 => Severity::Invalid,
                share if share > STALLED_SHARE => Severity::Suspect,
                _ => Severity::Note,
            },
            Self::Failures { failed, requests, .. } => match *failed as f64 / *requests as f64 {
                share if share > 0.5 => Severity::Invalid,
                share if share > FAILED_SHARE => Severity::Suspect,
                _ => Severity::Note,
            },
            Self::CutOff { count, requests } if *count as f64 / *requests as f64 > FAILED_SHARE => {
                Severity::Suspect
            }
            Self::TooFewSamples { percentile, .. } if *percentile <= 50.0 => Severity::Suspect,
            Self::ConcurrencyMissed { .. }
            | Self::NotSent { .. }
            | Self::Stolen { .. }
            | Self::ReadLate { .. }
            | Self::Bunched { .. }
            | Self::ReusedPrompts { .. }
            | Self::Interrupted { .. } => Severity::Suspect,
            Self::CutOff { .. }
            | Self::PacedByConcurrency { .. }
            | Self::SeveralTokensAnEvent { .. }
            | Self::TooFewSamples { .. }
            | Self::Estimated { .. } => Severity::Note,
        }
    }

    /// One word for files.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::NothingAnswered => "nothing_answered",
            Self::Late { .. } => "late",
            Self::RateMissed { .. } => "rate_missed",
            Self::PacedByConcurrency { .. } => "paced_by_concurrency",
            Self::ConcurrencyMissed { .. } => "concurrency_missed",
            Self::NotSent { .. } => "not_sent",
            Self::Stolen { .. } => "stolen",
            Self::StoodStill { .. } => "stood_still",
            Self::ThreadBusy { .. } => "thread_busy",
            Self::EnginesLate { .. } => "engines_late",
            Self::ReadLate { .. } => "read_late",
            Self::Bunched { .. } => "bunched",
            Self::SeveralTokensAnEvent { .. } => "several_tokens_an_event",
            Self::TooFewSamples { .. } => "too_few_samples",
            Self::Failures { .. } => "failures",
            Self::CutOff { .. } => "cut_off",
            Self::Estimated { .. } => "estimated",
            Self::ReusedPrompts { .. } => "reused_prompts",
            Self::Interrupted { .. } => "interrupted",
        }
    }
}

impl fmt::Display for Warning {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NothingAnswered => {
                write!(formatter, "No request was answered: there is nothing to report.")
            }
            Self::Late { p99_ms, median_ttft_ms, speedup, .. } if *p99_ms <= TICK_MS => write!(
                formatter,
                "Requests left up to {late:.2} ms late (P99), about as long as the wake-up of a thread takes; the \
                 median TTFT is only {:.2} ms. Times this short are right to about {late:.2} ms. Try an idle machine.",
                median_ttft_ms * speedup,
                late = p99_ms * speedup
            ),
            Self::Late { p99_ms, median_ttft_ms, speedup, blame } => write!(
                formatter,
                "Requests left up to {:.1} ms late (P99) because this client did not keep up; the median TTFT \
                 is {:.1} ms. Latencies from the send look better than what users would have seen. {blame}",
                p99_ms * speedup,
                median_ttft_ms * speedup
            ),
            Self::RateMissed { achieved, scheduled, blame } => write!(
                formatter,
                "{achieved:.1} requests/s were sent instead of {scheduled:.1}: the client, not the server, set the \
                 pace, and every figure is that of a lower load. {blame}"
            ),
            Self::PacedByConcurrency { achieved, scheduled, limit, concurrency } => write!(
                formatter,
                "The limit of {limit} in flight set the pace: {achieved:.1} requests/s instead of {}. \
                 Read this run as a closed loop; TTFT leaves out the wait for a slot (ttft_sched has it). Raise \
                 {concurrency} for an open loop.",
                if scheduled.is_finite() { format!("{scheduled:.1}") } else { "all at once".to_owned() }
            ),
            Self::ConcurrencyMissed { nominal, in_flight, requests } => write!(
                formatter,
                "{in_flight:.1} requests were in flight on average, not {nominal}: start and end of the run weigh \
                 too much, or the client was slow to send the next. Raise {requests}."
            ),
            Self::NotSent { count, concurrency } => write!(
                formatter,
                "{count} requests were due and never sent because the run ended first; no figure has them. Raise \
                 {concurrency}, or make the run longer."
            ),
            Self::Stolen { share } => write!(
                formatter,
                "The host of this virtual machine took {:.1} % of its processors' time: pauses of this side are in \
                 every figure, above all in the highest percentiles. Run it again when the host is quiet, or on \
                 processors of its own.",
                share * 100.0
            ),
            Self::StoodStill { longest_ms, touched } => write!(
                formatter,
                "This client stood still for up to {longest_ms:.0} ms: answers that came meanwhile were read late, and \
                 about {:.1} % of the requests have that in their latencies. Run it on an idle machine, and do not stop \
                 it.",
                touched * 100.0
            ),
            Self::ThreadBusy { share, rate } => write!(
                formatter,
                "An I/O thread of this client used {:.0} % of a core: times include its own waiting. Lower {rate}, or \
                 use more threads.",
                share * 100.0
            ),
            Self::EnginesLate { step_ms, lag_ms, speedup } => write!(
                formatter,
                "This machine could not follow: engine steps of {step_ms:.1} ms ended {lag_ms:.1} ms late on average, so \
                 latencies are too long and throughputs too small. Choose a smaller {speedup}."
            ),
            Self::ReadLate { p99_ms } => write!(
                formatter,
                "Bytes waited up to {p99_ms:.1} ms (P99) in this machine before they were read: TTFT and ITL are that \
                 much too long. Run the client on an idle machine."
            ),
            Self::Bunched { share } => write!(
                formatter,
                "{:.0} % of the reads held several events: gaps of zero stand beside gaps that are too long. The server \
                 or a proxy sends in bursts, or this client reads late (its read lag tells which). Mean ITL and TPOT \
                 still hold, percentiles of ITL do not.",
                share * 100.0
            ),
            Self::SeveralTokensAnEvent { tokens } => write!(
                formatter,
                "An event holds {tokens:.2} tokens on average: gaps between events are longer than TPOT, the time per token."
            ),
            Self::TooFewSamples { percentile, samples, needed, requests } => write!(
                formatter,
                "P{percentile} and above rest on {samples} answers; {needed} are needed to trust P{percentile}. \
                 Raise {requests}."
            ),
            Self::Failures { failed, requests, example } => write!(
                formatter,
                "{failed} of {requests} requests failed ({example}); no latency or token figure has them in it."
            ),
            Self::CutOff { count, requests } => write!(
                formatter,
                "{count} of {requests} requests were still under way when the run ended, and were cut off: the slowest \
                 are in no latency figure. Give them a longer grace period."
            ),
            Self::Estimated { what, percent, source, tokenizer } => {
                let how = match source {
                    CountSource::Chunks => "counted as one token an event",
                    _ => "estimated at four bytes a token",
                };
                write!(
                    formatter,
                    "The {what} length of {percent:.0} % of the answers is {how}; tokens/s and TPOT rest on it. Use \
                     {tokenizer}."
                )
            }
            Self::ReusedPrompts { unique, sent, prompts } => write!(
                formatter,
                "{unique} different prompts served {sent} requests: prefix caches answered what fresh traffic would \
                 not have in them. Raise {prompts}."
            ),
            Self::Interrupted { by: None } => {
                write!(formatter, "The run was ended by hand: these are partial results.")
            }
            Self::Interrupted { by: Some(by) } => {
                write!(formatter, "The run was ended before its end: {by}. These are partial results.")
            }
        }
    }
}

// === impl Blame ===

impl fmt::Display for Blame {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rate = self.rate;
        match self.stolen {
            Some(share) => write!(
                formatter,
                "The host took {:.1} % of this machine's CPU time: try again when it is quiet, before you lower {rate}.",
                share * 100.0
            ),
            None => write!(formatter, "Lower {rate}, or give the client more cores."),
        }
    }
}

// === impl Severity ===

impl fmt::Display for Severity {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Note => "note",
            Self::Suspect => "suspect",
            Self::Invalid => "invalid",
        })
    }
}
