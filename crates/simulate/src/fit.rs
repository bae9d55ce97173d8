//! An engine's profile from measurements: the numbers of the step-time model under which the scheduler core, in
//! virtual time, does what the real engine was seen to do.
//!
//! Four times are found: of every step, of a sequence, of a token of context, of a prompt token. (And, where it is
//! asked for, the KV memory.) The limits of the engine (memory, sequences, tokens a step) are taken as given, since
//! engines print them. What is minimised, by Nelder and Mead's method on the logarithms of the numbers from several
//! starts, is the mean squared logarithm of model over measurement:
//!
//! ```text
//! log    of each request's time to first token, time per output token and duration, no ratio counting for more
//!        than e; and of the means of the three and of the run's duration, which count for half of it all
//! table  of each figure of each row
//! ```
//!
//! One request in four of a log, one row in four of a table of at least four, plays no part in this, and the fit is
//! judged on it. (It does run: what is held out is how long it took.)
//!
//! What a fit cannot do: tell numbers apart that the measurements do not. Where all prompts are equally long, a
//! sequence and its context are one; and a number that costs next to nothing may come out as anything small. The
//! times that come out are right all the same.

mod evidence;
mod judge;
mod nelder_mead;
mod read;
mod replayed;

use engine::Profile;

pub use evidence::{Evidence, Limits, Longest, MeasuredRequest, MeasuredRow, TooLong};
pub use judge::{Compared, Judgement};
use nelder_mead::minimise;
pub use read::{Measurements, ReadError, read};

/// Runs of the simulator from one start.
const EVALUATIONS: usize = 300;
/// Of the starts, so many are followed.
const FOLLOWED: usize = 2;
/// Where a number is zero, the search begins here.
const LEAST_S: f64 = 1e-9;

/// How to search.
#[derive(Clone, Debug)]
pub struct Search {
    /// The engine's limits; its times are one start.
    pub base: Profile,
    /// Whether the KV memory is searched for, too.
    pub kv_blocks: bool,
}

/// What was found.
#[derive(Clone, Debug)]
pub struct Fit {
    /// The profile.
    pub profile: Profile,
    /// Runs of the simulator.
    pub evaluations: usize,
    /// On what was searched with.
    pub seen: Judgement,
    /// On what was held out, if anything was.
    pub held_out: Option<Judgement>,
}

impl Search {
    /// Fits a profile to `evidence`, which must [fit](Evidence::check) into the base's limits. `watch` gets the number
    /// of runs so far and the least loss.
    pub fn fit(&self, evidence: &Evidence, mut watch: impl FnMut(usize, f64)) -> Fit {
        let mut evaluations = 0;
        let mut least = f64::INFINITY;
        let mut loss = |point: &[f64]| {
            let loss = evidence.loss(&self.profile(point));
            evaluations += 1;
            least = least.min(loss);
            watch(evaluations, least);
            loss
        };
        let mut starts: Vec<(f64, Vec<f64>)> = self
            .starts(evidence)
            .into_iter()
            .map(|start| {
                let point = self.point(&start);
                (loss(&point), point)
            })
            .collect();
        starts.sort_by(|left, right| left.0.total_cmp(&right.0));
        starts.truncate(FOLLOWED);
        let found = starts.into_iter().flat_map(|(_, start)| {
            let found = minimise(&start, 0.4, EVALUATIONS, &mut loss);
            // A simplex may have collapsed too early, with a number so small that it does not matter how small: begin
            // again where it ended, with numbers that matter. It need not end better.
            let lifted = self.point(&lifted(self.profile(&found.1)));
            let again = minimise(&lifted, 0.4, EVALUATIONS, &mut loss);
            let refined = minimise(&again.1, 0.1, EVALUATIONS / 2, &mut loss);
            [found, refined]
        });
        let best = found.min_by(|left, right| left.0.total_cmp(&right.0));
        let point = best.map_or_else(|| self.point(&self.base), |(_, point)| point);
        let profile = self.profile(&point);
        let (seen, held_out) = evidence.judge(&profile);
        Fit { profile, evaluations, seen, held_out }
    }

    /// Engines to begin with: the one that is given, those that are built in, and one guessed from the evidence.
    fn starts(&self, evidence: &Evidence) -> Vec<Profile> {
        let like = |times: &Profile| Profile {
            step_base_s: times.step_base_s,
            per_sequence_s: times.per_sequence_s,
            per_context_token_s: times.per_context_token_s,
            per_prefill_token_s: times.per_prefill_token_s,
            ..self.base.clone()
        };
        let (step_s, prefill_s) = evidence.guess();
        let guessed =
            lifted(Profile { step_base_s: step_s, per_prefill_token_s: prefill_s, ..self.base.clone() });
        let built_in = Profile::NAMES.into_iter().filter_map(Profile::built_in).map(|profile| like(&profile));
        [self.base.clone(), guessed].into_iter().chain(built_in).collect()
    }

    fn point(&self, profile: &Profile) -> Vec<f64> {
        let mut point: Vec<f64> = [
            profile.step_base_s,
            profile.per_sequence_s,
            profile.per_context_token_s,
            profile.per_prefill_token_s,
        ]
        .map(|seconds| seconds.max(LEAST_S).ln())
        .into();
        if self.kv_blocks {
            point.push(f64::from(profile.kv_blocks).ln());
        }
        point
    }

    fn profile(&self, point: &[f64]) -> Profile {
        // Far out, where a search may wander, numbers stay numbers.
        let value = |place: usize| point.get(place).map(|value| value.clamp(-30.0, 20.0).exp());
        let least_blocks = self.base.max_model_len.div_ceil(self.base.block_tokens.max(1));
        let blocks = value(4).map(|blocks| (blocks.round() as u32).max(least_blocks));
        Profile {
            step_base_s: value(0).unwrap_or_default(),
            per_sequence_s: value(1).unwrap_or_default(),
            per_context_token_s: value(2).unwrap_or_default(),
            per_prefill_token_s: value(3).unwrap_or_default(),
            kv_blocks: blocks.unwrap_or(self.base.kv_blocks),
            ..self.base.clone()
        }
    }
}

/// With a sequence and a token of context that take a noticeable part of a step.
fn lifted(profile: Profile) -> Profile {
    Profile {
        per_sequence_s: profile.per_sequence_s.max(profile.step_base_s / 100.0),
        per_context_token_s: profile.per_context_token_s.max(profile.step_base_s / 1e5),
        ..profile
    }
}

#[cfg(test)]
mod tests;
