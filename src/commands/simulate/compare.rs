//! Policies and the bound, one after the other on one workload, with a row and a progress bar for each.

use std::{
    io::{IsTerminal, Write},
    time::Instant,
};

use indicatif::{ProgressBar, ProgressStyle};
use simulate::{
    Means,
    insight::Demand,
    scenario::{LoadedScenario, Progress, Trial},
};

use super::{
    inputs::Policy,
    output::{self, Compared},
};

/// Requests between two looks at the progress bar.
const LOOK: u64 = 256;

/// What all policies meet.
pub(super) struct Comparison<'a> {
    pub(super) loaded: &'a LoadedScenario,
    pub(super) demand: &'a Demand,
    pub(super) seeds: &'a [u64],
    /// Lines of JSON instead of a table.
    pub(super) json: bool,
}

impl Comparison<'_> {
    /// Runs all policies under all seeds, and then, unless it is left out, the bound. Prints each when it is known.
    pub(super) fn run(
        &self,
        policies: &[Policy],
        bound: bool,
        out: &mut impl Write,
    ) -> anyhow::Result<Vec<Compared>> {
        let began = Instant::now();
        let mut all = Vec::new();
        for policy in policies.iter().map(Some).chain(bound.then_some(None)) {
            let one = self.one(policy)?;
            let line = if self.json { output::json(&one, self.seeds).to_string() } else { output::row(&one) };
            writeln!(out, "{line}")?;
            out.flush()?;
            all.push(one);
        }
        if !self.json {
            writeln!(out, "\n{}", output::cost_line(&all, began.elapsed()))?;
        }
        Ok(all)
    }

    /// A policy, or the bound, under all seeds.
    fn one(&self, policy: Option<&Policy>) -> anyhow::Result<Compared> {
        let name = policy.map_or_else(|| "bound".to_owned(), |policy| policy.label.clone());
        let requests = self.loaded.requests(self.demand);
        let bar = self.progress_bar(&name, requests * self.seeds.len() as u64);
        let mut trials: Vec<Trial> = Vec::new();
        for (before, seed) in (0..).zip(self.seeds) {
            let watch = |progress: Progress| {
                if progress.requests.is_multiple_of(LOOK) {
                    bar.set_position(before * requests + progress.requests);
                    bar.set_message(format!(
                        "seed {seed}, {:.0} s simulated",
                        progress.simulated.as_secs_f64()
                    ));
                }
            };
            trials.push(match policy {
                Some(policy) => self.loaded.trial_watched(policy.settings.clone(), *seed, watch)?,
                None => self.loaded.bound(self.demand, *seed, watch)?,
            });
        }
        bar.finish_and_clear();
        let means = Means::of(&trials);
        Ok(Compared { name, means, trials, bound: policy.is_none() })
    }

    /// On a terminal only.
    fn progress_bar(&self, name: &str, requests: u64) -> ProgressBar {
        if self.json || !std::io::stderr().is_terminal() {
            return ProgressBar::hidden();
        }
        let bar = ProgressBar::new(requests);
        let template = "{prefix:<15} {wide_bar} {pos:>9}/{len} {elapsed} {msg}";
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        bar.set_prefix(name.to_owned());
        bar
    }
}
