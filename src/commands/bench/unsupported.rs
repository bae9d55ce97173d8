//! Flags of the scripts that evenload does not have.

use crate::commands::refused::{NoneOf, RefusedFlags};

const NO_DOWNLOADS: &str = "evenload downloads nothing; save the data as a ShareGPT file";

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
        ("hf-output-len", NO_DOWNLOADS),
    ];
}
