//! The metrics of one request, by AIPerf's tags: header, unit, place in the table, and formula.

use std::time::Duration;

use crate::{CountSource, MILLISECOND, Record, distribution::nanoseconds};

/// Fractions and rates are kept in millionths.
const MILLIONTHS: f64 = 1e6;

/// When a metric is there at all.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Needs {
    /// Always.
    Nothing,
    /// Only with `--streaming`.
    Streaming,
    /// Only with `--export-http-trace` or `--show-trace-timing`.
    Trace,
}

macro_rules! tags {
    ($($name:ident = $tag:literal, $header:literal, $unit:literal, $scale:expr, $order:expr, $needs:ident;)*) => {
        /// A metric of one request.
        #[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
        pub enum Tag { $(#[doc = $header] $name,)* }

        impl Tag {
            /// All of them.
            pub const ALL: [Self; [$(Self::$name),*].len()] = [$(Self::$name),*];

            /// The key in files.
            pub fn name(self) -> &'static str {
                match self { $(Self::$name => $tag,)* }
            }

            /// The name in tables.
            pub fn header(self) -> &'static str {
                match self { $(Self::$name => $header,)* }
            }

            /// The unit of printed values.
            pub fn unit(self) -> &'static str {
                match self { $(Self::$name => $unit,)* }
            }

            /// What a kept value is divided by for print.
            pub(super) fn scale(self) -> f64 {
                match self { $(Self::$name => $scale,)* }
            }

            /// Its place in the console table, if it has one.
            pub(super) fn order(self) -> Option<u32> {
                match self { $(Self::$name => $order,)* }
            }

            pub(super) fn needs(self) -> Needs {
                match self { $(Self::$name => Needs::$needs,)* }
            }
        }
    };
}

#[rustfmt::skip]
tags! {
    TimeToFirstToken = "time_to_first_token", "Time to First Token", "ms", MILLISECOND, Some(100), Streaming;
    TimeToSecondToken = "time_to_second_token", "Time to Second Token", "ms", MILLISECOND, Some(200), Streaming;
    TimeToFirstOutputToken = "time_to_first_output_token", "Time to First Output Token", "ms", MILLISECOND, Some(210), Streaming;
    RequestLatency = "request_latency", "Request Latency", "ms", MILLISECOND, Some(300), Nothing;
    DecodeDuration = "decode_duration", "Decode Duration", "ms", MILLISECOND, Some(350), Streaming;
    InterTokenLatency = "inter_token_latency", "Inter Token Latency", "ms", MILLISECOND, Some(400), Streaming;
    OutputTokenThroughputPerUser = "output_token_throughput_per_user", "Output Token Throughput Per User", "tokens/sec/user", MILLIONTHS, Some(500), Streaming;
    E2eOutputTokenThroughput = "e2e_output_token_throughput", "E2E Output Token Throughput", "tokens/sec/user", MILLIONTHS, Some(510), Nothing;
    OutputSequenceLength = "output_sequence_length", "Output Sequence Length", "tokens", 1.0, Some(600), Nothing;
    InputSequenceLength = "input_sequence_length", "Input Sequence Length", "tokens", 1.0, Some(700), Nothing;
    InterChunkLatency = "inter_chunk_latency", "Inter Chunk Latency", "ms", MILLISECOND, None, Streaming;
    PrefillThroughputPerUser = "prefill_throughput_per_user", "Prefill Throughput Per User", "tokens/sec/user", MILLIONTHS, None, Streaming;
    OutputTokenCount = "output_token_count", "Output Token Count", "tokens", 1.0, None, Nothing;
    ReasoningTokenCount = "reasoning_token_count", "Reasoning Token Count", "tokens", 1.0, None, Nothing;
    CreditToStartLatency = "credit_to_start_latency", "Credit-to-Start Latency", "ms", MILLISECOND, None, Nothing;
    EffectiveLatency = "effective_latency", "Effective Latency (CO-aware)", "ms", MILLISECOND, None, Nothing;
    UsagePromptTokens = "usage_prompt_tokens", "Usage Prompt Tokens", "tokens", 1.0, None, Nothing;
    UsageCompletionTokens = "usage_completion_tokens", "Usage Completion Tokens", "tokens", 1.0, None, Nothing;
    UsageTotalTokens = "usage_total_tokens", "Usage Total Tokens", "tokens", 1.0, None, Nothing;
    UsageReasoningTokens = "usage_reasoning_tokens", "Usage Reasoning Tokens", "tokens", 1.0, None, Nothing;
    UsagePromptCacheReadTokens = "usage_prompt_cache_read_tokens", "Usage Prompt Cache Read Tokens", "tokens", 1.0, None, Nothing;
    UsagePromptCacheMissTokens = "usage_prompt_cache_miss_tokens", "Usage Prompt Cache Miss Tokens", "tokens", 1.0, None, Nothing;
    HttpConnecting = "http_req_connecting", "HTTP Connecting", "ms", MILLISECOND, None, Trace;
    HttpSending = "http_req_sending", "HTTP Sending", "ms", MILLISECOND, None, Trace;
    HttpWaiting = "http_req_waiting", "HTTP Waiting (TTFB)", "ms", MILLISECOND, None, Trace;
    HttpReceiving = "http_req_receiving", "HTTP Receiving", "ms", MILLISECOND, None, Trace;
    HttpConnectionReused = "http_req_connection_reused", "HTTP Connection Reused", "ratio", 1.0, None, Trace;
    HttpDuration = "http_req_duration", "HTTP Duration (excl. conn)", "ms", MILLISECOND, None, Trace;
    HttpTotal = "http_req_total", "HTTP Total Time", "ms", MILLISECOND, None, Trace;
}

impl Tag {
    /// The tag that files call `name`.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|tag| tag.name() == name)
    }

    /// Whether a larger value is the better one, for `--goodput`.
    pub(super) fn larger_is_better(self) -> bool {
        self.unit() == "tokens/sec/user" || self.unit() == "tokens"
    }

    /// Whether failures count as infinitely slow in its `adj_` twin.
    pub(super) fn adjusted(self) -> bool {
        matches!(
            self,
            Self::TimeToFirstToken | Self::RequestLatency | Self::InterTokenLatency | Self::DecodeDuration
        )
    }

    /// Whether one request has many values.
    pub(super) fn is_list(self) -> bool {
        self == Self::InterChunkLatency
    }

    /// Calls `take` with each value that an answered request has of this metric.
    pub(super) fn values(self, record: &Record, mut take: impl FnMut(u64)) {
        if !record.outcome.is_success() {
            return;
        }
        if self.is_list() {
            record.gaps().for_each(|gap| take(nanoseconds(gap)));
        } else if let Some(value) = self.value(record) {
            take(value);
        }
    }

    fn value(self, record: &Record) -> Option<u64> {
        let (sent, tokens) = (record.sent?, u64::from(record.output_tokens.tokens));
        let since =
            |later: Option<Duration>, earlier: Duration| Some(nanoseconds(later?.saturating_sub(earlier)));
        let usage = record.input_tokens.source == CountSource::Usage;
        let input = u64::from(record.input_tokens.tokens);
        match self {
            Self::TimeToFirstToken => record.ttft().map(nanoseconds),
            Self::TimeToSecondToken => record.gaps().next().map(nanoseconds),
            Self::TimeToFirstOutputToken => since(record.first_answer, sent),
            Self::RequestLatency => record.e2e().map(nanoseconds),
            Self::DecodeDuration => since(record.last_chunk(), record.first_chunk()?),
            Self::InterTokenLatency => inter_token_latency(record),
            Self::OutputTokenThroughputPerUser => per_second(1, inter_token_latency(record)?),
            Self::E2eOutputTokenThroughput => per_second(tokens, nanoseconds(record.e2e()?)),
            Self::PrefillThroughputPerUser => per_second(input, nanoseconds(record.ttft()?)),
            Self::OutputSequenceLength => Some(tokens),
            Self::InputSequenceLength => Some(input),
            Self::InterChunkLatency => None,
            Self::OutputTokenCount => {
                Some(tokens.saturating_sub(record.reasoning_tokens.unwrap_or(0).into()))
            }
            Self::ReasoningTokenCount | Self::UsageReasoningTokens => record.reasoning_tokens.map(u64::from),
            Self::CreditToStartLatency => Some(nanoseconds(sent.saturating_sub(record.admitted))),
            Self::EffectiveLatency => Some(nanoseconds(record.done.saturating_sub(record.admitted))),
            Self::UsagePromptTokens => usage.then_some(input),
            Self::UsageCompletionTokens => usage.then_some(tokens),
            Self::UsageTotalTokens => usage.then_some(input + tokens),
            Self::UsagePromptCacheReadTokens => record.cached_tokens.map(u64::from),
            Self::UsagePromptCacheMissTokens => Some(input.saturating_sub(record.cached_tokens?.into())),
            Self::HttpConnecting => record.connect.map(nanoseconds),
            Self::HttpSending => since(record.written, sent),
            Self::HttpWaiting => since(record.headers, record.written?),
            Self::HttpReceiving => since(Some(record.done), record.headers?),
            Self::HttpConnectionReused => Some(u64::from(record.connection_reused)),
            Self::HttpDuration => since(Some(record.done), sent),
            Self::HttpTotal => {
                Some(nanoseconds(record.done.saturating_sub(sent) + record.connect.unwrap_or_default()))
            }
        }
    }
}

/// (latency - TTFT) / (output tokens - those of the first chunk); where the server's count of the first chunk
/// cannot be right, that chunk counts as one token. Absent below two tokens.
fn inter_token_latency(record: &Record) -> Option<u64> {
    let (tokens, first) = (record.output_tokens.tokens, record.chunks.first()?.tokens);
    let first = if first >= 1 && first < tokens { first } else { 1 };
    let decode = nanoseconds(record.last_chunk()?.saturating_sub(record.first_chunk()?));
    decode.checked_div(tokens.checked_sub(first)?.into())
}

/// Millionths of `count` per second; absent for no time.
fn per_second(count: u64, time: u64) -> Option<u64> {
    let rate = u128::from(count) * 1_000_000_000_000_000_u128.checked_div(time.into())?;
    u64::try_from(rate).ok()
}
