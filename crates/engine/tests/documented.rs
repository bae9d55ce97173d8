//! What `docs/engine.md` says can be ordered and is refused.

mod support;

use serde_json::{Value, json};
use support::{post, quick, receive, send, start};

const DOCUMENT: &str = include_str!("../../../docs/engine.md");

/// The cells in code of the table that begins with this head.
fn table(head: &str) -> Vec<Vec<&'static str>> {
    let lines = DOCUMENT.lines().skip_while(|line| !line.starts_with(head)).skip(2);
    let rows = lines.take_while(|line| line.starts_with('|')).map(|line| {
        let cells = line.split(" | ").map(|cell| cell.trim_matches(['|', ' ']));
        cells.filter_map(|cell| cell.strip_prefix('`')?.strip_suffix('`')).collect()
    });
    let rows: Vec<_> = rows.collect();
    assert!(!rows.is_empty(), "no table {head}");
    rows
}

#[test]
fn every_fault_of_the_document_can_be_ordered_and_no_other() {
    // Each to an engine of its own: one of them accepts no connection afterwards.
    let order = |order: &Value| {
        let (_fleet, address) = start(quick());
        post(address, "/sim/fault", order)
    };
    let (requests, replicas) = (table("| fault | a stream |"), table("| fault | what it does |"));
    let mut kinds = Vec::new();
    for fault in requests.iter().chain(&replicas).map(|row| row[0]) {
        assert_eq!(order(&json!({"fault": fault})).status, 200, "{fault}");
        kinds.push(fault.split('=').next().expect("a name"));
    }
    for fault in requests.iter().map(|row| row[0]) {
        let members = json!({"fault": fault, "count": 1, "probability": 0.5, "every_path": true});
        assert_eq!(order(&members).status, 200, "{fault}");
    }
    // The refusal of an unknown fault lists all that there are.
    let refusal = order(&json!({"fault": "?"})).json();
    let listed = refusal["error"]["message"].as_str().and_then(|message| message.split_once("use "));
    let listed =
        listed.expect("a list").1.split(|letter: char| !(letter.is_ascii_lowercase() || letter == '_'));
    let listed = listed.filter(|word| !["", "to", "or", "for", "a", "replica", "also"].contains(word));
    let mut listed: Vec<_> = listed.collect();
    listed.sort_unstable();
    kinds.sort_unstable();
    assert_eq!(listed, kinds);
}

#[test]
fn what_the_document_says_is_refused_is_refused_by_name() {
    let (_fleet, address) = start(quick());
    for row in table("| member | refused value |") {
        let (member, value): (_, Value) = (row[0], serde_json::from_str(row[1]).expect("JSON"));
        let (path, mut body) = match member {
            "prompt" => ("/v1/completions", json!({})),
            _ => (
                "/v1/chat/completions",
                json!({"messages": [{"role": "user", "content": "x"}], "max_tokens": 1}),
            ),
        };
        body[member] = value;
        let reply = receive(send(address, "POST", path, "", &body.to_string())).expect("an answer");
        assert_eq!((reply.status, &reply.json()["error"]["param"]), (400, &json!(member)));
    }
}
