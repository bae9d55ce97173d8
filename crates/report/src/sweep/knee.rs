//! Brackets the capacity from both sides, narrows the bracket, and looks again.

use super::{Found, Probe, Says};

/// Length of a probe, in seconds; and of the first ones, while the rate is far below the capacity.
const PROBE_S: u64 = 4;
const SHORT_PROBE_S: u64 = 2;
/// Rate of the first probe.
const FIRST_RATE: f64 = 4.0;
/// No probe is faster.
const LARGEST_RATE: f64 = 200_000.0;
/// A probe has this many requests at least, if that takes no longer than this.
const REQUESTS: f64 = 100.0;
const LONGEST_PROBE_S: u64 = 20;
/// How far past the knee it looks.
const PAST: f64 = 1.25;
/// Width of the bracket at which the search ends.
const NARROW: f64 = 1.04;
/// Probes at most; and of one rate, as long as they are disturbed or contradict each other.
const PROBES: usize = 60;
const TRIES: usize = 4;

struct Search<P, T> {
    probe: P,
    in_time: T,
    probes: Vec<Probe>,
    /// The highest rate that was kept up with.
    low: f64,
}

/// What is known of the server at a rate. Where this side cannot tell there is none.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Server {
    KeepsUp,
    FallsBehind,
}

/// Looks for the knee, with `probe(rate, seconds)` to send what it wants to know and to judge it, as long as it is
/// `in_time`. Nothing if probes or time ran out before the server fell behind.
///
/// # Errors
/// Those of `probe`.
pub fn find_knee<E>(
    probe: impl FnMut(f64, u64) -> Result<Probe, E>,
    in_time: impl Fn() -> bool,
) -> Result<Option<Found>, E> {
    Search { probe, in_time, probes: Vec::new(), low: 0.0 }.find()
}

impl<E, P: FnMut(f64, u64) -> Result<Probe, E>, T: Fn() -> bool> Search<P, T> {
    fn find(mut self) -> Result<Option<Found>, E> {
        loop {
            let Some(high) = self.bracket()? else { return Ok(self.client_limited()) };
            let Some(high) = self.narrow(high)? else { return Ok(self.client_limited()) };
            let Some(past) = self.look_past(high)? else { continue };
            let overload = past.iter().sum::<f64>() / past.len() as f64;
            let bounds = [self.low, high].into_iter().chain(past);
            let spread = bounds
                .fold((f64::INFINITY, 0.0_f64), |(least, most), rate| (least.min(rate), most.max(rate)));
            return Ok(Some(Found {
                // Between what it held and what it did not hold, by what it answered when it was overloaded.
                rate: overload.clamp(self.low, high),
                spread: Some(spread),
                client_limited: false,
                probes: self.probes,
            }));
        }
    }

    /// Doubles the rate until the server falls behind. None if this side gives up first.
    fn bracket(&mut self) -> Result<Option<f64>, E> {
        let mut rate = (self.low * 2.0).max(FIRST_RATE);
        while self.low < LARGEST_RATE && self.may_go_on() {
            match self.probe_surely(rate, SHORT_PROBE_S)? {
                Some(Server::KeepsUp) => self.low = rate,
                Some(Server::FallsBehind) => return Ok(Some(rate)),
                None => return Ok(None),
            }
            rate = (rate * 2.0).min(LARGEST_RATE);
        }
        Ok(None)
    }

    /// Brings both ends of the bracket together.
    fn narrow(&mut self, mut high: f64) -> Result<Option<f64>, E> {
        // What an overloaded server answers is near its capacity: the bracket shrinks to that, if it holds.
        let estimate = self.probes.last().map_or(high, |probe| probe.answered);
        let mut guesses = [estimate * 1.03, estimate * 0.97].into_iter();
        while high / self.low.max(FIRST_RATE / 2.0) > NARROW && self.may_go_on() {
            let middle = if self.low > 0.0 { (self.low * high).sqrt() } else { high / 2.0 };
            let rate = guesses.find(|guess| self.low < *guess && *guess < high).unwrap_or(middle);
            match self.probe_surely(rate, PROBE_S)? {
                Some(Server::KeepsUp) => self.low = rate,
                Some(Server::FallsBehind) => high = rate,
                None => return Ok(None),
            }
        }
        Ok(Some(high))
    }

    /// What the server answers past the knee, twice. None if it keeps up there: then the bracket was wrong.
    fn look_past(&mut self, high: f64) -> Result<Option<[f64; 2]>, E> {
        let mut answered = [0.0; 2];
        for answered in &mut answered {
            if self.probe_quietly(high * PAST, PROBE_S)? == Some(Server::KeepsUp) && self.may_go_on() {
                self.low = high * PAST;
                return Ok(None);
            }
            *answered = self.probes.last().map_or(0.0, |probe| probe.answered);
        }
        Ok(Some(answered))
    }

    /// A pause of this machine can look like a server that falls behind, or like a side that is too slow, once.
    fn probe_surely(&mut self, rate: f64, seconds: u64) -> Result<Option<Server>, E> {
        let mut last = self.probe_quietly(rate, seconds)?;
        for _ in 0..TRIES {
            if last == Some(Server::KeepsUp) || !self.may_go_on() {
                break;
            }
            let says = self.probe_quietly(rate, seconds)?;
            if says == last {
                break;
            }
            last = says;
        }
        Ok(last)
    }

    /// Repeats a probe that was disturbed. If all are, this side cannot tell.
    fn probe_quietly(&mut self, rate: f64, seconds: u64) -> Result<Option<Server>, E> {
        for _ in 0..TRIES {
            match self.probe(rate, seconds)? {
                Says::KeepsUp => return Ok(Some(Server::KeepsUp)),
                Says::FallsBehind => return Ok(Some(Server::FallsBehind)),
                Says::Disturbed if self.may_go_on() => {}
                Says::Disturbed | Says::ClientLimited => break,
            }
        }
        Ok(None)
    }

    fn may_go_on(&self) -> bool {
        self.probes.len() < PROBES && (self.in_time)()
    }

    /// The highest rate that was held; or what this side managed, if none was.
    fn client_limited(self) -> Option<Found> {
        if !self.may_go_on() {
            return None;
        }
        let managed = self.probes.iter().map(|probe| probe.sent).fold(1.0, f64::max);
        let rate = if self.low > 0.0 { self.low } else { managed };
        Some(Found { rate, spread: None, client_limited: true, probes: self.probes })
    }

    fn probe(&mut self, rate: f64, seconds: u64) -> Result<Says, E> {
        // Few requests say little: slow rates are probed for longer, once the bracket is known.
        let wanted = if seconds == SHORT_PROBE_S { REQUESTS / 6.0 } else { REQUESTS };
        let seconds = seconds.max(((wanted / rate).ceil() as u64).min(LONGEST_PROBE_S));
        let probe = (self.probe)(rate, seconds)?;
        let says = probe.says.unwrap_or(Says::ClientLimited);
        self.probes.push(probe);
        Ok(says)
    }
}

#[cfg(test)]
mod tests {
    use std::{convert::Infallible, time::Duration};

    use super::*;

    /// What a server of this capacity makes of a probe; `client` is what this side can send.
    fn served(rate: f64, capacity: f64, client: f64) -> Probe {
        let says = match () {
            () if rate > client => Says::ClientLimited,
            () if rate > capacity => Says::FallsBehind,
            () => Says::KeepsUp,
        };
        Probe {
            asked: rate,
            sent: rate.min(client),
            answered: rate.min(capacity),
            median_latency: Duration::ZERO,
            says: Some(says),
        }
    }

    fn found(mut probe: impl FnMut(f64) -> Probe) -> Option<Found> {
        let carried_out = |rate, _| -> Result<Probe, Infallible> { Ok(probe(rate)) };
        match find_knee(carried_out, || true) {
            Ok(found) => found,
            Err(never) => match never {},
        }
    }

    #[test]
    fn a_capacity_is_found_whatever_it_is() {
        for capacity in [1.0, 3.0, 53.3, 160.0, 997.0, 41_234.0] {
            let found = found(|rate| served(rate, capacity, f64::INFINITY)).unwrap();
            assert!((found.rate / capacity - 1.0).abs() < 0.04, "{} of {capacity}", found.rate);
            let (low, high) = found.spread.unwrap();
            assert!(low <= capacity && capacity <= high && !found.client_limited, "{low} to {high}");
            assert!(found.probes.len() <= 30, "{} probes", found.probes.len());
        }
    }

    #[test]
    fn no_capacity_is_claimed_where_this_side_ends_first() {
        let found = found(|rate| served(rate, 50_000.0, 3000.0)).unwrap();
        assert_eq!((found.rate, found.spread, found.client_limited), (2048.0, None, true));
    }

    #[test]
    fn disturbed_probes_are_repeated() {
        for often in [2, 3] {
            let mut number = 0;
            let found = found(|rate| {
                number += 1;
                let probe = served(rate, 200.0, f64::INFINITY);
                let answered = if number % often == 0 { 9.0 * rate } else { probe.answered };
                let says = if number % often == 0 { Some(Says::Disturbed) } else { probe.says };
                Probe { says, answered, ..probe }
            });
            assert!((found.unwrap().rate / 200.0 - 1.0).abs() < 0.04);
        }
        assert!(
            found(|rate| Probe { says: Some(Says::Disturbed), ..served(rate, 9.0, 9.0) })
                .unwrap()
                .client_limited
        );
    }

    #[test]
    fn one_pause_is_no_capacity() {
        for (capacity, client) in [(0.1, f64::INFINITY), (200.0, 0.1)] {
            let mut number = 0;
            let found = found(|rate| {
                number += 1;
                match number {
                    3 => served(rate, capacity, client),
                    _ => served(rate, 200.0, f64::INFINITY),
                }
            });
            assert!((found.unwrap().rate / 200.0 - 1.0).abs() < 0.04);
        }
    }

    #[test]
    fn a_bracket_that_was_wrong_is_left() {
        // It falls behind at first, as a server does that has just started, and keeps up later.
        let mut number = 0;
        let found = found(|rate| {
            number += 1;
            served(rate, if number < 10 { 20.0 } else { 300.0 }, f64::INFINITY)
        });
        assert!((found.unwrap().rate / 300.0 - 1.0).abs() < 0.04);
    }

    #[test]
    fn time_that_runs_out_is_no_answer() {
        let probe = |rate, _| -> Result<Probe, Infallible> { Ok(served(rate, 50.0, 3000.0)) };
        assert_eq!(find_knee(probe, || false), Ok(None));
        assert_eq!(find_knee(|_, _| Err("stopped"), || true), Err("stopped"));
    }

    #[test]
    fn slow_rates_are_probed_for_longer() {
        let mut lengths = Vec::new();
        let probe = |rate, seconds| -> Result<Probe, Infallible> {
            lengths.push((rate, seconds));
            Ok(served(rate, 10.0, f64::INFINITY))
        };
        assert!(find_knee(probe, || true).is_ok());
        assert_eq!(lengths[0], (4.0, 5), "17 requests at least");
        let longest = lengths.iter().map(|(_, seconds)| *seconds).max();
        assert!(longest > Some(8) && longest <= Some(LONGEST_PROBE_S), "{lengths:?}");
    }
}
