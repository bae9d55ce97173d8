//! Lateness that adds up, for plans that ask for it.

mod common;

use std::{sync::Arc, thread, time::Duration};

use common::*;
use loadgen::{Choice, Features, UrlChooser};
use workload::Limits;

const STALL: Duration = Duration::from_millis(60);
const GAP: Duration = Duration::from_millis(10);

/// Holds the sending thread up at the first request.
struct Stall;

impl UrlChooser for Stall {
    fn choose(&self, features: &Features<'_>) -> Choice {
        if features.position == 0 {
            thread::sleep(STALL);
        }
        Choice { target: 0, guard: None }
    }
}

#[test]
fn a_drifting_plan_never_makes_up_for_lost_time() {
    let server = Server::streaming(1);
    for concurrency in [None, Some(100)] {
        let limits = Limits { concurrency, drifting: true, ..Limits::default() };
        let options = loadgen::Options { chooser: Arc::new(Stall), ..options() };
        let ran = run(plan(limits, singles(20, GAP)), &[server.url()], options);
        assert_eq!(kinds(&ran), ["success"; 20]);
        let start = ran.summary.phases[0].span.unwrap().0;
        for record in &ran.records[1..] {
            assert_eq!(record.scheduled, start + GAP * record.index as u32, "what the plan wanted stays");
            assert!(record.schedule_lag().unwrap() >= STALL - GAP, "request {}", record.index);
        }
    }
}
