//! Settings as people write them.

use routing::{
    Attempt, HealthSettings, NoRetry, Outcome, PolicyName, PolicySettings, RetryBudget, RetrySettings,
    may_retry,
};
use std::sync::Arc;

fn policy(json: &str) -> Result<PolicySettings, String> {
    serde_json::from_str(json).map_err(|error| error.to_string())
}

#[test]
fn every_policy_has_a_name_that_reads_back() {
    for name in PolicyName::ALL {
        let plain: PolicySettings = name.label().parse().unwrap();
        assert_eq!(plain.name(), name);
        let hyphens: PolicySettings = name.label().replace('_', "-").parse().unwrap();
        assert_eq!(plain, hyphens);
        assert_eq!(policy(&format!("{:?}", name.label())).as_ref(), Ok(&plain));
        assert_eq!(policy(&format!("{{\"{name}\": {{}}}}")).as_ref(), Ok(&plain));
        assert_eq!(
            policy(&serde_json::to_string(&plain).unwrap()).as_ref(),
            Ok(&plain),
            "it writes what it reads"
        );
        assert_eq!(plain.validate(), Ok(()));
    }
}

#[test]
fn kubeai_names_are_read() {
    let kubeai =
        r#"{"prefix-hash": {"mean_load_factor": 150, "replication": 100, "prefix_char_length": 20}}"#;
    let PolicySettings::PrefixHash(settings) = policy(kubeai).unwrap() else { panic!("not prefix_hash") };
    assert_eq!((settings.load_factor_percent, settings.virtual_nodes, settings.prefix_chars), (150, 100, 20));
    assert_eq!(settings.minimum_load, 8);
}

#[test]
fn keys_without_a_value_say_nothing() {
    for name in PolicyName::ALL {
        assert_eq!(policy(&format!("{{\"{name}\": null}}")), Ok(name.into()));
        let plain = serde_json::to_value(PolicySettings::from(name)).unwrap();
        let settings = plain.get(name.label()).and_then(|settings| settings.as_object());
        for key in settings.into_iter().flat_map(|settings| settings.keys()) {
            let silent = policy(&format!("{{\"{name}\": {{\"{key}\": null}}}}"));
            assert_eq!(silent, Ok(name.into()), "{key}");
        }
    }
    let mixed =
        policy(r#"{"prefix_hash": {"virtual_nodes": null, "prefix_chars": 7, "key": null}}"#).unwrap();
    let PolicySettings::PrefixHash(settings) = mixed else { panic!("not prefix_hash") };
    assert_eq!((settings.virtual_nodes, settings.prefix_chars), (256, 7));
}

#[test]
fn mistakes_are_named() {
    for (json, expected) in [
        (r#""prefixhash""#, "unknown policy `prefixhash`: use one of round_robin, random,"),
        (r#"{"prefix_hash": {"load_facter": 1}}"#, "unknown field `load_facter`"),
        (r#"{"random": {"seed": 1}}"#, "unknown field `seed`"),
        (r#"{"random": {}, "session": {}}"#, "one policy at a time: random, then `session`"),
        ("{}", "a policy needs a name"),
        ("3", "the name of a policy, or one name with its settings"),
        (r#"{"least_queue": {"stale_after_s": -1}}"#, "-1 is not a time in seconds"),
    ] {
        let error = policy(json).unwrap_err();
        assert!(error.contains(expected), "{json}: {error}");
    }
    for (json, expected) in [
        (
            r#"{"prefix_hash": {"load_factor_percent": 99}}"#,
            "`load_factor_percent` is 99: it must be from 100",
        ),
        (r#"{"prefix_hash": {"virtual_nodes": 0}}"#, "`virtual_nodes` is 0"),
        (r#"{"prefix_aware": {"interference": 1e308}}"#, "it must be from 0 to 1000000"),
        (r#"{"prefix_aware": {"work_factor": 0.5}}"#, "`work_factor` is 0.5: it must be from 1 to 1000000"),
        (r#"{"session": {"headers": []}}"#, "`headers` is empty: it must be a list"),
    ] {
        let error = policy(json).unwrap().validate().unwrap_err().to_string();
        assert!(error.contains(expected), "{json}: {error}");
    }
    let health: HealthSettings =
        serde_json::from_str(r#"{"ejection_s": 0.5, "ejection_cap_s": 0.25}"#).unwrap();
    let error = health.validate().unwrap_err().to_string();
    assert_eq!(error, "`ejection_cap_s` is 0.25: it must be at least `ejection_s`");
}

#[test]
fn retries_are_safe_or_asked_for() {
    let settings = RetrySettings::default();
    let brave = RetrySettings { after_sending: true, ..RetrySettings::default() };
    let attempt = Attempt { outcome: Outcome::Broken, retries: 0, sent: true, answering: false, safe: false };
    for (attempt, expected, expected_brave) in [
        (attempt, Err(NoRetry::MayHaveRun), Ok(())),
        (Attempt { sent: false, ..attempt }, Ok(()), Ok(())),
        (Attempt { safe: true, ..attempt }, Ok(()), Ok(())),
        (Attempt { outcome: Outcome::ConnectFailed, ..attempt }, Ok(()), Ok(())),
        (
            Attempt { outcome: Outcome::Busy { retry_after: None }, ..attempt },
            Err(NoRetry::MayHaveRun),
            Ok(()),
        ),
        (Attempt { answering: true, ..attempt }, Err(NoRetry::Answering), Err(NoRetry::Answering)),
        (Attempt { retries: 2, sent: false, ..attempt }, Err(NoRetry::Limit), Err(NoRetry::Limit)),
        (Attempt { outcome: Outcome::Answered, ..attempt }, Err(NoRetry::NotFailed), Err(NoRetry::NotFailed)),
        (
            Attempt { outcome: Outcome::Abandoned, ..attempt },
            Err(NoRetry::NotFailed),
            Err(NoRetry::NotFailed),
        ),
    ] {
        assert_eq!(may_retry(&attempt, &settings), expected, "{attempt:?}");
        assert_eq!(may_retry(&attempt, &brave), expected_brave, "{attempt:?}");
    }
}

#[test]
fn the_budget_grows_with_the_requests_and_comes_back() {
    let budget = Arc::new(RetryBudget::default());
    let settings = RetrySettings::default();
    let count = |wanted: usize| (0..wanted).map_while(|_| budget.retry(&settings)).collect::<Vec<_>>();
    assert_eq!(count(10).len(), 3, "the floor");
    let requests: Vec<_> = (0..50).map(|_| budget.begin()).collect();
    let retries = count(99);
    assert_eq!((retries.len(), budget.retrying(), budget.active()), (10, 10, 50), "20 % of 50");
    drop(requests);
    assert!(budget.retry(&settings).is_none(), "no room while ten are under way");
    drop(retries);
    assert_eq!((budget.active(), budget.retrying()), (0, 0));
    assert_eq!(count(10).len(), 3);
}
