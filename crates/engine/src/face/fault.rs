//! Faults on demand, for the tests of those who must live with them.
//!
//! A fault is named in the request header `x-sim-fault`, or set beforehand for a replica by `POST /sim/fault`.
//! It is written `kind` or `kind=value`; `docs/engine.md` has the table.

use std::{cell::RefCell, ops::RangeInclusive, str::FromStr, time::Duration};

use serde::Deserialize;

use super::tokens::mix;

/// Factors by which steps may be stretched.
const SLOWDOWNS: RangeInclusive<f64> = 0.01..=1000.0;

/// What goes wrong with a request.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Fault {
    /// `status=CODE`: an error answer at once.
    Status(u16),
    /// `hang`: the request is read and never answered.
    Hang,
    /// `delay=MILLISECONDS`: the request is looked at that much later.
    Delay(Duration),
    /// `reset_before_headers`: the connection is reset instead of an answer.
    ResetBeforeHeaders,
    /// `..=TOKENS`: the answer goes wrong after so many tokens.
    After(u32, Midway),
}

/// What goes wrong with an answer under way: with a stream, or with an answer in one piece.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Midway {
    /// `reset_after_tokens`: the connection is reset.
    Reset,
    /// `truncate`: the connection is closed in the middle of the body, of whose announced length half came.
    Truncate,
    /// `end`: the body ends in good order, but without a last chunk of its own, usage or `[DONE]`; or half of it.
    End,
    /// `stall`: nothing more comes, and the connection stays open.
    Stall,
    /// `error`: an error event, then the end; or an error answer.
    Error,
    /// `malformed`: an event that is not JSON, and the stream goes on; or a body that is not.
    Malformed,
}

/// A fault's name or value that is none.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error(
    "unknown fault {0:?}: use status=CODE (400 to 599), hang, delay=MILLISECONDS, reset_before_headers, \
     reset_after_tokens=N, truncate=N, end=N, stall=N, error=N or malformed=N; for a replica also \
     health_down, slow=FACTOR (0.01 to 1000), refuse=MILLISECONDS or none"
)]
pub(crate) struct UnknownFault(String);

/// Why an order cannot be carried out.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub(crate) enum InvalidOrder {
    #[error(transparent)]
    Unknown(#[from] UnknownFault),
    #[error("count is 0: leave it away for all requests, or use the fault none for no request")]
    NoRequest,
    #[error("probability must be between 0 and 1, not {0}")]
    Probability(f64),
    #[error("{fault} befalls the replica and no single request: leave {member} away")]
    NotForReplicas { fault: String, member: &'static str },
}

/// Faults set for a replica.
#[derive(Debug, Default)]
pub(crate) struct Faults(RefCell<Option<Plan>>);

/// The body of `POST /sim/fault`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Order {
    /// As in the header, or one of [`Lasting`].
    fault: String,
    /// So many requests; without it all, until it is cleared.
    count: Option<u64>,
    /// Share of requests, drawn by a fixed sequence.
    probability: Option<f64>,
    /// Every path, health and metrics too, not only those that generate.
    #[serde(default)]
    every_path: bool,
}

/// What befalls a replica and not a request.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Lasting {
    /// `none`: all is well again.
    Nothing,
    /// `health_down`: `/health` says 503.
    HealthDown,
    /// `slow=FACTOR`: every step takes so many times longer.
    Slow(f64),
    /// `refuse=MILLISECONDS`: no connection is accepted for so long; those that stand go on.
    Refuse(Duration),
}

/// A fault for some of the requests to come.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    fault: Fault,
    count: Option<u64>,
    probability: f64,
    every_path: bool,
    draws: u64,
}

impl FromStr for Fault {
    type Err = UnknownFault;

    fn from_str(text: &str) -> Result<Self, UnknownFault> {
        let unknown = || UnknownFault(text.to_owned());
        let (kind, value) = text.split_once('=').map_or((text, None), |(kind, value)| (kind, Some(value)));
        let number = || value.and_then(|value| value.trim().parse::<u32>().ok()).ok_or_else(unknown);
        let after = |midway| number().map(|tokens| Self::After(tokens, midway));
        match kind.trim() {
            "status" => {
                let code = u16::try_from(number()?).ok().filter(|code| (400..600).contains(code));
                code.map(Self::Status).ok_or_else(unknown)
            }
            "hang" if value.is_none() => Ok(Self::Hang),
            "delay" => Ok(Self::Delay(Duration::from_millis(number()?.into()))),
            "reset_before_headers" if value.is_none() => Ok(Self::ResetBeforeHeaders),
            "reset_after_tokens" => after(Midway::Reset),
            "truncate" => after(Midway::Truncate),
            "end" => after(Midway::End),
            "stall" => after(Midway::Stall),
            "error" => after(Midway::Error),
            "malformed" => after(Midway::Malformed),
            _ => Err(unknown()),
        }
    }
}

impl FromStr for Lasting {
    type Err = UnknownFault;

    fn from_str(text: &str) -> Result<Self, UnknownFault> {
        let unknown = || UnknownFault(text.to_owned());
        match text.split_once('=') {
            None if text == "none" => Ok(Self::Nothing),
            None if text == "health_down" => Ok(Self::HealthDown),
            Some(("slow", factor)) => {
                let factor: f64 = factor.parse().map_err(|_| unknown())?;
                (SLOWDOWNS.contains(&factor)).then_some(Self::Slow(factor)).ok_or_else(unknown)
            }
            Some(("refuse", time)) => {
                let time: u32 = time.parse().map_err(|_| unknown())?;
                Ok(Self::Refuse(Duration::from_millis(time.into())))
            }
            _ => Err(unknown()),
        }
    }
}

impl Order {
    /// What is ordered: something that lasts, or else a plan for requests.
    pub(crate) fn read(&self) -> Result<Result<Lasting, Plan>, InvalidOrder> {
        if let Ok(lasting) = self.fault.parse() {
            let given = [
                ("count", self.count.is_some()),
                ("probability", self.probability.is_some()),
                ("every_path", self.every_path),
            ];
            if let Some((member, _)) = given.into_iter().find(|(_, given)| *given) {
                return Err(InvalidOrder::NotForReplicas { fault: self.fault.clone(), member });
            }
            return Ok(Ok(lasting));
        }
        let (fault, probability) = (self.fault.parse()?, self.probability.unwrap_or(1.0));
        if self.count == Some(0) {
            return Err(InvalidOrder::NoRequest);
        }
        if !(0.0..=1.0).contains(&probability) {
            return Err(InvalidOrder::Probability(probability));
        }
        Ok(Err(Plan { fault, count: self.count, probability, every_path: self.every_path, draws: 0 }))
    }
}

impl Faults {
    /// Sets the fault of the requests to come, or clears it.
    pub(crate) fn set(&self, plan: Option<Plan>) {
        *self.0.borrow_mut() = plan;
    }

    /// The fault of this request, if it is its turn. `generates`: it is one for the engine.
    pub(crate) fn draw(&self, generates: bool) -> Option<Fault> {
        let mut slot = self.0.borrow_mut();
        let plan = slot.as_mut().filter(|plan| generates || plan.every_path)?;
        plan.draws += 1;
        // 53 bits of a float, evenly spread between 0 and 1.
        let share = (mix(0x5eed, plan.draws) >> 11) as f64 / (1u64 << 53) as f64;
        if share >= plan.probability {
            return None;
        }
        let fault = plan.fault;
        if let Some(count) = &mut plan.count {
            *count = count.saturating_sub(1);
            if *count == 0 {
                *slot = None;
            }
        }
        Some(fault)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_are_read_and_nonsense_is_refused() {
        for (text, fault) in [
            ("status=503", Fault::Status(503)),
            ("hang", Fault::Hang),
            ("delay=250", Fault::Delay(Duration::from_millis(250))),
            ("reset_before_headers", Fault::ResetBeforeHeaders),
            ("truncate=3", Fault::After(3, Midway::Truncate)),
        ] {
            assert_eq!(text.parse(), Ok(fault), "{text}");
        }
        for text in ["", "status", "status=200", "status=x", "hang=1", "stall=-1", "explode"] {
            assert_eq!(text.parse::<Fault>(), Err(UnknownFault(text.to_owned())));
        }
    }

    #[test]
    fn what_befalls_a_replica_is_read_too() {
        for (text, lasting) in [
            ("none", Lasting::Nothing),
            ("health_down", Lasting::HealthDown),
            ("slow=2.5", Lasting::Slow(2.5)),
            ("refuse=40", Lasting::Refuse(Duration::from_millis(40))),
        ] {
            assert_eq!(text.parse(), Ok(lasting), "{text}");
        }
        for text in ["slow=0", "slow=NaN", "slow=inf", "refuse", "hang"] {
            assert_eq!(text.parse::<Lasting>(), Err(UnknownFault(text.to_owned())));
        }
    }

    #[test]
    fn orders_that_cannot_be_carried_out_are_refused() {
        for (json, named) in [
            (r#"{"fault": "hang", "count": 0}"#, "count is 0"),
            (r#"{"fault": "hang", "probability": 5}"#, "not 5"),
            (r#"{"fault": "hang", "probability": -1}"#, "not -1"),
            (r#"{"fault": "slow=3", "count": 2}"#, "leave count away"),
            (r#"{"fault": "health_down", "probability": 0.5}"#, "leave probability away"),
            (r#"{"fault": "none", "every_path": true}"#, "leave every_path away"),
            (r#"{"fault": "explode"}"#, "unknown fault"),
        ] {
            let order: Order = serde_json::from_str(json).expect("an order");
            let error = order.read().expect_err("not to be carried out").to_string();
            assert!(error.contains(named), "{json}: {error}");
        }
    }

    #[test]
    fn a_plan_is_over_after_its_count_and_hits_its_share() {
        let faults = Faults::default();
        let plan = |json| {
            let order: Order = serde_json::from_str(json).expect("an order");
            Some(order.read().expect("a fault").expect_err("not a lasting one"))
        };
        faults.set(plan(r#"{"fault": "hang", "count": 2}"#));
        assert_eq!(faults.draw(false), None, "not for other paths");
        assert_eq!([(); 3].map(|()| faults.draw(true)), [Some(Fault::Hang), Some(Fault::Hang), None]);
        faults.set(plan(r#"{"fault": "status=500", "probability": 0.3, "every_path": true}"#));
        let hits = (0..1000).filter(|_| faults.draw(false).is_some()).count();
        assert!((250..350).contains(&hits), "{hits}");
        faults.set(None);
        assert_eq!(faults.draw(true), None);
    }
}
