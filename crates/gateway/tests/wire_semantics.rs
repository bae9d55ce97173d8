//! Hop-by-hop fields and what messages mean: rows 16 to 25 of the acceptance table.

mod support;

use std::{
    sync::{Mutex, mpsc},
    time::Duration,
};

use support::{Gateway, PATIENCE, STREAM_HEAD, Upstream, chat, chunk, post};

#[test]
fn w16_connection_named_headers() {
    let upstream = Upstream::answering(
        "HTTP/1.1 200 OK\r\nConnection: X-A\r\nX-A: 1\r\nX-B: 2\r\nConnection: keep-alive, X-B\r\nX-C: \
         3\r\nKeep-Alive: timeout=5\r\nContent-Length: 2\r\n\r\n{}",
    );
    let gateway = Gateway::before(&upstream);
    let answer = gateway.ask(
        "GET /v1/models HTTP/1.1\r\nHost: a\r\nConnection: X-A\r\nX-A: 1\r\nX-B: 2\r\nConnection: X-B, \
         keep-alive\r\nX-C: 3\r\nProxy-Connection: keep-alive\r\nTE: gzip\r\n\r\n",
    );
    assert_eq!(answer.status, 200);
    for gone in ["x-a", "x-b", "keep-alive", "connection"] {
        assert_eq!(answer.field(gone), None, "{}", answer.head);
    }
    assert_eq!(answer.field("x-c").as_deref(), Some("3"));
    let request = &upstream.requests()[0];
    for gone in ["x-a", "x-b", "connection", "proxy-connection", "te"] {
        assert_eq!(request.field(gone), None, "{}", request.head);
    }
    assert_eq!(request.field("x-c").as_deref(), Some("3"));
    gateway.settle();
}

#[test]
fn w17_connection_cannot_take_essentials_away() {
    let upstream = Upstream::fine();
    let gateway = Gateway::before(&upstream);
    let answer = gateway.ask(
        "POST /v1/embeddings HTTP/1.1\r\nHost: example\r\nConnection: Host, Content-Length, Authorization, \
         Transfer-Encoding\r\nAuthorization: Bearer k\r\nContent-Length: 2\r\n\r\n{}",
    );
    assert_eq!(answer.status, 200);
    let request = &upstream.requests()[0];
    assert_eq!(request.field("host").as_deref(), Some("example"));
    assert_eq!(request.field("content-length").as_deref(), Some("2"));
    assert_eq!(request.field("authorization").as_deref(), Some("Bearer k"));
    assert_eq!(request.body, b"{}");
    gateway.settle();
}

#[test]
fn w18_answers_pass_to_the_byte_and_huge_heads_are_refused() {
    let upstream = Upstream::answering(
        "HTTP/1.1 200 All Right\r\nSet-Cookie: a=1\r\nX-Mixed:CaSe \u{e9}\r\nsEt-cOOkie:   b=2\r\nContent-LENGTH: \
         2\r\nEmpty:\r\nSet-Cookie: c=3\r\n\r\n{}",
    );
    let gateway = Gateway::before(&upstream);
    let answer = gateway.ask("GET /v1/models HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(
        answer.head,
        "HTTP/1.1 200 All Right\r\nSet-Cookie: a=1\r\nX-Mixed:CaSe \u{e9}\r\nsEt-cOOkie:   b=2\r\nContent-LENGTH: \
         2\r\nEmpty:\r\nSet-Cookie: c=3\r\n\r\n"
    );

    for huge in [format!("X-Huge: {}\r\n", "a".repeat(1 << 20)), "X-A: 1\r\n".repeat(101)] {
        let answer = format!("HTTP/1.1 200 OK\r\n{huge}Content-Length: 2\r\n\r\n{{}}");
        let gateway = Gateway::before(&Upstream::answering(answer));
        let answer = gateway.ask("GET /v1/models HTTP/1.1\r\nHost: a\r\n\r\n");
        assert_eq!((answer.status, answer.code().as_str()), (502, "upstream_head_too_large"));
        assert!(answer.text().contains("more than 262144 bytes or 100 fields"), "{}", answer.text());
        gateway.settle();
    }
}

#[test]
fn w18_request_fields_arrive_as_they_left() {
    let upstream = Upstream::fine();
    let gateway = Gateway::before(&upstream);
    gateway.ask(
        "GET /v1/models?a=%2F&b HTTP/1.1\r\nX-One: 1\r\nCookie: a=1\r\nX-Two:  two, TWO \r\nhOsT: \
         a.example:99\r\nCookie: b=2\r\nUser-Agent:curl\r\nAccept-Encoding: gzip\r\nAuthorization: Bearer \
         \u{fc}\r\nX-Forwarded-For: 1.2.3.4\r\nVia: 1.0 other\r\nX-Request-Id: mine\r\n\r\n",
    );
    let request = &upstream.requests()[0];
    assert!(request.head.starts_with("GET /v1/models?a=%2F&b HTTP/1.1\r\n"), "{}", request.head);
    assert_eq!(
        request.fields(),
        [
            "X-One: 1",
            "Cookie: a=1",
            "X-Two:  two, TWO",
            "hOsT: a.example:99",
            "Cookie: b=2",
            "User-Agent:curl",
            "Accept-Encoding: gzip",
            "Authorization: Bearer \u{fc}",
            "X-Forwarded-For: 1.2.3.4",
            "Via: 1.0 other",
            "X-Request-Id: mine",
            "via: 1.1 evenload",
            "x-forwarded-for: 127.0.0.1",
            "x-forwarded-proto: http",
        ]
    );
    gateway.ask("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    let made = upstream.requests()[1].field("x-request-id").unwrap();
    assert!(made.len() == 32 && made.bytes().all(|byte| byte.is_ascii_hexdigit()), "{made}");
    gateway.ask("GET / HTTP/1.1\r\nHost: a\r\nX-Request-Id: \r\n\r\n");
    let ids: Vec<String> = upstream.requests()[2]
        .fields()
        .iter()
        .filter_map(|line| Some(line.to_ascii_lowercase().strip_prefix("x-request-id:")?.trim().to_owned()))
        .collect();
    assert!(ids.len() == 1 && ids[0].len() == 32, "an empty id is none: {ids:?}");
}

#[test]
fn w18_bodies_are_forwarded_to_the_byte() {
    let upstream = Upstream::fine();
    let gateway = Gateway::before(&upstream);
    let body = "{ \"model\":\"m\" ,\"messages\" : [{\"role\":\"user\",\"content\":\"h\\u00e9\"}],\"x\":1e2,\"model\":\"n\"}\n";
    gateway.ask(post(body));
    let chunked = "POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n{\"a\":\r\n3;x=y\r\n1 }\r\n0\r\n\r\n";
    gateway.ask(chunked);
    let requests = upstream.requests();
    assert_eq!(requests[0].body, body.as_bytes());
    assert_eq!(requests[1].body, b"{\"a\":1 }");
    assert_eq!(requests[1].field("content-length").as_deref(), Some("8"));
    assert_eq!(requests[1].field("transfer-encoding"), None);
    gateway.settle();
}

#[test]
fn w19_expectations() {
    let upstream = Upstream::fine();
    let gateway = Gateway::before(&upstream);
    let mut client = gateway.client();
    client.write(
        "POST /v1/completions HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n",
    );
    assert_eq!(client.read_until(b"\r\n\r\n"), b"HTTP/1.1 100 Continue\r\n\r\n");
    client.write("{}");
    assert_eq!(client.answer().status, 200);
    assert_eq!(upstream.requests()[0].field("expect"), None);
    let answer = gateway.ask("POST / HTTP/1.1\r\nHost: a\r\nExpect: 200-ok\r\nContent-Length: 2\r\n\r\n{}");
    assert_eq!((answer.status, answer.code().as_str()), (417, "expectation_failed"));
    assert_eq!(upstream.requests().len(), 1);
    gateway.settle();
}

#[test]
fn w20_informational_answers_are_not_the_answer() {
    let (seen, wait) = mpsc::channel::<()>();
    let wait = Mutex::new(wait);
    let upstream = Upstream::new(move |conn| {
        while let Some(request) = conn.read_request() {
            let early = "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\nConnection: X-A\r\nX-A: 1\r\n\r\n";
            conn.write(format!("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 102 Processing\r\n\r\n{early}"));
            if request.head.starts_with("POST") {
                // The rest leaves only after the client has seen these.
                wait.lock().unwrap().recv_timeout(PATIENCE).unwrap();
            }
            conn.write("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}");
        }
    });
    let gateway = Gateway::before(&upstream);
    let mut client = gateway.client();
    for _ in 0..2 {
        client.write(chat());
        let early = client.read_until(b"103 Early Hints\r\nLink: </a>\r\n\r\n");
        assert_eq!(
            String::from_utf8(early).unwrap(),
            "HTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"
        );
        seen.send(()).unwrap();
        let answer = client.answer();
        assert_eq!((answer.status, answer.text().as_str()), (200, "{}"));
        assert_eq!(answer.field("link"), None);
    }
    let answer = gateway.ask("GET /v1/models HTTP/1.0\r\n\r\n");
    assert_eq!((answer.status, answer.text().as_str()), (200, "{}"), "HTTP/1.0 knows no such answers");
    assert_eq!(upstream.accepted(), 1);
    gateway.settle();
}

#[test]
fn w20_what_has_begun_to_answer_is_not_asked_again() {
    for status in ["100 Continue", "102 Processing"] {
        let upstream = Upstream::new(move |conn| {
            conn.read_request();
            conn.write("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}");
            conn.read_request();
            conn.write(format!("HTTP/1.1 {status}\r\n\r\n"));
        });
        let gateway = Gateway::before(&upstream);
        assert_eq!(gateway.ask(chat()).status, 200);
        let mut client = gateway.client();
        client.write(chat());
        if status.starts_with("102") {
            client.read_until(b"102 Processing\r\n\r\n");
        }
        let answer = client.answer();
        assert_eq!((answer.status, answer.code().as_str()), (502, "upstream_closed"));
        assert_eq!(upstream.requests().len(), 2);
        gateway.settle();
    }
}

#[test]
fn w21_answers_without_a_body() {
    let upstream = Upstream::new(|conn| {
        while let Some(request) = conn.read_request() {
            match request.head.split(' ').next().unwrap() {
                "HEAD" => conn.write("HTTP/1.1 200 OK\r\nContent-Length: 17\r\n\r\n"),
                _ => conn.write("HTTP/1.1 204 No Content\r\nX-A: 1\r\n\r\n"),
            }
        }
    });
    let gateway = Gateway::before(&upstream);
    let mut client = gateway.client();
    client.write("HEAD /v1/models HTTP/1.1\r\nHost: a\r\n\r\n");
    let answer = client.answer_to("HEAD");
    assert_eq!((answer.status, answer.field("content-length").as_deref()), (200, Some("17")));
    client.write("DELETE /v1/files/x HTTP/1.1\r\nHost: a\r\n\r\n");
    let answer = client.answer();
    assert_eq!((answer.status, answer.field("x-a").as_deref()), (204, Some("1")));
    assert_eq!(upstream.accepted(), 1, "both went over one connection");
    gateway.settle();
}

#[test]
fn w21_unasked_bytes_end_the_connection() {
    let upstream = Upstream::answering("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}EXTRA");
    let gateway = Gateway::before(&upstream);
    let mut client = gateway.client();
    for _ in 0..2 {
        client.write(chat());
        assert_eq!(client.answer().text(), "{}");
    }
    assert_eq!(upstream.accepted(), 2, "the first connection must not serve the second request");
    gateway.settle();
}

#[test]
fn adapters_are_found_whatever_is_asked_of_them() {
    let upstreams = [Upstream::fine(), Upstream::fine(), Upstream::fine()];
    let gateway = Gateway::with(&upstreams.each_ref().map(|upstream| upstream.address), |settings| {
        settings.policy = "round_robin".parse().unwrap();
        for (replica, adapters) in settings.replicas.iter_mut().zip([&["sup"][..], &[], &["other"]]) {
            replica.adapters = Some(adapters.iter().map(|name| (*name).to_owned()).collect());
        }
    });
    let bodies =
        [r#"{"prompt":"x","model":"sup"}"#, r#"{"messages":5,"input":[1,"a"],"prompt":{},"model":"sup"}"#];
    for path in [
        "/v1/chat/completions",
        "/v1/chat/completions/",
        "/v1/completions",
        "/v1/embeddings",
        "/v1/messages/count_tokens",
        "/v1/score",
        "/tokenize",
        "/pooling",
        "/generate",
    ] {
        for body in bodies {
            let before = upstreams[0].requests().len();
            (0..4).for_each(|_| {
                let length = body.len();
                let request =
                    format!("POST {path} HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n\r\n{body}");
                assert_eq!(gateway.ask(request).status, 200);
            });
            assert_eq!(upstreams[0].requests().len(), before + 4, "{path} {body}");
        }
    }
    gateway.settle();
}

#[test]
fn w23_trailers_for_those_who_ask() {
    let upstream = Upstream::answering(
        "HTTP/1.1 200 OK\r\nTrailer: X-Sum\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\nX-Sum: 7\r\n\
         Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n",
    );
    let gateway = Gateway::before(&upstream);
    let mut client = gateway.client();
    client.write("GET /v1/models HTTP/1.1\r\nHost: a\r\nTE: trailers\r\nConnection: TE\r\n\r\n");
    let text = String::from_utf8(client.read_until(b"\r\n0\r\nX-Sum: 7\r\n\r\n")).unwrap();
    assert!(text.contains("\r\n\r\n2\r\n{}"), "{text}");
    assert_eq!(upstream.requests()[0].field("te").as_deref(), Some("trailers"));
    let answer = gateway.ask("GET /v1/models HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!((answer.text().as_str(), answer.whole), ("{}", true));
    assert_eq!(upstream.requests()[1].field("te"), None);
    gateway.settle();
}

#[test]
fn w24_content_codings_pass_untouched() {
    let gzip =
        b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Type: application/json\r\nContent-Length: \
                 4\r\n\r\n\x1f\x8b\x08\x00";
    let upstream = Upstream::answering(gzip);
    let gateway = Gateway::before(&upstream);
    let answer = gateway.ask("GET /v1/models HTTP/1.1\r\nHost: a\r\nAccept-Encoding: gzip, br\r\n\r\n");
    assert_eq!(answer.body, b"\x1f\x8b\x08\x00");
    assert_eq!(answer.field("content-encoding").as_deref(), Some("gzip"));
    assert_eq!(upstream.requests()[0].field("accept-encoding").as_deref(), Some("gzip, br"));
    gateway.settle();
}

#[test]
fn w25_targets_are_never_normalised() {
    let upstream = Upstream::fine();
    let gateway = Gateway::before(&upstream);
    let targets = ["/v1/models?q=a%20b%zz", "//a//b/../c/./d", "/%2e%2e/%C3%A9?x=[]{}|^", "/a;b=c,d"];
    for target in targets {
        gateway.ask(format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n"));
    }
    let seen: Vec<_> = upstream
        .requests()
        .iter()
        .map(|request| request.head.split(' ').nth(1).unwrap().to_owned())
        .collect();
    assert_eq!(seen, targets);
    gateway.settle();
}

#[test]
fn streams_pass_as_they_come() {
    let (seen, wait) = mpsc::channel();
    let wait = Mutex::new(wait);
    let upstream = Upstream::new(move |conn| {
        conn.read_request();
        conn.write(STREAM_HEAD);
        for number in 0..3 {
            conn.write(chunk(&format!("data: {number}\n\n")));
            // The next event leaves only after the client has seen this one.
            wait.lock().unwrap().recv_timeout(PATIENCE).unwrap();
        }
        conn.write("0\r\n\r\n");
    });
    let gateway = Gateway::before(&upstream);
    let mut client = gateway.client();
    client.write(chat());
    for number in 0..3 {
        client.read_until(format!("\r\ndata: {number}\n\n\r\n").as_bytes());
        seen.send(()).unwrap();
    }
    client.read_until(b"0\r\n\r\n");
    gateway.settle();
}

#[test]
fn w22_protocols_change_for_those_who_ask() {
    let upstream = Upstream::new(|conn| {
        let request = conn.read_request().unwrap();
        if request.field("upgrade").as_deref() != Some("websocket") {
            return conn
                .write("HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n");
        }
        conn.write("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nX-A: 1\r\n\r\nhello");
        let mut bytes = [0; 4];
        std::io::Read::read_exact(&mut conn.stream, &mut bytes).unwrap();
        conn.write(bytes.map(|byte| byte.to_ascii_uppercase()));
        assert!(conn.is_closed_by_peer());
    });
    let gateway = Gateway::before(&upstream);
    let mut client = gateway.client();
    let request = "GET /v1/realtime HTTP/1.1\r\nHost: a\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n\r\npi";
    client.write(request);
    let answer = client.answer();
    assert_eq!((answer.status, answer.field("upgrade").as_deref()), (101, Some("websocket")));
    assert_eq!(answer.field("x-a").as_deref(), Some("1"));
    client.read_until(b"hello");
    assert_eq!(gateway.0.in_flight(), 1);
    client.write("ng");
    client.read_until(b"PING");
    drop(client);
    gateway.settle();
    let answer = gateway.ask("GET /v1/realtime HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\n\r\n");
    assert_eq!(
        (answer.status, answer.code().as_str()),
        (502, "upstream_invalid"),
        "not asked, not forwarded"
    );
    gateway.settle();
}

#[test]
fn w22_a_tunnel_ends_in_peace_when_nothing_moves() {
    let upstream = Upstream::new(|conn| {
        conn.read_request();
        conn.write("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n");
        conn.is_closed_by_peer();
    });
    let gateway = Gateway::with(&[upstream.address], |settings| {
        settings.limits.stream_timeout = Duration::from_millis(200);
    });
    for _ in 0..5 {
        let mut client = gateway.client();
        client.write(
            "GET /v1/realtime HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
        );
        assert_eq!(client.answer().status, 101);
        assert_eq!(client.read_some(), None);
    }
    gateway.settle();
    gateway.expect_errors("client_gone", 0);
    let name = format!("evenload_requests_total{{replica=\"http://{}\",code=\"1xx\"}}", upstream.address);
    assert_eq!(gateway.metric(&name), 5.0);
}
