//! How a plan is sent, as far as the plan itself does not say.

use std::{
    fmt,
    sync::Arc,
    time::{Duration, Instant},
};

use workload::{Message, Request};

use crate::{RoundRobin, Start, UrlChooser};

/// Writes the body of a request to the end of the buffer, with the earlier messages of its session before its own.
pub type Render = Arc<dyn Fn(&Request, &[Message], &mut Vec<u8>) + Send + Sync>;

/// Counts the tokens of a request's prompt, with the earlier messages of its session before its own.
pub type CountPrompt = Arc<dyn Fn(&Request, &[Message]) -> Option<u32> + Send + Sync>;

/// Called with the index of a phase that is ready, before it starts; it starts when this returns.
pub type BeforePhase = Arc<dyn Fn(u16) + Send + Sync>;

/// How a plan is sent.
#[derive(Clone)]
pub struct Options {
    /// Threads that send and receive. One is enough for tens of thousands of events a second.
    pub threads: usize,
    /// Spin for the last 100 microseconds before a due time instead of sleeping: sends are later by less than a
    /// microsecond instead of some tens of them, for a part of a core.
    pub precise: bool,
    /// Ask the kernel when it received what is read, to know how late this side saw it.
    pub kernel_stamps: bool,
    /// What happens to a connection after an answer.
    pub reuse: Reuse,
    /// Extra headers, in order. They replace the standard ones of the same name.
    pub headers: Vec<(String, String)>,
    /// Sent as a bearer token.
    pub api_key: Option<String>,
    /// Say which request it is in `X-Request-ID`, and of which session in `X-Session-Affinity`.
    pub names: bool,
    /// The header that carries the session's name, beside `X-Session-Affinity`; none if it is empty.
    pub session_header: String,
    /// Path of every request, instead of the path of its operation. Empty: the target URL as it was given.
    pub path: Option<String>,
    /// Starts request and session names, to tell runs apart.
    pub run_name: String,
    /// Time limit for opening a connection.
    pub connect_timeout: Duration,
    /// The moment from which all times count, where the caller must know it beforehand; the call of [`run`](crate::run)
    /// otherwise.
    pub start: Option<Start>,
    /// The first phase does not start before this moment; it starts on it if everything is ready by then.
    pub not_before: Option<Instant>,
    /// What is done before each phase, while nothing is under way. Phases that are skipped because the run was
    /// stopped have none.
    pub before_phase: Option<BeforePhase>,
    /// What is tried again.
    pub retries: Retries,
    /// Which events of a stream count as chunks.
    pub chunk_rule: ChunkRule,
    /// An answer without content (only usage and end marks, or an empty text) has failed. Else it is an answer like
    /// any other.
    pub content_needed: bool,
    /// Hand the text of answers to the sink.
    pub keep_answers: bool,
    /// Hand the bodies of requests and answers to the sink, as they went over the wire.
    pub keep_bodies: bool,
    /// Chooses the target of each session.
    pub chooser: Arc<dyn UrlChooser>,
    /// Counts prompts, where the dataset's word is not enough.
    pub count_prompt: Option<CountPrompt>,
    /// Writes bodies.
    pub render: Render,
}

/// What happens to a connection after an answer.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Reuse {
    /// It serves the next request to the same target.
    #[default]
    Pooled,
    /// It is closed; every request opens its own.
    Never,
    /// It serves the later turns of its session only, and is closed after the last one.
    StickySessions,
}

/// Which events of a streamed answer count as its chunks, from which all its latencies are taken. An answer without
/// any such event has nothing to time: it has failed, except under [`ChunkRule::Output`].
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum ChunkRule {
    /// Those with output: text, reasoning or a tool call.
    #[default]
    Output,
    /// Those with a choice, whatever is in it: a chat's opening, tokens without text, and the last one, which may
    /// only say why the answer ended.
    Choice,
    /// The same; and the answer ends with the last event before `[DONE]`, which counts the tokens.
    ChoiceThenUsage,
    /// Those with output or with an empty text, which a special token comes out as; not a chat's opening.
    Token,
}

/// Requests that are tried again: those that no connection took, and those whose connection broke before the first
/// byte of an answer. Time limits and answers of any status are final.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Retries {
    /// How often a request is tried again, at most.
    pub limit: u16,
    /// Wait before the first repetition, on average; it doubles with each, and each wait is from half of it to one
    /// and a half.
    pub backoff: Duration,
}

impl Retries {
    /// The wait before repetition `attempt`, from 0, of the request that `request` names. The same request always
    /// waits the same.
    pub(crate) fn wait(self, attempt: u16, request: u64) -> Duration {
        let mixed = (request ^ u64::from(attempt) << 48).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let share = (mixed ^ mixed >> 32).wrapping_mul(0xd6e8_feb8_6659_fd93) >> 40;
        let factor = 0.5 + share as f64 / f64::from(1 << 24);
        self.backoff.saturating_mul(1 << attempt.min(16)).mul_f64(factor)
    }
}

impl Options {
    /// The defaults, with `render` as the writer of bodies.
    pub fn new(render: Render) -> Self {
        Self {
            threads: 1,
            precise: false,
            kernel_stamps: false,
            reuse: Reuse::Pooled,
            headers: Vec::new(),
            api_key: None,
            names: true,
            session_header: "X-Correlation-ID".to_owned(),
            path: None,
            run_name: "run".to_owned(),
            connect_timeout: Duration::from_secs(30),
            start: None,
            not_before: None,
            before_phase: None,
            retries: Retries::default(),
            chunk_rule: ChunkRule::default(),
            content_needed: false,
            keep_answers: false,
            keep_bodies: false,
            chooser: Arc::new(RoundRobin),
            count_prompt: None,
            render,
        }
    }
}

impl fmt::Debug for Options {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let headers: Vec<&str> = self.headers.iter().map(|(name, _)| name.as_str()).collect();
        formatter
            .debug_struct("Options")
            .field("threads", &self.threads)
            .field("precise", &self.precise)
            .field("kernel_stamps", &self.kernel_stamps)
            .field("reuse", &self.reuse)
            .field("headers", &headers)
            .field("names", &self.names)
            .field("session_header", &self.session_header)
            .field("path", &self.path)
            .field("run_name", &self.run_name)
            .field("connect_timeout", &self.connect_timeout)
            .field("start", &self.start)
            .field("not_before", &self.not_before)
            .field("retries", &self.retries)
            .field("chunk_rule", &self.chunk_rule)
            .field("content_needed", &self.content_needed)
            .field("keep_answers", &self.keep_answers)
            .field("keep_bodies", &self.keep_bodies)
            .finish_non_exhaustive()
    }
}
