//! The engine against two measured runs of vLLM 0.19: 300 requests each, an RTX 4090 that runs out of KV memory
//! and an RTX PRO 6000 that runs out of sequence slots.
//!
//! The measurements are not part of the repository. `EVENLOAD_DATA` names the folder that holds
//! `vllm-runs/*/requests.jsonl`; without it these tests say that they were skipped.

use std::{fs, path::PathBuf, time::Duration};

use engine::{Event, Profile, Scheduler, Submission};

#[derive(serde::Deserialize)]
struct Measured {
    input_toks: u32,
    output_toks: u32,
    arrival_time: f64,
    queued_ts: f64,
    first_token_ts: f64,
    last_token_ts: f64,
}

/// One request, in seconds since the first arrival.
#[derive(Clone, Debug)]
struct Trace {
    arrival: f64,
    prompt_tokens: u32,
    output_tokens: u32,
    first_token: f64,
    last_token: f64,
}

#[derive(Debug)]
struct Figures {
    duration: f64,
    ttft: f64,
    tpot: f64,
    e2e: f64,
}

fn measured(run: &str) -> Option<Vec<Trace>> {
    let Some(folder) = std::env::var_os("EVENLOAD_DATA") else {
        eprintln!("skipped {run}: EVENLOAD_DATA is not set");
        return None;
    };
    let path = PathBuf::from(folder).join("vllm-runs").join(run).join("requests.jsonl");
    let Ok(text) = fs::read_to_string(&path) else {
        eprintln!("skipped {run}: {} is not there", path.display());
        return None;
    };
    let rows: Vec<Measured> =
        text.lines().map(|line| serde_json::from_str(line).expect("a measured request")).collect();
    // Arrivals were stamped with another clock than the rest; no request can be queued before it arrives.
    let offset = rows.iter().map(|row| row.queued_ts - row.arrival_time).fold(f64::INFINITY, f64::min);
    let start = rows.iter().map(|row| row.arrival_time).fold(f64::INFINITY, f64::min);
    let mut trace: Vec<_> = rows
        .iter()
        .map(|row| Trace {
            arrival: row.arrival_time - start,
            prompt_tokens: row.input_toks,
            output_tokens: row.output_toks,
            first_token: row.first_token_ts - offset - start,
            last_token: row.last_token_ts - offset - start,
        })
        .collect();
    trace.sort_by(|a, b| a.arrival.total_cmp(&b.arrival));
    Some(trace)
}

fn simulated(profile: Profile, trace: &[Trace]) -> Vec<Trace> {
    let mut result = trace.to_vec();
    let mut scheduler = Scheduler::new(profile);
    let (mut now, mut arrived, mut events) = (Duration::ZERO, 0, Vec::new());
    loop {
        while let Some(request) = trace.get(arrived)
            && request.arrival <= now.as_secs_f64()
        {
            let blocks = u64::from((request.prompt_tokens + request.output_tokens) / 16);
            let submission = Submission {
                id: arrived as u64,
                block_hashes: (0..blocks).map(|block| ((arrived as u64) << 32) | block).collect(),
                prompt_tokens: request.prompt_tokens,
                output_tokens: request.output_tokens,
                adapter: 0,
            };
            scheduler.submit(submission, now).expect("a request that fits");
            arrived += 1;
        }
        if let Some(lasts) = scheduler.start_step(now) {
            now += lasts;
            scheduler.finish_step(&mut events);
        } else if let Some(next) = trace.get(arrived) {
            now = Duration::from_secs_f64(next.arrival) + Duration::from_nanos(1);
        } else {
            return result;
        }
        for event in events.drain(..) {
            match event {
                Event::FirstToken { id, .. } => {
                    let request = &mut result[id as usize];
                    (request.first_token, request.last_token) = (now.as_secs_f64(), now.as_secs_f64());
                }
                Event::Token { id } => result[id as usize].last_token = now.as_secs_f64(),
                Event::Finished { .. } => {}
            }
        }
    }
}

fn figures(trace: &[Trace]) -> Figures {
    let mean = |values: &mut dyn Iterator<Item = f64>| {
        let (sum, count) = values.fold((0.0, 0.0), |(sum, count), value| (sum + value, count + 1.0));
        sum / count
    };
    Figures {
        duration: trace.iter().map(|request| request.last_token).fold(0.0, f64::max),
        ttft: mean(&mut trace.iter().map(|request| request.first_token - request.arrival)),
        tpot: mean(&mut trace.iter().filter(|request| request.output_tokens > 1).map(|request| {
            (request.last_token - request.first_token) / f64::from(request.output_tokens - 1)
        })),
        e2e: mean(&mut trace.iter().map(|request| request.last_token - request.arrival)),
    }
}

/// The profile's figures as multiples of the measured ones: duration, and means of TTFT, TPOT and E2E.
fn ratios(profile: Profile, run: &str) -> Option<[f64; 4]> {
    let trace = measured(run)?;
    let (real, model) = (figures(&trace), figures(&simulated(profile, &trace)));
    eprintln!("measured {real:.4?}\nmodel    {model:.4?}");
    Some([
        model.duration / real.duration,
        model.ttft / real.ttft,
        model.tpot / real.tpot,
        model.e2e / real.e2e,
    ])
}

#[test]
fn the_rtx_4090_run_is_met_within_3_percent() {
    let Some(ratios) = ratios(Profile::rtx4090(), "RTX4090-llama-3.1-8b") else { return };
    assert!(ratios.iter().all(|ratio| (ratio - 1.0).abs() <= 0.03), "{ratios:.3?}");
}

#[test]
fn the_rtx_pro_6000_run_is_met_within_5_percent() {
    let Some(ratios) = ratios(Profile::rtxpro6000(), "RTXPRO6000-llama-3.1-8b") else { return };
    assert!(ratios.iter().all(|ratio| (ratio - 1.0).abs() <= 0.05), "{ratios:.3?}");
}
