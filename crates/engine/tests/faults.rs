//! Faults on demand, as a client sees them.

mod support;

use std::{
    io::{BufReader, ErrorKind, Read},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use engine::Config;
use serde_json::json;
use support::{Reply, events, get, post, quick, receive, send, start, state, until};

fn ask(address: SocketAddr, fault: &str, stream: bool) -> TcpStream {
    let body = json!({"prompt": "x", "max_tokens": 6, "stream": stream}).to_string();
    send(address, "POST", "/v1/completions", &format!("x-sim-fault: {fault}\r\n"), &body)
}

fn answer(address: SocketAddr, fault: &str) -> std::io::Result<Reply> {
    receive(ask(address, fault, true))
}

/// Reads a stream until it breaks: how many events came, and how it broke.
fn broken(stream: TcpStream) -> (usize, ErrorKind) {
    let mut reader = BufReader::new(stream);
    support::read_head(&mut reader).expect("a head");
    let mut count = 0;
    loop {
        match support::read_chunk(&mut reader) {
            Ok(Some(_)) => count += 1,
            Ok(None) => panic!("the stream ended in good order"),
            Err(error) => return (count, error.kind()),
        }
    }
}

#[test]
fn a_status_is_given_instead_of_an_answer() {
    let (_fleet, address) = start(quick());
    let reply = answer(address, "status=503").expect("an answer");
    assert_eq!(reply.status, 503);
    assert!(reply.head.contains("retry-after: 1"), "{}", reply.head);
    assert_eq!(reply.json()["error"]["code"], 503);
    assert_eq!(answer(address, "explode").expect("an answer").status, 400);
    assert_eq!(answer(address, "delay=30").expect("an answer").status, 200);
}

#[test]
fn a_connection_is_reset_before_the_head() {
    let (_fleet, address) = start(quick());
    let error = answer(address, "reset_before_headers").err().expect("no answer");
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
}

#[test]
fn streams_break_after_the_tokens_that_they_are_told_to() {
    let (_fleet, address) = start(quick());
    assert_eq!(broken(ask(address, "reset_after_tokens=3", true)).1, ErrorKind::ConnectionReset);
    assert_eq!(broken(ask(address, "truncate=3", true)), (3, ErrorKind::UnexpectedEof));
    assert_eq!(broken(ask(address, "truncate=0", true)), (0, ErrorKind::UnexpectedEof));
    let whole = receive(ask(address, "truncate=3", false));
    assert_eq!(whole.err().map(|error| error.kind()), Some(ErrorKind::UnexpectedEof));
    until(address, "nothing left", |state| state["requests"] == json!(0));
    assert_eq!(state(address)["aborted"], 4);
}

#[test]
fn streams_go_wrong_in_other_ways() {
    let (_fleet, address) = start(quick());
    let ended = events(&answer(address, "end=2").expect("an answer"));
    assert_eq!(ended.len(), 2, "neither the rest nor [DONE]");
    let failed = events(&answer(address, "error=2").expect("an answer"));
    assert!(failed[2].contains("EngineCore"), "{failed:?}");
    assert_eq!(failed.len(), 4);
    let malformed = events(&answer(address, "malformed=2").expect("an answer"));
    assert_eq!(malformed.len(), 6 + 2);
    assert!(serde_json::from_str::<serde_json::Value>(&malformed[2]).is_err());
}

#[test]
fn the_lateness_of_steps_is_counted_anew_when_asked() {
    let (_fleet, address) = start(quick());
    answer(address, "end=2").expect("an answer");
    assert!(state(address)["step_lag"]["max_ms"].as_f64() > Some(0.0));
    assert_eq!(post(address, "/sim/reset_lag", &json!({})).status, 200);
    assert_eq!(state(address)["step_lag"]["max_ms"], json!(0.0));
}

#[test]
fn a_stalled_stream_and_a_hung_request_stay_open() {
    let (_fleet, address) = start(quick());
    for (fault, bytes) in [("stall=2", true), ("hang", false)] {
        let mut stream = ask(address, fault, true);
        if bytes {
            until(address, "the rest of it generated", |state| state["finished"] == json!(1));
        }
        stream.set_read_timeout(Some(Duration::from_millis(150))).expect("a time limit");
        let mut all = Vec::new();
        let error = stream.read_to_end(&mut all).expect_err("still open");
        assert!(matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut), "{fault}: {error}");
        let text = String::from_utf8(all).expect("text");
        assert_eq!(text.matches("data: ").count(), if bytes { 2 } else { 0 }, "{fault}: {text}");
    }
}

#[test]
fn a_plan_hits_the_requests_to_come_and_is_over_after_its_count() {
    let (_fleet, address) = start(quick());
    let plan = json!({"fault": "status=500", "count": 2});
    assert_eq!(post(address, "/sim/fault", &plan).status, 200);
    assert_eq!(get(address, "/health").status, 200, "only requests that generate");
    let body = json!({"prompt": "x"});
    assert_eq!([(); 3].map(|()| post(address, "/v1/completions", &body).status), [500, 500, 200]);
    let everywhere = json!({"fault": "status=502", "every_path": true});
    post(address, "/sim/fault", &everywhere);
    assert_eq!(get(address, "/metrics").status, 502);
    post(address, "/sim/fault", &json!({"fault": "none"}));
    assert_eq!(get(address, "/metrics").status, 200);
    assert_eq!(post(address, "/sim/fault", &json!({"fault": "explode"})).status, 400);
}

#[test]
fn a_replica_can_be_unhealthy_slow_or_deaf() {
    let (_fleet, address) = start(quick());
    post(address, "/sim/fault", &json!({"fault": "health_down"}));
    assert_eq!(get(address, "/health").status, 503);
    assert_eq!(post(address, "/v1/completions", &json!({"prompt": "x"})).status, 200);
    assert_eq!(post(address, "/sim/fault", &json!({"fault": "slow=8"})).json()["slowdown"], 8.0);
    post(address, "/sim/fault", &json!({"fault": "none"}));
    assert_eq!(get(address, "/health").status, 200);
    assert_eq!(state(address)["slowdown"], 1.0);

    post(address, "/sim/fault", &json!({"fault": "refuse=300"}));
    let refused = (0..200).any(|_| {
        std::thread::sleep(Duration::from_millis(1));
        TcpStream::connect(address).is_err_and(|error| error.kind() == ErrorKind::ConnectionRefused)
    });
    assert!(refused);
    let again = (0..1000).any(|_| {
        std::thread::sleep(Duration::from_millis(10));
        TcpStream::connect(address).is_ok()
    });
    assert!(again, "it listens again");
}

#[test]
fn nothing_is_ready_before_the_start_up_delay_is_over() {
    let (_fleet, address) = start(Config { startup_delay: Duration::from_secs(3600), ..quick() });
    assert_eq!(get(address, "/health").status, 503);
    assert_eq!(post(address, "/v1/completions", &json!({"prompt": "x"})).status, 503);
    assert_eq!(state(address)["requests"], 0);
}
