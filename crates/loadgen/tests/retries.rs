//! What is tried again, what is not, and what the record says of it.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::{
    io::Write,
    net::TcpListener,
    sync::atomic::{AtomicUsize, Ordering::SeqCst},
    thread,
    time::{Duration, Instant},
};

use common::*;
use loadgen::{Options, Retries};
use report::{Metric, Outcome};
use workload::Limits;

const BACKOFF: Duration = Duration::from_millis(40);

fn retrying(limit: u16) -> Options {
    Options { retries: Retries { limit, backoff: BACKOFF }, ..options() }
}

/// A server that closes the first `failures` connections as soon as it has read a request.
fn shaky(failures: usize) -> Server {
    let seen = AtomicUsize::new(0);
    Server::start(move |_, socket| {
        seen.fetch_add(1, SeqCst) >= failures && socket.write_all(chunked_stream(3).as_bytes()).is_ok()
    })
}

#[test]
fn a_connection_that_breaks_before_any_answer_is_replaced_until_the_limit() {
    let server = shaky(2);
    let ran = run(plan(Limits::default(), singles(1, BACKOFF)), &[server.url()], retrying(2));
    let record = &ran.records[0];
    assert_eq!((&record.outcome, record.retries, server.received().len()), (&Outcome::Success, 2, 3));
    assert!(record.retried_for >= BACKOFF / 2 + BACKOFF, "{:?}", record.retried_for);
    assert!(record.sent.unwrap() >= record.scheduled + record.retried_for);
    Metric::ClientLag.values(record, |lag| assert!(lag < 1_000_000_000, "not this side's fault: {lag}"));

    let given_up = run(plan(Limits::default(), singles(1, BACKOFF)), &[shaky(9).url()], retrying(1));
    assert_eq!((kinds(&given_up), given_up.records[0].retries), (vec!["broken"], 1));
}

#[test]
fn a_server_that_comes_up_late_is_found() {
    let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let late = thread::spawn(move || {
        thread::sleep(BACKOFF);
        let (mut socket, _) = TcpListener::bind(address).unwrap().accept().unwrap();
        thread::sleep(BACKOFF);
        socket.write_all(chunked_stream(3).as_bytes()).unwrap();
    });
    let ran = run(plan(Limits::default(), singles(1, BACKOFF)), &[format!("http://{address}")], retrying(8));
    assert_eq!(kinds(&ran), ["success"]);
    assert!(ran.records[0].retries > 0);
    late.join().unwrap();
}

#[test]
fn an_answer_of_any_status_is_final() {
    let server = Server::start(|_, socket| {
        socket.write_all(json_answer("503 Service Unavailable", "{}").as_bytes()).is_ok()
    });
    let ran = run(plan(Limits::default(), singles(1, BACKOFF)), &[server.url()], retrying(5));
    assert_eq!((kinds(&ran), ran.records[0].retries, server.received().len()), (vec!["status"], 0, 1));
}

#[test]
fn the_time_limit_covers_all_attempts() {
    let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let limits = Limits { request_timeout: Some(4 * BACKOFF), ..Limits::default() };
    let started = Instant::now();
    let ran = run(plan(limits, singles(1, BACKOFF)), &[format!("http://{address}")], retrying(10));
    assert!(matches!(ran.records[0].outcome, Outcome::Connect(_) | Outcome::Timeout));
    assert!(started.elapsed() < BACKOFF * 100, "ten waits would be over a minute");
}

#[test]
fn bodies_are_handed_on_as_they_went_over_the_wire() {
    let server = Server::streaming(2);
    let ran = run(
        plan(Limits::default(), singles(1, BACKOFF)),
        &[server.url()],
        Options { keep_bodies: true, ..options() },
    );
    let bodies = ran.texts[0].as_ref().unwrap().bodies.as_ref().unwrap();
    assert_eq!(String::from_utf8_lossy(&bodies.request), server.received()[0].body);
    assert_eq!(ran.records[0].request_bytes as usize, bodies.request.len());
    let answer = String::from_utf8_lossy(&bodies.answer);
    assert!(answer.starts_with(&token_event("t0 ")) && answer.ends_with("data: [DONE]\n\n"), "{answer}");
}

#[test]
fn a_run_starts_at_its_moment() {
    let server = Server::streaming(1);
    let moment = Instant::now() + Duration::from_millis(150);
    let ran = run(
        plan(Limits::default(), singles(3, BACKOFF)),
        &[server.url()],
        Options { not_before: Some(moment), ..options() },
    );
    let start = ran.summary.phases[0].span.unwrap().0;
    assert_eq!(ran.records[0].scheduled, start);
    assert!(start > Duration::from_millis(50), "{start:?}");
}

#[test]
fn what_broke_after_an_interim_response_is_sent_again_whole() {
    let server = Server::start(|request, socket| {
        if request.connection == 0 {
            socket.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").unwrap();
            thread::sleep(BACKOFF);
            return false;
        }
        socket.write_all(chunked_stream(3).as_bytes()).is_ok()
    });
    let ran = run(plan(Limits::default(), singles(1, BACKOFF)), &[server.url()], retrying(1));
    assert_eq!((kinds(&ran), ran.records[0].retries), (vec!["success"], 1));
    let bodies: Vec<String> = server.received().into_iter().map(|request| request.body).collect();
    assert!(bodies.len() == 2 && bodies[0] == bodies[1] && !bodies[0].is_empty(), "{bodies:?}");
}

#[test]
fn no_wait_goes_beyond_the_time_limit() {
    let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let limits = Limits { request_timeout: Some(BACKOFF), ..Limits::default() };
    let retries = Retries { limit: 1, backoff: PATIENCE * 10 };
    let ran = run(
        plan(limits, singles(1, BACKOFF)),
        &[format!("http://{address}")],
        Options { retries, ..options() },
    );
    assert_eq!((kinds(&ran), ran.records[0].retries), (vec!["connect"], 0));
}
