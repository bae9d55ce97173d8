//! What the servers' metrics pages say during the run, and how far away the servers are.
//!
//! A thread a URL reads its page three times a second. A page that does not exist is asked for once only; one that
//! fails is asked for again. Times are those of the wall clock, brought to the run's clock at the end.

use std::{
    sync::{Mutex, MutexGuard, PoisonError, mpsc::channel},
    thread::Scope,
    time::{Duration, SystemTime},
};

use loadgen::{Ask, Routed, Stop, Targets};
use protocol::EngineMetrics;
use report::{Distribution, EngineFigures, EngineReading, EngineSeries};
use routing::EngineReport;

use super::{Arguments, targets::Servers};

/// Time between two readings of a page.
const INTERVAL: Duration = Duration::from_millis(333);
/// Time for a page.
const TIMEOUT: Duration = Duration::from_secs(3);
/// Time for the first and the last reading: the run waits for the first.
const EDGE_TIMEOUT: Duration = Duration::from_millis(500);
const PATH: &str = "/metrics";
/// More URLs than this are not watched: a thread each would be too many.
const MOST_PAGES: usize = 256;

/// The pages of a run, and the distance of its servers.
#[derive(Debug)]
pub(super) struct Engines {
    begun: SystemTime,
    pages: Vec<Page>,
    round_trips: Mutex<Distribution>,
    stop: Stop,
}

#[derive(Debug)]
struct Page {
    name: String,
    /// Index into the run's targets, or among the other pages.
    target: u16,
    other: bool,
    series: Mutex<EngineSeries>,
}

impl Engines {
    /// Nothing is read yet. Times count from now.
    pub(super) fn new(arguments: &Arguments, servers: &Servers) -> Self {
        let page = |other: bool| {
            move |(target, name): (u16, &std::sync::Arc<str>)| Page {
                name: name.to_string(),
                target,
                other,
                series: Mutex::default(),
            }
        };
        let mut pages: Vec<Page> = Vec::new();
        if !arguments.output.no_server_metrics {
            pages.extend((0..).zip(servers.targets.names()).map(page(false)));
            pages.extend(
                servers.other_pages.iter().flat_map(|others| (0..).zip(others.names())).map(page(true)),
            );
            pages.truncate(MOST_PAGES);
        }
        Self { begun: SystemTime::now(), pages, round_trips: Mutex::default(), stop: Stop::default() }
    }

    /// Reads until [`stop`](Self::stop) is called. Returns when every page has been read once, or has not answered in
    /// a moment.
    pub(super) fn watch<'scope>(
        &'scope self,
        scope: &'scope Scope<'scope, '_>,
        arguments: &'scope Arguments,
        servers: &'scope Servers,
    ) {
        let (read, all_read) = channel::<()>();
        for page in &self.pages {
            let read = read.clone();
            scope.spawn(move || {
                let targets = if page.other { servers.other_pages.as_ref() } else { Some(&servers.targets) };
                let routed = if page.other { None } else { servers.routed.as_deref() };
                let Some(targets) = targets else { return };
                let mut useful = self.read(page, targets, routed, EDGE_TIMEOUT);
                drop(read);
                if useful && !self.stop.wait(INTERVAL) {
                    self.stop.every(INTERVAL, || {
                        useful = self.read(page, targets, routed, TIMEOUT);
                        useful
                    });
                }
                // Once more, so that counters are known after the end, too.
                if useful {
                    self.read(page, targets, routed, EDGE_TIMEOUT);
                }
            });
        }
        drop(read);
        // Nothing is ever sent: it ends when the last thread has let go.
        let _: Result<(), _> = all_read.recv();
        if arguments.output.network_latency_automatic {
            scope.spawn(|| {
                self.stop.every(arguments.output.network_latency_ping_interval, || {
                    for target in 0..servers.targets.count() {
                        if let Ok(time) = servers.targets.round_trip(target, TIMEOUT) {
                            lock(&self.round_trips).record_time(time);
                        }
                    }
                    true
                });
            });
        }
    }

    /// Ends the readings.
    pub(super) fn stop(&self) {
        self.stop.stop();
    }

    /// Reads a page once. False if there is no sense in doing so again.
    fn read(&self, page: &Page, targets: &Targets, routed: Option<&Routed>, timeout: Duration) -> bool {
        // A page's own URL may hold its path; scheme and host bring two slashes.
        let named = page.other && page.name.matches('/').count() > 2;
        let ask = Ask { path: (!named).then_some(PATH), ..Ask::get(PATH, timeout) };
        let reply = ask.send(targets, page.target);
        let at = self.begun.elapsed().unwrap_or_default();
        let mut series = lock(&page.series);
        match reply {
            Ok(reply) if reply.status == 200 => {
                let metrics = EngineMetrics::read(&reply.body);
                if metrics == EngineMetrics::default() {
                    series.fail("no engine's metrics are on it");
                    return false;
                }
                series.push(at, reading(&metrics));
                if let (Some(routed), Some(running), Some(waiting)) =
                    (routed, metrics.running, metrics.waiting)
                {
                    routed.report(
                        page.target,
                        EngineReport { running: running as u64, waiting: waiting as u64 },
                    );
                }
                true
            }
            Ok(reply) => {
                series.fail(format!("status {}", reply.status));
                false
            }
            Err(problem) => {
                series.fail(problem);
                true
            }
        }
    }

    /// The names of the pages: those of the targets first.
    pub(super) fn names(&self) -> Vec<String> {
        self.pages.iter().map(|page| page.name.clone()).collect()
    }

    /// The figures of each page over a window of the run, whose clock started at `started`.
    pub(super) fn figures(&self, started: SystemTime, window: (Duration, Duration)) -> Vec<EngineFigures> {
        let offset = started.duration_since(self.begun).unwrap_or_default();
        let (start, end) = (window.0 + offset, window.1 + offset);
        self.pages.iter().map(|page| lock(&page.series).figures(start, end)).collect()
    }

    /// The readings of each page, with their time since 1970.
    pub(super) fn readings(&self) -> Vec<(String, Vec<(Duration, EngineReading)>)> {
        let epoch = self.begun.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let readings = |page: &Page| {
            lock(&page.series).readings().iter().map(|(at, reading)| (epoch + *at, *reading)).collect()
        };
        self.pages.iter().map(|page| (page.name.clone(), readings(page))).collect()
    }

    /// What went wrong with each page, where something did.
    pub(super) fn problems(&self) -> Vec<String> {
        let problem = |page: &Page| {
            let series = lock(&page.series);
            let problem = series.problem.as_ref()?;
            Some(format!(
                "{}{PATH}: {problem} ({} of {} readings failed)",
                page.name,
                series.failed,
                series.failed + series.readings().len() as u64
            ))
        };
        self.pages.iter().filter_map(problem).collect()
    }

    /// Round trips to the servers.
    pub(super) fn round_trips(&self) -> Distribution {
        lock(&self.round_trips).clone()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn reading(metrics: &EngineMetrics) -> EngineReading {
    EngineReading {
        running: metrics.running,
        waiting: metrics.waiting,
        kv_cache_usage: metrics.kv_cache_usage,
        prefix_queries: metrics.prefix_queries,
        prefix_hits: metrics.prefix_hits,
        preemptions: metrics.preemptions,
        prompt_tokens: metrics.prompt_tokens,
        generation_tokens: metrics.generation_tokens,
        finished: metrics.finished,
    }
}
