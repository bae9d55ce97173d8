//! What servers do, well and badly, and what the records say about it.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::{io::Write, net::TcpListener, thread, time::Duration};

use common::*;
use loadgen::Reuse;
use report::{CountSource, Outcome};
use workload::{Limits, Prompt};

#[test]
fn a_streamed_answer_is_measured_from_its_first_byte_to_its_last() {
    let server = Server::start(|_, socket| {
        let mut say = |text: &str| {
            socket.write_all(text.as_bytes()).unwrap();
            thread::sleep(Duration::from_millis(30));
        };
        say(STREAM_HEAD);
        say(&http_chunk("data: {\"choices\":[{\"delta\":{\"role\":\"assistant\",\"content\":\"\"}}]}\n\n"));
        say(&http_chunk(&token_event("a")));
        say(&http_chunk(&token_event("b")));
        say(&http_chunk("data: [DONE]\n\n"));
        say("0\r\n\r\n");
        true
    });
    let options = loadgen::Options { kernel_stamps: true, ..options() };
    let ran = run(plan(Limits::default(), singles(1, Duration::ZERO)), &[server.url()], options);
    let record = &ran.records[0];
    assert_eq!((&record.outcome, record.status), (&Outcome::Success, Some(200)));
    assert_eq!((record.chunks.len(), record.output_tokens.source), (2, CountSource::Chunks));
    let times = [
        record.scheduled,
        record.sent.unwrap(),
        record.written.unwrap(),
        record.headers.unwrap(),
        record.chunks[0].at,
        record.chunks[1].at,
        record.done,
    ];
    assert!(times.is_sorted(), "{times:?}");
    assert!(record.connect.is_some() && !record.connection_reused);
    let receive_lag = &ran.summary.client.receive_lag;
    assert_eq!(receive_lag.count(), 2, "the kernel says when it received each token");
    assert!(u128::from(receive_lag.max().unwrap()) < ran.summary.duration.as_nanos());
    let ms = Duration::from_millis;
    // Each step waits 30 ms at the server; nothing can be seen before it happened.
    assert!(record.ttft().unwrap() >= ms(55), "the role alone is not a token");
    assert!(record.e2e().unwrap() - record.ttft().unwrap() >= ms(25));
    assert!(record.done - record.chunks[1].at >= ms(55));
}

#[test]
fn every_way_to_cut_a_stream_over_the_wire_gives_the_same_record() {
    let text = chunked_stream(2);
    let server = Server::start(move |request, socket| {
        // The prompt says where to cut.
        let cut: usize =
            request.body.split("cut ").nth(1).unwrap().split('"').next().unwrap().parse().unwrap();
        let (first, second) = text.as_bytes().split_at(cut);
        socket.write_all(first).unwrap();
        thread::sleep(Duration::from_micros(300));
        socket.write_all(second).is_ok()
    });
    let cuts = chunked_stream(2).len() as u64;
    let arrivals = (0..=cuts)
        .map(|cut| {
            let mut arrival = singles(1, Duration::ZERO).remove(0);
            arrival.session.turns[0].request.prompt = Prompt::Text(format!("cut {cut}").into());
            arrival
        })
        .collect();
    let limits = Limits { concurrency: Some(8), ..Limits::default() };
    let ran = run(plan(limits, arrivals), &[server.url()], options());
    assert_eq!(ran.records.len() as u64, cuts + 1);
    for record in &ran.records {
        assert_eq!(record.outcome, Outcome::Success, "cut at {}", record.index);
        assert_eq!((record.chunks.len(), record.output_tokens.tokens), (2, 2));
        assert_eq!((record.input_tokens.tokens, record.input_tokens.source), (7, CountSource::Usage));
    }
}

#[test]
fn whole_answers_have_one_chunk_at_their_end() {
    let server = Server::start(|_, socket| {
        let body = r#"{"choices":[{"message":{"content":"four score"},"finish_reason":"stop"}],"usage":{"prompt_tokens":3,"completion_tokens":2}}"#;
        socket.write_all(json_answer("200 OK", body).as_bytes()).is_ok()
    });
    let mut arrivals = singles(3, Duration::ZERO);
    for arrival in &mut arrivals {
        arrival.session.turns[0].request.stream = false;
    }
    let limits = Limits { concurrency: Some(1), ..Limits::default() };
    let options = loadgen::Options { keep_answers: true, ..options() };
    let ran = run(plan(limits, arrivals), &[server.url()], options);
    for (record, text) in ran.records.iter().zip(&ran.texts) {
        assert_eq!((&record.outcome, record.chunks.len()), (&Outcome::Success, 1));
        assert_eq!((record.chunks[0].at, record.chunks[0].tokens), (record.done, 2));
        assert_eq!(text.as_ref().unwrap().text, "four score");
    }
    let reused: Vec<bool> = ran.records.iter().map(|record| record.connection_reused).collect();
    assert_eq!(reused, [false, true, true]);
    assert_eq!((ran.summary.client.connections_opened, ran.summary.client.connections_reused), (1, 2));
    assert!(server.received()[0].body.contains("\"stream\":false"));
}

#[test]
fn a_dead_target_fails_its_own_requests_only() {
    let (one, two) = (Server::streaming(3), Server::streaming(3));
    let dead = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let urls = [one.url(), format!("{dead}"), two.url(), "no-such-host.invalid:1".to_owned()];
    let ran = run(plan(Limits::default(), singles(40, Duration::from_micros(200))), &urls, options());
    for record in &ran.records {
        let good = [0, 2].contains(&record.target);
        assert_eq!(record.outcome.is_success(), good, "{record:?}");
        assert_eq!(u64::from(record.target), record.index % 4);
        match (&record.outcome, record.target) {
            (Outcome::Connect(why), 1) => assert!(why.contains(&dead.to_string()) && why.contains("refused")),
            (Outcome::Connect(why), 3) => assert!(why.contains("no-such-host.invalid")),
            (outcome, _) => assert_eq!(outcome, &Outcome::Success),
        }
        assert_eq!(record.sent.is_some(), good);
    }
    let progress = ran.control.progress();
    assert_eq!((progress.sent, progress.succeeded, progress.failed), (40, 20, 20));
    assert_eq!(progress.tokens, 60);
}

#[test]
fn servers_that_misbehave_are_told_apart() {
    let server = Server::start(|request, socket| {
        let mut say = |text: &str| socket.write_all(text.as_bytes()).unwrap();
        let said = |what: &str| request.body.contains(what);
        if said("429") {
            say(&json_answer("429 Too Many Requests", r#"{"error":{"message":"queue full"}}"#));
            return true;
        }
        if said("hangs up") {
            return false;
        }
        say(STREAM_HEAD);
        say(&http_chunk(&token_event("x")));
        if said("resets") {
            let linger = Some(Duration::ZERO);
            rustix::net::sockopt::set_socket_linger(&socket, linger).unwrap();
        } else if said("malformed") {
            say(&http_chunk("data: {\"choices\": nonsense\n\n"));
        } else if said("error event") {
            say(&http_chunk("data: {\"error\":{\"message\":\"engine died\"}}\n\n"));
        } else if said("never ends") {
            thread::sleep(PATIENCE);
        }
        false
    });
    let prompts = ["429", "hangs up", "resets", "malformed", "error event", "never ends", "breaks off"];
    let arrivals = (0..)
        .zip(prompts)
        .map(|(id, prompt)| workload::Arrival { at: Duration::ZERO, session: session(id, [chat(prompt)]) })
        .collect();
    let limits = Limits { request_timeout: Some(Duration::from_millis(300)), ..Limits::default() };
    let ran = run(plan(limits, arrivals), &[server.url()], options());
    assert_eq!(kinds(&ran), ["status", "broken", "broken", "malformed", "stream_error", "timeout", "broken"]);
    assert_eq!(ran.records[0].outcome, Outcome::Status(429, "queue full".to_owned()));
    assert_eq!(ran.records[4].outcome, Outcome::StreamError("engine died".to_owned()));
    assert!(matches!(&ran.records[2].outcome, Outcome::Broken(why) if why.contains("reset")));
    for record in &ran.records[2..] {
        assert_eq!(record.chunks.len(), 1, "what was measured before the failure stays: {record:?}");
    }
    assert!(ran.records[5].done - ran.records[5].sent.unwrap() >= Duration::from_millis(290));
}

#[test]
fn a_server_that_does_not_take_connections_is_a_timeout_of_connecting() {
    // Addresses of TEST-NET-1 lead nowhere; where a sandbox refuses them at once, that is a failure to connect too.
    let options = loadgen::Options { connect_timeout: Duration::from_millis(50), ..options() };
    let ran = run(plan(Limits::default(), singles(2, Duration::ZERO)), &["192.0.2.1:9".to_owned()], options);
    assert_eq!(kinds(&ran), ["connect", "connect"]);
}

#[test]
fn a_connection_that_died_while_idle_is_replaced_without_a_trace() {
    let server = Server::start(|request, socket| {
        // The second request on a connection is read, and the connection closed instead of an answer: this is what
        // a client sees whose request crosses with the server's closing.
        request.nth == 0 && socket.write_all(chunked_stream(1).as_bytes()).is_ok()
    });
    let limits = Limits { concurrency: Some(1), ..Limits::default() };
    let ran = run(plan(limits, singles(4, Duration::ZERO)), &[server.url()], options());
    assert_eq!(kinds(&ran), ["success"; 4]);
    assert_eq!(ran.summary.client.resent, 3);
    assert!(ran.records.iter().all(|record| !record.connection_reused));
    for record in &ran.records[1..] {
        let ready = record.admitted + record.connect.unwrap();
        assert!(record.sent >= Some(ready), "sent on the connection that was opened for it: {record:?}");
    }
    // A fresh connection that is closed without an answer is a failure: nothing is sent a third time.
    let rude = Server::start(|_, _| false);
    let ran = run(plan(Limits::default(), singles(2, Duration::ZERO)), &[rude.url()], options());
    assert_eq!((kinds(&ran), rude.received().len()), (vec!["broken"; 2], 2));
}

#[test]
fn a_refusal_before_the_body_was_read_is_understood() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = listener.local_addr().unwrap().to_string();
    thread::spawn(move || {
        let (mut socket, _) = listener.accept().unwrap();
        socket
            .write_all(json_answer("413 Payload Too Large", "{\"detail\":\"too large\"}").as_bytes())
            .unwrap();
        // Closes with the request unread: a reset follows the answer.
        thread::sleep(Duration::from_millis(100));
    });
    let huge = session(0, [chat("x".repeat(30 << 20))]);
    let arrivals = vec![workload::Arrival { at: Duration::ZERO, session: huge }];
    let ran = run(plan(Limits::default(), arrivals), &[url], options());
    assert_eq!(ran.records[0].outcome, Outcome::Status(413, "too large".to_owned()));
}

#[test]
fn connections_are_reused_as_asked() {
    let sessions = || -> Vec<_> {
        (0..3)
            .map(|id| workload::Arrival {
                at: Duration::ZERO,
                session: session(id, [chat(format!("s{id} a")), chat("b"), chat("c")]),
            })
            .collect()
    };
    let connections = |reuse| {
        let server = Server::streaming(1);
        let limits = Limits { concurrency: Some(2), ..Limits::default() };
        let ran = run(plan(limits, sessions()), &[server.url()], loadgen::Options { reuse, ..options() });
        assert_eq!(kinds(&ran), ["success"; 9]);
        (server, ran)
    };

    let (server, ran) = connections(Reuse::Never);
    assert_eq!(ran.summary.client.connections_opened, 9);
    assert!(server.received().iter().all(|request| request.header("connection") == Some("close")));

    let (server, ran) = connections(Reuse::StickySessions);
    assert_eq!(ran.summary.client.connections_opened, 3, "one a session, though an idle one was at hand");
    for request in server.received() {
        let same: Vec<_> = server
            .received()
            .into_iter()
            .filter(|other| other.header("X-Correlation-ID") == request.header("X-Correlation-ID"))
            .map(|other| other.connection)
            .collect();
        assert_eq!(same, [request.connection; 3]);
    }

    let (_, ran) = connections(Reuse::Pooled);
    assert_eq!(ran.summary.client.connections_opened, 2);
}
