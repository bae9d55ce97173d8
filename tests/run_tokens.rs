//! Who counts the tokens of `evenload run`, and what requests say beside their bodies.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod run_support;

use std::{fs, io::Write, net::TcpStream, thread, time::Duration};

use run_support::{MODEL, Stage, Stub, said};
use serde_json::{Value, json};

/// Four events of 3, 5, 2 and 3 words, some time apart.
const EVENTS: [&str; 4] = ["the quick brown", " fox jumped over a fence", " and then", " it slept well"];

fn stream(socket: &mut TcpStream, usage: Option<Value>) {
    let event = |data: &Value| format!("data: {data}\n\n");
    let head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n";
    socket.write_all(head.as_bytes()).unwrap();
    for words in EVENTS {
        let said = json!({ "choices": [{ "index": 0, "text": words, "finish_reason": null }] });
        let _ = socket.write_all(event(&said).as_bytes());
        thread::sleep(Duration::from_millis(10));
    }
    let usage = usage.map(|usage| event(&json!({ "choices": [], "usage": usage }))).unwrap_or_default();
    let _ = socket.write_all(format!("{usage}data: [DONE]\n\n").as_bytes());
}

/// A stage with a tokenizer that counts words, and what `run` says of five requests to `server`.
fn counted(server: &Stub, flags: &[&str]) -> (Stage, String) {
    let stage = Stage::new();
    let words = json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": null,
        "pre_tokenizer": { "type": "WhitespaceSplit" }, "post_processor": null, "decoder": null,
        "model": { "type": "WordLevel", "vocab": { "word": 0 }, "unk_token": "word" },
    });
    fs::write(stage.path("tokenizer.json"), words.to_string()).unwrap();
    let config = "api: {streaming: true}\nload: {stages: [{rate: 5, duration: 1}]}\n\
                  report: {request_lifecycle: {per_request: true, per_request_fields: {computed_metrics: true}}}\n";
    let mut all = vec!["--server.base_url", &server.url, "--server.model_name", MODEL];
    all.extend(["--tokenizer.pretrained_model_name_or_path", "tokenizer.json"]);
    all.extend(flags);
    let output = stage.run(config, &all);
    let said = said(&output.stderr);
    (stage, said)
}

/// The gaps between tokens are those of the four events, and nothing between the tokens of one.
#[track_caller]
fn assert_gaps(entry: &Value) {
    let computed = &entry["computed_metrics"];
    let gaps: Vec<f64> = computed["inter_token_latencies"]
        .as_array()
        .unwrap()
        .iter()
        .map(|gap| gap.as_f64().unwrap())
        .collect();
    assert_eq!((gaps.len(), gaps.iter().filter(|gap| **gap > 0.0).count()), (12, 3), "{gaps:?}");
    assert!(gaps[2] > 0.0 && gaps[7] > 0.0 && gaps[9] > 0.0, "{gaps:?}");
    let tpot = computed["time_per_output_token"].as_f64().unwrap();
    assert!((tpot - gaps.iter().sum::<f64>() / 12.0).abs() < 1e-6, "{tpot} {gaps:?}");
    assert_eq!(entry["info"]["response_metrics"]["output_token_times"].as_array().unwrap().len(), 13);
    assert_eq!(entry["info"]["response_metrics"]["chunk_times"].as_array().unwrap().len(), 4);
}

#[test]
fn the_tokenizer_counts_what_the_server_does_not() {
    let server = Stub::new(|_, socket| stream(socket, None));
    let (stage, _) = counted(&server, &[]);
    let summary = stage.report("summary_lifecycle_metrics.json");
    let successes = &summary["successes"];
    assert_eq!((&successes["count"], &successes["output_tokens"]["total"]), (&5.into(), &65.0.into()));
    assert_eq!(successes["prompt_tokens"]["total"], 20.0, "\"1 2 3 N\" has four words");
    assert_eq!(successes["client_fallback_requests"], json!({ "prompt": 5, "output": 5 }));
    assert_eq!(successes["token_count_mismatches"], 0);
    for entry in stage.report("per_request_lifecycle_metrics.json").as_array().unwrap() {
        assert_gaps(entry);
    }
    let validation = stage.report("validation.json").to_string();
    assert!(!validation.contains("estimated") && !validation.contains("tokenizer"), "{validation}");
}

#[test]
fn the_tokenizer_spreads_the_tokens_that_the_server_counts() {
    let usage = json!({ "prompt_tokens": 7, "completion_tokens": 13 });
    let server = Stub::new(move |_, socket| stream(socket, Some(usage.clone())));
    let (stage, _) = counted(&server, &[]);
    let summary = stage.report("summary_lifecycle_metrics.json");
    assert_eq!(summary["successes"]["prompt_tokens"]["total"], 35.0, "the server's word goes first");
    assert_eq!(summary["successes"]["client_fallback_requests"], json!({ "prompt": 0, "output": 0 }));
    stage.report("per_request_lifecycle_metrics.json").as_array().unwrap().iter().for_each(assert_gaps);
}

#[test]
fn prompts_of_other_lengths_than_asked_for_are_said() {
    let server = Stub::new(|_, socket| stream(socket, None));
    let lengths = r#"{"type": "fixed", "mean": 40}"#;
    let random = ["--data.type", "random", "--data.input_distribution", lengths];
    let (stage, said) = counted(&server, &random);
    assert!(!said.contains("times as long"), "a word is a token by this tokenizer: {said}");
    assert_eq!(stage.report("summary_lifecycle_metrics.json")["successes"]["prompt_tokens"]["total"], 200.0);
    // Letters are tokens of the next one.
    let letters = json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": null,
        "pre_tokenizer": { "type": "Split", "pattern": { "Regex": "." }, "behavior": "Isolated", "invert": false },
        "post_processor": null, "decoder": null,
        "model": { "type": "WordLevel", "vocab": { "letter": 0 }, "unk_token": "letter" },
    });
    fs::write(stage.path("letters.json"), letters.to_string()).unwrap();
    let letters = stage.path("letters.json").display().to_string();
    let flag = ["--tokenizer.pretrained_model_name_or_path", &letters];
    let (_, said) = counted(&server, &[random.as_slice(), &flag].concat());
    assert!(said.contains("the prompts of this data are 4.00 times as long by the tokenizer"), "{said}");
}

#[test]
fn a_mean_that_the_bounds_cut_off_is_said() {
    let server = Stub::new(|_, socket| stream(socket, None));
    let random = ["--data.type", "random", "--data.input_distribution", r#"{"max": 20}"#];
    let (_, said) = counted(&server, &random);
    assert!(said.contains("data.input_distribution: the mean 512 is above its max 20"), "{said}");
}

#[test]
fn requests_say_nothing_that_was_not_asked_for() {
    let head = |request: &str| request.split("\r\n\r\n").next().unwrap().to_lowercase();
    let server = Stub::new(|_, socket| stream(socket, None));
    counted(&server, &["--api.session_id_header_key", "X-Session"]);
    let asked = server.asked();
    let posts: Vec<String> =
        asked.iter().map(|request| head(request)).filter(|head| head.starts_with("post")).collect();
    assert_eq!(posts.len(), 5);
    for post in posts {
        assert!(!post.contains("\r\nx-"), "single requests have no session: {post}");
    }

    let server = Stub::new(|_, socket| stream(socket, None));
    let talks = r#"{"num_conversations": 2, "turns_per_conversation": 2, "shared_system_prompt_len": 8}"#;
    let load = r#"{"type": "trace_session_replay", "stages": [{"concurrent_sessions": 1}]}"#;
    let flags = ["--data.type", "conversation_replay", "--data.conversation_replay", talks, "--load", load];
    counted(&server, &[flags.as_slice(), &["--api.session_id_header_key", "X-Own"]].concat());
    let asked = server.asked();
    let own = |request: &String| {
        let head = head(request);
        let names: Vec<&str> = head.lines().filter(|line| line.starts_with("x-")).collect();
        let [name] = names.as_slice() else { panic!("{names:?}") };
        name.strip_prefix("x-own: ").unwrap().to_owned()
    };
    let names: Vec<String> = asked.iter().filter(|request| request.starts_with("POST")).map(own).collect();
    assert_eq!(names.len(), 4);
    assert!(names[0] == names[1] && names[1] != names[2] && names[2] == names[3], "{names:?}");
}
