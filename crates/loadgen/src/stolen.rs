//! CPU time that the host of a virtual machine gave to others while this machine had work for it ("steal" in
//! `/proc/stat`). Nothing here can mend it, and no clock of this process shows it: a thread just wakes up late.

use std::{
    fs::File,
    os::unix::fs::FileExt,
    time::{Duration, Instant},
};

use rustix::param::clock_ticks_per_second;

/// The machine's counter of stolen time.
#[derive(Debug)]
pub(crate) struct StolenTime {
    statistics: File,
}

/// What was stolen in some time.
#[derive(Debug)]
pub(crate) struct StolenShare {
    counter: Option<StolenTime>,
    before: Duration,
    since: Instant,
}

impl StolenTime {
    /// `None` where the kernel does not count it, or nothing was ever stolen since it started: this machine has
    /// its processors to itself, and need not be watched.
    pub(crate) fn watch() -> Option<Self> {
        let counter = Self { statistics: File::open("/proc/stat").ok()? };
        (counter.read() > Duration::ZERO).then_some(counter)
    }

    /// Of all processors together, since the machine started; to a clock tick, 10 ms as a rule.
    pub(crate) fn read(&self) -> Duration {
        let mut text = [0; 256];
        let read = self.statistics.read_at(&mut text, 0).ok();
        let ticks = read.and_then(|bytes| parse(std::str::from_utf8(&text[..bytes]).ok()?));
        Duration::from_secs_f64(ticks.unwrap_or(0) as f64 / clock_ticks_per_second() as f64)
    }
}

/// The eighth figure of the first line.
fn parse(text: &str) -> Option<u64> {
    let mut words = text.lines().next()?.strip_prefix("cpu ")?.split_whitespace();
    words.nth(7)?.parse().ok()
}

impl StolenShare {
    /// From now on.
    pub(crate) fn from_now() -> Self {
        let counter = StolenTime::watch();
        Self {
            before: counter.as_ref().map_or(Duration::ZERO, StolenTime::read),
            counter,
            since: Instant::now(),
        }
    }

    /// Of all processors' time until now; `None` where it is not known to happen.
    pub(crate) fn until_now(&self) -> Option<f64> {
        let stolen = self.counter.as_ref()?.read().saturating_sub(self.before);
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        Some(stolen.as_secs_f64() / (self.since.elapsed().as_secs_f64() * processors as f64))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stolen_time_is_the_eighth_figure() {
        let text =
            "cpu  2549055 2153010 406817 1320614 19528 0 74027 488032 0 0\ncpu0 1 2 3 4 5 6 7 8 9 10\n";
        assert_eq!(parse(text), Some(488_032));
        assert_eq!(parse("cpu  1 2 3 4"), None, "an old kernel");
        assert_eq!(parse("intr 1 2 3 4 5 6 7 8 9"), None);
        assert_eq!(parse(""), None);
    }

    #[test]
    fn a_share_lies_between_none_and_all() {
        let share = StolenShare::from_now();
        let until = Instant::now() + Duration::from_millis(50);
        while Instant::now() < until {}
        // A tick of rounding may be more than this short time.
        assert!(share.until_now().is_none_or(|share| (0.0..2.0).contains(&share)), "{share:?}");
    }
}
