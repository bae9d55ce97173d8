//! Replicas that fail before the first byte of an answer: rows 31 to 38 of the acceptance table.

mod support;

use std::{
    io::{Read, Write},
    net::TcpListener,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    thread,
    time::Duration,
};

use gateway::{DecisionLogSettings, Settings};
use protocol::Decision;
use support::{Gateway, STREAM_HEAD, Upstream, chat, chunk, eventually};

/// The URL of a replica as metrics name it.
fn name(upstream: &Upstream) -> String {
    format!("http://{}", upstream.address)
}

#[test]
fn w31_a_refused_connection_moves_the_request() {
    let upstream = Upstream::fine();
    let gateway = Gateway::with(&[Upstream::nobody(), upstream.address], |settings| {
        settings.policy = "round_robin".parse().unwrap();
        settings.health.consecutive_failures = 1000;
        settings.health.minimum_results = 1000;
    });
    for _ in 0..10 {
        assert_eq!(gateway.ask(chat()).status, 200);
    }
    assert_eq!(upstream.requests().len(), 10);
    assert_eq!(gateway.metric("evenload_retries_total"), 5.0);
    gateway.settle();
}

#[test]
fn w31_failures_eject_and_the_rest_goes_on() {
    let upstream = Upstream::fine();
    let gateway = Gateway::with(&[Upstream::nobody(), upstream.address], |settings| {
        settings.policy = "round_robin".parse().unwrap();
    });
    for _ in 0..30 {
        assert_eq!(gateway.ask(chat()).status, 200);
    }
    assert_eq!(gateway.metric("evenload_retries_total"), 5.0, "ejected after five failures in a row");
    gateway.settle();
}

#[test]
fn w31_when_nobody_listens_the_answer_says_so() {
    for replicas in [vec![Upstream::nobody()], vec![Upstream::nobody(), Upstream::nobody()]] {
        let gateway = Gateway::over(&replicas);
        let answer = gateway.ask(chat());
        assert_eq!((answer.status, answer.code().as_str()), (503, "connect_failed"));
        assert_eq!(answer.field("retry-after").as_deref(), Some("1"));
        gateway.settle();
        assert_eq!(gateway.metric("evenload_retries_total"), replicas.len() as f64 - 1.0);
        for replica in replicas {
            let sent = format!("evenload_prompt_tokens_total{{replica=\"http://{replica}\"}}");
            assert_eq!(gateway.metric(&sent), 0.0, "nothing was sent");
        }
    }
}

#[test]
fn w31_a_busy_replica_is_better_than_none() {
    let busy = Upstream::new(|conn| {
        let mut answer = "429 Too Many Requests\r\nRetry-After: 3600";
        while conn.read_request().is_some() {
            conn.write(format!("HTTP/1.1 {answer}\r\nContent-Length: 0\r\n\r\n"));
            answer = "200 OK";
        }
    });
    let gateway = Gateway::with(&[Upstream::nobody(), busy.address], |settings| {
        settings.policy = "round_robin".parse().unwrap();
        settings.health.consecutive_failures = 1000;
        settings.health.minimum_results = 1000;
    });
    let mut client = gateway.client();
    let mut ask = || {
        client.write(chat());
        client.answer().status
    };
    while ask() != 429 {}
    assert_eq!(ask(), 200, "the other one was picked, and does not listen");
    gateway.settle();
}

#[test]
fn w31_a_hanging_connect_is_bounded() {
    let listener = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    listener.bind(&"127.0.0.1:0".parse::<std::net::SocketAddr>().unwrap().into()).unwrap();
    listener.listen(0).unwrap();
    let address = listener.local_addr().unwrap().as_socket().unwrap();
    let _fill: Vec<_> =
        (0..3).map(|_| std::net::TcpStream::connect_timeout(&address, Duration::from_millis(50))).collect();
    let upstream = Upstream::fine();
    let alone = Gateway::with(&[address], |settings| {
        settings.limits.connect_timeout = Duration::from_millis(100);
    });
    let answer = alone.ask(chat());
    assert_eq!((answer.status, answer.code().as_str()), (504, "connect_timeout"));
    alone.settle();
    let gateway = Gateway::with(&[address, upstream.address], |settings| {
        settings.limits.connect_timeout = Duration::from_millis(100);
    });
    for _ in 0..4 {
        assert_eq!(gateway.ask(chat()).status, 200);
    }
    gateway.settle();
}

#[test]
fn w31_names_are_looked_up() {
    let upstream = Upstream::fine();
    let url = format!("http://localhost:{}", upstream.address.port());
    let gateway = Gateway::with(&[], |settings| {
        settings.replicas = vec![gateway::ReplicaConfig::new(url.parse().unwrap())];
    });
    eventually("the name is known", || gateway.ask(chat()).status == 200);
    let unknown = "http://no-such-name.invalid:1".parse().unwrap();
    let gateway = Gateway::with(&[], |settings| {
        settings.replicas = vec![gateway::ReplicaConfig::new(unknown)];
    });
    assert_eq!(gateway.ask(chat()).code(), "connect_failed");
    gateway.settle();
}

#[test]
fn w32_a_connection_closed_while_idle_costs_nothing() {
    for reset in [false, true] {
        // Each connection serves one request and then closes at the very moment the next one arrives.
        let upstream = Upstream::new(move |conn| {
            conn.read_request();
            conn.write("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}");
            if conn.number % 2 == 0 {
                conn.read_request();
                if reset {
                    support::reset(&conn.stream);
                }
            }
        });
        let gateway = Gateway::with(&[upstream.address], |settings| {
            settings.health.consecutive_failures = 1000;
        });
        // On a machine that stops between the two, the close comes so late that it looks like an engine's end.
        eventually("a close at that moment goes unnoticed", || {
            let mut client = gateway.client();
            let fine = (0..4).all(|_| {
                client.write(chat());
                client.answer().status == 200
            });
            fine && gateway.metric("evenload_replays_total") >= 1.0
        });
        assert_eq!(gateway.metric("evenload_retries_total"), 0.0);
        gateway.settle();
    }
}

#[test]
fn w32_a_request_that_an_engine_worked_on_is_not_sent_again() {
    // Each connection serves one request and breaks over the second, after some time.
    let replica = || {
        Upstream::new(|conn| {
            conn.read_request();
            conn.write("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}");
            conn.read_request();
            thread::sleep(Duration::from_millis(300));
        })
    };
    let upstreams = [replica(), replica()];
    let gateway = Gateway::with(&upstreams.each_ref().map(|upstream| upstream.address), |settings| {
        settings.policy = "round_robin".parse().unwrap();
    });
    let mut client = gateway.client();
    for status in [200, 200, 502, 502] {
        client.write(chat());
        assert_eq!(client.answer().status, status);
    }
    for upstream in &upstreams {
        assert_eq!((upstream.requests().len(), upstream.accepted()), (2, 1));
    }
    assert_eq!(gateway.metric("evenload_replays_total"), 0.0);
    assert_eq!(gateway.metric("evenload_retries_total"), 0.0);
    gateway.expect_errors("upstream_closed", 2);
    gateway.settle();
}

#[test]
fn w32_an_engine_that_is_gone_did_not_close_an_idle_connection() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let engine = thread::spawn(move || {
        let mut stream = listener.accept().unwrap().0;
        let mut bytes = [0; 4096];
        assert!(stream.read(&mut bytes).unwrap() > 0);
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}").unwrap();
        assert!(stream.read(&mut bytes).unwrap() > 0);
        // It dies of the second one.
        drop(listener);
    });
    let gateway = Gateway::over(&[address]);
    let mut client = gateway.client();
    client.write(chat());
    assert_eq!(client.answer().status, 200);
    let other = Upstream::fine();
    let replicas = [address, other.address].map(|address| format!("http://{address}").parse().unwrap());
    let mut settings = Settings::new(replicas.into()).unwrap();
    settings.policy = "round_robin".parse().unwrap();
    gateway.0.apply(&settings).unwrap();
    // One of the two goes to the new replica.
    let answers = [(); 2].map(|()| {
        client.write(chat());
        client.answer()
    });
    engine.join().unwrap();
    let broken: Vec<_> = answers.iter().filter(|answer| answer.status != 200).collect();
    assert_eq!(broken.len(), 1);
    assert_eq!((broken[0].status, broken[0].code().as_str()), (502, "upstream_closed"));
    assert_eq!(other.requests().len(), 1, "what one engine died of does not visit the others");
    gateway.settle();
}

#[test]
fn w33_a_discarded_answer_leaves_no_status() {
    let asked = Arc::<AtomicUsize>::default();
    let replica = || {
        let asked = Arc::clone(&asked);
        Upstream::new(move |conn| {
            conn.read_request();
            if asked.fetch_add(1, SeqCst) == 0 {
                conn.write("HTTP/1.1 500 Internal Server Error\r\nContent-Length: 0\r\n\r\n");
            }
            conn.is_closed_by_peer();
        })
    };
    let upstreams = [replica(), replica()];
    let gateway = Gateway::over(&upstreams.each_ref().map(|upstream| upstream.address));
    let mut client = gateway.client();
    client.write("GET /v1/models HTTP/1.1\r\nHost: a\r\n\r\n");
    eventually("the second replica has it", || asked.load(SeqCst) == 2);
    drop(client);
    gateway.expect_errors("client_gone", 1);
    gateway.settle();
    let counted = |class: &str| -> f64 {
        let rows = upstreams.iter().map(|upstream| {
            let labels = format!("{{replica=\"{}\",code=\"{class}\"}}", name(upstream));
            gateway.metric(&format!("evenload_requests_total{labels}"))
        });
        rows.sum()
    };
    assert_eq!((counted("none"), counted("4xx"), counted("5xx")), (1.0, 0.0, 0.0));
}

#[test]
fn w32_a_connection_seen_closed_is_not_used() {
    let upstream = Upstream::new(|conn| {
        conn.read_request();
        conn.write("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}");
    });
    let gateway = Gateway::before(&upstream);
    let mut client = gateway.client();
    for _ in 0..3 {
        client.write(chat());
        assert_eq!(client.answer().status, 200);
        thread::sleep(Duration::from_millis(50));
    }
    assert_eq!(gateway.metric("evenload_replays_total"), 0.0);
    assert_eq!(upstream.accepted(), 3);
    gateway.settle();
}

#[test]
fn w32_idle_connections_are_given_up_in_time() {
    let upstream = Upstream::fine();
    let gateway = Gateway::with(&[upstream.address], |settings| {
        settings.limits.upstream_idle = Duration::from_millis(100);
    });
    let mut client = gateway.client();
    for (pause, accepted) in [(0, 1), (0, 1), (200, 2)] {
        thread::sleep(Duration::from_millis(pause));
        client.write(chat());
        assert_eq!(client.answer().status, 200);
        assert_eq!(upstream.accepted(), accepted);
    }
    gateway.settle();
}

#[test]
fn w33_closed_before_an_answer() {
    let upstream = Upstream::new(|conn| {
        conn.read_request();
    });
    let gateway = Gateway::before(&upstream);
    let answer = gateway.ask(chat());
    assert_eq!((answer.status, answer.code().as_str()), (502, "upstream_closed"));
    assert_eq!(upstream.requests().len(), 1, "an engine may have begun: no second time");
    gateway.settle();
}

#[test]
fn w33_repeated_where_that_is_safe_or_wanted() {
    let broken = Upstream::new(|conn| {
        conn.read_request();
    });
    let fine = Upstream::fine();
    let get = "GET /v1/models HTTP/1.1\r\nHost: a\r\n\r\n".to_owned();
    let (delete, put) = (get.replace("GET", "DELETE"), chat().replace("POST", "PUT"));
    for (after_sending, request, repeated) in [
        (false, &get, true),
        (false, &chat(), false),
        (false, &delete, false),
        (false, &put, false),
        (true, &chat(), true),
        (true, &delete, true),
    ] {
        let gateway = Gateway::with(&[broken.address, fine.address], |settings| {
            settings.retry.after_sending = after_sending;
            settings.policy = "round_robin".parse().unwrap();
        });
        let statuses: Vec<_> = (0..4).map(|_| gateway.ask(request).status).collect();
        let expected = if repeated { 0 } else { 2 };
        assert_eq!(statuses.iter().filter(|&&status| status == 502).count(), expected, "{statuses:?}");
        gateway.settle();
    }
}

#[test]
fn w34_silence_ends_in_time() {
    let upstream = Upstream::new(|conn| {
        conn.read_request();
        assert!(conn.is_closed_by_peer());
    });
    let gateway = Gateway::with(&[upstream.address], |settings| {
        settings.limits.response_timeout = Duration::from_millis(200);
    });
    let answer = gateway.ask(chat());
    assert_eq!((answer.status, answer.code().as_str()), (504, "upstream_timeout"));
    gateway.settle();
    assert_eq!(upstream.requests().len(), 1);
}

#[test]
fn w35_answers_that_are_none() {
    for garbage in [
        "hello, this is not HTTP\r\n\r\n",
        "<html>0.9</html>",
        "HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n",
        "HTTP/1.1 99 Low\r\n\r\n",
        "HTTP/1.1 200 OK\r\nBad Name: 1\r\n\r\n",
    ] {
        let upstream = Upstream::new(move |conn| {
            conn.read_request();
            conn.write(garbage);
        });
        let gateway = Gateway::before(&upstream);
        let answer = gateway.ask(chat());
        assert_eq!((answer.status, answer.code().as_str()), (502, "upstream_invalid"), "{garbage:?}");
        gateway.settle();
    }
}

#[test]
fn w36_busy_replicas_are_left_alone_for_a_while() {
    for retry_after in ["Retry-After: 3600\r\n", "Retry-After: junk\r\n", ""] {
        let busy = Upstream::answering(format!(
            "HTTP/1.1 429 Too Many Requests\r\n{retry_after}Content-Length: 4\r\n\r\nbusy"
        ));
        let fine = Upstream::fine();
        let gateway = Gateway::with(&[busy.address, fine.address], |settings| {
            settings.policy = "round_robin".parse().unwrap();
        });
        let answers: Vec<_> = (0..10).map(|_| gateway.ask(chat())).collect();
        let refused: Vec<_> = answers.iter().filter(|answer| answer.status == 429).collect();
        assert_eq!(refused.len(), 1, "{retry_after:?}");
        assert_eq!(refused[0].text(), "busy");
        let given = retry_after.trim().strip_prefix("Retry-After: ").map(str::to_owned);
        assert_eq!(refused[0].field("retry-after"), given, "passed on as it came");
        gateway.settle();
    }
}

#[test]
fn w37_answers_about_the_request_pass_unchanged() {
    for (status, line) in
        [(400, "400 Bad Request"), (404, "404 Not Found"), (500, "500 Internal Server Error")]
    {
        let upstream = Upstream::answering(format!(
            "HTTP/1.1 {line}\r\nContent-Type: application/json\r\nContent-Length: 18\r\n\r\n{{\"error\":\"theirs\"}}"
        ));
        let other = Upstream::fine();
        let gateway = Gateway::with(&[upstream.address, other.address], |settings| {
            settings.policy = "round_robin".parse().unwrap();
        });
        let statuses: Vec<_> = (0..20).map(|_| gateway.ask(chat()).status).collect();
        let count = statuses.iter().filter(|&&seen| seen == status).count();
        if status == 500 {
            assert_eq!(count, 5, "ejected after the fifth");
        } else {
            assert_eq!(count, 10, "a working replica: never ejected, nothing repeated");
        }
        gateway.settle();
    }
}

#[test]
fn w37_unusual_reason_phrases_pass() {
    let gateway =
        Gateway::before(&Upstream::answering("HTTP/1.1 418 Short And Stout\r\nContent-Length: 0\r\n\r\n"));
    let answer = gateway.ask(chat());
    assert!(answer.head.starts_with("HTTP/1.1 418 Short And Stout\r\n"), "{}", answer.head);
}

#[test]
fn w38_a_stream_that_begins_with_an_error_counts_against_its_replica() {
    let upstream = Upstream::new(|conn| {
        while conn.read_request().is_some() {
            conn.write(STREAM_HEAD);
            conn.write(chunk("data: {\"error\":{\"message\":\"out of memory\"}}\n\n"));
            conn.write("0\r\n\r\n");
        }
    });
    let fine = Upstream::fine();
    let gateway = Gateway::with(&[upstream.address, fine.address], |settings| {
        settings.policy = "round_robin".parse().unwrap();
    });
    let answers: Vec<_> = (0..20).map(|_| gateway.ask(chat())).collect();
    let errors = answers.iter().filter(|answer| answer.text().contains("out of memory")).count();
    assert_eq!(errors, 5, "passed on, and ejected after the fifth");
    gateway.settle();
}

#[test]
fn a_failure_is_told_with_the_name_of_its_replica() {
    let closing = Upstream::new(|conn| {
        conn.read_request();
    });
    let breaking = Upstream::new(|conn| {
        conn.read_request();
        conn.write(format!("{STREAM_HEAD}{}", chunk("data: 1\n\n")));
    });
    let silent = Upstream::new(|conn| {
        conn.read_request();
        conn.is_closed_by_peer();
    });
    let busy = Upstream::answering("HTTP/1.1 429 Too Many Requests\r\nContent-Length: 0\r\n\r\n");
    for (upstream, reason, outcome) in [
        (&closing, "broken", "upstream_closed"),
        (&breaking, "broken", "upstream_broken"),
        (&silent, "timed_out", "upstream_timeout"),
        (&busy, "busy", "complete"),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("decisions.jsonl");
        let gateway = Gateway::with(&[upstream.address], |settings| {
            settings.limits.response_timeout = Duration::from_millis(500);
            settings.decision_log =
                Some(DecisionLogSettings { path: path.clone(), max_bytes: 1 << 20, salt: None });
        });
        gateway.ask(chat());
        gateway.settle();
        let failures = |reason| {
            let replica = name(upstream);
            gateway.metric(&format!(
                "evenload_replica_failures_total{{replica=\"{replica}\",reason=\"{reason}\"}}"
            ))
        };
        assert_eq!(failures(reason), 1.0, "{outcome}");
        assert_eq!(failures("server_error") + failures("connect_failed"), 0.0, "{outcome}");
        gateway.0.shutdown();
        let line = std::fs::read_to_string(&path).unwrap();
        let decision: Decision<'_> = serde_json::from_str(&line).unwrap();
        assert_eq!((&*decision.outcome, decision.replica.as_deref()), (outcome, Some(&*name(upstream))));
    }
}

#[test]
fn failures_that_a_retry_made_good_are_counted() {
    let (nobody, fine) = (Upstream::nobody(), Upstream::fine());
    let gateway = Gateway::with(&[nobody, fine.address], |settings| {
        settings.policy = "round_robin".parse().unwrap();
    });
    for _ in 0..4 {
        assert_eq!(gateway.ask(chat()).status, 200);
    }
    gateway.settle();
    let failures = |replica: std::net::SocketAddr| {
        gateway.metric(&format!(
            "evenload_replica_failures_total{{replica=\"http://{replica}\",reason=\"connect_failed\"}}"
        ))
    };
    assert_eq!((failures(nobody), failures(fine.address)), (2.0, 0.0));
}
