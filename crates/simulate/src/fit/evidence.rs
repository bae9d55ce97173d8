//! What was measured, and how far a profile is from it.

use engine::Profile;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, Exp1};
use serde::Deserialize;

use super::{
    judge::{Figure, Figures, Judgement},
    replayed::{Arriving, Content, Times, replay},
};

/// One in so many is held out.
const HELD_OUT: usize = 4;
/// No single ratio counts for more than e.
const MOST_SQUARED: f64 = 1.0;
/// Times below this say little: half of it is added on both sides of a ratio.
const BLUR_S: f64 = 4e-3;
/// Requests of a table's row where it does not say: so many, and as many for each of those in flight, so that the first
/// ones, which find an empty engine, do not decide.
const ROW_REQUESTS: usize = 200;
const ROW_ROUNDS: usize = 10;

/// One measured request.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct MeasuredRequest {
    /// Line of the file that it stands in, from 1.
    pub line: usize,
    /// When the engine got it, in seconds since the first one.
    pub at_s: f64,
    /// Prompt length.
    pub prompt_tokens: u32,
    /// Prompt tokens that the engine found in its cache.
    pub cached_tokens: u32,
    /// Output length.
    pub output_tokens: u32,
    /// Time to first token, where it is known.
    pub ttft_s: Option<f64>,
    /// To the last token.
    pub e2e_s: f64,
    /// What others may share with it, where that is known.
    pub(super) content: Option<Content>,
}

/// Aggregate figures of one run, as benchmarks print them.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct MeasuredRow {
    /// Line of the file that it stands in, from 1.
    #[serde(skip)]
    pub line: usize,
    /// Requests in flight; without it they arrive at `rate`.
    pub concurrency: Option<usize>,
    /// Requests per second, at Poisson times.
    pub rate: Option<f64>,
    /// Requests in all; by default 200, or 10 times `concurrency`.
    pub requests: Option<usize>,
    /// Mean prompt length.
    pub input_tokens: u32,
    /// Mean output length.
    pub output_tokens: u32,
    /// First arrival to last token.
    pub duration_s: Option<f64>,
    /// Output tokens over the duration.
    pub output_tokens_per_s: Option<f64>,
    /// Mean time to first token.
    pub mean_ttft_ms: Option<f64>,
    /// Mean time per output token after the first.
    pub mean_tpot_ms: Option<f64>,
    /// Mean time from arrival to last token.
    pub mean_e2e_ms: Option<f64>,
}

/// Everything that was measured.
#[derive(Clone, Debug, PartialEq)]
pub enum Evidence {
    /// The requests of each engine, in the order of their arrivals.
    Log(Vec<Vec<MeasuredRequest>>),
    /// One run a row.
    Table(Vec<MeasuredRow>),
}

/// The longest of the requests, or rows, that were measured.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Longest {
    /// Line of the file that it stands in, from 1.
    pub line: usize,
    /// Prompt and output together.
    pub tokens: u32,
}

/// An engine with these limits cannot have served what was measured.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error(
    "{} tokens of prompt and output, but the engine takes at most {limit} (the least of max_model_len and of its KV \
     memory, kv_blocks * block_tokens)", longest.tokens
)]
pub struct TooLong {
    /// What is too long.
    pub longest: Longest,
    /// Tokens of a request that the engine takes.
    pub limit: u64,
}

/// Limits of an engine that came with the measurements.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Limits {
    /// KV memory, in blocks.
    pub kv_blocks: Option<u32>,
    /// Tokens in a block.
    pub block_tokens: Option<u32>,
    /// Sequences that run at the same time.
    pub max_num_seqs: Option<u32>,
    /// Tokens computed in one step.
    pub max_num_batched_tokens: Option<u32>,
    /// Prompt and output of one request together.
    pub max_model_len: Option<u32>,
}

impl MeasuredRow {
    fn requests(&self) -> usize {
        let rounds = self.concurrency.unwrap_or_default().saturating_mul(ROW_ROUNDS);
        self.requests.unwrap_or(rounds.max(ROW_REQUESTS))
    }
}

impl Limits {
    /// A profile with these limits.
    #[must_use]
    pub fn over(&self, profile: Profile) -> Profile {
        Profile {
            kv_blocks: self.kv_blocks.unwrap_or(profile.kv_blocks),
            block_tokens: self.block_tokens.unwrap_or(profile.block_tokens),
            max_num_seqs: self.max_num_seqs.unwrap_or(profile.max_num_seqs),
            max_num_batched_tokens: self.max_num_batched_tokens.unwrap_or(profile.max_num_batched_tokens),
            max_model_len: self.max_model_len.unwrap_or(profile.max_model_len),
            ..profile
        }
    }

    /// These, and where they are silent, those of `under`.
    #[must_use]
    pub fn or(self, under: Self) -> Self {
        Self {
            kv_blocks: self.kv_blocks.or(under.kv_blocks),
            block_tokens: self.block_tokens.or(under.block_tokens),
            max_num_seqs: self.max_num_seqs.or(under.max_num_seqs),
            max_num_batched_tokens: self.max_num_batched_tokens.or(under.max_num_batched_tokens),
            max_model_len: self.max_model_len.or(under.max_model_len),
        }
    }
}

impl Evidence {
    /// Requests or rows.
    pub fn len(&self) -> usize {
        match self {
            Self::Log(engines) => engines.iter().map(Vec::len).sum(),
            Self::Table(rows) => rows.len(),
        }
    }

    /// Whether there is nothing to fit to.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The longest request or row.
    pub fn longest(&self) -> Option<Longest> {
        let longest = |line, prompt: u32, output: u32| Longest {
            line,
            tokens: prompt.max(1).saturating_add(output.max(1)),
        };
        match self {
            Self::Log(engines) => {
                let requests = engines.iter().flatten();
                requests
                    .map(|request| longest(request.line, request.prompt_tokens, request.output_tokens))
                    .max_by_key(|one| one.tokens)
            }
            Self::Table(rows) => rows
                .iter()
                .map(|row| longest(row.line, row.input_tokens, row.output_tokens))
                .max_by_key(|one| one.tokens),
        }
    }

    /// Refuses a profile that cannot serve all that was measured: nothing could be said about it.
    pub fn check(&self, profile: &Profile) -> Result<(), TooLong> {
        let limit = profile.kv_tokens().min(profile.max_model_len.into());
        match self.longest() {
            Some(longest) if u64::from(longest.tokens) > limit => Err(TooLong { longest, limit }),
            _ => Ok(()),
        }
    }

    /// Whether prompts were found in caches and nothing says which of them share what.
    pub fn hides_what_is_shared(&self) -> bool {
        let hidden = |request: &MeasuredRequest| {
            request.cached_tokens > 0 && request.content.as_ref().is_none_or(|content| content.ids.is_empty())
        };
        matches!(self, Self::Log(engines) if engines.iter().flatten().any(hidden))
    }

    /// How far a profile is from what may be seen; 0 is met.
    pub(super) fn loss(&self, profile: &Profile) -> f64 {
        match self {
            Self::Log(engines) => {
                let (mut sum, mut count) = (0.0, 0.0);
                let mut figures = Figures::default();
                for engine in engines {
                    for (place, (request, times)) in engine.iter().zip(run(profile, engine)).enumerate() {
                        if is_held_out(place) {
                            continue;
                        }
                        let Some(times) = times else { return f64::INFINITY };
                        figures.add(request, times);
                        for ratio in ratios(request, times) {
                            sum += ratio.ln().powi(2).min(MOST_SQUARED);
                            count += 1.0;
                        }
                    }
                }
                (sum / f64::max(count, 1.0) + figures.judgement().mean_squared()) / 2.0
            }
            Self::Table(rows) => {
                let seen = rows.iter().enumerate().filter(|(place, _)| !self.holds_out(*place));
                let compared: Vec<_> = seen.map(|(_, row)| compare(profile, row)).collect();
                Judgement::of_rows(&compared).mean_squared()
            }
        }
    }

    fn holds_out(&self, place: usize) -> bool {
        match self {
            Self::Log(_) => is_held_out(place),
            Self::Table(rows) => rows.len() >= HELD_OUT && is_held_out(place),
        }
    }

    /// Model against measurement, for what was seen and what was held out.
    pub(super) fn judge(&self, profile: &Profile) -> (Judgement, Option<Judgement>) {
        match self {
            Self::Log(engines) => {
                let (mut seen, mut held_out) = (Figures::default(), Figures::default());
                for engine in engines {
                    for (place, (request, times)) in engine.iter().zip(run(profile, engine)).enumerate() {
                        let Some(times) = times else { continue };
                        if is_held_out(place) { &mut held_out } else { &mut seen }.add(request, times);
                    }
                }
                let held_out = held_out.judgement();
                (seen.judgement(), (held_out.requests > 0).then_some(held_out))
            }
            Self::Table(rows) => {
                let compared = |held: bool| {
                    let rows = rows.iter().enumerate().filter(|(place, _)| self.holds_out(*place) == held);
                    let compared: Vec<_> = rows.map(|(_, row)| compare(profile, row)).collect();
                    Judgement::of_rows(&compared)
                };
                let held_out = compared(true);
                (compared(false), (held_out.requests > 0).then_some(held_out))
            }
        }
    }

    /// A step's time and a prompt token's, from the quickest answers.
    pub(super) fn guess(&self) -> (f64, f64) {
        let mut steps: Vec<f64> = Vec::new();
        let mut prefills: Vec<f64> = Vec::new();
        match self {
            Self::Log(engines) => {
                for request in engines.iter().flatten() {
                    let ttft = request.ttft_s.unwrap_or_default();
                    if request.output_tokens > 1 {
                        steps.push((request.e2e_s - ttft) / f64::from(request.output_tokens - 1));
                    }
                    if ttft > 0.0 {
                        prefills.push(ttft / f64::from(request.prompt_tokens.max(1)));
                    }
                }
            }
            Self::Table(rows) => {
                for row in rows {
                    steps.extend(row.mean_tpot_ms.map(|tpot| tpot / 1e3));
                    prefills
                        .extend(row.mean_ttft_ms.map(|ttft| ttft / 1e3 / f64::from(row.input_tokens.max(1))));
                }
            }
        }
        let low = |mut values: Vec<f64>, otherwise: f64| {
            values.sort_by(f64::total_cmp);
            values.get(values.len() / 20).copied().filter(|value| *value > 0.0).unwrap_or(otherwise)
        };
        (low(steps, 0.02) * 0.8, low(prefills, 2e-4) * 0.5)
    }
}

fn is_held_out(place: usize) -> bool {
    place % HELD_OUT == HELD_OUT - 1
}

fn run(profile: &Profile, engine: &[MeasuredRequest]) -> Vec<Option<Times>> {
    let arriving: Vec<Arriving> = engine
        .iter()
        .map(|request| Arriving {
            at_s: request.at_s,
            prompt_tokens: request.prompt_tokens,
            cached_tokens: request.cached_tokens,
            output_tokens: request.output_tokens,
            content: request.content.clone(),
        })
        .collect();
    replay(profile, &arriving, usize::MAX)
}

/// Model over measurement of one request.
fn ratios(request: &MeasuredRequest, times: Times) -> impl Iterator<Item = f64> {
    let e2e = times.last_s - times.submitted_s;
    let ttft = request.ttft_s.map(|measured| (times.first_s - times.submitted_s, measured));
    let tokens = f64::from(request.output_tokens.saturating_sub(1));
    let tpot = ttft
        .filter(|_| tokens > 0.0)
        .map(|(model, measured)| ((e2e - model) / tokens, (request.e2e_s - measured) / tokens));
    let pairs = [ttft, tpot, Some((e2e, request.e2e_s))];
    pairs.into_iter().flatten().map(|(model, measured)| (model + BLUR_S / 2.0) / (measured + BLUR_S / 2.0))
}

/// The figures of a row, by the model and as they were measured.
fn compare(profile: &Profile, row: &MeasuredRow) -> Vec<Figure> {
    let mut random = ChaCha8Rng::seed_from_u64(1);
    let mut at_s = 0.0;
    let arriving: Vec<Arriving> = (0..row.requests())
        .map(|_| {
            if let Some(rate) = row.rate.filter(|_| row.concurrency.is_none()) {
                let gap: f64 = Exp1.sample(&mut random);
                at_s += gap / rate;
            }
            Arriving {
                at_s,
                prompt_tokens: row.input_tokens,
                cached_tokens: 0,
                output_tokens: row.output_tokens.max(1),
                content: None,
            }
        })
        .collect();
    let together = row.concurrency.unwrap_or(usize::MAX);
    let times: Vec<Times> = replay(profile, &arriving, together).into_iter().flatten().collect();
    let mean = |value: &dyn Fn(&Times) -> f64| times.iter().map(value).sum::<f64>() / times.len() as f64;
    let first = times.iter().map(|times| times.submitted_s).fold(f64::INFINITY, f64::min);
    let duration = times.iter().map(|times| times.last_s).fold(0.0, f64::max) - first;
    let between = f64::from(row.output_tokens.saturating_sub(1)).max(1.0);
    let output = times.len() as f64 * f64::from(row.output_tokens);
    [
        ("duration s", row.duration_s, duration),
        ("output tokens/s", row.output_tokens_per_s, output / duration),
        ("mean TTFT ms", row.mean_ttft_ms, mean(&|times| times.first_s - times.submitted_s) * 1e3),
        ("mean TPOT ms", row.mean_tpot_ms, mean(&|times| times.last_s - times.first_s) / between * 1e3),
        ("mean E2E ms", row.mean_e2e_ms, mean(&|times| times.last_s - times.submitted_s) * 1e3),
    ]
    .into_iter()
    .filter_map(|(name, measured, model)| Some(Figure { name, measured: measured?, model }))
    .collect()
}
