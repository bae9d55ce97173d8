//! The OpenAI and vLLM endpoints over real sockets.

mod support;

use std::io::Write;

use engine::{Adapter, Config, FixedTimes, Profile, ServeError, serve};
use serde_json::{Value, json};
use support::{events, get, has_metric, post, quick, receive, send, start, state, until};

/// One engine whose steps take a second: what it is given, it still has.
fn slow() -> Config {
    Config { speedup: 0.002, ..quick() }
}

fn text_of(events: &[String]) -> String {
    let chunks = events.iter().filter(|event| *event != "[DONE]");
    chunks
        .map(|event| {
            let event: Value = serde_json::from_str(event).expect("JSON");
            let choice = &event["choices"][0];
            choice["text"].as_str().or(choice["delta"]["content"].as_str()).unwrap_or_default().to_owned()
        })
        .collect()
}

#[test]
fn a_completion_streams_one_event_a_token_then_usage_then_done() {
    let (_fleet, address) = start(quick());
    let body = json!({"model": "llama-3.1-8b-instruct-fp8-l4", "prompt": "Once upon a time", "max_tokens": 5,
        "stream": true, "stream_options": {"include_usage": true}});
    let reply = post(address, "/v1/completions", &body);
    assert_eq!(reply.status, 200);
    assert!(reply.head.contains("content-type: text/event-stream"), "{}", reply.head);
    let mut events = events(&reply);
    assert_eq!(events.len(), 7);
    assert_eq!(events.pop().as_deref(), Some("[DONE]"));
    let usage: Value = serde_json::from_str(&events[5]).expect("JSON");
    assert_eq!(
        usage["usage"],
        json!({"prompt_tokens": 4, "completion_tokens": 5, "total_tokens": 9,
        "prompt_tokens_details": {"cached_tokens": 0}})
    );
    let last: Value = serde_json::from_str(&events[4]).expect("JSON");
    assert_eq!(last["choices"][0]["finish_reason"], "length");

    let whole = post(address, "/v1/completions", &json!({"prompt": "Once upon a time", "max_tokens": 5}));
    assert_eq!(whole.json()["choices"][0]["text"], text_of(&events), "the same answer without a stream");
    assert_eq!(text_of(&events).len(), 20, "four bytes a token");
}

#[test]
fn usage_in_every_chunk_counts_the_tokens_up_to_it() {
    let (_fleet, address) = start(quick());
    let body = json!({"messages": [{"role": "user", "content": "hi"}], "max_tokens": 3, "stream": "yes",
        "stream_options": {"include_usage": true, "continuous_usage_stats": true}});
    let counted: Vec<_> = events(&post(address, "/v1/chat/completions", &body))
        .iter()
        .filter_map(|event| serde_json::from_str::<Value>(event).ok())
        .map(|event| event["usage"]["completion_tokens"].clone())
        .collect();
    assert_eq!(counted, [0, 1, 2, 3, 3], "role, tokens, end");
    let mut at_the_end = body;
    at_the_end["stream_options"]["continuous_usage_stats"] = Value::Null;
    assert_eq!(events(&post(address, "/v1/chat/completions", &at_the_end)).len(), 1 + 3 + 1 + 1);
}

#[test]
fn tokens_arrive_one_by_one_and_not_at_the_end() {
    let (_fleet, address) = start(slow());
    let body = json!({"prompt": "x", "max_tokens": 3, "stream": true}).to_string();
    let stream = send(address, "POST", "/v1/completions", "", &body);
    let mut reader = std::io::BufReader::new(stream);
    support::read_head(&mut reader).expect("a head before the first token");
    for generated in 1..=2 {
        support::read_chunk(&mut reader).expect("a chunk").expect("a token");
        let state = state(address);
        assert_eq!(state["output_tokens"], generated, "read before the next was made");
        assert_eq!((&state["running"], &state["requests"]), (&json!(1), &json!(1)));
    }
}

#[test]
fn a_chat_answer_has_its_role_first_and_ends_by_itself_without_a_limit() {
    let (_fleet, address) = start(quick());
    let body = json!({"messages": [{"role": "user", "content": "hi"}], "stream": true});
    let events = events(&post(address, "/v1/chat/completions", &body));
    let first: Value = serde_json::from_str(&events[0]).expect("JSON");
    assert_eq!(first["choices"][0]["delta"], json!({"role": "assistant", "content": ""}));
    assert_eq!(events.len(), 1 + 256 + 1, "role, tokens, done");
    assert!(events[256].contains(r#""finish_reason":"stop""#));
}

#[test]
fn the_next_turn_finds_the_blocks_of_the_answer() {
    let (_fleet, address) = start(quick());
    let mut messages = vec![json!({"role": "user", "content": "Tell me about the sea, and take your time."})];
    let body = json!({"messages": messages, "max_completion_tokens": 64});
    let first = post(address, "/v1/chat/completions", &body).json();
    assert_eq!(first["usage"]["prompt_tokens_details"]["cached_tokens"], 0);
    let prompt_tokens = first["usage"]["prompt_tokens"].as_u64().expect("a number");
    messages.push(first["choices"][0]["message"].clone());
    messages.push(json!({"role": "user", "content": "And the sky?"}));
    let body = json!({"messages": messages, "max_tokens": 1});
    let second = post(address, "/v1/chat/completions", &body).json();
    let cached = second["usage"]["prompt_tokens_details"]["cached_tokens"].as_u64().expect("a number");
    // The last token of the answer was never computed.
    assert_eq!(cached, (prompt_tokens + 64 - 1) / 16 * 16);
    assert!(cached > prompt_tokens + 32);
}

#[test]
fn prompts_of_different_adapters_share_nothing_and_equal_ones_do() {
    let adapters = vec![Adapter { name: "sql".into(), path: "/sql".into() }];
    let (_fleet, address) = start(Config { adapters, ..quick() });
    let prompt = "all work and no play makes jack a dull boy ".repeat(8);
    let cached = |model: &str| {
        let body = json!({"model": model, "prompt": prompt, "max_tokens": 1});
        let usage = post(address, "/v1/completions", &body).json()["usage"].clone();
        usage["prompt_tokens_details"]["cached_tokens"].as_u64()
    };
    assert_eq!(cached("sql"), Some(0));
    assert_eq!(cached(""), Some(0));
    assert_eq!(cached("sql"), Some(80), "5 full blocks of 86 tokens");
    assert_eq!(post(address, "/reset_prefix_cache", &json!({})).status, 200);
    assert_eq!(cached("sql"), Some(0));
}

#[test]
fn token_ids_are_a_prompt_like_the_text_they_stand_for() {
    let (_fleet, address) = start(quick());
    let text = "The quick brown fox jumps over the lazy dog, again and again and again and again.";
    let tokens = post(address, "/tokenize", &json!({"prompt": text})).json();
    assert_eq!(tokens["count"], 21);
    let back = post(address, "/detokenize", &json!({"tokens": tokens["tokens"]})).json();
    assert_eq!(back["prompt"], text);
    post(address, "/v1/completions", &json!({"prompt": text, "max_tokens": 1}));
    let body = json!({"prompt": tokens["tokens"], "max_tokens": 1});
    let usage = post(address, "/v1/completions", &body).json()["usage"].clone();
    assert_eq!(
        (&usage["prompt_tokens"], &usage["prompt_tokens_details"]["cached_tokens"]),
        (&json!(21), &json!(16))
    );
    assert_eq!(tokens["token_strs"], Value::Null);
    let texts =
        post(address, "/tokenize", &json!({"prompt": "Grüße, all", "return_token_strs": true})).json();
    assert_eq!(texts["token_strs"], json!(["Grü", "ße,", " all"]));
    for (path, member, value) in [
        ("/tokenize", "prompt", json!("x")),
        ("/tokenize", "messages", json!([])),
        ("/detokenize", "tokens", json!([1])),
        ("/v1/messages/count_tokens", "messages", json!([])),
    ] {
        assert_eq!(post(address, path, &json!({member: value})).status, 200, "{path} {member}");
        assert_eq!(
            post(address, path, &json!({"model": "other", member: value})).status,
            404,
            "{path} {member}"
        );
    }
    let chat = post(address, "/tokenize", &json!({"messages": [{"role": "user", "content": "hi"}]})).json();
    assert_eq!(chat["count"], "<|user|>\nhi<|end|>\n<|assistant|>\n".len().div_ceil(4));
}

#[test]
fn stop_texts_and_least_lengths_are_kept() {
    let (_fleet, address) = start(quick());
    let ask = |more: Value| {
        let mut body = json!({"prompt": "abcd", "max_tokens": 40});
        body.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
        post(address, "/v1/completions", &body).json()
    };
    let text = ask(json!({}))["choices"][0]["text"].as_str().expect("text").to_owned();
    let stop = &text[8..12];
    let end = text.find(stop).expect("it is there");
    let stopped = ask(json!({"stop": stop}));
    assert_eq!(stopped["choices"][0]["text"], text[..end]);
    assert_eq!(stopped["choices"][0]["finish_reason"], "stop");
    assert_eq!(stopped["choices"][0]["stop_reason"], stop);
    assert_eq!(stopped["usage"]["completion_tokens"], (end + 4).div_ceil(4));
    let kept = ask(json!({"stop": stop, "include_stop_str_in_output": true}));
    assert_eq!(kept["choices"][0]["text"], text[..end + 4]);
    let later = ask(json!({"stop": ["never", stop], "min_tokens": 12}));
    assert!(later["usage"]["completion_tokens"].as_u64() > Some(12), "{later}");
}

#[test]
fn answers_end_about_where_the_model_does_unless_told_to_ignore_it() {
    let (_fleet, address) = start(Config { output_tokens: Some(10), ..quick() });
    let tokens = |ignore_eos: bool| {
        let body = json!({"prompt": "abcd", "max_tokens": 40, "ignore_eos": ignore_eos});
        let answer = post(address, "/v1/completions", &body).json();
        (answer["usage"]["completion_tokens"].as_u64(), answer["choices"][0]["finish_reason"].clone())
    };
    let (count, reason) = tokens(false);
    assert!((Some(5)..=Some(15)).contains(&count), "{count:?}");
    assert_eq!(reason, "stop");
    assert_eq!(tokens(true), (Some(40), json!("length")));
}

#[test]
fn bad_requests_get_vllms_status_and_openais_shape() {
    let (_fleet, address) = start(Config { max_body_bytes: 200_000, ..quick() });
    let error = |path: &str, body: &str| {
        let reply = receive(send(address, "POST", path, "", body)).expect("an answer");
        let error = reply.json()["error"].clone();
        assert_eq!(error["code"], reply.status);
        (reply.status, error["message"].as_str().expect("a message").to_owned(), error["param"].clone())
    };
    let (status, message, param) = error("/v1/completions", r#"{"model": "x", "prompt": "hi"}"#);
    assert_eq!((status, message.as_str(), param), (404, "The model `x` does not exist.", json!("model")));
    assert_eq!(error("/v1/completions", r#"{"prompt": "hi""#).0, 400);
    assert_eq!(error("/v1/completions", "").0, 400);
    assert_eq!(error("/v1/completions", r#"{"model": 7, "prompt": "hi"}"#).0, 400);
    assert_eq!(error("/v1/chat/completions", "{}").2, json!("messages"));
    assert_eq!(error("/v1/completions", r#"{"prompt": "hi", "n": 2}"#).2, json!("n"));
    assert_eq!(error("/v1/completions", r#"{"prompt": ["hi", "ho"]}"#).2, json!("prompt"));
    assert_eq!(error("/v1/completions", r#"{"prompt": "hi", "max_tokens": 0}"#).2, json!("max_tokens"));
    assert_eq!(error("/v1/completions", r#"{"prompt": "hi", "max_tokens": 2, "min_tokens": 3}"#).0, 400);
    for (member, value) in [
        ("n", "-1"),
        ("temperature", "-3"),
        ("echo", "true"),
        ("logprobs", "2"),
        ("logprobs", "true"),
        ("top_logprobs", "1"),
        ("top_p", "5"),
        ("top_p", "0"),
        ("prompt_logprobs", "0"),
        ("response_format", r#"{"type": "json_object"}"#),
        ("response_format", r#"{"type": "json_schema", "json_schema": {}}"#),
        ("structured_outputs", r#"{"choice": ["a", "b"]}"#),
        ("stream", "5"),
        ("stop", "5"),
        ("ignore_eos", "\"x\""),
        ("min_tokens", "-1"),
        ("max_tokens", "2.5"),
        ("max_tokens", "\"two\""),
        ("include_stop_str_in_output", "[]"),
        ("stream_options", r#"{"include_usage": true}"#),
        ("stream_options", "5"),
    ] {
        for path in ["/v1/completions", "/v1/chat/completions"] {
            let body = format!(
                r#"{{"prompt": "hi", "messages": [{{"role": "user", "content": "hi"}}], "{member}": {value}}}"#
            );
            let (status, _, param) = error(path, &body);
            assert_eq!((status, param), (400, json!(member)), "{path} {member} {value}");
        }
    }
    for choice in
        [r#""required""#, r#"{"type": "function", "function": {"name": "f"}}"#, r#"{"type": "any"}"#]
    {
        let body = format!(r#"{{"messages": [], "max_tokens": 2, "tool_choice": {choice}}}"#);
        assert_eq!(error("/v1/chat/completions", &body).2, json!("tool_choice"), "{choice}");
    }
    for prompt in [r#""""#, "[]", "[[]]"] {
        let (status, message, param) = error("/v1/completions", &format!(r#"{{"prompt": {prompt}}}"#));
        assert_eq!((status, param), (400, json!("prompt")), "{prompt}");
        assert!(message.ends_with("must be provided and non-empty."), "{message}");
    }
    let allowed = json!({"prompt": "hi", "n": 1, "temperature": "0.5", "top_p": 1, "echo": false, "logprobs": null,
        "response_format": {"type": "text"}, "tool_choice": "required", "stream_options": {}, "max_tokens": "2"});
    assert_eq!(post(address, "/v1/completions", &allowed).json()["usage"]["completion_tokens"], 2);
    for none in ["0", "false", "\"false\"", "null"] {
        let body = format!(
            r#"{{"messages": [{{"role": "user", "content": "hi"}}], "max_tokens": 2, "logprobs": {none}}}"#
        );
        let reply = receive(send(address, "POST", "/v1/chat/completions", "", &body)).expect("an answer");
        assert_eq!(reply.status, 200, "{none}: {}", reply.text());
    }
    let other = json!({"prompt": "hi", "max_tokens": 3, "max_completion_tokens": 2});
    assert_eq!(
        post(address, "/v1/completions", &other).json()["usage"]["completion_tokens"],
        3,
        "chat's alone"
    );
    let (status, message, _) = error("/v1/completions", r#"{"prompt": "hi", "max_tokens": 5000000000}"#);
    assert!(status == 400 && message.contains("you requested 5000000001 tokens"), "{message}");
    let (status, message, _) = error("/v1/completions", r#"{"prompt": "hi", "max_tokens": 16384}"#);
    assert_eq!(status, 400);
    assert!(
        message.contains("maximum context length is 16384 tokens. However, you requested 16385"),
        "{message}"
    );
    let long = json!({"messages": [{"role": "user", "content": "x".repeat(70_000)}]}).to_string();
    assert_eq!(error("/v1/chat/completions", &long).0, 400);
    let huge = json!({"prompt": "x".repeat(300_000)}).to_string();
    assert_eq!(error("/v1/completions", &huge).0, 413);
    assert_eq!(error("/tokenize", "{}").0, 400);
    assert_eq!(state(address)["requests"], 0);
}

/// The value of a metric without further labels.
fn metric(page: &str, name: &str) -> f64 {
    let line = page.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('{'));
    line.and_then(|line| line.split_once("} "))
        .unwrap_or_else(|| panic!("no {name}"))
        .1
        .parse()
        .unwrap_or(-1.0)
}

#[test]
fn an_engine_of_fixed_times_counts_what_it_does() {
    let times = |milliseconds| std::time::Duration::from_millis(milliseconds);
    let fixed = FixedTimes { first_token: times(0), between_tokens: times(0) };
    let (_fleet, address) = start(Config { fixed_times: Some(fixed), ..quick() });
    let body = json!({"prompt": "x".repeat(40), "max_tokens": 10});
    for _ in 0..3 {
        assert_eq!(post(address, "/v1/completions", &body).status, 200);
    }
    let state = state(address);
    for (name, value) in
        [("output_tokens", 30), ("prefill_tokens", 30), ("finished", 3), ("running", 0), ("aborted", 0)]
    {
        assert_eq!(state[name], value, "{name}: {state}");
    }
    let page = String::from_utf8(get(address, "/metrics").body).expect("text");
    assert_eq!(metric(&page, "vllm:generation_tokens_total"), 30.0);
    assert_eq!(metric(&page, "vllm:inter_token_latency_seconds_count"), 27.0);

    let forever = FixedTimes { first_token: times(3_600_000), between_tokens: times(0) };
    let (_fleet, address) = start(Config { fixed_times: Some(forever), ..quick() });
    let waiting = send(address, "POST", "/v1/completions", "", &body.to_string());
    until(address, "the request runs", |state| state["running"] == 1 && state["waiting"] == 0);
    let page = String::from_utf8(get(address, "/metrics").body).expect("text");
    assert_eq!(metric(&page, "vllm:num_requests_running"), 1.0);
    drop(waiting);
    until(address, "it is aborted", |state| state["running"] == 0 && state["aborted"] == 1);
}

#[test]
fn without_a_prefix_cache_nothing_is_looked_up() {
    for caching in [true, false] {
        let mut config = quick();
        config.profile.prefix_caching = caching;
        let (_fleet, address) = start(config);
        let body = json!({"prompt": "x".repeat(640), "max_tokens": 1});
        assert_eq!(post(address, "/v1/completions", &body).status, 200);
        let page = String::from_utf8(get(address, "/metrics").body).expect("text");
        let expected = if caching { 160.0 } else { 0.0 };
        assert_eq!(metric(&page, "vllm:prefix_cache_queries_total"), expected);
        assert_eq!(state(address)["prefix_query_tokens"], expected as u64);
    }
}

#[test]
fn what_is_not_there_is_a_404_at_once_and_a_wrong_method_a_405() {
    let (_fleet, address) = start(quick());
    for (method, path, status) in [
        ("POST", "/v1/chat/completions/render", 404),
        ("POST", "/v1/responses", 404),
        ("GET", "/", 404),
        ("GET", "/v1/completions", 405),
        ("POST", "/health", 405),
    ] {
        let reply = receive(send(address, method, path, "", "")).expect("an answer");
        assert_eq!(reply.status, status, "{method} {path}");
        assert_eq!(reply.json()["error"]["code"], status);
    }
}

#[test]
fn small_pages_are_there() {
    let (_fleet, address) = start(quick());
    for path in ["/health", "/ping"] {
        let reply = get(address, path);
        assert_eq!((reply.status, reply.body.len()), (200, 0), "{path}");
    }
    assert!(get(address, "/version").json()["version"].is_string());
    assert_eq!(get(address, "/load").json()["server_load"], 0);
    assert_eq!(get(address, "/server_info").json()["profile"]["block_tokens"], 16);
}

#[test]
fn models_and_adapters_are_listed_loaded_and_unloaded() {
    let model_names = vec!["base".to_owned(), "alias".to_owned()];
    let (_fleet, address) = start(Config { model_names, ..quick() });
    let ids = || {
        let list = get(address, "/v1/models").json();
        let ids = list["data"].as_array().expect("a list").iter().map(|model| model["id"].clone());
        ids.collect::<Vec<_>>()
    };
    let ask = |model: &str| post(address, "/v1/completions", &json!({"model": model, "prompt": "hi"})).status;
    assert_eq!(ids(), ["base", "alias"]);
    assert_eq!((ask("alias"), ask("sql")), (200, 404));
    let adapter = json!({"lora_name": "sql", "lora_path": "/adapters/sql"});
    assert_eq!(post(address, "/v1/load_lora_adapter", &adapter).status, 200);
    assert_eq!(post(address, "/v1/load_lora_adapter", &adapter).status, 400, "twice");
    assert_eq!(post(address, "/v1/load_lora_adapter", &json!({"lora_name": "x"})).status, 400);
    assert_eq!((ids().len(), ask("sql")), (3, 200));
    assert_eq!(get(address, "/v1/models").json()["data"][2]["parent"], "base");
    assert_eq!(post(address, "/v1/unload_lora_adapter", &adapter).status, 200);
    assert_eq!(post(address, "/v1/unload_lora_adapter", &adapter).status, 404, "twice");
    assert_eq!(ask("sql"), 404);
}

#[test]
fn a_client_that_leaves_gives_its_blocks_back_whatever_it_waited_for() {
    let profile = Profile { max_num_seqs: 2, ..slow().profile };
    let (_fleet, address) = start(Config { profile, ..slow() });
    let ask = |stream: bool, prompt: &str| {
        let body = json!({"prompt": prompt, "max_tokens": 1000, "stream": stream}).to_string();
        send(address, "POST", "/v1/completions", "", &body)
    };
    let clients = [ask(true, "a"), ask(false, "b"), ask(true, "c"), ask(false, "d")];
    until(address, "two running, two waiting", |state| {
        (&state["running"], &state["waiting"]) == (&json!(2), &json!(2)) && state["used_blocks"] != json!(0)
    });
    drop(clients);
    let state = until(address, "nothing left", |state| state["requests"] == json!(0));
    assert_eq!(state["aborted"], 4);
    let state = until(address, "blocks free", |state| state["used_blocks"] == json!(0));
    assert_eq!((&state["running"], &state["waiting"]), (&json!(0), &json!(0)));
}

#[test]
fn metrics_have_vllms_names_and_count_right() {
    let (_fleet, address) = start(quick());
    let prompt = "count on me ".repeat(20);
    for _ in 0..2 {
        post(address, "/v1/completions", &json!({"prompt": prompt, "max_tokens": 7, "stream": true}));
    }
    let page = get(address, "/metrics");
    assert!(page.head.contains("content-type: text/plain; version=0.0.4"), "{}", page.head);
    let page = page.text();
    let labels = r#"engine="0",model_name="llama-3.1-8b-instruct-fp8-l4""#;
    for (name, more, value) in [
        ("vllm:num_requests_running", "", "0.0"),
        ("vllm:num_requests_waiting", "", "0.0"),
        ("vllm:kv_cache_usage_perc", "", "0.0"),
        ("vllm:gpu_cache_usage_perc", "", "0.0"),
        ("vllm:prefix_cache_queries_total", "", "120.0"),
        ("vllm:prefix_cache_hits_total", "", "48.0"),
        ("vllm:prompt_tokens_total", "", "120.0"),
        ("vllm:generation_tokens_total", "", "14.0"),
        ("vllm:num_preemptions_total", "", "0.0"),
        ("vllm:request_success_total", r#",finished_reason="length""#, "2.0"),
        ("vllm:request_success_total", r#",finished_reason="abort""#, "0.0"),
        ("vllm:time_to_first_token_seconds_count", "", "2"),
        ("vllm:inter_token_latency_seconds_count", "", "12"),
        ("vllm:time_per_output_token_seconds_bucket", r#",le="+Inf""#, "12"),
        ("vllm:e2e_request_latency_seconds_count", "", "2"),
        ("vllm:request_queue_time_seconds_bucket", r#",le="0.3""#, "2"),
        ("vllm:request_inference_time_seconds_count", "", "2"),
        ("vllm:request_prefill_time_seconds_count", "", "2"),
        ("vllm:request_decode_time_seconds_count", "", "2"),
        ("vllm:iteration_tokens_total_count", "", "14"),
        ("vllm:iteration_tokens_total_sum", "", "84"),
        ("vllm:request_prompt_tokens_bucket", r#",le="50.0""#, "0"),
        ("vllm:request_prompt_tokens_bucket", r#",le="100.0""#, "2"),
        ("vllm:request_generation_tokens_sum", "", "14"),
        ("vllm:request_params_max_tokens_sum", "", "14"),
        ("vllm:request_params_n_count", "", "2"),
    ] {
        has_metric(&page, name, &format!("{labels}{more}"), value);
    }
    assert!(page.contains("# TYPE vllm:prompt_tokens_total counter\n"));
    assert!(page.contains(r#"num_gpu_blocks="4134""#));
    let read = protocol::EngineMetrics::read(page.as_bytes());
    assert_eq!((read.finished, read.prefix_hits), (Some(2.0), Some(48.0)));
}

#[test]
fn adapters_in_use_are_in_the_metrics() {
    let adapters = vec![Adapter { name: "sql".into(), path: "/sql".into() }];
    let (_fleet, address) = start(Config { adapters, ..slow() });
    let body = json!({"model": "sql", "prompt": "select", "stream": true, "max_tokens": 9}).to_string();
    let _client = send(address, "POST", "/v1/completions", "", &body);
    until(address, "a request", |state| state["requests"] == json!(1));
    let page = get(address, "/metrics").text();
    let info = r#"vllm:lora_requests_info{max_lora="1",running_lora_adapters="","#;
    assert!(page.contains(&format!(r#"{info}waiting_lora_adapters="sql"}} "#)), "{page}");
}

#[test]
fn replicas_have_ports_and_caches_of_their_own() {
    let fleet = serve(Config { replicas: 3, threads: 2, ..quick() }).expect("engines");
    let addresses = fleet.addresses().to_vec();
    let body = json!({"prompt": "x".repeat(200), "max_tokens": 2});
    for &address in &addresses {
        let usage = post(address, "/v1/completions", &body).json()["usage"].clone();
        assert_eq!(usage["prompt_tokens_details"]["cached_tokens"], 0);
    }
    let taken = serve(Config { port: addresses[0].port(), ..quick() });
    assert!(
        matches!(&taken, Err(ServeError::Listen { address, .. }) if *address == addresses[0]),
        "{taken:?}"
    );
    fleet.shutdown();
    assert!(std::net::TcpStream::connect(addresses[0]).is_err(), "nothing listens after the end");
}

#[test]
fn a_stop_ends_streams_under_way() {
    let (fleet, address) = start(slow());
    let body = json!({"prompt": "x", "max_tokens": 100, "stream": true}).to_string();
    let stream = send(address, "POST", "/v1/completions", "", &body);
    until(address, "a request", |state| state["requests"] == json!(1));
    fleet.shutdown();
    assert!(receive(stream).is_err(), "an unfinished answer looks unfinished");
}

#[test]
fn requests_follow_one_another_on_a_connection() {
    let (_fleet, address) = start(quick());
    let mut stream = std::net::TcpStream::connect(address).expect("a connection");
    stream.set_read_timeout(Some(support::PATIENCE)).expect("a time limit");
    for streams in [true, false, true] {
        let body = json!({"prompt": "x", "max_tokens": 3, "stream": streams}).to_string();
        let length = body.len();
        write!(
            stream,
            "POST /v1/completions HTTP/1.1\r\nhost: test\r\ncontent-length: {length}\r\n\r\n{body}"
        )
        .expect("a request sent");
        let mut reader = std::io::BufReader::new(&mut stream);
        let head = support::read_head(&mut reader).expect("a head");
        if streams {
            while support::read_chunk(&mut reader).expect("a chunk").is_some() {}
        } else {
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
            let length = length.and_then(|length| length.parse().ok()).expect("a length");
            std::io::Read::read_exact(&mut reader, &mut vec![0; length]).expect("a body");
        }
    }
    assert_eq!(state(address)["finished"], 3);
}

#[test]
fn settings_that_cannot_work_are_refused() {
    let check = |config: Config| config.check().expect_err("a bad setting").to_string();
    assert!(check(Config { speedup: 0.0, ..quick() }).starts_with("speedup"));
    assert!(check(Config { replicas: 0, ..quick() }).starts_with("replicas"));
    assert!(check(Config { model_names: vec![], ..quick() }).contains("name"));
    assert!(check(Config { port: 65_535, replicas: 2, ..quick() }).contains("65535"));
    let named = |names: &[&str], adapters: &[&str]| Config {
        model_names: names.iter().map(|name| (*name).to_owned()).collect(),
        adapters: adapters
            .iter()
            .map(|name| Adapter { name: (*name).to_owned(), path: "/x".into() })
            .collect(),
        ..quick()
    };
    for config in [named(&["a", "a"], &[]), named(&["b"], &["a", "a"]), named(&["b", "a"], &["a"])] {
        assert!(check(config).contains("\"a\""));
    }
    assert_eq!(named(&["a", "b"], &["c"]).check(), Ok(()));
    let profile = Profile { kv_blocks: 10, ..Profile::l4() };
    assert!(check(Config { profile, ..quick() }).contains("max_model_len"));
}
