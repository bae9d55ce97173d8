//! `evenload calibrate`: how far this machine's measurements can be trusted.
//!
//! The load generator is run against engines of known latencies, in this process, over loopback: what it reports
//! beyond these latencies is error. It grows with the rate, and above some rate the machine cannot follow at all.
//! Part of it is the engine's own lateness, which the engine knows and which is shown beside it.
//!
//! Each rate is sent for a moment before it counts, because the first use of memory, code and a resting processor is
//! slow; and engines and load generator have cores of their own where there are two, as they have in earnest.

mod cores;

use std::{fs::OpenOptions, path::PathBuf, process::ExitCode, sync::Arc, time::Duration};

use anyhow::Context;
use clap::Args;
use engine::{Config, FixedTimes, Fleet, Profile};
use loadgen::{Ask, Control, Options, RunSummary, Targets, ThreadRole};
use protocol::Endpoint;
use report::{Ladder, Nominal, PhaseShape, Point, Recorder, RunShape, calibration_text};
use workload::{
    Arrivals, BodyOptions, Length, Pattern, Phase, Plan, Rate, RequestTemplate, Sampling, SequenceLengths,
    Synthetic, write_body,
};

use self::cores::Cores;
use super::{
    engine_state::{self, PATIENCE},
    interrupt::{INTERRUPTED, Interrupts},
};

/// Prompts of the calibration.
const PROMPT_TOKENS: u32 = 64;
/// Seconds of each rate that do not count.
const WARM_UP: f64 = 1.0;
/// A rate is measured until so many requests were sent at least: a P99 of fewer is the slowest of them.
const FEWEST_REQUESTS: f64 = 100.0;

/// Flags of `evenload calibrate`.
#[derive(Args, Clone, Debug)]
#[command(
    after_help = "Exit status: 0; 1 if no rate was measured right; 2 for wrong flags; 130 after Ctrl-C or SIGTERM."
)]
pub(crate) struct Arguments {
    /// Request rates to try; the search for the ceiling goes on from the highest that is measured right.
    #[arg(long, value_name = "RATES", value_delimiter = ',', default_values = ["10", "200", "2000"], value_parser = rate)]
    rates: Vec<f64>,
    /// Time at each rate, or until 100 requests were sent where that takes longer.
    #[arg(long, value_name = "SECONDS", default_value_t = 5.0, value_parser = length)]
    seconds: f64,
    /// The engines' time to first token.
    #[arg(long, value_name = "MS", default_value_t = 50.0, value_parser = latency)]
    ttft_ms: f64,
    /// The engines' time between tokens.
    #[arg(long, value_name = "MS", default_value_t = 10.0, value_parser = latency)]
    itl_ms: f64,
    /// Tokens of an answer.
    #[arg(long, value_name = "TOKENS", default_value = "16", value_parser = clap::value_parser!(u32).range(2..))]
    tokens: u32,
    /// Threads that send and receive.
    #[arg(long, value_name = "NUMBER", default_value = "1", value_parser = clap::value_parser!(u16).range(1..=64))]
    threads: u16,
    /// Threads of the engines.
    #[arg(long, value_name = "NUMBER", default_value = "1", value_parser = clap::value_parser!(u16).range(1..=64))]
    engine_threads: u16,
    /// Spin for the last 100 microseconds before a send, as `evenload profile --precise-pacing` does.
    #[arg(long)]
    precise_pacing: bool,
    /// Write the figures as JSON lines to this file.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Measure a rate so often at most, if it is off while the host of this virtual machine takes CPU time.
    #[arg(long, value_name = "NUMBER", default_value = "5", value_parser = clap::value_parser!(u32).range(1..=100))]
    tries: u32,
    /// Try only the rates that are given.
    #[arg(long)]
    no_ceiling: bool,
}

impl Arguments {
    pub(crate) fn run(self) -> anyhow::Result<ExitCode> {
        if let Some(path) = &self.json {
            let opened = OpenOptions::new().create(true).append(true).open(path);
            opened.with_context(|| format!("cannot write {}", path.display()))?;
        }
        let interrupts = Interrupts::listen().context("cannot wait for signals")?;
        let nominal = Nominal { ttft_ms: self.ttft_ms, itl_ms: self.itl_ms, tokens: self.tokens };
        say!(
            "The load generator sends to engines in this process that give the first of {} tokens after {} ms and the\n\
             others every {} ms, whatever the load. What it measures beyond that is error: its own, and this machine's.\n",
            self.tokens,
            self.ttft_ms,
            self.itl_ms
        );
        let (mut points, mut ladder) = (Vec::new(), Ladder::new(self.rates.clone(), !self.no_ceiling));
        let mut is_interrupted = false;
        while let Some(rate) = ladder.next_rate() {
            let control = interrupts.next_run();
            let Some(point) = self.quietest(rate, &nominal, &control)? else {
                remark!("evenload: ended by hand; {rate:.0} requests/s is not in the table");
                is_interrupted = true;
                break;
            };
            ladder.note(rate, point.is_right());
            points.push(point);
        }
        if is_interrupted && points.is_empty() {
            return Ok(ExitCode::from(INTERRUPTED));
        }
        let written = self.write(&nominal, &points);
        say!("{}", calibration_text(&nominal, &points));
        written?;
        Ok(match points.iter().any(Point::is_right) {
            _ if is_interrupted => ExitCode::from(INTERRUPTED),
            true => ExitCode::SUCCESS,
            false => ExitCode::FAILURE,
        })
    }

    fn write(&self, nominal: &Nominal, points: &[Point]) -> anyhow::Result<()> {
        let Some(path) = &self.json else { return Ok(()) };
        let lines: anyhow::Result<String> =
            points.iter().map(|point| Ok(serde_json::to_string(&point.json(nominal))? + "\n")).collect();
        std::fs::write(path, lines?).with_context(|| format!("cannot write {}", path.display()))
    }

    /// Measures until nothing disturbs it. `None` when ended by hand.
    fn quietest(&self, rate: f64, nominal: &Nominal, control: &Control) -> anyhow::Result<Option<Point>> {
        let mut quietest: Option<Point> = None;
        for attempts in 1..=self.tries {
            let point = Point { attempts, ..self.measure(rate, nominal, control)? };
            if control.stops() > 0 {
                return Ok(None);
            }
            remark!("{rate:.0} requests/s for {:.0} s: {}", self.lasts(rate), point.finding());
            if !point.was_disturbed() {
                return Ok(Some(point));
            }
            remark!("  meanwhile the host took {:.1} % of the CPU time", point.stolen_share * 100.0);
            let kept = quietest.filter(|kept| kept.stolen_share <= point.stolen_share).unwrap_or(point);
            quietest = Some(Point { attempts, ..kept });
        }
        Ok(quietest)
    }

    /// Seconds at a rate.
    fn lasts(&self, rate: f64) -> f64 {
        self.seconds.max(FEWEST_REQUESTS / rate)
    }

    fn measure(&self, rate: f64, nominal: &Nominal, control: &Control) -> anyhow::Result<Point> {
        let cores = Cores::share(self.engine_threads.into());
        let fleet = cores.for_engines(|| self.fleet())?;
        let urls: Vec<String> = fleet.addresses().iter().map(ToString::to_string).collect();
        let targets = Targets::resolve(&urls)?;
        let body = BodyOptions { include_usage: true, ignore_eos: true, ..BodyOptions::default() };
        let mut options =
            Options::new(Arc::new(move |request, history, out| write_body(request, history, &body, out)));
        options.threads = self.threads.into();
        options.precise = self.precise_pacing;
        options.kernel_stamps = true;
        let send = |seconds, recorder: &mut Recorder| {
            let plan = self.plan(rate, seconds)?;
            let run = || loadgen::run(plan, &targets, &options, control, |record, _| recorder.push(&record));
            anyhow::Ok(cores.for_senders(run)?)
        };
        let shape = RunShape {
            phases: vec![PhaseShape { measured: true, target_rate: Some(rate), ..PhaseShape::default() }],
            targets: urls,
        };
        send(WARM_UP, &mut Recorder::new(shape.clone(), Vec::new()))?;
        forget_lateness(&targets)?;
        let mut recorder = Recorder::new(shape, Vec::new());
        let summary = send(self.lasts(rate), &mut recorder)?;
        let report = recorder.report();
        Ok(Point::new(rate, nominal, &report, read_lag_ms(&summary), lateness(&targets), shares(&summary)))
    }

    fn fleet(&self) -> anyhow::Result<Fleet> {
        let time = |ms: f64| Duration::from_secs_f64(ms / 1e3);
        let times = FixedTimes { first_token: time(self.ttft_ms), between_tokens: time(self.itl_ms) };
        let config = Config {
            fixed_times: Some(times),
            threads: self.engine_threads.into(),
            replicas: self.engine_threads,
            ..Config::new(Profile::l4())
        };
        Ok(engine::serve(config)?)
    }

    fn plan(&self, rate: f64, seconds: f64) -> anyhow::Result<Plan> {
        let lengths = SequenceLengths::of(Length::exactly(PROMPT_TOKENS), Some(Length::exactly(self.tokens)));
        let model = Config::new(Profile::l4()).model_names.remove(0);
        let template = RequestTemplate::new(Endpoint::Completions, model);
        let sessions = Synthetic::new(lengths).sessions(template, usize::MAX, Sampling::Sequential, 1)?;
        let mut phase = Phase::open_loop(
            "calibration",
            Arrivals::new(Pattern::Poisson, Rate::constant(rate)?, 1)?,
            sessions,
        );
        phase.limits.duration = Some(Duration::try_from_secs_f64(seconds).context("--seconds")?);
        phase.limits.grace = Some(Duration::from_secs(30));
        Ok(Plan::new([phase]))
    }
}

fn rate(text: &str) -> Result<f64, String> {
    within(text, 1e-3, 1e6, "requests a second")
}

fn length(text: &str) -> Result<f64, String> {
    within(text, 1e-3, 1e6, "seconds")
}

/// A time of an engine in milliseconds.
pub(super) fn latency(text: &str) -> Result<f64, String> {
    within(text, 0.0, 1e6, "milliseconds")
}

fn within(text: &str, least: f64, most: f64, unit: &str) -> Result<f64, String> {
    let number = text.parse().ok().filter(|number| (least..=most).contains(number));
    number.ok_or_else(|| format!("give a number of {unit} from {least} to {most}"))
}

/// Of a core, by the busiest I/O thread; of all, by the host.
fn shares(summary: &RunSummary) -> [f64; 2] {
    let threads = summary.client.threads.iter().filter(|thread| thread.role == ThreadRole::Io);
    let busiest = threads.map(|thread| thread.cpu_share).fold(0.0, f64::max);
    [busiest, summary.client.stolen_share.unwrap_or(f64::NAN)]
}

/// P99 of how long bytes were in the kernel.
fn read_lag_ms(summary: &RunSummary) -> f64 {
    summary.client.receive_lag.percentile(99.0).map_or(f64::NAN, |time| time / report::MILLISECOND)
}

/// Lets the engines count their lateness from now on.
fn forget_lateness(targets: &Targets) -> anyhow::Result<()> {
    for target in 0..targets.count() {
        let ask = Ask { method: "POST", ..Ask::get("/sim/reset_lag", PATIENCE) };
        ask.send(targets, target).map_err(anyhow::Error::msg)?;
    }
    Ok(())
}

/// How late the engines say they were: mean and worst, in milliseconds.
fn lateness(targets: &Targets) -> [f64; 2] {
    engine_state::states(targets).map_or([f64::NAN; 2], |states| {
        let lateness = engine_state::lateness(&states);
        [lateness.mean_ms, lateness.most_ms]
    })
}
