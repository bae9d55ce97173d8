//! Fleets with faults, with several balancers, and without load.

#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::time::Duration;

use engine::Profile;
use routing::PolicySettings;
use simulate::{
    ClientModel, Error, FleetSettings, Pace, Traffic,
    replay::DecisionLog,
    scenario::{LoadedScenario, Scenario, Trial},
};
use workload::{BlockSessions, DatasetKind, Delay, Length};

/// Conversations of three turns, all behind one preamble.
fn described(sessions: usize, concurrency: u32, change: impl FnOnce(&mut FleetSettings)) -> Scenario {
    let mut fleet = FleetSettings::uniform(&Profile::l4(), 4, PolicySettings::default());
    change(&mut fleet);
    let conversations = BlockSessions {
        preambles: 1,
        preamble_tokens: 320,
        turns: Length::exactly(3),
        message: Length::exactly(150),
        answer: Length::exactly(40),
        delay: Delay::default(),
        max_tokens: 4096,
    };
    Scenario {
        traffic: Traffic::Conversations(conversations),
        pace: Pace::AtOnce,
        sessions: Some(sessions),
        concurrency: Some(concurrency),
        warm: false,
        fleet,
        client: ClientModel::IDEAL,
    }
}

fn scenario(sessions: usize, concurrency: u32, change: impl FnOnce(&mut FleetSettings)) -> LoadedScenario {
    described(sessions, concurrency, change).load().unwrap()
}

fn trial(loaded: &LoadedScenario, policy: &str) -> Trial {
    loaded.trial(policy.parse().unwrap(), 1).unwrap()
}

fn requests(trial: &Trial) -> Vec<u64> {
    trial.figures.replicas.iter().map(|replica| replica.requests).collect()
}

#[test]
fn without_load_new_conversations_spread_over_all_replicas() {
    let loaded = scenario(80, 1, |_| {});
    let trial = trial(&loaded, "prefix_aware");
    let requests = requests(&trial);
    assert_eq!(requests.iter().sum::<u64>(), 240);
    assert!(requests.iter().all(|count| (30..=100).contains(count)), "{requests:?}");
    assert!(trial.report.total.prefix_hit_ratio().unwrap() > 0.6, "and conversations stay where they are");
}

#[test]
fn a_replica_that_dies_loses_its_requests_and_no_others() {
    let loaded = scenario(240, 40, |fleet| {
        fleet.faults = vec!["5:1:down".parse().unwrap(), "15:1:up".parse().unwrap()];
    });
    for policy in ["least_requests", "prefix_aware"] {
        let trial = trial(&loaded, policy);
        let total = &trial.report.total;
        let lost = total.count("broken");
        assert!((1..=40).contains(&lost), "{policy}: {lost}");
        assert_eq!(total.answered() + lost, 720, "{policy}");
        let requests = requests(&trial);
        assert!(requests[1] > 20 && requests[1] < requests[0], "{policy}: it came back: {requests:?}");
    }
}

#[test]
fn what_finds_nobody_goes_elsewhere() {
    // Too few requests fail at once to give the replica away.
    let loaded = scenario(60, 8, |fleet| fleet.faults = vec!["5:1:down".parse().unwrap()]);
    let trial = trial(&loaded, "round_robin");
    assert!(trial.figures.retries > 0);
    assert!(trial.report.total.count("broken") <= 4);
    assert_eq!(trial.report.total.answered() + trial.report.total.count("broken"), 180);
}

#[test]
fn a_run_with_faults_is_a_function_of_its_seed() {
    let loaded = scenario(200, 40, |fleet| {
        fleet.faults = vec!["2:1:down".parse().unwrap(), "3:1:up".parse().unwrap()];
    });
    let run = |seed| {
        let trial = loaded.trial("round_robin".parse().unwrap(), seed).unwrap();
        (trial.figures.simulated, requests(&trial))
    };
    // It is ejected for a time that varies, and replicas have other numbers in the process each time.
    let first = run(1);
    assert_eq!((run(1), run(1)), (first.clone(), first.clone()));
    assert_ne!(run(2), first);
}

#[test]
fn retries_keep_within_the_budget() {
    // Twelve at once, of which half find nobody: a fifth of them is two, but three may always be tried again.
    let scenario = described(12, 12, |fleet| {
        fleet.profiles.truncate(2);
        fleet.faults = vec!["0:1:down".parse().unwrap()];
    });
    let Traffic::Conversations(talks) = scenario.traffic else { panic!("no conversations") };
    let single = BlockSessions { turns: Length::exactly(1), ..talks };
    let loaded = Scenario { traffic: Traffic::Conversations(single), ..scenario }.load().unwrap();
    let once = trial(&loaded, "round_robin");
    let total = &once.report.total;
    assert_eq!((once.figures.retries, total.answered(), total.failed()), (3, 9, 3));
    assert_eq!(total.count("status"), 3);
}

#[test]
fn busy_is_the_time_in_steps_as_faults_had_it() {
    let busy = |faults: &[&str]| {
        let loaded = scenario(20, 4, |fleet| {
            fleet.profiles.truncate(1);
            fleet.network = Duration::ZERO;
            fleet.faults = faults.iter().map(|fault| fault.parse().unwrap()).collect();
        });
        let figures = trial(&loaded, "round_robin").figures;
        (figures.replicas[0].counters.busy, figures.simulated)
    };
    // Somebody is always served, until the replica dies.
    let (usual, all) = busy(&[]);
    assert_eq!(usual, all);
    let (slow, all) = busy(&["0:0:speed=0.5"]);
    assert_eq!(slow, all);
    assert!((slow.as_secs_f64() / usual.as_secs_f64() / 2.0 - 1.0).abs() < 0.01, "{slow:?} for {usual:?}");
    assert_eq!(busy(&["2:0:down"]).0, Duration::from_secs(2));
}

#[test]
fn a_slow_replica_gets_less() {
    let loaded = scenario(400, 40, |fleet| fleet.faults = vec!["0:2:speed=0.4".parse().unwrap()]);
    let requests = requests(&trial(&loaded, "prefix_aware"));
    assert!(requests[2] * 4 < requests.iter().sum::<u64>(), "{requests:?}");
}

#[test]
fn a_replica_that_was_slow_once_is_tried_again() {
    let scenario = described(2000, 1, |fleet| {
        fleet.faults = vec!["100:2:speed=0.3".parse().unwrap(), "400:2:speed=1".parse().unwrap()];
    });
    let Traffic::Conversations(talks) = scenario.traffic else { panic!("no conversations") };
    let long = BlockSessions {
        preamble_tokens: 0,
        turns: Length::exactly(1),
        message: Length::normal(400.0, 100.0).unwrap(),
        answer: Length::normal(200.0, 50.0).unwrap(),
        ..talks
    };
    let settings = Scenario { traffic: Traffic::Conversations(long), ..scenario };
    let requests = requests(&trial(&settings.load().unwrap(), "prefix_aware"));
    assert!(requests[2] * 8 > requests.iter().sum::<u64>(), "{requests:?}");
}

#[test]
fn balancers_that_see_a_part_each_serve_everything_together() {
    let loaded = scenario(200, 32, |fleet| fleet.balancers = 16);
    for policy in ["least_queue", "prefix_aware", "round_robin"] {
        assert_eq!(trial(&loaded, policy).report.total.answered(), 600, "{policy}");
    }
}

#[test]
fn nothing_beats_the_bound() {
    let mixed: fn(&mut FleetSettings) = |fleet| fleet.profiles[3] = Profile::h100();
    for change in [|_: &mut FleetSettings| {}, mixed] {
        let loaded = scenario(400, 64, change);
        let demand = loaded.demand(1).unwrap();
        let bound = loaded.bound(&demand, 1, |_| {}).unwrap();
        assert!((bound.report.total.prefix_hit_ratio().unwrap() - demand.best_hit_ratio).abs() < 0.02);
        for policy in ["random", "least_tokens", "prefix_hash", "prefix_aware"] {
            let trial = trial(&loaded, policy);
            assert!(trial.report.total.duration_s() > 0.99 * bound.report.total.duration_s(), "{policy}");
        }
    }
}

#[test]
fn a_cache_with_room_holds_prompts_and_answers() {
    for (block_tokens, warm) in [(16, false), (64, false), (16, true)] {
        let scenario = described(10, 1, |fleet| {
            fleet.profiles.truncate(1);
            fleet.profiles[0].kv_blocks *= 16 * 16 / block_tokens;
            fleet.profiles[0].block_tokens = block_tokens;
        });
        let loaded = Scenario { warm, ..scenario }.load().unwrap();
        let best = loaded.demand(1).unwrap().best_hit_ratio;
        let found = trial(&loaded, "prefix_aware").report.total.prefix_hit_ratio().unwrap();
        assert!((found - best).abs() < 1e-9, "{block_tokens} {warm}: {found} of {best}");
        // Turns of 470, 660 and 850 tokens; the first one finds the preamble, each other one its past.
        assert!(best > if block_tokens == 16 { 0.7 } else { 0.6 } && best < 1.0, "{best}");
    }
}

#[test]
fn the_block_of_an_answers_last_token_is_in_no_cache() {
    // Turns that end with a block: the engine never computes the answer's last token.
    let scenario = described(10, 1, |fleet| fleet.profiles.truncate(1));
    let Traffic::Conversations(talks) = scenario.traffic else { panic!("no conversations") };
    let even = BlockSessions { message: Length::exactly(152), ..talks };
    let loaded = Scenario { traffic: Traffic::Conversations(even), ..scenario }.load().unwrap();
    let demand = loaded.demand(1).unwrap();
    let found = |trial: &Trial| trial.report.total.prefix_hit_ratio().unwrap();
    let best = demand.best_hit_ratio;
    for trial in [trial(&loaded, "prefix_aware"), loaded.bound(&demand, 1, |_| {}).unwrap()] {
        assert!((found(&trial) - best).abs() < 1e-9, "{} of {best}", found(&trial));
    }
}

#[test]
fn no_cache_beats_the_best_where_texts_have_fewer_blocks_than_tokens() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("talks.jsonl");
    // Each text is rounded up to tokens by itself, so that prompts have more tokens than their bytes have.
    let talk = |number: u32| {
        let turn = |turn: u32| {
            format!("{{\"text\": \"{number} {turn} {}\", \"output_length\": 30}}", "word ".repeat(9))
        };
        let turns: Vec<String> = (0..8).map(turn).collect();
        format!("{{\"session_id\": \"s{number}\", \"turns\": [{}]}}\n", turns.join(", "))
    };
    std::fs::write(&path, (0..6).map(talk).collect::<String>()).unwrap();
    let scenario = described(6, 1, |fleet| {
        fleet.profiles.truncate(1);
        fleet.profiles[0].kv_blocks *= 16;
    });
    let kind = DatasetKind::from_name("multi_turn");
    let traffic = Traffic::File { path, kind, block_tokens: None };
    for warm in [false, true] {
        let loaded = Scenario { traffic: traffic.clone(), warm, ..scenario.clone() }.load().unwrap();
        let best = loaded.demand(1).unwrap().best_hit_ratio;
        let found = trial(&loaded, "round_robin").report.total.prefix_hit_ratio().unwrap();
        assert!((found - best).abs() < 1e-9, "{warm}: {found} of {best}");
    }
}

#[test]
fn ids_that_repeat_within_a_prompt_are_different_blocks() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("trace.jsonl");
    let row = |at: u32, input: u32, output: u32, ids: &[u32]| {
        format!(
            "{{\"timestamp\": {at}, \"input_length\": {input}, \"output_length\": {output}, \"hash_ids\": {ids:?}}}\n"
        )
    };
    let (same, long): (Vec<u32>, Vec<u32>) = (vec![7; 20], (100..143).collect());
    let rows = [
        row(0, 325, 2, &same),
        row(1000, 700, 200, &long),
        row(2000, 325, 60, &same),
        row(2001, 325, 60, &same[..10]),
    ];
    std::fs::write(&path, rows.concat()).unwrap();
    let scenario = described(4, 1, |fleet| {
        fleet.profiles.truncate(1);
        fleet.profiles[0].kv_blocks = 64;
        fleet.profiles[0].max_model_len = 1024;
    });
    let traffic =
        Traffic::File { path, kind: DatasetKind::from_name("mooncake_trace"), block_tokens: Some(16) };
    let pace = Pace::OwnTimes { speed_up: 1.0 };
    let loaded = Scenario { traffic, pace, concurrency: None, ..scenario }.load().unwrap();
    // The first prompt's 20 blocks are known to the others, which have 20 and 10 ids like it.
    let demand = loaded.demand(1).unwrap();
    assert_eq!((demand.best_hit_ratio * demand.prompt_tokens as f64).round() as u32, 30 * 16);
    assert_eq!(trial(&loaded, "round_robin").report.total.answered(), 4);
}

#[test]
fn what_cannot_be_run_is_said() {
    let faulty = scenario(1, 1, |fleet| fleet.faults = vec!["1:9:down".parse().unwrap()]);
    let error = faulty.trial(PolicySettings::default(), 1).unwrap_err();
    assert_eq!(error.to_string(), "a fault of replica 9, but there are 4: the first one is 0");
    let uneven = scenario(1, 1, |fleet| fleet.profiles[1].block_tokens = 24);
    let error = uneven.trial(PolicySettings::default(), 1).unwrap_err().to_string();
    assert!(error.contains("blocks of 24 tokens") && error.contains("multiple of 16"), "{error}");
    let none = Scenario { pace: Pace::OwnTimes { speed_up: 1.0 }, ..Scenario::kubeai(8) };
    assert!(matches!(none.load(), Err(Error::NoTimes)));
    let empty = Scenario {
        fleet: FleetSettings::uniform(&Profile::l4(), 0, PolicySettings::default()),
        ..Scenario::kubeai(8)
    };
    assert!(matches!(empty.load().unwrap().trial(PolicySettings::default(), 1), Err(Error::NoReplicas)));
}

/// What a later prompt finds of an earlier prompt and its answer, by the lengths of these: all full blocks, wherever in
/// the earlier prompt's last, partial block the answer ends, but the answer's last token is never computed.
#[test]
fn a_recorded_prompt_finds_every_block_of_prompt_and_answer_before_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("decisions.jsonl");
    for (input, output, hits) in
        [(37, 11, 32), (37, 12, 48), (37, 20, 48), (37, 28, 64), (33, 16, 48), (47, 2, 48)]
    {
        let line = |second: u32, input: u32, output: u32| {
            let ids: Vec<u32> = (1..=input / 16).collect();
            format!(
                "{{\"timestamp\": {second}000, \"input_length\": {input}, \"output_length\": {output}, \"hash_ids\": {ids:?}, \
                 \"block_tokens\": 16, \"policy\": \"random\", \"replica\": \"a\", \"outcome\": \"complete\", \
                 \"status\": 200, \"duration_ms\": 100}}\n"
            )
        };
        std::fs::write(&path, line(1, input, output) + &line(50, 165, 1)).unwrap();
        let log = DecisionLog::read([path.as_path()]).unwrap();
        let scenario = Scenario {
            traffic: Traffic::Dataset(log.dataset()),
            pace: Pace::OwnTimes { speed_up: 1.0 },
            sessions: None,
            concurrency: None,
            ..described(1, 1, |fleet| fleet.profiles.truncate(1))
        };
        let trial = trial(&scenario.load().unwrap(), "random");
        let found = trial.report.total.prefix_hit_ratio().unwrap() * f64::from(input + 165);
        assert_eq!(found.round(), f64::from(hits), "{input} and {output} tokens");
    }
}
