//! Embeddings over real sockets: every input is a request of its own.

mod support;

use engine::Config;
use serde_json::{Value, json};
use support::{get, has_metric, post, quick, start, state};

const PATH: &str = "/v1/embeddings";

#[test]
fn embeddings_come_one_for_each_input_and_as_wanted() {
    let (_fleet, address) = start(quick());
    let answer = post(address, PATH, &json!({"input": ["one", "two", "three"]})).json();
    assert_eq!(answer["data"].as_array().map(Vec::len), Some(3));
    assert_eq!(answer["data"][2]["embedding"].as_array().map(Vec::len), Some(64));
    let base64 = post(address, PATH, &json!({"input": "one", "encoding_format": "base64"})).json();
    assert!(base64["data"][0]["embedding"].is_string());
    let few = post(address, PATH, &json!({"input": "one", "dimensions": 8})).json();
    let few: Vec<f64> = serde_json::from_value(few["data"][0]["embedding"].clone()).expect("numbers");
    assert_eq!(few.len(), 8);
    assert!((few.iter().map(|number| number * number).sum::<f64>() - 1.0).abs() < 1e-6, "a unit vector");
}

#[test]
fn usage_is_the_sum_over_the_inputs() {
    let (_fleet, address) = start(quick());
    let usage = |input: Value| post(address, PATH, &json!({ "input": input })).json()["usage"].clone();
    for (input, tokens) in [
        (json!("12345"), 2),
        (json!(["a", "b", "c"]), 3),
        (json!(["12345", "", "1234"]), 2 + 1 + 1),
        (json!([1, 2, 3]), 3),
        (json!([[1, 2, 3], [4]]), 4),
    ] {
        let usage = usage(input.clone());
        assert_eq!(
            (&usage["prompt_tokens"], &usage["completion_tokens"]),
            (&json!(tokens), &json!(0)),
            "{input}"
        );
    }
}

#[test]
fn the_limit_is_that_of_the_longest_input() {
    let mut config = quick();
    config.profile.max_model_len = 16;
    let (_fleet, address) = start(config);
    let status = |input: Value| post(address, PATH, &json!({ "input": input })).status;
    let (fits, too_long) = ("x".repeat(64), "x".repeat(65));
    assert_eq!(status(json!([fits, fits, fits])), 200);
    assert_eq!(status(json!([fits, too_long])), 400);
    assert_eq!(state(address)["requests"], 0);
}

#[test]
fn what_cannot_be_embedded_is_refused_by_name() {
    let (_fleet, address) = start(quick());
    for (body, member) in [
        (json!({}), "input"),
        (json!({"input": []}), "input"),
        (json!({"input": vec!["a"; 2049]}), "input"),
        (json!({"input": "x", "encoding_format": "bytes"}), "encoding_format"),
        (json!({"input": "x", "encoding_format": 5}), "encoding_format"),
        (json!({"input": "x", "dimensions": 0}), "dimensions"),
        (json!({"input": "x", "dimensions": "many"}), "dimensions"),
    ] {
        let reply = post(address, PATH, &body);
        assert_eq!((reply.status, &reply.json()["error"]["param"]), (400, &json!(member)), "{body}");
    }
}

#[test]
fn the_metrics_count_every_input_as_vllm_does() {
    for fixed in [false, true] {
        let times =
            engine::FixedTimes { first_token: Default::default(), between_tokens: Default::default() };
        let (_fleet, address) = start(Config { fixed_times: fixed.then_some(times), ..quick() });
        for input in [json!("12345"), json!(["12345", "1234"])] {
            assert_eq!(post(address, PATH, &json!({ "input": input })).status, 200);
        }
        let page = get(address, "/metrics").text();
        let labels = r#"engine="0",model_name="llama-3.1-8b-instruct-fp8-l4""#;
        for (name, more, value) in [
            ("vllm:prompt_tokens_total", "", "5.0"),
            ("vllm:generation_tokens_total", "", "0.0"),
            ("vllm:request_success_total", r#",finished_reason="stop""#, "3.0"),
            ("vllm:request_success_total", r#",finished_reason="length""#, "0.0"),
            ("vllm:time_to_first_token_seconds_count", "", "3"),
            ("vllm:e2e_request_latency_seconds_count", "", "3"),
            ("vllm:request_queue_time_seconds_count", "", "3"),
            ("vllm:request_prompt_tokens_count", "", "3"),
            ("vllm:request_prompt_tokens_sum", "", "5"),
            ("vllm:request_params_max_tokens_count", "", "0"),
        ] {
            has_metric(&page, name, &format!("{labels}{more}"), value);
        }
    }
}
