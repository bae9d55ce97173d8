//! The metrics of one request, by AIPerf's tags: header, unit, place in the table, and formula.

use std::time::Duration;

use crate::{CountSource, MILLISECOND, Record, distribution::nanoseconds};

/// Fractions and rates are kept in millionths.
const MILLIONTHS: f64 = 1e6;
/// AIPerf's kilobyte.
const KILOBYTE: f64 = 1024.0;
/// AIPerf's limits on what is called a mismatch.
const LENGTH_SHARE: f64 = 0.05;
const LENGTH_TOKENS: f64 = 50.0;
const COUNT_PERCENT: f64 = 10.0;

/// When a metric is there at all.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Needs {
    /// Always.
    Nothing,
    /// Only with `--streaming`.
    Streaming,
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
            pub(crate) fn scale(self) -> f64 {
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
    ErrorInputSequenceLength = "error_isl", "Error Input Sequence Length", "tokens", 1.0, None, Nothing;
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
    StreamSetupLatency = "stream_setup_latency", "Stream Setup Latency", "ms", MILLISECOND, None, Streaming;
    StreamPrefillLatency = "stream_prefill_latency", "Stream Prefill Latency", "ms", MILLISECOND, None, Streaming;
    UsagePromptTokensDiff = "usage_prompt_tokens_diff_pct", "Usage Prompt Diff %", "%", MILLIONTHS, None, Nothing;
    UsageCompletionTokensDiff = "usage_completion_tokens_diff_pct", "Usage Completion Diff %", "%", MILLIONTHS, None, Nothing;
    UsageReasoningTokensDiff = "usage_reasoning_tokens_diff_pct", "Usage Reasoning Diff %", "%", MILLIONTHS, None, Nothing;
    OslMismatchDiff = "osl_mismatch_diff_pct", "OSL Mismatch Diff %", "%", MILLIONTHS, None, Nothing;
    HttpBlocked = "http_req_blocked", "HTTP Blocked", "ms", MILLISECOND, None, Nothing;
    HttpDnsLookup = "http_req_dns_lookup", "HTTP DNS Lookup", "ms", MILLISECOND, None, Nothing;
    HttpConnecting = "http_req_connecting", "HTTP Connecting", "ms", MILLISECOND, None, Nothing;
    HttpSending = "http_req_sending", "HTTP Sending", "ms", MILLISECOND, None, Nothing;
    HttpWaiting = "http_req_waiting", "HTTP Waiting (TTFB)", "ms", MILLISECOND, None, Nothing;
    HttpReceiving = "http_req_receiving", "HTTP Receiving", "ms", MILLISECOND, None, Nothing;
    HttpDuration = "http_req_duration", "HTTP Duration (excl. conn)", "ms", MILLISECOND, None, Nothing;
    HttpConnectionOverhead = "http_req_connection_overhead", "HTTP Connection Overhead", "ms", MILLISECOND, None, Nothing;
    HttpConnectionReused = "http_req_connection_reused", "HTTP Connection Reused", "ratio", 1.0, None, Nothing;
    HttpTotal = "http_req_total", "HTTP Total Time", "ms", MILLISECOND, None, Nothing;
    HttpDataSent = "http_req_data_sent", "HTTP Data Sent", "KB", KILOBYTE, None, Nothing;
    HttpDataReceived = "http_req_data_received", "HTTP Data Received", "KB", KILOBYTE, None, Nothing;
    HttpChunksSent = "http_req_chunks_sent", "HTTP Chunks Sent", "count", 1.0, None, Nothing;
    HttpChunksReceived = "http_req_chunks_received", "HTTP Chunks Received", "count", 1.0, None, Nothing;
}

impl Tag {
    /// The tag that files call `name`.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|tag| tag.name() == name)
    }

    /// Whether only streamed answers have it.
    pub(crate) fn needs_stream(self) -> bool {
        self.needs() == Needs::Streaming
    }

    /// Whether its kept values are nanoseconds.
    pub(crate) fn is_time(self) -> bool {
        self.unit() == "ms"
    }

    /// Whether a larger value is the better one, for `--goodput`.
    pub(super) fn larger_is_better(self) -> bool {
        self.unit() == "tokens/sec/user" || self.unit() == "tokens"
    }

    /// What a kept value has on top of the printed one, in its unit: kept values are never negative.
    pub(crate) fn offset(self) -> f64 {
        if self == Self::OslMismatchDiff { 100.0 } else { 0.0 }
    }

    /// A kept value as it is printed: counts are whole numbers.
    pub(super) fn number(self, value: u64) -> serde_json::Number {
        let printed = value as f64 / self.scale() - self.offset();
        let fraction = serde_json::Number::from_f64(printed).filter(|_| self.scale() > 1.0);
        fraction.unwrap_or_else(|| value.into())
    }

    /// Whether it is about the connection.
    pub(super) fn is_timing(self) -> bool {
        self.name().starts_with("http_req_")
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

    /// Calls `take` with each value that a request has of this metric. Those that failed have one metric of their own.
    pub(super) fn values(self, record: &Record, mut take: impl FnMut(u64)) {
        let answered = record.outcome.is_success();
        if self == Self::ErrorInputSequenceLength && !answered {
            take(record.input_tokens.tokens.into());
        }
        if !answered {
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
        // What has no output, as embeddings, has no figures of it.
        let output = (tokens > 0).then_some(tokens);
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
            Self::E2eOutputTokenThroughput => per_second(output?, nanoseconds(record.e2e()?)),
            Self::PrefillThroughputPerUser => per_second(input, nanoseconds(record.ttft()?)),
            Self::OutputSequenceLength => output,
            Self::InputSequenceLength => Some(input),
            Self::InterChunkLatency | Self::ErrorInputSequenceLength => None,
            Self::OutputTokenCount => Some(output?.saturating_sub(record.reasoning().unwrap_or(0).into())),
            Self::ReasoningTokenCount => record.reasoning().map(u64::from),
            Self::UsageReasoningTokens => record.reasoning_tokens.map(u64::from),
            Self::CreditToStartLatency => Some(nanoseconds(sent.saturating_sub(record.admitted))),
            Self::EffectiveLatency => Some(nanoseconds(record.done.saturating_sub(record.admitted))),
            Self::UsagePromptTokens => usage.then_some(input),
            Self::UsageCompletionTokens => output.filter(|_| usage),
            Self::UsageTotalTokens => usage.then_some(input + tokens),
            Self::UsagePromptCacheReadTokens => record.cached_tokens.map(u64::from),
            Self::UsagePromptCacheMissTokens => Some(input.saturating_sub(record.cached_tokens?.into())),
            Self::StreamSetupLatency => since(record.headers, sent),
            Self::StreamPrefillLatency => since(record.first_chunk(), record.headers?),
            Self::UsagePromptTokensDiff => difference(input, record.own_input_tokens.filter(|_| usage)?),
            Self::UsageCompletionTokensDiff => {
                let usage = record.output_tokens.source == CountSource::Usage;
                difference(tokens, record.own_output_tokens.filter(|_| usage)?)
            }
            Self::UsageReasoningTokensDiff => {
                difference(record.reasoning_tokens?.into(), record.own_reasoning_tokens?)
            }
            Self::OslMismatchDiff => {
                let share = (output? * 100_000_000).checked_div(record.requested_tokens?.into());
                share.filter(|_| record.requested_tokens > Some(0))
            }
            // Connections are opened at once, and names are looked up before the run.
            Self::HttpBlocked | Self::HttpDnsLookup => Some(0),
            Self::HttpConnecting | Self::HttpConnectionOverhead => {
                Some(nanoseconds(record.connect.unwrap_or_default()))
            }
            Self::HttpDataSent => Some(record.request_bytes.into()),
            Self::HttpDataReceived => Some(record.response_bytes),
            Self::HttpChunksSent => Some(1),
            Self::HttpChunksReceived => Some(record.response_reads.into()),
            Self::HttpSending => since(record.written, sent),
            Self::HttpWaiting => since(record.first_byte, record.written?),
            Self::HttpReceiving => since(Some(record.done), record.first_byte?),
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

/// Whether an answer misses the length that was asked for by over 5 % or 50 tokens, whichever is less.
pub(super) fn is_far_from_request(record: &Record) -> Option<bool> {
    let asked = record.requested_tokens.filter(|tokens| *tokens > 0 && record.output_tokens.tokens > 0)?;
    let limit = (f64::from(asked) * LENGTH_SHARE).min(LENGTH_TOKENS);
    Some(f64::from(record.output_tokens.tokens.abs_diff(asked)) > limit)
}

/// Whether the server's counts differ from ours by over 10 %, where both exist.
pub(super) fn is_far_from_usage(record: &Record) -> Option<bool> {
    let of = |tag: Tag| tag.value(record).map(|value| value as f64 / MILLIONTHS > COUNT_PERCENT);
    let far =
        [Tag::UsagePromptTokensDiff, Tag::UsageCompletionTokensDiff, Tag::UsageReasoningTokensDiff].map(of);
    far.into_iter().flatten().reduce(|one, other| one || other)
}

/// By how many percent the server's count differs from ours, in millionths.
fn difference(theirs: u64, ours: u32) -> Option<u64> {
    let ours = u64::from(ours);
    (theirs.abs_diff(ours) * 100_000_000).checked_div(ours)
}

/// Millionths of `count` per second; absent for no time.
fn per_second(count: u64, time: u64) -> Option<u64> {
    let rate = u128::from(count) * 1_000_000_000_000_000_u128.checked_div(time.into())?;
    u64::try_from(rate).ok()
}
