//! Figures by hand, against those of the collector.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use serde_json::{Value, json};

use super::{
    partial::{PartialTimes, partial},
    *,
};
use crate::{
    Chunk, Outcome, Record,
    sample::{failure, ms, request},
};

fn settings(streaming: bool) -> Arc<Settings> {
    Arc::new(Settings {
        streaming,
        percentiles: vec![50.0, 99.9],
        constraints: BTreeMap::from([("ttft".to_owned(), 0.15), ("request_latency".to_owned(), 1.0)]),
        header_limits: [None, Some(0.02)],
        error_messages: 1,
        has_sessions: true,
    })
}

fn report(records: &[Record], streaming: bool) -> Value {
    let mut collector = Collector::new(settings(streaming));
    records.iter().for_each(|record| collector.push(record));
    let kind = Kind::Stage { requested_rate: Some(10.0), concurrency: None, start: ms(0) };
    serde_json::to_value(lifecycle(&collector, kind)).unwrap()
}

#[test]
fn a_request_starts_with_its_connection_and_ends_with_its_last_byte() {
    let mut record = request(1000, 100, 10, 5);
    record.connect = Some(ms(20));
    record.scheduled = ms(970);
    record.admitted = ms(975);
    record.done = ms(1150);
    let report = report(&[record], true);
    let latency = |name: &str| report["successes"]["latency"][name]["mean"].as_f64().unwrap();
    assert_eq!(latency("request_latency"), 0.170);
    assert_eq!(latency("time_to_first_token"), 0.120);
    assert_eq!((latency("time_per_output_token"), latency("inter_token_latency")), (0.01, 0.01));
    assert_eq!(latency("normalized_time_per_output_token"), 0.034);
    assert_eq!(report["load_summary"]["schedule_delay"]["mean"], 0.01);
    let causes = &report["evenload"]["schedule_delay"];
    assert_eq!((&causes["bound"]["mean"], &causes["client"]["mean"]), (&json!(0.005), &json!(0.005)));
    assert_eq!(report["evenload"]["request_latency_from_schedule"]["p99.9"], 0.18);
}

#[test]
fn the_causes_of_a_delay_add_up_to_it() {
    let mut record = request(1000, 100, 10, 5);
    (record.scheduled, record.admitted) = (ms(970), ms(980));
    (record.session_wait, record.core_wait) = (ms(300), ms(15));
    let report = report(&[record], true);
    assert_eq!(report["load_summary"]["schedule_delay"]["mean"], 0.33, "from the planned time");
    let causes = &report["evenload"]["schedule_delay"];
    let means =
        ["session", "bound", "machine", "client"].map(|cause| causes[cause]["mean"].as_f64().unwrap());
    assert_eq!(means, [0.3, 0.01, 0.015, 0.005]);
}

#[test]
fn the_achieved_rate_counts_gaps() {
    let records: Vec<Record> = (0..11).map(|number| request(number * 100, 5, 1, 2)).collect();
    let load = report(&records, true)["load_summary"].clone();
    assert_eq!(
        (&load["count"], &load["achieved_rate"], &load["send_duration"]),
        (&json!(11), &json!(10.0), &json!(1.0))
    );
    assert_eq!(report(&records[..1], true)["load_summary"]["achieved_rate"], Value::Null);
}

#[test]
fn what_an_answer_does_not_have_is_absent() {
    let mut one = request(0, 50, 0, 1);
    one.chunks = vec![Chunk { at: ms(50), tokens: 1 }];
    let streamed = report(&[one.clone()], true);
    let latency = &streamed["successes"]["latency"];
    assert_eq!(latency["time_to_first_token"]["median"], 0.05, "one token has a first token, too");
    assert!(latency["time_per_output_token"].is_null() && latency["inter_token_latency"].is_null());
    let whole = report(&[one], false);
    assert!(
        whole["successes"]["latency"]["time_to_first_token"].is_null(),
        "without a stream there is no first token"
    );
    let mut none = request(0, 50, 0, 0);
    none.output_tokens.tokens = 0;
    assert!(report(&[none], true)["successes"]["latency"]["normalized_time_per_output_token"].is_null());
}

#[test]
fn tokens_of_one_event_are_no_time_apart() {
    let mut record = request(0, 50, 10, 3);
    record.chunks[1].tokens = 3;
    record.output_tokens.tokens = 5;
    let report = report(&[record], true);
    let itl = &report["successes"]["latency"]["inter_token_latency"];
    assert_eq!((&itl["mean"], &itl["min"], &itl["max"]), (&json!(0.005), &json!(0.0), &json!(0.01)));
    assert_eq!(report["evenload"]["inter_chunk_latency"]["mean"], 0.01);
    assert_eq!(report["successes"]["token_count_mismatches"], 0);
}

#[test]
fn good_requests_keep_all_limits() {
    let slow = request(0, 200, 10, 3);
    let uneven = request(0, 100, 30, 3);
    let failed = failure(0, 5, Outcome::Timeout);
    let report = report(&[request(0, 100, 10, 3), slow, uneven, failed], true);
    let goodput = &report["successes"]["goodput_metrics"];
    assert_eq!((&goodput["good_requests"], &goodput["total_requests"]), (&json!(1), &json!(3)));
    assert_eq!(goodput["ttft_attainment_percentage"].as_f64().unwrap().round(), 67.0);
    assert_eq!(
        goodput["tpot_attainment_percentage"].as_f64().unwrap().round(),
        67.0,
        "the header's limit counts"
    );
    assert_eq!(report["evenload"]["goodput_percentage_of_all_requests"], 25.0);
}

#[test]
fn failures_have_their_labels_and_messages() {
    let status = |status, text: &str| failure(0, 30, Outcome::Status(status, text.to_owned()));
    let mut unsent = failure(0, 0, Outcome::NotSent);
    unsent.sent = None;
    let mut refused = failure(0, 0, Outcome::Connect("refused".to_owned()));
    refused.sent = None;
    let records = [
        status(504, "a"),
        status(504, "a"),
        status(504, "b"),
        status(400, "This model's maximum context length is 10"),
        status(404, "model not found"),
        failure(0, 30, Outcome::Timeout),
        refused,
        unsent,
    ];
    let report = report(&records, true);
    let failures = &report["failures"];
    assert_eq!((&failures["count"], &report["evenload"]["not_sent"]), (&json!(7), &json!(1)));
    let gateway = &failures["by_label"]["504 - Gateway Timeout"];
    assert_eq!((&gateway["count"], gateway["messages"].as_array().unwrap().len()), (&json!(3), 1));
    for label in ["400 - Context Window", "404 - Model Not Found", "Timeout", "Connection Error"] {
        assert_eq!(failures["by_label"][label]["count"], 1, "{label}");
    }
    assert_eq!(failures["request_latency"]["max"], 0.03);
    let prompts = &failures["prompt_tokens"];
    assert_eq!((&prompts["total"], &prompts["max"]), (&json!(0.0), &json!(0.0)), "nobody counted them");
}

#[test]
fn what_is_cut_off_has_neither_failed_nor_been_answered() {
    let cut = failure(10, 30, Outcome::Incomplete);
    let records = [request(0, 100, 10, 3), cut, failure(20, 30, Outcome::Timeout)];
    let report = report(&records, true);
    let counts = ["/load_summary/count", "/successes/count", "/failures/count", "/evenload/cut_off"];
    assert_eq!(counts.map(|path| report.pointer(path).unwrap().as_u64().unwrap()), [2, 1, 1, 1]);
    assert_eq!(report["failures"]["by_label"].as_object().unwrap().len(), 1, "{report}");
    let mut collector = Collector::new(settings(true));
    records.iter().for_each(|record| collector.push(record));
    let text = super::table::tables(&[], &collector);
    let row: Vec<&str> =
        text.lines().rev().find(|line| line.contains("all")).unwrap().split_whitespace().collect();
    assert_eq!(row, ["all", "3", "1", "1", "1", "0", "0"], "{text}");
}

#[test]
fn a_turn_that_had_to_wait_is_late_from_its_planned_time_in_every_figure() {
    let mut record = request(1000, 100, 10, 5);
    (record.scheduled, record.admitted, record.session_wait) = (ms(970), ms(970), ms(300));
    let done = record.done;
    let fields = EntryFields {
        request: false,
        response: false,
        info: false,
        response_chunks: false,
        computed_metrics: false,
    };
    let entry =
        serde_json::to_value(entry(&record, EntryBodies::default(), fields, &settings(true))).unwrap();
    assert_eq!(entry["scheduled_time"], 0.67);
    let report = report(&[record], true);
    assert_eq!(report["load_summary"]["schedule_delay"]["mean"], 0.33);
    let whole = report["evenload"]["request_latency_from_schedule"]["mean"].as_f64().unwrap();
    assert!((whole - (done - ms(670)).as_secs_f64()).abs() < 1e-9, "{whole}");
}

#[test]
fn the_share_of_cached_tokens_is_of_the_prompts_whose_servers_state_it() {
    let row = |cached: [Option<u32>; 2]| {
        let mut collector = Collector::new(settings(true));
        for (number, cached) in (0_u64..).zip(cached) {
            let mut record = request(number * 100, 50, 10, 2);
            (record.cached_tokens, record.input_tokens.tokens) = (cached, 80);
            collector.push(&record);
        }
        let text = super::table::tables(&[], &collector);
        let lengths = text.split("cached %").nth(1).unwrap().lines().nth(1).unwrap().to_owned();
        lengths.split_whitespace().last().unwrap().to_owned()
    };
    assert_eq!(row([None, None]), "-", "a server that says nothing about caches has no share");
    assert_eq!(row([Some(40), None]), crate::format::human(50.0));
    assert_eq!(row([Some(0), None]), crate::format::human(0.0));
}

#[test]
fn the_part_of_the_benchmark_report_has_its_own_percentiles_and_the_samples_deviation() {
    let times = PartialTimes {
        uid: "u".to_owned(),
        eid: "e".to_owned(),
        start: "s".to_owned(),
        end: "e".to_owned(),
        duration: ms(1),
    };
    let part = |records: &[Record]| {
        let mut collector = Collector::new(settings(true));
        records.iter().for_each(|record| collector.push(record));
        let value = serde_json::to_value(partial(&collector, &times)).unwrap();
        value.pointer("/results/request_performance/aggregate").unwrap().clone()
    };
    let [mut one, mut other] = [request(0, 50, 10, 2), request(100, 50, 10, 2)];
    (one.input_tokens.tokens, other.input_tokens.tokens) = (10, 30);
    let both = part(&[one.clone(), other]);
    let lengths = &both["requests"]["input_length"];
    let keys = lengths.as_object().unwrap().keys().filter(|key| key.starts_with('p')).count();
    let at = |key: &str| (lengths[key].as_f64().unwrap() * 100.0).round();
    assert_eq!((keys, at("p0p1"), at("p99p9")), (11, 1002.0, 2998.0));
    assert!((lengths["stddev"].as_f64().unwrap() - 200_f64.sqrt()).abs() < 1e-9, "{lengths}");
    assert!(both["throughput"]["request_rate"].is_object());
    assert!(part(&[one])["requests"]["input_length"]["stddev"].is_null(), "one value has no deviation");
    let failed = part(&[failure(0, 30, Outcome::Timeout)]);
    assert!(failed["throughput"].is_null(), "{failed}");
}

#[test]
fn retries_stand_by_themselves() {
    let mut again = request(1000, 50, 10, 2);
    (again.retries, again.retried_for, again.scheduled, again.admitted) = (2, ms(300), ms(700), ms(700));
    let report = report(&[again], true);
    let retries = &report["retries"];
    assert_eq!(
        (&retries["attempts"], &retries["recovered"], &retries["wasted_sec_total"]),
        (&json!(2), &json!(1), &json!(0.3))
    );
    assert_eq!(report["load_summary"]["schedule_delay"]["max"], 0.0);
    assert_eq!(
        report["successes"]["latency"]["request_latency"]["max"], 0.36,
        "the user waited for the retries, too"
    );
}

#[test]
fn sessions_are_put_together_from_their_requests() {
    let mut sessions = SessionCollector::new(settings(true));
    for (session, sent, outcome) in [(1, 0, None), (1, 500, None), (2, 100, Some(Outcome::Timeout))] {
        let mut record = match outcome {
            None => request(sent, 100, 10, 3),
            Some(outcome) => failure(sent, 50, outcome),
        };
        (record.session, record.cached_tokens) = (session, Some(50));
        sessions.push(&record);
    }
    let report = serde_json::to_value(sessions.summary()).unwrap();
    assert_eq!(
        (&report["num_sessions"], &report["num_sessions_failed"], &report["total_events"]),
        (&json!(2), &json!(1), &json!(3))
    );
    assert_eq!((&report["kv_cache_hit_percent"], &report["tfut_sec"]["max"]), (&json!(50.0), &json!(0.1)));
    assert_eq!(report["session_duration_sec"]["max"], 0.62);
    assert_eq!(sessions.entries().len(), 2);
}

#[test]
fn the_partial_has_units_and_a_deviation() {
    let mut collector = Collector::new(settings(true));
    collector.push(&request(0, 100, 10, 3));
    let times = PartialTimes {
        uid: "u".to_owned(),
        eid: "e".to_owned(),
        start: "s".to_owned(),
        end: "t".to_owned(),
        duration: Duration::from_millis(1500),
    };
    let value = serde_json::to_value(partial(&collector, &times)).unwrap();
    let aggregate = &value["results"]["request_performance"]["aggregate"];
    assert_eq!(
        (&value["version"], &value["run"]["time"]["duration"]),
        (&json!("0.2.1"), &json!("PT1.500000S"))
    );
    assert_eq!(aggregate["latency"]["time_to_first_token"]["p50"], 0.1);
    assert_eq!(
        (&aggregate["requests"]["total"], &aggregate["latency"]["request_latency"]["stddev"]),
        (&json!(1), &Value::Null)
    );
    assert!(aggregate["latency"]["request_latency"]["p99p9"].is_number());
}

#[test]
fn the_terminal_shows_each_stage_in_each_table() {
    let mut stages = [Collector::new(settings(true)), Collector::new(settings(true))];
    let mut total = Collector::new(settings(true));
    for (number, stage) in (0..).zip(&mut stages) {
        for place in 0..5 {
            let record = request(100 * place, 100 * (number + 1), 10, 3);
            stage.push(&record);
            total.push(&record);
        }
    }
    let [open, closed] = &stages;
    let text = table::tables(&[("0".to_owned(), Some(9.0), open), ("1".to_owned(), None, closed)], &total);
    let rows = |name: &str| -> Vec<Vec<&str>> {
        let lines = text.lines().filter_map(|line| line.trim().strip_prefix(name));
        lines.map(|line| line.split_whitespace().collect()).collect()
    };
    let first = rows("first token ");
    assert_eq!(
        (first[0][..2].to_vec(), first[1][..2].to_vec()),
        (vec!["0", "100"], vec!["1", "200"]),
        "{text}"
    );
    assert_eq!((first.len(), rows("per output token ").len(), first[2][0]), (3, 3, "all"));
    let sent: Vec<&str> = rows("")
        .into_iter()
        .filter(|row| ["0", "1", "all"].contains(row.first().unwrap_or(&"")))
        .map(|row| row[2])
        .take(3)
        .collect();
    assert_eq!(sent, ["10.0", "10.0", "-"], "all stages together have no rate: {text}");
    assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
}
