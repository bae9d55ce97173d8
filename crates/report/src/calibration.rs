//! What a load generator measured of engines whose latencies are known: its error at each rate, and the highest rate
//! that it measures right, its *ceiling*.
//!
//! A rate is right when all requests were answered, [`RATE_SHARE`] of the rate was sent, and time to first token is
//! within [`MEDIAN_LIMIT_MS`] at the median and [`P99_LIMIT_MS`] at P99 of what the engine was told to do. [`Ladder`]
//! says which rates to try: those asked for, then twice the highest right one until one is wrong, then between the two
//! until they are within a quarter. A rate that is wrong below one that is right was disturbed, and does not count
//! against the ceiling. One that is wrong while the host of a virtual machine took CPU time from it is worth measuring
//! again. Times are milliseconds.

use std::fmt;

use crate::{MILLISECOND, Metric, Object, Report, TextTable, aiperf::plain_table};

/// A rate counts as sent from this share of it on.
pub const RATE_SHARE: f64 = 0.99;
/// Most error of a right median.
pub const MEDIAN_LIMIT_MS: f64 = 0.5;
/// Most error of a right P99.
pub const P99_LIMIT_MS: f64 = 2.0;
/// Share of the processors' time that a host may take from a measurement that still counts as quiet: in five seconds on
/// two processors one pause of 10 ms. What waited for it is already a part of the 1 % that P99 leaves out.
const QUIET_SHARE: f64 = 0.001;
/// The ceiling is known when the next rate is this much higher.
const CLOSE: f64 = 1.25;
/// Nothing is tried above this.
const HIGHEST_RATE: f64 = 1e6;
/// Most rates that are tried beyond those asked for.
const MOST_STEPS: usize = 16;

/// What the engines were told to do.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Nominal {
    /// From a request's arrival to its first token.
    pub ttft_ms: f64,
    /// From each token to the next.
    pub itl_ms: f64,
    /// Tokens of an answer.
    pub tokens: u32,
}

/// What was measured at one rate. What is not known is not a number.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Point {
    /// Requests a second that were asked for.
    pub rate: f64,
    /// Requests a second that were sent.
    pub sent_rate: f64,
    /// Requests answered.
    pub answered: u64,
    /// Requests that failed.
    pub failed: u64,
    /// Error of the median TTFT, and of its P99.
    pub ttft_error_ms: [f64; 2],
    /// Error of the median time between events, and of its P99.
    pub itl_error_ms: [f64; 2],
    /// P99 of how late requests left.
    pub send_lag_ms: f64,
    /// P99 of how long bytes were in the kernel before they were read.
    pub read_lag_ms: f64,
    /// How late the engines themselves gave their tokens: mean and worst.
    pub engine_late_ms: [f64; 2],
    /// Share of a core that the busiest I/O thread used.
    pub io_cpu: f64,
    /// Share of the processors' time that the host took.
    pub stolen_share: f64,
    /// How often the rate was measured until this was taken.
    pub attempts: u32,
}

/// What a rate came to.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Finding {
    /// It is measured right.
    Right,
    /// Requests failed, so many of so many.
    Failed(u64, u64),
    /// Only so many requests a second were sent.
    Slow(f64),
    /// The median is off by so much.
    MedianOff(f64),
    /// P99 is off by so much, for this reason.
    TailOff(f64, Cause),
}

/// Where a long tail comes from, as far as it is known.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Cause {
    /// The engine was late itself, by so much at worst.
    Engine(f64),
    /// Bytes waited so long to be read.
    Reading(f64),
    /// Neither explains it.
    Unknown,
}

/// Which rates to try.
#[derive(Clone, Debug)]
pub struct Ladder {
    planned: Vec<f64>,
    tried: Vec<(f64, bool)>,
    steps: Option<usize>,
}

// === impl Point ===

impl Point {
    /// From the records of a run at `rate`.
    pub fn new(
        rate: f64,
        nominal: &Nominal,
        report: &Report,
        read_lag_ms: f64,
        engine_late_ms: [f64; 2],
        [io_cpu, stolen_share]: [f64; 2],
    ) -> Self {
        let total = &report.total;
        let at = |metric, percent| {
            total.of(metric).percentile(percent).map_or(f64::NAN, |time| time / MILLISECOND)
        };
        let error = |metric, nominal_ms| [50.0, 99.0].map(|percent| at(metric, percent) - nominal_ms);
        let scheduled = total.scheduled_rate().unwrap_or(f64::NAN);
        Self {
            rate,
            // By its own schedule, whose random arrivals are not exactly those of the rate.
            sent_rate: total.achieved_rate().unwrap_or(f64::NAN) / scheduled * rate,
            answered: total.answered(),
            failed: total.failed(),
            ttft_error_ms: error(Metric::Ttft, nominal.ttft_ms),
            itl_error_ms: error(Metric::Gap, nominal.itl_ms),
            send_lag_ms: at(Metric::ClientLag, 99.0),
            read_lag_ms,
            engine_late_ms,
            io_cpu,
            stolen_share,
            attempts: 1,
        }
    }

    /// Whether it is right, and if not, why.
    pub fn finding(&self) -> Finding {
        let [median, p99] = self.ttft_error_ms;
        if self.answered == 0 || self.failed > 0 {
            Finding::Failed(self.failed, self.answered + self.failed)
        } else if self.sent_rate < RATE_SHARE * self.rate {
            Finding::Slow(self.sent_rate)
        } else if median.is_nan() || median.abs() > MEDIAN_LIMIT_MS {
            Finding::MedianOff(median)
        } else if p99.is_nan() || p99.abs() > P99_LIMIT_MS {
            let share = p99.abs() / 2.0;
            let cause = match (self.read_lag_ms >= share, self.engine_late_ms[1] >= share) {
                (true, _) => Cause::Reading(self.read_lag_ms),
                (false, true) => Cause::Engine(self.engine_late_ms[1]),
                (false, false) => Cause::Unknown,
            };
            Finding::TailOff(p99, cause)
        } else {
            Finding::Right
        }
    }

    /// Whether it is right.
    pub fn is_right(&self) -> bool {
        self.finding() == Finding::Right
    }

    /// Whether it is wrong, and the host may be why.
    pub fn was_disturbed(&self) -> bool {
        !self.is_right() && self.stolen_share > QUIET_SHARE
    }

    /// The line for a file.
    pub fn json(&self, nominal: &Nominal) -> Object {
        let mut object = Object::default();
        object.set("rate", self.rate);
        object.set("sent_rate", self.sent_rate);
        object.set("answered", self.answered);
        object.set("failed", self.failed);
        object.set("nominal_ttft_ms", nominal.ttft_ms);
        object.set("nominal_itl_ms", nominal.itl_ms);
        object.set("tokens", nominal.tokens);
        object.set("ttft_error_p50_ms", self.ttft_error_ms[0]);
        object.set("ttft_error_p99_ms", self.ttft_error_ms[1]);
        object.set("itl_error_p50_ms", self.itl_error_ms[0]);
        object.set("itl_error_p99_ms", self.itl_error_ms[1]);
        object.set("send_lag_p99_ms", self.send_lag_ms);
        object.set("read_lag_p99_ms", self.read_lag_ms);
        object.set("engine_late_mean_ms", self.engine_late_ms[0]);
        object.set("engine_late_max_ms", self.engine_late_ms[1]);
        object.set("io_thread_cpu", self.io_cpu);
        object.set("stolen_share", self.stolen_share);
        object.set("attempts", self.attempts);
        object.set("right", self.is_right());
        object.set("finding", self.finding().to_string());
        object
    }

    fn cells(&self) -> [String; 13] {
        let ms = |value: f64| if value.is_nan() { "N/A".to_owned() } else { format!("{value:.3}") };
        let percent = |share: f64, digits| match share {
            share if share.is_nan() => "N/A".to_owned(),
            share => format!("{:.digits$} %", share * 100.0),
        };
        let [ttft, itl, engine] =
            [self.ttft_error_ms, self.itl_error_ms, self.engine_late_ms].map(|pair| pair.map(ms));
        let [ttft_p50, ttft_p99] = ttft;
        let [itl_p50, itl_p99] = itl;
        let [engine_mean, engine_max] = engine;
        [
            format!("{:.0}", self.rate),
            self.answered.to_string(),
            ttft_p50,
            ttft_p99,
            itl_p50,
            itl_p99,
            ms(self.send_lag_ms),
            ms(self.read_lag_ms),
            format!("{engine_mean} / {engine_max}"),
            percent(self.io_cpu, 0),
            percent(self.stolen_share, 1),
            self.attempts.to_string(),
            if self.is_right() { "right" } else { "off" }.to_owned(),
        ]
    }
}

/// The table of all points, and in words what they show.
pub fn calibration_text(nominal: &Nominal, points: &[Point]) -> String {
    let columns = [
        "req/s",
        "answers",
        "TTFT p50",
        "TTFT p99",
        "ITL p50",
        "ITL p99",
        "send lag",
        "read lag",
        "engine late",
        "CPU",
        "stolen",
        "tries",
        "found",
    ];
    let mut sorted = points.to_vec();
    sorted.sort_by(|a, b| a.rate.total_cmp(&b.rate));
    let table = sorted.iter().fold(TextTable::new("", columns), |table, point| table.row(point.cells()));
    let mut text =
        plain_table("evenload calibrate | error in ms: measured minus what the engine was told", &table);
    text += &format!(
        "TTFT, ITL: what was measured beyond {} and {} ms. A rate is right to {MEDIAN_LIMIT_MS} ms at the median and \
         {P99_LIMIT_MS} ms at P99 of TTFT.\nsend lag, P99: how late requests left (in TTFT from the schedule, not in \
         TTFT). read lag, P99: how long bytes were in the kernel\nbefore they were read (in TTFT and ITL). engine late: \
         the engine's own share, mean / worst; each side\nhas processor cores of its own where there are two. CPU: of a \
         core, by the busiest I/O thread. stolen: what the host of this\nvirtual machine took of its processors' time; a \
         rate that is off meanwhile is tried again, and the quietest try counts.\n\n",
        nominal.ttft_ms, nominal.itl_ms
    );
    let tokens = f64::from(nominal.tokens);
    let ceiling = sorted.iter().rev().find(|point| point.is_right());
    let Some(ceiling) = ceiling else {
        let why = sorted
            .first()
            .map_or_else(|| "nothing was measured".to_owned(), |point| point.finding().to_string());
        return text + &format!("No rate was measured right: {why}. Run this on an idle machine.\n");
    };
    text += &format!(
        "Ceiling: {:.0} requests/s of {} tokens ({:.0} events/s).\n",
        ceiling.rate,
        nominal.tokens,
        ceiling.rate * tokens
    );
    for point in sorted.iter().filter(|point| !point.is_right()) {
        let mark = if point.rate < ceiling.rate { "Disturbed at" } else { "At" };
        text += &format!("{mark} {:.0} requests/s: {}.\n", point.rate, point.finding());
    }
    text += &format!(
        "Keep real runs below half of the ceiling, {:.0} events/s of all streams together: there, what is reported of a \
         server is the server's.\n",
        ceiling.rate * tokens / 2.0
    );
    text
}

// === impl Ladder ===

impl Ladder {
    /// Tries `rates`, and with `search` goes on to look for the ceiling.
    pub fn new(mut rates: Vec<f64>, search: bool) -> Self {
        rates.sort_by(f64::total_cmp);
        rates.dedup();
        Self { planned: rates, tried: Vec::new(), steps: search.then_some(MOST_STEPS) }
    }

    /// The next rate, if there is any left.
    pub fn next_rate(&mut self) -> Option<f64> {
        if let Some(planned) = self.planned.get(self.tried.len()) {
            return Some(*planned);
        }
        let steps = self.steps.as_mut().filter(|steps| **steps > 0)?;
        *steps -= 1;
        let right = self.tried.iter().filter(|(_, right)| *right).map(|(rate, _)| *rate).reduce(f64::max)?;
        let wrong = self.tried.iter().filter(|(rate, good)| !good && *rate > right);
        let next = match wrong.map(|(rate, _)| *rate).reduce(f64::min) {
            None => right * 2.0,
            Some(wrong) if wrong / right > CLOSE => (right * wrong).sqrt(),
            Some(_) => return None,
        };
        // Two digits say enough.
        let unit = 10_f64.powf(next.log10().floor() - 1.0);
        let next = (next / unit).round() * unit;
        (next <= HIGHEST_RATE && self.tried.iter().all(|(rate, _)| *rate != next)).then_some(next)
    }

    /// What the rate came to that was tried.
    pub fn note(&mut self, rate: f64, right: bool) {
        self.tried.push((rate, right));
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Right => formatter.write_str("right"),
            Self::Failed(failed, all) => write!(formatter, "{failed} of {all} requests failed"),
            Self::Slow(rate) => write!(formatter, "only {rate:.0} requests/s left this machine"),
            Self::MedianOff(error) => write!(formatter, "median TTFT is off by {error:.2} ms"),
            Self::TailOff(error, cause) => write!(formatter, "P99 of TTFT is off by {error:.2} ms; {cause}"),
        }
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Engine(late) => write!(
                formatter,
                "the engine itself was up to {late:.2} ms late, so something else had the cores"
            ),
            Self::Reading(late) => {
                write!(formatter, "bytes waited {late:.2} ms (P99) before this side read them")
            }
            Self::Unknown => formatter.write_str("neither the engine nor the reading side says it was late"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOMINAL: Nominal = Nominal { ttft_ms: 50.0, itl_ms: 10.0, tokens: 16 };

    fn point(rate: f64) -> Point {
        Point {
            rate,
            sent_rate: rate,
            answered: 1000,
            failed: 0,
            ttft_error_ms: [0.1, 0.9],
            itl_error_ms: [0.0, 0.3],
            send_lag_ms: 0.1,
            read_lag_ms: 0.2,
            engine_late_ms: [0.05, 1.0],
            io_cpu: 0.3,
            stolen_share: 0.0,
            attempts: 1,
        }
    }

    /// The rates that a machine of this ceiling is tried at.
    fn climb(rates: &[f64], search: bool, right: impl Fn(f64) -> bool) -> Vec<f64> {
        let mut ladder = Ladder::new(rates.to_vec(), search);
        let mut tried = Vec::new();
        while let Some(rate) = ladder.next_rate() {
            assert!(tried.len() < 100, "{tried:?}");
            tried.push(rate);
            ladder.note(rate, right(rate));
        }
        tried
    }

    #[test]
    fn the_ladder_doubles_and_then_closes_in() {
        assert_eq!(climb(&[200.0, 10.0], false, |_| true), [10.0, 200.0]);
        assert_eq!(
            climb(&[10.0, 200.0, 2000.0], true, |rate| rate < 5000.0),
            [10.0, 200.0, 2000.0, 4000.0, 8000.0, 5700.0, 4800.0]
        );
        assert_eq!(
            climb(&[10.0, 2000.0], true, |rate| rate <= 300.0),
            [10.0, 2000.0, 140.0, 530.0, 270.0, 380.0, 320.0]
        );
        assert_eq!(climb(&[10.0, 200.0], true, |_| false), [10.0, 200.0], "nothing to start from");
        let disturbed = climb(&[10.0, 200.0], true, |rate| rate > 100.0 && rate < 350.0);
        assert_eq!(
            disturbed,
            [10.0, 200.0, 400.0, 280.0, 330.0],
            "a disturbed low rate does not end the search"
        );
        let endless = climb(&[1.0], true, |_| true);
        assert!(endless.iter().all(|rate| *rate <= HIGHEST_RATE), "{endless:?}");
    }

    #[test]
    fn a_point_is_right_or_says_why_not() {
        let finding = |change: fn(&mut Point)| {
            let mut point = point(100.0);
            change(&mut point);
            point.finding().to_string()
        };
        assert_eq!(finding(|_| {}), "right");
        assert_eq!(finding(|point| point.failed = 2), "2 of 1002 requests failed");
        assert_eq!(finding(|point| point.answered = 0), "0 of 0 requests failed");
        assert_eq!(finding(|point| point.sent_rate = 98.0), "only 98 requests/s left this machine");
        assert_eq!(finding(|point| point.ttft_error_ms[0] = -0.6), "median TTFT is off by -0.60 ms");
        assert_eq!(finding(|point| point.ttft_error_ms = [f64::NAN; 2]), "median TTFT is off by NaN ms");
        let engine = finding(|point| (point.ttft_error_ms[1], point.engine_late_ms[1]) = (5.0, 4.5));
        assert!(engine.contains("off by 5.00 ms; the engine itself was up to 4.50 ms late"), "{engine}");
        let reading = finding(|point| (point.ttft_error_ms[1], point.read_lag_ms) = (5.0, 3.5));
        assert!(reading.contains("bytes waited 3.50 ms (P99)"), "{reading}");
        assert!(finding(|point| point.ttft_error_ms[1] = 5.0).contains("neither"));
    }

    #[test]
    fn the_host_is_no_excuse_for_a_quiet_machine_nor_for_a_right_rate() {
        let off = Point { ttft_error_ms: [0.1, 5.0], ..point(100.0) };
        assert!(Point { stolen_share: 0.02, ..off }.was_disturbed());
        assert!(!Point { stolen_share: 0.0005, ..off }.was_disturbed());
        assert!(!Point { stolen_share: f64::NAN, ..off }.was_disturbed());
        assert!(!Point { stolen_share: 0.02, ..point(100.0) }.was_disturbed());
    }

    #[test]
    fn the_text_names_the_ceiling_and_what_stands_above_it() {
        let mut off = point(4000.0);
        off.ttft_error_ms[1] = 7.0;
        let mut disturbed = point(10.0);
        disturbed.ttft_error_ms[0] = 0.7;
        let text = calibration_text(&NOMINAL, &[disturbed, point(200.0), point(2000.0), off]);
        for part in [
            "Ceiling: 2000 requests/s of 16 tokens (32000 events/s).",
            "Disturbed at 10 requests/s: median TTFT is off by 0.70 ms.",
            "At 4000 requests/s: P99 of TTFT is off by 7.00 ms",
            "16000 events/s of all streams",
            "beyond 50 and 10 ms",
        ] {
            assert!(text.contains(part), "{part}\n{text}");
        }
        assert!(text.lines().all(|line| line.chars().count() <= 140), "{text}");
        let none = calibration_text(&NOMINAL, &[off]);
        assert!(none.contains("No rate was measured right: P99") && !none.contains("Ceiling"), "{none}");
        assert!(calibration_text(&NOMINAL, &[]).contains("nothing was measured"));
    }
}
