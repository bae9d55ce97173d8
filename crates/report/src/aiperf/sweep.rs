//! Figures over time: how many requests were in prefill and in decode at each moment, and how many tokens they moved.
//!
//! A request reads its prompt evenly from its send to its first token, and writes its answer evenly from there to
//! its last. `effective` figures are over the whole run, `active` ones over the moments with such work. Time is cut
//! into buckets of a millisecond; when there are [`BUCKETS`] of them, pairs are merged, so memory is bounded. A part
//! shorter than a bucket counts with its share of it, so averages are exact.

use std::time::Duration;

use crate::{Record, summary::ratio};

/// Buckets kept, at most.
const BUCKETS: usize = 1 << 17;
const FIRST_WIDTH_S: f64 = 1e-3;

/// What is added up over time.
#[derive(Clone, Copy)]
enum Channel {
    Prefill,
    Decode,
    PrefillTokens,
    DecodeTokens,
    InFlight,
}

const CHANNELS: usize = 5;

/// The work of a run over time.
#[derive(Clone, Debug)]
pub(super) struct Sweep {
    width_s: f64,
    /// Start of the first bucket.
    zero: Option<Duration>,
    /// Means over each bucket.
    buckets: Vec<[f32; CHANNELS]>,
    /// End of the last piece of work, from `zero` on.
    end_s: f64,
}

/// Statistics of a figure over time.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct OverTime {
    pub(super) avg: f64,
    pub(super) min: f64,
    pub(super) max: f64,
    pub(super) p50: f64,
    pub(super) p90: f64,
    pub(super) p95: f64,
    pub(super) p99: f64,
    pub(super) std: f64,
}

impl Default for Sweep {
    fn default() -> Self {
        Self { width_s: FIRST_WIDTH_S, zero: None, buckets: Vec::new(), end_s: 0.0 }
    }
}

impl Sweep {
    /// Adds an answered request.
    pub(super) fn push(&mut self, record: &Record, first_token: Option<Duration>) {
        let Some(sent) = record.sent else { return };
        let end = record.last_chunk().unwrap_or(record.done);
        let first = first_token.unwrap_or(end).clamp(sent, end);
        let zero = *self.zero.get_or_insert(sent);
        if sent < zero {
            // Records come in the order of their ends: an earlier send needs room in front.
            self.shift(zero.saturating_sub(sent));
        }
        let zero = self.zero.unwrap_or(sent);
        let [sent, first, end] = [sent, first, end].map(|time| time.saturating_sub(zero).as_secs_f64());
        let (input, output) = (f64::from(record.input_tokens.tokens), f64::from(record.output_tokens.tokens));
        self.end_s = self.end_s.max(end);
        self.spread(Channel::InFlight, sent, end, input);
        self.spread(Channel::Prefill, sent, first, 1.0);
        self.spread(Channel::PrefillTokens, sent, first, ratio(input, first - sent).unwrap_or(0.0));
        if first_token.is_some() {
            self.spread(Channel::Decode, first, end, 1.0);
            self.spread(Channel::DecodeTokens, first, end, ratio(output, end - first).unwrap_or(0.0));
            // What has been written is in flight too: half of it, on average.
            self.spread(Channel::InFlight, first, end, output / 2.0);
        }
    }

    /// Adds `value` to the time from `start` to `end`.
    fn spread(&mut self, channel: Channel, start: f64, end: f64, value: f64) {
        while end / self.width_s >= BUCKETS as f64 {
            self.coarsen();
        }
        let (from, to) = (start / self.width_s, end / self.width_s);
        let last = to as usize;
        if self.buckets.len() <= last {
            self.buckets.resize(last + 1, [0.0; CHANNELS]);
        }
        for (bucket, index) in self.buckets[from as usize..=last].iter_mut().zip(from as usize..) {
            let share = (to.min(index as f64 + 1.0) - from.max(index as f64)).max(0.0);
            bucket[channel as usize] += (share * value) as f32;
        }
    }

    /// Makes room in front.
    fn shift(&mut self, by: Duration) {
        while self.buckets.len() as f64 + by.as_secs_f64() / self.width_s >= BUCKETS as f64 {
            self.coarsen();
        }
        let buckets = (by.as_secs_f64() / self.width_s).ceil();
        self.buckets.splice(0..0, vec![[0.0; CHANNELS]; buckets as usize]);
        let moved = Duration::from_secs_f64(buckets * self.width_s);
        self.end_s += moved.as_secs_f64();
        self.zero = self.zero.map(|zero| zero.saturating_sub(moved));
    }

    fn coarsen(&mut self) {
        let merged = self.buckets.chunks(2).map(|pair| {
            let mut sum = pair[0];
            for more in &pair[1..] {
                sum.iter_mut().zip(more).for_each(|(sum, more)| *sum += more);
            }
            sum.map(|value| value / 2.0)
        });
        self.buckets = merged.collect();
        self.width_s *= 2.0;
    }

    /// The figures by their tags and units.
    pub(super) fn figures(&self, streaming: bool) -> Vec<(&'static str, &'static str, OverTime)> {
        let of = |channel: Channel| move |bucket: &[f32; CHANNELS]| f64::from(bucket[channel as usize]);
        let (prefill, decode) = (of(Channel::Prefill), of(Channel::Decode));
        let (reads, writes) = (of(Channel::PrefillTokens), of(Channel::DecodeTokens));
        let in_flight = of(Channel::InFlight);
        let both = |bucket: &[f32; CHANNELS]| prefill(bucket) + decode(bucket);
        let total = |bucket: &[f32; CHANNELS]| reads(bucket) + writes(bucket);
        let per_read = |bucket: &[f32; CHANNELS]| ratio(reads(bucket), prefill(bucket)).unwrap_or(0.0);
        let per_write = |bucket: &[f32; CHANNELS]| ratio(writes(bucket), decode(bucket)).unwrap_or(0.0);
        let (tokens_s, user, requests) = ("tokens/sec", "tokens/sec/user", "requests");
        let mut all = vec![("effective_concurrency", requests, self.over(both, |_| true))];
        if streaming {
            all.extend([
                ("effective_decode_throughput", tokens_s, self.over(writes, |_| true)),
                ("effective_prefill_throughput", tokens_s, self.over(reads, |_| true)),
                ("effective_decode_concurrency", requests, self.over(decode, |_| true)),
                ("effective_prefill_concurrency", requests, self.over(prefill, |_| true)),
                ("effective_total_throughput", tokens_s, self.over(total, |_| true)),
                ("effective_decode_throughput_per_user", user, self.over(per_write, |_| true)),
                ("effective_prefill_throughput_per_user", user, self.over(per_read, |_| true)),
                ("tokens_in_flight", "tokens", self.over(in_flight, |_| true)),
                ("active_decode_throughput", tokens_s, self.over(writes, |bucket| decode(bucket) > 0.0)),
                ("active_prefill_throughput", tokens_s, self.over(reads, |bucket| prefill(bucket) > 0.0)),
                (
                    "active_decode_throughput_per_user",
                    user,
                    self.over(per_write, |bucket| decode(bucket) > 0.0),
                ),
                (
                    "active_prefill_throughput_per_user",
                    user,
                    self.over(per_read, |bucket| prefill(bucket) > 0.0),
                ),
                ("active_total_throughput", tokens_s, self.over(total, |bucket| both(bucket) > 0.0)),
            ]);
        }
        all.into_iter().filter_map(|(tag, unit, figures)| Some((tag, unit, figures?))).collect()
    }

    /// Statistics over the buckets for which `counts` holds, weighed by time.
    fn over(
        &self,
        value: impl Fn(&[f32; CHANNELS]) -> f64,
        counts: impl Fn(&[f32; CHANNELS]) -> bool,
    ) -> Option<OverTime> {
        // The last bucket may reach beyond the end of the run.
        let last_share = |index: usize| (self.end_s / self.width_s - index as f64).clamp(0.0, 1.0);
        let buckets = self.buckets.iter().enumerate().filter(|(_, bucket)| counts(bucket));
        let mut values: Vec<(f64, f64)> = buckets
            .map(|(index, bucket)| (value(bucket), last_share(index)))
            .filter(|(_, share)| *share > 0.0)
            .collect();
        let time: f64 = values.iter().map(|(_, share)| share).sum();
        // A bucket's value is its sum: in the last one it belongs to a shorter time.
        let avg = ratio(values.iter().map(|(value, _)| value).sum(), time)?;
        values.sort_by(|a, b| a.0.total_cmp(&b.0));
        let percentile = |percent: f64| {
            let place = ((values.len() - 1) as f64 * percent / 100.0).round() as usize;
            values[place].0
        };
        let variance = values.iter().map(|(value, share)| share * (value - avg).powi(2)).sum::<f64>() / time;
        let [p50, p90, p95, p99] = [50.0, 90.0, 95.0, 99.0].map(percentile);
        Some(OverTime {
            avg,
            min: values.first()?.0,
            max: values.last()?.0,
            p50,
            p90,
            p95,
            p99,
            std: variance.sqrt(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample::request;

    fn figure(sweep: &Sweep, tag: &str) -> OverTime {
        sweep.figures(true).into_iter().find(|(known, ..)| *known == tag).unwrap().2
    }

    /// Two requests, the second 100 ms after the first: 100 prompt tokens in 100 ms, then ten tokens in 90 ms.
    fn sweep() -> Sweep {
        let mut sweep = Sweep::default();
        for sent in [1000, 1100] {
            let record = request(sent, 100, 10, 10);
            sweep.push(&record, record.first_chunk());
        }
        sweep
    }

    #[track_caller]
    fn close(value: f64, expected: f64) {
        assert!((value - expected).abs() < 0.01 * expected, "{value} instead of {expected}");
    }

    #[test]
    fn averages_are_those_of_the_whole_run_or_of_the_work() {
        let sweep = sweep();
        // 290 ms in all: two of 190 ms each; 200 ms of prefill; decode from 100 to 190 and from 200 to 290.
        close(figure(&sweep, "effective_concurrency").avg, 380.0 / 290.0);
        close(figure(&sweep, "effective_prefill_concurrency").avg, 200.0 / 290.0);
        close(figure(&sweep, "effective_prefill_throughput").avg, 200.0 / 0.29);
        close(figure(&sweep, "active_prefill_throughput").avg, 1000.0);
        close(figure(&sweep, "effective_decode_throughput").avg, 20.0 / 0.29);
        close(figure(&sweep, "active_decode_throughput").avg, 20.0 / 0.18);
        close(figure(&sweep, "active_decode_throughput_per_user").avg, 20.0 / 0.18);
        assert_eq!(figure(&sweep, "effective_concurrency").max.round(), 2.0);
    }

    #[test]
    fn long_runs_lose_resolution_not_work() {
        let mut sweep = Sweep::default();
        for second in (0..1000).rev() {
            let record = request(second * 1000, 100, 10, 10);
            sweep.push(&record, record.first_chunk());
        }
        assert!(sweep.buckets.len() <= BUCKETS + 1, "{}", sweep.buckets.len());
        close(figure(&sweep, "effective_decode_throughput").avg, 10.0 * 1000.0 / 999.19);
        assert_eq!(Sweep::default().figures(true), []);
    }
}
