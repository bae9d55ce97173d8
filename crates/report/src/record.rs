//! Everything measured about one request; written once, never changed.
//!
//! Times are durations since the start of the run on one monotonic clock. A time that was never reached is
//! `None`. All metric definitions start from these fields, so that another tool's formula can be recomputed.

use std::{sync::Arc, time::Duration};

/// One request, measured. The default one was never sent.
#[derive(Clone, Debug, Default)]
pub struct Record {
    /// Index of the phase of the plan (warm-up, stages) that the request belongs to.
    pub phase: u16,
    /// Position of the request in its phase, in the order of the plan.
    pub index: u64,
    /// The session (conversation) it belongs to, and its turn in it, from 0.
    pub session: u64,
    /// The session's name in the data, where it has one.
    pub conversation: Option<Arc<str>>,
    /// Turn within the session, from 0.
    pub turn: u32,
    /// Index into the run's list of target URLs (load generator) or replicas (simulator).
    pub target: u16,
    /// The `model` that was asked for: the base model or an adapter.
    pub model: Arc<str>,

    /// When the plan wanted the first byte on the wire.
    pub scheduled: Duration,
    /// When a concurrency slot was granted; equals `scheduled` where nothing limits concurrency.
    pub admitted: Duration,
    /// When the first byte was handed to the kernel. Never set for requests that were not sent.
    pub sent: Option<Duration>,
    /// When the last byte of the request was handed to the kernel.
    pub written: Option<Duration>,
    /// When the response head was complete.
    pub headers: Option<Duration>,
    /// The read that completed each payload event (content, reasoning or tool call), in order. Role-only,
    /// empty, usage and `[DONE]` events are not payload, unless the sender was told to count as another tool does.
    /// Without streaming: one chunk at the end.
    pub chunks: Vec<Chunk>,
    /// When the answer counts as ended, where that is not its last chunk.
    pub ended: Option<Duration>,
    /// The first chunk that was not reasoning; equals the first chunk where there is no reasoning.
    pub first_answer: Option<Duration>,
    /// End of the body, or the moment of failure.
    pub done: Duration,

    /// Whether the connection had served a request before.
    pub connection_reused: bool,
    /// Time spent connecting, if a connection was opened for this request; the TLS handshake is part of it.
    pub connect: Option<Duration>,
    /// Prompt length.
    pub input_tokens: Count,
    /// Output length, reasoning included.
    pub output_tokens: Count,
    /// Reasoning tokens in the output, where the server reports them.
    pub reasoning_tokens: Option<u32>,
    /// Prompt tokens that the server took from its prefix cache, where it reports them.
    pub cached_tokens: Option<u32>,
    /// Output length that was asked for.
    pub requested_tokens: Option<u32>,
    /// Prompt length by this side's tokenizer or dataset, whatever the server counts.
    pub own_input_tokens: Option<u32>,
    /// Output length by this side's tokenizer, whatever the server counts.
    pub own_output_tokens: Option<u32>,
    /// The reasoning in the output, as this side counted it: by its tokenizer, or where the server does not count.
    pub own_reasoning_tokens: Option<u32>,
    /// Bytes of the request's body.
    pub request_bytes: u32,
    /// Bytes of the answer's body, without head and framing.
    pub response_bytes: u64,
    /// Reads that brought some of it.
    pub response_reads: u32,
    /// When the first of them was.
    pub first_byte: Option<Duration>,
    /// How often it was tried again after failures before any answer.
    pub retries: u16,
    /// From the start of the first attempt to that of the last; all other times are the last one's.
    pub retried_for: Duration,
    /// How long after its planned time it fell due, because the turn before it had not been answered.
    pub session_wait: Duration,
    /// How long, at most, it was late because others had the processor when it fell due: programs and threads of
    /// this machine, or other guests of its host.
    pub core_wait: Duration,
    /// HTTP status, once the head was read.
    pub status: Option<u16>,
    /// How it ended.
    pub outcome: Outcome,
}

/// One payload event of a stream.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Chunk {
    /// When the read that completed the event returned.
    pub at: Duration,
    /// Tokens in it, where the server says so (`continuous_usage_stats`); otherwise 1.
    pub tokens: u32,
}

/// A number of tokens, and where the number comes from.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Count {
    /// Tokens.
    pub tokens: u32,
    /// Who counted.
    pub source: CountSource,
}

/// Who counted the tokens of a request.
#[derive(
    Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd, serde::Deserialize, serde::Serialize,
)]
#[serde(rename_all = "snake_case")]
pub enum CountSource {
    /// The server's `usage`.
    Usage,
    /// A tokenizer on this side.
    Tokenizer,
    /// The dataset or trace states the length.
    Dataset,
    /// One token a chunk.
    Chunks,
    /// About four bytes a token.
    #[default]
    Estimate,
}

/// How a request ended.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub enum Outcome {
    /// 2xx and a complete answer.
    Success,
    /// An HTTP status other than 2xx; the server's message, shortened.
    Status(u16, String),
    /// No connection could be made.
    Connect(String),
    /// The connection broke, or the answer ended before its end.
    Broken(String),
    /// The answer could not be understood.
    Malformed(String),
    /// An error event inside a 200 stream.
    StreamError(String),
    /// A time limit of this side.
    Timeout,
    /// Cancelled on purpose by the plan.
    Cancelled,
    /// Still running when the run ended.
    Incomplete,
    /// Due, but never sent, because the run ended first.
    #[default]
    NotSent,
}

impl Outcome {
    /// Whether the request counts as answered.
    pub fn is_success(&self) -> bool {
        matches!(self, Self::Success)
    }

    /// Whether something went wrong: not answered, and not because this side cancelled it, cut it off at the end
    /// of the run, or never sent it.
    pub fn is_failure(&self) -> bool {
        !matches!(self, Self::Success | Self::Cancelled | Self::Incomplete | Self::NotSent)
    }

    /// What the server or the system said; empty where nobody said anything.
    pub fn message(&self) -> &str {
        match self {
            Self::Status(_, message)
            | Self::Connect(message)
            | Self::Broken(message)
            | Self::Malformed(message)
            | Self::StreamError(message) => message,
            Self::Success | Self::Timeout | Self::Cancelled | Self::Incomplete | Self::NotSent => "",
        }
    }

    /// The inverse of [`kind`](Self::kind) and [`message`](Self::message).
    pub(crate) fn from_parts(kind: &str, status: Option<u16>, message: String) -> Option<Self> {
        let outcomes = [
            Self::Success,
            Self::Status(status.unwrap_or(0), message.clone()),
            Self::Connect(message.clone()),
            Self::Broken(message.clone()),
            Self::Malformed(message.clone()),
            Self::StreamError(message),
            Self::Timeout,
            Self::Cancelled,
            Self::Incomplete,
            Self::NotSent,
        ];
        outcomes.into_iter().find(|outcome| outcome.kind() == kind)
    }

    /// One word for log fields, metric labels and error tables.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Success => "success",
            Self::Status(..) => "status",
            Self::Connect(_) => "connect",
            Self::Broken(_) => "broken",
            Self::Malformed(_) => "malformed",
            Self::StreamError(_) => "stream_error",
            Self::Timeout => "timeout",
            Self::Cancelled => "cancelled",
            Self::Incomplete => "incomplete",
            Self::NotSent => "not_sent",
        }
    }
}

impl Record {
    /// When this side turned to it: the first byte written, or the slot where no connection could be made. Absent for
    /// requests that were never sent.
    pub fn begun(&self) -> Option<Duration> {
        self.sent.or_else(|| (self.outcome != Outcome::NotSent).then_some(self.admitted))
    }

    /// Reasoning tokens in the output: the server's count, or ours where that is not told apart.
    pub fn reasoning(&self) -> Option<u32> {
        self.reasoning_tokens.or(self.own_reasoning_tokens.filter(|tokens| *tokens > 0))
    }

    /// First byte written minus scheduled time: how late this side was.
    pub fn schedule_lag(&self) -> Option<Duration> {
        self.sent.map(|sent| sent.saturating_sub(self.scheduled))
    }

    /// When the first payload event came.
    pub fn first_chunk(&self) -> Option<Duration> {
        self.chunks.first().map(|chunk| chunk.at)
    }

    /// When the last payload event came.
    pub fn last_chunk(&self) -> Option<Duration> {
        self.chunks.last().map(|chunk| chunk.at)
    }

    /// First payload event minus first byte written.
    pub fn ttft(&self) -> Option<Duration> {
        Some(self.first_chunk()?.saturating_sub(self.sent?))
    }

    /// When the answer counts as ended: with its last payload event, where nothing else is said.
    pub fn end(&self) -> Option<Duration> {
        self.ended.or_else(|| self.last_chunk())
    }

    /// End of the answer minus first byte written.
    pub fn e2e(&self) -> Option<Duration> {
        Some(self.end()?.saturating_sub(self.sent?))
    }

    /// (E2E - TTFT) / (output tokens - 1); absent below two tokens, and where one event brought them all: then
    /// no time between tokens was seen.
    pub fn tpot(&self) -> Option<Duration> {
        let decode = self.e2e()?.saturating_sub(self.ttft()?);
        (self.output_tokens.tokens >= 2 && self.chunks.len() >= 2)
            .then(|| decode / (self.output_tokens.tokens - 1))
    }

    /// Gaps between payload events.
    pub fn gaps(&self) -> impl Iterator<Item = Duration> + '_ {
        self.chunks.windows(2).map(|pair| pair[1].at.saturating_sub(pair[0].at))
    }

    /// Moves all times by `by`, to a clock that began earlier.
    pub fn shift(&mut self, by: Duration) {
        for time in [&mut self.scheduled, &mut self.admitted, &mut self.done] {
            *time += by;
        }
        let Self { sent, written, headers, first_byte, first_answer, ended, .. } = self;
        for time in [sent, written, headers, first_byte, first_answer, ended].into_iter().flatten() {
            *time += by;
        }
        self.chunks.iter_mut().for_each(|chunk| chunk.at += by);
    }
}
