//! `--goodput "time_to_first_token:100 inter_token_latency:3.4"`: what counts as a good answer.

use std::str::FromStr;

use super::Tag;
use crate::{Metric, Objective, Record};

/// A limit on one metric, in the unit in which the metric is printed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Slo {
    tag: Tag,
    limit: f64,
}

/// What is wrong with an objective.
#[derive(Debug, Eq, PartialEq, thiserror::Error)]
pub enum GoodputError {
    /// Not of the form `metric:value`.
    #[error("{0:?} is not of the form METRIC:VALUE, as time_to_first_token:100")]
    Form(String),
    /// No such metric.
    #[error(
        "unknown metric {0:?}; known are request_latency, time_to_first_token, inter_token_latency and others"
    )]
    Metric(String),
    /// The value is not a number that can be a limit.
    #[error("{0:?} is not a limit: give a number of zero or more")]
    Value(String),
}

impl Slo {
    /// Several objectives, set apart by blanks.
    pub fn parse_list(text: &str) -> Result<Vec<Self>, GoodputError> {
        text.split_whitespace().map(str::parse).collect()
    }

    /// The same as a limit on our own metric of that meaning, where there is one.
    pub fn objective(self) -> Option<Objective> {
        let metric = match self.tag {
            Tag::TimeToFirstToken => Metric::Ttft,
            Tag::TimeToFirstOutputToken => Metric::FirstAnswer,
            Tag::InterTokenLatency => Metric::Tpot,
            Tag::InterChunkLatency => Metric::Gap,
            Tag::RequestLatency => Metric::E2e,
            _ => return None,
        };
        Some(Objective { metric, limit: (self.limit * self.tag.scale()) as u64, good_without: false })
    }

    /// Whether only streamed answers have the metric.
    pub fn needs_stream(self) -> bool {
        self.tag.needs_stream()
    }

    /// Whether an answered request meets it. A request without the metric does not.
    pub(super) fn met(self, record: &Record) -> bool {
        let (mut met, mut any) = (true, false);
        self.tag.values(record, |value| {
            let value = value as f64 / self.tag.scale() - self.tag.offset();
            any = true;
            met &= if self.tag.larger_is_better() { value >= self.limit } else { value <= self.limit };
        });
        met && any
    }
}

impl FromStr for Slo {
    type Err = GoodputError;

    fn from_str(text: &str) -> Result<Self, GoodputError> {
        let (name, value) = text.split_once(':').ok_or_else(|| GoodputError::Form(text.to_owned()))?;
        let tag = Tag::from_name(name).ok_or_else(|| GoodputError::Metric(name.to_owned()))?;
        let limit = value.parse().ok().filter(|limit: &f64| limit.is_finite() && *limit >= 0.0);
        limit.map(|limit| Self { tag, limit }).ok_or_else(|| GoodputError::Value(value.to_owned()))
    }
}
