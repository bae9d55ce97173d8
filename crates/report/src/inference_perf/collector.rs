//! Collects what inference-perf's files need, in memory that does not grow with the number of requests.

use std::{sync::Arc, time::Duration};

use super::{Settings, failures::Failures, goodput::Goodput};
use crate::{CountSource, Distribution, Outcome, Record, Span, distribution::nanoseconds};

/// Waits for a slot that are shorter are the machine's, not the bound's.
const WAITED: Duration = Duration::from_micros(500);

/// The figures of a set of requests: the run, a stage, an adapter.
#[derive(Clone, Debug)]
pub struct Collector {
    pub(super) settings: Arc<Settings>,
    /// Requests that were started.
    pub(super) count: u64,
    pub(super) not_sent: u64,
    pub(super) delay: Distribution,
    pub(super) causes: Causes,
    pub(super) starts: Span,
    pub(super) window: Span,
    /// Sum of the times that requests were under way.
    pub(super) busy: Duration,
    pub(super) answered: u64,
    pub(super) latency: LatencyValues,
    pub(super) request_bytes: Distribution,
    pub(super) input: Distribution,
    pub(super) output: Distribution,
    /// Of the prompts whose cached tokens the server counted: those, and all.
    pub(super) cached_tokens: u64,
    pub(super) cacheable_tokens: u64,
    pub(super) mismatches: u64,
    pub(super) input_fallbacks: u64,
    pub(super) output_fallbacks: u64,
    pub(super) goodput: Goodput,
    pub(super) failed: u64,
    pub(super) failed_latency: Distribution,
    pub(super) failures: Failures,
    /// Requests that were under way when the run or the stage was over: neither answered nor failed.
    pub(super) cut_off: u64,
    pub(super) retries: Retried,
}

/// What requests waited for between their time and their start.
#[derive(Clone, Debug, Default)]
pub(super) struct Causes {
    /// The bound on what may be in flight.
    pub(super) bound: Distribution,
    /// The turn before it, which had not been answered at the planned time.
    pub(super) session: Distribution,
    /// Other programs and threads, which had the processor.
    pub(super) machine: Distribution,
    /// This program, for itself.
    pub(super) own: Distribution,
    /// The last two together.
    pub(super) client: Distribution,
    /// Not a part of the delay: opening a connection, which counts for the latency.
    pub(super) connect: Distribution,
    /// Requests that waited for the bound, and when the first of them fell due.
    pub(super) bounded: u64,
    pub(super) bounded_since: Option<Duration>,
}

/// Latencies of the answers, in nanoseconds.
#[derive(Clone, Debug, Default)]
pub(super) struct LatencyValues {
    pub(super) request: Distribution,
    pub(super) from_schedule: Distribution,
    pub(super) ntpot: Distribution,
    pub(super) tpot: Distribution,
    pub(super) ttft: Distribution,
    pub(super) itl: Distribution,
    pub(super) gap: Distribution,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Retried {
    pub(super) requests: u64,
    pub(super) attempts: u64,
    pub(super) recovered: u64,
    pub(super) wasted: Distribution,
}

/// The latencies of one answer; what it does not have is absent.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Latencies {
    pub(super) request: Option<Duration>,
    pub(super) ntpot: Option<Duration>,
    pub(super) tpot: Option<Duration>,
    pub(super) ttft: Option<Duration>,
    /// Mean of the gaps between tokens.
    pub(super) itl: Option<Duration>,
}

impl Collector {
    /// Empty.
    pub fn new(settings: Arc<Settings>) -> Self {
        Self {
            settings,
            count: 0,
            not_sent: 0,
            delay: Distribution::default(),
            causes: Causes::default(),
            starts: Span::default(),
            window: Span::default(),
            busy: Duration::ZERO,
            answered: 0,
            latency: LatencyValues::default(),
            request_bytes: Distribution::default(),
            input: Distribution::default(),
            output: Distribution::default(),
            cached_tokens: 0,
            cacheable_tokens: 0,
            mismatches: 0,
            input_fallbacks: 0,
            output_fallbacks: 0,
            goodput: Goodput::default(),
            failed: 0,
            failed_latency: Distribution::default(),
            failures: Failures::default(),
            cut_off: 0,
            retries: Retried::default(),
        }
    }

    /// Adds one request.
    pub fn push(&mut self, record: &Record) {
        let Some(start) = start(record) else {
            self.not_sent += 1;
            return;
        };
        self.count += 1;
        self.starts.include(start);
        self.window.include(start);
        self.window.include(record.done);
        self.busy += record.done.saturating_sub(start);
        self.push_delay(record, start);
        if record.retries > 0 {
            self.retries.requests += 1;
            self.retries.attempts += u64::from(record.retries);
            self.retries.recovered += u64::from(record.outcome.is_success());
            self.retries.wasted.record_time(record.retried_for);
        }
        if record.outcome.is_success() {
            self.push_answer(record);
        } else if record.outcome.is_failure() {
            self.failed += 1;
            self.failed_latency.record_time(record.done.saturating_sub(start));
            self.failures.push(record, &self.settings);
        } else {
            self.cut_off += 1;
        }
    }

    fn push_delay(&mut self, record: &Record, start: Duration) {
        let bound = record.admitted.saturating_sub(record.scheduled);
        let client = start.saturating_sub(record.scheduled.max(record.admitted));
        let machine = record.core_wait.min(client);
        self.delay.record_time(start.saturating_sub(planned(record)));
        for (values, time) in [
            (&mut self.causes.session, record.session_wait),
            (&mut self.causes.bound, bound),
            (&mut self.causes.machine, machine),
            (&mut self.causes.own, client - machine),
            (&mut self.causes.client, client),
        ] {
            values.record_time(time);
        }
        if let Some(connect) = record.connect {
            self.causes.connect.record_time(connect);
        }
        if bound >= WAITED {
            self.causes.bounded += 1;
            let since =
                self.causes.bounded_since.map_or(record.scheduled, |since| since.min(record.scheduled));
            self.causes.bounded_since = Some(since);
        }
    }

    fn push_answer(&mut self, record: &Record) {
        let (input, output) = (u64::from(record.input_tokens.tokens), u64::from(record.output_tokens.tokens));
        let latencies = Latencies::of(record, self.settings.streaming);
        self.answered += 1;
        self.request_bytes.record(record.request_bytes.into());
        self.input.record(input);
        self.output.record(output);
        if let Some(cached) = record.cached_tokens {
            self.cached_tokens += u64::from(cached);
            self.cacheable_tokens += input;
        }
        self.input_fallbacks += u64::from(record.input_tokens.source != CountSource::Usage);
        self.output_fallbacks += u64::from(record.output_tokens.source != CountSource::Usage);
        self.goodput.push(&latencies, input + output, &self.settings);
        let values = &mut self.latency;
        for (values, time) in [
            (&mut values.request, latencies.request),
            (&mut values.from_schedule, Some(record.done.saturating_sub(planned(record)))),
            (&mut values.ntpot, latencies.ntpot),
            (&mut values.tpot, latencies.tpot),
            (&mut values.ttft, latencies.ttft),
        ] {
            values.extend(time.map(nanoseconds));
        }
        if self.settings.streaming {
            let events: u64 = record.chunks.iter().map(|chunk| u64::from(chunk.tokens)).sum();
            self.mismatches += u64::from(events != output);
            values.gap.extend(record.gaps().map(nanoseconds));
            // Those that come together are no time apart, and may be any number by the server's word.
            if record.chunks.len() > 1 {
                values.itl.extend(record.gaps().map(nanoseconds));
                record.chunks.iter().for_each(|chunk| values.itl.record_n(0, chunk.tokens.saturating_sub(1)));
            }
        }
    }

    /// From the first start to the last end, in seconds.
    pub(super) fn time_s(&self) -> f64 {
        self.window.length().as_secs_f64()
    }

    /// Sends a second; absent below two.
    pub fn achieved_rate(&self) -> Option<f64> {
        let seconds = self.starts.length().as_secs_f64();
        (self.count > 1 && seconds > 0.0).then(|| (self.count - 1) as f64 / seconds)
    }

    /// Requests that were started.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Requests that fell due and were not started.
    pub fn not_sent(&self) -> u64 {
        self.not_sent
    }

    /// Requests that were answered.
    pub fn answered(&self) -> u64 {
        self.answered
    }

    /// Requests that failed.
    pub fn failed(&self) -> u64 {
        self.failed
    }

    /// Requests that waited for the bound on what may be in flight, when the first of them fell due, and the longest
    /// wait.
    pub fn bounded(&self) -> Option<(u64, Duration, Duration)> {
        let longest = Duration::from_nanos(self.causes.bound.max().unwrap_or(0));
        Some((self.causes.bounded, self.causes.bounded_since?, longest))
    }

    /// Requests that were cut off.
    pub fn cut_off(&self) -> u64 {
        self.cut_off
    }

    /// How late this program was, in nanoseconds; waiting for a bound is not part of it.
    pub fn client_delay(&self) -> &Distribution {
        &self.causes.client
    }

    /// From the time of a request to its start, in nanoseconds.
    pub fn schedule_delay(&self) -> &Distribution {
        &self.delay
    }

    /// Whole answers, in nanoseconds.
    pub fn request_latency(&self) -> &Distribution {
        &self.latency.request
    }
}

/// When a request was to be sent, whatever came before it: delays and latencies from the schedule count from then.
pub(super) fn planned(record: &Record) -> Duration {
    record.scheduled.saturating_sub(record.session_wait)
}

/// When this side began to send a request, for the first time; nothing if it never did.
pub(super) fn start(record: &Record) -> Option<Duration> {
    match (&record.outcome, record.sent) {
        (_, Some(sent)) => {
            let before = record.connect.unwrap_or_default() + record.retried_for;
            Some(sent.saturating_sub(before).max(record.scheduled.min(sent)))
        }
        // No connection: it began when it was due and had its slot.
        (Outcome::Connect(_) | Outcome::Timeout | Outcome::Incomplete | Outcome::Broken(_), None) => {
            Some(record.admitted)
        }
        (_, None) => None,
    }
}

/// The gaps between tokens. Every token has the time of its event: those that come together are no time apart. Of an
/// answer that came in one event no gap was seen.
pub(super) fn token_gaps(record: &Record) -> impl Iterator<Item = Duration> + '_ {
    let seen = if record.chunks.len() > 1 { record.chunks.as_slice() } else { &[] };
    let mut times = seen.iter().flat_map(|chunk| (0..chunk.tokens).map(|_| chunk.at));
    let mut last = times.next();
    times.map(move |at| at.saturating_sub(last.replace(at).unwrap_or(at)))
}

impl Latencies {
    pub(super) fn of(record: &Record, streaming: bool) -> Self {
        let Some(start) = start(record) else { return Self::default() };
        let request = record.done.saturating_sub(start);
        let tokens = record.output_tokens.tokens;
        let first = record.first_chunk().filter(|_| streaming);
        let last = record.last_chunk().filter(|_| streaming);
        let decode = first.zip(last).map(|(first, last)| last.saturating_sub(first));
        let gaps = record
            .chunks
            .iter()
            .fold(0, |sum: u32, chunk| sum.saturating_add(chunk.tokens))
            .saturating_sub(1);
        Self {
            request: Some(request),
            ntpot: request.checked_div(tokens),
            tpot: decode
                .filter(|_| record.chunks.len() > 1)
                .and_then(|decode| decode.checked_div(tokens.saturating_sub(1))),
            ttft: first.map(|first| first.saturating_sub(start)),
            itl: decode.filter(|_| record.chunks.len() > 1).and_then(|decode| decode.checked_div(gaps)),
        }
    }

    /// In seconds, by the name of the constraint.
    pub(super) fn get(&self, name: &str) -> Option<f64> {
        let time = match name {
            "ttft" => self.ttft,
            "tpot" => self.tpot,
            "itl" => self.itl,
            "ntpot" => self.ntpot,
            "request_latency" => self.request,
            _ => None,
        };
        time.map(|time| time.as_secs_f64())
    }
}
