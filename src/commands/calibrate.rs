//! `evenload calibrate`: how far this machine's measurements can be trusted.
//!
//! The load generator is run against engines of known latencies, in this process, over loopback: what it reports
//! beyond these latencies is error. It grows with the rate, and above some rate the machine cannot follow at all.
//! Part of it is the engine's own lateness, which the engine knows and which is shown beside it.

use std::{process::ExitCode, sync::Arc, time::Duration};

use anyhow::Context;
use clap::Args;
use engine::{Config, FixedTimes, Fleet, Profile};
use loadgen::{Ask, Control, Options, RunSummary, Targets, ThreadRole};
use protocol::Endpoint;
use report::{Metric, PhaseShape, Recorder, Report, RunShape, aiperf::plain_table};
use workload::{
    Arrivals, BodyOptions, Length, Pattern, Phase, Plan, Rate, RequestTemplate, Sampling, SequenceLengths,
    Synthetic, write_body,
};

use super::interrupt::Interrupts;

/// A rate counts as reached from this share of it on.
const REACHED: f64 = 0.99;
/// Errors above these make a rate one that this machine cannot measure.
const MEDIAN_LIMIT_MS: f64 = 0.5;
const P99_LIMIT_MS: f64 = 2.0;
/// Prompts of the calibration.
const PROMPT_TOKENS: u32 = 64;

/// Flags of `evenload calibrate`.
#[derive(Args, Clone, Debug)]
pub(crate) struct Arguments {
    /// Request rates to try, in rising order; the search for the ceiling goes on from the last one.
    #[arg(long, value_name = "RATES", value_delimiter = ',', default_values = ["10", "50", "200", "500", "1000", "2000"])]
    rates: Vec<f64>,
    /// Time at each rate.
    #[arg(long, value_name = "SECONDS", default_value_t = 5.0)]
    seconds: f64,
    /// The engines' time to first token.
    #[arg(long, value_name = "MS", default_value_t = 50.0)]
    ttft_ms: f64,
    /// The engines' time between tokens.
    #[arg(long, value_name = "MS", default_value_t = 10.0)]
    itl_ms: f64,
    /// Tokens of an answer.
    #[arg(long, value_name = "TOKENS", default_value_t = 16)]
    tokens: u32,
    /// Threads that send and receive.
    #[arg(long, value_name = "NUMBER", default_value = "1", value_parser = clap::value_parser!(u16).range(1..=64))]
    threads: u16,
    /// Threads of the engines.
    #[arg(long, value_name = "NUMBER", default_value = "1", value_parser = clap::value_parser!(u16).range(1..=64))]
    engine_threads: u16,
    /// Spin before sends, as --precise-pacing does.
    #[arg(long)]
    precise_pacing: bool,
    /// Write the figures as JSON lines to this file.
    #[arg(long, value_name = "FILE")]
    json: Option<std::path::PathBuf>,
    /// Do not look for the ceiling beyond the last rate.
    #[arg(long)]
    no_ceiling: bool,
}

/// What one rate came to.
struct Point {
    rate: f64,
    report: Report,
    summary: RunSummary,
    /// How late the engines gave their tokens: mean and worst, in milliseconds.
    engine_late_ms: (f64, f64),
}

impl Arguments {
    pub(crate) fn run(self) -> anyhow::Result<ExitCode> {
        let interrupts = Interrupts::listen().context("cannot wait for signals")?;
        anyhow::ensure!(self.rates.iter().all(|rate| *rate > 0.0), "--rates: give numbers above 0");
        println!(
            "The load generator sends to engines in this process that give the first of {} tokens after {} ms and the \
             others every {} ms, whatever the load. What it measures beyond that is its error on this machine.\n",
            self.tokens, self.ttft_ms, self.itl_ms
        );
        let mut points = Vec::new();
        let mut rates = self.rates.clone();
        while let Some(rate) = (!rates.is_empty()).then(|| rates.remove(0)) {
            let control = interrupts.next_run();
            if control.stops() > 0 {
                break;
            }
            let point = self.measure(rate, &control)?;
            eprintln!("{}", point.line(&self));
            // Beyond the last rate, twice as fast each time until the machine cannot follow.
            let goes_on = rates.is_empty() && !self.no_ceiling && point.is_good(&self);
            if goes_on && rate < 1e6 {
                rates.push(rate * 2.0);
            }
            points.push(point);
        }
        self.conclude(&points)
    }

    fn measure(&self, rate: f64, control: &Control) -> anyhow::Result<Point> {
        let fleet = self.fleet()?;
        let urls: Vec<String> = fleet.addresses().iter().map(ToString::to_string).collect();
        let targets = Targets::resolve(&urls)?;
        let body = BodyOptions { include_usage: true, ignore_eos: true, ..BodyOptions::default() };
        let mut options =
            Options::new(Arc::new(move |request, history, out| write_body(request, history, &body, out)));
        options.threads = self.threads.into();
        options.precise = self.precise_pacing;
        options.kernel_stamps = true;
        let shape = RunShape {
            phases: vec![PhaseShape { measured: true, target_rate: Some(rate), ..PhaseShape::default() }],
            targets: urls,
        };
        let mut recorder = Recorder::new(shape, Vec::new());
        let summary =
            loadgen::run(self.plan(rate)?, &targets, &options, control, |record, _| recorder.push(&record))?;
        Ok(Point { rate, report: recorder.report(), summary, engine_late_ms: lateness(&targets) })
    }

    fn fleet(&self) -> anyhow::Result<Fleet> {
        let time =
            |ms: f64| Duration::try_from_secs_f64(ms / 1e3).with_context(|| format!("{ms} ms is no time"));
        let times = FixedTimes { first_token: time(self.ttft_ms)?, between_tokens: time(self.itl_ms)? };
        let config = Config {
            fixed_times: Some(times),
            threads: self.engine_threads.into(),
            replicas: self.engine_threads,
            ..Config::new(Profile::l4())
        };
        Ok(engine::serve(config)?)
    }

    fn plan(&self, rate: f64) -> anyhow::Result<Plan> {
        let lengths =
            SequenceLengths::of(Length::exactly(PROMPT_TOKENS), Some(Length::exactly(self.tokens.max(1))));
        let model = Config::new(Profile::l4()).model_names.remove(0);
        let template = RequestTemplate::new(Endpoint::Completions, model);
        let sessions = Synthetic::new(lengths).sessions(template, usize::MAX, Sampling::Sequential, 1)?;
        let mut phase = Phase::open_loop(
            "calibration",
            Arrivals::new(Pattern::Poisson, Rate::constant(rate)?, 1)?,
            sessions,
        );
        phase.limits.duration = Some(Duration::try_from_secs_f64(self.seconds).context("--seconds")?);
        phase.limits.grace = Some(Duration::from_secs(30));
        Ok(Plan::new([phase]))
    }

    fn conclude(&self, points: &[Point]) -> anyhow::Result<ExitCode> {
        let columns = [
            "asked req/s",
            "sent req/s",
            "TTFT p50",
            "TTFT p99",
            "error p50",
            "error p99",
            "ITL mean error",
            "send lag p99",
            "read lag p99",
            "engine late",
            "I/O CPU",
            "",
        ];
        let table = report::TextTable::new("", columns);
        let table = points.iter().fold(table, |table, point| table.row(point.cells(self)));
        println!("{}", plain_table("evenload calibrate | times in ms", &table));
        if let Some(path) = &self.json {
            let lines: String = points.iter().map(|point| point.json(self).to_string() + "\n").collect();
            std::fs::write(path, lines).with_context(|| format!("cannot write {}", path.display()))?;
        }
        let good: Vec<&Point> = points.iter().filter(|point| point.is_good(self)).collect();
        match good.last() {
            Some(best) => println!(
                "Up to {:.0} requests/s of {} tokens ({:.0} events/s), medians are right to {MEDIAN_LIMIT_MS} ms and P99 to \
                 {P99_LIMIT_MS} ms here.",
                best.rate,
                self.tokens,
                best.rate * f64::from(self.tokens)
            ),
            None => println!(
                "No rate was measured to {MEDIAN_LIMIT_MS} ms at the median and {P99_LIMIT_MS} ms at P99."
            ),
        }
        if let Some(first_bad) = points.iter().find(|point| !point.is_good(self)) {
            println!("At {:.0} requests/s: {}.", first_bad.rate, first_bad.verdict(self));
        }
        println!(
            "Error is what was measured minus what the engine was told to do. \"engine late\" is the engine's own share in \
             it (mean): a load generator on a machine of its own does not see that part. \"read lag\" is how long bytes \
             had been in the kernel before they were read. Keep real runs below half of the highest good rate."
        );
        Ok(if good.is_empty() { ExitCode::FAILURE } else { ExitCode::SUCCESS })
    }
}

impl Point {
    fn percentile(&self, metric: Metric, percent: f64) -> f64 {
        self.report.total.of(metric).percentile(percent).map_or(f64::NAN, |time| time / report::MILLISECOND)
    }

    fn achieved(&self) -> f64 {
        let asked = self.report.total.scheduled_rate().unwrap_or(f64::NAN);
        self.report.total.achieved_rate().unwrap_or(f64::NAN) / asked * self.rate
    }

    fn itl_error_ms(&self, arguments: &Arguments) -> f64 {
        self.report
            .total
            .of(Metric::Tpot)
            .mean()
            .map_or(f64::NAN, |time| time / report::MILLISECOND - arguments.itl_ms)
    }

    fn is_good(&self, arguments: &Arguments) -> bool {
        self.verdict(arguments) == "good"
    }

    /// Why a rate is beyond this machine.
    fn verdict(&self, arguments: &Arguments) -> String {
        let error = |percent| self.percentile(Metric::Ttft, percent) - arguments.ttft_ms;
        let total = &self.report.total;
        if total.answered() == 0 || total.failed() > 0 {
            format!("{} of {} requests failed", total.failed(), total.requests())
        } else if self.achieved() < REACHED * self.rate {
            format!("only {:.0} requests/s were sent", self.achieved())
        } else if error(50.0) > MEDIAN_LIMIT_MS {
            format!("the median is {:.2} ms too long", error(50.0))
        } else if error(99.0) > P99_LIMIT_MS {
            format!("P99 is {:.2} ms too long", error(99.0))
        } else {
            "good".to_owned()
        }
    }

    fn io_cpu(&self) -> f64 {
        let threads = self.summary.client.threads.iter().filter(|thread| thread.role == ThreadRole::Io);
        threads.map(|thread| thread.cpu_share).fold(0.0, f64::max)
    }

    fn read_lag(&self) -> f64 {
        self.summary.client.receive_lag.percentile(99.0).map_or(f64::NAN, |time| time / report::MILLISECOND)
    }

    fn cells(&self, arguments: &Arguments) -> [String; 12] {
        let ms = |value: f64| format!("{value:.3}");
        let [p50, p99] = [50.0, 99.0].map(|percent| self.percentile(Metric::Ttft, percent));
        [
            format!("{:.0}", self.rate),
            format!("{:.0}", self.achieved()),
            ms(p50),
            ms(p99),
            ms(p50 - arguments.ttft_ms),
            ms(p99 - arguments.ttft_ms),
            ms(self.itl_error_ms(arguments)),
            ms(self.percentile(Metric::ClientLag, 99.0)),
            ms(self.read_lag()),
            ms(self.engine_late_ms.0),
            format!("{:.0} %", self.io_cpu() * 100.0),
            self.verdict(arguments),
        ]
    }

    fn line(&self, arguments: &Arguments) -> String {
        format!("{:.0} requests/s: {}", self.rate, self.verdict(arguments))
    }

    fn json(&self, arguments: &Arguments) -> serde_json::Value {
        let total = &self.report.total;
        serde_json::json!({
            "rate": self.rate,
            "achieved_rate": self.achieved(),
            "answered": total.answered(),
            "failed": total.failed(),
            "nominal_ttft_ms": arguments.ttft_ms,
            "nominal_itl_ms": arguments.itl_ms,
            "tokens": arguments.tokens,
            "ttft_ms": total.of(Metric::Ttft).spread(report::MILLISECOND),
            "ttft_error_p50_ms": self.percentile(Metric::Ttft, 50.0) - arguments.ttft_ms,
            "ttft_error_p99_ms": self.percentile(Metric::Ttft, 99.0) - arguments.ttft_ms,
            "itl_mean_error_ms": self.itl_error_ms(arguments),
            "client_lag_p99_ms": self.percentile(Metric::ClientLag, 99.0),
            "read_lag_p99_ms": self.read_lag(),
            "engine_late_mean_ms": self.engine_late_ms.0,
            "engine_late_max_ms": self.engine_late_ms.1,
            "io_thread_cpu": self.io_cpu(),
            "verdict": self.verdict(arguments),
        })
    }
}

/// How late the engine says it was: mean and worst.
fn lateness(targets: &Targets) -> (f64, f64) {
    let state = Ask::get("/sim/state", Duration::from_secs(5)).send(targets, 0).ok();
    let state: Option<serde_json::Value> = state.and_then(|reply| serde_json::from_slice(&reply.body).ok());
    let number =
        |key: &str| state.as_ref().and_then(|state| state["step_lag"][key].as_f64()).unwrap_or(f64::NAN);
    (number("mean_ms"), number("max_ms"))
}
