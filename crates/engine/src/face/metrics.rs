//! vLLM's metrics: its names, labels and buckets, old names beside new ones.

use std::{fmt::Write, time::Duration};

use protocol::engine_metrics::vllm;

use super::histogram::{Histogram, one_two_five};
use crate::{Counters, Profile, Snapshot, Step};

const TTFT_S: &[f64] = &[
    0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0,
    80.0, 160.0, 640.0, 2560.0,
];
const TOKEN_S: &[f64] = &[
    0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0,
];
const REQUEST_S: &[f64] = &[
    0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0, 120.0, 240.0, 480.0,
    960.0, 1920.0, 7680.0,
];
const ITERATION_TOKENS: &[f64] =
    &[1.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0, 2048.0, 4096.0, 8192.0, 16384.0];
const CHOICES: &[f64] = &[1.0, 2.0, 5.0, 10.0, 20.0];

/// What one replica has counted beyond its scheduler's counters. Times are real.
#[derive(Debug)]
pub(crate) struct Metrics {
    prompt_tokens: u64,
    ended_by_stop: u64,
    ended_by_length: u64,
    time_to_first_token: Histogram,
    inter_token_latency: Histogram,
    e2e: Histogram,
    queue: Histogram,
    inference: Histogram,
    prefill: Histogram,
    decode: Histogram,
    time_per_output_token: Histogram,
    iteration_tokens: Histogram,
    request_prompt_tokens: Histogram,
    request_generation_tokens: Histogram,
    request_max_tokens: Histogram,
    /// Equal gaps are counted and entered together: most sequences of a step had a token in the one before.
    gap: (Duration, u64),
}

/// A request that got all its tokens. Times count from its arrival.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Finished {
    pub(crate) stopped: bool,
    pub(crate) prompt_tokens: u32,
    pub(crate) output_tokens: u32,
    pub(crate) max_tokens: u32,
    pub(crate) admitted: Duration,
    pub(crate) first_token: Duration,
    pub(crate) last_token: Duration,
}

/// What a page says about the moment.
#[derive(Debug)]
pub(crate) struct Page<'a> {
    pub(crate) model: &'a str,
    pub(crate) profile: &'a Profile,
    pub(crate) snapshot: Snapshot,
    pub(crate) counters: Counters,
    /// Names, separated by commas.
    pub(crate) running_adapters: String,
    pub(crate) waiting_adapters: String,
    pub(crate) unix_time_s: f64,
}

impl Metrics {
    pub(crate) fn new(max_model_len: u32) -> Self {
        let lengths = one_two_five(max_model_len);
        Self {
            prompt_tokens: 0,
            ended_by_stop: 0,
            ended_by_length: 0,
            time_to_first_token: Histogram::new(TTFT_S),
            inter_token_latency: Histogram::new(TOKEN_S),
            e2e: Histogram::new(REQUEST_S),
            queue: Histogram::new(REQUEST_S),
            inference: Histogram::new(REQUEST_S),
            prefill: Histogram::new(REQUEST_S),
            decode: Histogram::new(REQUEST_S),
            time_per_output_token: Histogram::new(TOKEN_S),
            iteration_tokens: Histogram::new(ITERATION_TOKENS),
            request_prompt_tokens: Histogram::new(&lengths),
            request_generation_tokens: Histogram::new(&lengths),
            request_max_tokens: Histogram::new(&lengths),
            gap: (Duration::ZERO, 0),
        }
    }

    pub(crate) fn first_token(&mut self, prompt_tokens: u32, after: Duration) {
        self.prompt_tokens += u64::from(prompt_tokens);
        self.time_to_first_token.observe(after.as_secs_f64(), 1);
    }

    pub(crate) fn next_token(&mut self, gap: Duration) {
        if gap != self.gap.0 {
            self.flush_gaps();
            self.gap.0 = gap;
        }
        self.gap.1 += 1;
    }

    pub(crate) fn step(&mut self, step: Step) {
        self.flush_gaps();
        self.iteration_tokens.observe(f64::from(step.tokens), 1);
    }

    pub(crate) fn finished(&mut self, request: &Finished) {
        if request.stopped {
            self.ended_by_stop += 1;
        } else {
            self.ended_by_length += 1;
        }
        let seconds = |from: Duration, to: Duration| to.saturating_sub(from).as_secs_f64();
        let decode = seconds(request.first_token, request.last_token);
        self.e2e.observe(request.last_token.as_secs_f64(), 1);
        self.queue.observe(request.admitted.as_secs_f64(), 1);
        self.inference.observe(seconds(request.admitted, request.last_token), 1);
        self.prefill.observe(seconds(request.admitted, request.first_token), 1);
        self.decode.observe(decode, 1);
        if request.output_tokens > 1 {
            self.time_per_output_token.observe(decode / f64::from(request.output_tokens - 1), 1);
        }
        self.request_prompt_tokens.observe(request.prompt_tokens.into(), 1);
        self.request_generation_tokens.observe(request.output_tokens.into(), 1);
        if request.max_tokens > 0 {
            self.request_max_tokens.observe(request.max_tokens.into(), 1);
        }
    }

    /// The whole page, in the Prometheus text format.
    pub(crate) fn render(&self, page: &Page<'_>) -> String {
        let mut out = Writer { out: String::with_capacity(16 << 10), labels: labels(page.model) };
        let Snapshot { running, waiting, total_blocks, free_blocks } = page.snapshot;
        let counters = &page.counters;
        out.gauge(vllm::NUM_REQUESTS_RUNNING, "Requests in the running batch.", running.into());
        out.gauge(vllm::NUM_REQUESTS_WAITING, "Requests that wait to be run.", waiting.into());
        let usage = 1.0 - f64::from(free_blocks) / f64::from(total_blocks);
        for name in [vllm::KV_CACHE_USAGE, vllm::GPU_CACHE_USAGE] {
            out.gauge(name, "Share of KV blocks in use, 0 to 1.", usage);
        }
        for name in [vllm::PREFIX_CACHE_QUERIES, vllm::GPU_PREFIX_CACHE_QUERIES] {
            out.counter(name, "Prompt tokens looked up in the prefix cache.", counters.prefix_query_tokens);
        }
        for name in [vllm::PREFIX_CACHE_HITS, vllm::GPU_PREFIX_CACHE_HITS] {
            out.counter(name, "Prompt tokens found in the prefix cache.", counters.prefix_hit_tokens);
        }
        out.counter(vllm::NUM_PREEMPTIONS, "Sequences that lost their blocks.", counters.preemptions);
        out.counter(vllm::PROMPT_TOKENS, "Prompt tokens processed.", self.prompt_tokens);
        out.counter(vllm::GENERATION_TOKENS, "Tokens generated.", counters.output_tokens);
        out.reasons([
            ("stop", self.ended_by_stop),
            ("length", self.ended_by_length),
            ("abort", counters.aborted),
        ]);
        self.histograms(&mut out);
        out.cache_config(page.profile);
        out.adapters(page);
        out.out
    }

    fn histograms(&self, out: &mut Writer) {
        for (name, help, histogram) in [
            (vllm::TIME_TO_FIRST_TOKEN, "Seconds to the first token.", &self.time_to_first_token),
            (vllm::TIME_PER_OUTPUT_TOKEN, "Seconds between tokens.", &self.inter_token_latency),
            (vllm::INTER_TOKEN_LATENCY, "Seconds between tokens.", &self.inter_token_latency),
            (
                vllm::REQUEST_TIME_PER_OUTPUT_TOKEN,
                "Mean seconds between tokens of a request.",
                &self.time_per_output_token,
            ),
            (vllm::E2E_REQUEST_LATENCY, "Seconds from arrival to the last token.", &self.e2e),
            (vllm::REQUEST_QUEUE_TIME, "Seconds from arrival to admission.", &self.queue),
            (vllm::REQUEST_INFERENCE_TIME, "Seconds from admission to the last token.", &self.inference),
            (vllm::REQUEST_PREFILL_TIME, "Seconds from admission to the first token.", &self.prefill),
            (vllm::REQUEST_DECODE_TIME, "Seconds from the first token to the last.", &self.decode),
            (vllm::ITERATION_TOKENS, "Tokens computed in a step.", &self.iteration_tokens),
            (vllm::REQUEST_PROMPT_TOKENS, "Prompt tokens of a request.", &self.request_prompt_tokens),
            (
                vllm::REQUEST_GENERATION_TOKENS,
                "Generated tokens of a request.",
                &self.request_generation_tokens,
            ),
            (
                vllm::REQUEST_MAX_GENERATION_TOKENS,
                "Generated tokens of a request's longest answer.",
                &self.request_generation_tokens,
            ),
            (vllm::REQUEST_PARAMS_MAX_TOKENS, "max_tokens of a request.", &self.request_max_tokens),
        ] {
            out.histogram(name, help, histogram);
        }
        let mut choices = Histogram::new(CHOICES);
        choices.observe(1.0, self.ended_by_stop + self.ended_by_length);
        out.histogram(vllm::REQUEST_PARAMS_N, "n of a request.", &choices);
    }

    /// Enters the gaps that are held back.
    pub(crate) fn flush_gaps(&mut self) {
        let (gap, count) = std::mem::take(&mut self.gap);
        if count > 0 {
            self.inter_token_latency.observe(gap.as_secs_f64(), count);
        }
    }
}

/// A page in the making.
#[derive(Debug)]
struct Writer {
    out: String,
    labels: String,
}

impl Writer {
    fn head(&mut self, name: &str, help: &str, kind: &str) {
        // Counters keep their `_total` here, as Python's client library writes them and its parser wants them.
        let _ = writeln!(self.out, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    fn gauge(&mut self, name: &str, help: &str, value: f64) {
        self.head(name, help, "gauge");
        let _ = writeln!(self.out, "{name}{{{}}} {value:?}", self.labels);
    }

    fn counter(&mut self, name: &str, help: &str, value: u64) {
        self.head(name, help, "counter");
        let _ = writeln!(self.out, "{name}{{{}}} {value}.0", self.labels);
    }

    fn histogram(&mut self, name: &str, help: &str, histogram: &Histogram) {
        self.head(name, help, "histogram");
        histogram.write(name, &self.labels, &mut self.out);
    }

    fn reasons(&mut self, reasons: [(&str, u64); 3]) {
        self.head(vllm::REQUEST_SUCCESS, "Requests that ended, by reason.", "counter");
        for (reason, count) in reasons {
            let name = vllm::REQUEST_SUCCESS;
            let _ = writeln!(self.out, "{name}{{{},finished_reason=\"{reason}\"}} {count}.0", self.labels);
        }
    }

    fn cache_config(&mut self, profile: &Profile) {
        let Profile { block_tokens, kv_blocks, prefix_caching, .. } = profile;
        let caching = if *prefix_caching { "True" } else { "False" };
        let name = vllm::CACHE_CONFIG_INFO;
        self.head(name, "The KV cache's configuration.", "gauge");
        let _ = writeln!(
            self.out,
            "{name}{{block_size=\"{block_tokens}\",cache_dtype=\"auto\",enable_prefix_caching=\"{caching}\",\
             engine=\"0\",gpu_memory_utilization=\"0.9\",num_gpu_blocks=\"{kv_blocks}\"}} 1.0"
        );
    }

    fn adapters(&mut self, page: &Page<'_>) {
        let Page { running_adapters, waiting_adapters, unix_time_s, .. } = page;
        let (running, waiting) = (escape(running_adapters), escape(waiting_adapters));
        let max_adapters = page.profile.max_adapters;
        let name = vllm::LORA_REQUESTS_INFO;
        self.head(name, "Adapters in use; the value is the time.", "gauge");
        let _ = writeln!(
            self.out,
            "{name}{{max_lora=\"{max_adapters}\",running_lora_adapters=\"{running}\",\
             waiting_lora_adapters=\"{waiting}\"}} {unix_time_s:?}"
        );
    }
}

fn labels(model: &str) -> String {
    format!("engine=\"0\",model_name=\"{}\"", escape(model))
}

/// A label's value.
fn escape(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}
