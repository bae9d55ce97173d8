//! Faults by time: a replica dies, comes back empty, or changes its speed.
//!
//! What runs on a replica that dies is lost, as over HTTP: its clients have part of an answer. What is sent there
//! before the balancers notice finds nobody and is sent elsewhere, as often as `serve` would within the retry budget of
//! each balancer. Balancers notice by failed requests and by health checks, with the rules and the defaults of `serve`.

use std::{str::FromStr, time::Duration};

/// Something happens to a replica.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Fault {
    /// Since the start of the measured phase.
    pub at: Duration,
    /// Its place in the fleet, from 0.
    pub replica: usize,
    /// What happens.
    pub kind: FaultKind,
}

/// What happens to a replica.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum FaultKind {
    /// It is gone, with everything on it.
    Down,
    /// It is there again, with an empty cache.
    Up,
    /// Its steps take the profile's time divided by this.
    Speed(f64),
}

/// Faults later than this are mistakes, in seconds.
const LATEST_S: f64 = 1e9;
/// No engine is slower, or faster, by more.
const LEAST_SPEED: f64 = 1e-3;
const MOST_SPEED: f64 = 1e3;

/// A fault that is not written as `SECONDS:REPLICA:down`, `up` or `speed=FACTOR`, or whose numbers are out of range.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error(
    "`{0}` is no fault: give SECONDS:REPLICA:down, SECONDS:REPLICA:up or SECONDS:REPLICA:speed=FACTOR, with at most \
     {LATEST_S} seconds and a factor from {LEAST_SPEED} to {MOST_SPEED}"
)]
pub struct InvalidFault(String);

impl FromStr for Fault {
    type Err = InvalidFault;

    fn from_str(text: &str) -> Result<Self, InvalidFault> {
        parse(text).ok_or_else(|| InvalidFault(text.into()))
    }
}

fn parse(text: &str) -> Option<Fault> {
    let mut parts = text.splitn(3, ':');
    let at =
        parts.next()?.parse().ok().filter(|at| (0.0..=LATEST_S).contains(at)).map(Duration::from_secs_f64)?;
    let replica = parts.next()?.parse().ok()?;
    let kind = match parts.next()? {
        "down" => FaultKind::Down,
        "up" => FaultKind::Up,
        other => {
            let factor: f64 = other.strip_prefix("speed=")?.parse().ok()?;
            (LEAST_SPEED..=MOST_SPEED).contains(&factor).then_some(FaultKind::Speed(factor))?
        }
    };
    Some(Fault { at, replica, kind })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_as_they_are_written() {
        let fault = |at, replica, kind| Ok(Fault { at: Duration::from_secs_f64(at), replica, kind });
        assert_eq!("60:0:down".parse(), fault(60.0, 0, FaultKind::Down));
        assert_eq!("1.5:7:up".parse(), fault(1.5, 7, FaultKind::Up));
        assert_eq!("0:3:speed=0.5".parse(), fault(0.0, 3, FaultKind::Speed(0.5)));
        for wrong in [
            "",
            "1:2",
            "-1:0:down",
            "nan:0:down",
            "1e10:0:down",
            "1:x:down",
            "1:0:speed=0",
            "1:0:speed=1e-300",
            "1:0:speed=1e300",
            "1:0:speed=inf",
            "1:0:off",
        ] {
            assert_eq!(wrong.parse::<Fault>(), Err(InvalidFault(wrong.into())));
        }
    }
}
