//! What engines say about themselves on `/metrics`: the names, and one reading of them all.
//!
//! A figure that a page lacks is unknown, not zero. Several series of one name, such as one an engine core, are
//! summed; shares and sizes take the largest. vLLM has renamed metrics and writes the old name beside the new
//! one for a while: the newest name on the page counts, and they are never added together. Names are recognised
//! with `:` or `_` after the engine's name, and with or without `_total`.

use crate::prometheus::{Sample, scan};

/// vLLM's metric names, as its `/metrics` page has them.
pub mod vllm {
    /// Gauge: requests that are being computed.
    pub const NUM_REQUESTS_RUNNING: &str = "vllm:num_requests_running";
    /// Gauge: requests that wait.
    pub const NUM_REQUESTS_WAITING: &str = "vllm:num_requests_waiting";
    /// Gauge: share of KV blocks in use, 0 to 1.
    pub const KV_CACHE_USAGE: &str = "vllm:kv_cache_usage_perc";
    /// Older name of [`KV_CACHE_USAGE`].
    pub const GPU_CACHE_USAGE: &str = "vllm:gpu_cache_usage_perc";
    /// Counter: prompt tokens that were looked up in the prefix cache.
    pub const PREFIX_CACHE_QUERIES: &str = "vllm:prefix_cache_queries_total";
    /// Counter: prompt tokens that were found there.
    pub const PREFIX_CACHE_HITS: &str = "vllm:prefix_cache_hits_total";
    /// Older name of [`PREFIX_CACHE_QUERIES`].
    pub const GPU_PREFIX_CACHE_QUERIES: &str = "vllm:gpu_prefix_cache_queries_total";
    /// Older name of [`PREFIX_CACHE_HITS`].
    pub const GPU_PREFIX_CACHE_HITS: &str = "vllm:gpu_prefix_cache_hits_total";
    /// Counter: requests put back to waiting because memory ran out.
    pub const NUM_PREEMPTIONS: &str = "vllm:num_preemptions_total";
    /// Counter: prompt tokens.
    pub const PROMPT_TOKENS: &str = "vllm:prompt_tokens_total";
    /// Counter: tokens generated.
    pub const GENERATION_TOKENS: &str = "vllm:generation_tokens_total";
    /// Counter: requests that ended, by `finished_reason`.
    pub const REQUEST_SUCCESS: &str = "vllm:request_success_total";
    /// Always 1; its labels `block_size` and `num_gpu_blocks` say how large the KV cache is.
    pub const CACHE_CONFIG_INFO: &str = "vllm:cache_config_info";
    /// Its labels list the adapters; its value is the time of the list.
    pub const LORA_REQUESTS_INFO: &str = "vllm:lora_requests_info";
    /// Histogram of seconds.
    pub const TIME_TO_FIRST_TOKEN: &str = "vllm:time_to_first_token_seconds";
    /// Histogram of seconds between tokens.
    pub const INTER_TOKEN_LATENCY: &str = "vllm:inter_token_latency_seconds";
    /// Older name of [`INTER_TOKEN_LATENCY`].
    pub const TIME_PER_OUTPUT_TOKEN: &str = "vllm:time_per_output_token_seconds";
    /// Histogram of seconds a request, from arrival to its last token.
    pub const E2E_REQUEST_LATENCY: &str = "vllm:e2e_request_latency_seconds";
    /// Histogram of seconds a request waited.
    pub const REQUEST_QUEUE_TIME: &str = "vllm:request_queue_time_seconds";
    /// Histogram of seconds a request was computed.
    pub const REQUEST_INFERENCE_TIME: &str = "vllm:request_inference_time_seconds";
    /// Histogram of seconds until a request's first token, without waiting.
    pub const REQUEST_PREFILL_TIME: &str = "vllm:request_prefill_time_seconds";
    /// Histogram of seconds from a request's first token to its last.
    pub const REQUEST_DECODE_TIME: &str = "vllm:request_decode_time_seconds";
    /// Histogram of seconds a token, one observation a request.
    pub const REQUEST_TIME_PER_OUTPUT_TOKEN: &str = "vllm:request_time_per_output_token_seconds";
    /// Histogram of tokens a step.
    pub const ITERATION_TOKENS: &str = "vllm:iteration_tokens_total";
    /// Histogram of prompt tokens a request.
    pub const REQUEST_PROMPT_TOKENS: &str = "vllm:request_prompt_tokens";
    /// Histogram of generated tokens a request.
    pub const REQUEST_GENERATION_TOKENS: &str = "vllm:request_generation_tokens";
    /// Histogram of the longest answer among a request's choices.
    pub const REQUEST_MAX_GENERATION_TOKENS: &str = "vllm:request_max_num_generation_tokens";
    /// Histogram of `n`.
    pub const REQUEST_PARAMS_N: &str = "vllm:request_params_n";
    /// Histogram of `max_tokens`.
    pub const REQUEST_PARAMS_MAX_TOKENS: &str = "vllm:request_params_max_tokens";
}

/// A reading of an engine's page. Counters are as the engine counts them, since it started.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct EngineMetrics {
    /// Requests that are being computed.
    pub running: Option<f64>,
    /// Requests that wait.
    pub waiting: Option<f64>,
    /// Share of the KV cache in use, 0 to 1.
    pub kv_cache_usage: Option<f64>,
    /// Prompt tokens looked up in the prefix cache.
    pub prefix_queries: Option<f64>,
    /// Prompt tokens found in it.
    pub prefix_hits: Option<f64>,
    /// Requests put back to waiting.
    pub preemptions: Option<f64>,
    /// Prompt tokens.
    pub prompt_tokens: Option<f64>,
    /// Tokens generated.
    pub generation_tokens: Option<f64>,
    /// Requests that ended.
    pub finished: Option<f64>,
    /// Tokens in a KV block.
    pub block_size: Option<f64>,
    /// KV blocks in one engine core.
    pub kv_blocks: Option<f64>,
}

#[derive(Clone, Copy, Debug)]
enum Figure {
    Running,
    Waiting,
    KvCacheUsage,
    PrefixQueries,
    PrefixHits,
    Preemptions,
    PromptTokens,
    GenerationTokens,
    Finished,
    /// The size of the cache, in labels: tokens a block, and blocks.
    CacheConfig(&'static str, &'static str),
}

use Figure::{
    CacheConfig, Finished, GenerationTokens, KvCacheUsage, Preemptions, PrefixHits, PrefixQueries,
    PromptTokens, Running, Waiting,
};

/// Name, what it adds to, and whether a newer name exists. The prompt counter of SGLang includes what its cache
/// had; that of llama.cpp leaves it out.
const NAMES: &[(&str, &[Figure], bool)] = &[
    (vllm::NUM_REQUESTS_RUNNING, &[Running], false),
    (vllm::NUM_REQUESTS_WAITING, &[Waiting], false),
    (vllm::KV_CACHE_USAGE, &[KvCacheUsage], false),
    (vllm::GPU_CACHE_USAGE, &[KvCacheUsage], true),
    (vllm::PREFIX_CACHE_QUERIES, &[PrefixQueries], false),
    (vllm::GPU_PREFIX_CACHE_QUERIES, &[PrefixQueries], true),
    (vllm::PREFIX_CACHE_HITS, &[PrefixHits], false),
    (vllm::GPU_PREFIX_CACHE_HITS, &[PrefixHits], true),
    (vllm::NUM_PREEMPTIONS, &[Preemptions], false),
    (vllm::PROMPT_TOKENS, &[PromptTokens], false),
    (vllm::GENERATION_TOKENS, &[GenerationTokens], false),
    (vllm::REQUEST_SUCCESS, &[Finished], false),
    (vllm::CACHE_CONFIG_INFO, &[CacheConfig("block_size", "num_gpu_blocks")], false),
    ("sglang:num_running_reqs", &[Running], false),
    ("sglang:num_queue_reqs", &[Waiting], false),
    ("sglang:token_usage", &[KvCacheUsage], false),
    ("sglang:cached_tokens_total", &[PrefixHits], false),
    ("sglang:prompt_tokens_total", &[PromptTokens, PrefixQueries], false),
    ("sglang:generation_tokens_total", &[GenerationTokens], false),
    ("sglang:num_requests_total", &[Finished], false),
    ("sglang:cache_config_info", &[CacheConfig("page_size", "num_pages")], false),
    ("llamacpp:requests_processing", &[Running], false),
    ("llamacpp:requests_deferred", &[Waiting], false),
    ("llamacpp:kv_cache_usage_ratio", &[KvCacheUsage], false),
    ("llamacpp:prompt_tokens_cached_total", &[PrefixHits, PromptTokens, PrefixQueries], false),
    ("llamacpp:prompt_tokens_total", &[PromptTokens, PrefixQueries], false),
    ("llamacpp:tokens_predicted_total", &[GenerationTokens], false),
];

// === impl EngineMetrics ===

impl EngineMetrics {
    /// Reads a `/metrics` page of any engine.
    pub fn read(page: &[u8]) -> Self {
        let (mut current, mut older) = (Self::default(), Self::default());
        scan(page, |sample| {
            if let Some((_, figures, renamed)) = NAMES.iter().find(|(name, ..)| is_name(sample.name, name)) {
                let metrics = if *renamed { &mut older } else { &mut current };
                figures.iter().for_each(|figure| metrics.take(*figure, &sample));
            }
        });
        current.kv_cache_usage = current.kv_cache_usage.or(older.kv_cache_usage);
        current.prefix_queries = current.prefix_queries.or(older.prefix_queries);
        current.prefix_hits = current.prefix_hits.or(older.prefix_hits);
        current
    }

    fn take(&mut self, figure: Figure, sample: &Sample<'_>) {
        match figure {
            Running => add(&mut self.running, sample.value),
            Waiting => add(&mut self.waiting, sample.value),
            KvCacheUsage => raise(&mut self.kv_cache_usage, sample.value),
            PrefixQueries => add(&mut self.prefix_queries, sample.value),
            PrefixHits => add(&mut self.prefix_hits, sample.value),
            Preemptions => add(&mut self.preemptions, sample.value),
            PromptTokens => add(&mut self.prompt_tokens, sample.value),
            GenerationTokens => add(&mut self.generation_tokens, sample.value),
            Finished => add(&mut self.finished, sample.value),
            CacheConfig(block_size, blocks) => {
                let number = |label| sample.labels.get(label).and_then(|value| value.parse::<f64>().ok());
                raise(&mut self.block_size, number(block_size).unwrap_or(f64::NAN));
                raise(&mut self.kv_blocks, number(blocks).unwrap_or(f64::NAN));
            }
        }
    }
}

/// Whether a page's `name` is the metric `known`, in any of its spellings. Lengths differ for nearly all.
fn is_name(name: &str, known: &str) -> bool {
    let (name, known) = (without_total(name), without_total(known));
    name.len() == known.len()
        && known.split_once(':').is_some_and(|(engine, rest)| {
            let separator = name.strip_prefix(engine).and_then(|name| name.strip_suffix(rest));
            matches!(separator, Some(":" | "_"))
        })
}

fn without_total(name: &str) -> &str {
    name.strip_suffix("_total").unwrap_or(name)
}

fn add(sum: &mut Option<f64>, value: f64) {
    if value.is_finite() {
        *sum = Some(sum.unwrap_or_default() + value);
    }
}

fn raise(largest: &mut Option<f64>, value: f64) {
    if value.is_finite() {
        *largest = Some(largest.map_or(value, |largest| largest.max(value)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(page: &str) -> EngineMetrics {
        EngineMetrics::read(page.as_bytes())
    }

    #[test]
    fn vllm_engine_cores_are_summed_and_usage_is_the_worst() {
        let page = r#"
vllm:num_requests_running{engine="0",model_name="m"} 3.0
vllm:num_requests_running{engine="1",model_name="m"} 4.0
vllm:num_requests_waiting{engine="0",model_name="m"} 1.0
vllm:num_requests_waiting_by_reason{engine="0",reason="capacity"} 9.0
vllm:kv_cache_usage_perc{engine="0",model_name="m"} 0.25
vllm:kv_cache_usage_perc{engine="1",model_name="m"} 0.5
vllm:prefix_cache_queries_total{engine="0",model_name="m"} 100.0
vllm:prefix_cache_queries_created{engine="0",model_name="m"} 1.7e9
vllm:prefix_cache_hits_total{engine="0",model_name="m"} 60.0
vllm:num_preemptions_total{engine="0",model_name="m"} 2.0
vllm:prompt_tokens_total{engine="0",model_name="m"} 110.0
vllm:prompt_tokens_by_source_total{engine="0",source="local_compute"} 9.0
vllm:generation_tokens_total{engine="0",model_name="m"} 50.0
vllm:request_success_total{engine="0",finished_reason="stop"} 5.0
vllm:request_success_total{engine="0",finished_reason="length"} 6.0
vllm:cache_config_info{block_size="16",num_gpu_blocks="4096",engine="0"} 1.0
"#;
        let expected = EngineMetrics {
            running: Some(7.0),
            waiting: Some(1.0),
            kv_cache_usage: Some(0.5),
            prefix_queries: Some(100.0),
            prefix_hits: Some(60.0),
            preemptions: Some(2.0),
            prompt_tokens: Some(110.0),
            generation_tokens: Some(50.0),
            finished: Some(11.0),
            block_size: Some(16.0),
            kv_blocks: Some(4096.0),
        };
        assert_eq!(read(page), expected);
        assert_eq!(read(&page.replace("vllm:", "vllm_")), expected, "written with an underscore");
        assert_eq!(read(&page.replace("_total{", "{")), expected, "written without the counters' suffix");
    }

    #[test]
    fn renamed_metrics_are_read_once() {
        let older = "vllm:gpu_cache_usage_perc 0.5\nvllm:gpu_prefix_cache_queries_total 10\n\
            vllm:gpu_prefix_cache_hits_total 5\n";
        let newer = "vllm:kv_cache_usage_perc 0.4\nvllm:prefix_cache_queries_total 20\n\
            vllm:prefix_cache_hits_total 8\n";
        let figures = |page: &str| {
            let metrics = read(page);
            (metrics.kv_cache_usage, metrics.prefix_queries, metrics.prefix_hits)
        };
        assert_eq!(figures(older), (Some(0.5), Some(10.0), Some(5.0)));
        assert_eq!(figures(&format!("{older}{newer}")), (Some(0.4), Some(20.0), Some(8.0)));
        assert_eq!(figures(&format!("{newer}{older}")), (Some(0.4), Some(20.0), Some(8.0)));
    }

    #[test]
    fn other_engines() {
        let sglang = read(
            "sglang:num_running_reqs{model_name=\"m\"} 2\nsglang:num_queue_reqs 3\nsglang:token_usage 0.28\n\
             sglang:prompt_tokens_total 80\nsglang:cached_tokens_total{cache_source=\"device\"} 20\n\
             sglang:cached_tokens_total{cache_source=\"host\"} 4\nsglang:generation_tokens_total 7\n",
        );
        let expected = EngineMetrics {
            running: Some(2.0),
            waiting: Some(3.0),
            kv_cache_usage: Some(0.28),
            prompt_tokens: Some(80.0),
            prefix_queries: Some(80.0),
            prefix_hits: Some(24.0),
            generation_tokens: Some(7.0),
            ..EngineMetrics::default()
        };
        assert_eq!(sglang, expected);
        let llama_cpp = read(
            "llamacpp:requests_processing 1\nllamacpp:requests_deferred 0\nllamacpp:prompt_tokens_total 30\n\
             llamacpp:prompt_tokens_cached_total 70\nllamacpp:tokens_predicted_total 5\n",
        );
        let expected = EngineMetrics {
            running: Some(1.0),
            waiting: Some(0.0),
            prompt_tokens: Some(100.0),
            prefix_queries: Some(100.0),
            prefix_hits: Some(70.0),
            generation_tokens: Some(5.0),
            ..EngineMetrics::default()
        };
        assert_eq!(llama_cpp, expected);
    }

    #[test]
    fn what_a_page_lacks_is_unknown() {
        let unknown = "vllm:num_requests_running NaN\nvllm:num_requests_waiting\nother:num_requests_running 5\n\
            vllm:cache_config_info{block_size=\"None\"} 1\n";
        assert_eq!(read(unknown), EngineMetrics::default());
        assert_eq!(read("vllm:num_requests_running 0\n").running, Some(0.0));
    }
}
