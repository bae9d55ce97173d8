//! What files and flags say, and what is wrong with them.

use serde_json::{Value, json};

use super::*;

const SERVER: &str = "server: {base_url: \"http://localhost:8000\"}\n";
const STAGES: &str = "load: {stages: [{rate: 1, duration: 10}]}\n";

fn surroundings() -> Surroundings<'static> {
    Surroundings { cores: 4, now_ms: 1_700_000_000_000, timestamp: "20260101-000000" }
}

fn read(text: &str) -> Result<Config, ConfigError> {
    Config::from_yaml(text, Path::new("config.yml"))?.resolve(surroundings())
}

fn problem(text: &str) -> String {
    read(text).unwrap_err().to_string()
}

fn load(text: &str) -> String {
    format!("{SERVER}load: {text}\n")
}

#[test]
fn an_unknown_key_is_an_error_with_its_place_and_what_was_meant() {
    let text = "api:\n  type: chat\n  steaming: true\n";
    assert_eq!(problem(text), "config.yml:3:3: unknown key `steaming`; did you mean `streaming`?");
    assert!(
        problem("load:\n  stages:\n    - rate: 1\n      qps: 3\n")
            .starts_with("config.yml:4:7: unknown key `qps`")
    );
    assert!(
        problem("data:\n  shared_prefix:\n    question_len: {mean: 3, men: 4}\n").contains("config.yml:3:")
    );
    assert!(problem("data: {otel_trace_replay: {filtre: x}}").contains("did you mean `filter`"));
    assert!(problem("api: [1]").starts_with("config.yml:1:6: "));
    assert!(problem("api:\n  type: embeddings\n").contains("config.yml:2:9"));
}

#[test]
fn known_keys_that_are_not_implemented_are_refused_by_name() {
    for (text, key) in [
        ("data: {type: visionarena}", "data.type: visionarena: not implemented"),
        ("data: {multimodal: {image: {count: 1}}}", "data.multimodal: not implemented"),
        ("data: {use_chat_template: true}", "data.use_chat_template: not implemented"),
        (
            "storage: {google_cloud_storage: {bucket_name: b}}",
            "storage.google_cloud_storage: not implemented",
        ),
        (
            "metrics: {type: prometheus, prometheus: {google_managed: true}}",
            "metrics.prometheus.google_managed",
        ),
    ] {
        let message = problem(&format!("{SERVER}{STAGES}{text}\n"));
        assert!(message.starts_with(key), "{message}");
    }
}

#[test]
fn what_the_file_does_not_say_is_inference_perfs_default() {
    let config = read(&format!("{SERVER}{STAGES}")).unwrap();
    assert_eq!(config.load.num_workers, Some(4));
    assert_eq!((config.load.worker_max_concurrency, config.load.worker_max_tcp_connections), (100, 2500));
    assert_eq!((config.load.interval, config.load.request_timeout), (1.0, None));
    assert_eq!(config.load.base_seed, Some(1_700_000_000_000));
    assert_eq!(config.data.r#type, DataType::Mock);
    assert!(config.server().ignore_eos && !config.api.streaming);
    assert_eq!(config.storage.local_storage.path, "reports-20260101-000000");
    assert_eq!(config.report.request_lifecycle.percentiles.len(), 11);
}

#[test]
fn the_effective_configuration_reads_back_as_itself() {
    let text = format!(
        "{SERVER}{STAGES}data: {{type: shared_prefix, shared_prefix: {{num_groups: 3, question_len: {{mean: 20}}}}}}\n"
    );
    let config = read(&text).unwrap();
    assert!(config.to_yaml().contains("num_unique_system_prompts: 3"), "{}", config.to_yaml());
    assert_eq!(read(&config.to_yaml()).unwrap(), config);
}

#[test]
fn flags_go_over_the_file_and_lists_replace_lists() {
    let config = Config::from_yaml(&format!("{SERVER}{STAGES}"), Path::new("f")).unwrap();
    let set = |flag, text| config.clone().set(flag, text);
    assert_eq!(set("load.worker_max_concurrency", "200").unwrap().load.worker_max_concurrency, 200);
    assert!(set("api.streaming", "Yes").unwrap().api.streaming);
    assert!(!set("api.streaming", "on").unwrap().api.streaming);
    let stages =
        set("load.stages", r#"[{"rate":10,"duration":60},{"rate":20,"duration":60}]"#).unwrap().load.stages;
    assert_eq!(stages.iter().map(|stage| stage.rate).collect::<Vec<_>>(), [Some(10.0), Some(20.0)]);
    let shared = set("data.shared_prefix.num_groups", "7").unwrap().data.shared_prefix.unwrap();
    assert_eq!(
        (shared.num_groups, shared.num_prompts_per_group),
        (7, 10),
        "a section comes with its defaults"
    );
    let headers =
        set("api.headers", r#"{"X-A": "1"}"#).unwrap().set("api.headers", r#"{"X-B": "2"}"#).unwrap();
    assert_eq!(headers.api.headers.unwrap().len(), 2, "maps go over maps");
    assert_eq!(
        set("data.shared_prefix.question_len", "30").unwrap().data.shared_prefix.unwrap().question_len,
        LengthOr::Number(30.0)
    );
    assert_eq!(set("load.base_seed", "null").unwrap().load.base_seed, None);
    assert_eq!(
        set("server.model_name", "7").unwrap().server().model_name.as_deref(),
        Some("7"),
        "a text stays one"
    );
    for (flag, value, part) in [
        ("load.worker_max_concurency", "3", "did you mean --load.worker_max_concurrency"),
        ("load.stages", "10", "--load.stages: "),
        ("load.stages", "[", "is not JSON"),
        ("load.worker_max_concurrency", "many", "is not a number"),
        ("load.type", "steady", "unknown variant"),
    ] {
        let message = set(flag, value).unwrap_err().to_string();
        assert!(message.contains(part), "{message}");
    }
}

#[test]
fn shares_that_miss_one_by_rounding_are_shares() {
    let split = |shares: &str| {
        load(&format!("{{stages: [{{rate: 1, duration: 1}}], lora_traffic_split: [{shares}]}}"))
    };
    let three = "{name: a, split: 0.7}, {name: b, split: 0.2}, {name: c, split: 0.1}";
    assert_eq!(read(&split(three)).unwrap().load.lora_traffic_split.unwrap().len(), 3);
    let half = "{name: a, split: 0.5}, {name: b, split: 0.4}";
    assert_eq!(
        problem(&split(half)),
        "load.lora_traffic_split: the shares add up to 0.9; they must add up to 1"
    );
    let beyond = "{name: a, split: 1.5}, {name: b, split: -0.5}";
    assert_eq!(
        problem(&split(beyond)),
        "load.lora_traffic_split[0].split: 1.5 is no share: it goes from 0 to 1"
    );
}

#[test]
fn stages_say_what_their_type_needs_and_nothing_else() {
    for (text, part) in [
        ("{}", "load.stages: required"),
        ("{stages: [{rate: 1}]}", "load.stages[0].duration: required with load.type constant"),
        ("{stages: [{rate: 0, duration: 1}]}", "load.stages[0].rate: 0 is not above 0"),
        (
            "{stages: [{rate: 1, duration: 1, num_requests: 3}]}",
            "load.stages[0].num_requests: has no meaning",
        ),
        ("{type: concurrent, stages: [{num_requests: 3}]}", "load.stages[0].concurrency_level: required"),
        ("{stages: [{rate: 2e9, duration: 1}]}", "rate: 2000000000 is too much: at most 1000000000"),
        ("{stages: [{rate: .inf, duration: 1}]}", "rate: a finite number is wanted"),
        ("{stages: [{rate: .nan, duration: 1}]}", "rate: a finite number is wanted"),
        ("{sweep: true}", "as in `sweep: {type: linear}`"),
        ("{type: concurrent, sweep: {type: linear}}", "load.sweep: there are no rates"),
        ("{type: constant, sweep: {}}", "load.sweep.type: required"),
        ("{type: trace_replay, stages: [{rate: 1, duration: 1}]}", "load.trace: required"),
        ("{stages: [{rate: 1, duration: 1}], circuit_breakers: [x]}", "no circuit breaker \"x\""),
        ("{stages: [{rate: 1, duration: 1}], request_timeout: 0}", "load.request_timeout"),
    ] {
        let message = problem(&load(text));
        assert!(message.contains(part), "{text}: {message}");
    }
    assert!(problem(&load("{stages: [{rate: 1, duration: 1.5}]}")).contains("config.yml:2:"));
    assert_eq!(problem(STAGES), "server.base_url: required: name the server, as in http://localhost:8000");
    let half = "server: {base_url: https://localhost, cert_path: a.pem}\n";
    assert!(problem(&format!("{half}{STAGES}")).starts_with("server.cert_path: goes with server.key_path"));
}

#[test]
fn a_variance_alone_is_enough() {
    let with = |distribution: &str| {
        read(&format!("{SERVER}{STAGES}data: {{type: random, input_distribution: {distribution}}}"))
    };
    let deviation = |text: &str| with(text).unwrap().data.input_distribution.unwrap().deviation();
    assert_eq!(deviation("{mean: 50}"), 200.0);
    assert_eq!(deviation("{variance: 25}"), 5.0);
    assert_eq!(deviation("{variance: 25, std_dev: 0}"), 5.0);
    assert_eq!(deviation("{std_dev: 0}"), 0.0);
    assert!(with("{variance: 25, std_dev: 5}").is_err() && with("{min: 9, max: 8}").is_err());
}

#[test]
fn headers_that_would_break_the_message_are_refused() {
    for (section, part) in [
        ("api: {headers: {x-team: \"a\\r\\nx-other: b\"}}", "api.headers.x-team: a header value holds no"),
        ("api: {headers: {\"a b\": c}}", "api.headers.a b: a header name holds"),
        ("api: {headers: {content-length: \"3\"}}", "api.headers.content-length: this header frames"),
        ("api: {session_id_header_key: \"x\\ny\"}", "api.session_id_header_key: a header name holds"),
        ("server: {base_url: http://localhost, api_key: \"a\\nb\"}", "server.api_key: a header value"),
    ] {
        let server = if section.starts_with("server") { "" } else { SERVER };
        let said = problem(&format!("{server}{STAGES}{section}\n"));
        assert!(said.contains(part), "{said}");
    }
}

#[test]
fn headers_can_state_objectives() {
    let api = |text: &str| read(&format!("{SERVER}{STAGES}api: {text}\n")).unwrap().api.header_objectives();
    assert_eq!(api("{headers: {X-SLO-TTFT-MS: '200', x-slo-tpot-ms: default}}"), [Some(0.2), None]);
    assert_eq!(api("{slo_unit: s, slo_tpot_header: limit, headers: {limit: '0.05'}}"), [None, Some(0.05)]);
}

#[test]
fn every_key_has_a_description_and_a_flag() {
    let keys = Config::all_keys();
    let find = |path: &str| keys.iter().find(|key| key.path == path).unwrap_or_else(|| panic!("no {path}"));
    assert_eq!(find("load.worker_max_concurrency").default, json!(100));
    assert_eq!(find("load.stages[].concurrency_level").default, Value::Null);
    assert_eq!(find("data.shared_prefix.num_unique_system_prompts").kind, "integer");
    assert_eq!(find("api.type").kind, "completion / chat / anthropic_messages");
    assert!(keys.len() > 200 && keys.iter().all(|key| !key.about.is_empty()));
    let config = Config::default();
    for key in keys.iter().filter(|key| !key.path.contains("[]")) {
        let text = match &key.default {
            Value::String(text) => text.clone(),
            other => other.to_string(),
        };
        let set = config.clone().set(&key.path, &text);
        assert!(set.is_ok(), "--{} {text}: {}", key.path, set.unwrap_err());
    }
}

#[test]
fn numbers_beyond_any_use_are_refused_where_they_stand() {
    let breaker = "circuit_breakers: [{name: a, metrics: {matches: [\"`true`\"]}, triggers: [{type: rate_over_window, \
                   threshold: 0.5, window_sec: 1e300}]}]";
    for (text, key) in [
        (format!("{SERVER}{STAGES}evenload: {{trace_speed: 1e-30}}"), "evenload.trace_speed"),
        (load("{type: poisson, stages: [{rate: 1e-20, duration: 1}]}"), "load.stages[0].rate"),
        (load("{type: poisson, sweep: {type: linear, timeout: 1e300}}"), "load.sweep.timeout"),
        (
            load("{type: trace_session_replay, stages: [{concurrent_sessions: 1, session_rate: 1e-20}]}"),
            "load.stages[0].session_rate",
        ),
        (
            format!(
                "{SERVER}{STAGES}metrics: {{type: prometheus, prometheus: {{scrape_interval: 99999999}}}}"
            ),
            "metrics.prometheus.scrape_interval",
        ),
        (
            format!(
                "{SERVER}{STAGES}data: {{type: conversation_replay, conversation_replay: \
                 {{shared_system_prompt_len: 4000000000}}}}"
            ),
            "data.conversation_replay.shared_system_prompt_len",
        ),
        (
            format!(
                "{SERVER}{STAGES}data: {{type: conversation_replay, conversation_replay: \
                 {{output_tokens_per_turn: 100, max_model_len: 300}}}}"
            ),
            "data.conversation_replay.max_model_len",
        ),
        (
            load("{type: poisson, request_timeout: 1e9, stages: [{rate: 1, duration: 1}]}"),
            "load.request_timeout",
        ),
        (format!("{SERVER}{STAGES}{breaker}"), "circuit_breakers[0].triggers"),
    ] {
        let message = problem(&text);
        assert!(message.starts_with(&format!("{key}: ")), "{message}");
    }
}

#[test]
fn values_are_taken_as_inference_perf_takes_them() {
    let text = "server: {base_url: \"http://localhost:8000\", model_name: m}\napi: {streaming: 1, headers: {x-a: 5}}\n\
                load:\n  num_workers: 1.0\n  stages:\n  - {rate: \"1_0\", duration: 1.0}\nstorage:\nreport: {request_lifecycle:}\n\
                data: {type: shared_prefix, shared_prefix: {num_groups: 3.0, question_len: {min: 5.0, type: fixed}}}\n";
    let config = Config::from_yaml(text, Path::new("f")).unwrap();
    assert_eq!((config.api.streaming, config.load.num_workers), (true, Some(1)));
    assert_eq!((config.load.stages[0].rate, config.load.stages[0].duration), (Some(10.0), Some(1)));
    assert_eq!(config.storage, Storage::default());
    assert_eq!(config.api.headers.unwrap()["x-a"], "5");
    assert_eq!(config.data.shared_prefix.unwrap().num_groups, 3);
    let set = Config::default().set("load.stages", r#"[{"rate": 2, "duration": 3.0}]"#).unwrap();
    assert_eq!(set.load.stages[0].duration, Some(3));
    for (text, message) in [
        (
            "load:\n  stages:\n  - {rate: 5, duration: 1.5}",
            "f:3:25: load.stages[].duration: a whole number is wanted, not 1.5",
        ),
        ("load: {num_workers: many}", "load.num_workers: a whole number is wanted, not \"many\""),
        ("load: {interval: [1]}", "load.interval: a number is wanted, not [1]"),
        ("api: {streaming: 2}", "api.streaming: true or false is wanted, not 2"),
        ("load: {num_workers: 1.0, request_timeout: .inf}", ": a finite number is wanted"),
    ] {
        let error = Config::from_yaml(text, Path::new("f")).map(|_| ()).unwrap_err().to_string();
        assert!(error.contains(message), "{text}: {error}");
    }
    let flag = Config::default().set("load.stages", r#"[{"duration": 1.5}]"#).unwrap_err().to_string();
    assert!(flag.contains("load.stages[].duration: a whole number is wanted, not 1.5"), "{flag}");
}

#[test]
fn a_number_without_end_is_refused_with_and_without_flags() {
    for (text, key) in [
        ("load: {request_timeout: .inf}", "request_timeout"),
        ("load: {stages: [{rate: -.INF, duration: 3}]}", "rate"),
        ("report: {request_lifecycle: {percentiles: [1, .nan]}}", ""),
    ] {
        let error = Config::from_yaml(text, Path::new("config.yml")).unwrap_err();
        assert_eq!(error.to_string(), format!("{key}: a finite number is wanted"), "{text}");
    }
    let named = "api: {headers: {a: .inf}}\nserver: {model_name: .inf}";
    assert!(Config::from_yaml(named, Path::new("config.yml")).is_ok(), "a text is no number");
}

#[test]
fn keys_are_hidden_where_the_configuration_is_shown_and_kept_where_it_is_used() {
    let text = format!(
        "server: {{base_url: \"http://localhost:8000\", api_key: k1}}\n{STAGES}tokenizer: {{token: k2}}\n\
         api: {{headers: {{Authorization: k3, x-slo-ttft-ms: \"5\"}}}}\n"
    );
    let config = read(&text).unwrap().set("load.interval", "2").unwrap();
    assert_eq!(config.server().api_key.as_deref(), Some("k1"));
    let shown = config.without_secrets().to_yaml();
    assert!(!["k1", "k2", "k3"].iter().any(|key| shown.contains(key)), "{shown}");
    assert_eq!(shown.matches("***").count(), 3, "{shown}");
    assert!(shown.contains("x-slo-ttft-ms: \"5\"") || shown.contains("x-slo-ttft-ms: '5'"), "{shown}");
}
