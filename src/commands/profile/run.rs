//! One run: everything is made before it starts, sent, watched and taken down.

use std::{
    path::Path,
    sync::{
        Arc,
        mpsc::{Sender, channel},
    },
    thread,
    time::{Duration, SystemTime},
};

use anyhow::{Context, anyhow};
use loadgen::{Control, RunEnd, RunSummary, Start};
use report::{
    Assessment, ClientHealth, Distribution, EngineFigures, EnginePages, Flags, Report,
    aiperf::{Run, RunKind},
    judge,
};
use workload::{PhaseKind, TokenSource, Tokenizer};

use super::{
    Arguments, configuration::input_config, data::Data, engines::Engines, files::Files, live::Live,
    plan::Made, recording::Recording, targets::Servers,
};
use crate::commands::command_line::command_line;

/// Time between two looks at the run.
const LOOK: Duration = Duration::from_millis(50);

/// A run that has ended.
pub(super) struct Finished {
    pub(super) run: Run,
    pub(super) recording: Recording,
    pub(super) report: Report,
    pub(super) summary: RunSummary,
    pub(super) health: ClientHealth,
    pub(super) assessment: Assessment,
    /// The metrics pages, and their figures over the measured window.
    pub(super) pages: EnginePages,
    pub(super) figures: Vec<EngineFigures>,
    pub(super) notes: Vec<String>,
    /// What was sent, and from which seed.
    pub(super) data: Data,
    pub(super) seed: u64,
}

/// Carries out one run; its files go to those of `files`.
pub(super) fn carry_out(
    arguments: &Arguments,
    files: &Files,
    seed: u64,
    control: &Control,
) -> anyhow::Result<Finished> {
    let mut notes = Vec::new();
    let tokenizer = tokenizer(arguments, &mut notes)?;
    let servers = Servers::new(arguments, seed)?;
    let data = Data::read(arguments, &tokenizer)?;
    let made = Made::new(arguments, &data, seed)?;
    notes.extend(data.notes.iter().cloned());
    std::fs::create_dir_all(&files.directory)
        .with_context(|| format!("cannot create {}", files.directory.display()))?;
    // That of an earlier run, as a rule there is none.
    let _ = std::fs::remove_file(files.ready());

    let urls = servers.urls();
    if urls.len() > 1 {
        tracing::info!(
            "Load balancing enabled: {} URLs with {} strategy",
            urls.len(),
            arguments.endpoint.url_strategy
        );
    }
    tracing::info!("Using {}", made.strategy);
    servers.wait_until_ready(arguments, control)?;
    if control.stops() == 0 {
        servers.reset_caches(arguments)?;
    }

    let id = run_name();
    let counter = (tokenizer.source() == TokenSource::Tokenizer
        && !arguments.endpoint.use_server_token_count)
        .then(|| Arc::new(tokenizer.clone()));
    let mut options = servers.options(arguments, &id, counter.as_ref());
    let (ask, asked) = channel::<Sender<()>>();
    let profilers = servers.before_phase(arguments, &made.shapes);
    options.before_phase = Some(Arc::new(move |phase| {
        let (done, waits) = channel();
        // Where nobody listens any more, nothing is waited for.
        if phase > 0 && ask.send(done).is_ok() {
            let _ = waits.recv();
        }
        if let Some(start) = &profilers {
            start(phase);
        }
    }));
    let engines = Engines::new(arguments, &servers);
    let (replays, targets, counter) = (made.replays, &servers.targets, counter.as_deref());
    let (summary, mut run, mut recording) = thread::scope(|scope| {
        if control.stops() == 0 {
            engines.watch(scope, arguments);
        }
        // The first readings may have taken seconds: no time of the run counts from before them.
        let start = Start::now();
        options.start = Some(start);
        let run = Run {
            id,
            started_at: start.at,
            input_config: input_config(arguments, &made, files, seed, &urls),
            seed: Some(seed),
            command: command_line(),
            kind: RunKind::Complete,
            urls,
        };
        let mut recording =
            Recording::begin(arguments, files, &run, &made).inspect_err(|_| engines.stop())?;
        let mut live = Live::new(arguments, &made);
        let (plan, shapes) = (made.plan, made.shapes);
        let measured = |phase: usize| shapes.get(phase).is_some_and(|shape| shape.measured);
        let sender = scope.spawn(move || {
            let take = |record, text| recording.take(record, text, counter);
            loadgen::run(plan, targets, &options, control, take).map(|summary| (summary, recording))
        });
        announce(measured(0));
        while !sender.is_finished() {
            if let Ok(done) = asked.recv_timeout(LOOK) {
                engines.between_phases();
                let _ = done.send(());
            }
            if let Some(phase) = live.look(control) {
                announce(measured(phase));
            }
        }
        live.finish();
        engines.stop();
        let (summary, recording) = sender.join().map_err(|_| anyhow!("the load generator broke down"))??;
        Ok::<_, anyhow::Error>((summary, run, recording))
    })?;
    servers.stop_profiler(arguments);
    recording.finish();
    let (pages, round_trips) = engines.finish();
    if let Some(time) = round_trip(arguments, &round_trips) {
        recording.measured.set_round_trip(time);
    }
    run.kind = match summary.end {
        RunEnd::Complete => RunKind::Complete,
        RunEnd::Stopped | RunEnd::Aborted => RunKind::Cancelled,
        RunEnd::TooManyFailed => {
            let share = arguments.load.failed_request_threshold.unwrap_or_default() * 100.0;
            RunKind::Incomplete(format!("more than {share} % of the requests failed"))
        }
    };
    let report = recording.recorder.report();
    let health = ClientHealth { reused_prompts: data.different_prompts(arguments), ..summary.health() };
    let assessment = judge(&report, &health, &advice(arguments, replays));
    let figures = pages.figures(pages.window(summary.started_at, window(&summary, PhaseKind::Measured)));
    Ok(Finished { run, recording, report, summary, health, assessment, pages, figures, notes, data, seed })
}

/// The flags that this run has, for what its verdict advises.
fn advice(arguments: &Arguments, replays: bool) -> Flags {
    let load = &arguments.load;
    let rate = if load.user_centric_rate.is_some() {
        "--user-centric-rate"
    } else if load.request_rate_series.is_some() {
        "the rates of --request-rate-series"
    } else if replays {
        "--synthesis-speedup-ratio"
    } else if load.request_rate.is_empty() {
        Flags::PROFILE.concurrency
    } else {
        Flags::PROFILE.rate
    };
    let requests = if replays {
        "the number of requests in --input-file"
    } else if !load.request_count.is_empty() {
        Flags::PROFILE.requests
    } else if !load.conversation_num.is_empty() {
        "--conversation-num"
    } else if !load.benchmark_duration.is_empty() {
        "--benchmark-duration"
    } else {
        Flags::PROFILE.requests
    };
    Flags { rate, requests, ..Flags::PROFILE }
}

/// Says that a phase begins.
fn announce(measured: bool) {
    tracing::info!("evenload is {}", if measured { "PROFILING" } else { "WARMING UP" });
}

/// The tokenizer that was asked for; a name that is no file means the estimate, and is said.
fn tokenizer(arguments: &Arguments, notes: &mut Vec<String>) -> anyhow::Result<Tokenizer> {
    let Some(name) = arguments.output.tokenizer.as_deref().filter(|name| *name != "builtin") else {
        return Ok(Tokenizer::estimate());
    };
    let path = Path::new(name);
    let is_hub_name = !path.exists()
        && name.matches('/').count() <= 1
        && !name.starts_with(['.', '/', '~'])
        && path.extension().is_none_or(|ending| ending != "json");
    if is_hub_name {
        notes.push(format!("--tokenizer {name} is not a file here, and nothing is downloaded; where a server does not count, four bytes are a token"));
        return Ok(Tokenizer::estimate());
    }
    Ok(Tokenizer::load(path)?)
}

/// The round trip to take off: as given, or the mean of those measured.
fn round_trip(arguments: &Arguments, round_trips: &Distribution) -> Option<Duration> {
    let measured = || Some(Duration::from_nanos(round_trips.mean()? as u64));
    arguments.output.network_latency_mean.or_else(measured)
}

/// From the start of the first phase of a kind to the end of the last.
pub(super) fn window(summary: &RunSummary, kind: PhaseKind) -> (Duration, Duration) {
    let spans = || summary.phases.iter().filter(|phase| phase.kind == kind).filter_map(|phase| phase.span);
    (
        spans().map(|span| span.0).min().unwrap_or_default(),
        spans().map(|span| span.1).max().unwrap_or_default(),
    )
}

/// Twelve hexadecimal digits that no other run has.
fn run_name() -> String {
    format!("{:012x}", drawn() & 0xffff_ffff_ffff)
}

/// A number that no other run has.
pub(super) fn drawn() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let mixed =
        (since.as_nanos() as u64 ^ u64::from(std::process::id()) << 40).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    mixed ^ mixed >> 29
}
