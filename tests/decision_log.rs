//! What a balancer recorded, again in virtual time: the same policy comes to the same.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    path::Path,
    thread,
    time::Duration,
};

use engine::Profile;
use gateway::{Config, Handle};
use protocol::Decision;
use routing::{PolicyName, PolicySettings};
use serde_json::{Value, json};
use simulate::{ClientModel, FleetSettings, Means, Pace, Traffic, replay::DecisionLog, scenario::Scenario};

const PATIENCE: Duration = Duration::from_secs(20);
/// So many that the hash ring, which goes by the replicas' ports, gives all to one replica once in 500,000 times.
const CONVERSATIONS: usize = 20;
const TURNS: usize = 4;

/// Quick, with room for all conversations: what is compared is where turns went.
fn profile() -> Profile {
    Profile {
        step_base_s: 2e-3,
        per_sequence_s: 0.0,
        per_context_token_s: 0.0,
        per_prefill_token_s: 1e-6,
        kv_blocks: 1024,
        max_model_len: 2048,
        preallocated_blocks: 0,
        ..Profile::l4()
    }
}

fn balance(replicas: &[SocketAddr], policy: &Value, log: &Path, salt: Option<&str>) -> Handle {
    let urls: Vec<String> = replicas.iter().map(|address| format!("http://{address}")).collect();
    let file = json!({
        "listen": "127.0.0.1:0", "admin_listen": "127.0.0.1:0", "threads": 1, "policy": policy,
        "checks": {"interval_s": 0}, "replicas": urls, "decision_log": log, "decision_log_salt": salt,
    });
    let config = Config::from_yaml(&file.to_string(), "test".as_ref()).unwrap();
    gateway::start(config.resolve().unwrap()).unwrap()
}

/// Sends a prompt and returns the answer's text.
fn complete(address: SocketAddr, prompt: &str) -> String {
    let body = json!({"model": "m", "prompt": prompt, "max_tokens": 24}).to_string();
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    write!(
        stream,
        "POST /v1/completions HTTP/1.1\r\nhost: test\r\nconnection: close\r\ncontent-type: application/json\r\n\
         x-session-id: somebody\r\n\
         content-length: {}\r\n\r\n{body}",
        body.len()
    )
    .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200"), "{answer}");
    let body: Value = serde_json::from_str(body).unwrap();
    body["choices"][0]["text"].as_str().unwrap().to_owned()
}

/// Conversations side by side; each turn repeats what was said.
fn converse(handle: &Handle) {
    let address = handle.address();
    let talking: Vec<_> = (0..CONVERSATIONS)
        .map(|number| {
            thread::spawn(move || {
                let mut said = format!("conversation {number:02}, secret words ").repeat(16);
                for turn in 0..TURNS {
                    said += &complete(address, &said);
                    said += &format!(" and then, in turn {turn} of {number:02}, more. ").repeat(6);
                }
            })
        })
        .collect();
    talking.into_iter().for_each(|conversation| conversation.join().unwrap());
}

fn decisions(log: &Path) -> Vec<Decision<'static>> {
    let text = std::fs::read_to_string(log).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn the_same_policy_comes_to_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("decisions.jsonl");
    let fleet = engine::serve(engine::Config {
        replicas: 2,
        model_names: vec!["m".to_owned()],
        ..engine::Config::new(profile())
    })
    .unwrap();
    // It goes by the prompt alone, with room to spare: what another one does depends on how quick the machine is.
    let policy = json!({"prefix_hash": {"load_factor_percent": 10_000}});
    let handle = balance(fleet.addresses(), &policy, &log, None);
    converse(&handle);
    handle.shutdown();

    let text = std::fs::read_to_string(&log).unwrap();
    assert!(!text.contains("secret") && !text.contains("turn"), "no text is kept");
    let read = DecisionLog::read([log.as_path()]).unwrap();
    let recorded = read.recorded();
    assert_eq!((recorded.requests, recorded.skipped), (CONVERSATIONS * TURNS, 0));
    assert_eq!(recorded.replicas, 2);
    assert_eq!(recorded.policy, "prefix_hash");
    let recorded_hits = recorded.prefix_hit_ratio.unwrap();
    assert!(recorded_hits > 0.5, "{recorded_hits}");

    let trial = |policy: PolicySettings| {
        let fleet = FleetSettings::uniform(&profile(), 2, policy.clone());
        let scenario = Scenario {
            traffic: Traffic::Dataset(read.dataset()),
            pace: Pace::OwnTimes { speed_up: 1.0 },
            sessions: None,
            concurrency: None,
            warm: false,
            fleet: FleetSettings { network: Duration::ZERO, ..fleet },
            client: ClientModel::IDEAL,
        };
        scenario.load().unwrap().trial(policy, 1).unwrap()
    };
    let again = trial(serde_json::from_value(policy).unwrap());
    assert_eq!(again.report.total.answered(), (CONVERSATIONS * TURNS) as u64);
    assert_eq!(again.report.total.output_tokens(), (CONVERSATIONS * TURNS * 24) as u64);
    let hits = Means::of(&[again]).prefix_hit_ratio;
    assert!((hits - recorded_hits).abs() < 0.05, "recorded {recorded_hits}, again {hits}");
    let random = Means::of(&[trial(PolicyName::Random.into())]).prefix_hit_ratio;
    assert!(random < hits - 0.05, "another policy would have had {random} and not {hits}");
}

#[test]
fn the_log_says_what_was_decided_and_what_came_of_it() {
    let folder = tempfile::tempdir().unwrap();
    let fleet =
        engine::serve(engine::Config { model_names: vec!["m".to_owned()], ..engine::Config::new(profile()) })
            .unwrap();
    let prompt = "word ".repeat(40);
    let mut hashes = Vec::new();
    for (name, salt) in [("a", Some("x")), ("b", Some("x")), ("c", Some("y")), ("d", None), ("e", None)] {
        let log = folder.path().join(name);
        let handle = balance(fleet.addresses(), &"prefix_aware".into(), &log, salt);
        complete(handle.address(), &prompt);
        handle.shutdown();
        let [decision] = &decisions(&log)[..] else { panic!("one request, one line") };
        assert_eq!((decision.input_length, decision.output_length, decision.max_tokens), (50, 24, Some(24)));
        assert_eq!((decision.hash_ids.len(), decision.block_tokens), (3, 16));
        assert_eq!((&*decision.outcome, decision.status, decision.retries), ("complete", 200, 0));
        assert_eq!(decision.reason.as_deref(), Some("only_candidate"));
        assert_eq!(decision.replica.as_deref(), Some(&*format!("http://{}", fleet.addresses()[0])));
        assert_eq!(decision.prompt_tokens, Some(50));
        assert!(
            decision.duration_ms > 0.0 && decision.prefix_key.is_some() && decision.session_key.is_some()
        );
        hashes.push(decision.hash_ids.to_vec());
    }
    assert_eq!(hashes[0], hashes[1], "the same secret, the same numbers");
    assert_ne!(hashes[0], hashes[2]);
    assert_ne!(hashes[3], hashes[4], "without a secret no two runs have anything in common");
    assert!(
        hashes.iter().flatten().all(|hash| *hash < 1 << 53),
        "every reader of JSON has such numbers whole"
    );
}
