//! What the servers' metrics pages say during the run, and how far away the servers are.

use std::{
    sync::{Mutex, PoisonError},
    thread::Scope,
    time::Duration,
};

use loadgen::{Pages, Stop};
use protocol::EngineMetrics;
use report::{Distribution, EnginePages};
use routing::EngineReport;

use super::{Arguments, targets::Servers};

/// Time between two readings of a page.
const INTERVAL: Duration = Duration::from_millis(333);
/// Time for a round trip.
const TIMEOUT: Duration = Duration::from_secs(3);

/// The pages while the run goes on.
#[derive(Debug)]
pub(super) struct Engines<'a> {
    servers: &'a Servers,
    pages: Pages<'a>,
    round_trips: Mutex<Distribution>,
    stop: Stop,
}

impl<'a> Engines<'a> {
    /// Nothing is read yet. Times count from now.
    pub(super) fn new(arguments: &Arguments, servers: &'a Servers) -> Self {
        let pages = match arguments.output.no_server_metrics {
            true => Pages::new(None, None),
            false => Pages::new(Some(&servers.targets), servers.other_pages.as_ref()),
        };
        Self { servers, pages, round_trips: Mutex::default(), stop: Stop::default() }
    }

    /// Reads until [`stop`](Self::stop) is called. Returns when every page has been read once, or has not answered in
    /// a moment.
    pub(super) fn watch<'scope>(
        &'scope self,
        scope: &'scope Scope<'scope, '_>,
        arguments: &'scope Arguments,
    ) {
        self.pages.watch(scope, &self.stop, INTERVAL, |target, engine| self.report(target, engine));
        if arguments.output.network_latency_automatic {
            let targets = &self.servers.targets;
            scope.spawn(move || {
                self.stop.every(arguments.output.network_latency_ping_interval, || {
                    for target in 0..targets.count() {
                        if let Ok(time) = targets.round_trip(target, TIMEOUT) {
                            let mut times = self.round_trips.lock().unwrap_or_else(PoisonError::into_inner);
                            times.record_time(time);
                        }
                    }
                    true
                });
            });
        }
    }

    /// Reads all pages while nothing is under way, so that what comes next is told from what was before.
    pub(super) fn between_phases(&self) {
        self.pages.read_edge(|target, engine| self.report(target, engine));
    }

    /// Tells the balancing what an engine says of itself.
    fn report(&self, target: u16, engine: &EngineMetrics) {
        let routed = self.servers.routed.as_deref();
        if let (Some(routed), Some(running), Some(waiting)) = (routed, engine.running, engine.waiting) {
            routed.report(target, EngineReport::new(running as u64, waiting as u64, engine.kv_cache_usage));
        }
    }

    /// Ends the readings.
    pub(super) fn stop(&self) {
        self.stop.stop();
    }

    /// What was read, when nothing reads any more; and the round trips.
    pub(super) fn finish(self) -> (EnginePages, Distribution) {
        (self.pages.finish(), self.round_trips.into_inner().unwrap_or_else(PoisonError::into_inner))
    }
}
