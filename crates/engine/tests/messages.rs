//! Anthropic's messages over real sockets: the names and the order of a stream's events, whole answers, errors.

mod support;

use engine::{Config, serve};
use protocol::{Endpoint, Usage, parse_answer, parse_event};
use serde_json::{Value, json};
use support::{Reply, events, get, post, quick, receive, send, start, until};

const PATH: &str = "/v1/messages";

/// Name and data of all events.
fn named(reply: &Reply) -> Vec<(String, Value)> {
    let text = reply.text();
    let names = text.lines().filter_map(|line| line.strip_prefix("event: ").map(str::to_owned));
    let named: Vec<_> =
        names.zip(events(reply).iter().map(|data| serde_json::from_str(data).expect("JSON"))).collect();
    assert_eq!(named.len(), events(reply).len(), "every event has a name");
    named
}

fn request(prompt: &str, more: &Value) -> Value {
    let mut body = json!({"model": "llama-3.1-8b-instruct-fp8-l4", "max_tokens": 5,
        "messages": [{"role": "user", "content": prompt}]});
    body.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
    body
}

#[test]
fn a_stream_has_anthropics_events_in_their_order() {
    let (_fleet, address) = start(quick());
    let reply = post(address, PATH, &request("Once upon a time", &json!({"stream": true})));
    assert_eq!(reply.status, 200);
    assert!(reply.head.contains("content-type: text/event-stream"), "{}", reply.head);
    let events = named(&reply);
    let names: Vec<&str> = events.iter().map(|(name, _)| name.as_str()).collect();
    let mut expected = vec!["message_start", "content_block_start"];
    expected.extend(["content_block_delta"; 5]);
    expected.extend(["content_block_stop", "message_delta", "message_stop"]);
    assert_eq!(names, expected);
    assert!(events.iter().all(|(name, data)| data["type"] == name.as_str()), "{events:?}");
    let message = &events[0].1["message"];
    assert_eq!((&message["role"], &message["content"]), (&json!("assistant"), &json!([])));
    assert_eq!(message["model"], "llama-3.1-8b-instruct-fp8-l4");
    assert!(message["id"].as_str().is_some_and(|id| id.starts_with("msg_")));
    assert_eq!(message["usage"]["output_tokens"], 0);
    let delta = &events[8].1;
    assert_eq!(delta["delta"], json!({"stop_reason": "max_tokens", "stop_sequence": null}));
    assert_eq!(delta["usage"]["output_tokens"], 5);
    let text: String = events.iter().filter_map(|(_, data)| data["delta"]["text"].as_str()).collect();

    let whole = post(address, PATH, &request("Once upon a time", &json!({}))).json();
    assert_eq!(whole["content"], json!([{"type": "text", "text": text}]), "the same answer without a stream");
    assert_eq!((&whole["type"], &whole["stop_reason"]), (&json!("message"), &json!("max_tokens")));
}

#[test]
fn the_protocols_reader_understands_all_of_it() {
    let (_fleet, address) = start(quick());
    let prompt = "all work and no play makes jack a dull boy ".repeat(8);
    let whole = post(address, PATH, &request(&prompt, &json!({})));
    let answer = parse_answer(Endpoint::Messages, &whole.body).expect("an answer");
    assert_eq!(answer.finish_reason.as_deref(), Some("max_tokens"));
    let first = answer.usage.expect("usage");
    assert_eq!((first.completion_tokens, first.cached_tokens), (5, Some(0)));

    let stream = post(address, PATH, &request(&prompt, &json!({"stream": true})));
    let (mut usage, mut text, mut done) = (Usage::default(), String::new(), false);
    for (_, data) in named(&stream) {
        let data = data.to_string();
        let event = parse_event(Endpoint::Messages, data.as_bytes()).expect("an event");
        text += &event.text;
        done = event.done;
        if let Some(later) = event.usage {
            usage.update(later);
        }
    }
    assert!(done);
    assert_eq!(text, answer.text);
    let cached = usage.cached_tokens.expect("said");
    assert_eq!(cached, (first.prompt_tokens - 1) / 16 * 16, "the second time the prompt is known");
    assert_eq!(usage, Usage { cached_tokens: Some(cached), ..first }, "and yet it counts in full");
}

#[test]
fn system_blocks_and_stop_sequences_count() {
    let (_fleet, address) = start(quick());
    let count =
        |body: &Value| post(address, "/v1/messages/count_tokens", body).json()["input_tokens"].as_u64();
    let plain = request("hello", &json!({}));
    let blocks =
        request("", &json!({"messages": [{"role": "user", "content": [{"type": "text", "text": "hello"}]}]}));
    let system = request("hello", &json!({"system": "You are a poet of few words."}));
    assert_eq!(count(&plain), count(&blocks));
    assert!(count(&system) > count(&plain).map(|tokens| tokens + 5));

    let text = post(address, PATH, &request("hello", &json!({}))).json()["content"][0]["text"].clone();
    let word = text.as_str().and_then(|text| text.split(' ').next_back()).expect("a word").to_owned();
    let stopped = post(address, PATH, &request("hello", &json!({"stop_sequences": [word]}))).json();
    assert_eq!((&stopped["stop_reason"], &stopped["stop_sequence"]), (&json!("stop_sequence"), &json!(word)));
    let natural = Config { output_tokens: Some(2), ..quick() };
    let fleet = serve(natural).expect("an engine");
    let ended = post(fleet.addresses()[0], PATH, &request("hello", &json!({}))).json();
    assert_eq!(ended["stop_reason"], "end_turn");
}

#[test]
fn errors_have_anthropics_shape() {
    let (_fleet, address) = start(quick());
    let mut silent = request("hello", &json!({}));
    silent.as_object_mut().expect("an object").remove("max_tokens");
    for (body, status, kind, named) in [
        (silent, 400, "invalid_request_error", "max_tokens"),
        (request("hello", &json!({"max_tokens": 0})), 400, "invalid_request_error", "max_tokens"),
        (json!({"max_tokens": 5}), 400, "invalid_request_error", "messages"),
        (request("hello", &json!({"model": "other"})), 404, "not_found_error", "other"),
        (request("hello", &json!({"max_tokens": 99_999})), 400, "invalid_request_error", "16384"),
    ] {
        let reply = post(address, PATH, &body);
        let error = reply.json();
        assert_eq!(
            (reply.status, &error["type"], &error["error"]["type"]),
            (status, &json!("error"), &json!(kind))
        );
        assert!(error["error"]["message"].as_str().is_some_and(|message| message.contains(named)), "{error}");
    }
    let wrong = get(address, PATH);
    assert_eq!((wrong.status, &wrong.json()["type"]), (405, &json!("error")));
    let busy = receive(send(
        address,
        "POST",
        PATH,
        "x-sim-fault: status=429\r\n",
        &request("x", &json!({})).to_string(),
    ));
    assert_eq!(busy.expect("an answer").json()["error"]["type"], "rate_limit_error");
}

#[test]
fn an_engine_that_dies_in_the_middle_says_so_as_anthropic_does() {
    let (_fleet, address) = start(quick());
    let body = request("hello", &json!({"stream": true})).to_string();
    let reply = receive(send(address, "POST", PATH, "x-sim-fault: error=2\r\n", &body)).expect("an answer");
    let events = named(&reply);
    let names: Vec<&str> = events.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(
        names,
        ["message_start", "content_block_start", "content_block_delta", "content_block_delta", "error"]
    );
    assert_eq!(events[4].1["error"]["type"], "api_error");
    until(address, "an idle engine", |state| state["requests"] == 0);
}
