//! How long synthetic prompts and answers are.

use rand::{Rng, RngExt};
use rand_distr::{Distribution, Normal};
use serde::Deserialize;

use crate::{Error, MAX_PROMPT_TOKENS};

/// A random number of tokens, turns or whatever is counted; at least 1.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Length {
    /// Normal, rounded.
    Normal {
        /// Mean.
        mean: f64,
        /// Standard deviation; 0 is always the mean.
        stddev: f64,
    },
    /// Any number from `low` to `high`, both included.
    Uniform {
        /// Smallest.
        low: u32,
        /// Largest.
        high: u32,
    },
}

/// Lengths of prompts and answers that belong together: one kind of request, or a mixture of several.
#[derive(Clone, Debug, PartialEq)]
pub struct SequenceLengths(Vec<Part>);

#[derive(Clone, Copy, Debug, PartialEq)]
struct Part {
    /// Relative to the other parts.
    share: f64,
    input: Length,
    output: Option<Length>,
}

impl Length {
    /// Always the same.
    pub fn exactly(length: u32) -> Self {
        Self::Uniform { low: length, high: length }
    }

    /// Normal; refuses what is no length.
    pub fn normal(mean: f64, stddev: f64) -> Result<Self, Error> {
        let limit = f64::from(MAX_PROMPT_TOKENS);
        if !(1.0..=limit).contains(&mean) || !(0.0..=limit).contains(&stddev) {
            return Err(Error::Setting(format!(
                "a length of {mean} with standard deviation {stddev}: give a mean from 1 to {limit}"
            )));
        }
        Ok(Self::Normal { mean, stddev })
    }

    /// Evenly from `mean * (1 - ratio)` to `mean * (1 + ratio)`, as vLLM's benchmark draws.
    pub fn around(mean: u32, ratio: f64) -> Result<Self, Error> {
        let ratio = checked_ratio(ratio)?;
        let mean = f64::from(mean);
        Ok(Self::Uniform {
            low: (mean * (1.0 - ratio)).floor() as u32,
            high: (mean * (1.0 + ratio)).ceil() as u32,
        })
    }

    /// Evenly from `length * ratio` to `length`, as SGLang's benchmark draws.
    pub fn up_to(length: u32, ratio: f64) -> Result<Self, Error> {
        let low = (f64::from(length) * checked_ratio(ratio)?) as u32;
        Ok(Self::Uniform { low, high: length })
    }

    pub(crate) fn draw(self, random: &mut impl Rng) -> u32 {
        let drawn = match self {
            Self::Uniform { low, high } => random.random_range(low.min(high)..=high),
            Self::Normal { mean, stddev: 0.0 } => mean.round() as u32,
            Self::Normal { mean, stddev } => {
                Normal::new(mean, stddev).map_or(mean, |normal| normal.sample(random)).round() as u32
            }
        };
        drawn.clamp(1, MAX_PROMPT_TOKENS)
    }
}

fn checked_ratio(ratio: f64) -> Result<f64, Error> {
    if (0.0..=1.0).contains(&ratio) {
        Ok(ratio)
    } else {
        Err(Error::Setting(format!("a range ratio of {ratio}: give a number from 0 to 1")))
    }
}

impl SequenceLengths {
    /// Requests of one kind; without `output` the answer's length is left to the server.
    pub fn of(input: Length, output: Option<Length>) -> Self {
        Self(vec![Part { share: 1.0, input, output }])
    }

    /// Reads a mixture: `ISL,OSL:percent;...`, with standard deviations `ISL|sd,OSL|sd:percent`; the same in brackets,
    /// `[(ISL,OSL):percent,...]`; or JSON, `{"pairs": [{"isl", "osl", "prob", "isl_stddev", "osl_stddev"}]}`.
    pub fn parse(text: &str) -> Result<Self, Error> {
        let text = text.trim();
        let parts = if text.starts_with('{') {
            parse_json(text)?
        } else if let Some(list) = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            list.split(",(")
                .map(|part| parse_part(&part.replace(['(', ')'], "")))
                .collect::<Result<_, _>>()?
        } else {
            text.trim_end_matches(';').split(';').map(parse_part).collect::<Result<_, _>>()?
        };
        let total: f64 = parts.iter().map(|part: &Part| part.share).sum();
        let all_shares = parts.iter().all(|part| (0.0..=100.0).contains(&part.share));
        if !all_shares || (total - 100.0).abs() > 0.01 {
            return Err(Error::Setting(format!(
                "the percentages of {text:?} are {total} in all; they must be 100"
            )));
        }
        Ok(Self(parts))
    }

    pub(crate) fn draw(&self, random: &mut impl Rng) -> (u32, Option<u32>) {
        let total: f64 = self.0.iter().map(|part| part.share).sum();
        let mut at = random.random::<f64>() * total;
        let chosen = self.0.iter().find(|part| {
            at -= part.share;
            at < 0.0
        });
        match chosen.or(self.0.last()) {
            Some(part) => (part.input.draw(random), part.output.map(|output| output.draw(random))),
            None => (1, None),
        }
    }
}

/// `ISL|sd,OSL|sd:percent`
fn parse_part(text: &str) -> Result<Part, Error> {
    let wrong =
        || Error::Setting(format!("{text:?} is not ISL,OSL:percent, as in 256,128:60 or 256|10,128|5:60"));
    let number = |text: &str| text.trim().parse::<f64>().map_err(|_| wrong());
    let length = |text: &str| match text.split_once('|') {
        Some((mean, stddev)) => Length::normal(number(mean)?, number(stddev)?),
        None => Length::normal(number(text)?, 0.0),
    };
    let (lengths, share) = text.split_once(':').ok_or_else(wrong)?;
    let (input, output) = lengths.split_once(',').ok_or_else(wrong)?;
    Ok(Part { share: number(share)?, input: length(input)?, output: Some(length(output)?) })
}

fn parse_json(text: &str) -> Result<Vec<Part>, Error> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Mixture {
        pairs: Vec<Pair>,
    }
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Pair {
        isl: f64,
        osl: f64,
        prob: f64,
        #[serde(default)]
        isl_stddev: f64,
        #[serde(default)]
        osl_stddev: f64,
    }
    let mixture: Mixture = serde_json::from_str(text)
        .map_err(|error| Error::Setting(format!("the sequence distribution {text:?}: {error}")))?;
    let part = |pair: Pair| {
        Ok(Part {
            share: pair.prob,
            input: Length::normal(pair.isl, pair.isl_stddev)?,
            output: Some(Length::normal(pair.osl, pair.osl_stddev)?),
        })
    };
    mixture.pairs.into_iter().map(part).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random;

    fn drawn(length: Length) -> Vec<u32> {
        let mut random = random::stream(1, "test");
        (0..10_000).map(|_| length.draw(&mut random)).collect()
    }

    #[test]
    fn normal_lengths_have_mean_and_deviation_and_never_fall_below_one() {
        let lengths = drawn(Length::normal(550.0, 50.0).unwrap());
        let mean = lengths.iter().sum::<u32>() as f64 / 1e4;
        let variance = lengths.iter().map(|length| (f64::from(*length) - mean).powi(2)).sum::<f64>() / 1e4;
        assert!((mean - 550.0).abs() < 2.0 && (variance.sqrt() - 50.0).abs() < 2.0, "{mean} {variance}");
        assert!(drawn(Length::normal(2.0, 50.0).unwrap()).contains(&1));
        assert!(drawn(Length::normal(7.0, 0.0).unwrap()).iter().all(|length| *length == 7));
    }

    #[test]
    fn uniform_windows_reach_both_ends() {
        let range = |length: Length| {
            let lengths = drawn(length);
            (*lengths.iter().min().unwrap(), *lengths.iter().max().unwrap())
        };
        assert_eq!(range(Length::around(100, 0.25).unwrap()), (75, 125));
        assert_eq!(range(Length::up_to(100, 0.25).unwrap()), (25, 100));
        assert_eq!(range(Length::up_to(100, 0.0).unwrap()), (1, 100));
        assert_eq!(range(Length::exactly(9)), (9, 9));
        assert!(Length::around(100, 1.5).is_err());
        assert!(Length::normal(0.0, 1.0).is_err() && Length::normal(f64::NAN, 1.0).is_err());
    }

    #[test]
    fn a_mixture_can_be_written_in_three_ways() {
        let plain = SequenceLengths::parse("256|10,128|5:60;512,64:40").unwrap();
        let brackets = SequenceLengths::parse("[(256|10,128|5):60,(512,64):40]").unwrap();
        let json = r#"{"pairs": [{"isl": 256, "osl": 128, "prob": 60, "isl_stddev": 10, "osl_stddev": 5},
                                 {"isl": 512, "osl": 64, "prob": 40}]}"#;
        assert_eq!(plain, brackets);
        assert_eq!(plain, SequenceLengths::parse(json).unwrap());
        let mut random = random::stream(2, "test");
        let long = (0..10_000).filter(|_| plain.draw(&mut random) == (512, Some(64))).count();
        assert!((long as f64 - 4000.0).abs() < 150.0, "{long}");
    }

    #[test]
    fn mixtures_that_make_no_sense_are_refused() {
        for text in [
            "",
            "256,128",
            "256:100",
            "256,128:99",
            "a,b:100",
            "256,128:50;1,1:-50",
            "0,5:100",
            "{}",
            "[(1,2):50]",
        ] {
            assert!(SequenceLengths::parse(text).is_err(), "{text}");
        }
    }
}
