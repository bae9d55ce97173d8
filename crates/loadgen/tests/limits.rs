//! When requests are sent: due times, limits, phases, signals.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::{
    io::Write,
    sync::{Arc, Mutex},
    thread,
    time::Duration,
};

use common::*;
use loadgen::{Control, RunEnd};
use report::{Outcome, Record};
use workload::{Arrival, Limits, Phase, PhaseKind, Plan, Turn};

fn ms(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

/// A server that takes `time` for an answer; half of it to the first token.
fn slow(time: Duration) -> Server {
    Server::start(move |request, socket| {
        thread::sleep(time / 2);
        socket.write_all((STREAM_HEAD.to_owned() + &http_chunk(&token_event("x"))).as_bytes()).unwrap();
        thread::sleep(time / 2);
        request.ends();
        socket.write_all((http_chunk("data: [DONE]\n\n") + "0\r\n\r\n").as_bytes()).is_ok()
    })
}

/// How many of the half-open intervals overlap at most.
fn peak(intervals: impl Iterator<Item = (Duration, Duration)>) -> usize {
    let mut changes: Vec<(Duration, i64)> = intervals.flat_map(|(from, to)| [(from, 1), (to, -1)]).collect();
    changes.sort();
    let mut level = 0;
    changes
        .iter()
        .map(|(_, change)| {
            level += change;
            level
        })
        .max()
        .unwrap_or(0) as usize
}

#[test]
fn sends_follow_the_schedule_and_are_never_early() {
    let server = Server::streaming(1);
    let ran = run(plan(Limits::default(), singles(50, ms(2))), &[server.url()], options());
    let start = ran.summary.phases[0].span.unwrap().0;
    for record in &ran.records {
        assert_eq!(record.scheduled, start + ms(2) * record.index as u32);
        assert_eq!(record.admitted, record.scheduled);
        assert!(record.sent.unwrap() >= record.scheduled);
    }
    let client = &ran.summary.client;
    assert_eq!((client.schedule_lag.count(), client.dispatch_lag.count()), (50, 50));
    assert_eq!(ran.summary.end, RunEnd::Complete);
}

#[test]
fn nothing_is_dropped_when_late() {
    // All due at once, far more than one loop can send in time.
    let server = Server::streaming(1);
    for precise in [false, true] {
        let options = loadgen::Options { precise, ..options() };
        let ran = run(plan(Limits::default(), singles(300, Duration::ZERO)), &[server.url()], options);
        assert_eq!(kinds(&ran), ["success"; 300]);
        assert_eq!(ran.summary.phases[0].issued, 300);
    }
}

#[test]
fn the_limit_on_sessions_is_reached_and_never_exceeded() {
    for threads in [1, 3] {
        let server = slow(ms(4));
        let limits = Limits { concurrency: Some(7), ..Limits::default() };
        let options = loadgen::Options { threads, ..options() };
        let ran = run(plan(limits, singles(100, Duration::ZERO)), &[server.url()], options);
        assert_eq!(kinds(&ran), ["success"; 100]);
        let busy = ran.records.iter().map(|record| (record.admitted, record.done));
        assert_eq!((server.peak(), peak(busy)), (7, 7), "{threads} threads");
        assert_eq!(ran.summary.client.peak_in_flight, 7);
        for record in &ran.records {
            assert_eq!(record.scheduled, record.admitted, "a closed loop is due when a slot is free");
        }
    }
}

#[test]
fn a_slot_is_held_from_the_first_turn_to_the_last() {
    let server = slow(ms(2));
    let think = |text: &str| Turn { delay: ms(20), ..chat(text).into() };
    let arrivals = (0..4)
        .map(|id| Arrival { at: Duration::ZERO, session: session(id, [chat("a").into(), think("b")]) })
        .collect();
    let limits = Limits { concurrency: Some(2), ..Limits::default() };
    let ran = run(plan(limits, arrivals), &[server.url()], options());
    let sessions = (0..4).map(|id| {
        let mut of = ran.records.iter().filter(|record| record.session == id);
        (of.next().unwrap().admitted, of.next().unwrap().done)
    });
    assert_eq!(peak(sessions), 2);
    for turns in ran.records.chunks(2) {
        assert_eq!(turns[1].scheduled, turns[0].done + ms(20), "think time counts from the answer");
    }
}

#[test]
fn a_waiting_request_is_late_by_the_schedule_not_by_its_slot() {
    let server = slow(ms(20));
    let limits = Limits { concurrency: Some(1), ..Limits::default() };
    let paced = Phase { closed_loop: false, ..phase(limits, singles(4, ms(1))) };
    let ran = run(Plan { phases: vec![paced] }, &[server.url()], options());
    let last = &ran.records[3];
    assert_eq!(last.scheduled, ran.summary.phases[0].span.unwrap().0 + ms(3));
    assert!(last.admitted >= ran.records[2].done);
    assert!(last.schedule_lag().unwrap() >= ms(50));
    let dispatch = ran.summary.client.dispatch_lag.max().unwrap();
    assert!(
        u128::from(dispatch) < last.schedule_lag().unwrap().as_nanos(),
        "waiting for a slot is no fault of ours"
    );
}

#[test]
fn a_schedule_of_one_moment_is_no_closed_loop() {
    let server = slow(ms(20));
    let limits = Limits { concurrency: Some(1), duration: Some(ms(30)), ..Limits::default() };
    let at_once = |closed_loop| Phase { closed_loop, ..phase(limits.clone(), singles(4, Duration::ZERO)) };
    let ran = run(Plan { phases: vec![at_once(false)] }, &[server.url()], options());
    let start = ran.summary.phases[0].span.unwrap().0;
    assert_eq!(ran.records.len(), 4, "what was due is recorded, sent or not");
    assert!(ran.records.iter().all(|record| record.scheduled == start));
    for pair in ran.records.windows(2).filter(|pair| pair[1].sent.is_some()) {
        assert!(pair[1].admitted >= pair[0].done && pair[1].schedule_lag() >= Some(ms(20)));
    }
    assert!(ran.records.iter().any(|record| record.outcome == Outcome::NotSent));
    let closed = run(Plan { phases: vec![at_once(true)] }, &[server.url()], options());
    assert!(closed.records.len() < 4, "a closed loop owes nothing that found no slot");
}

#[test]
fn prefill_slots_are_free_again_at_the_first_token() {
    for threads in [1, 2] {
        let server = slow(ms(16));
        let limits = Limits { prefill_concurrency: Some(2), ..Limits::default() };
        let options = loadgen::Options { threads, ..options() };
        let ran = run(plan(limits, singles(12, Duration::ZERO)), &[server.url()], options);
        assert_eq!(kinds(&ran), ["success"; 12]);
        let prefills = ran.records.iter().map(|record| (record.admitted, record.chunks[0].at));
        assert_eq!(peak(prefills), 2);
        assert!(peak(ran.records.iter().map(|record| (record.admitted, record.done))) > 2);
    }
}

#[test]
fn a_session_between_two_turns_is_not_in_flight() {
    for threads in [1, 2] {
        let server = slow(ms(8));
        // Two think times would fill two slots, were those kept.
        let thinking = |id| {
            let mut session = session(id, [chat("a"), chat("b")]);
            session.turns[1].delay = ms(1000);
            Arrival { at: Duration::ZERO, session }
        };
        let arrivals: Vec<Arrival> = (0..6).map(thinking).collect();
        let limits = Limits { requests_in_flight: Some(2), ..Limits::default() };
        let options = loadgen::Options { threads, ..options() };
        let ran = run(plan(limits, arrivals), &[server.url()], options);
        assert_eq!(kinds(&ran), ["success"; 12]);
        assert_eq!(peak(ran.records.iter().map(|record| (record.admitted, record.done))), 2);
        let waited = ran.records.iter().filter(|record| record.admitted > record.scheduled).count();
        assert!(waited >= 4, "who waits for the bound is told apart: {waited}");
        let turns = |turn| ran.records.iter().filter(move |record| record.turn == turn);
        let last_begun = turns(0).map(|record| record.admitted).max();
        assert!(last_begun < turns(1).map(|record| record.done).min(), "sessions think at the same time");
    }
}

#[test]
fn failed_requests_give_their_prefill_slot_back() {
    let server = Server::start(|_, socket| {
        socket.write_all(json_answer("500 Internal Server Error", "{}").as_bytes()).is_ok()
    });
    let limits = Limits { prefill_concurrency: Some(1), ..Limits::default() };
    let ran = run(plan(limits, singles(5, Duration::ZERO)), &[server.url()], options());
    assert_eq!(kinds(&ran), ["status"; 5]);
}

#[test]
fn concurrency_grows_over_its_ramp() {
    let server = slow(ms(5));
    let (ramp, duration) = (ms(300), Some(ms(700)));
    let limits =
        Limits { concurrency: Some(10), concurrency_ramp: Some(ramp), duration, ..Limits::default() };
    let ran = run(Plan { phases: vec![endless(limits)] }, &[server.url()], options());
    let start = ran.summary.phases[0].span.unwrap().0;
    let within = |until: Duration| {
        let early = ran.records.iter().filter(move |record| record.admitted < start + until);
        peak(early.map(|record| (record.admitted, record.done)))
    };
    assert_eq!(within(ms(20)), 1);
    // A third of the way up a ramp from 1 to 10 there are at most 4.
    assert!(within(ramp / 3) <= 4);
    assert_eq!(within(ms(100_000)), 10);
}

#[test]
fn the_request_limit_is_exact_and_cuts_sessions() {
    for threads in [1, 2] {
        let server = Server::streaming(1);
        let arrivals = (0..100)
            .map(|id| Arrival { at: Duration::ZERO, session: session(id, [chat("a"), chat("b"), chat("c")]) })
            .collect();
        let limits = Limits { concurrency: Some(4), requests: Some(10), ..Limits::default() };
        let options = loadgen::Options { threads, ..options() };
        let ran = run(plan(limits, arrivals), &[server.url()], options);
        assert_eq!((ran.records.len(), server.received().len()), (10, 10));
        assert_eq!(ran.summary.phases[0].not_sent, 0);
    }
}

/// Sessions without end, as fast as slots allow.
fn endless(limits: Limits) -> Phase {
    let arrivals = (0..).map(|id| Arrival { at: Duration::ZERO, session: session(id, [chat("x")]) });
    Phase { arrivals: Box::new(arrivals), ..phase(limits, Vec::new()) }
}

#[test]
fn after_the_duration_nothing_starts_and_answers_are_waited_for() {
    let server = slow(ms(30));
    let limits = Limits { concurrency: Some(3), duration: Some(ms(100)), ..Limits::default() };
    let ran = run(Plan { phases: vec![endless(limits)] }, &[server.url()], options());
    let (start, end) = ran.summary.phases[0].span.unwrap();
    assert!(ran.records.len() >= 3 && kinds(&ran).iter().all(|kind| *kind == "success"));
    assert!(ran.records.iter().all(|record| record.admitted < start + ms(100)));
    assert!(end >= ran.records.iter().map(|record| record.done).max().unwrap());
    assert_eq!(ran.summary.end, RunEnd::Complete);
}

#[test]
fn after_the_grace_period_answers_are_cut_off() {
    let server = Server::start(|request, socket| {
        socket.write_all((STREAM_HEAD.to_owned() + &http_chunk(&token_event("x"))).as_bytes()).unwrap();
        thread::sleep(if request.body.contains("prompt 0") { PATIENCE } else { Duration::ZERO });
        socket.write_all((http_chunk("data: [DONE]\n\n") + "0\r\n\r\n").as_bytes()).is_ok()
    });
    let limits = Limits { duration: Some(ms(40)), grace: Some(ms(60)), ..Limits::default() };
    let ran = run(plan(limits, singles(3, ms(1))), &[server.url()], options());
    assert_eq!(kinds(&ran), ["incomplete", "success", "success"]);
    let cut = &ran.records[0];
    assert_eq!(cut.chunks.len(), 1, "what came is kept");
    let start = ran.summary.phases[0].span.unwrap().0;
    assert!(cut.done >= start + ms(40) + ms(60));
}

#[test]
fn the_grace_period_begins_with_the_end_of_the_duration_and_not_with_the_last_arrival() {
    // All that starts has started at once, and a session has a turn under way, or its next one, all the time.
    let talks = || (0..2).map(|id| Arrival { at: ms(0), session: session(id, [chat("a"), chat("b")]) });
    for duration in [None, Some(PATIENCE)] {
        for concurrency in [None, Some(2)] {
            let server = slow(ms(300));
            let limits = Limits { concurrency, duration, grace: Some(ms(30)), ..Limits::default() };
            let ran = run(plan(limits, talks().collect()), &[server.url()], options());
            assert_eq!(kinds(&ran), ["success"; 4], "{duration:?} {concurrency:?}");
        }
    }
}

#[test]
fn what_was_due_but_had_no_slot_is_recorded_as_not_sent() {
    let server = slow(ms(1000));
    let limits =
        Limits { concurrency: Some(2), duration: Some(ms(55)), grace: Some(ms(20)), ..Limits::default() };
    let paced = Phase { closed_loop: false, ..phase(limits, singles(100, ms(10))) };
    let ran = run(Plan { phases: vec![paced] }, &[server.url()], options());
    // Six are due before 55 ms: two find a slot, four do not. The other 94 are not due any more.
    assert_eq!(kinds(&ran), ["incomplete", "incomplete", "not_sent", "not_sent", "not_sent", "not_sent"]);
    assert_eq!((ran.summary.phases[0].issued, ran.summary.phases[0].not_sent), (2, 4));
    let unsent = &ran.records[5];
    assert_eq!(unsent.scheduled, ran.summary.phases[0].span.unwrap().0 + ms(50));
    assert_eq!((unsent.sent, unsent.target), (None, u16::MAX));
    until(|| server.received().len() == 2);
}

#[test]
fn too_many_failures_end_the_run() {
    let server = Server::start(|request, socket| {
        let bad = !request.body.contains("prompt 0\"");
        let answer = if bad { json_answer("500 x", "{}") } else { chunked_stream(1) };
        socket.write_all(answer.as_bytes()).is_ok()
    });
    let limits = Limits { concurrency: Some(1), failed_share: Some(0.5), ..Limits::default() };
    let next = phase(Limits::default(), singles(5, Duration::ZERO));
    let phases = vec![phase(limits, singles(100_000, Duration::ZERO)), next];
    let ran = run(Plan { phases }, &[server.url()], options());
    assert_eq!(ran.summary.end, RunEnd::TooManyFailed);
    assert!((10..100_000).contains(&ran.records.len()), "{}", ran.records.len());
    assert_eq!(ran.summary.phases[1].issued, 0, "later phases are not run");
}

#[test]
fn phases_follow_one_another() {
    let server = slow(ms(10));
    let warmup = Phase { kind: PhaseKind::Warmup, ..phase(Limits::default(), singles(4, ms(1))) };
    let empty = phase(Limits::default(), Vec::new());
    let measured = phase(Limits { concurrency: Some(2), ..Limits::default() }, singles(6, Duration::ZERO));
    for threads in [1, 2] {
        let again = |phase: &Phase, arrivals| Phase {
            name: phase.name.clone(),
            limits: phase.limits.clone(),
            arrivals: Box::new(Vec::into_iter(arrivals)),
            ..*phase
        };
        let phases = vec![
            again(&warmup, singles(4, ms(1))),
            again(&empty, Vec::new()),
            again(&measured, singles(6, Duration::ZERO)),
        ];
        let ran = run(Plan { phases }, &[server.url()], loadgen::Options { threads, ..options() });
        let of = |phase: u16| -> Vec<&Record> { ran.records.iter().filter(|r| r.phase == phase).collect() };
        assert_eq!((of(0).len(), of(1).len(), of(2).len()), (4, 0, 6));
        let last = of(0).iter().map(|record| record.done).max().unwrap();
        assert!(of(2).iter().all(|record| record.scheduled >= last));
        assert_eq!(of(2).iter().map(|record| record.index).collect::<Vec<_>>(), [0, 1, 2, 3, 4, 5]);
        assert_eq!(ran.summary.phases[0].kind, PhaseKind::Warmup);
        assert_eq!(ran.control.progress().phase, 2);
    }
}

#[test]
fn a_phase_waits_for_what_is_done_before_it() {
    for threads in [1, 2] {
        let server = Server::streaming(1);
        let seen = Arc::new(Mutex::new(Vec::new()));
        let (marks, requests) = (seen.clone(), server.log());
        let before = move |phase| {
            thread::sleep(ms(20));
            marks.lock().unwrap().push((phase, requests.lock().unwrap().len()));
        };
        let options = loadgen::Options { threads, before_phase: Some(Arc::new(before)), ..options() };
        let phases =
            vec![phase(Limits::default(), singles(3, ms(1))), phase(Limits::default(), singles(2, ms(1)))];
        let ran = run(Plan { phases }, &[server.url()], options);
        assert_eq!(*seen.lock().unwrap(), [(0, 0), (1, 3)], "nothing is under way meanwhile");
        let (first, second) = (ran.summary.phases[0].span.unwrap(), ran.summary.phases[1].span.unwrap());
        assert!(second.0 >= first.1 + ms(20), "{first:?} {second:?}");
        assert!(ran.records.iter().all(|record| record.scheduled >= first.0));
    }
}

#[test]
fn the_plan_may_cancel_requests() {
    let closed = Arc::new(Mutex::new(0));
    let seen = closed.clone();
    let server = Server::start(move |request, socket| {
        if !request.body.contains("prompt 1") {
            return socket.write_all(chunked_stream(1).as_bytes()).is_ok();
        }
        socket.write_all((STREAM_HEAD.to_owned() + &http_chunk(&token_event("x"))).as_bytes()).unwrap();
        if std::io::Read::read(socket, &mut [0; 1]).is_ok_and(|bytes| bytes == 0) {
            *seen.lock().unwrap() += 1;
        }
        false
    });
    let mut arrivals = singles(3, Duration::ZERO);
    arrivals[1].session.turns[0].request.cancel_after = Some(ms(25));
    arrivals[2].session.turns[0].request.cancel_after = Some(PATIENCE);
    let ran = run(plan(Limits::default(), arrivals), &[server.url()], options());
    assert_eq!(kinds(&ran), ["success", "cancelled", "success"]);
    let cancelled = &ran.records[1];
    assert!(cancelled.done - cancelled.written.unwrap() >= ms(25));
    assert_eq!(cancelled.chunks.len(), 1);
    let progress = ran.control.progress();
    assert_eq!((progress.succeeded, progress.failed), (2, 0), "a cancelled request is no failure");
    until(|| *closed.lock().unwrap() == 1);
}

#[test]
fn one_signal_finishes_two_cut_off() {
    for signals in [1, 2] {
        let server = slow(ms(200));
        let control = Arc::new(Control::new());
        let stopper = control.clone();
        thread::spawn(move || {
            until(|| stopper.progress().sent == 2);
            for _ in 0..signals {
                stopper.stop();
            }
        });
        let limits = Limits { concurrency: Some(2), ..Limits::default() };
        let phases = vec![endless(limits), phase(Limits::default(), singles(3, Duration::ZERO))];
        let ran = run_with(Plan { phases }, &[server.url()], options(), control);
        let (end, outcome) = match signals {
            1 => (RunEnd::Stopped, Outcome::Success),
            _ => (RunEnd::Aborted, Outcome::Incomplete),
        };
        assert_eq!(ran.summary.end, end);
        assert_eq!(
            ran.records.iter().map(|r| r.outcome.clone()).collect::<Vec<_>>(),
            [outcome.clone(), outcome]
        );
        assert_eq!(ran.summary.phases[1].issued, 0);
    }
}

#[test]
fn a_run_that_is_stopped_before_it_begins_sends_nothing() {
    let server = Server::streaming(1);
    let control = Arc::new(Control::new());
    control.stop();
    let limits = Limits { concurrency: Some(2), ..Limits::default() };
    let phases = vec![endless(limits), phase(Limits::default(), singles(3, Duration::ZERO))];
    let ran = run_with(Plan { phases }, &[server.url()], options(), control);
    assert_eq!((ran.summary.end, ran.records.len()), (RunEnd::Stopped, 0));
    assert!(server.received().is_empty());
}

#[test]
fn a_stopped_schedule_says_what_it_owes() {
    let server = slow(ms(400));
    let control = Arc::new(Control::new());
    let stopper = control.clone();
    thread::spawn(move || {
        until(|| stopper.progress().sent == 1);
        thread::sleep(ms(50));
        stopper.stop();
    });
    let limits = Limits { concurrency: Some(1), ..Limits::default() };
    let paced = Phase { closed_loop: false, ..phase(limits, singles(10_000, ms(10))) };
    let ran = run_with(Plan { phases: vec![paced] }, &[server.url()], options(), control);
    assert_eq!(ran.records[0].outcome, Outcome::Success);
    let stopped = ran.records.iter().skip(1).map(|record| record.done).max().unwrap();
    let start = ran.summary.phases[0].span.unwrap().0;
    let due = ((stopped - start).as_millis() / 10) as usize;
    assert!(ran.records.len() >= 5 && ran.records.len().abs_diff(due) <= 3, "{} of {due}", ran.records.len());
    assert!(ran.records[1..].iter().all(|record| record.outcome == Outcome::NotSent));
}

#[test]
fn a_run_without_requests_ends() {
    let nothing = run(Plan { phases: Vec::new() }, &["127.0.0.1:1".to_owned()], options());
    assert_eq!((nothing.records.len(), nothing.summary.phases.len()), (0, 0));
    let empty = run(plan(Limits::default(), Vec::new()), &["127.0.0.1:1".to_owned()], options());
    assert_eq!((empty.records.len(), empty.summary.phases[0].issued), (0, 0));
}
