use proptest::prelude::*;

use super::*;

/// Steps of one second, so that the number of steps is the time; blocks of 16 tokens.
fn profile(kv_blocks: u32) -> Profile {
    Profile {
        name: "test".into(),
        step_base_s: 1.0,
        per_sequence_s: 0.0,
        per_context_token_s: 0.0,
        per_prefill_token_s: 0.0,
        kv_blocks,
        block_tokens: 16,
        max_num_seqs: 256,
        max_num_batched_tokens: 2048,
        max_model_len: kv_blocks * 16,
        max_adapters: 1,
        prefix_caching: true,
        preallocated_blocks: 0,
        reserve_prompt: false,
    }
}

/// A request whose block `n` has the hash `family * 1000 + n`.
fn request(id: u64, family: u64, prompt_tokens: u32, output_tokens: u32) -> Submission {
    let blocks = u64::from((prompt_tokens + output_tokens) / 16);
    let block_hashes = (0..blocks).map(|block| family * 1000 + block).collect();
    Submission { id, block_hashes, prompt_tokens, output_tokens, adapter: 0 }
}

struct Bench {
    scheduler: Scheduler,
    now: Duration,
    events: Vec<Event>,
}

impl Bench {
    fn new(profile: Profile) -> Self {
        Self { scheduler: Scheduler::new(profile), now: Duration::ZERO, events: Vec::new() }
    }

    fn submit(&mut self, submission: Submission) {
        self.scheduler.submit(submission, self.now).expect("a request that fits");
    }

    /// One step; false when idle.
    fn step(&mut self) -> bool {
        let Some(lasts) = self.scheduler.start_step(self.now) else { return false };
        self.now += lasts;
        self.scheduler.finish_step(&mut self.events);
        true
    }

    /// Steps until idle, at most 10,000.
    fn drain(&mut self) -> usize {
        (0..10_000).take_while(|_| self.step()).count()
    }

    fn cached(&self, wanted: u64) -> u32 {
        let first = self.events.iter().find_map(|event| match *event {
            Event::FirstToken { id, cached_tokens, .. } if id == wanted => Some(cached_tokens),
            _ => None,
        });
        first.expect("a first token")
    }

    fn used(&self) -> u32 {
        let snapshot = self.scheduler.snapshot();
        snapshot.total_blocks - snapshot.free_blocks
    }

    fn audit(&self) {
        let held: u64 = self.scheduler.sequences.iter().map(|sequence| sequence.held() as u64).sum();
        assert_eq!(self.scheduler.pool.audit(), held);
    }
}

#[test]
fn a_request_gets_one_token_a_step_and_then_ends() {
    let mut bench = Bench::new(profile(10));
    bench.submit(request(4, 1, 20, 3));
    assert_eq!(bench.drain(), 3);
    assert_eq!(
        bench.events,
        [
            Event::FirstToken { id: 4, cached_tokens: 0, waited: Duration::ZERO },
            Event::Token { id: 4 },
            Event::Token { id: 4 },
            Event::Finished { id: 4 },
        ]
    );
    assert_eq!(bench.used(), 0);
}

#[test]
fn a_loaded_prefix_takes_memory_and_no_computation() {
    let mut bench = Bench::new(profile(10));
    bench.scheduler.submit_loaded(request(1, 1, 100, 2), 90, bench.now).expect("a request that fits");
    bench.step();
    assert_eq!((bench.cached(1), bench.used()), (80, 7), "five full blocks of 90 tokens were loaded");
    assert_eq!(bench.scheduler.counters().prefill_tokens, 20);
    bench.submit(request(2, 1, 100, 1));
    bench.drain();
    assert_eq!(bench.cached(2), 96, "what was loaded is in the cache");
    bench.scheduler.submit_loaded(request(3, 2, 32, 1), 32, bench.now).expect("a request that fits");
    bench.drain();
    assert_eq!(bench.cached(3), 16, "the last token is always computed");
    bench.audit();
}

#[test]
fn a_step_lasts_as_the_formula_says() {
    let mut bench = Bench::new(Profile {
        step_base_s: 0.04,
        per_sequence_s: 0.001,
        per_context_token_s: 1e-5,
        per_prefill_token_s: 1e-4,
        ..profile(100)
    });
    bench.submit(request(1, 1, 100, 9));
    bench.submit(request(2, 2, 50, 9));
    let first = bench.scheduler.start_step(bench.now).expect("a step");
    assert_eq!(first, Duration::from_secs_f64(0.04 + 0.002 + 150e-5 + 150e-4));
    bench.scheduler.finish_step(&mut bench.events);
    let second = bench.scheduler.start_step(bench.now).expect("a step");
    assert_eq!(second, Duration::from_secs_f64(0.04 + 0.002 + 152e-5));
}

#[test]
fn a_prompt_is_cut_by_the_budget_and_running_sequences_come_first() {
    let mut bench = Bench::new(Profile { max_num_batched_tokens: 64, ..profile(100) });
    bench.submit(request(1, 1, 40, 9));
    bench.step();
    bench.submit(request(2, 2, 100, 9));
    let mut tokens = Vec::new();
    while bench.events.iter().all(|event| !matches!(event, Event::FirstToken { id: 2, .. })) {
        bench.step();
        let step = bench.scheduler.last_step();
        tokens.push((step.tokens, step.prefill_tokens));
    }
    assert_eq!(tokens, [(64, 63), (38, 37)]);
}

#[test]
fn no_more_than_max_num_seqs_run_and_the_rest_wait_in_order() {
    let mut bench = Bench::new(Profile { max_num_seqs: 2, ..profile(100) });
    for id in 0..4 {
        bench.submit(request(id, id, 10, 2));
    }
    bench.step();
    assert_eq!((bench.scheduler.snapshot().running, bench.scheduler.snapshot().waiting), (2, 2));
    bench.drain();
    let waits = bench.events.iter().filter_map(|event| match event {
        Event::FirstToken { id, waited, .. } => Some((*id, waited.as_secs())),
        _ => None,
    });
    assert_eq!(waits.collect::<Vec<_>>(), [(0, 0), (1, 0), (2, 2), (3, 2)]);
}

#[test]
fn a_prefix_is_found_in_full_blocks_and_its_last_token_is_computed() {
    let mut bench = Bench::new(profile(100));
    bench.submit(request(1, 1, 64, 1));
    bench.drain();
    for (id, prompt_tokens, expected) in [(2, 64, 48), (3, 65, 64), (4, 40, 32), (5, 16, 0)] {
        bench.submit(request(id, 1, prompt_tokens, 1));
        bench.drain();
        assert_eq!(bench.cached(id), expected, "a prompt of {prompt_tokens} tokens");
    }
    let counters = bench.scheduler.counters();
    assert_eq!((counters.prefix_query_tokens, counters.prefix_hit_tokens), (64 + 64 + 65 + 40 + 16, 144));
}

#[test]
fn generated_blocks_are_found_except_the_token_that_was_never_computed() {
    let mut bench = Bench::new(profile(100));
    bench.submit(request(1, 1, 16, 17));
    bench.drain();
    bench.submit(request(2, 1, 100, 1));
    bench.drain();
    assert_eq!(bench.cached(2), 32, "33 tokens, 32 of them computed");
}

#[test]
fn blocks_beyond_the_last_hash_are_private() {
    let mut bench = Bench::new(profile(100));
    for id in [1, 2] {
        let mut submission = request(id, 1, 64, 4);
        submission.block_hashes = submission.block_hashes[..2].into();
        bench.submit(submission);
        bench.drain();
    }
    assert_eq!(bench.cached(2), 32);
}

#[test]
fn requests_of_the_same_step_share_blocks() {
    let mut bench = Bench::new(profile(100));
    bench.submit(request(1, 1, 160, 2));
    bench.submit(request(2, 1, 160, 2));
    bench.step();
    assert_eq!(bench.cached(2), 144);
    assert_eq!(bench.used(), 11, "nine shared blocks and each its own last one");
    assert_eq!(bench.scheduler.last_step().prefill_tokens, 160 + 16);
    bench.drain();
    bench.audit();
}

#[test]
fn a_last_token_alone_costs_and_counts_as_a_decode() {
    // A prompt of one token, one that leaves one to a second chunk, and one that is found but for its last token.
    let mut bench =
        Bench::new(Profile { max_num_batched_tokens: 64, per_prefill_token_s: 0.5, ..profile(100) });
    for (id, family, prompt_tokens, expected) in [(1, 1, 1, &[0][..]), (2, 2, 65, &[64, 0]), (3, 2, 65, &[0])]
    {
        bench.submit(request(id, family, prompt_tokens, 3));
        let before = bench.now;
        let mut prefills = Vec::new();
        while bench.step() {
            prefills.push(bench.scheduler.last_step().prefill_tokens);
        }
        assert_eq!(prefills, [expected, &[0, 0]].concat(), "a prompt of {prompt_tokens} tokens");
        let computed: u32 = expected.iter().sum();
        assert_eq!((bench.now - before).as_secs_f64(), prefills.len() as f64 + 0.5 * f64::from(computed));
    }
    let counters = bench.scheduler.counters();
    assert_eq!((counters.prefix_hit_tokens, counters.prefill_tokens), (64, 64));
    assert_eq!(counters.prefix_query_tokens, counters.prefix_hit_tokens + counters.prefill_tokens + 3);
}

#[test]
fn a_hash_that_repeats_within_a_prompt_gets_nobody_in_without_memory() {
    for reserve_prompt in [false, true] {
        let mut bench = Bench::new(Profile { reserve_prompt, ..profile(64) });
        let repeated = |id, output_tokens| Submission {
            block_hashes: vec![7; 20].into(),
            ..request(id, 1, 325, output_tokens)
        };
        bench.submit(repeated(1, 2));
        bench.drain();
        bench.submit(request(2, 2, 700, 200));
        bench.step();
        bench.submit(repeated(3, 60));
        bench.submit(repeated(4, 60));
        while bench.step() {
            bench.audit();
        }
        assert_eq!((bench.used(), bench.scheduler.counters().finished), (0, 4));
    }
}

#[test]
fn without_prefix_caching_nothing_is_found() {
    let mut bench = Bench::new(Profile { prefix_caching: false, ..profile(100) });
    bench.submit(request(1, 1, 160, 2));
    bench.submit(request(2, 1, 160, 2));
    bench.drain();
    assert_eq!(bench.cached(2), 0);
}

#[test]
fn the_end_of_a_prompt_is_evicted_before_its_beginning_and_the_oldest_prompt_first() {
    let mut bench = Bench::new(profile(8));
    bench.submit(request(1, 1, 63, 1));
    bench.drain();
    bench.submit(request(2, 2, 63, 1));
    bench.drain();
    bench.submit(request(3, 3, 30, 1)); // Takes two blocks: the partial fourth and the third of request 1.
    bench.drain();
    assert_eq!(bench.scheduler.counters().evictions, 1);
    bench.submit(request(4, 1, 48, 1));
    bench.drain();
    assert_eq!(bench.cached(4), 32);
    bench.submit(request(5, 2, 64, 1));
    bench.drain();
    assert_eq!(bench.cached(5), 48, "the younger prompt lost nothing");
}

#[test]
fn where_no_block_is_left_the_last_running_sequence_is_preempted_and_computed_again() {
    let mut bench = Bench::new(profile(4));
    bench.submit(request(1, 1, 30, 20));
    bench.submit(request(2, 2, 30, 20));
    for _ in 0..3 {
        bench.step();
    }
    assert_eq!(bench.scheduler.snapshot().running, 2);
    bench.step();
    let snapshot = bench.scheduler.snapshot();
    assert_eq!((snapshot.running, snapshot.waiting, bench.scheduler.counters().preemptions), (1, 1, 1));
    bench.drain();
    let tokens = |wanted| {
        let is_token = |event: &&Event| match **event {
            Event::FirstToken { id, .. } | Event::Token { id } => id == wanted,
            Event::Finished { .. } => false,
        };
        bench.events.iter().filter(is_token).count()
    };
    assert_eq!((tokens(1), tokens(2)), (20, 20), "no token is lost or doubled");
    assert_eq!(bench.used(), 0);
}

#[test]
fn nothing_is_admitted_in_a_step_that_preempted() {
    let mut bench = Bench::new(profile(5));
    bench.submit(request(1, 1, 31, 20));
    bench.submit(request(2, 2, 31, 20));
    bench.step();
    bench.submit(request(3, 3, 20, 1));
    bench.step();
    bench.step();
    assert_eq!(bench.scheduler.counters().preemptions, 1);
    assert_eq!(bench.scheduler.snapshot().running, 1, "two blocks are free, but nobody was admitted");
    bench.step();
    assert_eq!(
        bench.scheduler.snapshot().running,
        1,
        "the preempted one is first in the queue, and needs three"
    );
}

#[test]
fn a_prompt_that_must_fit_whole_waits_where_its_first_chunk_would_fit() {
    for (reserve_prompt, running) in [(false, 2), (true, 1)] {
        let mut bench = Bench::new(Profile { reserve_prompt, max_num_batched_tokens: 64, ..profile(8) });
        bench.submit(request(1, 1, 48, 4));
        bench.step();
        bench.submit(request(2, 2, 100, 1));
        bench.step();
        assert_eq!(bench.scheduler.snapshot().running, running);
    }
}

#[test]
fn an_aborted_sequence_keeps_its_blocks_until_the_step_ends() {
    let mut bench = Bench::new(profile(100));
    bench.submit(request(1, 1, 100, 50));
    bench.submit(request(2, 2, 100, 50));
    bench.step();
    bench.events.clear();
    assert!(bench.scheduler.start_step(bench.now).is_some());
    assert!(bench.scheduler.abort(1));
    assert!(!bench.scheduler.abort(1), "it is gone for the caller at once");
    assert_eq!(bench.used(), 14);
    bench.scheduler.finish_step(&mut bench.events);
    assert_eq!(bench.used(), 7);
    assert_eq!(bench.events, [Event::Token { id: 2 }]);
    assert!(bench.scheduler.abort(2), "between steps");
    assert_eq!((bench.used(), bench.scheduler.counters().aborted), (0, 2));
    assert!(!bench.step());
}

#[test]
fn a_waiting_request_can_be_aborted() {
    let mut bench = Bench::new(Profile { max_num_seqs: 1, ..profile(100) });
    bench.submit(request(1, 1, 10, 2));
    bench.submit(request(2, 2, 10, 2));
    bench.step();
    assert!(bench.scheduler.abort(2));
    assert!(!bench.scheduler.abort(3));
    bench.drain();
    assert_eq!(bench.scheduler.counters().finished, 1);
}

#[test]
fn a_request_without_output_ends_with_its_prompt() {
    let mut bench = Bench::new(profile(100));
    bench.submit(request(1, 1, 0, 0));
    bench.drain();
    assert_eq!(bench.events, [Event::Finished { id: 1 }]);
}

#[test]
fn a_request_that_can_never_run_is_refused() {
    let mut scheduler = Scheduler::new(Profile { max_model_len: 100, ..profile(6) });
    let refused = scheduler.submit(request(1, 1, 90, 7), Duration::ZERO);
    assert_eq!(refused, Err(Rejected { tokens: 97, limit: 96 }), "memory for 96");
    let mut scheduler = Scheduler::new(Profile { max_model_len: 100, ..profile(10) });
    let huge = Submission { block_hashes: [].into(), ..request(1, 1, 1, 1) };
    let huge = Submission { prompt_tokens: u32::MAX, output_tokens: u32::MAX, ..huge };
    assert_eq!(scheduler.submit(huge, Duration::ZERO).map_err(|refused| refused.limit), Err(100));
}

#[test]
fn the_cache_is_reset_only_while_no_block_is_held() {
    let mut bench = Bench::new(profile(100));
    bench.submit(request(1, 1, 64, 2));
    bench.step();
    assert!(!bench.scheduler.reset_prefix_cache());
    bench.drain();
    assert!(bench.scheduler.reset_prefix_cache());
    bench.submit(request(2, 1, 64, 2));
    bench.drain();
    assert_eq!(bench.cached(2), 0);
}

#[test]
fn requests_of_one_adapter_too_many_are_passed_over_until_there_is_room() {
    let mut bench = Bench::new(Profile { max_adapters: 2, ..profile(100) });
    for (id, adapter, output_tokens) in [(1, 7, 1), (2, 8, 3), (3, 9, 1), (4, 7, 1), (5, 0, 1)] {
        bench.submit(Submission { adapter, ..request(id, id, 10, output_tokens) });
    }
    let mut order = Vec::new();
    while bench.step() {
        let first = |event: Event| match event {
            Event::FirstToken { id, .. } => Some(id),
            _ => None,
        };
        order.push(bench.events.drain(..).filter_map(first).collect::<Vec<_>>());
    }
    assert_eq!(order, [vec![1, 2, 4, 5], vec![3], vec![]]);
    assert!(bench.scheduler.adapters.is_empty());
}

#[test]
fn preallocation_takes_blocks_ahead_but_never_more_than_there_are() {
    let mut bench = Bench::new(Profile { preallocated_blocks: 4, ..profile(6) });
    bench.submit(request(1, 1, 20, 40));
    bench.step();
    assert_eq!(bench.used(), 6);
    bench.drain();
    assert_eq!((bench.used(), bench.scheduler.counters().finished), (0, 1));
}

#[test]
fn a_profile_that_cannot_work_does_no_harm() {
    let broken = Profile {
        step_base_s: f64::NAN,
        kv_blocks: 0,
        block_tokens: 0,
        max_num_seqs: 0,
        max_num_batched_tokens: 0,
        max_model_len: 0,
        max_adapters: 0,
        ..profile(1)
    };
    let mut bench = Bench::new(broken);
    bench.submit(request(1, 1, 1, 0));
    assert!(bench.drain() < 10);
}

#[derive(Clone, Debug)]
enum Action {
    Submit { family: u64, prompt_tokens: u32, output_tokens: u32, adapter: u32 },
    Abort(u64),
    Start,
    Finish,
}

fn action() -> impl Strategy<Value = Action> {
    prop_oneof![
        3 => (0..4u64, 0..280u32, 0..60u32, 0..4u32).prop_map(
            |(family, prompt_tokens, output_tokens, adapter)| {
                Action::Submit { family, prompt_tokens, output_tokens, adapter }
            }
        ),
        1 => (0..40u64).prop_map(Action::Abort),
        8 => Just(Action::Start),
        8 => Just(Action::Finish),
    ]
}

proptest! {
    /// Whatever happens in whatever order: references equal what sequences hold, a request is refused if and only
    /// if memory could never hold it, every other one that was not aborted gets exactly its tokens, and in the end
    /// all blocks are free.
    #[test]
    fn blocks_never_leak_and_are_never_freed_twice(
        actions in prop::collection::vec(action(), 1..200),
        kv_blocks in 16..40u32,
        preallocated_blocks in 0..5u32,
        reserve_prompt: bool,
        max_num_batched_tokens in prop::sample::select(vec![1u32, 17, 64, 4096]),
    ) {
        let mut bench = Bench::new(Profile {
            preallocated_blocks, reserve_prompt, max_num_batched_tokens, max_num_seqs: 6, max_adapters: 2, ..profile(kv_blocks)
        });
        let (mut expected, mut next) = (std::collections::BTreeMap::new(), 0);
        for action in actions {
            match action {
                Action::Submit { family, prompt_tokens, output_tokens, adapter } => {
                    let submission = Submission { adapter, ..request(next, family, prompt_tokens, output_tokens) };
                    let taken = bench.scheduler.submit(submission, bench.now).is_ok();
                    prop_assert_eq!(taken, prompt_tokens.max(1) + output_tokens <= kv_blocks * 16);
                    if taken {
                        expected.insert(next, output_tokens);
                    }
                    next += 1;
                }
                Action::Abort(id) => if bench.scheduler.abort(id) {
                    expected.remove(&id);
                },
                Action::Start => { bench.scheduler.start_step(bench.now); }
                Action::Finish => bench.scheduler.finish_step(&mut bench.events),
            }
            bench.audit();
        }
        bench.scheduler.finish_step(&mut bench.events);
        prop_assert!(bench.drain() < 10_000);
        bench.audit();
        prop_assert_eq!(bench.used(), 0);
        prop_assert!(bench.scheduler.adapters.is_empty());
        for (id, output_tokens) in expected {
            let mut tokens = 0;
            let mut finished = 0;
            for event in &bench.events {
                match *event {
                    Event::FirstToken { id: its, .. } | Event::Token { id: its } if its == id => tokens += 1,
                    Event::Finished { id: its } if its == id => finished += 1,
                    _ => {}
                }
            }
            prop_assert_eq!((tokens, finished), (output_tokens, 1));
        }
    }
}
