//! What the records of one probe say of the server.

use std::{ops::RangeInclusive, time::Duration};

use super::{Probe, Says};
use crate::Record;

/// A server keeps up if no more than this share of a probe's second half is left over, or this many requests.
const LEFT_OVER: f64 = 0.03;
const LEFT_OVER_REQUESTS: f64 = 3.0;
/// A side that sends less than it should by this share, and by this many requests, or this late, is the bottleneck.
const UNSENT: f64 = 0.02;
const UNSENT_REQUESTS: f64 = 3.0;
const LATE: Duration = Duration::from_millis(20);
/// A thread that runs, or waits to run, for more than this share of a probe (its end included, in which nothing is
/// sent) cannot tell its own queue from the server's.
const BUSY: f64 = 0.5;
/// Where the host took more than this share of the processors' time, what looks like a limit of this side is none.
const STOLEN: f64 = 0.1;

/// What was asked of a probe.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ProbeShape {
    /// Requests a second.
    pub rate: f64,
    /// Time in which they are due.
    pub sent_for: Duration,
    /// Requests come at random times.
    pub by_chance: bool,
}

impl Probe {
    /// The figures of a probe, not judged. Answers are counted in the second half of the time in which it was sent,
    /// when a queue, if there is one, has formed.
    pub fn measured(rate: f64, records: &[Record]) -> Self {
        let sends: Vec<Duration> = records.iter().filter_map(|record| record.sent).collect();
        let (first, last) = (
            sends.iter().min().copied().unwrap_or_default(),
            sends.iter().max().copied().unwrap_or_default(),
        );
        let sent = (sends.len().max(1) - 1) as f64 / (last - first).as_secs_f64().max(1e-9);
        let second_half = second_half(records);
        let mut done: Vec<Duration> = records
            .iter()
            .filter(|record| record.outcome.is_success() && second_half.contains(&record.done))
            .map(|record| record.done)
            .collect();
        done.sort_unstable();
        let answered = match (done.first(), done.last()) {
            (Some(first), Some(last)) if last > first => {
                (done.len() - 1) as f64 / (*last - *first).as_secs_f64()
            }
            _ => 0.0,
        };
        let latencies = records.iter().map(|record| record.done.saturating_sub(record.scheduled)).collect();
        Self { asked: rate, sent, answered, median_latency: median(latencies), says: None }
    }

    /// The figures of a probe, and what they say. `busiest`: how busy this side's busiest thread was, its waiting for a
    /// core included, from 0 to 1; `stolen`: the share of the processors' time that the host took.
    pub fn judged(shape: ProbeShape, records: &[Record], busiest: f64, stolen: f64) -> Self {
        let measured = Self::measured(shape.rate, records);
        let says = match measured.judge(shape, records) {
            Says::ClientLimited if stolen > STOLEN => Says::Disturbed,
            // Whose queue it is cannot be told where this side has no time left to read.
            Says::FallsBehind if busiest > BUSY => Says::ClientLimited,
            says => says,
        };
        Self { says: Some(says), ..measured }
    }

    fn judge(&self, shape: ProbeShape, records: &[Record]) -> Says {
        let failed = records.iter().filter(|record| record.outcome.is_failure()).count();
        if failed * 20 > records.len() {
            return Says::FallsBehind;
        }
        let bounded = records.iter().filter(|record| record.admitted > record.scheduled + LATE).count();
        let is_bounded = bounded * 50 > records.len();
        let unsent = (1.0 - self.sent / shape.rate) * records.len() as f64;
        let is_short = unsent > (records.len() as f64 * UNSENT).max(UNSENT_REQUESTS);
        if !is_bounded && (is_short || late_share(records) > 0.5) {
            return Says::ClientLimited;
        }
        let (left_over, chance) = left_over(records, shape.by_chance);
        if is_bounded || left_over > chance || grows(records, shape.sent_for) {
            return Says::FallsBehind;
        }
        // Answers to what came before a pause.
        if left_over < -chance { Says::Disturbed } else { Says::KeepsUp }
    }
}

/// Share of the requests that this side sent late, and not because of a bound.
fn late_share(records: &[Record]) -> f64 {
    let late = records.iter().filter(|record| {
        let ready = record.scheduled.max(record.admitted) + record.connect.unwrap_or_default();
        record.sent.is_some_and(|sent| sent > ready + LATE)
    });
    late.count() as f64 / records.len().max(1) as f64
}

/// How many fewer were answered in the second half of the time of sending than came in it, and how many mean nothing.
/// `by_chance`: they come at random times, so that as many more or fewer are in flight at its end as chance makes it.
fn left_over(records: &[Record], by_chance: bool) -> (f64, f64) {
    let second_half = second_half(records);
    let half = *second_half.start();
    let count = |is_counted: &dyn Fn(&Record) -> bool| {
        records.iter().filter(|&record| is_counted(record)).count() as f64
    };
    let came = count(&|record| second_half.contains(&record.scheduled));
    let answered = count(&|record| record.outcome.is_success() && second_half.contains(&record.done));
    let in_flight = count(&|record| record.scheduled < half && record.done >= half);
    let chance = if by_chance { 2.0 * (2.0 * in_flight).sqrt() } else { 0.0 };
    (came - answered, (came * LEFT_OVER).max(LEFT_OVER_REQUESTS) + chance)
}

/// Whether requests sent late in the probe took much longer than those sent early: a queue that grows. An unanswered
/// one took as long as it was waited for.
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

/// Of the time in which requests were due.
fn second_half(records: &[Record]) -> RangeInclusive<Duration> {
    let due = records.iter().map(|record| record.scheduled);
    let (start, end) = (due.clone().min().unwrap_or_default(), due.max().unwrap_or_default());
    start + (end - start) / 2..=end
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times.get(times.len() / 2).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        Outcome,
        sample::{failure, ms, request},
    };

    const SHAPE: ProbeShape = ProbeShape { rate: 100.0, sent_for: Duration::from_secs(4), by_chance: false };

    fn record(scheduled_ms: u64, done_ms: u64) -> Record {
        Record { done: ms(done_ms), ..request(scheduled_ms, 0, 0, 0) }
    }

    #[test]
    fn a_server_that_keeps_up_answers_at_the_rate_of_the_sends() {
        let records: Vec<Record> = (0..400).map(|n| record(n * 10, n * 10 + 50)).collect();
        let probe = Probe::judged(SHAPE, &records, 0.1, 0.0);
        assert!((probe.sent - 100.0).abs() < 0.1 && (probe.answered - 100.0).abs() < 1.0, "{probe:?}");
        assert_eq!(probe.says, Some(Says::KeepsUp));
    }

    #[test]
    fn a_side_that_is_busy_or_does_not_send_is_the_bottleneck() {
        let overloaded: Vec<Record> = (0..400).map(|n| record(n * 10, n * 20 + 50)).collect();
        assert_eq!(Probe::judged(SHAPE, &overloaded, 0.9, 0.0).says, Some(Says::ClientLimited));
        let half: Vec<Record> = (0..200).map(|n| record(n * 20, n * 20 + 50)).collect();
        assert_eq!(Probe::judged(SHAPE, &half, 0.1, 0.0).says, Some(Says::ClientLimited));
        // 64 requests in two seconds, the last one 60 ms late: 97 % of the rate, but a pause and no limit.
        let shape = ProbeShape { rate: 32.0, sent_for: Duration::from_secs(2), by_chance: false };
        let mut paused: Vec<Record> = (0..64).map(|n| record(n * 1000 / 32, n * 1000 / 32 + 50)).collect();
        let last = &mut paused[63];
        (last.sent, last.done) = (last.sent.map(|sent| sent + ms(60)), last.done + ms(60));
        assert_eq!(Probe::judged(shape, &paused, 0.1, 0.0).says, Some(Says::KeepsUp));
    }

    #[test]
    fn failures_and_a_full_bound_are_the_servers() {
        let mut failed: Vec<Record> = (0..400).map(|n| record(n * 10, n * 10 + 50)).collect();
        failed.iter_mut().step_by(10).for_each(|record| *record = failure(0, 50, Outcome::Timeout));
        assert_eq!(Probe::judged(SHAPE, &failed, 0.1, 0.0).says, Some(Says::FallsBehind));
        let mut bounded: Vec<Record> = (0..400).map(|n| record(n * 10, n * 10 + 150)).collect();
        bounded.iter_mut().for_each(|record| record.admitted += ms(100));
        assert_eq!(Probe::judged(SHAPE, &bounded, 0.1, 0.0).says, Some(Says::FallsBehind));
    }

    #[test]
    fn an_overloaded_server_shows_its_capacity_and_its_queue_grows() {
        // 100 a second, answered one every 20 ms.
        let records: Vec<Record> = (0..400).map(|n| record(n * 10, n * 20 + 50)).collect();
        let probe = Probe::judged(SHAPE, &records, 0.1, 0.0);
        assert!((probe.answered - 50.0).abs() < 1.0, "{probe:?}");
        assert!(grows(&records, SHAPE.sent_for));
        assert_eq!(probe.says, Some(Says::FallsBehind));
    }

    #[test]
    fn a_pause_says_nothing() {
        // Nothing is answered for half a second around the middle of four.
        let paused = |n: u64| if (170..220).contains(&n) { 2250.max(n * 10 + 50) } else { n * 10 + 50 };
        let records: Vec<Record> = (0..400).map(|n| record(n * 10, paused(n))).collect();
        assert_eq!(Probe::judged(SHAPE, &records, 0.1, 0.0).says, Some(Says::Disturbed));
        let half: Vec<Record> = (0..200).map(|n| record(n * 20, n * 20 + 50)).collect();
        assert_eq!(Probe::judged(SHAPE, &half, 0.1, 0.2).says, Some(Says::Disturbed));
        let overloaded: Vec<Record> = (0..400).map(|n| record(n * 10, n * 20 + 50)).collect();
        assert_eq!(Probe::judged(SHAPE, &overloaded, 0.1, 0.2).says, Some(Says::FallsBehind));
    }

    #[test]
    fn a_few_late_answers_are_no_queue() {
        // 16 requests, two answered late; then a server that answers two of three.
        let late = |n: u64| if n >= 14 { 900 } else { 150 };
        let records: Vec<Record> = (0..16).map(|n| record(n * 125, n * 125 + late(n))).collect();
        let leaves_over = |records: &[Record], by_chance| {
            let (left_over, chance) = left_over(records, by_chance);
            left_over > chance
        };
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
