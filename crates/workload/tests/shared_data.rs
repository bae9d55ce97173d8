//! Public traces, read whole.
//!
//! Needs the folder that `EVENLOAD_DATA` names, which is not part of the project: `mooncake-conversation.jsonl.gz`
//! (kvcache-ai/Mooncake), `azure-llm-2023-conv.csv` (Azure/AzurePublicDataset) and
//! `sharegpt-800-conversations.jsonl.gz`. Skipped where it is not set.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::{collections::HashSet, env, path::PathBuf};

use protocol::Endpoint;
use workload::{
    Dataset, DatasetKind, Prompt, RequestTemplate, Schedule, read_seed_prompts, render_blocks, seed_sessions,
};

fn data(name: &str) -> Option<PathBuf> {
    let folder = env::var_os("EVENLOAD_DATA");
    if folder.is_none() {
        eprintln!("skipped: EVENLOAD_DATA does not name the folder with {name}");
    }
    folder.map(|folder| PathBuf::from(folder).join(name))
}

fn load(path: &std::path::Path, kind: DatasetKind) -> Dataset {
    assert_eq!(DatasetKind::detect(path).unwrap(), kind);
    Dataset::load(path, kind, &RequestTemplate::new(Endpoint::Completions, "m"), None).unwrap()
}

fn totals(dataset: &Dataset) -> (u64, u64) {
    dataset.entries.iter().fold((0, 0), |(input, output), entry| {
        let request = &entry.turns[0].request;
        (input + u64::from(request.input_tokens.unwrap()), output + u64::from(request.output_tokens.unwrap()))
    })
}

#[test]
fn the_mooncake_hour() {
    let Some(path) = data("mooncake-conversation.jsonl.gz") else { return };
    let dataset = load(&path, DatasetKind::MooncakeTrace);
    let ids: HashSet<u64> = dataset
        .entries
        .iter()
        .flat_map(|entry| match &entry.turns[0].request.prompt {
            Prompt::Blocks { ids, block_tokens: 512, .. } => ids.to_vec(),
            prompt => panic!("{prompt:?}"),
        })
        .collect();
    assert_eq!((dataset.entries.len(), ids.len()), (12_031, 182_790));
    let (input, output) = totals(&dataset);
    assert_eq!((input / 12_031, output / 12_031), (12_035, 342));
    let arrivals =
        dataset.schedule(&Schedule { from_first: true, speed_up: 10.0, ..Schedule::default() }).unwrap();
    assert_eq!(arrivals.last().unwrap().at.as_secs(), 353);
}

#[test]
fn the_azure_conversations() {
    let Some(path) = data("azure-llm-2023-conv.csv") else { return };
    let dataset = load(&path, DatasetKind::AzureTrace);
    let (input, output) = totals(&dataset);
    let rows = dataset.entries.len() as u64;
    assert_eq!((rows, input / rows, output / rows), (19_366, 1_154, 211));
    assert_eq!(dataset.entries.last().unwrap().at.unwrap().as_secs(), 3_501);
}

#[test]
fn eight_hundred_conversations() {
    let Some(path) = data("sharegpt-800-conversations.jsonl.gz") else { return };
    let prompts = read_seed_prompts(&path).unwrap();
    let sum = |tokens: fn(&workload::SeedPrompt) -> u32| prompts.iter().map(tokens).sum::<u32>();
    assert_eq!(
        (prompts.len(), sum(|p| p.input_tokens), sum(|p| p.output_tokens)),
        (8_000, 7_114_503, 705_449)
    );
    let template = RequestTemplate::new(Endpoint::Completions, "m");
    let sessions = seed_sessions(&prompts, &template, 512);
    assert_eq!(sessions.len(), 800);
    let mut firsts = HashSet::new();
    for turns in &sessions {
        for turn in turns {
            let Prompt::Blocks { ids, block_tokens, tokens, tail, .. } = &turn.request.prompt else {
                panic!()
            };
            let mut text = String::new();
            render_blocks(ids, *block_tokens, (*tokens).min(512), *tail, &mut text);
            firsts.insert(text);
        }
        assert!(turns.is_sorted_by_key(|turn| turn.request.input_tokens));
    }
    assert_eq!(firsts.len(), 1, "all prompts begin with the same 512 tokens");
}
