//! Conversations, targets, and the promise that a plan is sent the same way by any number of threads.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::{
    collections::BTreeMap,
    io::Write,
    sync::{Arc, Mutex},
    thread,
    time::Duration,
};

use common::*;
use loadgen::{Choice, Features, Guard, RouteKey, UrlChooser};
use report::Outcome;
use workload::{Arrival, Limits, Message, Prompt, Request, Turn};

#[test]
fn later_turns_carry_the_servers_real_answers() {
    let server = Server::start(|request, socket| {
        if request.body.contains("second") && !request.body.contains("third") {
            return socket.write_all(json_answer("500 x", "{}").as_bytes()).is_ok();
        }
        socket.write_all(chunked_stream(2).as_bytes()).is_ok()
    });
    let both: Arc<[Message]> = [Message::new("system", "be brief"), Message::user("first")].into();
    let first = Request { prompt: Prompt::Messages(both), ..chat("") };
    let turns = [first, chat("second"), chat("third"), chat("fourth")];
    let arrivals = vec![Arrival { at: Duration::ZERO, session: session(9, turns) }];
    let ran = run(plan(Limits::default(), arrivals), &[server.url()], options());
    assert_eq!(kinds(&ran), ["success", "status", "success", "success"]);

    let start = r#"{"role":"system","content":"be brief"},{"role":"user","content":"first"}"#;
    let answer = r#"{"role":"assistant","content":"t0 t1 "}"#;
    let user = |text: &str| format!(r#"{{"role":"user","content":"{text}"}}"#);
    let said = |turn: usize| {
        let body = server.received()[turn].body.clone();
        body.split("\"messages\":[").nth(1).unwrap().split(']').next().unwrap().to_owned()
    };
    assert_eq!(said(0), start);
    assert_eq!(said(1), [start, answer, &user("second")].join(","));
    // The failed turn was said, and not answered.
    assert_eq!(said(2), [start, answer, &user("second"), &user("third")].join(","));
    assert_eq!(said(3), [start, answer, &user("second"), &user("third"), answer, &user("fourth")].join(","));
    let turns: Vec<_> = ran.records.iter().map(|r| (r.index, r.session, r.turn)).collect();
    assert_eq!(turns, [(0, 9, 0), (1, 9, 1), (2, 9, 2), (3, 9, 3)]);
}

#[test]
fn requests_and_sessions_are_named_in_headers() {
    let server = Server::streaming(1);
    let arrivals = (4..6)
        .map(|id| Arrival { at: Duration::ZERO, session: session(id, [chat("a"), chat("b")]) })
        .collect();
    let options = loadgen::Options {
        run_name: "r7".to_owned(),
        session_header: "X-Session-ID".to_owned(),
        headers: vec![("X-Team".to_owned(), "blue".to_owned())],
        ..options()
    };
    run(plan(Limits::default(), arrivals), &[server.url()], options);
    let mut names: Vec<_> = server
        .received()
        .iter()
        .map(|request| {
            assert!(request.head.starts_with("POST /v1/chat/completions HTTP/1.1\r\n"));
            assert_eq!(request.header("x-team"), Some("blue"));
            assert_eq!(request.header("host"), Some(server.address.to_string().as_str()));
            assert_eq!(request.header("x-session-id"), request.header("x-session-affinity"));
            let name = |header| request.header(header).unwrap().to_owned();
            (name("x-request-id"), name("x-session-id"))
        })
        .collect();
    names.sort();
    let name = |request: &str, session: &str| (request.to_owned(), session.to_owned());
    assert_eq!(
        names,
        [name("r7-0-0", "r7-4"), name("r7-0-1", "r7-4"), name("r7-0-2", "r7-5"), name("r7-0-3", "r7-5")]
    );
}

#[test]
fn a_turn_waits_for_its_own_time() {
    let server = Server::streaming(1);
    let later = Turn { not_before: Some(Duration::from_millis(80)), ..chat("b").into() };
    let arrivals = vec![Arrival { at: Duration::ZERO, session: session(0, [chat("a").into(), later]) }];
    let ran = run(plan(Limits::default(), arrivals), &[server.url()], options());
    let start = ran.summary.phases[0].span.unwrap().0;
    assert_eq!(ran.records[1].scheduled, start + Duration::from_millis(80));
    assert!(ran.records[1].sent.unwrap() >= ran.records[1].scheduled);
}

/// Everything that the plan alone decides, by request name: scheduled time in the phase, target, body.
fn sent(threads: usize) -> BTreeMap<String, (Duration, u16, String)> {
    let servers: Vec<Server> = (0..3).map(|_| Server::streaming(2)).collect();
    let urls: Vec<String> = servers.iter().map(Server::url).collect();
    let arrivals = (0..60)
        .map(|id| Arrival {
            at: Duration::from_micros(id * 700),
            session: session(id, (0..1 + id % 3).map(|turn| chat(format!("{id} {turn}")))),
        })
        .collect();
    let ran = run(plan(Limits::default(), arrivals), &urls, loadgen::Options { threads, ..options() });
    assert_eq!(kinds(&ran), ["success"; 120]);
    assert_eq!(ran.summary.client.threads.len(), threads + 2);
    let start = ran.summary.phases[0].span.unwrap().0;
    let mut bodies = BTreeMap::new();
    for request in servers.iter().flat_map(Server::received) {
        bodies.insert(request.header("X-Request-ID").unwrap().to_owned(), request.body);
    }
    let mut sent = BTreeMap::new();
    for record in &ran.records {
        let name = format!("run-0-{}", record.index);
        let body = bodies.remove(&name).unwrap();
        // Later turns are due when the answer has come: that time is the server's.
        let at = if record.turn == 0 { record.scheduled - start } else { Duration::ZERO };
        sent.insert(name, (at, record.target, body));
    }
    assert!(bodies.is_empty());
    sent
}

#[test]
fn any_number_of_threads_sends_the_same() {
    let one = sent(1);
    assert_eq!(one.len(), 120);
    assert_eq!(sent(2), one);
    assert_eq!(sent(8), one);
}

#[test]
fn a_closed_loop_starts_sessions_in_the_order_of_the_plan() {
    for threads in [1, 2, 8] {
        let server = Server::start(|_, socket| {
            thread::sleep(Duration::from_millis(2));
            socket.write_all(chunked_stream(1).as_bytes()).is_ok()
        });
        let limits = Limits { concurrency: Some(1), ..Limits::default() };
        let options = loadgen::Options { threads, ..options() };
        run(plan(limits, singles(24, Duration::ZERO)), &[server.url()], options);
        let order: Vec<String> =
            server.received().iter().map(|r| r.header("X-Request-ID").unwrap().to_owned()).collect();
        let expected: Vec<String> = (0..24).map(|index| format!("run-0-{index}")).collect();
        assert_eq!(order, expected, "{threads} threads");
    }
}

/// Sends even sessions to target 1, and writes down what it is told.
#[derive(Clone, Default)]
struct Parity(Arc<Mutex<Vec<String>>>);

struct Told(Parity, String);

impl UrlChooser for Parity {
    fn prepare(&self, request: &Request, body: &[u8]) -> RouteKey {
        assert!(!body.is_empty());
        let Prompt::Text(text) = &request.prompt else { unreachable!() };
        RouteKey { prompt_tokens: text.len() as u32, ..RouteKey::default() }
    }

    fn choose(&self, features: &Features<'_>) -> Choice {
        assert_eq!(features.pinned.is_some(), features.turn > 0);
        let name = format!("{}.{} key {}", features.session, features.turn, features.key.prompt_tokens);
        // Only the first answer counts; the second is the place where the session already is.
        let target = if features.turn > 0 { 0 } else { 1 - (features.session % 2) as u16 };
        Choice { target, guard: Some(Box::new(Told(self.clone(), name))) }
    }
}

impl Guard for Told {
    fn produced(&mut self, tokens: u32, now: Duration) {
        assert!(now > Duration::ZERO);
        self.1 += &format!(" +{tokens}");
    }

    fn ended(self: Box<Self>, outcome: &Outcome, _now: Duration) {
        self.0.0.lock().unwrap().push(format!("{} {}", self.1, outcome.kind()));
    }
}

#[test]
fn a_chooser_decides_once_a_session_and_hears_of_every_request() {
    let good = Server::start(|_, socket| {
        for piece in [STREAM_HEAD, &http_chunk(&token_event("a")), &http_chunk(&token_event("b"))] {
            socket.write_all(piece.as_bytes()).unwrap();
            thread::sleep(Duration::from_millis(15));
        }
        socket.write_all((http_chunk("data: [DONE]\n\n") + "0\r\n\r\n").as_bytes()).is_ok()
    });
    let bad = Server::start(|_, socket| socket.write_all(json_answer("500 x", "{}").as_bytes()).is_ok());
    let parity = Parity::default();
    let arrivals = (0..2)
        .map(|id| Arrival { at: Duration::ZERO, session: session(id, [chat("four"), chat("sixsix")]) })
        .collect();
    let options = loadgen::Options { chooser: Arc::new(parity.clone()), ..options() };
    let ran = run(plan(Limits::default(), arrivals), &[bad.url(), good.url()], options);
    let targets: Vec<u16> = ran.records.iter().map(|record| record.target).collect();
    assert_eq!(targets, [1, 1, 0, 0]);
    let mut told = parity.0.lock().unwrap().clone();
    told.sort();
    assert_eq!(
        told,
        ["0.0 key 4 +1 +1 success", "0.1 key 6 +1 +1 success", "1.0 key 4 status", "1.1 key 6 status"]
    );
}

#[test]
fn the_plan_may_pin_a_session_to_a_target() {
    let servers = [Server::streaming(1), Server::streaming(1)];
    let mut arrivals = singles(4, Duration::ZERO);
    for arrival in &mut arrivals {
        arrival.session.target = Some(1);
    }
    let ran = run(plan(Limits::default(), arrivals), &servers.each_ref().map(Server::url), options());
    assert!(ran.records.iter().all(|record| record.target == 1));
    assert_eq!((servers[0].received().len(), servers[1].received().len()), (0, 4));
}
