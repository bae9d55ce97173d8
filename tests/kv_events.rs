//! Cache events over real sockets: simulated engines, the balancer, and publishers that lose batches.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::{
    io::{ErrorKind, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use engine::{Fleet, KvEvents, Profile};
use gateway::{Config, Handle, Settings};
use protocol::{
    BLOCK_TOKENS,
    kv_events::{BlocksStored, CacheEvent, EventBatch, EventFormat},
    zmtp::{Incoming, Link, SocketKind},
};
use rand::SeedableRng;
use routing::Query;
use serde_json::json;

const PATIENCE: Duration = Duration::from_secs(20);
const MODEL: &str = "m";

/// Engines of 64 blocks that publish.
fn engines(replicas: u16, ports: Option<[u16; 3]>, format: EventFormat) -> Fleet {
    let [port, events_port, replay_port] = ports.unwrap_or_default();
    let profile = Profile {
        step_base_s: 1e-3,
        per_sequence_s: 0.0,
        per_context_token_s: 0.0,
        per_prefill_token_s: 0.0,
        kv_blocks: 64,
        max_model_len: 1024,
        preallocated_blocks: 0,
        ..Profile::l4()
    };
    engine::serve(engine::Config {
        replicas,
        port,
        model_names: vec![MODEL.to_owned()],
        kv_events: Some(KvEvents { port: events_port, replay_port, format }),
        ..engine::Config::new(profile)
    })
    .unwrap()
}

/// A balancer for replicas that publish at these addresses.
fn balance(replicas: &[(SocketAddr, SocketAddr, Option<SocketAddr>)]) -> Handle {
    gateway::start(settings(replicas)).unwrap()
}

fn settings(replicas: &[(SocketAddr, SocketAddr, Option<SocketAddr>)]) -> Settings {
    let replicas: Vec<_> = replicas
        .iter()
        .map(|(http, events, replay)| {
            let mut replica =
                json!({"url": format!("http://{http}"), "kv_events": format!("tcp://{events}")});
            if let Some(replay) = replay {
                replica["kv_events_replay"] = json!(format!("tcp://{replay}"));
            }
            replica
        })
        .collect();
    let file = json!({
        "listen": "127.0.0.1:0", "admin_listen": "127.0.0.1:0", "threads": 1, "policy": "prefix_aware",
        "checks": {"interval_s": 0}, "replicas": replicas,
    });
    let config = Config::from_yaml(&file.to_string(), "test".as_ref()).unwrap();
    config.resolve().unwrap()
}

fn balance_fleet(fleet: &Fleet) -> Handle {
    let replicas: Vec<_> = fleet
        .addresses()
        .iter()
        .zip(fleet.kv_events())
        .map(|(http, [events, replay])| (*http, *events, Some(*replay)))
        .collect();
    balance(&replicas)
}

/// One request and its answer.
fn ask(address: SocketAddr, method: &str, path: &str, body: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    write!(
        stream,
        "{method} {path} HTTP/1.1\r\nhost: test\r\nconnection: close\r\ncontent-type: application/json\r\n\
         content-length: {}\r\n\r\n{body}",
        body.len()
    )
    .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

fn complete(handle: &Handle, prompt: &str) {
    let body = json!({"model": MODEL, "prompt": prompt, "max_tokens": 4});
    let answer = ask(handle.address(), "POST", "/v1/completions", &body.to_string());
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
}

/// The sum of a metric over its labels.
fn metric(handle: &Handle, name: &str) -> f64 {
    let page = ask(handle.admin_address(), "GET", "/metrics", "");
    let name = format!("evenload_{name}");
    let rows = page.lines().filter(|line| {
        line.strip_prefix(&name)
            .is_some_and(|rest| rest.starts_with([' ', '{']) || rest.starts_with("_total"))
    });
    rows.filter_map(|row| row.rsplit_once(' ')?.1.parse::<f64>().ok()).sum()
}

fn until(what: &str, is_so: impl Fn() -> bool) {
    let begun = Instant::now();
    while !is_so() {
        assert!(begun.elapsed() < PATIENCE, "not seen: {what}");
        thread::sleep(Duration::from_millis(10));
    }
}

/// Tokens of a prompt that the balancer expects in each replica's cache.
fn expected(handle: &Handle, prompt: &str) -> Vec<u32> {
    let mut blocks = Vec::new();
    protocol::block_hashes(MODEL.as_bytes(), prompt.as_bytes(), &mut blocks);
    let query = Query {
        blocks: &blocks,
        block_tokens: BLOCK_TOKENS as u32,
        prompt_tokens: protocol::estimate_tokens(prompt.len()),
        ..Query::default()
    };
    let mut random = rand_chacha::ChaCha8Rng::seed_from_u64(1);
    let explanation = handle.router().explain(&query, Duration::from_secs(1), &mut random);
    let costs = explanation.candidates.iter();
    costs.map(|candidate| candidate.cost.map_or(0, |cost| cost.cached_tokens)).collect()
}

/// A prompt of so many tokens, unlike others.
fn prompt(name: &str, tokens: usize) -> String {
    format!("{name:-<16}").repeat(tokens / 4)
}

#[test]
fn an_eviction_and_a_restart_are_seen_in_every_format() {
    for format in EventFormat::ALL {
        let fleet = engines(1, None, format);
        let ([http], [[events, replay]]) = (fleet.addresses(), fleet.kv_events()) else { panic!() };
        let ports = [http.port(), events.port(), replay.port()];
        let handle = balance_fleet(&fleet);
        until("a connection", || metric(&handle, "kv_event_connected") == 1.0);

        let first = prompt("first", 480);
        complete(&handle, &first);
        until("the first prompt's blocks", || metric(&handle, "kv_event_blocks") == 30.0);
        until("a lesson", || metric(&handle, "kv_event_learned_blocks") == 30.0);
        assert_eq!(expected(&handle, &first), [480], "{format:?}");

        // 64 blocks hold two such prompts, and the history counts for twice the cache that it assumes.
        let second = prompt("second", 480);
        complete(&handle, &second);
        complete(&handle, &prompt("third", 480));
        until("evictions", || metric(&handle, "kv_event_blocks_removed") > 20.0);
        until("the first prompt to be gone", || expected(&handle, &first)[0] < 240);
        assert_eq!(expected(&handle, &second), [480], "{format:?}");

        fleet.shutdown();
        until("the connection to break", || metric(&handle, "kv_event_connected") == 0.0);
        let fleet = engines(1, Some(ports), format);
        until("the restart", || metric(&handle, "kv_event_restarts") == 1.0);
        assert_eq!(expected(&handle, &second), [0], "{format:?}");
        until("a connection", || metric(&handle, "kv_event_connected") == 1.0);
        complete(&handle, &second);
        until("the second prompt's blocks", || metric(&handle, "kv_event_blocks") == 30.0);
        assert_eq!(expected(&handle, &second), [480], "{format:?}");
        assert_eq!(metric(&handle, "kv_event_malformed"), 0.0);
        assert_eq!(metric(&handle, "kv_event_losses"), 0.0);
        drop(fleet);
    }
}

#[test]
fn an_engine_that_starts_again_is_followed_without_a_replay_too() {
    let fleet = engines(1, None, EventFormat::Vllm);
    let ([http], [[events, replay]]) = (fleet.addresses(), fleet.kv_events()) else { panic!() };
    let ports = [http.port(), events.port(), replay.port()];
    let handle = balance(&[(*http, *events, None)]);
    until("a connection", || metric(&handle, "kv_event_connected") == 1.0);
    for name in ["first", "second", "third"] {
        complete(&handle, &prompt(name, 480));
    }
    until("batches", || metric(&handle, "kv_event_batches") >= 3.0);
    fleet.shutdown();
    until("the connection to break", || metric(&handle, "kv_event_connected") == 0.0);
    let _fleet = engines(1, Some(ports), EventFormat::Vllm);
    until("a connection", || metric(&handle, "kv_event_connected") == 1.0);
    assert_eq!((metric(&handle, "kv_event_losses"), metric(&handle, "kv_event_blocks")), (1.0, 0.0));
    // Its numbers begin anew, below the last one.
    complete(&handle, &prompt("fourth", 480));
    until("the prompt's blocks", || metric(&handle, "kv_event_blocks") == 30.0);
    assert_eq!(metric(&handle, "kv_event_gaps"), 0.0);
}

#[test]
fn what_others_sent_to_a_replica_is_known_once_the_prompt_is() {
    let fleet = engines(2, None, EventFormat::Vllm);
    let handle = balance_fleet(&fleet);
    until("connections", || metric(&handle, "kv_event_connected") == 2.0);
    let shared = prompt("shared", 320);
    complete(&handle, &shared);
    until("a lesson", || metric(&handle, "kv_event_learned_blocks") == 20.0);
    let mine = expected(&handle, &shared);
    assert!(mine == [320, 0] || mine == [0, 320], "{mine:?}");
    // Another balancer sends it to the other replica.
    let other = fleet.addresses()[usize::from(mine[0] > 0)];
    let body = json!({"model": MODEL, "prompt": shared, "max_tokens": 1}).to_string();
    assert!(ask(other, "POST", "/v1/completions", &body).starts_with("HTTP/1.1 200"));
    until("both to hold it", || expected(&handle, &shared) == [320, 320]);
    // A reset clears it.
    let reset = ask(other, "POST", "/reset_prefix_cache", "");
    assert!(reset.starts_with("HTTP/1.1 200"), "{reset}");
    until("one to hold it", || expected(&handle, &shared) == mine);
}

/// A publisher that sends the batches `numbers` of an endless row, and replays those of `kept`; when it is asked for
/// all of them, the others are yet to come.
fn publisher(numbers: &'static [u64], kept: &'static [u64]) -> (SocketAddr, SocketAddr) {
    let batch = |number: u64| {
        let stored = BlocksStored {
            hashes: vec![number],
            tokens: vec![number as u32; 16],
            block_tokens: 16,
            ..BlocksStored::default()
        };
        EventBatch { events: vec![CacheEvent::Stored(stored)], ..EventBatch::default() }
            .encode(EventFormat::Vllm)
    };
    let serve = move |kind: SocketKind| {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                thread::spawn(move || {
                    let mut link = Link::new(kind, 1 << 20);
                    let mut bytes = [0; 4096];
                    loop {
                        let output = std::mem::take(link.output());
                        stream.write_all(&output).unwrap();
                        let Ok(length @ 1..) = stream.read(&mut bytes) else { return };
                        link.receive(&bytes[..length]);
                        while let Some(incoming) = link.poll().unwrap() {
                            match incoming {
                                Incoming::Subscribe(_) => {
                                    for number in numbers {
                                        link.send(&[b"topic", &number.to_be_bytes(), &batch(*number)]);
                                    }
                                }
                                Incoming::Message(frames) => {
                                    let start = u64::from_be_bytes(frames[1].as_slice().try_into().unwrap());
                                    let there =
                                        |number: u64| number >= start && (start > 0 || number <= numbers[0]);
                                    for number in kept.iter().filter(|number| there(**number)) {
                                        link.send(&[b"", &number.to_be_bytes(), &batch(*number)]);
                                    }
                                    link.send(&[b"", &u64::MAX.to_be_bytes(), b""]);
                                }
                                Incoming::Ready | Incoming::Cancel(_) => {}
                            }
                        }
                    }
                });
            }
        });
        address
    };
    (serve(SocketKind::Pub), serve(SocketKind::Router))
}

#[test]
fn a_gap_is_filled_from_the_replay_or_clears_the_index() {
    let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let check = |what: &str, replay: bool, numbers, kept, wanted: [u64; 4]| {
        let (events, replay_address) = publisher(numbers, kept);
        let handle = balance(&[(nobody, events, replay.then_some(replay_address))]);
        until(what, || {
            let names = ["kv_event_gaps", "kv_event_replayed_batches", "kv_event_losses", "kv_event_blocks"];
            names.map(|name| metric(&handle, name) as u64) == wanted
        });
    };
    check("no gap", true, &[0, 1, 2], &[], [0, 0, 0, 3]);
    check("a first number that is not the first", false, &[5, 6], &[], [0, 0, 0, 2]);
    check("what was before, replayed at the start", true, &[3, 4], &[0, 1, 2, 3], [0, 4, 0, 5]);
    check("a gap that is filled", true, &[3, 7], &[3, 4, 5, 6], [1, 4, 0, 5]);
    check("a gap that is not kept whole", true, &[3, 7], &[3, 6], [1, 1, 1, 1]);
    check("a gap without a replay", false, &[3, 7], &[3, 4, 5, 6], [1, 0, 1, 1]);
    check("a number that no batch can have", false, &[5, u64::MAX, 6], &[], [0, 0, 0, 2]);
}

#[test]
fn a_replica_that_is_taken_out_is_not_listened_to_any_more_though_it_publishes() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let events = listener.local_addr().unwrap();
    let (tell, told) = mpsc::channel();
    thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        stream.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
        let mut link = Link::new(SocketKind::Pub, 1 << 20);
        let batch = EventBatch::default().encode(EventFormat::Vllm);
        let (mut bytes, mut next) = ([0; 4096], None);
        loop {
            if let Some(number) = &mut next {
                link.send(&[b"topic", &u64::to_be_bytes(*number), &batch]);
                *number += 1;
            }
            let output = std::mem::take(link.output());
            let read = stream.write_all(&output).and_then(|()| stream.read(&mut bytes));
            match read {
                Ok(length @ 1..) => link.receive(&bytes[..length]),
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
                Ok(0) | Err(_) => break,
            }
            while let Some(incoming) = link.poll().unwrap() {
                if matches!(incoming, Incoming::Subscribe(_)) {
                    next = Some(0);
                }
            }
        }
        let _ = tell.send(());
    });
    let [leaving, staying] =
        [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap());
    let handle = balance(&[(leaving, events, None)]);
    until("batches", || metric(&handle, "kv_event_batches") >= 3.0);
    // Its own events come from nowhere.
    handle.apply(&settings(&[(staying, staying, None)])).unwrap();
    told.recv_timeout(PATIENCE).expect("the connection stays");
}
