//! Whole workloads: what a configuration sends, in all its stages and shards.

use std::{collections::BTreeMap, path::Path, time::Duration};

use super::*;
use crate::{Arrival, Prompt, Request};

const SERVER: &str = "server: {base_url: \"http://localhost:8000\"}\n";

fn config(text: &str) -> Config {
    let surroundings = Surroundings { cores: 2, now_ms: 5, timestamp: "now" };
    Config::from_yaml(&format!("{SERVER}{text}"), Path::new("f")).unwrap().resolve(surroundings).unwrap()
}

/// The arrivals of all stages.
fn arrivals(config: &Config, shard: Shard) -> Vec<Vec<Arrival>> {
    let mut workload = Workload::load(config, "base").unwrap();
    let (stages, _) = workload.stages(config);
    stages.iter().map(|stage| workload.start(stage, shard).unwrap().arrivals.collect()).collect()
}

fn text(request: &Request) -> String {
    match &request.prompt {
        Prompt::Text(text) => text.to_string(),
        Prompt::Messages(messages) => messages.iter().map(|said| said.content.as_ref()).collect(),
        _ => panic!("another prompt"),
    }
}

fn shape(arrival: &Arrival) -> (Duration, u64, Vec<(String, String)>) {
    let turns =
        arrival.session.turns.iter().map(|turn| (turn.request.model.to_string(), text(&turn.request)));
    (arrival.at, arrival.session.id, turns.collect())
}

#[test]
fn stages_go_on_in_the_data_and_ask_for_thirty_tokens() {
    let config = config("load: {stages: [{rate: 2, duration: 2}, {rate: 1, duration: 2}]}\n");
    let stages = arrivals(&config, Shard::WHOLE);
    let texts: Vec<String> =
        stages.iter().flatten().map(|arrival| text(&arrival.session.turns[0].request)).collect();
    assert_eq!(texts, ["1 2 3 0", "1 2 3 1", "1 2 3 2", "1 2 3 3", "1 2 3 4", "1 2 3 5"]);
    assert_eq!(stages[0][3].at, Duration::from_millis(1500));
    assert_eq!(stages[0][0].session.turns[0].request.output_tokens, Some(30));
    assert_ne!(stages[0][0].session.id, stages[1][0].session.id);
}

#[test]
fn all_shards_together_are_the_whole() {
    for data in [
        "data: {type: random, input_distribution: {max: 40, mean: 20, std_dev: 9}}",
        "data: {type: shared_prefix, shared_prefix: {num_groups: 2, num_prompts_per_group: 3, enable_multi_turn_chat: true}}",
        "data: {type: conversation_replay, conversation_replay: {num_conversations: 4, turns_per_conversation: 3, shared_system_prompt_len: 8}}",
    ] {
        let config = config(&format!(
            "{data}\nload: {{type: poisson, base_seed: 3, stages: [{{rate: 10, duration: 5}}, {{rate: 7, duration: 3}}], \
             lora_traffic_split: [{{name: a, split: 0.7}}, {{name: b, split: 0.3}}]}}\n"
        ));
        let whole = arrivals(&config, Shard::WHOLE);
        for (stage, whole) in whole.iter().enumerate() {
            let mut shards: Vec<_> = (0..4)
                .flat_map(|index| arrivals(&config, Shard { index, count: 4 }).swap_remove(stage))
                .map(|arrival| shape(&arrival))
                .collect();
            shards.sort();
            let mut expected: Vec<_> = whole.iter().map(shape).collect();
            expected.sort();
            assert_eq!(shards, expected, "{data}");
        }
    }
}

#[test]
fn shares_are_dealt_out_in_turn() {
    let shares: Vec<u64> = (0..4).map(|index| Shard { index, count: 4 }.share(10)).collect();
    assert_eq!(shares, [3, 3, 2, 2]);
}

#[test]
fn adapters_have_their_shares() {
    let config = config(
        "load: {base_seed: 1, stages: [{rate: 1000, duration: 10}], \
         lora_traffic_split: [{name: a, split: 0.7}, {name: b, split: 0.2}, {name: c, split: 0.1}]}\n",
    );
    let mut counts: BTreeMap<String, f64> = BTreeMap::new();
    for arrival in &arrivals(&config, Shard::WHOLE)[0] {
        *counts.entry(arrival.session.turns[0].request.model.to_string()).or_default() += 1.0;
    }
    for (name, share) in [("a", 7000.0), ("b", 2000.0), ("c", 1000.0)] {
        assert!((counts[name] - share).abs() < 140.0, "{counts:?}");
    }
}

#[test]
fn users_of_shared_prefix_go_on_talking_at_their_times() {
    let config = config(
        "data: {type: shared_prefix, shared_prefix: {num_groups: 1, num_prompts_per_group: 2, \
         enable_multi_turn_chat: true}}\nload: {stages: [{rate: 1, duration: 5}]}\n",
    );
    let stage = &arrivals(&config, Shard::WHOLE)[0];
    let times = |arrival: &Arrival| -> Vec<u64> {
        let later = arrival.session.turns.iter().skip(1).map(|turn| turn.not_before.unwrap());
        std::iter::once(arrival.at).chain(later).map(|at| at.as_secs()).collect()
    };
    assert_eq!(stage.iter().map(times).collect::<Vec<_>>(), [vec![0, 2, 4], vec![1, 3]]);
    let lengths: Vec<usize> = stage[0].session.turns.iter().map(|turn| text(&turn.request).len()).collect();
    assert_eq!(lengths, [600, 200, 200], "the common beginning comes once");
}

#[test]
fn conversations_end_and_are_played_again_and_stay_within_the_models_length() {
    let text = |more: &str| {
        format!(
            "api: {{type: chat}}\ndata: {{type: conversation_replay, conversation_replay: {{num_conversations: 2, \
             shared_system_prompt_len: 100, turns_per_conversation: 2, input_tokens_per_turn: 10, \
             output_tokens_per_turn: 5, tool_call_latency_sec: 1.5{more}}}}}\nload: {{stages: [{{rate: 1, duration: 7}}]}}\n"
        )
    };
    let stage = &arrivals(&config(&text("")), Shard::WHOLE)[0];
    let turns: Vec<usize> = stage.iter().map(|arrival| arrival.session.turns.len()).collect();
    assert_eq!(turns, [2, 2, 2, 1], "seven requests in two slots");
    assert_eq!(stage[0].session.turns[1].delay, Duration::from_millis(1500));
    let Prompt::Messages(messages) = &stage[0].session.turns[0].request.prompt else { panic!("no chat") };
    assert_eq!(
        (&*messages[0].role, messages[0].content.len(), messages[1].content.len()),
        ("system", 400, 40)
    );
    let said = |arrival: &Arrival| shape(arrival).2;
    assert_eq!(said(&stage[0]), said(&stage[2]), "a slot plays one conversation again and again");
    assert_ne!(said(&stage[0])[1], said(&stage[1])[1], "and another slot another one");
    let limits = |stage: &[Arrival]| -> Vec<Option<u32>> {
        stage[0].session.turns.iter().map(|turn| turn.prompt_limit).collect()
    };
    assert_eq!(limits(stage), [Some(225_000 - 205); 2]);

    let short = config(&text(", max_model_len: 270"));
    let stage = &arrivals(&short, Shard::WHOLE)[0];
    let turns: Vec<usize> = stage.iter().map(|arrival| arrival.session.turns.len()).collect();
    assert_eq!((turns, limits(stage)), (vec![2, 2, 2, 1], vec![Some(65); 2]), "as many turns as asked for");
    let lengths: Vec<usize> =
        stage[0].session.turns.iter().map(|turn| self::text(&turn.request).len()).collect();
    assert_eq!(lengths, [65 * 4, 10 * 4], "the beginning is cut");
    let notes = Workload::load(&short, "m").unwrap().notes().join("\n");
    assert!(notes.contains("max_model_len: 270 has no room") && notes.contains("2 of 2"), "{notes}");
}

#[test]
fn a_stage_that_asks_for_more_than_the_trace_has_ends_with_it() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("trace.csv");
    let rows = "TIMESTAMP,ContextTokens,GeneratedTokens\n2023-01-01 00:00:00,5,2\n2023-01-01 00:00:02,6,3\n\
                2023-01-01 00:00:04,7,4\n";
    std::fs::write(&file, rows).unwrap();
    let trace = format!("{{file: \"{}\", format: AzurePublicDataset}}", file.display());
    let load = format!("load: {{type: trace_replay, trace: {trace}, stages: [{{rate: 1, duration: 9}}]}}\n");
    let config = config(&load);
    let (stages, notes) = Workload::load(&config, "m").unwrap().stages(&config);
    assert_eq!((stages[0].count, stages[0].requested_rate), (Some(3), Some(0.5)));
    assert!(notes[0].contains("asks for 9 requests, and the trace has 3"), "{notes:?}");

    let both = self::config(&format!(
        "data: {{type: random, trace: {trace}}}\n{load}evenload: {{trace_speed: 2}}\n"
    ));
    let stage = &arrivals(&both, Shard::WHOLE)[0];
    let seen: Vec<_> = stage
        .iter()
        .map(|arrival| {
            let request = &arrival.session.turns[0].request;
            (arrival.at.as_secs(), request.input_tokens.unwrap(), request.output_tokens.unwrap())
        })
        .collect();
    assert_eq!(seen, [(0, 5, 2), (1, 6, 3), (2, 7, 4)]);
}
