//! What may be said about the numbers of a run, and what may not.
//!
//! [`judge`] looks for the ways in which a load generator deceives its user: it was late, it was the bottleneck,
//! it missed the rate, it left failures out, it has too few samples. Each finding is a [`Warning`] that says what
//! is wrong with which figure and which flag mends it, and has a [`Severity`]; the verdict is the worst of them.
//!
//! - *Invalid*: a headline figure measures this side, not the server.
//! - *Suspect*: a figure may be off, or means something other than its name says.
//! - *Note*: the figures are right; here is how to read them. Notes do not change the verdict.

use std::{collections::BTreeMap, fmt, time::Duration};

use serde::{Deserialize, Serialize};

use crate::{
    Blame, CountSource, Distribution, Flags, MILLISECOND, Metric, Outcome, PhaseShape, Report, Severity,
    Summary, Warning, summary::ratio,
};

/// Own lateness above this is too much whatever the server does.
const LAG_LIMIT_MS: f64 = 10.0;
/// Own lateness above this share of the median TTFT is too much, unless it is below what any client can tell.
const LAG_SHARE: f64 = 0.1;
/// What a timer's slack (50 us by default) and the wake-up of an idle thread take: no lateness below it is this
/// client's fault, and no time below it is known better.
const WAKE_UP_MS: f64 = 0.1;
/// Sends per second below this share of the schedule miss the rate.
const RATE_SHARE: f64 = 0.99;
/// Requests in flight below this share of the concurrency asked for miss it.
const CONCURRENCY_SHARE: f64 = 0.8;
/// Waits for slots above this share of the lateness explain it.
const SLOT_SHARE: f64 = 0.9;
/// A thread busier than this delays what it should only measure.
const BUSY_SHARE: f64 = 0.8;
/// Reads with several events above this share blur the gaps.
const BUNCHED_SHARE: f64 = 0.1;
/// Bytes that wait longer than this between kernel and read blur every time.
const READ_LAG_LIMIT_MS: f64 = 1.0;
/// Tokens per event above this make a gap between events more than a gap between tokens.
const TOKENS_PER_CHUNK: f64 = 1.1;
/// Standing still touches requests above this share: P99 is no longer the server's.
pub(crate) const STALLED_SHARE: f64 = 0.01;
/// Stolen time above this share can be in every figure's P99.
pub(crate) const STOLEN_SHARE: f64 = 0.01;
/// Samples that a percentile needs for 99 % confidence in it (MLPerf's early-stopping bound).
const FLOORS: [(f64, u64); 4] = [(50.0, 11), (90.0, 64), (95.0, 130), (99.0, 662)];

/// Whether the numbers of a run may be quoted.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd, serde::Serialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Verdict {
    /// They may.
    Valid,
    /// Only with the reasons beside them.
    Suspect,
    /// They may not.
    Invalid,
}

/// How the load generator itself fared.
#[derive(Clone, Debug, Default)]
pub struct ClientHealth {
    /// Share of a core that each I/O thread used, 0 to 1.
    pub io_thread_cpu: Vec<f64>,
    /// Reads that held payload events.
    pub payload_reads: u64,
    /// Those among them that held several.
    pub multi_event_reads: u64,
    /// From the kernel's receipt of bytes to the read that returned them, where the kernel says so; nanoseconds.
    pub read_lag: Distribution,
    /// How the I/O threads kept appointments of their own while requests were measured.
    pub stalls: Stalls,
    /// The most requests in flight at once, where the sender counted them.
    pub peak_in_flight: Option<u64>,
    /// Share of the processors' time that the host of this virtual machine gave to others; `None` on a machine that
    /// has them to itself.
    pub stolen_share: Option<f64>,
    /// Different prompts in the data, where they had to be used again to fill the run.
    pub reused_prompts: Option<u64>,
    /// The run ended before its end: by the user, if `ended_by` does not say otherwise.
    pub interrupted: bool,
    /// What else ended it.
    pub ended_by: Option<String>,
}

/// How late the I/O threads came to appointments with themselves: for so long they read and sent nothing, because the
/// process was stopped or had no processor. While the whole machine is suspended the clock stands still, too: that is
/// not seen.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct Stalls {
    /// The longest.
    pub longest_ms: f64,
    /// Of all threads together, beyond their usual lateness.
    pub total_ms: f64,
    /// Time of all threads in which they had appointments.
    pub watched_ms: f64,
}

/// The verdict with its reasons, the gravest first.
#[derive(Clone, Debug)]
pub struct Assessment {
    /// What may be said.
    pub verdict: Verdict,
    /// Why.
    pub warnings: Vec<Warning>,
}

/// Judges the measured phases of a run.
pub fn judge(report: &Report, health: &ClientHealth, flags: &Flags) -> Assessment {
    let total = &report.total;
    let mut warnings = Vec::new();
    if total.answered() == 0 {
        warnings.push(Warning::NothingAnswered);
    }
    let stolen = health.stolen_share.filter(|&share| share > STOLEN_SHARE);
    warnings.extend(lateness(total, stolen, flags));
    for (shape, phase) in report.measured() {
        warnings.extend(pace(shape, phase, health.peak_in_flight, stolen, flags));
    }
    warnings.extend(stolen.map(|share| Warning::Stolen { share }));
    warnings.extend(standstill(report, health));
    warnings.extend(omissions(total, flags));
    warnings.extend(resolution(total, health, flags));
    warnings.extend(counting(total, flags));
    let reused = health.reused_prompts.filter(|&unique| unique < total.sent);
    if let Some((unique, prompts)) = reused.zip(flags.prompts) {
        warnings.push(Warning::ReusedPrompts { unique, sent: total.sent, prompts });
    }
    if health.interrupted {
        warnings.push(Warning::Interrupted { by: health.ended_by.clone() });
    }
    Assessment::of(warnings)
}

fn lateness(total: &Summary, stolen: Option<f64>, flags: &Flags) -> Option<Warning> {
    let p99_ms = total.of(Metric::ClientLag).percentile(99.0)? / MILLISECOND;
    let median_ttft_ms = total.of(Metric::Ttft).percentile(50.0)? / MILLISECOND;
    (p99_ms > LAG_LIMIT_MS.min(median_ttft_ms * LAG_SHARE).max(WAKE_UP_MS)).then_some(Warning::Late {
        p99_ms,
        median_ttft_ms,
        speedup: 1.0,
        blame: Blame { stolen, rate: flags.rate },
    })
}

/// Touched is whatever has a pause in one of its latencies: what was in flight when it began, and what fell due
/// meanwhile. In a closed loop nothing falls due while it stands still.
fn standstill(report: &Report, health: &ClientHealth) -> Option<Warning> {
    let (total, stalls) = (&report.total, &health.stalls);
    let longest_ms = stalls.longest_ms;
    let median_ttft_ms = total.of(Metric::Ttft).percentile(50.0)? / MILLISECOND;
    let scheduled = report.measured().filter(|(shape, _)| !shape.closed_loop);
    let scheduled: u64 = scheduled.map(|(_, phase)| phase.answered()).sum();
    let touched = stalls.share() * scheduled as f64 + stalls.least() * total.mean_in_flight();
    let touched = ratio(touched, total.answered() as f64).unwrap_or_default().min(1.0);
    (longest_ms > LAG_LIMIT_MS.max(median_ttft_ms * LAG_SHARE))
        .then_some(Warning::StoodStill { longest_ms, touched })
}

fn pace(
    shape: &PhaseShape,
    phase: &Summary,
    peak: Option<u64>,
    stolen: Option<f64>,
    flags: &Flags,
) -> Option<Warning> {
    let in_flight = phase.mean_in_flight();
    let full = |limit: u32| in_flight >= f64::from(limit) * CONCURRENCY_SHARE;
    if shape.closed_loop {
        let nominal = shape.concurrency.filter(|&nominal| !full(nominal) && phase.answered() > 0)?;
        return Some(Warning::ConcurrencyMissed { nominal, in_flight, requests: flags.requests });
    }
    // A schedule of one moment asks for everything at once.
    let (achieved, scheduled) = (phase.achieved_rate()?, phase.scheduled_rate().unwrap_or(f64::INFINITY));
    if achieved >= scheduled * RATE_SHARE {
        return None;
    }
    // The mean has the start and the end of a short run in it. Where all slots were taken at some time and waits for
    // them are nearly all of the lateness, the limit held, too.
    let waited =
        phase.of(Metric::SlotWait).sum() as f64 >= SLOT_SHARE * phase.of(Metric::ScheduleLag).sum() as f64;
    let held = |limit: u32| full(limit) || waited && peak.is_some_and(|peak| peak >= u64::from(limit));
    match shape.concurrency.filter(|&limit| held(limit)) {
        Some(limit) => {
            Some(Warning::PacedByConcurrency { achieved, scheduled, limit, concurrency: flags.concurrency })
        }
        // The times of a trace are no rate that could be lowered: its lateness is judged by itself.
        None => shape.target_rate.filter(|_| scheduled.is_finite()).map(|_| Warning::RateMissed {
            achieved,
            scheduled,
            blame: Blame { stolen, rate: flags.rate },
        }),
    }
}

fn omissions(total: &Summary, flags: &Flags) -> Vec<Warning> {
    let mut warnings = Vec::new();
    let (failed, requests) = (total.failed(), total.requests());
    if failed > 0 {
        let example = total.errors.most_frequent().first().map_or_else(String::new, |(key, _)| {
            let status = key.status.filter(|status| *status >= 400);
            let status = status.map_or_else(String::new, |status| format!(" {status}"));
            format!("{}{status} {}", key.kind, key.message).trim_end().to_owned()
        });
        warnings.push(Warning::Failures { failed, requests, example });
    }
    let count = total.count(Outcome::Incomplete.kind());
    if count > 0 {
        warnings.push(Warning::CutOff { count, requests });
    }
    let count = total.count("not_sent");
    if count > 0 {
        warnings.push(Warning::NotSent { count, concurrency: flags.concurrency });
    }
    warnings
}

fn resolution(total: &Summary, health: &ClientHealth, flags: &Flags) -> Vec<Warning> {
    let mut warnings = Vec::new();
    let busiest = health.io_thread_cpu.iter().copied().fold(0.0, f64::max);
    if busiest > BUSY_SHARE {
        warnings.push(Warning::ThreadBusy { share: busiest, rate: flags.rate });
    }
    let read_lag = health.read_lag.percentile(99.0).map(|p99| p99 / MILLISECOND);
    if let Some(p99_ms) = read_lag.filter(|&p99| p99 > READ_LAG_LIMIT_MS) {
        warnings.push(Warning::ReadLate { p99_ms });
    }
    let bunched = ratio(health.multi_event_reads as f64, health.payload_reads as f64);
    if let Some(share) = bunched.filter(|&share| share > BUNCHED_SHARE) {
        warnings.push(Warning::Bunched { share });
    }
    let streamed = !total.of(Metric::Gap).is_empty();
    if let Some(tokens) = total.tokens_per_chunk().filter(|&tokens| streamed && tokens > TOKENS_PER_CHUNK) {
        warnings.push(Warning::SeveralTokensAnEvent { tokens });
    }
    let samples = total.answered();
    let unsupported = FLOORS.iter().find(|&&(_, needed)| samples > 0 && samples < needed);
    if let Some(&(percentile, needed)) = unsupported {
        warnings.push(Warning::TooFewSamples { percentile, samples, needed, requests: flags.requests });
    }
    warnings
}

fn counting(total: &Summary, flags: &Flags) -> Vec<Warning> {
    let answered = total.answered() as f64;
    let sides = [("prompt", &total.input_sources), ("output", &total.output_sources)];
    let guessed = [CountSource::Estimate, CountSource::Chunks];
    let warning = |((what, sources), source): ((&'static str, &BTreeMap<CountSource, u64>), CountSource)| {
        // Of embeddings there is no output to be counted.
        let any = what != "output" || total.output_tokens() > 0;
        let count = sources.get(&source).copied().filter(|&count| count > 0 && any)?;
        let percent = 100.0 * count as f64 / answered;
        Some(Warning::Estimated { what, percent, source, tokenizer: flags.tokenizer })
    };
    sides.into_iter().flat_map(|side| guessed.map(|source| (side, source))).filter_map(warning).collect()
}

// === impl ClientHealth ===

impl ClientHealth {
    /// Adds what another part of the run says, all but the peak: parts may follow each other, or run side by side.
    pub fn add(&mut self, other: &Self) {
        self.io_thread_cpu.extend(&other.io_thread_cpu);
        self.payload_reads += other.payload_reads;
        self.multi_event_reads += other.multi_event_reads;
        self.read_lag.merge(&other.read_lag);
        self.stalls.add(other.stalls);
        let shares = [self.stolen_share, other.stolen_share].into_iter().flatten();
        self.stolen_share = shares.reduce(f64::max);
        self.interrupted |= other.interrupted;
        self.ended_by = self.ended_by.take().or_else(|| other.ended_by.clone());
    }
}

// === impl Stalls ===

impl Stalls {
    /// From the lateness at appointments that were `apart`, of all threads together.
    pub fn new(lateness: &Distribution, apart: Duration) -> Self {
        let count = lateness.count() as f64;
        let sum = lateness.sum() as f64 / MILLISECOND;
        let usual = lateness.percentile(50.0).unwrap_or_default() / MILLISECOND;
        Self {
            longest_ms: lateness.max().unwrap_or_default() as f64 / MILLISECOND,
            total_ms: (sum - usual * count).max(0.0),
            watched_ms: count * apart.as_secs_f64() * 1e3 + sum,
        }
    }

    /// Share of the time.
    pub fn share(&self) -> f64 {
        ratio(self.total_ms, self.watched_ms).unwrap_or_default()
    }

    /// How many there were at least: if all were as long as the longest.
    fn least(&self) -> f64 {
        ratio(self.total_ms, self.longest_ms).unwrap_or_default().max(1.0)
    }

    fn add(&mut self, other: Self) {
        self.longest_ms = self.longest_ms.max(other.longest_ms);
        self.total_ms += other.total_ms;
        self.watched_ms += other.watched_ms;
    }
}

// === impl Assessment ===

impl Assessment {
    fn of(mut warnings: Vec<Warning>) -> Self {
        warnings.sort_by_key(|warning| std::cmp::Reverse(warning.severity()));
        let verdict = match warnings.first().map(Warning::severity) {
            Some(Severity::Invalid) => Verdict::Invalid,
            Some(Severity::Suspect) => Verdict::Suspect,
            Some(Severity::Note) | None => Verdict::Valid,
        };
        Self { verdict, warnings }
    }

    /// Takes in what [`judge`] cannot know.
    #[must_use]
    pub fn with(mut self, warning: Option<Warning>) -> Self {
        self.warnings.extend(warning);
        Self::of(self.warnings)
    }

    /// The lines for a terminal: the verdict, then one line a reason.
    pub fn lines(&self) -> String {
        let mut text = format!("Verdict: {}\n", self.verdict);
        for warning in &self.warnings {
            text += &format!("  {}: {warning}\n", warning.severity());
        }
        text
    }

    /// The object for files.
    pub fn json(&self) -> serde_json::Value {
        let warning = |warning: &Warning| {
            serde_json::json!({
                "kind": warning.kind(),
                "severity": warning.severity(),
                "message": warning.to_string(),
            })
        };
        serde_json::json!({
            "verdict": self.verdict,
            "warnings": self.warnings.iter().map(warning).collect::<Vec<_>>(),
        })
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(match self {
            Self::Valid => "VALID",
            Self::Suspect => "SUSPECT",
            Self::Invalid => "INVALID",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        Outcome, Record, Recorder, RunShape,
        sample::{failure, ms, request},
    };

    struct Run {
        shape: PhaseShape,
        records: Vec<Record>,
        health: ClientHealth,
    }

    /// 1000 requests, 10 a second, TTFT 100 ms, 5 tokens: nothing to complain of.
    fn good() -> Run {
        let shape = PhaseShape { measured: true, target_rate: Some(10.0), ..PhaseShape::default() };
        let records = (0..1000).map(|index| request(100 * index, 100, 20, 5)).collect();
        Run { shape, records, health: ClientHealth::default() }
    }

    impl Run {
        fn assessment(&self) -> Assessment {
            let shape = RunShape { phases: vec![self.shape.clone()], targets: Vec::new() };
            let mut recorder = Recorder::new(shape, Vec::new());
            self.records.iter().for_each(|record| recorder.push(record));
            judge(&recorder.report(), &self.health, &Flags::BENCH)
        }

        /// The verdict, and the kinds of its warnings.
        fn judged(&self) -> (Verdict, Vec<&'static str>) {
            let assessment = self.assessment();
            (assessment.verdict, assessment.warnings.iter().map(Warning::kind).collect())
        }

        /// Each request leaves `lag` later than scheduled, growing by `more` with each; a slot explains it or not.
        fn delayed(mut self, lag_ms: u64, more_us: u64, slot: bool) -> Self {
            for (index, record) in (0..).zip(&mut self.records) {
                let by = ms(lag_ms) + Duration::from_micros(more_us * index);
                record.sent = record.sent.map(|sent| sent + by);
                record.done += by;
                record.chunks.iter_mut().for_each(|chunk| chunk.at += by);
                if slot {
                    record.admitted += by;
                }
            }
            self
        }
    }

    #[test]
    fn a_good_run_is_valid() {
        assert_eq!(good().judged(), (Verdict::Valid, vec![]));
    }

    #[test]
    fn what_only_others_can_know_is_taken_in() {
        let late = Warning::EnginesLate { step_ms: 10.0, lag_ms: 3.0, speedup: "--speedup" };
        let assessment = good().assessment().with(Some(late));
        assert_eq!(assessment.verdict, Verdict::Invalid);
        assert!(
            assessment
                .lines()
                .contains("invalid: This machine could not follow: engine steps of 10.0 ms ended 3.0")
        );
        assert_eq!(good().assessment().with(None).verdict, Verdict::Valid);
    }

    #[test]
    fn lateness_is_weighed_against_the_ttft() {
        assert_eq!(good().delayed(9, 0, false).judged(), (Verdict::Valid, vec![]));
        assert_eq!(good().delayed(11, 0, false).judged(), (Verdict::Invalid, vec!["late"]));
        let mut quick = good().delayed(3, 0, false);
        quick
            .records
            .iter_mut()
            .for_each(|record| record.chunks.iter_mut().for_each(|chunk| chunk.at -= ms(80)));
        assert_eq!(quick.judged(), (Verdict::Invalid, vec!["late"]), "3 ms is much beside a TTFT of 20 ms");
        assert!(quick.assessment().lines().contains("invalid: Requests left up to 3.0 ms late (P99)"));
        assert!(quick.assessment().lines().contains("Lower --request-rate"));
    }

    #[test]
    fn the_host_is_named_when_it_took_the_processors() {
        let mut run = good();
        run.health.stolen_share = Some(0.004);
        assert_eq!(run.judged(), (Verdict::Valid, vec![]));
        run.health.stolen_share = Some(0.05);
        assert_eq!(run.judged(), (Verdict::Suspect, vec!["stolen"]));
        let late = run.delayed(20, 0, false);
        assert_eq!(late.judged(), (Verdict::Invalid, vec!["late", "stolen"]));
        let lines = late.assessment().lines();
        assert!(lines.contains("The host took 5.0 % of this machine's CPU time: try again"), "{lines}");
        let mut both = ClientHealth { stolen_share: Some(0.01), ..ClientHealth::default() };
        both.add(&late.health);
        both.add(&ClientHealth::default());
        assert_eq!(both.stolen_share, Some(0.05), "the worst of the parts");
    }

    #[test]
    fn a_very_fast_server_is_not_held_against_the_client() {
        // A TTFT of 0.2 ms, of which a tenth is far below what a wake-up takes.
        let fast = |lag_us: u64| {
            let mut run = good();
            for record in &mut run.records {
                let (by, ttft) = (Duration::from_micros(lag_us), Duration::from_micros(200));
                let first = record.chunks[0].at;
                record
                    .chunks
                    .iter_mut()
                    .for_each(|chunk| chunk.at = chunk.at - first + record.scheduled + by + ttft);
                record.sent = record.sent.map(|sent| sent + by);
            }
            run
        };
        assert_eq!(fast(90).judged(), (Verdict::Valid, vec![]));
        let near = fast(400);
        assert_eq!(
            near.judged(),
            (Verdict::Suspect, vec!["late"]),
            "late, but within a tick of the scheduler"
        );
        assert!(
            near.assessment().lines().contains("right to about 0.40 ms"),
            "{}",
            near.assessment().lines()
        );
        assert_eq!(
            fast(1_500).judged(),
            (Verdict::Invalid, vec!["late"]),
            "more than a tick: no core was free"
        );
    }

    #[test]
    fn a_missed_rate_is_the_clients_unless_the_limit_held() {
        // 40 ms later with each request: 7.1 instead of 10 a second, 1.3 in flight.
        let mut run = good().delayed(0, 40_000, true);
        run.shape.concurrency = Some(2);
        assert_eq!(run.judged(), (Verdict::Invalid, vec!["rate_missed"]));
        assert!(run.assessment().lines().contains("7.1 requests/s were sent instead of 10.0"));
        run.shape.concurrency = Some(1);
        assert_eq!(run.judged(), (Verdict::Valid, vec!["paced_by_concurrency"]));
        // A short run, of which the end weighs so much that the mean is below the limit, which was reached.
        (run.shape.concurrency, run.health.peak_in_flight) = (Some(2), Some(2));
        assert_eq!(run.judged(), (Verdict::Valid, vec!["paced_by_concurrency"]));
        let mut own = good().delayed(0, 40_000, false);
        (own.shape.concurrency, own.health.peak_in_flight) = (Some(2), Some(2));
        assert!(own.judged().1.contains(&"rate_missed"), "nobody waited for a slot");
    }

    #[test]
    fn a_closed_loop_must_keep_its_slots_full() {
        let mut run = good();
        (run.shape.target_rate, run.shape.closed_loop) = (None, true);
        run.shape.concurrency = Some(2); // 180 ms at 10 a second: 1.8 in flight
        assert_eq!(run.judged(), (Verdict::Valid, vec![]));
        run.shape.concurrency = Some(3);
        assert_eq!(run.judged(), (Verdict::Suspect, vec!["concurrency_missed"]));
    }

    #[test]
    fn a_cap_on_a_schedule_need_not_be_full() {
        let mut run = good();
        (run.shape.target_rate, run.shape.concurrency) = (None, Some(50));
        assert_eq!(run.judged(), (Verdict::Valid, vec![]));
        // All due at once, and sent one at a time.
        let at_once = |run: &mut Run| run.records.iter_mut().for_each(|record| record.scheduled = ms(0));
        at_once(&mut run);
        run.shape.concurrency = Some(2);
        assert_eq!(run.judged(), (Verdict::Valid, vec!["paced_by_concurrency"]));
        assert!(run.assessment().lines().contains("10.0 requests/s instead of all at once"));
    }

    #[test]
    fn failures_weigh_by_their_share() {
        let with = |failures: usize| {
            let mut run = good();
            run.records[..failures].iter_mut().for_each(|record| {
                *record =
                    failure(record.scheduled.as_millis() as u64, 5, Outcome::Status(503, "full".to_owned()));
            });
            run.judged()
        };
        assert_eq!(with(10), (Verdict::Valid, vec!["failures"]));
        assert_eq!(with(20), (Verdict::Suspect, vec!["failures"]));
        assert_eq!(with(501), (Verdict::Invalid, vec!["failures", "too_few_samples"]));
        assert_eq!(with(1000).1, ["nothing_answered", "failures"]);
    }

    #[test]
    fn what_was_never_sent_is_missed() {
        let mut run = good();
        let last = run.records.len() - 1;
        run.records[last] = failure(99_900, 0, Outcome::NotSent);
        run.records[last].sent = None;
        assert_eq!(run.judged(), (Verdict::Suspect, vec!["not_sent"]));
    }

    #[test]
    fn the_clients_own_health_counts() {
        let mut run = good();
        run.health.io_thread_cpu = vec![0.2, 0.81];
        (run.health.payload_reads, run.health.multi_event_reads) = (1000, 101);
        run.health.read_lag.extend([1_500_000]);
        run.health.reused_prompts = Some(100);
        run.health.interrupted = true;
        let expected = vec!["thread_busy", "read_late", "bunched", "reused_prompts", "interrupted"];
        assert_eq!(run.judged(), (Verdict::Invalid, expected));
        run.health.reused_prompts = Some(1000);
        assert!(!run.judged().1.contains(&"reused_prompts"), "each prompt was sent once");
    }

    #[test]
    fn a_client_that_stood_still_has_no_valid_percentiles() {
        let stood_still = |pauses: &[u64]| {
            let mut lateness = Distribution::default();
            lateness.extend((0..9_000).map(|_| 100_000).chain(pauses.iter().map(|pause| pause * 1_000_000)));
            let mut run = good();
            run.shape.target_rate = None;
            run.health.stalls = Stalls::new(&lateness, ms(10));
            run
        };
        assert_eq!(stood_still(&[10]).judged(), (Verdict::Valid, vec![]), "a tenth of the TTFT");
        assert_eq!(
            stood_still(&[500]).judged(),
            (Verdict::Valid, vec!["stood_still"]),
            "0.7 % of the requests"
        );
        assert_eq!(stood_still(&[2000]).judged(), (Verdict::Suspect, vec!["stood_still"]));
        let said = stood_still(&[2000]).assessment().lines();
        assert!(
            said.contains("stood still for up to 2000 ms") && said.contains("about 2.3 % of the"),
            "{said}"
        );
        assert_eq!(stood_still(&[60_000, 60_000]).judged().0, Verdict::Invalid);
        let mut both = stood_still(&[500]).health;
        both.add(&stood_still(&[2000]).health);
        assert_eq!(both.stalls.longest_ms, 2000.0);
        assert!((both.stalls.total_ms - 2499.8).abs() < 1e-6, "{:?}", both.stalls);
    }

    #[test]
    fn a_closed_loop_that_stood_still_has_it_in_what_was_in_flight() {
        let stood_still = |pauses: usize| {
            let mut lateness = Distribution::default();
            lateness.extend((0..900).map(|_| 100_000).chain((0..pauses).map(|_| 2_000_000_000)));
            let mut run = good();
            (run.shape.target_rate, run.shape.closed_loop) = (None, true);
            run.health.stalls = Stalls::new(&lateness, ms(10));
            run
        };
        assert_eq!(
            stood_still(1).judged(),
            (Verdict::Valid, vec!["stood_still"]),
            "1.8 of 1000, a sixth of the time"
        );
        assert!(stood_still(2).assessment().lines().contains("about 0.4 % of the"));
        assert_eq!(stood_still(10).judged().0, Verdict::Suspect);
        assert_eq!(stood_still(300).judged().0, Verdict::Invalid, "54 %");
    }

    #[test]
    fn percentiles_need_samples() {
        let with = |count: usize| {
            let mut run = good();
            run.records.truncate(count);
            run.assessment()
        };
        assert!(with(662).warnings.is_empty());
        assert!(with(661).lines().contains("P99 and above rest on 661 answers; 662 are needed"));
        assert_eq!(with(661).verdict, Verdict::Valid);
        assert!(with(63).lines().contains("P90 and above"));
        assert_eq!(with(10).verdict, Verdict::Suspect);
    }

    #[test]
    fn estimates_are_named() {
        let mut run = good();
        run.records.iter_mut().take(500).for_each(|record| record.output_tokens.source = CountSource::Chunks);
        run.records.iter_mut().for_each(|record| record.input_tokens.source = CountSource::Estimate);
        run.records[0].output_tokens.tokens = 5000;
        let assessment = run.assessment();
        assert_eq!(run.judged(), (Verdict::Valid, vec!["several_tokens_an_event", "estimated", "estimated"]));
        assert!(
            assessment.lines().contains("The prompt length of 100 % of the answers is estimated at four")
        );
        assert!(
            assessment.lines().contains("The output length of 50 % of the answers is counted as one token")
        );
        assert_eq!(assessment.json()["warnings"][1]["severity"], "note");
        assert_eq!(assessment.json()["verdict"], "VALID");
    }
}
