//! Two pages, one of which never answers, in all three files.

use super::*;
use crate::{EngineSeries, aiperf::RunKind};

fn page(second: u64) -> String {
    format!(
        "# HELP vllm:kv_cache_usage_perc Share in use, 0 to 1.\n# TYPE vllm:kv_cache_usage_perc gauge\n\
         vllm:kv_cache_usage_perc{{engine=\"0\"}} 0.{second}\n# TYPE vllm:generation_tokens_total counter\n\
         vllm:generation_tokens_total{{engine=\"0\"}} {}\n# TYPE wait_seconds histogram\n\
         wait_seconds_bucket{{le=\"0.5\"}} {second}\nwait_seconds_bucket{{le=\"+Inf\"}} {second}\n\
         wait_seconds_sum {}\nwait_seconds_count {second}\n# TYPE config_info gauge\n\
         config_info{{block_size=\"16\"}} 1\n",
        100 * second,
        0.25 * second as f64
    )
}

/// What `look` makes of two pages, read once a second from 0 to 9: the first answers, the second has no page.
fn with_pages<T>(look: impl FnOnce(ServerMetrics<'_>) -> T) -> T {
    let mut first = EngineSeries::default();
    for second in 0..10 {
        first.push(Duration::from_secs(second), Duration::from_millis(3), page(second).as_bytes());
    }
    let mut second = EngineSeries::default();
    second.fail("status 404");
    let run = Run {
        id: "abc".to_owned(),
        started_at: SystemTime::UNIX_EPOCH + Duration::from_secs(1_000),
        input_config: json!({}),
        seed: None,
        command: String::new(),
        kind: RunKind::Complete,
        urls: Vec::new(),
    };
    look(ServerMetrics {
        run: &run,
        names: &["http://a:1".to_owned(), "http://b:2/own".to_owned()],
        urls: &["http://a:1/metrics".to_owned(), "http://b:2/own".to_owned()],
        pages: &[first, second],
        begun: run.started_at,
        measured: (Duration::from_secs(2), Duration::from_secs(8)),
        warm_up: Some((Duration::from_secs(0), Duration::from_secs(1))),
        problems: &["http://b:2/own: status 404".to_owned()],
    })
}

#[test]
fn the_json_has_every_series_by_page_name_and_labels() {
    let json = with_pages(|metrics| serde_json::to_value(metrics.json()).unwrap());
    let names: Vec<&String> = json["metrics"].as_object().unwrap().keys().collect();
    assert_eq!(names, ["config_info", "vllm:generation_tokens", "vllm:kv_cache_usage_perc", "wait_seconds"]);
    let series = |name: &str| {
        let metric = &json["metrics"][name];
        assert_eq!(metric["series"].as_array().unwrap().len(), 1, "{metric}");
        metric["series"][0].clone()
    };
    let tokens = series("vllm:generation_tokens");
    assert_eq!(
        (&tokens["endpoint_url"], &tokens["labels"]["engine"]),
        (&"http://a:1/metrics".into(), &"0".into())
    );
    let stats = &tokens["stats"];
    for (key, value) in
        [("total", 600.0), ("rate", 100.0), ("rate_avg", 100.0), ("rate_min", 100.0), ("rate_std", 0.0)]
    {
        assert_eq!(stats[key], value, "{key}");
    }
    assert_eq!(json["metrics"]["vllm:kv_cache_usage_perc"]["unit"], "ratio");
    assert_eq!(series("vllm:kv_cache_usage_perc")["stats"]["p50"], 0.5);
    let wait = series("wait_seconds");
    assert!(wait.get("labels").is_none());
    assert_eq!((&wait["stats"]["count"], &wait["stats"]["avg"]), (&6.into(), &0.25.into()));
    assert_eq!((&wait["stats"]["p50_estimate"], &wait["buckets"]["+Inf"]), (&0.25.into(), &6.into()));
    assert_eq!(json["warmup_metrics"]["vllm:generation_tokens"]["series"][0]["stats"]["total"], 100.0);
    let summary = &json["summary"];
    assert_eq!(summary["endpoints_configured"][1], "http://b:2/own");
    assert_eq!(summary["endpoints_successful"], json!(["http://a:1/metrics"]));
    let ranges = &summary["phase_time_ranges"];
    assert_eq!(ranges["profiling"]["start_ns"], 1_002_000_000_000_u64);
    assert_eq!(ranges["warmup"]["end_ns"], 1_001_000_000_000_u64);
    let information = &summary["endpoint_info"]["http://a:1/metrics"];
    assert_eq!((&information["total_fetches"], &information["unique_updates"]), (&10.into(), &10.into()));
    assert_eq!(json["evenload"]["engines"][0]["metrics"]["generation_tokens"]["rate"], 100.0);
}

#[test]
fn the_csv_has_a_block_for_each_kind() {
    let csv = with_pages(|metrics| metrics.csv());
    let blocks: Vec<&str> = csv.split("\r\n\r\n").collect();
    assert_eq!(blocks.len(), 4, "{csv}");
    assert!(
        blocks[0].starts_with("# evenload server metrics")
            && blocks[0].contains("\n#\nEndpoint,Type,Metric,Unit,avg,")
    );
    assert!(blocks[0].contains("a:1,gauge,vllm:kv_cache_usage_perc,ratio,0.5000,0.2000,0.8000,"), "{csv}");
    assert!(blocks[1].contains("a:1,counter,vllm:generation_tokens,tokens,600.0000,100.0000,"), "{csv}");
    assert!(blocks[2].ends_with(",0.5=6;+Inf=6"), "{csv}");
    assert!(blocks[3].contains("a:1,config_info,block_size,16,"), "{csv}");
}

#[test]
fn a_name_of_two_kinds_is_two_families() {
    let pages = [
        "# TYPE foo gauge\nfoo 1\n",
        "# TYPE foo histogram\nfoo_bucket{le=\"+Inf\"} 1\nfoo_sum 1\nfoo_count 1\n",
    ];
    let csv = with_pages(|metrics| {
        let series = pages.map(|page| {
            let mut series = EngineSeries::default();
            for second in 0..10 {
                series.push(Duration::from_secs(second), Duration::from_millis(3), page.as_bytes());
            }
            series
        });
        ServerMetrics { pages: &series, ..metrics }.csv()
    });
    let blocks: Vec<&str> = csv.split("\r\n\r\n").collect();
    assert_eq!(blocks.len(), 2, "{csv}");
    assert!(
        blocks[0].contains("\na:1,gauge,foo,") && blocks[1].contains("\nb:2/own,histogram,foo,"),
        "{csv}"
    );
}

#[test]
fn a_line_a_reading_says_when_and_in_which_phase() {
    let mut out = Vec::new();
    with_pages(|metrics| metrics.write_lines(&mut out).unwrap());
    let lines = String::from_utf8(out).unwrap();
    let lines: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), 10);
    let phases: Vec<Option<&str>> = lines.iter().map(|line| line["benchmark_phase"].as_str()).collect();
    assert_eq!(phases[..3], [Some("warmup"), Some("warmup"), Some("profiling")]);
    assert_eq!(phases[9], None);
    assert_eq!(lines[4]["endpoint_latency_ns"], 3_000_000);
    let samples = &lines[4]["metrics"];
    assert_eq!(samples["vllm:generation_tokens"][0], json!({ "labels": { "engine": "0" }, "value": 400.0 }));
    assert_eq!(
        samples["wait_seconds"][0],
        json!({ "buckets": { "0.5": 4.0, "+Inf": 4.0 }, "sum": 1.0, "count": 4.0 })
    );
    assert!(samples.get("config_info").is_none());
}

#[test]
fn units_follow_from_names() {
    for (name, expected) in [
        ("vllm:time_to_first_token_seconds", Some("seconds")),
        ("vllm:generation_tokens_total", Some("tokens")),
        ("vllm:num_preemptions_total", Some("count")),
        ("vllm:num_requests_waiting", Some("requests")),
        ("gpu_utilization_percent", Some("percent")),
        ("vllm:lora", None),
    ] {
        assert_eq!(unit(name, ""), expected, "{name}");
    }
}
