//! What today's script works out from all of its answers at once: the peaks of its seconds, and how long requests waited
//! for their slots.

use std::time::Duration;

use crate::{Distribution, Record};

/// What today's script counts by the second, and how long requests waited. Grows by some bytes a request.
#[derive(Clone, Debug, Default)]
pub struct BenchSeconds {
    /// First byte and last event of each answered request.
    spans: Vec<(Duration, Duration)>,
    /// Their events, by the millisecond of the run's clock.
    events: Vec<u32>,
}

impl BenchSeconds {
    /// Adds one request.
    pub fn push(&mut self, record: &Record) {
        let Some(sent) = record.sent.filter(|_| record.outcome.is_success()) else { return };
        self.spans.push((sent, record.last_chunk().unwrap_or(record.done).max(sent)));
        for chunk in &record.chunks {
            let place = milliseconds(chunk.at);
            self.events.resize(self.events.len().max(place + 1), 0);
            self.events[place] += 1;
        }
    }

    /// How long requests that were all due then waited until they were sent.
    pub(super) fn waited_since(&self, due: Duration) -> Distribution {
        let mut waited = Distribution::default();
        self.spans.iter().for_each(|(sent, _)| waited.record_time(sent.saturating_sub(due)));
        waited
    }

    fn first_send(&self) -> Duration {
        self.spans.iter().map(|(sent, _)| *sent).min().unwrap_or_default()
    }

    /// The most events in one second: the script takes each for a token.
    pub(super) fn most_events(&self) -> f64 {
        let after = self.events.get(milliseconds(self.first_send())..).unwrap_or_default();
        after.chunks(1000).map(|second| second.iter().sum::<u32>()).max().unwrap_or(0).into()
    }

    /// The most requests that were under way at any time of one second: more than were ever in flight at once.
    pub(super) fn most_active(&self) -> i64 {
        let first = self.first_send();
        let second = |at: Duration| milliseconds(at - first) / 1000;
        let last = self.spans.iter().map(|(_, end)| second(*end)).max().unwrap_or(0);
        let mut changes = vec![0_i64; last + 2];
        for (sent, end) in &self.spans {
            changes[second(*sent)] += 1;
            changes[second(*end) + 1] -= 1;
        }
        let active = changes.iter().scan(0, |active, change| {
            *active += change;
            Some(*active)
        });
        active.max().unwrap_or(0)
    }
}

fn milliseconds(time: Duration) -> usize {
    usize::try_from(time.as_millis()).unwrap_or(usize::MAX)
}
