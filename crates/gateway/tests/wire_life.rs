//! Health, changes while requests are under way, and the end: rows 44 to 47 of the acceptance table.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod support;

use std::{
    cell::RefCell,
    net::{TcpListener, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering::SeqCst},
        mpsc,
    },
    thread,
    time::Duration,
};

use gateway::{Config, ReplicaConfig, Settings, StartError};
use routing::HealthState;
use support::{Client, Gateway, PATIENCE, STREAM_HEAD, Upstream, chat, chunk, eventually};

/// A replica whose health check and inference can be switched.
struct Switched {
    upstream: Upstream,
    healthy: Arc<AtomicBool>,
}

fn switched() -> Switched {
    let healthy = Arc::new(AtomicBool::new(true));
    let state = Arc::clone(&healthy);
    let upstream = Upstream::new(move |conn| {
        while let Some(request) = conn.read_request() {
            let check = request.head.starts_with("GET /health ");
            let line = if check && !state.load(SeqCst) { "503 Service Unavailable" } else { "200 OK" };
            conn.write(format!("HTTP/1.1 {line}\r\nContent-Length: 2\r\n\r\n{{}}"));
        }
    });
    Switched { upstream, healthy }
}

fn checked(settings: &mut Settings) {
    settings.checks.interval = Duration::from_millis(100);
    settings.checks.fast_interval = Duration::from_millis(30);
    settings.checks.timeout = Duration::from_secs(5);
    settings.health.wait_for_check = true;
    settings.policy = "round_robin".parse().unwrap();
}

fn state(gateway: &Gateway, number: usize) -> HealthState {
    gateway.0.router().replicas()[number].health.state(Duration::from_secs(1000))
}

#[test]
fn w44_checks_take_a_replica_out_and_bring_it_back() {
    let (sick, well) = (switched(), switched());
    let gateway = Gateway::with(&[sick.upstream.address, well.upstream.address], checked);
    eventually("both are healthy", || (0..2).all(|number| state(&gateway, number) == HealthState::Healthy));
    sick.healthy.store(false, SeqCst);
    eventually("one is unhealthy", || state(&gateway, 0) == HealthState::Unhealthy);
    let chats = |upstream: &Upstream| {
        upstream.requests().iter().filter(|request| request.head.starts_with("POST")).count()
    };
    for _ in 0..6 {
        assert_eq!(gateway.ask(chat()).status, 200);
    }
    assert_eq!((chats(&sick.upstream), chats(&well.upstream)), (0, 6));
    sick.healthy.store(true, SeqCst);
    eventually("both are healthy again", || state(&gateway, 0) == HealthState::Healthy);
    gateway.settle();
}

/// An upstream that answers at once, but checks under this name only when the sender is dropped.
fn checked_when_dropped(name: &'static str) -> (mpsc::Sender<()>, Upstream) {
    let (tell, told) = mpsc::channel::<()>();
    let told = Mutex::new(told);
    let upstream = Upstream::new(move |conn| {
        while let Some(request) = conn.read_request() {
            if request.head.starts_with("GET /health ") && request.head.contains(name) {
                let _ = told.lock().unwrap().recv();
            }
            conn.write("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}");
        }
    });
    (tell, upstream)
}

#[test]
fn w44_a_request_that_comes_before_the_first_check_waits_for_it() {
    let (tell, upstream) = checked_when_dropped("127.0.0.1");
    let gateway = Gateway::with(&[upstream.address], checked);
    let mut client = gateway.client();
    client.write(chat());
    drop(tell);
    assert_eq!(client.answer().status, 200);
    gateway.settle();
}

#[test]
fn w44_a_replica_too_busy_to_be_checked_is_not_dead_while_it_delivers() {
    let upstream = Upstream::new(|conn| {
        let Some(request) = conn.read_request() else { return };
        if request.head.starts_with("GET /health") {
            // Only the first check is answered.
            if conn.number == 0 {
                conn.write("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
            }
            conn.is_closed_by_peer();
            return;
        }
        conn.write(STREAM_HEAD);
        for _ in 0..400 {
            conn.write(chunk("data: 1\n\n"));
            thread::sleep(Duration::from_millis(25));
        }
        conn.write("0\r\n\r\n");
    });
    let gateway = Gateway::with(&[upstream.address], |settings| {
        checked(settings);
        // Forty tokens come in that time, on a machine that is not stopped meanwhile.
        settings.checks.timeout = Duration::from_secs(1);
        settings.health.fall = 2;
    });
    eventually("healthy", || state(&gateway, 0) == HealthState::Healthy);
    let mut client = gateway.client();
    client.write(chat());
    client.read_until(b"data: 1\n\n");
    thread::sleep(Duration::from_secs(4));
    assert_eq!(state(&gateway, 0), HealthState::Healthy);
    drop(client);
    eventually("unhealthy once it delivers nothing", || state(&gateway, 0) == HealthState::Unhealthy);
    gateway.settle();
}

#[test]
fn w45_metrics_pages_give_a_queue_or_nothing() {
    let good = "vllm:num_requests_running 3\nvllm:num_requests_waiting 2\n";
    for (page, known) in [
        (format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{good}", good.len()), true),
        ("HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n".into(), false),
        (format!("HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n{good}"), false),
        ("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n\u{fe}x".into(), false),
        (format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{}", 10 << 20, "a".repeat(10 << 20)), false),
    ] {
        let upstream = Upstream::new(move |conn| {
            if conn.read_request().is_some() {
                conn.write(&page);
            }
        });
        let gateway = Gateway::with(&[upstream.address], |settings| {
            settings.scrape_interval = Duration::from_millis(50);
        });
        eventually("asked twice", || upstream.requests().len() >= 2);
        assert!(upstream.requests()[0].head.starts_with("GET /metrics HTTP/1.1\r\n"));
        let fleet = || {
            let answer = gateway.admin("GET /api/fleet HTTP/1.1\r\nHost: a\r\n\r\n");
            serde_json::from_slice::<serde_json::Value>(&answer.body).unwrap()["replicas"][0]["engine"]
                .clone()
        };
        if known {
            eventually("the queue is known", || fleet()["waiting"] == 2 && fleet()["running"] == 3);
        } else {
            assert_eq!(fleet(), serde_json::Value::Null);
        }
    }
}

#[test]
fn w46_all_down_is_said_at_once_and_the_first_that_returns_is_used() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let gateway = Gateway::with(&[address], checked);
    let answer = gateway.ask(chat());
    assert_eq!((answer.status, answer.code().as_str()), (503, "no_replica"));
    assert_eq!(answer.field("retry-after").as_deref(), Some("1"));
    for path in ["/health", "/readyz"] {
        assert_eq!(gateway.ask(format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n")).status, 503);
    }
    assert_eq!(gateway.ask("GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n").status, 200);
    assert_eq!(gateway.admin("GET /readyz HTTP/1.1\r\nHost: a\r\n\r\n").status, 503);
    let listener = TcpListener::bind(address).unwrap();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let _ = std::io::Read::read(&mut stream, &mut [0; 4096]);
            let _ = std::io::Write::write_all(&mut stream, b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
        }
    });
    eventually("the replica is used", || gateway.ask(chat()).status == 200);
    for path in ["/health", "/readyz"] {
        assert_eq!(gateway.ask(format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n")).status, 200);
    }
    gateway.settle();
}

/// A replica that begins a stream, and ends it when told.
fn held() -> (Upstream, mpsc::Sender<()>) {
    let (release, wait) = mpsc::channel();
    let wait = Mutex::new(wait);
    let upstream = Upstream::new(move |conn| {
        while conn.read_request().is_some() {
            conn.write(STREAM_HEAD);
            conn.write(chunk("data: 1\n\n"));
            if wait.lock().unwrap().recv_timeout(PATIENCE).is_err() {
                return;
            }
            conn.write(chunk("data: 2\n\n"));
            conn.write("0\r\n\r\n");
        }
    });
    (upstream, release)
}

#[test]
fn w44_a_recovered_replica_is_back_as_soon_as_its_probe_is_answered() {
    for stream in [true, false] {
        let well = Arc::new(AtomicBool::new(false));
        let is_well = Arc::clone(&well);
        let sick = Upstream::new(move |conn| {
            while conn.read_request().is_some() && is_well.load(SeqCst) {
                match stream {
                    true => conn.write(format!("{STREAM_HEAD}{}", chunk("data: 1\n\n"))),
                    false => conn.write("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{"),
                }
            }
        });
        let other = Upstream::fine();
        let gateway = Gateway::with(&[sick.address, other.address], |settings| {
            settings.policy = "round_robin".parse().unwrap();
            settings.health.consecutive_failures = 1;
            settings.health.ejection = Duration::from_millis(10);
        });
        let now = || gateway.0.router().replicas()[0].health.state(Duration::from_secs(1000));
        eventually("ejected", || {
            gateway.ask(chat());
            now() != HealthState::Unknown
        });
        well.store(true, SeqCst);
        // Answers of the other end; the one that does not is the probe.
        let clients = RefCell::new(Vec::new());
        eventually("readmitted, though no answer of it has ended", || {
            let mut client = gateway.client();
            client.write(chat());
            thread::sleep(Duration::from_millis(5));
            clients.borrow_mut().push(client);
            now() == HealthState::Unknown
        });
        assert!(gateway.0.router().replicas()[0].load.requests() > 0);
        drop(clients);
        gateway.settle();
    }
}

#[test]
fn w46_a_replica_may_leave_while_it_streams() {
    let (leaving, release) = held();
    let staying = Upstream::fine();
    let gateway = Gateway::before(&leaving);
    let mut client = gateway.client();
    client.write(chat());
    client.read_until(b"data: 1\n\n\r\n");
    let old = Arc::clone(&gateway.0.router().replicas()[0]);
    let replica = ReplicaConfig::new(format!("http://{}", staying.address).parse().unwrap());
    gateway.0.apply(&Settings::new(vec![replica.clone()]).unwrap()).unwrap();
    assert_eq!(old.load.requests(), 1, "its stream goes on");
    release.send(()).unwrap();
    client.read_until(b"data: 2\n\n\r\n0\r\n\r\n");
    eventually("its load is given back", || old.load.requests() == 0);
    client.write(chat());
    assert_eq!(client.answer().text(), "{}", "the next request goes to the one that stayed");
    let back = ReplicaConfig::new(format!("http://{}", leaving.address).parse().unwrap());
    gateway.0.apply(&Settings::new(vec![replica, back]).unwrap()).unwrap();
    let returned = Arc::clone(&gateway.0.router().replicas()[1]);
    assert!(returned.id != old.id && returned.load.snapshot().picked == 0, "nothing of its former life");
    gateway.settle();
}

#[test]
fn w46_replicas_come_and_go_under_load_without_a_failure() {
    let upstreams = [Upstream::fine(), Upstream::fine(), Upstream::fine()];
    let gateway = Arc::new(Gateway::before(&upstreams[0]));
    let stop = Arc::new(AtomicBool::new(false));
    let threads = [(); 4].map(|()| {
        let (gateway, stop) = (Arc::clone(&gateway), Arc::clone(&stop));
        thread::spawn(move || {
            let mut client = gateway.client();
            while !stop.load(SeqCst) {
                client.write(chat());
                let answer = client.answer();
                assert_eq!(answer.status, 200, "{}", answer.text());
            }
        })
    });
    for round in 0..100 {
        let replicas = upstreams[..=round % 3].iter();
        let replicas = replicas.map(|upstream| format!("http://{}", upstream.address).parse().unwrap());
        let mut settings = Settings::new(replicas.collect()).unwrap();
        settings.policy = "random".parse().unwrap();
        gateway.0.apply(&settings).unwrap();
        thread::sleep(Duration::from_millis(2));
    }
    stop.store(true, SeqCst);
    for thread in threads {
        thread.join().unwrap();
    }
    gateway.settle();
}

#[test]
fn w46_a_pool_whose_replicas_all_get_new_names_goes_on_serving() {
    // The check under the new name is not over before the test.
    let (tell, upstream) = checked_when_dropped("localhost");
    let mut kept = None;
    let gateway = Gateway::with(&[upstream.address], |settings| {
        checked(settings);
        settings.checks.timeout = Duration::from_secs(600);
        kept = Some(settings.clone());
    });
    eventually("it serves", || gateway.ask(chat()).status == 200);
    let mut settings = kept.unwrap();
    settings.replicas = vec![format!("http://localhost:{}", upstream.address.port()).parse().unwrap()];
    gateway.0.apply(&settings).unwrap();
    for _ in 0..10 {
        assert_eq!(gateway.ask(chat()).status, 200);
    }
    assert_eq!(gateway.admin("GET /readyz HTTP/1.1\r\nHost: a\r\n\r\n").status, 200);
    assert_eq!(state(&gateway, 0), HealthState::Unknown);
    drop(tell);
    eventually("its check has passed", || state(&gateway, 0) == HealthState::Healthy);
    gateway.settle();
}

#[test]
fn w46_what_can_change_while_it_runs_does() {
    let (sick, well) = (switched(), switched());
    let config = |more: &str| {
        let replicas =
            format!("[\"http://{}\", \"http://{}\"]", sick.upstream.address, well.upstream.address);
        let text = format!(
            "listen: 127.0.0.1:0\nadmin_listen: 127.0.0.1:0\nthreads: 1\nreplicas: {replicas}\n{more}"
        );
        Config::from_yaml(&text, "test".as_ref()).unwrap().resolve().unwrap()
    };
    let gateway = Gateway(gateway::start(config("scrape_interval_s: 0\nchecks: {interval_s: 0.1}")).unwrap());
    let asked = |path: &str| {
        let mut heads = sick.upstream.requests().into_iter().map(|request| request.head);
        heads.any(|head| head.starts_with(&format!("GET {path} ")))
    };
    eventually("checked", || asked("/health"));
    let more = "checks: {interval_s: 0.1, path: /ping}\nscrape_interval_s: 0.05\npolicy: random";
    gateway.0.apply(&config(more)).unwrap();
    eventually("checked elsewhere", || asked("/ping"));
    assert_eq!(gateway.0.router().policy().name().label(), "random");

    gateway.0.set_policy("least_tokens".parse().unwrap()).unwrap();
    gateway.0.apply(&config(&format!("{more}\nretry: {{retries: 0}}"))).unwrap();
    assert_eq!(
        gateway.0.router().policy().name().label(),
        "least_tokens",
        "the file says nothing new about it"
    );
    gateway.0.apply(&config("checks: {interval_s: 0.1, path: /ping}\npolicy: session")).unwrap();
    assert_eq!(gateway.0.router().policy().name().label(), "session");
    assert!(!asked("/metrics"), "nobody was there to read pages");
    gateway.settle();
}

#[test]
fn w46_a_shorter_interval_does_not_wait_for_the_longer_one() {
    let replica = switched();
    let asked = |path: &str| {
        let head = format!("GET {path} ");
        replica.upstream.requests().iter().filter(|request| request.head.starts_with(&head)).count()
    };
    let mut kept = None;
    let gateway = Gateway::with(&[replica.upstream.address], |settings| {
        settings.checks.interval = Duration::from_secs(3600);
        settings.scrape_interval = Duration::from_secs(3600);
        kept = Some(settings.clone());
    });
    let each = |count| asked("/health") >= count && asked("/metrics") >= count;
    eventually("each was asked once", || each(1));
    // Now they rest.
    thread::sleep(Duration::from_millis(100));
    let mut settings = kept.unwrap();
    settings.checks.interval = Duration::from_millis(50);
    settings.scrape_interval = Duration::from_millis(50);
    gateway.0.apply(&settings).unwrap();
    eventually("each was asked again and again", || each(4));
    gateway.settle();
}

#[test]
fn w46_retries_can_be_switched_off() {
    let (nobody, fine) = (Upstream::nobody(), Upstream::fine());
    let gateway = Gateway::over(&[nobody, fine.address]);
    let replicas = [nobody, fine.address]
        .map(|address| ReplicaConfig::new(format!("http://{address}").parse().unwrap()));
    let mut settings = Settings::new(replicas.into()).unwrap();
    settings.policy = "round_robin".parse().unwrap();
    settings.health.consecutive_failures = 1000;
    let statuses = || -> Vec<u16> { (0..2).map(|_| gateway.ask(chat()).status).collect() };
    gateway.0.apply(&settings).unwrap();
    assert_eq!(statuses(), [200, 200]);
    settings.retry.retries = 0;
    gateway.0.apply(&settings).unwrap();
    assert!(statuses().contains(&503));
    gateway.settle();
}

#[test]
fn w47_the_policy_changes_under_load_without_a_failure() {
    let upstreams = [Upstream::fine(), Upstream::fine()];
    let gateway = Arc::new(Gateway::over(&upstreams.each_ref().map(|upstream| upstream.address)));
    let stop = Arc::new(AtomicBool::new(false));
    let threads: Vec<_> = (0..4)
        .map(|_| {
            let (gateway, stop) = (Arc::clone(&gateway), Arc::clone(&stop));
            thread::spawn(move || {
                let mut client = gateway.client();
                let mut count = 0;
                while !stop.load(SeqCst) {
                    client.write(chat());
                    assert_eq!(client.answer().status, 200);
                    count += 1;
                }
                count
            })
        })
        .collect();
    for policy in ["round_robin", "prefix_hash", "random", "least_tokens", "session", "least_requests"] {
        let body = format!("\"{policy}\"");
        let request =
            format!("PUT /api/policy HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n{body}", body.len());
        assert_eq!(gateway.admin(request).status, 200);
        assert_eq!(gateway.metric(&format!("evenload_policy{{policy=\"{policy}\"}}")), 1.0);
        thread::sleep(Duration::from_millis(20));
    }
    stop.store(true, SeqCst);
    let count: usize = threads.into_iter().map(|thread| thread.join().unwrap()).sum();
    let seen: usize = upstreams.iter().map(|upstream| upstream.requests().len()).sum();
    assert_eq!(seen, count, "each request once");
    let answer = gateway.admin("PUT /api/policy HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n\"xyz\"");
    assert_eq!(answer.status, 400);
    assert!(answer.text().contains("prefix_hash"), "{}", answer.text());
    for (name, status) in [("bad header", 400), ("", 400), ("x:y", 400), ("x-Good", 200)] {
        let body = format!("{{\"session\":{{\"headers\":[\"{name}\"]}}}}");
        let length = body.len();
        let put = format!("PUT /api/policy HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n\r\n{body}");
        let answer = gateway.admin(put);
        assert_eq!(answer.status, status, "{name}: {}", answer.text());
    }
    gateway.settle();
}

#[test]
fn decisions_are_explained_and_not_taken() {
    let upstreams = [Upstream::fine(), Upstream::fine()];
    let gateway = Gateway::with(&upstreams.each_ref().map(|upstream| upstream.address), |settings| {
        settings.policy = "prefix_aware".parse().unwrap();
        settings.limits.max_body = 4 << 20;
    });
    let text = "a prompt of more than one block ".repeat(20);
    let body = format!(r#"{{"model":"m","messages":[{{"role":"user","content":"{text}"}}],"max_tokens":9}}"#);
    assert_eq!(gateway.ask(support::post(&body)).status, 200);
    let sent = || upstreams.each_ref().map(|upstream| upstream.requests().len());
    let before = sent();
    let explain = |path: &str, body: &str| {
        let length = body.len();
        let head = format!("POST /api/explain{path} HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n\r\n");
        gateway.admin(head + body)
    };
    let answer = explain("/v1/chat/completions", &body);
    let explained: serde_json::Value = serde_json::from_slice(&answer.body).unwrap();
    let known = usize::from(before[1] > 0);
    let row = |place: usize| &explained["candidates"][place]["cost"];
    assert_eq!(explained["policy"], "prefix_aware");
    assert_eq!(explained["reason"], "prefix");
    assert_eq!(explained["chosen"], explained["candidates"][known]["name"]);
    assert!(row(known)["cached_tokens"].as_u64().unwrap() > 100, "{explained}");
    assert_eq!(row(1 - known)["cached_tokens"], 0);
    for part in ["prefill_s", "queue_s", "decode_s", "wait_s", "home_s", "total_s", "outstanding_s"] {
        assert!(row(known)[part].is_f64(), "{part} of {explained}");
    }
    assert_eq!(explain("/v1/chat/completions", "{").status, 400);
    assert_eq!(explain("/elsewhere", "").status, 200, "what routing cannot read goes by load");
    let long = "a".repeat(3 << 20);
    let body = format!(r#"{{"model":"m","messages":[{{"role":"user","content":"{long}"}}]}}"#);
    assert_eq!(explain("/v1/chat/completions", &body).status, 200, "what is served can be explained");
    let answer = explain("/v1/chat/completions", &"a".repeat((4 << 20) + 1));
    assert_eq!((answer.status, answer.code().as_str()), (413, "body_too_large"));
    assert_eq!(sent(), before);
    gateway.settle();
}

#[test]
fn w47_draining_lets_requests_end_and_takes_no_more() {
    let (upstream, release) = held();
    let gateway = Gateway::before(&upstream);
    let (mut idle, mut busy) = (gateway.client(), gateway.client());
    idle.write("GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(idle.answer().status, 200);
    busy.write(chat());
    busy.read_until(b"data: 1\n\n\r\n");
    let (address, admin) = (gateway.0.address(), gateway.0.admin_address());
    gateway.0.drain();
    assert_eq!(idle.read_some(), None, "idle connections close");
    eventually("nothing new is accepted", || TcpStream::connect(address).is_err());
    let mut operator = Client::to(admin);
    operator.write("GET /readyz HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(operator.answer().status, 503);
    assert!(!gateway.0.is_over());
    release.send(()).unwrap();
    busy.read_until(b"data: 2\n\n\r\n0\r\n\r\n");
    eventually("it is over", || gateway.0.is_over());
    gateway.0.join();
}

#[test]
fn w47_connections_that_wait_to_be_accepted_are_served() {
    // Nothing is accepted while the first check goes on.
    let upstream = Upstream::new(|conn| {
        conn.read_request();
        conn.is_closed_by_peer();
    });
    let gateway = Gateway::with(&[upstream.address], checked);
    let mut clients = [(); 5].map(|()| gateway.client());
    for client in &mut clients {
        client.write("GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n");
    }
    gateway.0.drain();
    for client in &mut clients {
        assert_eq!(client.answer().status, 200);
    }
    drop(clients);
    gateway.0.join();
}

#[test]
fn w47_the_drain_time_ends() {
    let (upstream, _release) = held();
    let gateway = Gateway::with(&[upstream.address], |settings| {
        settings.drain_timeout = Duration::from_millis(200);
    });
    let mut client = gateway.client();
    client.write(chat());
    client.read_until(b"data: 1\n\n\r\n");
    gateway.0.drain();
    assert!(client.read_some().is_none(), "cut off, without a regular end");
    gateway.0.join();
}

#[test]
fn w47_a_port_in_use_is_named() {
    let gateway = Gateway::before(&Upstream::fine());
    let mut settings = Settings::new(vec![ReplicaConfig::new("http://a".parse().unwrap())]).unwrap();
    settings.listen = gateway.0.address();
    settings.admin_listen = "127.0.0.1:0".parse().unwrap();
    let error = gateway::start(settings).unwrap_err();
    assert!(matches!(error, StartError::Listen { .. }));
    assert!(error.to_string().contains(&gateway.0.address().to_string()), "{error}");
    let address = gateway.0.address();
    gateway.0.shutdown();
    let listener = TcpListener::bind(address);
    assert!(listener.is_ok(), "the port is free again");
}

#[test]
fn operators_can_drain_a_replica() {
    let upstreams = [Upstream::fine(), Upstream::fine()];
    let gateway = Gateway::over(&upstreams.each_ref().map(|upstream| upstream.address));
    let tell = |what: &str| {
        let body = format!("{{\"url\":\"http://{}\"}}", upstreams[0].address);
        let length = body.len();
        gateway
            .admin(format!(
                "POST /api/replicas/{what} HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n\r\n{body}"
            ))
            .status
    };
    assert_eq!(tell("drain"), 204);
    for _ in 0..4 {
        gateway.ask(chat());
    }
    assert_eq!((upstreams[0].requests().len(), upstreams[1].requests().len()), (0, 4));
    assert_eq!(tell("resume"), 204);
    assert_eq!(state(&gateway, 0), HealthState::Unknown);
    let answer = gateway.admin(
        "POST /api/replicas/drain HTTP/1.1\r\nHost: a\r\nContent-Length: 16\r\n\r\n{\"url\":\"http:x\"}",
    );
    assert_eq!(answer.status, 404);
    gateway.settle();
}
