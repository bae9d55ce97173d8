//! Figures over time: how many requests were in prefill and in decode at each moment, and how many tokens they moved.
//!
//! As AIPerf has it: a request reads its prompt evenly from its send to its first chunk. That chunk is one token, which
//! takes no time; the other tokens come in equal parts in the gaps between chunks, each evenly over its gap. In the
//! total of both they come evenly over all of the decode. Tokens in flight are the prompt, and what has been written.
//! `effective` figures are over the whole run, `active` ones over the moments with such work. Time is cut into buckets
//! of a millisecond; when there are [`BUCKETS`] of them, pairs are merged, so memory is bounded. A part shorter than a
//! bucket counts with its share of it, so averages over the run are exact; for an average over moments with work, the
//! bucket in which it begins or ends counts whole.

use std::time::Duration;

use super::{MetricResult, Statistics, results::STATISTICS};
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
    /// Both kinds of tokens, those of a decode evenly.
    Tokens,
    InFlight,
}

const CHANNELS: usize = 6;

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
        let input = f64::from(record.input_tokens.tokens);
        let rate = |tokens: f64, time: f64| ratio(tokens, time).unwrap_or(0.0);
        self.end_s = self.end_s.max(end);
        self.spread(Channel::InFlight, sent, end, input);
        self.spread(Channel::Prefill, sent, first, 1.0);
        self.spread(Channel::PrefillTokens, sent, first, rate(input, first - sent));
        self.spread(Channel::Tokens, sent, first, rate(input, first - sent));
        if first_token.is_none() {
            return;
        }
        self.spread(Channel::Decode, first, end, 1.0);
        let Some(rest) = record.output_tokens.tokens.checked_sub(1).map(f64::from) else { return };
        self.spread(Channel::Tokens, first, end, rate(rest, end - first));
        // Chunks that came at once have no gap to be spread over.
        let gaps = record.gaps().filter(|gap| !gap.is_zero()).count() as f64;
        let chunks = record.chunks.len().saturating_sub(1) as f64;
        let mut written = 1.0;
        for pair in record.chunks.windows(2) {
            let [from, to] = [pair[0].at, pair[1].at].map(|at| at.saturating_sub(zero).as_secs_f64());
            self.spread(Channel::DecodeTokens, from, to, rate(rest / gaps, to - from));
            self.spread(Channel::InFlight, from, to, written);
            written += rest / chunks;
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

    /// The figures by their tags and units, over a window of the run's clock or over all of it.
    pub(super) fn figures(
        &self,
        streaming: bool,
        window: Option<(Duration, Duration)>,
    ) -> Vec<(&'static str, &'static str, OverTime)> {
        let zero = self.zero.unwrap_or_default();
        let seconds = |time: Duration| time.saturating_sub(zero).as_secs_f64();
        let window = window.map_or((0.0, self.end_s), |(start, end)| (seconds(start), seconds(end)));
        let of = |channel: Channel| move |bucket: &[f32; CHANNELS]| f64::from(bucket[channel as usize]);
        let (prefill, decode) = (of(Channel::Prefill), of(Channel::Decode));
        let (reads, writes) = (of(Channel::PrefillTokens), of(Channel::DecodeTokens));
        let (total, in_flight) = (of(Channel::Tokens), of(Channel::InFlight));
        let both = |bucket: &[f32; CHANNELS]| prefill(bucket) + decode(bucket);
        let per_read = |bucket: &[f32; CHANNELS]| ratio(reads(bucket), prefill(bucket)).unwrap_or(0.0);
        let per_write = |bucket: &[f32; CHANNELS]| ratio(writes(bucket), decode(bucket)).unwrap_or(0.0);
        let (tokens_s, user, requests) = ("tokens/sec", "tokens/sec/user", "requests");
        let mut all = vec![("effective_concurrency", requests, self.over(window, both, |_| true))];
        if streaming {
            all.extend([
                ("effective_decode_throughput", tokens_s, self.over(window, writes, |_| true)),
                ("effective_prefill_throughput", tokens_s, self.over(window, reads, |_| true)),
                ("effective_decode_concurrency", requests, self.over(window, decode, |_| true)),
                ("effective_prefill_concurrency", requests, self.over(window, prefill, |_| true)),
                ("effective_total_throughput", tokens_s, self.over(window, total, |_| true)),
                ("effective_decode_throughput_per_user", user, self.over(window, per_write, |_| true)),
                ("effective_prefill_throughput_per_user", user, self.over(window, per_read, |_| true)),
                ("tokens_in_flight", "tokens", self.over(window, in_flight, |_| true)),
                (
                    "active_decode_throughput",
                    tokens_s,
                    self.over(window, writes, |bucket| decode(bucket) > 0.0),
                ),
                (
                    "active_prefill_throughput",
                    tokens_s,
                    self.over(window, reads, |bucket| prefill(bucket) > 0.0),
                ),
                (
                    "active_decode_throughput_per_user",
                    user,
                    self.over(window, per_write, |bucket| decode(bucket) > 0.0),
                ),
                (
                    "active_prefill_throughput_per_user",
                    user,
                    self.over(window, per_read, |bucket| prefill(bucket) > 0.0),
                ),
                ("active_total_throughput", tokens_s, self.over(window, total, |bucket| both(bucket) > 0.0)),
            ]);
        }
        all.into_iter().filter_map(|(tag, unit, figures)| Some((tag, unit, figures?))).collect()
    }

    /// Statistics over the buckets for which `counts` holds, weighed by their time in the window, in seconds from
    /// `zero`.
    fn over(
        &self,
        (start, end): (f64, f64),
        value: impl Fn(&[f32; CHANNELS]) -> f64,
        counts: impl Fn(&[f32; CHANNELS]) -> bool,
    ) -> Option<OverTime> {
        let (from, to) = (start / self.width_s, end / self.width_s);
        let last = (to.ceil() as usize).min(self.buckets.len());
        let inside = self.buckets.get(from as usize..last).unwrap_or_default();
        let buckets = inside.iter().zip(from as usize..).filter(|(bucket, _)| counts(bucket));
        let mut values: Vec<(f64, f64)> = buckets
            .filter_map(|(bucket, index)| {
                let index = index as f64;
                // The last bucket may reach beyond the end of the run: its value belongs to a shorter time.
                let filled = (self.end_s / self.width_s - index).clamp(0.0, 1.0);
                let share = to.min(index + filled) - from.max(index);
                let whole = bucket.map(|value| (f64::from(value) / filled) as f32);
                (share > 0.0).then(|| (value(&whole), share))
            })
            .collect();
        let time: f64 = values.iter().map(|(_, share)| share).sum();
        let avg = ratio(values.iter().map(|(value, share)| value * share).sum(), time)?;
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

/// A figure over time has no number of values, and no sum.
pub(super) fn over_time((tag, unit, figures): (&'static str, &'static str, OverTime)) -> MetricResult {
    let OverTime { avg, min, max, p50, p90, p95, p99, std } = figures;
    let mut values = [None; 14];
    for (name, value) in [
        ("avg", avg),
        ("min", min),
        ("max", max),
        ("p50", p50),
        ("p90", p90),
        ("p95", p95),
        ("p99", p99),
        ("std", std),
    ] {
        if let Some(place) = STATISTICS.iter().position(|known| *known == name) {
            values[place] = Some(value);
        }
    }
    let header = tag.split('_').map(capitalised).collect::<Vec<_>>().join(" ");
    MetricResult { tag: tag.to_owned(), header, unit, order: None, statistics: Statistics::OverTime(values) }
}

fn capitalised(word: &str) -> String {
    let mut letters = word.chars();
    letters.next().map_or_else(String::new, |first| first.to_uppercase().chain(letters).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample::{ms, request};

    fn figure(sweep: &Sweep, tag: &str) -> OverTime {
        sweep.figures(true, None).into_iter().find(|(known, ..)| *known == tag).unwrap().2
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
        // The first token of each is no part of the decode: nine in 90 ms.
        close(figure(&sweep, "effective_decode_throughput").avg, 18.0 / 0.29);
        close(figure(&sweep, "active_decode_throughput").avg, 100.0);
        close(figure(&sweep, "active_decode_throughput_per_user").avg, 100.0);
        close(figure(&sweep, "effective_total_throughput").avg, 218.0 / 0.29);
        // 100 prompt tokens for 190 ms, and one to nine written ones, 10 ms each.
        close(figure(&sweep, "tokens_in_flight").avg, 2.0 * (100.0 * 190.0 + 45.0 * 10.0) / 290.0);
        assert_eq!(figure(&sweep, "tokens_in_flight").max.round(), 209.0);
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
        close(figure(&sweep, "effective_decode_throughput").avg, 9.0 * 1000.0 / 999.19);
        assert_eq!(Sweep::default().figures(true, None), []);
    }

    #[test]
    fn a_window_has_what_was_under_way_in_it_whenever_it_was_sent() {
        let figures = sweep().figures(true, Some((ms(1150), ms(1250))));
        let avg = |tag: &str| figures.iter().find(|(known, ..)| *known == tag).unwrap().2.avg;
        // The first decodes to 1190, the second reads to 1200 and decodes from then on.
        close(avg("effective_concurrency"), 1.4);
        close(avg("effective_prefill_concurrency"), 0.5);
        close(avg("effective_decode_throughput"), 90.0);
        close(avg("active_decode_throughput"), 100.0);
        assert_eq!(sweep().figures(true, Some((ms(3000), ms(4000)))), []);
    }

    #[test]
    fn tokens_come_in_the_gaps_between_chunks() {
        // Two tokens an event, the second event with the first, the third after 10 ms, the last after 30 more.
        let mut record = request(1000, 100, 0, 4);
        record.output_tokens.tokens = 7;
        record.chunks[2].at = ms(1110);
        record.chunks[3].at = ms(1140);
        let mut sweep = Sweep::default();
        sweep.push(&record, record.first_chunk());
        let decode = figure(&sweep, "active_decode_throughput");
        close(decode.max, 3.0 / 0.01);
        close(decode.min, 3.0 / 0.03);
        close(decode.avg, 6.0 / 0.04);
        close(figure(&sweep, "active_total_throughput").min, 6.0 / 0.04);
    }
}
