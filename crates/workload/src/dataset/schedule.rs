//! Replays a dataset by its own times.

use std::time::Duration;

use super::{Dataset, Entry};
use crate::{Arrival, Error, Session};

/// Which part of a trace is replayed, and how fast.
#[derive(Clone, Copy, Debug)]
pub struct Schedule {
    /// The first entry starts at once, whatever its time. Without effect if `start` is given.
    pub from_first: bool,
    /// What comes before this time is left out, and it becomes time 0. A session starts with its first turn from then
    /// on.
    pub start: Option<Duration>,
    /// Entries and turns after this time are left out.
    pub end: Option<Duration>,
    /// Times and delays are divided by this.
    pub speed_up: f64,
}

impl Default for Schedule {
    fn default() -> Self {
        Self { from_first: false, start: None, end: None, speed_up: 1.0 }
    }
}

impl Dataset {
    /// The arrivals, in order of time. A session's id is its entry's place in the file.
    pub fn schedule(self, schedule: &Schedule) -> Result<Vec<Arrival>, Error> {
        let speed_up = schedule.speed_up;
        if !(1e-6..=1e6).contains(&speed_up) {
            return Err(Error::Setting(format!("a speed-up of {speed_up}: give a number from 1e-6 to 1e6")));
        }
        let first = self.entries.iter().filter_map(|entry| entry.at).min().unwrap_or_default();
        let zero = schedule.start.unwrap_or(if schedule.from_first { first } else { Duration::ZERO });
        let end = schedule.end.unwrap_or(Duration::MAX);
        let scaled = |time: Duration| time.div_f64(speed_up);
        let mut arrivals = Vec::with_capacity(self.entries.len());
        for (id, Entry { at, mut turns }) in (0..).zip(self.entries) {
            let Some(at) = at else {
                return Err(Error::Setting(format!(
                    "entry {id} has no timestamp; a schedule needs them all"
                )));
            };
            let mut times = std::iter::once(Some(at)).chain(turns.iter().skip(1).map(|turn| turn.not_before));
            let first = times.position(|time| time.is_some_and(|time| (zero..=end).contains(&time)));
            let Some(first) = first else { continue };
            turns.drain(..first);
            let at = if first == 0 { at } else { turns[0].not_before.take().unwrap_or(at) };
            let over = turns.iter().position(|turn| turn.not_before.is_some_and(|time| time > end));
            turns.truncate(over.unwrap_or(turns.len()));
            for turn in &mut turns {
                turn.delay = scaled(turn.delay);
                turn.not_before = turn.not_before.map(|time| scaled(time.saturating_sub(zero)));
            }
            arrivals.push(Arrival { at: scaled(at - zero), session: Session { id, turns, target: None } });
        }
        if arrivals.is_empty() {
            return Err(Error::Setting("no entry starts in the part of the trace that was asked for".into()));
        }
        arrivals.sort_by_key(|arrival| arrival.at);
        Ok(arrivals)
    }
}

#[cfg(test)]
mod tests {
    use protocol::Endpoint;

    use super::*;
    use crate::{Prompt, Request, Turn};

    fn ms(milliseconds: u64) -> Duration {
        Duration::from_millis(milliseconds)
    }

    /// Entries at 3, 1 and 2 s; the one at 1 s goes on at 4 s, and 0.5 s after the answer to that.
    fn dataset() -> Dataset {
        let turn = || Turn::from(Request::new(Endpoint::Completions, "m", Prompt::Text("x".into())));
        let entry = |at| Entry { at: Some(ms(at)), turns: vec![turn()] };
        let mut entries = vec![entry(3000), entry(1000), entry(2000)];
        entries[1].turns.push(Turn { not_before: Some(ms(4000)), ..turn() });
        entries[1].turns.push(Turn { delay: ms(500), ..turn() });
        Dataset { entries }
    }

    fn starts(schedule: &Schedule) -> Vec<(u64, u128, usize)> {
        let arrivals = dataset().schedule(schedule).unwrap();
        let start =
            |arrival: &Arrival| (arrival.session.id, arrival.at.as_millis(), arrival.session.turns.len());
        arrivals.iter().map(start).collect()
    }

    #[test]
    fn entries_come_in_order_of_time() {
        assert_eq!(starts(&Schedule::default()), [(1, 1000, 3), (2, 2000, 1), (0, 3000, 1)]);
        let from_first = Schedule { from_first: true, ..Schedule::default() };
        assert_eq!(starts(&from_first), [(1, 0, 3), (2, 1000, 1), (0, 2000, 1)]);
    }

    #[test]
    fn a_window_cuts_entries_and_turns() {
        let window = Schedule { start: Some(ms(2000)), end: Some(ms(3000)), ..Schedule::default() };
        assert_eq!(starts(&window), [(2, 0, 1), (0, 1000, 1)]);
        let late = Schedule { start: Some(ms(2500)), ..Schedule::default() };
        assert_eq!(starts(&late), [(0, 500, 1), (1, 1500, 2)], "the first turn of the second is before");
        let none = Schedule { start: Some(ms(1500)), end: Some(ms(3500)), ..Schedule::default() };
        assert_eq!(starts(&none), [(2, 500, 1), (0, 1500, 1)]);
        let end = Schedule { end: Some(ms(2000)), ..Schedule::default() };
        assert_eq!(starts(&end), [(1, 1000, 1), (2, 2000, 1)]);
        assert!(dataset().schedule(&Schedule { start: Some(ms(9000)), ..Schedule::default() }).is_err());
    }

    #[test]
    fn speed_up_divides_all_times() {
        let arrivals =
            dataset().schedule(&Schedule { from_first: true, speed_up: 2.0, ..Schedule::default() }).unwrap();
        assert_eq!(arrivals.iter().map(|arrival| arrival.at).collect::<Vec<_>>(), [ms(0), ms(500), ms(1000)]);
        let turns = &arrivals[0].session.turns;
        assert_eq!((turns[1].not_before, turns[2].delay), (Some(ms(1500)), ms(250)));
        for speed_up in [0.0, -1.0, f64::NAN] {
            assert!(dataset().schedule(&Schedule { speed_up, ..Schedule::default() }).is_err());
        }
    }

    #[test]
    fn a_schedule_needs_all_times() {
        let mut dataset = dataset();
        dataset.entries[2].at = None;
        assert!(!dataset.has_times());
        assert!(
            dataset
                .schedule(&Schedule::default())
                .unwrap_err()
                .to_string()
                .contains("entry 2 has no timestamp")
        );
    }
}
