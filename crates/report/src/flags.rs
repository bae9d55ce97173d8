//! How the dialects call what mends a warning.

/// The dialect's names for what mends a warning.
#[derive(Clone, Copy, Debug)]
pub struct Flags {
    /// Sets the concurrency.
    pub concurrency: &'static str,
    /// Sets the request rate.
    pub rate: &'static str,
    /// Sets the number of requests.
    pub requests: &'static str,
    /// Names a tokenizer, or asks for the server's counts.
    pub tokenizer: &'static str,
    /// Sets the number of different prompts; `None` where none are used again.
    pub prompts: Option<&'static str>,
}

impl Flags {
    /// The flags of `evenload demo`.
    pub const DEMO: Self = Self {
        concurrency: "--concurrency",
        rate: "--speedup",
        requests: "--requests",
        tokenizer: "another workload",
        prompts: None,
    };
    /// The flags of vLLM's and KubeAI's benchmark.
    pub const BENCH: Self = Self {
        concurrency: "--max-concurrency",
        rate: "--request-rate",
        requests: "--num-prompts",
        tokenizer: "--tokenizer",
        prompts: Some("--conversations"),
    };
    /// The flags of AIPerf.
    pub const PROFILE: Self = Self {
        concurrency: "--concurrency",
        rate: "--request-rate",
        requests: "--request-count",
        tokenizer: "--use-server-token-count or --tokenizer",
        prompts: Some("--num-dataset-entries"),
    };
    /// The keys of inference-perf's file.
    pub const RUN: Self = Self {
        concurrency: "load.stages[].concurrency_level",
        rate: "load.stages[].rate",
        requests: "load.stages[].duration",
        tokenizer: "a local file in tokenizer.pretrained_model_name_or_path",
        prompts: None,
    };
}
