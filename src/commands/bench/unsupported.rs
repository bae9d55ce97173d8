//! Flags of the scripts that evenload does not have.

use crate::commands::refused::{NoneOf, RefusedFlags};

const ONLY_SHAREGPT: &str = "prompts come from ShareGPT files only";

/// Proof that none of them was given.
pub(super) type NoneUnsupported = NoneOf<Unsupported>;

#[derive(Debug)]
pub(super) enum Unsupported {}

impl RefusedFlags for Unsupported {
    const FLAGS: &'static [(&'static str, &'static str)] = &[
        ("use-beam-search", "answers are sampled"),
        ("profile", "start the server's profiler by hand"),
        ("dataset", "name the file with --dataset-path"),
        ("sonnet-input-len", ONLY_SHAREGPT),
        ("sonnet-output-len", ONLY_SHAREGPT),
        ("sonnet-prefix-len", ONLY_SHAREGPT),
        ("random-input-len", ONLY_SHAREGPT),
        ("random-output-len", ONLY_SHAREGPT),
        ("random-range-ratio", ONLY_SHAREGPT),
        ("random-prefix-len", ONLY_SHAREGPT),
        ("hf-subset", ONLY_SHAREGPT),
        ("hf-split", ONLY_SHAREGPT),
        ("hf-output-len", ONLY_SHAREGPT),
    ];
}
