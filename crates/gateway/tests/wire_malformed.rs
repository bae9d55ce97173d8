//! Malformed requests: rows 1 to 15 of the acceptance table. Replicas see nothing of them unless a row says so.

mod support;

use support::{Answer, Gateway, STREAM_HEAD, Upstream, chat, chunk, post};

/// Sends `request` to a gateway, and checks that the connection is closed after the answer and the replica saw
/// nothing.
fn refused(request: impl AsRef<[u8]>) -> Answer {
    let upstream = Upstream::fine();
    let gateway = Gateway::before(&upstream);
    let mut client = gateway.client();
    client.write(request);
    let answer = client.answer();
    client.half_close();
    assert_eq!(client.read_some(), None, "closed after {}", answer.head);
    assert_eq!(upstream.requests().len(), 0);
    gateway.settle();
    let again = gateway.ask(chat());
    assert_eq!(again.status, 200, "other connections are unaffected");
    answer
}

fn with_fields(fields: &str) -> String {
    format!("POST /v1/completions HTTP/1.1\r\nHost: a\r\n{fields}\r\n")
}

#[test]
fn w01_lengths_that_differ() {
    assert_eq!(refused(with_fields("Content-Length: 2\r\nContent-Length: 3\r\n") + "{}x").status, 400);
}

#[test]
fn w02_lengths_that_are_no_numbers() {
    for length in ["+10", "0x10", "1_0", "-1", "", "18446744073709551616", "3, 3"] {
        assert_eq!(refused(with_fields(&format!("Content-Length: {length}\r\n"))).status, 400, "{length:?}");
    }
    let upstream = Upstream::fine();
    let gateway = Gateway::before(&upstream);
    let answer = gateway.ask(with_fields("Content-Length: 2\r\nContent-Length: 2\r\n") + "{}");
    assert_eq!(answer.status, 200, "equal lengths are one");
    assert_eq!(
        upstream.requests()[0].fields().iter().filter(|line| line.starts_with("Content-Length")).count(),
        1
    );
}

#[test]
fn w03_both_framings_cannot_smuggle() {
    let upstream = Upstream::fine();
    let gateway = Gateway::before(&upstream);
    let mut client = gateway.client();
    client.write(
        with_fields("Content-Length: 4\r\nTransfer-Encoding: chunked\r\n")
            + "2\r\n{}\r\n0\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n",
    );
    assert_eq!(client.answer().status, 200);
    assert_eq!(client.read_some(), None, "the connection closes after the answer");
    let requests = upstream.requests();
    assert_eq!(requests.len(), 1);
    assert_eq!(
        (requests[0].field("content-length").as_deref(), &requests[0].body[..]),
        (Some("2"), &b"{}"[..])
    );
    gateway.settle();
}

#[test]
fn w04_codings_other_than_one_chunked() {
    for (coding, status) in [
        ("Transfer-Encoding: chunked, identity\r\n", 400),
        ("Transfer-Encoding: xchunked\r\n", 400),
        ("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", 400),
        ("Transfer-Encoding: chunked, chunked\r\n", 400),
        ("Transfer-Encoding: gzip, chunked\r\n", 501),
    ] {
        assert_eq!(refused(with_fields(coding) + "2\r\n{}\r\n0\r\n\r\n").status, status, "{coding}");
    }
}

#[test]
fn w05_no_codings_in_http_1_0() {
    let request = "POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n";
    assert_eq!(refused(request).status, 400);
}

#[test]
fn w06_chunks_that_could_be_read_in_two_ways() {
    for chunk in [
        "0_2e\r\n",
        "0x5\r\nhello\r\n",
        "+5\r\nhello\r\n",
        "10000000000000000\r\n",
        "5\r\nhelloX\r\n0\r\n\r\n",
    ] {
        let answer = refused(with_fields("Transfer-Encoding: chunked\r\n") + chunk);
        assert_eq!((answer.status, answer.code().as_str()), (400, "body_broken"), "{chunk:?}");
    }
}

#[test]
fn w07_chunk_extensions_are_limited() {
    let long = format!("2;{}\r\n{{}}\r\n0\r\n\r\n", "a".repeat(20 << 10));
    let answer = refused(with_fields("Transfer-Encoding: chunked\r\n") + &long);
    assert_eq!(answer.status, 400);
}

#[test]
fn w08_host() {
    for (request, status) in [
        ("GET / HTTP/1.1\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: a b\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: u@a\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: a/b\r\n\r\n", 400),
    ] {
        let upstream = Upstream::fine();
        let gateway = Gateway::before(&upstream);
        let answer = gateway.ask(request);
        assert_eq!((answer.status, answer.code().as_str()), (status, "bad_request"), "{request}");
        assert_eq!(upstream.requests().len(), 0);
        gateway.settle();
    }
    let upstream = Upstream::fine();
    let gateway = Gateway::before(&upstream);
    assert_eq!(gateway.ask("GET http://right:1/v1/models?a HTTP/1.1\r\nHost: wrong\r\n\r\n").status, 200);
    assert_eq!(gateway.ask("GET /v1/models HTTP/1.0\r\n\r\n").status, 200);
    let requests = upstream.requests();
    assert!(
        requests[0].head.starts_with("GET /v1/models?a HTTP/1.1\r\nhost: right:1\r\n"),
        "{}",
        requests[0].head
    );
    assert_eq!(requests[1].field("host"), Some(upstream.address.to_string()));
    gateway.settle();
}

#[test]
fn w09_fields_that_are_none() {
    for field in ["Name : 1\r\n", "A: 1\r\n folded\r\n", "A: \0\r\n", "A: x\ry\r\n", "N@me: 1\r\n"] {
        assert_eq!(refused(with_fields(field)).status, 400, "{field:?}");
    }
    let upstream = Upstream::fine();
    let gateway = Gateway::before(&upstream);
    assert_eq!(gateway.ask("GET / HTTP/1.1\nHost: a\nA: \u{fc}\n\n").status, 200);
    assert_eq!(upstream.requests()[0].field("a").as_deref(), Some("\u{fc}"));
}

#[test]
fn w10_heads_are_limited() {
    let long = "a".repeat(70 << 10);
    assert_eq!(refused(format!("GET /{long} HTTP/1.1\r\nHost: a\r\n\r\n")).status, 414);
    let answer = {
        let upstream = Upstream::fine();
        let gateway = Gateway::before(&upstream);
        let answer = gateway.ask(format!("GET / HTTP/1.1\r\nHost: a\r\nX: {long}\r\n\r\n"));
        assert_eq!(upstream.requests().len(), 0);
        gateway.expect_errors("head_too_large", 1);
        answer
    };
    assert_eq!((answer.status, answer.code().as_str()), (431, "head_too_large"));
    let many: String = (0..101).map(|number| format!("X-{number}: 1\r\n")).collect();
    assert_eq!(refused(with_fields(&many)).status, 431);
    let huge = "a".repeat(1 << 20);
    assert_eq!(refused(format!("GET / HTTP/1.1\r\nHost: a\r\nX: {huge}\r\n\r\n")).status, 431);
}

#[test]
fn w11_request_lines_that_are_none() {
    for request in [
        "GET /\nHTTP/1.1\r\nHost: a\r\n\r\n".to_owned(),
        "GET / HTTP/1.32\r\nHost: a\r\n\r\n".into(),
        "G\"T / HTTP/1.1\r\nHost: a\r\n\r\n".into(),
        "GET /\r\n\r\n".into(),
    ] {
        let status = refused(&request).status;
        assert!(matches!(status, 400 | 505), "{request:?} gives {status}");
    }
}

#[test]
fn w12_what_is_not_for_a_gateway() {
    for request in ["CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\n\r\n", "TRACE / HTTP/1.1\r\nHost: a\r\n\r\n"] {
        let upstream = Upstream::fine();
        let gateway = Gateway::before(&upstream);
        let answer = gateway.ask(request);
        assert_eq!((answer.status, answer.code().as_str()), (405, "method_not_allowed"));
        assert!(answer.field("allow").is_some());
        assert_eq!(upstream.requests().len(), 0);
        gateway.settle();
    }
    let upstream = Upstream::fine();
    let gateway = Gateway::before(&upstream);
    assert_eq!(gateway.ask("OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n").status, 200);
    for alien in [&b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"[..], b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"] {
        let mut client = gateway.client();
        client.write(alien);
        client.half_close();
        let answer = client.read_all();
        assert!(answer.is_empty() || answer.starts_with(b"HTTP/1.1 400"), "{answer:?}");
    }
    assert_eq!(upstream.requests().len(), 0);
    assert_eq!(gateway.ask(chat()).status, 200);
    gateway.settle();
}

#[test]
fn w13_bodies_that_cannot_be_understood_are_the_engines_business() {
    let upstream = Upstream::fine();
    let gateway = Gateway::before(&upstream);
    let bodies = [
        "not json".to_owned(),
        "[".repeat(10_000),
        format!("{{\"prompt\":{}1{}}}", "[".repeat(10_000), "]".repeat(10_000)),
        r#"{"model":"a","model":"b","messages":[]}"#.into(),
        r#"{"model":"m","messages":[{"role":"user","content":"\ud800"}]}"#.into(),
        format!(r#"{{"messages":[{}{{}}]}}"#, r#"{"role":"user","content":"x"},"#.repeat(100_000)),
        format!(r#"{{"model":"m","messages":[{{"role":"user","content":"{}é"}}]}}"#, "a".repeat(99)),
        "null".into(),
        r#"{"messages":7}"#.into(),
    ];
    for body in &bodies {
        assert_eq!(gateway.ask(post(body)).status, 200, "{:.60}", body);
    }
    let seen = upstream.requests();
    assert!(bodies.iter().zip(&seen).all(|(body, request)| body.as_bytes() == request.body));
    let broken =
        [&b"POST /v1/completions HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\n"[..], b"\xff\xfe{"]
            .concat();
    assert_eq!(gateway.ask(broken).status, 200);
    gateway.settle();
}

#[test]
fn w14_declared_too_large_is_refused_unread() {
    let upstream = Upstream::fine();
    let gateway = Gateway::with(&[upstream.address], |settings| settings.limits.max_body = 1000);
    let mut client = gateway.client();
    client.write(with_fields("Content-Length: 1001\r\n"));
    let answer = client.answer();
    assert_eq!((answer.status, answer.code().as_str()), (413, "body_too_large"));
    assert_eq!(upstream.requests().len(), 0);
    gateway.settle();
}

#[test]
fn w14_the_client_sees_the_refusal_while_it_still_sends() {
    let upstream = Upstream::fine();
    let gateway = Gateway::with(&[upstream.address], |settings| settings.limits.max_body = 1000);
    for fields in ["Content-Length: 8000000\r\n", "Transfer-Encoding: chunked\r\n"] {
        let mut client = gateway.client();
        client.write(with_fields(fields));
        let chunked = fields.starts_with('T');
        let piece = if chunked { chunk(&"a".repeat(1000)) } else { "a".repeat(1000) };
        // Far more than the sockets hold; it must not be cut off before the answer was read.
        for _ in 0..4000 {
            client.write(&piece);
        }
        let answer = client.answer();
        assert_eq!((answer.status, answer.code().as_str()), (413, "body_too_large"), "{fields}");
        assert_eq!(client.read_some(), None);
    }
    assert_eq!(upstream.requests().len(), 0);
    gateway.settle();
}

#[test]
fn w15_pipelined_requests_are_answered_in_order() {
    let upstream = Upstream::new(|conn| {
        while let Some(request) = conn.read_request() {
            let path = request.head.split(' ').nth(1).unwrap().to_owned();
            conn.write(STREAM_HEAD);
            conn.write(chunk(&format!("data: {path}\n\n")));
            std::thread::sleep(std::time::Duration::from_millis(30));
            conn.write("0\r\n\r\n");
        }
    });
    let gateway = Gateway::before(&upstream);
    let mut client = gateway.client();
    client.write("GET /one HTTP/1.1\r\nHost: a\r\n\r\nGET /two HTTP/1.1\r\nHost: a\r\n\r\nGET /three HTTP/1.1\r\nHost: a\r\n\r\n");
    for path in ["/one", "/two", "/three"] {
        assert_eq!(client.answer().text(), format!("data: {path}\n\n"));
    }
    gateway.settle();
}
