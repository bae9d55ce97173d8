//! The metrics pages of servers, read now and then beside a run.
//!
//! A thread a page reads it at an interval, and at both edges of what is watched, so that counters are known before
//! the first request and after the last; [`Pages::read_edge`] does so between two phases. A page that is not found at
//! the first time of asking is asked for once only; one that fails is asked for again. Times are those of a monotonic
//! clock; the wall-clock time of its zero goes with them.

use std::{
    sync::mpsc::channel,
    thread::{self, Scope},
    time::{Duration, Instant, SystemTime},
};

use parking_lot::Mutex;
use protocol::EngineMetrics;
use report::{EnginePages, EngineSeries};

use crate::{Ask, AskPath, Stop, Targets};

/// Time for a page; the run waits for the first one.
const TIMEOUT: Duration = Duration::from_secs(3);
/// Pages may be a step behind the last answer.
const SETTLE: Duration = Duration::from_millis(100);
const PATH: &str = "/metrics";
/// Statuses of a server that has no such page.
const NOT_THERE: [u16; 2] = [404, 405];
/// More pages than this are not watched: a thread each would be too many.
const MOST_PAGES: usize = 256;
/// Numbers kept of all pages together, and of one at most: eight bytes each.
const ROOM: usize = 1 << 23;
const PAGE_ROOM: usize = 1 << 21;

/// The pages of a run's servers.
#[derive(Debug)]
pub struct Pages<'a> {
    begun: Instant,
    begun_at: SystemTime,
    pages: Vec<Page<'a>>,
}

#[derive(Debug)]
struct Page<'a> {
    name: String,
    /// What is asked for.
    url: String,
    targets: &'a Targets,
    target: u16,
    /// It is no target of the run.
    other: bool,
    series: Mutex<EngineSeries>,
}

impl<'a> Pages<'a> {
    /// The pages of the targets, and others by their own URLs. Nothing is read yet. Times count from now.
    pub fn new(targets: Option<&'a Targets>, others: Option<&'a Targets>) -> Self {
        let of = |targets: Option<&'a Targets>, other: bool| {
            let named = targets.into_iter().flat_map(|targets| {
                (0..).zip(targets.names()).map(move |(target, name)| (targets, target, name.to_string()))
            });
            named.map(move |(targets, target, name)| {
                // A page's own URL may hold its path; scheme and host bring two slashes.
                let has_path = other && name.matches('/').count() > 2;
                let url = if has_path { name.clone() } else { format!("{name}{PATH}") };
                Page { name, url, targets, target, other, series: Mutex::default() }
            })
        };
        let mut pages: Vec<Page<'a>> = of(targets, false).chain(of(others, true)).take(MOST_PAGES).collect();
        let room = (ROOM / pages.len().max(1)).min(PAGE_ROOM);
        pages.iter_mut().for_each(|page| page.series = Mutex::new(EngineSeries::with_room(room)));
        Self { begun: Instant::now(), begun_at: SystemTime::now(), pages }
    }

    /// Reads until it is stopped, and once more then. Returns when every page has been read once, or has not answered
    /// in a moment. `seen` is told the index of a target and what its engine says.
    pub fn watch<'scope>(
        &'scope self,
        scope: &'scope Scope<'scope, '_>,
        stop: &'scope Stop,
        interval: Duration,
        seen: impl Fn(u16, &EngineMetrics) + Copy + Send + 'scope,
    ) {
        let (read, all_read) = channel::<()>();
        for page in &self.pages {
            let read = read.clone();
            scope.spawn(move || {
                let mut useful = self.read(page, seen, true);
                drop(read);
                if useful && !stop.wait(interval) {
                    stop.every(interval, || {
                        useful = self.read(page, seen, false);
                        useful
                    });
                }
                if useful {
                    thread::sleep(SETTLE);
                    self.read(page, seen, true);
                }
            });
        }
        drop(read);
        // Nothing is ever sent: it ends when the last thread has let go.
        let _: Result<(), _> = all_read.recv();
    }

    /// Reads every page that has ever answered, when those that are a step behind have come up to the last answer.
    /// Returns when all have been read. Nothing may be under way meanwhile.
    pub fn read_edge(&self, seen: impl Fn(u16, &EngineMetrics) + Copy + Send) {
        let known: Vec<_> = self.pages.iter().filter(|page| page.series.lock().fetches.count > 0).collect();
        if known.is_empty() {
            return;
        }
        thread::sleep(SETTLE);
        thread::scope(|scope| {
            for page in known {
                scope.spawn(move || self.read(page, seen, true));
            }
        });
    }

    /// Reads a page once. False if there is no sense in doing so again.
    fn read(&self, page: &Page<'_>, seen: impl Fn(u16, &EngineMetrics), edge: bool) -> bool {
        let path = if page.url == page.name { AskPath::Given } else { AskPath::Below(PATH) };
        let ask = Ask { path, ..Ask::get(PATH, TIMEOUT) };
        let asked = Instant::now();
        let reply = ask.send(page.targets, page.target);
        let (at, latency) = (self.begun.elapsed(), asked.elapsed());
        let mut series = page.series.lock();
        match reply {
            Ok(reply) if reply.status == 200 => {
                let metrics = match edge {
                    true => series.push_edge(at, latency, &reply.body),
                    false => series.push(at, latency, &reply.body),
                };
                if let Some(metrics) = metrics.filter(|_| !page.other) {
                    seen(page.target, &metrics);
                }
                true
            }
            Ok(reply) => {
                series.fail(format!("status {}", reply.status));
                let is_missing = NOT_THERE.contains(&reply.status);
                !is_missing || series.fetches.count > 0
            }
            Err(problem) => {
                series.fail(problem);
                true
            }
        }
    }

    /// What was read, when nothing reads any more.
    pub fn finish(self) -> EnginePages {
        let mut read =
            EnginePages { names: Vec::new(), urls: Vec::new(), series: Vec::new(), begun: self.begun_at };
        for page in self.pages {
            read.names.push(page.name);
            read.urls.push(page.url);
            read.series.push(page.series.into_inner());
        }
        read
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io::{BufRead, BufReader, Write},
        net::TcpListener,
        sync::atomic::{AtomicU64, Ordering::Relaxed},
    };

    use super::*;

    /// A server whose counter is one more with each reading; other paths than `/metrics` are not found, and its second
    /// reading and every fourth after it fail.
    fn server() -> String {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        thread::spawn(move || {
            let mut count = 0;
            for socket in listener.incoming() {
                let mut reader = BufReader::new(socket.unwrap());
                let (mut first, mut line) = (String::new(), String::new());
                reader.read_line(&mut first).unwrap();
                while reader.read_line(&mut line).is_ok_and(|read| read > 2) {
                    line.clear();
                }
                let is_page = first.contains(" /metrics ");
                count += u64::from(is_page);
                let (status, body) = match (is_page, count % 4) {
                    (true, 2) => ("503 Service Unavailable", String::new()),
                    (true, _) => ("200 OK", format!("# TYPE n counter\nn_total {count}\n")),
                    (false, _) => ("404 Not Found", String::new()),
                };
                let length = body.len();
                let answer = format!("HTTP/1.1 {status}\r\nContent-Length: {length}\r\n\r\n{body}");
                reader.into_inner().write_all(answer.as_bytes()).unwrap();
            }
        });
        url
    }

    #[test]
    fn pages_are_read_before_and_during_until_they_are_stopped() {
        let targets = Targets::resolve([server()]).unwrap();
        let others = Targets::resolve([server() + "/elsewhere", server() + "/metrics"]).unwrap();
        let pages = Pages::new(Some(&targets), Some(&others));
        let (readings, stop) = (AtomicU64::new(0), Stop::default());
        let seen = |target, _: &EngineMetrics| {
            readings.fetch_add(u64::from(target == 0), Relaxed);
        };
        thread::scope(|scope| {
            pages.watch(scope, &stop, Duration::from_millis(1), seen);
            let until = Instant::now() + Duration::from_secs(60);
            while readings.load(Relaxed) < 3 && Instant::now() < until {
                thread::sleep(Duration::from_millis(5));
            }
            stop.stop();
        });
        let read = pages.finish();
        let [page, missing, named] = read.series.as_slice() else { panic!("{:?}", read.names) };
        assert!(
            page.fetches.count >= 3 && page.fetches.count == readings.load(Relaxed),
            "{:?}",
            page.fetches
        );
        assert_eq!(page.fetches.updates, page.fetches.count, "each with another number");
        assert!(page.failed >= 1, "one that failed was asked for again");
        assert_eq!((missing.fetches.count, missing.failed), (0, 1), "one that is not there was not");
        assert!(named.fetches.count >= 1);
        let problems = read.problems();
        assert!(problems[0].contains("/metrics: status 503 ("), "{problems:?}");
        assert!(problems[1].contains("/elsewhere: status 404 (1 of 1 "), "{problems:?}");
        assert!(read.urls[2].ends_with("/metrics") && !read.urls[2].contains("/metrics/"), "{:?}", read.urls);
    }
}
