//! How many more requests a replica is about to have, from how fast they come.
//!
//! A prefill delays those who run when it is done, not those who ran when it was decided on. Where load comes back
//! after a pause, the first requests find replicas empty, and a prompt that is computed anew seems to cost
//! nothing; a second later it has delayed a hundred others. By Little's law, requests that come at a `rate` and
//! stay for a time `T` are `rate T` in flight before long. So many are expected, but no more than the `usual`
//! number of late, which is what keeps an overload from being foreseen for ever:
//!
//! ```text
//! coming = min(usual, rate T / R) - n     of each of R replicas, at least 0; N balancers bring N times as many
//! ```
//!
//! The rate is that of the last `T / 8`, the usual number that of the last `4 T`, both with fading memory; `T` is the
//! mean time of an answer. While load is steady, and when it ends, nothing is coming: `n` is `rate T / R` or more.

use std::time::Duration;

use crate::coefficients::Number;

/// Arrivals at a pool, seen by one balancer.
#[derive(Debug)]
pub(crate) struct Arrivals {
    /// Seconds that an answer takes; 0 before the first.
    stay: Number,
    /// Requests per second.
    rate: Number,
    /// Requests in flight at a replica.
    usual: Number,
    /// When the last one came, in seconds.
    last: Number,
}

/// An answer moves the mean stay by this share.
const SHARE_OF_AN_ANSWER: f64 = 1.0 / 256.0;
/// Memories, in mean stays.
const RATE_MEMORY: f64 = 1.0 / 8.0;
const USUAL_MEMORY: f64 = 4.0;

impl Arrivals {
    pub(crate) fn new() -> Self {
        let zero = || Number::new(0.0);
        Self { stay: zero(), rate: zero(), usual: zero(), last: zero() }
    }

    /// The rate and the usual number at `now`, where a replica has had `requests` since the last arrival.
    fn at(&self, requests: f64, now: f64) -> (f64, f64) {
        let stays = (now - self.last.get()).max(0.0) / self.stay.get();
        let usual = self.usual.get();
        let kept = (-stays / USUAL_MEMORY).exp();
        (self.rate.get() * (-stays / RATE_MEMORY).exp(), requests + (usual - requests) * kept)
    }

    /// How many more requests each of the `replicas` (for each balancer, where the requests of several are counted) will
    /// have before long than the `requests` it has on average; `take` says that one comes now.
    pub(crate) fn coming(&self, requests: f64, replicas: f64, now: Duration, take: bool) -> f64 {
        let stay = self.stay.get();
        if stay == 0.0 {
            return 0.0;
        }
        let now = now.as_secs_f64();
        let (mut rate, usual) = self.at(requests, now);
        if take {
            rate += 1.0 / (RATE_MEMORY * stay);
            self.rate.set(rate);
            self.usual.set(usual);
            self.last.set(now);
        }
        (usual.min(rate * stay / replicas) - requests).max(0.0)
    }

    /// A request was answered after this time.
    pub(crate) fn answered(&self, after: Duration) {
        let first = self.stay.get() == 0.0;
        // Not zero, which would mean that there was no answer yet.
        let seconds = after.as_secs_f64().max(1e-6);
        self.stay.approach(seconds, if first { 1.0 } else { SHARE_OF_AN_ANSWER });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Requests of `stay` seconds at an even rate, on 4 replicas, from `begin` to `end`; what is coming at the end.
    fn flow(arrivals: &Arrivals, rate: f64, stay: f64, begin: f64, end: f64) -> f64 {
        let count = ((end - begin) * rate) as u32;
        let in_flight = |at: f64| rate * (at - begin).min(stay) / 4.0;
        for request in 0..count {
            let at = begin + f64::from(request) / rate;
            arrivals.coming(in_flight(at), 4.0, Duration::from_secs_f64(at), true);
            arrivals.answered(Duration::from_secs_f64(stay));
        }
        arrivals.coming(in_flight(end), 4.0, Duration::from_secs_f64(end), false)
    }

    #[test]
    fn nothing_is_coming_before_anything_is_known_and_while_load_is_steady() {
        let arrivals = Arrivals::new();
        assert_eq!(arrivals.coming(3.0, 4.0, Duration::from_secs(9), true), 0.0);
        let coming = flow(&arrivals, 40.0, 8.0, 10.0, 200.0);
        assert!(coming < 4.0, "{coming} on top of 80");
    }

    #[test]
    fn load_that_comes_back_is_foreseen_and_load_that_ends_is_not() {
        let arrivals = Arrivals::new();
        flow(&arrivals, 40.0, 8.0, 0.0, 200.0);
        let ended = arrivals.coming(10.0, 4.0, Duration::from_secs(207), false);
        assert!(ended < 1.0, "{ended}");
        let coming = flow(&arrivals, 40.0, 8.0, 210.0, 211.0);
        assert!((20.0..70.0).contains(&coming), "{coming} of the 70 that are missing");
        let later = arrivals.coming(0.0, 4.0, Duration::from_secs(500), false);
        assert!(later < 1.0, "{later}");
    }

    #[test]
    fn no_more_is_expected_than_was_usual() {
        let arrivals = Arrivals::new();
        flow(&arrivals, 4.0, 8.0, 0.0, 200.0);
        let coming = flow(&arrivals, 400.0, 8.0, 200.0, 200.02);
        assert!(
            (4.0..7.0).contains(&coming),
            "{coming}: 2 of the usual 8 are there, and at this rate come 800"
        );
    }
}
