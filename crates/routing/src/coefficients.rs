//! What an engine's step costs, and how that is learned from the times of answers.
//!
//! A step of an engine with `n` sequences, `k` tokens of context in them and `p` prompt tokens to prefill lasts
//!
//! ```text
//! w + b n + c k + d p        seconds
//! ```
//!
//! Policies compare replicas, so what matters is the proportion of the four to one another, and of one replica
//! to the next. Two kinds of observation are used: the mean time between the tokens of an answer, beside the
//! sequences and prefills that went on at the replica meanwhile; and the time to the first token of a request
//! that found no other one waiting. They adjust three factors on the configured numbers, one for `w`, one for
//! `b` and `c` together, one for `d`, by least squares with fading memory, each pulled to the factor that would
//! explain all observations if they were the same. What is never excited (no prefill while tokens flow) keeps
//! its proportion to the rest.
//!
//! Replicas share these factors. Each has one number of its own, its *slowness*: how long its tokens take
//! compared with what the pool's numbers predict, less what all of them have in common. Differences below a tenth count
//! as noise, because telling equal replicas apart costs affinity and wins nothing; differences above a fifth count in
//! full.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use crate::{SettingsError, settings::check};

/// What an engine's step costs. The defaults were fitted to Llama 3.1 8B in fp8 on an L4.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Coefficients {
    /// `w`: a step with nothing in it; reading the weights.
    pub step_s: f64,
    /// `b`: each sequence in it.
    pub sequence_s: f64,
    /// `c`: each token of context.
    pub context_token_s: f64,
    /// `d`: each prompt token prefilled.
    pub prefill_token_s: f64,
    /// Most sequences in a step.
    pub max_sequences: u32,
    /// Tokens that the KV cache holds.
    pub cache_tokens: u64,
}

/// No part of a step takes longer: sums over all that a replica may have stay numbers.
const MOST_S: f64 = 1e3;

impl Default for Coefficients {
    fn default() -> Self {
        Self {
            step_s: 0.0409,
            sequence_s: 3.13e-4,
            context_token_s: 2.57e-7,
            prefill_token_s: 1.75e-4,
            max_sequences: 256,
            cache_tokens: 66_144,
        }
    }
}

impl Coefficients {
    pub(crate) fn validate(&self) -> Result<(), SettingsError> {
        for (key, value) in [
            ("step_s", self.step_s),
            ("sequence_s", self.sequence_s),
            ("context_token_s", self.context_token_s),
            ("prefill_token_s", self.prefill_token_s),
        ] {
            check(value > 0.0 && value <= MOST_S, key, value, "more than 0, and at most 1000 (seconds)")?;
        }
        check(self.max_sequences > 0, "max_sequences", 0, "at least 1")?;
        check(self.cache_tokens > 0, "cache_tokens", 0, "at least 1")
    }

    /// Of an engine that takes so many times as long.
    pub(crate) fn slowed(self, slowness: f64) -> Self {
        Self {
            step_s: self.step_s * slowness,
            sequence_s: self.sequence_s * slowness,
            context_token_s: self.context_token_s * slowness,
            prefill_token_s: self.prefill_token_s * slowness,
            ..self
        }
    }

    /// Seconds of a request's output token, with its part of the step's fixed costs when `together` sequences
    /// share them.
    pub(crate) fn output_token_s(&self, prompt_tokens: f64, together: f64) -> f64 {
        self.sequence_s + self.context_token_s * prompt_tokens + self.step_s / together
    }
}

/// A number that many may read and write; of two writes at once one may be lost.
#[derive(Debug)]
pub(crate) struct Number(AtomicU64);

impl Number {
    pub(crate) const fn new(value: f64) -> Self {
        Self(AtomicU64::new(value.to_bits()))
    }

    pub(crate) fn get(&self) -> f64 {
        f64::from_bits(self.0.load(Relaxed))
    }

    pub(crate) fn set(&self, value: f64) {
        self.0.store(value.to_bits(), Relaxed);
    }

    /// Moves by `share` of the way to `value`.
    pub(crate) fn approach(&self, value: f64, share: f64) {
        let old = self.get();
        self.set(old + (value - old) * share);
    }
}

/// The time of a step, or of one token, and what the configured numbers say it consists of.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Observation {
    pub(crate) seconds: f64,
    /// From `w`, from `b` and `c`, from `d`.
    pub(crate) parts: [f64; 3],
}

impl Observation {
    pub(crate) fn of(base: &Coefficients, seconds: f64, sequences: f64, context: f64, prefill: f64) -> Self {
        let sequences = base.sequence_s * sequences + base.context_token_s * context;
        Self { seconds, parts: [base.step_s, sequences, base.prefill_token_s * prefill] }
    }

    /// Whether it says something about prefills: they should take as long as all the rest, by the configured numbers.
    pub(crate) fn is_mostly_prefill(&self) -> bool {
        let [step, sequences, prefill] = self.parts;
        prefill >= step + sequences
    }

    /// The same at the end of so many steps, of which the last one had the prefill.
    pub(crate) fn after(mut self, steps: f64) -> Self {
        self.parts[0] *= steps;
        self.parts[1] *= steps;
        self
    }
}

/// Learns the factors of a pool.
#[derive(Debug)]
pub(crate) struct Learner {
    factors: [Number; 3],
    fit: Mutex<Fit>,
}

#[derive(Debug, Default)]
struct Fit {
    /// Sums of products of the parts, as shares of what was predicted.
    products: [[f64; 3]; 3],
    /// Sums of parts times the observed ratio.
    targets: [f64; 3],
    /// Sums for the common factor.
    ratio: f64,
    weight: f64,
}

/// Observations that the pull to a common factor is worth: the noise of one, over how far factors may differ.
const PULL: f64 = 1.0;
/// Observations after which one alone is not believed if it is far off.
const SETTLED: f64 = 10.0;
/// What an observation is worth one observation later: a memory of about 2,000.
const FADE: f64 = 0.9995;
/// Factors stay within this distance of 1, up and down.
const WIDEST: f64 = 256.0;
/// A single observation counts for no more than this many times the prediction.
const OUTLIER: f64 = 4.0;

impl Learner {
    pub(crate) fn new() -> Self {
        Self { factors: [const { Number::new(1.0) }; 3], fit: Mutex::default() }
    }

    /// Forgets everything: the configured numbers changed.
    pub(crate) fn reset(&self) {
        let mut fit = self.fit.lock();
        *fit = Fit::default();
        self.factors.iter().for_each(|factor| factor.set(1.0));
    }

    /// The configured numbers as they were found to be.
    pub(crate) fn apply(&self, base: &Coefficients) -> Coefficients {
        let [step, sequence, prefill] = [0, 1, 2].map(|part| self.factors[part].get());
        Coefficients {
            step_s: base.step_s * step,
            sequence_s: base.sequence_s * sequence,
            context_token_s: base.context_token_s * sequence,
            prefill_token_s: base.prefill_token_s * prefill,
            ..*base
        }
    }

    /// Learns from one observation of a replica of this slowness. Returns observed over predicted.
    pub(crate) fn learn(&self, observation: Observation, slowness: f64) -> f64 {
        let Observation { seconds, parts } = observation;
        let predicted: f64 = parts.iter().zip(&self.factors).map(|(part, factor)| part * factor.get()).sum();
        let configured: f64 = parts.iter().sum();
        let ratio = seconds / predicted;
        if !ratio.is_finite() || ratio <= 0.0 {
            return 1.0;
        }
        let mut fit = self.fit.lock();
        // The first observations may be far from what was configured, and mean it.
        let trusted = if fit.weight < SETTLED { ratio } else { ratio.min(OUTLIER * slowness) };
        let target = trusted * predicted / slowness / configured;
        fit.add(parts.map(|part| part / configured), target);
        if let Some(factors) = fit.solve() {
            for (number, factor) in self.factors.iter().zip(factors) {
                number.set(factor.clamp(1.0 / WIDEST, WIDEST));
            }
        }
        ratio
    }
}

impl Fit {
    fn add(&mut self, shares: [f64; 3], target: f64) {
        for row in 0..3 {
            for column in 0..3 {
                self.products[row][column] = self.products[row][column] * FADE + shares[row] * shares[column];
            }
            self.targets[row] = self.targets[row] * FADE + shares[row] * target;
        }
        self.ratio = self.ratio * FADE + target;
        self.weight = self.weight * FADE + 1.0;
    }

    /// Least squares with a pull of every factor to the common one.
    fn solve(&self) -> Option<[f64; 3]> {
        let common = self.ratio / self.weight;
        let mut left = self.products;
        let mut right = self.targets;
        for row in 0..3 {
            left[row][row] += PULL;
            right[row] += PULL * common;
        }
        let found = solve(left, right)?;
        // A factor below a tenth of the common one is noise: no part of a step is free.
        Some(found.map(|factor| factor.max(common / 10.0)))
    }
}

/// Gauss's elimination; the matrix is symmetric and positive.
fn solve(mut left: [[f64; 3]; 3], mut right: [f64; 3]) -> Option<[f64; 3]> {
    for pivot in 0..3 {
        for row in pivot + 1..3 {
            let share = left[row][pivot] / left[pivot][pivot];
            let above = left[pivot];
            left[row].iter_mut().zip(above).for_each(|(below, above)| *below -= share * above);
            right[row] -= share * right[pivot];
        }
    }
    let mut found = [0.0; 3];
    for row in (0..3).rev() {
        let known: f64 = (row + 1..3).map(|column| left[row][column] * found[column]).sum();
        found[row] = (right[row] - known) / left[row][row];
    }
    found.iter().all(|factor| factor.is_finite()).then_some(found)
}

/// How long a replica's tokens take compared with the pool's; 1 where the difference may be noise.
#[derive(Debug)]
pub(crate) struct Slowness(Number);

/// A token moves the mean by this share: a memory of some 2,000 tokens.
const SHARE_OF_A_TOKEN: f64 = 0.0005;

/// A mean slowness below this, up or down, is left where it is: one slow replica among many moves it as far.
const COMMON_NOISE: f64 = 0.15;

impl Default for Slowness {
    fn default() -> Self {
        Self(Number::new(0.0))
    }
}

impl Slowness {
    /// `ratio` is observed over predicted for `tokens` tokens. Returns the mean logarithm, and the share by which it
    /// moved.
    pub(crate) fn observe(&self, ratio: f64, tokens: f64) -> (f64, f64) {
        let logarithm = ratio.clamp(1.0 / OUTLIER, OUTLIER).ln();
        let share = (tokens * SHARE_OF_A_TOKEN).min(0.1);
        self.0.approach(logarithm, share);
        (self.0.get(), share)
    }

    /// Approaches what all have in common by this share.
    pub(crate) fn fade(&self, shared: f64, share: f64) {
        self.0.approach(shared, share);
    }

    /// What is nobody's own, where the replicas' logarithms are `mean` on average.
    pub(crate) fn shared(mean: f64) -> f64 {
        mean - mean.clamp(-COMMON_NOISE, COMMON_NOISE)
    }

    /// Where the replicas' logarithms have `shared` in common.
    pub(crate) fn beside(&self, shared: f64) -> f64 {
        Self::factor(self.logarithm() - shared)
    }

    pub(crate) fn logarithm(&self) -> f64 {
        self.0.get()
    }

    /// A difference that may be chance.
    pub(crate) fn is_usual(logarithm: f32) -> bool {
        logarithm.abs() <= 0.1
    }

    /// How much longer a replica takes whose logarithm differs by so much.
    pub(crate) fn factor(logarithm: f64) -> f64 {
        if Self::is_usual(logarithm as f32) {
            return 1.0;
        }
        let certain = ((logarithm.abs() - 0.1) / 0.1).min(1.0);
        (logarithm * certain).exp()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Steps of an engine `truth`, with loads that change.
    fn observe(learner: &Learner, truth: &Coefficients, count: u32, noise: f64) {
        let base = Coefficients::default();
        for step in 0..count {
            let sequences = f64::from(step * 7 % 90 + 10);
            let prefill = f64::from(step * 13 % 400);
            let context = sequences * 800.0;
            let seconds = truth.step_s
                + truth.sequence_s * sequences
                + truth.context_token_s * context
                + truth.prefill_token_s * prefill;
            let noisy = seconds * (1.0 + noise * (f64::from(step * 31 % 21) - 10.0) / 10.0);
            learner.learn(Observation::of(&base, noisy, sequences, context, prefill), 1.0);
        }
    }

    #[test]
    fn factors_are_found_from_steps() {
        let base = Coefficients::default();
        let truth = Coefficients {
            step_s: base.step_s / 4.0,
            sequence_s: base.sequence_s / 2.0,
            context_token_s: base.context_token_s / 2.0,
            prefill_token_s: base.prefill_token_s / 8.0,
            ..base
        };
        let learner = Learner::new();
        observe(&learner, &truth, 4000, 0.1);
        let found = learner.apply(&base);
        for (found, truth) in [
            (found.step_s, truth.step_s),
            (found.sequence_s, truth.sequence_s),
            (found.context_token_s, truth.context_token_s),
            (found.prefill_token_s, truth.prefill_token_s),
        ] {
            assert!((found / truth - 1.0).abs() < 0.15, "{found} for {truth}");
        }
    }

    #[test]
    fn what_was_never_seen_keeps_its_proportion() {
        let base = Coefficients::default();
        let learner = Learner::new();
        for _ in 0..3000 {
            let seconds = (base.step_s + base.sequence_s * 20.0) * 3.0;
            learner.learn(Observation::of(&base, seconds, 20.0, 0.0, 0.0), 1.0);
        }
        let found = learner.apply(&base);
        assert!((found.prefill_token_s / base.prefill_token_s - 3.0).abs() < 0.05, "{found:?}");
    }

    #[test]
    fn costs_that_no_engine_has_are_refused() {
        let with = |step_s| Coefficients { step_s, ..Coefficients::default() }.validate();
        assert!(with(1e-9).is_ok() && with(MOST_S).is_ok());
        for wrong in [0.0, -1.0, 1000.1, 1e300, f64::INFINITY, f64::NAN] {
            let error = with(wrong).expect_err("out of range").to_string();
            assert!(error.starts_with("`step_s` is") && error.contains("at most 1000"), "{error}");
        }
    }

    #[test]
    fn nonsense_is_ignored() {
        let base = Coefficients::default();
        let learner = Learner::new();
        for seconds in [0.0, -1.0, f64::NAN, f64::INFINITY] {
            learner.learn(Observation::of(&base, seconds, 1.0, 1.0, 1.0), 1.0);
        }
        assert_eq!(learner.apply(&base), base);
        learner.learn(Observation { seconds: 1.0, parts: [0.0; 3] }, 1.0);
        assert_eq!(learner.apply(&base), base);
    }

    #[test]
    fn small_differences_are_noise_and_large_ones_count() {
        let slow = Slowness::default();
        assert_eq!(slow.beside(0.0), 1.0);
        for ratio in [1.09, 0.92] {
            (0..400).for_each(|_| _ = slow.observe(ratio, 50.0));
            assert_eq!(slow.beside(0.0), 1.0, "{ratio}");
        }
        (0..400).for_each(|_| _ = slow.observe(2.0, 50.0));
        assert!((slow.beside(0.0) - 2.0).abs() < 0.01);
        let beside = slow.beside(Slowness::shared(0.3));
        assert!(
            (beside - 2.0 / 0.15_f64.exp()).abs() < 0.01,
            "what all have in common is nobody's: {beside}"
        );
    }
}
