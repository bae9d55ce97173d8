//! Which answers are good enough.

use std::collections::BTreeMap;

use super::{Settings, collector::Latencies};
use crate::Object;

/// Counts of good answers.
#[derive(Clone, Debug, Default)]
pub(super) struct Goodput {
    good: u64,
    good_tokens: u64,
    /// Answers that keep each limit.
    kept: BTreeMap<String, u64>,
}

impl Goodput {
    /// Counts an answer. A value that is missing keeps no limit.
    pub(super) fn push(&mut self, latencies: &Latencies, tokens: u64, settings: &Settings) {
        let mut all = true;
        for (name, limit) in limits(settings) {
            let keeps = latencies.get(&name).is_some_and(|seconds| seconds <= limit);
            *self.kept.entry(name).or_default() += u64::from(keeps);
            all &= keeps;
        }
        self.good += u64::from(all);
        self.good_tokens += if all { tokens } else { 0 };
    }

    /// `goodput_metrics`, over the answers; nothing where no limits are set.
    pub(super) fn object(&self, answers: u64, seconds: f64, settings: &Settings) -> Option<Object> {
        let limits = limits(settings);
        if limits.is_empty() {
            return None;
        }
        let percent = |count: u64| if answers > 0 { 100.0 * count as f64 / answers as f64 } else { 0.0 };
        let rate = |amount: u64| if seconds > 0.0 { amount as f64 / seconds } else { 0.0 };
        let mut object = Object::default();
        object.set("goodput_percentage", percent(self.good));
        object.set("request_goodput", rate(self.good));
        object.set("token_goodput", rate(self.good_tokens));
        object.set("good_requests", self.good);
        object.set("total_requests", answers);
        for name in limits.keys() {
            let kept = self.kept.get(name).copied().unwrap_or(0);
            object.set(format!("{name}_attainment_percentage"), percent(kept));
        }
        Some(object)
    }

    /// Share in percent of all requests, failures included.
    pub(super) fn percent_of_all(&self, requests: u64, settings: &Settings) -> Option<f64> {
        let asked = requests > 0 && !limits(settings).is_empty();
        asked.then(|| 100.0 * self.good as f64 / requests as f64)
    }
}

/// All limits; a header's goes over that of the file.
fn limits(settings: &Settings) -> BTreeMap<String, f64> {
    let mut limits = settings.constraints.clone();
    for (name, limit) in ["ttft", "tpot"].into_iter().zip(settings.header_limits) {
        if let Some(limit) = limit.filter(|_| settings.streaming) {
            limits.insert(name.to_owned(), limit);
        }
    }
    limits
}
