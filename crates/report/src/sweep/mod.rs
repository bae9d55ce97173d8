//! The rate that a server just keeps up with, from the records of short probes.
//!
//! *Knee.* Probes at growing rates bracket the capacity: a probe keeps up if as many requests are answered in its
//! second half as come in it, but for a few, and the queue does not grow through it. Anything else counts when it
//! happens twice: a pause of this machine happens once. A probe in which a pause shows (more answers than requests in
//! its second half, or a side that was slow while the host took its processors) says nothing and is repeated, a few
//! times. The rate doubles until the server falls behind; what it answers while it is overloaded is an estimate of
//! its capacity from above, and the bracket is narrowed by probes between its ends until they are 4 % apart. Two
//! probes past it give the estimate, kept inside the bracket, and the reported spread; if the server keeps up there,
//! the bracket was wrong, and the search goes on above. If this side cannot send a probe's requests at their times
//! before the server falls behind, the result is client-limited: the highest rate that was held.
//!
//! *Drain.* inference-perf's algorithm: one probe, and a percentile of the rates at which the number in flight falls.
//!
//! Nothing is sent here: the search says what to send next, and is told what came of it.

mod drain;
mod knee;
mod probe;

use std::{fmt, time::Duration};

pub use self::{drain::drain_saturation, knee::find_knee, probe::ProbeShape};
use crate::Object;

/// A probe of a sweep.
#[derive(Clone, Debug, PartialEq)]
pub struct Probe {
    /// Requests a second asked for.
    pub asked: f64,
    /// Sent a second.
    pub sent: f64,
    /// Answered a second, in the second half of the time in which it was sent.
    pub answered: f64,
    /// From the time at which requests were due.
    pub median_latency: Duration,
    /// What it says; nothing where only its drain is looked at.
    pub says: Option<Says>,
}

/// What a probe says of the server.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Says {
    /// It answers as fast as requests come.
    KeepsUp,
    /// It does not.
    FallsBehind,
    /// Nothing: this side was the bottleneck.
    ClientLimited,
    /// Nothing: there was a pause.
    Disturbed,
}

/// What a sweep has found.
#[derive(Clone, Debug, PartialEq)]
pub struct Found {
    /// Requests a second up to which the stages go.
    pub rate: f64,
    /// Of the capacity, as far as it was measured.
    pub spread: Option<(f64, f64)>,
    /// This side was the bottleneck: the capacity is not known, and higher than the rate.
    pub client_limited: bool,
    /// In their order.
    pub probes: Vec<Probe>,
}

// === impl Probe ===

impl Probe {
    fn object(&self) -> Object {
        let mut object = Object::default();
        object.set("requested_rate", self.asked);
        object.set("achieved_rate", self.sent);
        object.set("answered_per_sec", self.answered);
        object.set("median_request_latency", self.median_latency.as_secs_f64());
        object.set("verdict", self.verdict());
        object
    }

    fn verdict(&self) -> &'static str {
        match self.says {
            Some(Says::KeepsUp) => "keeps up",
            Some(Says::FallsBehind) => "falls behind",
            Some(Says::ClientLimited) => "client-limited",
            Some(Says::Disturbed) => "disturbed",
            None => "drain rates",
        }
    }
}

impl fmt::Display for Probe {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { asked, sent, answered, .. } = self;
        write!(
            formatter,
            "sweep: {asked:.1} requests/s asked, {sent:.1} sent, {answered:.1} answered: {}",
            self.verdict()
        )
    }
}

// === impl Found ===

impl Found {
    /// The object for files.
    pub fn object(&self) -> Object {
        let mut object = Object::default();
        object.set("requests_per_sec", self.rate);
        object.set("measured_between", self.spread.map(|(low, high)| [low, high]));
        object.set("client_limited", self.client_limited);
        object.nest_all("probes", self.probes.iter().map(Probe::object));
        object
    }
}

impl fmt::Display for Found {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rate = self.rate;
        match (self.client_limited, self.spread) {
            (true, _) => write!(
                formatter,
                "sweep: client-limited: this side cannot send faster than {rate:.1} requests/s, and the server keeps up \
                 with that; its capacity is higher"
            ),
            (false, Some((low, high))) => write!(
                formatter,
                "sweep: the server keeps up with {rate:.1} requests/s (measured {low:.1} to {high:.1})"
            ),
            (false, None) => {
                write!(formatter, "sweep: saturation at {rate:.1} requests/s by the drain rates of one probe")
            }
        }
    }
}
