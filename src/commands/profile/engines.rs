//! What the servers' metrics pages say during the run, and how far away the servers are.
//!
//! A thread a URL reads its page three times a second. A page that does not exist is asked for once only; one that
//! fails is asked for again. Times are those of the wall clock, brought to the run's clock at the end.

use std::{
    sync::{Mutex, MutexGuard, PoisonError, mpsc::channel},
    thread::Scope,
    time::{Duration, Instant, SystemTime},
};

use loadgen::{Ask, Routed, Stop, Targets};
use report::{Distribution, EngineFigures, EngineSeries};
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
/// Numbers kept of all pages together, and of one at most: eight bytes each.
const ROOM: usize = 1 << 23;
const PAGE_ROOM: usize = 1 << 21;

/// What was read of the pages of a run, and the distance of its servers.
#[derive(Debug)]
pub(super) struct Pages {
    /// Base URLs of the targets, then the URLs of further pages.
    pub(super) names: Vec<String>,
    pub(super) series: Vec<EngineSeries>,
    /// Wall-clock time from which their times count.
    pub(super) begun: SystemTime,
    pub(super) round_trips: Distribution,
}

/// The pages while the run goes on.
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
            let room = (ROOM / pages.len().max(1)).min(PAGE_ROOM);
            pages.iter_mut().for_each(|page| page.series = Mutex::new(EngineSeries::with_room(room)));
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
        let asked = Instant::now();
        let reply = ask.send(targets, page.target);
        let (at, latency) = (self.begun.elapsed().unwrap_or_default(), asked.elapsed());
        let mut series = lock(&page.series);
        match reply {
            Ok(reply) if reply.status == 200 => {
                let Some(metrics) = series.push(at, latency, &reply.body) else { return false };
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

    /// What was read, when nothing reads any more.
    pub(super) fn into_pages(self) -> Pages {
        let inner =
            |page: Page| (page.name, page.series.into_inner().unwrap_or_else(PoisonError::into_inner));
        let (names, series) = self.pages.into_iter().map(inner).unzip();
        let round_trips = self.round_trips.into_inner().unwrap_or_else(PoisonError::into_inner);
        Pages { names, series, begun: self.begun, round_trips }
    }
}

impl Pages {
    /// A window of the run, whose clock started at `started`, on the clock of the pages.
    pub(super) fn window(
        &self,
        started: SystemTime,
        (start, end): (Duration, Duration),
    ) -> (Duration, Duration) {
        let offset = started.duration_since(self.begun).unwrap_or_default();
        (start + offset, end + offset)
    }

    /// The figures of each page over a window on their own clock.
    pub(super) fn figures(&self, (start, end): (Duration, Duration)) -> Vec<EngineFigures> {
        self.series.iter().map(|series| series.figures(start, end)).collect()
    }

    /// What went wrong with each page, where something did.
    pub(super) fn problems(&self) -> Vec<String> {
        let problem = |(name, series): (&String, &EngineSeries)| {
            let problem = series.problem.as_ref()?;
            Some(format!(
                "{name}{PATH}: {problem} ({} of {} readings failed)",
                series.failed,
                series.failed + series.fetches.count
            ))
        };
        self.names.iter().zip(&self.series).filter_map(problem).collect()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
