//! What a pick costs: nanoseconds of CPU time by policy, number of replicas and prompt length, from the text to the
//! open lease, hashing included; what the lease costs after that; and memory of the prefix index under a million
//! distinct prompts.
//!
//! `cargo bench -p routing` prints a table, `cargo bench -p routing -- POLICY` that of one policy. Each figure is the
//! median of several runs, of the thread's own time, so that a busy machine shows as little as possible. Prompts of
//! conversations come back longer, so that some of each prompt is known and some is new; a fifth of every prompt is
//! shared by all.

#![allow(clippy::unwrap_used, reason = "a benchmark stops at the first surprise")]

use std::{collections::VecDeque, hint::black_box, time::Duration};

use mimalloc::MiMalloc;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use routing::{Lease, Outcome, PolicyName, Query, ReplicaSpec, Router, prefix_key};
use rustix::time::{ClockId, clock_gettime};
use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

/// As in the product.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

/// Bytes of prompt text in a block.
const BLOCK: usize = 64;
/// Leases held at a time, for each replica.
const HELD: usize = 16;
/// Runs for one figure.
const RUNS: usize = 5;

fn pool(policy: PolicyName, replicas: usize) -> Router {
    let specs = (0..replicas).map(|index| ReplicaSpec::new(format!("http://10.0.0.{index}:8000"))).collect();
    Router::new(policy.into(), specs).unwrap()
}

fn hash(text: &[u8], blocks: &mut Vec<u64>) {
    blocks.clear();
    let mut chain = xxh3_64(b"model");
    for block in text.chunks_exact(BLOCK) {
        chain = xxh3_64_with_seed(block, chain);
        blocks.push(chain);
    }
}

/// Time that this thread has spent on a CPU.
fn cpu_time() -> Duration {
    clock_gettime(ClockId::ThreadCPUTime).try_into().unwrap()
}

/// Mean CPU time of a pick, and of its lease from the first token to its end, in nanoseconds.
fn measure(policy: PolicyName, replicas: usize, kib: usize, picks: usize) -> [f64; 2] {
    let router = pool(policy, replicas);
    let mut random = ChaCha8Rng::seed_from_u64(1);
    let mut held: VecDeque<Vec<Lease>> = VecDeque::new();
    let length = kib * 1024;
    let mut text: Vec<u8> = (0..length * 2).map(|at| (at * 131 % 251) as u8).collect();
    let mut blocks = Vec::new();
    let [mut in_picks, mut in_leases] = [Duration::ZERO; 2];
    for batch in 0..picks / replicas {
        let mut leases = Vec::with_capacity(replicas);
        let start = cpu_time();
        for round in batch * replicas..(batch + 1) * replicas {
            let conversation = (round * 7919 % 2000) as u64;
            text[length / 5..length / 5 + 8].copy_from_slice(&conversation.to_le_bytes());
            let turn = length * (50 + round / 2000 % 50) / 100;
            hash(&text[..turn], &mut blocks);
            let query = Query {
                prefix_key: Some(prefix_key(None, &text[..100.min(turn)])),
                session_key: Some(conversation),
                blocks: &blocks,
                block_tokens: 16,
                prompt_tokens: (turn / 4) as u32,
                output_tokens: Some(100),
                ..Query::default()
            };
            leases.push(router.pick(&query, now(round), &mut random).unwrap().lease);
        }
        let picked = cpu_time();
        leases.iter_mut().for_each(|lease| lease.produced(1, now((batch + 1) * replicas)));
        held.push_back(leases);
        if held.len() > HELD
            && let Some(ended) = held.pop_front()
        {
            for mut lease in ended {
                lease.produced(99, now((batch + 1) * replicas));
                lease.settle(Outcome::Answered, now((batch + 1) * replicas));
            }
        }
        in_picks += picked - start;
        in_leases += cpu_time() - picked;
    }
    [in_picks, in_leases].map(|time| time.as_nanos() as f64 / picks as f64)
}

/// The time of a round.
fn now(round: usize) -> Duration {
    Duration::from_micros(round as u64 * 50)
}

fn main() {
    println!(
        "{:<16}{:>10}{:>10}{:>12}{:>16}{:>12}",
        "policy", "replicas", "KiB", "ns/pick", "target ns", "ns/lease"
    );
    let wanted = std::env::args().skip(1).find(|argument| !argument.starts_with('-'));
    for policy in PolicyName::ALL {
        if wanted.as_ref().is_some_and(|wanted| wanted != policy.label()) {
            continue;
        }
        for (replicas, kib) in [(8, 4), (64, 1), (64, 4), (64, 32), (64, 220)] {
            let picks = if kib > 100 { 4_000 } else { 40_000 };
            let runs: Vec<[f64; 2]> = (0..RUNS).map(|_| measure(policy, replicas, kib, picks)).collect();
            let [pick, lease] = [0, 1].map(|part| {
                let mut times: Vec<f64> = runs.iter().map(|run| run[part]).collect();
                times.sort_by(f64::total_cmp);
                times[RUNS / 2]
            });
            // Turns are between a half and the whole of the length.
            let target = 1000 + 750 * kib;
            println!("{:<16}{replicas:>10}{kib:>10}{pick:>12.0}{target:>16}{lease:>12.0}", policy.label());
        }
    }
    let router = pool(PolicyName::PrefixAware, 64);
    let mut random = ChaCha8Rng::seed_from_u64(1);
    let mut most = 0;
    for prompt in 0..1_000_000_u64 {
        let mut chain = prompt;
        let blocks: Vec<u64> = (0..52)
            .map(|block: u64| {
                chain = xxh3_64_with_seed(&block.to_le_bytes(), chain);
                chain
            })
            .collect();
        let query = Query { blocks: &blocks, block_tokens: 16, prompt_tokens: 840, ..Query::default() };
        black_box(router.pick(&query, Duration::from_millis(prompt), &mut random).unwrap());
        most = most.max(router.index_bytes());
    }
    println!("index after a million prompts of 52 blocks on 64 replicas: {} MiB at most", most >> 20);
}
