//! Flags of the scripts that evenload does not have. `tests/data/vllm-bench-serve-0.33-flags.txt` lists all of today's
//! `vllm bench serve`; a test holds both against the command.

use crate::commands::refused::{NoneOf, RefusedFlags};

const NO_DOWNLOADS: &str = "evenload downloads nothing; save the data as a ShareGPT file for --dataset-path";
const TEXT_ONLY: &str = "prompts hold text only";
const TRACES: &str = "traces are replayed by `evenload profile --input-file`";
const PROMPT_FILES: &str = "files of prompts are read by `evenload profile --input-file`";
const PREFIXES: &str = "give random prompts a common beginning with --random-prefix-len";
const PLOTS: &str = "nothing is drawn; --save-result --save-detailed writes the figures of each request";
const RANKINGS: &str = "completions and chats are measured";

/// Proof that none of them was given.
pub(super) type NoneUnsupported = NoneOf<Unsupported>;

#[derive(Debug)]
pub(super) enum Unsupported {}

impl RefusedFlags for Unsupported {
    const FLAGS: &'static [(&'static str, &'static str)] = &[
        ("use-beam-search", "answers are sampled"),
        ("profile", "start the server's profiler by hand"),
        ("dataset", "name the file with --dataset-path"),
        ("hf-subset", NO_DOWNLOADS),
        ("hf-split", NO_DOWNLOADS),
        ("hf-name", NO_DOWNLOADS),
        ("hf-output-len", "give --output-len; data sets are files or made here, never downloaded"),
        ("bfcl-categories", NO_DOWNLOADS),
        ("blazedit-min-distance", NO_DOWNLOADS),
        ("blazedit-max-distance", NO_DOWNLOADS),
        ("spec-bench-output-len", NO_DOWNLOADS),
        ("spec-bench-category", NO_DOWNLOADS),
        ("speed-bench-dataset-subset", NO_DOWNLOADS),
        ("speed-bench-output-len", NO_DOWNLOADS),
        ("speed-bench-category", NO_DOWNLOADS),
        ("asr-max-audio-len-sec", TEXT_ONLY),
        ("asr-min-audio-len-sec", TEXT_ONLY),
        ("enable-multimodal-chat", TEXT_ONLY),
        ("random-mm-base-items-per-request", TEXT_ONLY),
        ("random-mm-num-mm-items-range-ratio", TEXT_ONLY),
        ("random-mm-limit-mm-per-prompt", TEXT_ONLY),
        ("random-mm-bucket-config", TEXT_ONLY),
        ("custom-output-len", PROMPT_FILES),
        ("custom-ensure-client-side-data", PROMPT_FILES),
        (
            "skip-chat-template",
            "chat templates are the server's: --backend openai-chat applies it, others do not",
        ),
        ("chat-template-kwargs", "chat templates are the server's: hand it arguments with --extra-body"),
        ("timed-trace-chunk-hash-size", TRACES),
        ("timed-trace-sec-multiplier", TRACES),
        ("timed-trace-label-timestamp", TRACES),
        ("timed-trace-label-input-length", TRACES),
        ("timed-trace-label-output-length", TRACES),
        ("timed-trace-label-hash-ids", TRACES),
        ("self-timed no-self-timed", TRACES),
        ("prefix-repetition-prefix-len", PREFIXES),
        ("prefix-repetition-suffix-len", PREFIXES),
        ("prefix-repetition-num-prefixes", PREFIXES),
        ("prefix-repetition-output-len", PREFIXES),
        ("random-batch-size", RANKINGS),
        ("no-reranker", RANKINGS),
        (
            "no-stream",
            "latencies of tokens are taken from streams; `evenload profile` sends requests without one",
        ),
        ("skip-tokenizer-init", "leave --tokenizer away: lengths are estimated then"),
        ("probe-request-rate", "let a second `evenload bench` with --random-output-len 1 run beside"),
        ("plot-timeline", PLOTS),
        ("timeline-itl-thresholds", PLOTS),
        ("plot-dataset-stats", PLOTS),
    ];
}
