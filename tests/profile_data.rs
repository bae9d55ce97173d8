//! What `evenload profile` sends of a file: the bodies that the built binary wrote, from `--export-level raw`.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::{
    fs,
    process::{Command, Output},
};

use engine::{Config, Fleet, Profile};
use serde_json::Value;
use tempfile::TempDir;

/// An engine, and a directory with a file of data.
struct Stage {
    engine: Fleet,
    directory: TempDir,
}

impl Stage {
    fn new(data: &str) -> Self {
        let config =
            Config { speedup: 1000.0, model_names: vec!["llama".to_owned()], ..Config::new(Profile::l4()) };
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("data"), data).unwrap();
        Self { engine: engine::serve(config).unwrap(), directory }
    }

    fn output(&self, flags: &[&str]) -> Output {
        let url = format!("http://{}", self.engine.addresses()[0]);
        Command::new(env!("CARGO_BIN_EXE_evenload"))
            .args([
                "profile",
                "--model",
                "llama",
                "--url",
                &url,
                "--input-file",
                "data",
                "--random-seed",
                "7",
            ])
            .args(["--output-artifact-dir", "out", "--export-level", "raw", "--osl", "4"])
            .args(flags)
            .current_dir(&self.directory)
            .output()
            .unwrap()
    }

    /// The lines of all requests, in the order in which they were sent.
    #[track_caller]
    fn requests(&self, flags: &[&str]) -> Vec<Value> {
        let output = self.output(flags);
        assert!(output.status.success(), "{output:?}");
        let text = fs::read_to_string(self.directory.path().join("out/profile_export_raw.jsonl")).unwrap();
        let mut lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        lines.sort_by_key(|line| line["metadata"]["request_start_ns"].as_u64());
        lines
    }

    /// The messages of all requests, as role and content.
    #[track_caller]
    fn messages(&self, flags: &[&str]) -> Vec<Vec<(String, String)>> {
        let said = |line: &Value| {
            let messages = line["payload"]["messages"].as_array().unwrap();
            let word = |value: &Value| value.as_str().unwrap().to_owned();
            messages.iter().map(|message| (word(&message["role"]), word(&message["content"]))).collect()
        };
        self.requests(flags).iter().map(said).collect()
    }
}

/// The roles of each request, in a word of initials.
fn roles(requests: &[Vec<(String, String)>]) -> Vec<String> {
    requests.iter().map(|said| said.iter().map(|(role, _)| &role[..1]).collect()).collect()
}

#[test]
fn single_turns_of_one_session_stand_alone_and_turns_of_one_go_on() {
    let rows: String =
        ["a", "b", "c"].map(|text| format!("{{\"session_id\": \"s\", \"text\": \"{text}\"}}\n")).concat();
    let sent = Stage::new(&rows).messages(&[]);
    let said = |text: &str| vec![("user".to_owned(), text.to_owned())];
    assert_eq!(sent, [said("a"), said("b"), said("c")]);
    let sent = Stage::new(&rows).messages(&["--system-prompt", "short", "--cache-bust", "first_turn_prefix"]);
    assert_eq!(roles(&sent), ["su", "su", "su"]);
    assert!(sent.iter().all(|said| said[1].1.len() > 1), "each is marked: {sent:?}");

    let turns = Stage::new(r#"{"turns": [{"text": "a"}, {"text": "b"}, {"text": "c"}]}"#);
    assert_eq!(roles(&turns.messages(&[])), ["u", "uau", "uauau"]);
}

#[test]
fn rows_of_messages_replace_what_was_said_and_lengths_without_block_ids_add_to_it() {
    let first = r#"{"role": "user", "content": "one"}"#;
    let more = r#"{"role": "assistant", "content": "two"}, {"role": "user", "content": "three"}"#;
    let rows = format!(
        r#"{{"session_id": "s", "messages": [{first}], "output_length": 4}}
        {{"session_id": "s", "messages": [{first}, {more}], "output_length": 4}}"#
    );
    let sent = Stage::new(&rows).messages(&[]);
    assert_eq!(roles(&sent), ["u", "uau"]);
    assert_eq!(sent[1][1].1, "two", "the recorded answer, not the server's");

    let rows = r#"{"session_id": "s", "input_length": 300, "output_length": 4}
        {"session_id": "s", "input_length": 150, "output_length": 4}"#;
    let sent = Stage::new(rows).messages(&[]);
    assert_eq!(roles(&sent), ["u", "uau"]);
    assert_eq!((sent[0][0].1.len(), &sent[1][0]), (300 * 4, &sent[0][0]));
    assert_eq!(sent[1][2].1.len(), 150 * 4);
    // Ids say what is shared: such rows are whole.
    let rows = rows.replace("\"input_length\": ", "\"hash_ids\": [1], \"input_length\": ");
    assert_eq!(roles(&Stage::new(&rows).messages(&[])), ["u", "u"]);
}

/// A trace of two sessions: one goes on at 1000 ms, the other starts then.
const TRACE: &str = r#"{"timestamp": 0, "session_id": "s", "input_length": 9, "output_length": 4, "hash_ids": [1]}
    {"timestamp": 1000, "session_id": "s", "input_length": 10, "output_length": 4, "hash_ids": [2]}
    {"timestamp": 1000, "session_id": "t", "input_length": 11, "output_length": 4, "hash_ids": [3]}"#;

#[test]
fn a_session_that_began_before_the_window_goes_on_in_it() {
    let stage = Stage::new(TRACE);
    let mut lengths: Vec<usize> =
        stage.messages(&["--fixed-schedule-start-offset=500"]).iter().map(|said| said[0].1.len()).collect();
    lengths.sort_unstable();
    assert_eq!(lengths, [40, 44]);
}

#[test]
fn load_flags_that_the_file_leaves_nothing_to_do_are_refused() {
    let text = "{\"text\": \"a\"}\n{\"text\": \"b\"}\n";
    let (trace, text) = (Stage::new(TRACE), Stage::new(text));
    for (stage, flags, said) in [
        (&trace, &["--fixed-schedule", "--request-rate=50"][..], "leave --request-rate out"),
        (&trace, &["--request-rate=50"], "give --no-fixed-schedule"),
        (&trace, &["--user-centric-rate=5", "--num-users=2"], "leave --user-centric-rate out"),
        (
            &trace,
            &["--no-fixed-schedule", "--fixed-schedule-start-offset=600"],
            "--fixed-schedule-start-offset is for",
        ),
        (
            &trace,
            &["--no-fixed-schedule", "--request-rate=50", "--fixed-schedule-end-offset=600"],
            "--fixed-schedule-end-offset is for",
        ),
        (&trace, &["--fixed-schedule-start-offset=9", "--fixed-schedule-end-offset=5"], "is after"),
        (&trace, &["--benchmark-grace-period=5"], "--benchmark-duration"),
        (&text, &["--fixed-schedule-auto-offset"], "--fixed-schedule-auto-offset is for"),
        (&text, &["--synthesis-max-isl=5"], "does not say how long its prompts are"),
        (&text, &["--synthesis-max-osl=5"], "does not say how long its answers are"),
        (&text, &["--synthesis-prompt-len-multiplier=2"], "has its prompts word for word"),
        (&text, &["--synthesis-speedup-ratio=2"], "has no times and no delays"),
        (&text, &["--isl-block-size=16"], "has no hash ids"),
    ] {
        let output = stage.output(flags);
        let message = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{flags:?}: {message}");
        assert!(message.contains(said), "{flags:?}: {message}");
    }
    assert_eq!(trace.requests(&["--no-fixed-schedule", "--request-rate=50"]).len(), 3);
}

#[test]
fn times_of_texts_are_followed_only_when_asked_and_delays_go_faster_by_the_speedup() {
    let span_s = |lines: &[Value]| {
        let times: Vec<u64> =
            lines.iter().map(|line| line["metadata"]["request_start_ns"].as_u64().unwrap()).collect();
        (times[1] - times[0]) as f64 / 1e9
    };
    let texts = Stage::new("{\"text\": \"a\", \"timestamp\": 0}\n{\"text\": \"b\", \"timestamp\": 60000}\n");
    assert!(span_s(&texts.requests(&["--concurrency=2"])) < 30.0);
    let faster = texts.requests(&["--fixed-schedule", "--synthesis-speedup-ratio=60"]);
    assert!(span_s(&faster) > 0.9);
    let turns = Stage::new(r#"{"turns": [{"text": "a"}, {"text": "b", "delay": 60000}]}"#);
    assert!(span_s(&turns.requests(&["--synthesis-speedup-ratio=1000"])) < 30.0);
}
