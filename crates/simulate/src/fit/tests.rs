use std::{path::PathBuf, time::Duration};

use report::Metric;
use routing::PolicySettings;
use workload::{BlockSessions, Delay, Length};

use super::{
    replayed::{Arriving, replay},
    *,
};
use crate::{ClientModel, FleetSettings, Pace, Traffic, scenario::Scenario};

/// Requests of many lengths at uneven times, as an engine of this profile would answer them.
fn simulated(profile: &Profile, count: u32, rate: f64) -> Evidence {
    let spread = |number: u32, salt: u32, most: u32| {
        number.wrapping_mul(2_654_435_761).wrapping_add(salt.wrapping_mul(40_503)).rotate_left(11) % most
    };
    let mut at_s = 0.0;
    let arriving: Vec<Arriving> = (0..count)
        .map(|number| {
            at_s += f64::from(spread(number, 1, 2000)) / 1000.0 / rate;
            Arriving {
                at_s,
                prompt_tokens: 30 + spread(number, 2, 1800),
                cached_tokens: if number % 3 == 0 { 16 } else { 0 },
                output_tokens: 2 + spread(number, 3, 120),
                content: None,
            }
        })
        .collect();
    let times = replay(profile, &arriving, usize::MAX);
    let measured = arriving.iter().zip(times).filter_map(|(request, times)| {
        let times = times?;
        Some(MeasuredRequest {
            at_s: request.at_s,
            prompt_tokens: request.prompt_tokens,
            cached_tokens: request.cached_tokens,
            output_tokens: request.output_tokens,
            ttft_s: Some(times.first_s - times.submitted_s),
            e2e_s: times.last_s - times.submitted_s,
            ..MeasuredRequest::default()
        })
    });
    Evidence::Log(vec![measured.collect()])
}

#[test]
fn a_known_profile_is_recovered_from_its_own_log() {
    let known = Profile {
        step_base_s: 14e-3,
        per_sequence_s: 0.2e-3,
        per_context_token_s: 2.2e-7,
        per_prefill_token_s: 1.3e-4,
        ..Profile::rtx4090()
    };
    let evidence = simulated(&known, 160, 4.0);
    let base = Profile { step_base_s: 0.04, ..known.clone() };
    let fit = Search { base, kv_blocks: false }.fit(&evidence, |_, _| {});
    let held_out = fit.held_out.expect("a quarter is held out");
    assert_eq!((fit.seen.requests, held_out.requests), (120, 40));
    assert!(fit.seen.worst() < 0.01 && held_out.worst() < 0.01, "{:?} {held_out:?}", fit.seen);
    let close = |found: f64, known: f64, share: f64| (found / known - 1.0).abs() < share;
    let found = &fit.profile;
    assert!(close(found.step_base_s, known.step_base_s, 0.03), "{found:?}");
    assert!(close(found.per_prefill_token_s, known.per_prefill_token_s, 0.03), "{found:?}");
    assert!(close(found.per_sequence_s, known.per_sequence_s, 0.25), "{found:?}");
    assert!(close(found.per_context_token_s, known.per_context_token_s, 0.25), "{found:?}");
}

/// A row as the simulator has it: one engine without a network, in a closed loop.
fn row(
    profile: &Profile,
    together: u32,
    requests: usize,
    input_tokens: u32,
    output_tokens: u32,
) -> MeasuredRow {
    let requests_alone = BlockSessions {
        preambles: 1,
        preamble_tokens: 0,
        turns: Length::exactly(1),
        message: Length::exactly(input_tokens),
        answer: Length::exactly(output_tokens),
        delay: Delay::default(),
        max_tokens: 16_384,
    };
    let policy: PolicySettings = "round_robin".parse().unwrap();
    let scenario = Scenario {
        traffic: Traffic::Conversations(requests_alone),
        pace: Pace::AtOnce,
        sessions: Some(requests),
        concurrency: Some(together),
        warm: false,
        fleet: FleetSettings {
            network: Duration::ZERO,
            ..FleetSettings::uniform(profile, 1, policy.clone())
        },
        client: ClientModel::IDEAL,
    };
    let total = scenario.load().unwrap().trial(policy, 1).unwrap().report.total;
    let mean_ms = |metric| Some(total.of(metric).mean().unwrap() / 1e6);
    MeasuredRow {
        concurrency: Some(together as usize),
        requests: Some(requests),
        input_tokens,
        output_tokens,
        duration_s: Some(total.duration_s()),
        mean_ttft_ms: mean_ms(Metric::Ttft),
        mean_tpot_ms: mean_ms(Metric::Tpot),
        ..MeasuredRow::default()
    }
}

const ROWS: [(u32, u32, u32); 6] =
    [(1, 100, 50), (4, 800, 50), (16, 400, 80), (8, 1500, 40), (32, 300, 60), (64, 400, 80)];

#[test]
fn the_simulator_and_a_row_are_one_closed_loop() {
    for known in [Profile::rtx4090(), Profile::h100()] {
        for (together, input, output) in ROWS {
            let rows = vec![row(&known, together, 12 * together as usize, input, output)];
            let loss = Evidence::Table(rows).loss(&known);
            assert!(loss < 1e-12, "{} at {together}: {loss}", known.name);
        }
    }
}

#[test]
fn a_table_of_figures_is_met() {
    let known = Profile::rtx4090();
    let rows = ROWS.map(|(together, input, output)| row(&known, together, 60, input, output));
    let base = Profile { kv_blocks: known.kv_blocks, ..Profile::l4() };
    let base = Profile { max_num_batched_tokens: 2048, preallocated_blocks: 0, reserve_prompt: true, ..base };
    let fit = Search { base, kv_blocks: false }.fit(&Evidence::Table(rows.into()), |_, _| {});
    assert!(fit.seen.worst() < 0.03, "{:?}", fit.seen);
    assert!(fit.held_out.expect("one row in four").worst() < 0.05);
}

#[test]
fn a_search_that_begins_with_the_truth_ends_there() {
    let known = Profile::rtx4090();
    let rows = ROWS[..4].iter().map(|(together, input, output)| row(&known, *together, 40, *input, *output));
    let fit =
        Search { base: known.clone(), kv_blocks: false }.fit(&Evidence::Table(rows.collect()), |_, _| {});
    assert!(fit.seen.worst() < 1e-6, "{:?}", fit.seen);
    assert!(fit.held_out.expect("one row in four").worst() < 1e-6);
}

#[test]
fn a_row_has_many_more_requests_than_are_in_flight() {
    let known = Profile::rtx4090();
    let row = MeasuredRow { requests: None, duration_s: None, ..row(&known, 100, 1000, 50, 20) };
    let loss = Evidence::Table(vec![row]).loss(&known);
    assert!(loss < 1e-12, "10 times 100 by default, but {loss}");
}

#[test]
fn what_the_engine_cannot_have_served_is_named() {
    let request = |line, prompt_tokens| MeasuredRequest {
        line,
        prompt_tokens,
        output_tokens: 100,
        e2e_s: 1.0,
        ..MeasuredRequest::default()
    };
    // Of those that are held out, too.
    let evidence = Evidence::Log(vec![vec![request(3, 10), request(9, 20)], vec![request(7, 40_000)]]);
    let profile = Profile { kv_blocks: 4000, ..Profile::rtx4090() };
    let too_long = evidence.check(&profile).unwrap_err();
    assert_eq!((too_long.longest.line, too_long.longest.tokens, too_long.limit), (7, 40_100, 32_768));
    let longer = Profile { max_model_len: 40_100, ..profile };
    assert_eq!(evidence.check(&longer), Ok(()));
    let small = Profile { kv_blocks: 2000, ..longer };
    assert_eq!(evidence.check(&small).map_err(|error| error.limit), Err(32_000));
    let rows = Evidence::Table(vec![MeasuredRow { line: 2, input_tokens: 50_000, ..MeasuredRow::default() }]);
    assert_eq!(rows.check(&small).unwrap_err().longest, Longest { line: 2, tokens: 50_001 });
}

#[test]
fn files_are_told_apart_and_faults_named() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    };
    let vllm = file(
        "requests.jsonl",
        "{\"input_toks\":100,\"output_toks\":10,\"arrival_time\":1000.0,\"queued_ts\":50.0,\
         \"first_token_ts\":50.2,\"last_token_ts\":51.0}\n",
    );
    file("meta.json", "{\"engine_kwargs\":{\"max_num_seqs\":7},\"kv_cache\":{\"num_gpu_blocks\":99}}");
    let Measurements { evidence, limits, left_out, .. } = read(&vllm).unwrap();
    assert_eq!(left_out, 0);
    assert_eq!((limits.max_num_seqs, limits.kv_blocks, limits.max_model_len), (Some(7), Some(99), None));
    let Evidence::Log(engines) = evidence else { panic!() };
    assert!((engines[0][0].ttft_s.unwrap() - 0.2).abs() < 1e-9 && (engines[0][0].e2e_s - 1.0).abs() < 1e-9);

    let decision = protocol::Decision {
        timestamp: 5e3,
        output_length: 3,
        replica: Some("http://a".into()),
        outcome: COMPLETE_ROW.into(),
        status: 200,
        cached_tokens: Some(32),
        ttft_ms: Some(40.0),
        duration_ms: 100.0,
        ..protocol::Decision::default()
    };
    let line = serde_json::to_string(&decision).unwrap();
    let failed = line.replace(COMPLETE_ROW, "client_gone");
    let decisions = file("decisions.jsonl", &format!("{line}\n{failed}\n{{\"cut"));
    let found = read(&decisions).unwrap();
    assert_eq!((found.left_out, found.unreadable_lines), (1, 1));
    let Evidence::Log(engines) = found.evidence else { panic!() };
    assert_eq!((engines[0].len(), engines[0][0].cached_tokens, engines[0][0].ttft_s), (1, 32, Some(0.04)));

    let table = file(
        "table.jsonl",
        "{\"concurrency\":4,\"input_tokens\":9,\"output_tokens\":9,\"mean_ttft_ms\":9}\n",
    );
    assert_eq!(read(&table).unwrap().evidence.len(), 1);
    let row = "{\"concurrency\":4,\"input_tokens\":9,\"output_tokens\":9,\"mean_ttft_ms\":9}";
    let edited = file("edited.jsonl", &format!("\u{feff}\n{row}\n\n{row}\n"));
    assert_eq!(read(&edited).unwrap().evidence.len(), 2);
    let vllm_row = |input_toks: u32, later: f64| {
        let row = |input_toks, at: f64| {
            format!(
                "{{\"input_toks\":{input_toks},\"output_toks\":10,\"arrival_time\":{},\"queued_ts\":{},\
                 \"first_token_ts\":{},\"last_token_ts\":{}}}\n",
                1000.0 + at,
                50.0 + at,
                50.2 + at,
                51.0 + at
            )
        };
        row(100, 0.0) + &row(input_toks, later)
    };
    let decision_rows = |timestamp, output_length| {
        let other = protocol::Decision { timestamp, output_length, ..decision.clone() };
        format!("{line}\n{}\n", serde_json::to_string(&other).unwrap())
    };
    for (text, wanted) in [
        ("{\"x\":1}\n", "no measurement"),
        ("", "no measurement"),
        ("{\"rate\":1,\"input_tokens\":9,\"output_tokens\":9}\n", "bad.jsonl:1: a row needs"),
        (
            "{\"rate\":1e-300,\"input_tokens\":9,\"output_tokens\":9,\"mean_ttft_ms\":9}\n",
            "bad.jsonl:1: a row needs",
        ),
        (
            "{\"rate\":1,\"input_tokens\":4000000000,\"output_tokens\":9,\"mean_ttft_ms\":9}\n",
            "bad.jsonl:1: a row needs",
        ),
        (
            "{\"rate\":1,\"input_tokens\":9,\"output_tokens\":9,\"mean_tpot\":1}\n",
            "bad.jsonl:1: unknown field",
        ),
        ("{\"input_toks\":1}\n", "bad.jsonl:1: missing field"),
        (&format!("{row}\n\n\n{}\n", row.replace("9}", "0}")), "bad.jsonl:4: a row needs"),
        (
            "\n{\"concurrency\":4,\"input_tokens\":9,\"output_tokens\":9,\"duration_s\":9}\n",
            "bad.jsonl:2: duration_s says nothing without requests",
        ),
        (
            "{\"concurrency\":1000000000,\"input_tokens\":9,\"output_tokens\":9,\"mean_ttft_ms\":9}\n",
            "bad.jsonl:1: a row needs a concurrency (at most 100000)",
        ),
        (&vllm_row(4_294_967_295, 0.0), "bad.jsonl:2: a prompt or an output of more than 4194304 tokens"),
        (&vllm_row(100, 1e22), "bad.jsonl:2: more than 100000000 seconds after"),
        (
            "{\"evenload_records\":99,\"phases\":[],\"targets\":[]}\n",
            "bad.jsonl: not a record, line 1: format",
        ),
        (&decision_rows(1e25, 3), "bad.jsonl:2: not a decision: its timestamp must"),
        (&decision_rows(1e13, 3), "bad.jsonl:2: more than 100000000 seconds after"),
        (&decision_rows(6e3, 4_000_000_000), "bad.jsonl:2: not a decision: its timestamp must"),
    ] {
        let error = read(&file("bad.jsonl", text)).expect_err(text).to_string();
        assert!(error.contains(wanted), "{text:?} gives {error}");
    }
}

/// A decision log of an engine of this profile, whose memory is full, and whose prompts begin in one of three ways. The
/// balancer takes a token of the engine for two thirds of one of its own.
fn shared_log(profile: &Profile) -> Vec<protocol::Decision<'static>> {
    const ESTIMATED: u32 = 3;
    const COUNTED: u32 = 2;
    let (prompt_tokens, output_tokens, shared, count) = (960, 40, 800, 60);
    let mut scheduler = engine::Scheduler::new(profile.clone());
    let arrival = |number: u64| std::time::Duration::from_millis(20 * number);
    let ids = |number: u64, block_tokens: u32| -> Vec<u64> {
        let own = |block: u32| (block + 1) * block_tokens > shared * block_tokens / profile.block_tokens;
        (0..prompt_tokens / profile.block_tokens)
            .map(|block| u64::from(block) << 32 | if own(block) { 100 + number } else { number % 3 })
            .collect()
    };
    let mut decisions: Vec<protocol::Decision<'static>> = (0..count)
        .map(|number| protocol::Decision {
            timestamp: arrival(number).as_secs_f64() * 1e3,
            input_length: prompt_tokens * ESTIMATED / COUNTED,
            output_length: output_tokens,
            hash_ids: ids(number, profile.block_tokens).into(),
            block_tokens: profile.block_tokens * ESTIMATED / COUNTED,
            prompt_tokens: Some(prompt_tokens),
            policy: "random".into(),
            replica: Some("http://a".into()),
            outcome: COMPLETE_ROW.into(),
            status: 200,
            ..protocol::Decision::default()
        })
        .collect();
    let (mut now, mut next, mut events) = (std::time::Duration::ZERO, 0, Vec::new());
    loop {
        while next < count && arrival(next) <= now {
            let submission = engine::Submission {
                id: next,
                block_hashes: ids(next, profile.block_tokens).into(),
                prompt_tokens,
                output_tokens,
                adapter: 0,
            };
            scheduler.submit(submission, now).unwrap();
            next += 1;
        }
        if let Some(lasts) = scheduler.start_step(now) {
            now += lasts;
            scheduler.finish_step(&mut events);
        } else if next < count {
            now = arrival(next);
        } else {
            return decisions;
        }
        for event in events.drain(..) {
            let (engine::Event::FirstToken { id, .. }
            | engine::Event::Token { id }
            | engine::Event::Finished { id, .. }) = event;
            let decision = &mut decisions[id as usize];
            let since = (now - arrival(id)).as_secs_f64() * 1e3;
            match event {
                engine::Event::FirstToken { cached_tokens, .. } => {
                    (decision.ttft_ms, decision.cached_tokens) = (Some(since), Some(cached_tokens));
                }
                engine::Event::Token { .. } => {}
                engine::Event::Finished { .. } => decision.duration_ms = since,
            }
        }
    }
}

#[test]
fn prompts_of_a_decision_log_share_the_memory_that_they_shared() {
    // Room for twelve prompts that share nothing, and for many more that do.
    let known = Profile {
        kv_blocks: 750,
        max_model_len: 2048,
        preallocated_blocks: 0,
        reserve_prompt: true,
        ..Profile::rtx4090()
    };
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("decisions.jsonl");
    let decisions = shared_log(&known);
    for told in [true, false] {
        let lines = decisions.iter().map(|decision| {
            let cached_tokens = decision.cached_tokens.filter(|_| told);
            serde_json::to_string(&protocol::Decision { cached_tokens, ..decision.clone() }).unwrap() + "\n"
        });
        std::fs::write(&path, lines.collect::<String>()).unwrap();
        let evidence = read(&path).unwrap().evidence;
        assert!(!evidence.hides_what_is_shared());
        let (seen, held_out) = evidence.judge(&known);
        assert!(seen.worst() < 0.005 && held_out.unwrap().worst() < 0.005, "{seen:?}");
    }
    // Without the ids each prompt would take all its memory alone.
    let Evidence::Log(mut engines) = read(&path).unwrap().evidence else { panic!() };
    engines[0].iter_mut().zip(&decisions).for_each(|(request, decision)| {
        request.cached_tokens = decision.cached_tokens.unwrap();
        request.content = None;
    });
    let alone = Evidence::Log(engines);
    assert!(alone.hides_what_is_shared() && alone.judge(&known).0.worst() > 0.2, "the memory is not full");
}

#[test]
fn what_the_limits_can_never_run_is_refused_and_never_a_good_fit() {
    let profile = Profile::rtx4090();
    let row = |line, input_tokens| MeasuredRow {
        line,
        concurrency: Some(1),
        input_tokens,
        output_tokens: 100,
        mean_ttft_ms: Some(9.0),
        ..MeasuredRow::default()
    };
    let table = |input_tokens| Evidence::Table(vec![row(1, 500), row(3, input_tokens)]);
    let longest = profile.max_model_len - 100;
    assert_eq!(table(longest).check(&profile), Ok(()));
    assert_eq!(table(longest + 1).check(&profile).unwrap_err().longest.line, 3);
    let request = MeasuredRequest { prompt_tokens: longest + 1, output_tokens: 100, ..Default::default() };
    assert!(Evidence::Log(vec![vec![request]]).check(&profile).is_err());
    // And if one came through all the same, its figures are no good fit.
    let (seen, _) = table(longest + 1).judge(&profile);
    assert!(seen.worst().is_infinite(), "{seen:?}");
}

const COMPLETE_ROW: &str = protocol::COMPLETE;

/// A measured run, if `EVENLOAD_DATA` names the folder that holds `vllm-runs`.
fn measured(run: &str) -> Option<(Evidence, Limits)> {
    let Some(folder) = std::env::var_os("EVENLOAD_DATA") else {
        eprintln!("skipped {run}: EVENLOAD_DATA is not set");
        return None;
    };
    let path = PathBuf::from(folder).join("vllm-runs").join(run).join("requests.jsonl");
    if !path.exists() {
        eprintln!("skipped {run}: {} is not there", path.display());
        return None;
    }
    let Measurements { evidence, limits, .. } = read(&path).unwrap();
    Some((evidence, limits))
}

#[test]
fn measured_runs_are_met_within_a_few_percent() {
    for (run, start) in
        [("RTX4090-llama-3.1-8b", Profile::l4()), ("RTXPRO6000-llama-3.1-8b", Profile::rtxpro6000())]
    {
        let Some((evidence, limits)) = measured(run) else { continue };
        // The limits that no log states are those of that version of vLLM.
        let base = Profile { preallocated_blocks: 0, reserve_prompt: true, ..limits.over(start) };
        let fit = Search { base, kv_blocks: false }.fit(&evidence, |_, _| {});
        let held_out = fit.held_out.expect("a quarter is held out");
        eprintln!("{run}: {:?}\nseen {:?}\nheld out {held_out:?}", fit.profile, fit.seen);
        assert!(fit.seen.worst() < 0.03, "{run}: {:?}", fit.seen);
        assert!(held_out.worst() < 0.05, "{run}: {held_out:?}");
    }
}
