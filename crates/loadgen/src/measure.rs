//! What a thread measures about itself: the client's share in the error of every figure.

use std::{fs::File, os::unix::fs::FileExt, time::Duration};

use report::Distribution;

use crate::stolen::StolenTime;

/// Counters of one sending thread.
#[derive(Clone, Debug, Default)]
pub(crate) struct ThreadMeasures {
    /// First byte to the kernel, after the request was due.
    pub(crate) schedule_lag: Distribution,
    /// Start of sending or connecting, after the request was due and admitted: what this process adds.
    pub(crate) dispatch_lag: Distribution,
    /// How late the loop came to a regular appointment.
    pub(crate) loop_stall: Distribution,
    /// How long output events had been in the kernel when they were read.
    pub(crate) receive_lag: Distribution,
    pub(crate) opened: u64,
    pub(crate) reused: u64,
    pub(crate) resent: u64,
    pub(crate) reads: u64,
    pub(crate) payload_reads: u64,
    pub(crate) bunched_reads: u64,
    pub(crate) payload_events: u64,
    pub(crate) sink_stall: Duration,
    pub(crate) usage: CpuUsage,
}

impl ThreadMeasures {
    pub(crate) fn merge(&mut self, other: &Self) {
        self.schedule_lag.merge(&other.schedule_lag);
        self.dispatch_lag.merge(&other.dispatch_lag);
        self.loop_stall.merge(&other.loop_stall);
        self.receive_lag.merge(&other.receive_lag);
        self.opened += other.opened;
        self.reused += other.reused;
        self.resent += other.resent;
        self.reads += other.reads;
        self.payload_reads += other.payload_reads;
        self.bunched_reads += other.bunched_reads;
        self.payload_events += other.payload_events;
        self.sink_stall += other.sink_stall;
    }

    /// One read has completed `events` output events.
    pub(crate) fn count_read(&mut self, events: usize) {
        self.reads += 1;
        self.payload_reads += u64::from(events > 0);
        self.bunched_reads += u64::from(events > 1);
        self.payload_events += events as u64;
    }
}

/// What the calling thread has had of the processors, by the kernel's scheduler statistics.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct CpuUsage {
    pub(crate) running: Duration,
    /// Ready to run, but another thread had the processor.
    pub(crate) waiting: Duration,
}

impl CpuUsage {
    /// Reads the figures of the calling thread; `None` where the kernel does not keep them.
    pub(crate) fn of_this_thread() -> Option<Self> {
        Self::parse(&std::fs::read_to_string("/proc/thread-self/schedstat").ok()?)
    }

    fn parse(text: &str) -> Option<Self> {
        let mut nanoseconds = text.split_whitespace().map(|word| word.parse().ok().map(Duration::from_nanos));
        Some(Self { running: nanoseconds.next()??, waiting: nanoseconds.next()?? })
    }

    pub(crate) fn since(self, earlier: Self) -> Self {
        Self {
            running: self.running.saturating_sub(earlier.running),
            waiting: self.waiting.saturating_sub(earlier.waiting),
        }
    }
}

/// Tells how much of a lateness is due to others: programs and threads that had the processor while this one was ready
/// to run, and other guests of the host, to which it gave the processor itself. Looked at when something is late; the
/// comparison is with the last but one [`mark`](Self::mark).
#[derive(Debug, Default)]
pub(crate) struct CoreWatch {
    statistics: Option<File>,
    stolen: Option<StolenTime>,
    marks: [Duration; 2],
}

impl CoreWatch {
    /// Latenesses below this are not looked into.
    const LATE: Duration = Duration::from_micros(200);

    /// Of the calling thread.
    pub(crate) fn of_this_thread() -> Self {
        Self {
            statistics: File::open("/proc/thread-self/schedstat").ok(),
            stolen: StolenTime::watch(),
            marks: [Duration::ZERO; 2],
        }
    }

    /// To be called every few milliseconds.
    pub(crate) fn mark(&mut self) {
        self.marks = [self.marks[1], self.missed()];
    }

    /// How much of a lateness that ends now is due to others, at most.
    pub(crate) fn waited_of(&self, late: Duration) -> Duration {
        if late < Self::LATE {
            return Duration::ZERO;
        }
        self.missed().saturating_sub(self.marks[0]).min(late)
    }

    /// Time without a processor, since the thread and the machine began.
    fn missed(&self) -> Duration {
        self.waited() + self.stolen.as_ref().map_or(Duration::ZERO, StolenTime::read)
    }

    fn waited(&self) -> Duration {
        let mut text = [0; 96];
        let read = self.statistics.as_ref().and_then(|file| file.read_at(&mut text, 0).ok());
        let text = read.and_then(|bytes| std::str::from_utf8(&text[..bytes]).ok());
        text.and_then(CpuUsage::parse).map_or(Duration::ZERO, |usage| usage.waiting)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_with_several_events_are_counted_apart() {
        let mut measures = ThreadMeasures::default();
        for events in [0, 1, 3] {
            measures.count_read(events);
        }
        let mut total = ThreadMeasures::default();
        total.merge(&measures);
        total.merge(&measures);
        let ThreadMeasures { reads, payload_reads, bunched_reads, payload_events, .. } = total;
        assert_eq!((reads, payload_reads, bunched_reads, payload_events), (6, 4, 2, 8));
    }

    #[test]
    fn the_kernels_figures_are_nanoseconds() {
        let usage = CpuUsage::parse("1500000000 250 7\n").unwrap();
        assert_eq!(usage.running, Duration::from_millis(1500));
        assert_eq!(usage.waiting, Duration::from_nanos(250));
        assert_eq!(CpuUsage::parse("1 x"), None);
        assert_eq!(CpuUsage::parse(""), None);
    }

    #[test]
    fn no_more_than_the_lateness_is_laid_at_the_door_of_others() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(&file, "9 5000000 1\n").unwrap();
        let mut watch = CoreWatch { statistics: Some(File::open(&file).unwrap()), ..CoreWatch::default() };
        let ms = Duration::from_millis;
        assert_eq!([watch.waited_of(ms(3)), watch.waited_of(ms(9))], [ms(3), ms(5)]);
        watch.mark();
        assert_eq!(watch.waited_of(ms(9)), ms(5), "one mark ago");
        watch.mark();
        assert_eq!(watch.waited_of(ms(9)), Duration::ZERO, "long ago");
        assert_eq!(CoreWatch::default().waited_of(ms(9)), Duration::ZERO);
    }
}
