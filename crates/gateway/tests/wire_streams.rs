//! Answers that go wrong on their way: rows 39 to 43 of the acceptance table.

mod support;

use std::{
    io::{ErrorKind, Read, Write},
    sync::{Mutex, mpsc},
    thread,
    time::Duration,
};

use gateway::DecisionLogSettings;
use support::{Gateway, PATIENCE, STREAM_HEAD, Upstream, chat, chunk, eventually, post};

#[test]
fn w39_a_killed_replica_leaves_a_stream_that_looks_broken() {
    for reset in [false, true] {
        for events in [0, 1, 3, 200] {
            let upstream = Upstream::new(move |conn| {
                conn.read_request();
                let stream: String =
                    (0..events).map(|number| chunk(&format!("data: {number}\n\n"))).collect();
                conn.write(format!("{STREAM_HEAD}{stream}"));
                if reset {
                    // A reset throws away what the peer has not read yet.
                    thread::sleep(Duration::from_millis(100));
                    support::reset(&conn.stream);
                }
            });
            let gateway = Gateway::before(&upstream);
            let answer = gateway.ask(chat());
            let expected: String = (0..events).map(|number| format!("data: {number}\n\n")).collect();
            assert_eq!((answer.text(), answer.whole), (expected, false), "reset {reset}, {events} events");
            assert_eq!(upstream.requests().len(), 1, "no second time");
            gateway.expect_errors("upstream_broken", 1);
            gateway.settle();
        }
    }
}

#[test]
fn w40_lengths_that_do_not_hold() {
    let short = Upstream::new(|conn| {
        conn.read_request();
        conn.write("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n12345");
    });
    let gateway = Gateway::before(&short);
    let answer = gateway.ask(chat());
    assert_eq!((answer.text().as_str(), answer.whole), ("12345", false));
    gateway.settle();
    let long = Upstream::answering("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n12345");
    let gateway = Gateway::before(&long);
    let mut client = gateway.client();
    for _ in 0..2 {
        client.write(chat());
        assert_eq!(client.answer().text(), "123");
    }
    assert_eq!(long.accepted(), 2);
    gateway.settle();
}

#[test]
fn w40_without_a_length_the_end_of_the_connection_is_the_end() {
    let upstream = Upstream::new(|conn| {
        conn.read_request();
        conn.write("HTTP/1.0 200 OK\r\nContent-Type: text/plain\r\n\r\nuntil the end");
    });
    let gateway = Gateway::before(&upstream);
    let answer = gateway.ask(chat());
    assert_eq!((answer.text().as_str(), answer.whole), ("until the end", true));
    gateway.settle();
}

#[test]
fn w40_an_answer_to_http_10_that_breaks_off_ends_in_a_reset() {
    let (tell, told) = mpsc::channel::<()>();
    let told = Mutex::new(told);
    let upstream = Upstream::new(move |conn| {
        conn.read_request();
        conn.write(STREAM_HEAD);
        conn.write(chunk("data: 1\n\n"));
        let _ = told.lock().unwrap().recv();
    });
    let gateway = Gateway::before(&upstream);
    let mut client = gateway.client();
    client.write("GET /v1/models HTTP/1.0\r\n\r\n");
    client.read_until(b"data: 1\n\n");
    drop(tell);
    let error = client.stream.read(&mut [0; 64]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    gateway.settle();
}

#[test]
fn w41_a_stall_ends_both_sides() {
    let (tell, told) = mpsc::channel();
    let tell = Mutex::new(tell);
    let upstream = Upstream::new(move |conn| {
        conn.read_request();
        conn.write(STREAM_HEAD);
        conn.write(chunk("data: 1\n\n"));
        tell.lock().unwrap().send(conn.is_closed_by_peer()).unwrap();
    });
    let gateway = Gateway::with(&[upstream.address], |settings| {
        settings.limits.stream_timeout = Duration::from_millis(300);
    });
    let answer = gateway.ask(chat());
    assert_eq!((answer.text().as_str(), answer.whole), ("data: 1\n\n", false));
    assert_eq!(told.recv_timeout(PATIENCE), Ok(true));
    gateway.expect_errors("upstream_idle", 1);
    gateway.settle();
}

#[test]
fn w41_a_tunnel_whose_client_reads_nothing_ends() {
    let upstream = Upstream::new(|conn| {
        conn.read_request();
        conn.write("HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n");
        while conn.stream.write_all(&[0; 65536]).is_ok() {}
    });
    let gateway = Gateway::with(&[upstream.address], |settings| {
        settings.limits.stream_timeout = Duration::from_millis(500);
    });
    let mut client = gateway.client();
    client.write("GET /ws HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n");
    client.read_until(b"\r\n\r\n");
    gateway.settle();
}

#[test]
fn what_an_engine_says_in_parts_is_counted_once() {
    let events = [
        r#"{"message":{"usage":{"input_tokens":6,"cache_read_input_tokens":64,"output_tokens":1}}}"#,
        r#"{"delta":{"text":"x"}}"#,
        r#"{"usage":{"input_tokens":6,"cache_read_input_tokens":64,"output_tokens":8}}"#,
        r#"{"usage":{"output_tokens":9}}"#,
    ];
    for whole in [true, false] {
        let (tell, told) = mpsc::channel::<()>();
        let told = Mutex::new(told);
        let upstream = Upstream::new(move |conn| {
            conn.read_request();
            conn.write(STREAM_HEAD);
            for event in events {
                conn.write(chunk(&format!("data: {event}\n\n")));
                let _ = told.lock().unwrap().recv_timeout(PATIENCE);
            }
            if whole {
                conn.write("0\r\n\r\n");
            }
        });
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("decisions");
        let gateway = Gateway::with(&[upstream.address], |settings| {
            let path = path.clone();
            settings.decision_log = Some(DecisionLogSettings { path, max_bytes: 1 << 20, salt: None });
        });
        let mut client = gateway.client();
        let body = format!(r#"{{"model":"{}","messages":[]}}"#, "\u{e9}".repeat(200));
        client.write(post(&body).replace("/v1/chat/completions", "/v1/messages"));
        for event in events {
            // Each comes in a read of its own.
            client.read_until(event.as_bytes());
            tell.send(()).unwrap();
        }
        client.read_until(if whole { b"0\r\n\r\n" } else { b"\n\n\r\n" });
        gateway.settle();
        let metric =
            |name: &str| gateway.metric(&format!("{name}{{replica=\"http://{}\"}}", upstream.address));
        assert_eq!(metric("evenload_cached_tokens_total"), 64.0);
        assert_eq!(metric("evenload_output_tokens_total"), 9.0);
        // The prompt is one block of text or less, as the history counts.
        assert!(metric("evenload_unpredicted_cached_tokens_total") <= 16.0);
        gateway.0.shutdown();
        let line = std::fs::read_to_string(path).unwrap();
        let decision: serde_json::Value = serde_json::from_str(&line).unwrap();
        let kept = ["prompt_tokens", "cached_tokens", "output_length"].map(|key| decision[key].as_u64());
        assert_eq!(kept, [Some(70), Some(64), Some(9)], "{line}");
        assert_eq!(decision["model"], "\u{e9}".repeat(128), "of a name without end, the beginning");
    }
}

#[test]
fn w41_a_slow_stream_is_no_stall() {
    let upstream = Upstream::new(|conn| {
        conn.read_request();
        conn.write(STREAM_HEAD);
        for _ in 0..8 {
            thread::sleep(Duration::from_millis(100));
            conn.write(chunk("data: 1\n\n"));
        }
        conn.write("0\r\n\r\n");
    });
    let gateway = Gateway::with(&[upstream.address], |settings| {
        settings.limits.stream_timeout = Duration::from_millis(400);
    });
    let answer = gateway.ask(chat());
    assert_eq!((answer.text(), answer.whole), ("data: 1\n\n".repeat(8), true));
    gateway.settle();
}

#[test]
fn w42_events_cut_anywhere_pass_unchanged_and_are_counted() {
    let stream = "\u{feff}: ping\r\ndata: {\"choices\":[]}\r\n\r\nevent: x\ndata: one\ndata: two\n\ndata:3\r\rdata: \
                  {\"choices\":[],\"usage\":{\"prompt_tokens\":9,\"completion_tokens\":41,\
                  \"prompt_tokens_details\":{\"cached_tokens\":6}}}\n\ndata: [DONE]\n\n";
    let cuts: Vec<usize> = (1..stream.len()).filter(|&cut| stream.is_char_boundary(cut)).collect();
    let upstream = Upstream::new({
        let cuts = cuts.clone();
        move |conn| {
            for number in 0.. {
                if conn.read_request().is_none() {
                    return;
                }
                let (first, second) = stream.split_at(cuts[number % cuts.len()]);
                conn.write(STREAM_HEAD);
                conn.write(chunk(first));
                conn.write(chunk(second));
                conn.write("0\r\n\r\n");
            }
        }
    });
    let gateway = Gateway::before(&upstream);
    let mut client = gateway.client();
    for _ in &cuts {
        client.write(chat());
        let answer = client.answer();
        assert_eq!((answer.text().as_str(), answer.whole), (stream, true));
    }
    gateway.settle();
    let count = cuts.len() as f64;
    let name = |metric: &str| format!("evenload_{metric}{{replica=\"http://{}\"}}", upstream.address);
    assert_eq!(gateway.metric(&name("output_tokens_total")), 41.0 * count);
    assert_eq!(gateway.metric(&name("cached_tokens_total")), 6.0 * count);
    assert_eq!(gateway.metric(&name("time_to_first_token_seconds_count")), count);
}

#[test]
fn w42_events_that_announce_an_answer_are_no_tokens() {
    for (path, announced, token, end) in [
        (
            "/v1/responses",
            &["response.created", "response.in_progress"][..],
            "response.output_text.delta",
            "response.completed",
        ),
        (
            "/v1/messages",
            &["message_start", "ping", "content_block_start"],
            "content_block_delta",
            "message_stop",
        ),
    ] {
        for named in [true, false] {
            let event = move |name: &str| {
                let line = if named { format!("event: {name}\n") } else { String::new() };
                chunk(&format!("{line}data: {{\"type\":\"{name}\"}}\n\n"))
            };
            let (tell, told) = mpsc::channel::<()>();
            let told = Mutex::new(told);
            let upstream = Upstream::new(move |conn| {
                while conn.read_request().is_some() {
                    conn.write(STREAM_HEAD);
                    announced.iter().for_each(|name| conn.write(event(name)));
                    let _ = told.lock().unwrap().recv_timeout(PATIENCE);
                    (0..3).for_each(|_| conn.write(event(token)));
                    conn.write(event(end));
                    conn.write("0\r\n\r\n");
                }
            });
            let gateway = Gateway::before(&upstream);
            let mut client = gateway.client();
            client.write(chat().replace("/v1/chat/completions", path));
            client.read_until(format!("\"{}\"}}\n\n", announced[announced.len() - 1]).as_bytes());
            let replica = &gateway.0.router().replicas()[0];
            assert_eq!(replica.load.snapshot().waiting, 1, "{path}");
            assert_eq!(replica.load.last_produced(), None, "{path}");
            tell.send(()).unwrap();
            client.read_until(b"\r\n0\r\n\r\n");
            gateway.settle();
            let name = |metric: &str| format!("evenload_{metric}{{replica=\"http://{}\"}}", upstream.address);
            assert_eq!(gateway.metric(&name("output_tokens_total")), 3.0, "{path}");
            assert_eq!(gateway.metric(&name("time_to_first_token_seconds_count")), 1.0, "{path}");
        }
    }
}

#[test]
fn w42_the_end_of_a_stream_is_seen_however_large_it_is() {
    let usage = r#""usage":{"input_tokens":9,"output_tokens":41}"#;
    let text = "x".repeat(400_000);
    for end in [
        format!("{{\"type\":\"response.completed\",\"response\":{{\"output\":\"{text}\",{usage}}}}}"),
        format!("{{\"type\":\"response.completed\",\"response\":{{{usage},\"messages\":\"{text}\"}}}}"),
    ] {
        let upstream = Upstream::new(move |conn| {
            conn.read_request();
            conn.write(STREAM_HEAD);
            conn.write(chunk("event: response.output_text.delta\ndata: {}\n\n"));
            conn.write(chunk(&format!("event: response.completed\ndata: {end}\n\n")));
            conn.is_closed_by_peer();
        });
        let gateway = Gateway::before(&upstream);
        let mut client = gateway.client();
        client.write(chat().replace("chat/completions", "responses"));
        client.read_until(b"}}\n\n\r\n");
        // It has heard all that means something.
        drop(client);
        gateway.settle();
        gateway.expect_errors("client_gone", 0);
        let name = format!("evenload_output_tokens_total{{replica=\"http://{}\"}}", upstream.address);
        assert_eq!(gateway.metric(&name), 41.0);
    }
}

#[test]
fn w42_answers_are_remembered_as_long_as_engines_say_they_are() {
    // Three events of the model, and 80 tokens in them.
    let upstream = Upstream::new(|conn| {
        while conn.read_request().is_some() {
            conn.write(STREAM_HEAD);
            (0..3).for_each(|_| conn.write(chunk("data: {\"choices\":[{}]}\n\n")));
            conn.write(chunk(
                "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":99,\"completion_tokens\":80}}\n\n",
            ));
            conn.write("0\r\n\r\n");
        }
    });
    let gateway = Gateway::before(&upstream);
    let body = |prompt: &str| format!("{{\"model\":\"m\",\"prompt\":\"{prompt}\"}}");
    let ask = |prompt: &str| post(&body(prompt)).replace("chat/completions", "completions");
    let first = "a".repeat(640);
    assert!(gateway.ask(ask(&first)).whole);
    gateway.settle();
    let explained = gateway.admin(ask(&(first + &"b".repeat(640))).replace("/v1/", "/api/explain/v1/"));
    let explained: serde_json::Value = serde_json::from_slice(&explained.body).unwrap();
    let cached = &explained["candidates"][0]["cost"]["cached_tokens"];
    assert_eq!(cached, 160 + 48, "half of the answer's five blocks, before any was seen: {explained}");
}

#[test]
fn w42_errors_as_events_are_failures_of_the_replica() {
    for (number, error) in [
        "data: {\"error\":{\"message\":\"boom\"}}\n\n",
        "data: { \"error\": {\"message\":\"boom\"}}\n\n",
        "event: error\ndata: {\"type\":\"error\",\"error\":{\"message\":\"boom\"}}\n\n",
        "data: {\"type\":\"error\",\"message\":\"boom\"}\n\n",
        "event: response.failed\ndata: {\"type\":\"response.failed\",\"response\":{}}\n\n",
        // The last one is no error.
        "data: {\"error\":null,\"choices\":[]}\n\n",
    ]
    .into_iter()
    .enumerate()
    {
        let upstream = Upstream::new(move |conn| {
            conn.read_request();
            conn.write(format!("{STREAM_HEAD}{}{}0\r\n\r\n", chunk("data: 1\n\n"), chunk(error)));
        });
        let gateway = Gateway::before(&upstream);
        assert!(gateway.ask(chat()).whole);
        gateway.settle();
        let name = format!(
            "evenload_replica_failures_total{{replica=\"http://{}\",reason=\"server_error\"}}",
            upstream.address
        );
        assert_eq!(gateway.metric(&name), f64::from(u8::from(number < 5)), "{error}");
    }
}

#[test]
fn w42_a_stream_without_its_last_words_is_counted() {
    let upstream = Upstream::answering(
        "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nContent-Length: 18\r\n\r\ndata: 1\n\ndata: 2\r\n",
    );
    let gateway = Gateway::before(&upstream);
    let answer = gateway.ask(chat());
    assert_eq!(answer.text(), "data: 1\n\ndata: 2\r\n");
    gateway.settle();
    let name = format!("evenload_output_tokens_total{{replica=\"http://{}\"}}", upstream.address);
    assert_eq!(gateway.metric(&name), 2.0);
}

#[test]
fn w42_usage_of_a_plain_answer_is_counted() {
    let text = "x".repeat(20_000);
    let usage = "\"usage\":{\"prompt_tokens\":4,\"completion_tokens\":17}";
    // As most engines write it, and as vLLM does where it was asked for the tokens of the prompt.
    for body in [
        format!("{{\"choices\":[{{\"message\":{{\"content\":\"{text}\"}}}}],{usage}}}"),
        format!("{{\"choices\":[],{usage},\"prompt_token_ids\":[{}7]}}", "7,".repeat(10_000)),
    ] {
        usage_is_counted(body);
    }
}

fn usage_is_counted(body: String) {
    let upstream = Upstream::new(move |conn| {
        while conn.read_request().is_some() {
            conn.write(format!(
                "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
                body.len()
            ));
            for piece in body.as_bytes().chunks(9999) {
                conn.write(piece);
                thread::sleep(Duration::from_millis(5));
            }
        }
    });
    let gateway = Gateway::before(&upstream);
    gateway.ask(chat());
    gateway.settle();
    let name = format!("evenload_output_tokens_total{{replica=\"http://{}\"}}", upstream.address);
    assert_eq!(gateway.metric(&name), 17.0);
}

#[test]
fn w42_plain_answers_teach_how_long_answers_get() {
    let (tell, told) = mpsc::channel::<()>();
    let told = Mutex::new(told);
    let upstream = Upstream::new(move |conn| {
        while let Some(request) = conn.read_request() {
            if request.head.starts_with("GET") {
                let _ = told.lock().unwrap().recv_timeout(PATIENCE);
            }
            let body = r#"{"usage":{"prompt_tokens":4,"completion_tokens":500}}"#;
            let length = body.len();
            conn.write(format!(
                "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}"
            ));
        }
    });
    let gateway = Gateway::before(&upstream);
    for _ in 0..20 {
        gateway.ask(post("{}"));
    }
    gateway.settle();
    let mut client = gateway.client();
    client.write("GET /held HTTP/1.1\r\nHost: a\r\n\r\n");
    let load = || gateway.0.router().replicas()[0].load.snapshot();
    eventually("it is at the replica", || load().requests == 1);
    assert!(load().output_tokens.abs_diff(500) < 50, "{:?}", load());
    tell.send(()).unwrap();
    client.answer();
    gateway.settle();
    let first =
        format!("evenload_time_to_first_token_seconds_count{{replica=\"http://{}\"}}", upstream.address);
    assert_eq!(gateway.metric(&first), 0.0, "no event of a stream");
}

#[test]
fn bodies_of_unknown_meaning_weigh_little() {
    let (tell, told) = mpsc::channel::<()>();
    let told = Mutex::new(told);
    let upstream = Upstream::new(move |conn| {
        while conn.read_request().is_some() {
            let _ = told.lock().unwrap().recv_timeout(PATIENCE);
            conn.write("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
        }
    });
    let gateway = Gateway::before(&upstream);
    let sound =
        "--x\r\ncontent-disposition: form-data; name=\"file\"\r\n\r\n".to_owned() + &"a".repeat(5 << 20);
    let picture = format!("{{\"image\":\"{}\"}}", "a".repeat(5 << 20));
    let broken = picture.trim_end_matches('}').to_owned();
    let texts = format!("[\"{}\"]", "a".repeat(396));
    for (path, body, tokens) in [
        ("/v1/audio/transcriptions", &sound, 16),
        ("/v1/images/edits", &picture, 4096),
        ("/v1/rerank", &texts, 100),
        ("/v1/rerank", &String::new(), 0),
        ("/v1/chat/completions", &broken, 4096),
        // As a compressed one would be.
        ("/v1/chat/completions", &sound, 16),
    ] {
        let length = body.len();
        let mut client = gateway.client();
        client.write(format!("POST {path} HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n\r\n{body}"));
        let load = || gateway.0.router().replicas()[0].load.snapshot();
        eventually("it is at the replica", || load().requests == 1);
        assert_eq!(load().prompt_tokens, tokens, "{path}, {length} bytes");
        tell.send(()).unwrap();
        client.answer();
        gateway.settle();
    }
}

#[test]
fn w43_an_early_answer_ends_the_sending() {
    let upstream = Upstream::new(|conn| {
        // The head only; the body stays in the sockets.
        let mut byte = [0];
        let mut seen = Vec::new();
        while !seen.ends_with(b"\r\n\r\n") {
            std::io::Read::read_exact(&mut conn.stream, &mut byte).unwrap();
            seen.push(byte[0]);
        }
        conn.stream.write_all(b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 4\r\n\r\nnope").unwrap();
        // A close with unread bytes would reset the connection, and the answer with it.
        thread::sleep(Duration::from_millis(200));
    });
    let gateway = Gateway::before(&upstream);
    let answer = gateway.ask(post(&"a".repeat(30 << 20)));
    assert_eq!((answer.status, answer.text().as_str()), (401, "nope"));
    gateway.settle();
}
