//! Brackets the capacity from both sides, narrows the bracket, and looks again.

use std::{
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use anyhow::ensure;
use loadgen::RunSummary;
use report::Record;
use workload::inference_perf::{LoadType, StagePlan, Sweep, Workload};

use super::{Driver, Found, Probe, plan};

/// Length of a probe, in seconds; and of the first ones, while the rate is far below the capacity.
const PROBE_S: u64 = 4;
const SHORT_PROBE_S: u64 = 2;
/// Rate of the first probe.
const FIRST_RATE: f64 = 4.0;
/// No probe is faster.
const LARGEST_RATE: f64 = 200_000.0;
/// A server keeps up if no more than this share of a probe's second half is left over, or this many requests.
const LEFT_OVER: f64 = 0.03;
const LEFT_OVER_REQUESTS: f64 = 3.0;
/// A probe has this many requests at least, if that takes no longer than this.
const REQUESTS: f64 = 100.0;
const LONGEST_PROBE_S: u64 = 20;
/// How far past the knee it looks.
const PAST: f64 = 1.25;
/// A side that sends less than this share of what it should, or this late, is the bottleneck.
const SENT_SHARE: f64 = 0.98;
const LATE: Duration = Duration::from_millis(20);
/// A thread that runs, or waits to run, for more than this share of a probe (its end included, in which nothing is
/// sent) cannot tell its own queue from the server's.
const BUSY: f64 = 0.5;
/// Width of the bracket at which the search ends.
const NARROW: f64 = 1.04;
/// Probes at most.
const PROBES: usize = 40;

struct Search<'a> {
    driver: &'a Driver<'a>,
    workload: &'a mut Workload,
    probes: Vec<Probe>,
    /// The highest rate that was kept up with.
    low: f64,
    until: Instant,
}

/// What a probe says.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Says {
    KeepsUp,
    FallsBehind,
    ClientLimited,
}

pub(super) fn find(driver: &Driver<'_>, sweep: &Sweep, workload: &mut Workload) -> anyhow::Result<Found> {
    // `timeout` bounds inference-perf's one probe; each of ours is shorter than that.
    let until = Instant::now() + Duration::from_secs_f64(sweep.timeout) * 5;
    let mut search = Search { driver, workload, probes: Vec::new(), low: 0.0, until };
    search.find()
}

impl Search<'_> {
    fn find(&mut self) -> anyhow::Result<Found> {
        loop {
            let Some(high) = self.bracket()? else { return self.client_limited() };
            let Some(high) = self.narrow(high)? else { return self.client_limited() };
            let Some(past) = self.look_past(high)? else { continue };
            let overload = past.iter().sum::<f64>() / past.len() as f64;
            let bounds = [self.low, high].into_iter().chain(past);
            let (least, most) = bounds
                .fold((f64::INFINITY, 0.0_f64), |(least, most), rate| (least.min(rate), most.max(rate)));
            return Ok(Found {
                // Between what it held and what it did not hold, by what it answered when it was overloaded.
                rate: overload.clamp(self.low, high),
                spread: Some((least, most)),
                client_limited: false,
                probes: std::mem::take(&mut self.probes),
            });
        }
    }

    /// Doubles the rate until the server falls behind. None if this side gives up first.
    fn bracket(&mut self) -> anyhow::Result<Option<f64>> {
        let mut rate = (self.low * 2.0).max(FIRST_RATE);
        while self.low < LARGEST_RATE && self.may_go_on() {
            match self.probe_surely(rate, SHORT_PROBE_S)? {
                Says::KeepsUp => self.low = rate,
                Says::FallsBehind => return Ok(Some(rate)),
                Says::ClientLimited => return Ok(None),
            }
            rate = (rate * 2.0).min(LARGEST_RATE);
        }
        Ok(None)
    }

    /// Brings both ends of the bracket together.
    fn narrow(&mut self, mut high: f64) -> anyhow::Result<Option<f64>> {
        // What an overloaded server answers is near its capacity: the bracket shrinks to that, if it holds.
        let estimate = self.probes.last().map_or(high, |probe| probe.answered);
        let mut guesses = [estimate * 1.03, estimate * 0.97].into_iter();
        while high / self.low.max(FIRST_RATE / 2.0) > NARROW && self.may_go_on() {
            let middle = if self.low > 0.0 { (self.low * high).sqrt() } else { high / 2.0 };
            let rate = guesses.find(|guess| self.low < *guess && *guess < high).unwrap_or(middle);
            match self.probe_surely(rate, PROBE_S)? {
                Says::KeepsUp => self.low = rate,
                Says::FallsBehind => high = rate,
                Says::ClientLimited => return Ok(None),
            }
        }
        Ok(Some(high))
    }

    /// What the server answers past the knee, twice. None if it keeps up there: then the bracket was wrong.
    fn look_past(&mut self, high: f64) -> anyhow::Result<Option<[f64; 2]>> {
        let mut answered = [0.0; 2];
        for answered in &mut answered {
            if self.probe(high * PAST, PROBE_S)? == Says::KeepsUp && self.may_go_on() {
                self.low = high * PAST;
                return Ok(None);
            }
            *answered = self.probes.last().map_or(0.0, |probe| probe.answered);
        }
        Ok(Some(answered))
    }

    /// A pause of this machine can look like a server that falls behind, once.
    fn probe_surely(&mut self, rate: f64, seconds: u64) -> anyhow::Result<Says> {
        match self.probe(rate, seconds)? {
            Says::FallsBehind if self.may_go_on() => self.probe(rate, seconds),
            says => Ok(says),
        }
    }

    fn may_go_on(&self) -> bool {
        self.probes.len() < PROBES && Instant::now() < self.until
    }

    /// The highest rate that was held; or what this side managed, if none was.
    fn client_limited(&mut self) -> anyhow::Result<Found> {
        ensure!(
            self.may_go_on(),
            "the sweep found no rate that the server falls behind in {} probes; raise load.sweep.timeout",
            self.probes.len()
        );
        let managed = self.probes.iter().map(|probe| probe.sent).fold(1.0, f64::max);
        let rate = if self.low > 0.0 { self.low } else { managed };
        Ok(Found { rate, spread: None, client_limited: true, probes: std::mem::take(&mut self.probes) })
    }

    fn probe(&mut self, rate: f64, seconds: u64) -> anyhow::Result<Says> {
        // Few requests say little: slow rates are probed for longer, once the bracket is known.
        let wanted = if seconds == SHORT_PROBE_S { REQUESTS / 6.0 } else { REQUESTS };
        let seconds = seconds.max(((wanted / rate).ceil() as u64).min(LONGEST_PROBE_S));
        let stage = plan(self.driver.config(), StagePlan::PROBE, rate, seconds);
        let load = self.workload.start(&stage, self.driver.shard())?;
        let control = self.driver.next_control();
        let records = Mutex::new(Vec::<Record>::new());
        let sent_for = Duration::from_secs(seconds);
        let (summary, _) = self.driver.send(&stage, load, None, &control, |record, _| {
            records.lock().unwrap_or_else(PoisonError::into_inner).push(record);
        })?;
        ensure!(control.stops() == 0, "stopped by hand during the sweep");
        let records = records.into_inner().unwrap_or_else(PoisonError::into_inner);
        let failed = records.iter().filter(|record| record.outcome.is_failure()).count();
        let mut probe = measure(rate, &records);
        let says = match self.judge(&probe, &records, sent_for, failed) {
            // Whose queue it is cannot be told where this side has no time left to read.
            Says::FallsBehind if busiest(&summary) > BUSY => Says::ClientLimited,
            says => says,
        };
        probe.verdict = match says {
            Says::KeepsUp => "keeps up",
            Says::FallsBehind => "falls behind",
            Says::ClientLimited => "client-limited",
        };
        self.driver.lines.info(&format!(
            "sweep: {:.1} requests/s asked, {:.1} sent, {:.1} answered: {}",
            probe.asked, probe.sent, probe.answered, probe.verdict
        ));
        self.probes.push(probe);
        Ok(says)
    }

    fn judge(&self, probe: &Probe, records: &[Record], sent_for: Duration, failed: usize) -> Says {
        if failed * 20 > records.len() {
            return Says::FallsBehind;
        }
        let by_chance = self.driver.config().load.r#type == LoadType::Poisson;
        let asked = probe.asked / f64::from(self.driver.shard().count);
        let bounded = records.iter().filter(|record| record.admitted > record.scheduled + LATE).count();
        let late = late_share(records);
        if bounded * 50 <= records.len() && (probe.sent < SENT_SHARE * asked || late > 0.5) {
            return Says::ClientLimited;
        }
        if bounded * 50 > records.len() || leaves_over(records, by_chance) || grows(records, sent_for) {
            return Says::FallsBehind;
        }
        Says::KeepsUp
    }
}

/// How busy the busiest thread was, its waiting for a core included.
fn busiest(summary: &RunSummary) -> f64 {
    summary.client.threads.iter().map(|thread| thread.cpu_share + thread.wait_share).fold(0.0, f64::max)
}

/// Share of the requests that this side sent late, and not because of a bound.
fn late_share(records: &[Record]) -> f64 {
    let late = records.iter().filter(|record| {
        let ready = record.scheduled.max(record.admitted) + record.connect.unwrap_or_default();
        record.sent.is_some_and(|sent| sent > ready + LATE)
    });
    late.count() as f64 / records.len().max(1) as f64
}

/// Whether fewer were answered in the second half of the time of sending than came in it. `by_chance`: they come at random
/// times, so that as many more or fewer are in flight at its end as chance makes it.
fn leaves_over(records: &[Record], by_chance: bool) -> bool {
    let due = records.iter().map(|record| record.scheduled);
    let (start, end) = (due.clone().min().unwrap_or_default(), due.max().unwrap_or_default());
    let half = start + (end - start) / 2;
    let second_half = half..=end;
    let count = |is_counted: &dyn Fn(&Record) -> bool| {
        records.iter().filter(|&record| is_counted(record)).count() as f64
    };
    let came = count(&|record| second_half.contains(&record.scheduled));
    let answered = count(&|record| record.outcome.is_success() && second_half.contains(&record.done));
    let in_flight = count(&|record| record.scheduled < half && record.done >= half);
    let chance = if by_chance { 2.0 * (2.0 * in_flight).sqrt() } else { 0.0 };
    came - answered > (came * LEFT_OVER).max(LEFT_OVER_REQUESTS) + chance
}

/// Whether requests sent late in the probe took much longer than those sent early: a queue that grows. An unanswered one
/// took as long as it was waited for.
fn grows(records: &[Record], sent_for: Duration) -> bool {
    let first = records.iter().map(|record| record.scheduled).min().unwrap_or_default();
    let third = |from: u32| {
        let (start, end) = (first + sent_for * from / 3, first + sent_for * (from + 1) / 3);
        let inside = records.iter().filter(|record| (start..end).contains(&record.scheduled));
        median(inside.map(|record| record.done.saturating_sub(record.scheduled)).collect())
    };
    let (early, late) = (third(0), third(2));
    late > early * 2 && late - early > sent_for / 25
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times.get(times.len() / 2).copied().unwrap_or_default()
}

/// The figures of a probe. Answers are counted in the second half of the time in which it was sent, when a queue, if
/// there is one, has formed.
pub(super) fn measure(asked: f64, records: &[Record]) -> Probe {
    let sends: Vec<Duration> = records.iter().filter_map(|record| record.sent).collect();
    let (first, last) =
        (sends.iter().min().copied().unwrap_or_default(), sends.iter().max().copied().unwrap_or_default());
    let sent = (sends.len().max(1) - 1) as f64 / (last - first).as_secs_f64().max(1e-9);
    let due = records.iter().map(|record| record.scheduled);
    let (start, end) = (due.clone().min().unwrap_or_default(), due.max().unwrap_or_default());
    let half = start + (end - start) / 2;
    let mut done: Vec<Duration> = records
        .iter()
        .filter(|record| record.outcome.is_success() && (half..=end).contains(&record.done))
        .map(|record| record.done)
        .collect();
    done.sort_unstable();
    let answered = match (done.first(), done.last()) {
        (Some(first), Some(last)) if last > first => (done.len() - 1) as f64 / (*last - *first).as_secs_f64(),
        _ => 0.0,
    };
    let latencies = records.iter().map(|record| record.done.saturating_sub(record.scheduled)).collect();
    Probe { asked, sent, answered, median_latency: median(latencies), verdict: "" }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use report::{Count, Outcome};

    use super::*;

    fn record(scheduled_ms: u64, done_ms: u64) -> Record {
        let ms = Duration::from_millis;
        Record {
            phase: 0,
            index: 0,
            session: 0,
            turn: 0,
            target: 0,
            model: Arc::from("m"),
            scheduled: ms(scheduled_ms),
            admitted: ms(scheduled_ms),
            sent: Some(ms(scheduled_ms)),
            written: None,
            headers: None,
            chunks: Vec::new(),
            first_answer: None,
            done: ms(done_ms),
            connection_reused: true,
            connect: None,
            input_tokens: Count::default(),
            output_tokens: Count::default(),
            own_input_tokens: None,
            own_output_tokens: None,
            own_reasoning_tokens: None,
            response_bytes: 0,
            request_bytes: 0,
            reasoning_tokens: None,
            cached_tokens: None,
            requested_tokens: None,
            retries: 0,
            retried_for: Duration::ZERO,
            session_wait: Duration::ZERO,
            core_wait: Duration::ZERO,
            status: Some(200),
            outcome: Outcome::Success,
        }
    }

    #[test]
    fn a_server_that_keeps_up_answers_at_the_rate_of_the_sends() {
        let records: Vec<Record> = (0..400).map(|n| record(n * 10, n * 10 + 50)).collect();
        let probe = measure(100.0, &records);
        assert!((probe.sent - 100.0).abs() < 0.1 && (probe.answered - 100.0).abs() < 1.0, "{probe:?}");
        assert!(!grows(&records, Duration::from_secs(4)));
    }

    #[test]
    fn an_overloaded_server_shows_its_capacity_and_its_queue_grows() {
        // 100 a second, answered one every 20 ms.
        let records: Vec<Record> = (0..400).map(|n| record(n * 10, n * 20 + 50)).collect();
        let probe = measure(100.0, &records);
        assert!((probe.answered - 50.0).abs() < 1.0, "{probe:?}");
        assert!(grows(&records, Duration::from_secs(4)));
    }

    #[test]
    fn a_few_late_answers_are_no_queue() {
        // 16 requests, two answered late; then a server that answers two of three.
        let late = |n: u64| if n >= 14 { 900 } else { 150 };
        let records: Vec<Record> = (0..16).map(|n| record(n * 125, n * 125 + late(n))).collect();
        assert!(!leaves_over(&records, false));
        let behind: Vec<Record> = (0..160).map(|n| record(n * 10, n * 15 + 50)).collect();
        assert!(leaves_over(&behind, false));
        assert!(leaves_over(&behind, true), "not by chance either");
    }

    #[test]
    fn lateness_is_this_sides_only_beyond_the_bound_and_the_connection() {
        let mut waited = record(0, 90);
        (waited.admitted, waited.sent) = (Duration::from_millis(60), Some(Duration::from_millis(61)));
        let mut late = record(0, 90);
        late.sent = Some(Duration::from_millis(61));
        assert_eq!(late_share(&[waited, late]), 0.5);
    }
}
