//! The bar of a run that goes on, on standard error.

use std::{
    thread::{self, ScopedJoinHandle},
    time::Duration,
};

use anyhow::anyhow;
use indicatif::{ProgressBar, ProgressStyle};
use loadgen::{Control, Error, RunSummary};

/// Time between two looks at the run.
const LOOK: Duration = Duration::from_millis(50);

/// A bar for so many requests, if their number is known.
pub(super) fn bar(requests: Option<u64>) -> ProgressBar {
    let bar = requests.map_or_else(ProgressBar::no_length, ProgressBar::new);
    if let Ok(style) = ProgressStyle::with_template("{bar:30} {pos}/{len} {elapsed_precise} {msg}") {
        bar.set_style(style);
    }
    bar
}

/// Waits for the end of `run` and shows on `bar` how far it has come; `look` is called with each look.
pub(super) fn watch(
    run: ScopedJoinHandle<'_, Result<RunSummary, Error>>,
    control: &Control,
    bar: &ProgressBar,
    mut look: impl FnMut(),
) -> anyhow::Result<RunSummary> {
    while !run.is_finished() {
        thread::sleep(LOOK);
        let seen = control.progress();
        bar.set_position(seen.succeeded + seen.failed);
        bar.set_message(format!("{} in flight, {} failed", seen.in_flight, seen.failed));
        look();
    }
    bar.finish_and_clear();
    Ok(run.join().map_err(|_| anyhow!("the load generator broke down"))??)
}
