//! Builders of plans and phases.
//!
//! What is sent comes as an iterator of sessions (each a list of turns; a single request is a session of one turn),
//! when it is sent as an iterator of times; the shorter of the two ends the phase. The fields of a phase stay open:
//! set its kind and further limits where the builder leaves them.

use std::{iter, time::Duration};

use crate::{Arrival, Arrivals, Limits, Phase, PhaseKind, Plan, Request, Session, Turn};

/// Bits of a session's id below the number of its phase.
const PHASE_SHIFT: u32 = 48;

impl Plan {
    /// Phases that run one after the other. Sessions of different phases get different ids.
    pub fn new(phases: impl IntoIterator<Item = Phase>) -> Self {
        let number = |(index, phase): (u64, Phase)| Phase {
            arrivals: Box::new(phase.arrivals.map(move |mut arrival| {
                arrival.session.id |= index << PHASE_SHIFT;
                arrival
            })),
            ..phase
        };
        Self { phases: (0..).zip(phases).map(number).collect() }
    }
}

impl Phase {
    /// `concurrency` sessions at a time, each slot taken again as soon as it is free.
    pub fn closed_loop(
        name: impl Into<String>,
        concurrency: u32,
        sessions: impl IntoIterator<Item = Vec<Turn>, IntoIter: Send + 'static>,
    ) -> Self {
        let mut phase = Self::scheduled(name, arrivals(iter::repeat(Duration::ZERO), sessions));
        (phase.closed_loop, phase.limits.concurrency) = (true, Some(concurrency));
        phase
    }

    /// Sessions that start at their times, however the server fares.
    pub fn open_loop(
        name: impl Into<String>,
        times: Arrivals,
        sessions: impl IntoIterator<Item = Vec<Turn>, IntoIter: Send + 'static>,
    ) -> Self {
        let target_rate = Some(times.rate().last());
        Self { target_rate, ..Self::scheduled(name, arrivals(times, sessions)) }
    }

    /// Sessions that bring their own times, in order.
    pub fn scheduled(
        name: impl Into<String>,
        arrivals: impl IntoIterator<Item = Arrival, IntoIter: Send + 'static>,
    ) -> Self {
        Self {
            name: name.into(),
            kind: PhaseKind::Measured,
            limits: Limits::default(),
            closed_loop: false,
            target_rate: None,
            expected_requests: None,
            arrivals: Box::new(arrivals.into_iter()),
        }
    }
}

/// Sessions of one turn.
pub fn single_turns(
    requests: impl IntoIterator<Item = Request, IntoIter: Send + 'static>,
) -> impl Iterator<Item = Vec<Turn>> + Send + 'static {
    requests.into_iter().map(|request| vec![Turn::from(request)])
}

fn arrivals(
    times: impl Iterator<Item = Duration> + Send + 'static,
    sessions: impl IntoIterator<Item = Vec<Turn>, IntoIter: Send + 'static>,
) -> impl Iterator<Item = Arrival> + Send + 'static {
    let numbered = (0..).zip(times.zip(sessions));
    numbered.map(|(id, (at, turns))| Arrival { at, session: Session { id, turns, target: None } })
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use protocol::Endpoint;

    use super::*;
    use crate::{Pattern, Prompt, Rate};

    fn requests(count: usize) -> impl Iterator<Item = Vec<Turn>> + Send + 'static {
        let request = Request::new(Endpoint::Completions, "m", Prompt::Text("x".into()));
        single_turns(iter::repeat_n(request, count))
    }

    #[test]
    fn an_open_loop_has_its_times_and_rate() {
        let times = Arrivals::new(Pattern::Constant, Rate::constant(4.0).unwrap(), 0).unwrap();
        let phase = Phase::open_loop("a", times, requests(3));
        assert_eq!((phase.target_rate, phase.limits.concurrency), (Some(4.0), None));
        let at: Vec<u128> = phase.arrivals.map(|arrival| arrival.at.as_millis()).collect();
        assert_eq!(at, [0, 250, 500]);
    }

    #[test]
    fn a_closed_loop_starts_everything_at_once_within_its_limit() {
        let phase = Phase::closed_loop("a", 2, requests(5));
        assert_eq!((phase.target_rate, phase.limits.concurrency), (None, Some(2)));
        assert!(phase.arrivals.map(|arrival| arrival.at).eq([Duration::ZERO; 5]));
    }

    #[test]
    fn session_ids_are_unique_in_the_run() {
        let plan =
            Plan::new([Phase::closed_loop("a", 1, requests(3)), Phase::closed_loop("b", 1, requests(2))]);
        let ids: Vec<u64> = plan
            .phases
            .into_iter()
            .flat_map(|phase| phase.arrivals)
            .map(|arrival| arrival.session.id)
            .collect();
        assert_eq!(ids[..3], [0, 1, 2]);
        assert_eq!(ids.iter().collect::<HashSet<_>>().len(), 5);
    }
}
