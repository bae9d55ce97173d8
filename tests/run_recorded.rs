//! Recorded sessions, played against a simulated engine.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod run_support;

use std::fs;

use run_support::{Stage, said};
use serde_json::json;

/// A session of three calls, each with the messages of the one before it, its answer and something new.
fn conversation() -> serde_json::Value {
    let mut messages = vec![json!({ "role": "system", "content": "Answer briefly." })];
    let spans: Vec<_> = (0..3)
        .map(|call| {
            if call > 0 {
                messages.push(json!({ "role": "assistant", "content": format!("recorded answer {call}") }));
            }
            messages.push(json!({ "role": "user", "content": format!("question {call}") }));
            let time = |second: usize| format!("2026-01-01T00:00:{second:02}Z");
            json!({
                "span_id": format!("{call}"), "name": "chat m",
                "start_time": time(call * 10), "end_time": time(call * 10 + 2),
                "attributes": {
                    "gen_ai.operation.name": "chat", "gen_ai.request.model": "recorded",
                    "gen_ai.input.messages": serde_json::to_string(&messages).unwrap(),
                    "gen_ai.usage.output_tokens": 5 + call,
                },
            })
        })
        .collect();
    json!({ "spans": spans })
}

#[test]
fn conversations_go_on_from_the_servers_own_answers() {
    let stage = Stage::new();
    fs::create_dir(stage.path("traces")).unwrap();
    for session in 0..3 {
        fs::write(stage.path(&format!("traces/{session}.json")), conversation().to_string()).unwrap();
    }
    fs::write(stage.path("traces/bad.json"), "{").unwrap();
    let config = "api: {type: chat, streaming: true}\n\
                  load: {type: trace_session_replay, interval: 0, stages: [{concurrent_sessions: 2, num_sessions: 2}, {concurrent_sessions: 0}]}\n\
                  data: {type: otel_trace_replay, otel_trace_replay: {trace_directory: traces, skip_invalid_files: true, max_wait_ms: 5}}\n\
                  report: {request_lifecycle: {per_request: true}, session_lifecycle: {per_session: true}}\n";
    let output = stage.run(config, &[]);
    assert!(said(&output.stderr).contains("1 of 4 files left out"), "{}", said(&output.stderr));
    for (number, sessions) in [(0, 2), (1, 1)] {
        let report = stage.report(&format!("stage_{number}_session_lifecycle_metrics.json"));
        assert_eq!(
            (&report["num_sessions_succeeded"], &report["total_events_completed"]),
            (&sessions.into(), &(3 * sessions).into()),
            "stage {number} goes on where the one before ended"
        );
    }
    let sessions = stage.report("per_session_lifecycle_metrics.json");
    let mut files: Vec<String> =
        sessions.as_array().unwrap().iter().map(|session| session["file_path"].to_string()).collect();
    files.sort();
    assert_eq!(files, ["\"traces/0.json\"", "\"traces/1.json\"", "\"traces/2.json\""]);
    let entries = stage.report("per_request_lifecycle_metrics.json");
    let last = entries
        .as_array()
        .unwrap()
        .iter()
        .find(|entry| entry["info"]["extra_info"]["chat_round"] == 3)
        .unwrap();
    let body: serde_json::Value = serde_json::from_str(last["request"].as_str().unwrap()).unwrap();
    let messages = body["messages"].as_array().unwrap();
    let roles: Vec<&str> = messages.iter().map(|message| message["role"].as_str().unwrap()).collect();
    assert_eq!(roles, ["system", "user", "assistant", "user", "assistant", "user"]);
    assert!(!last["request"].as_str().unwrap().contains("recorded answer"), "{body}");
    assert_eq!((&body["max_tokens"], &body["model"]), (&7.into(), &run_support::MODEL.into()));
}

#[test]
fn agents_whose_prompts_are_known_by_blocks_hit_the_cache() {
    let stage = Stage::new();
    let call = |number: u64| {
        let ids: Vec<u64> = (0..10 * (number + 1)).collect();
        json!({ "t": number, "type": "n", "model": "x", "in": 160 * (number + 1), "out": 4, "hash_ids": ids })
    };
    let trace =
        json!({ "id": "a", "models": ["x"], "block_size": 16, "requests": [call(0), call(1), call(2)] });
    fs::write(stage.path("trace.json"), trace.to_string()).unwrap();
    let config = "api: {type: chat, streaming: true}\n\
                  load: {type: trace_session_replay, stages: [{concurrent_sessions: 1}]}\n\
                  data: {type: weka_trace_replay, weka_trace_replay: {trace_files: [trace.json], ignore_trace_delays: true}}\n";
    stage.run(config, &[]);
    let report = stage.report("stage_0_session_lifecycle_metrics.json");
    assert_eq!(report["total_events_completed"], 3);
    // Of 160 + 320 + 480 tokens, 160 + 320 were sent before.
    let hits = report["kv_cache_hit_percent"].as_f64().unwrap();
    assert!((40.0..52.0).contains(&hits), "{hits}");
}

#[test]
fn what_recorded_sessions_do_not_have_is_refused_by_name() {
    let stage = Stage::new();
    let load = "load: {type: trace_session_replay, stages: [{concurrent_sessions: 1}]}\n";
    for (data, part) in [
        ("{type: otel_trace_replay}", "data.otel_trace_replay: required"),
        (
            "{type: otel_trace_replay, otel_trace_replay: {trace_directory: x, filter: 'lambda s: s'}}",
            "data.otel_trace_replay.filter: not implemented",
        ),
        (
            "{type: weka_trace_replay, weka_trace_replay: {hf_dataset_path: x}}",
            "not implemented: nothing is fetched",
        ),
        ("{type: weka_trace_replay, weka_trace_replay: {trace_files: [x]}}", "api.type"),
    ] {
        let output = stage.command(&format!("{load}data: {data}\n"), &[]).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{data}");
        assert!(said(&output.stderr).contains(part), "{}", said(&output.stderr));
    }
}
