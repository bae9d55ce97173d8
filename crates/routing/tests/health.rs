//! The health of replicas, as picks see it.

#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod common;

use std::time::Duration;

use common::{generator, name, router, seconds, specs};
use routing::{HealthSettings, HealthState, NoReplica, Outcome, Pick, PickReason, Query, Router};

fn on(pool: &Router, replica: usize, now: Duration) -> Option<Pick> {
    let others: Vec<u64> = pool
        .replicas()
        .iter()
        .enumerate()
        .filter(|(index, _)| *index != replica)
        .map(|(_, other)| other.id)
        .collect();
    pool.pick(&Query { tried: &others, ..Query::default() }, now, &mut generator(1)).ok()
}

/// Lets `count` requests on the replica end this way.
fn outcomes(pool: &Router, replica: usize, outcome: Outcome, count: usize, now: Duration) {
    let picks: Vec<Pick> = (0..count).map(|_| on(pool, replica, now).unwrap()).collect();
    for pick in picks {
        pick.lease.settle(outcome, now);
    }
}

fn state(pool: &Router, replica: usize, now: Duration) -> HealthState {
    pool.replicas()[replica].health.state(now)
}

fn names(pool: &Router, now: Duration) -> String {
    let mut random = generator(5);
    let mut names: Vec<String> =
        (0..60).map(|_| name(&pool.pick(&Query::default(), now, &mut random).unwrap())).collect();
    names.sort();
    names.dedup();
    names.concat()
}

#[test]
fn checks_have_hysteresis() {
    let pool = router("random", specs(&["a", "b"]));
    pool.set_health(HealthSettings { wait_for_check: true, ..HealthSettings::default() }).unwrap();
    let replicas = pool.replicas();
    let now = seconds(1);
    assert_eq!(
        pool.pick(&Query::default(), now, &mut generator(1)).err(),
        Some(NoReplica::NoneHealthy),
        "nobody is routed to before a check passed"
    );
    let check = |passed: bool| {
        replicas[0].health.record_check(passed, now);
        (replicas[0].health.state(now), replicas[0].health.in_transition())
    };
    use HealthState::{Healthy, Unhealthy, Unknown};
    assert_eq!(check(false), (Unknown, true));
    assert_eq!(check(true), (Healthy, false), "one suffices the first time");
    assert_eq!(check(false), (Healthy, true));
    assert_eq!(check(false), (Healthy, true));
    assert_eq!(check(true), (Healthy, false));
    assert_eq!(check(false), (Healthy, true));
    assert_eq!(check(false), (Healthy, true));
    assert_eq!(check(false), (Unhealthy, false), "three in a row");
    assert_eq!(check(true), (Unhealthy, true));
    assert_eq!(check(false), (Unhealthy, false));
    assert_eq!(check(true), (Unhealthy, true));
    assert_eq!(check(true), (Healthy, false), "two in a row");
}

#[test]
fn replicas_that_all_join_at_once_are_used_until_a_check_of_theirs_is_over() {
    let pool = router("random", specs(&["a"]));
    pool.set_health(HealthSettings { wait_for_check: true, ..HealthSettings::default() }).unwrap();
    let now = seconds(1);
    pool.replicas()[0].health.record_check(true, now);
    pool.set_replicas(specs(&["a", "b", "c"]));
    assert_eq!(names(&pool, now), "a", "those that joined wait for their checks");
    pool.set_replicas(specs(&["b", "c"]));
    assert_eq!(names(&pool, now), "bc", "nobody else is left");
    assert_eq!(on(&pool, 0, now).unwrap().reason, PickReason::Fallback);
    pool.replicas()[0].health.record_check(false, now);
    assert_eq!(names(&pool, now), "c", "one failed check is worse than none");
    pool.replicas()[0].health.record_check(true, now);
    assert_eq!(names(&pool, now), "b");
}

#[test]
fn without_checks_a_new_replica_is_used_and_a_failed_check_still_counts() {
    let pool = router("random", specs(&["a", "b"]));
    assert_eq!(names(&pool, seconds(0)), "ab");
    for _ in 0..3 {
        pool.replicas()[0].health.record_check(false, seconds(0));
    }
    assert_eq!(names(&pool, seconds(0)), "b");
    for _ in 0..3 {
        pool.replicas()[1].health.record_check(false, seconds(0));
    }
    let none = pool.pick(&Query::default(), seconds(0), &mut generator(1)).err();
    assert_eq!(none, Some(NoReplica::NoneHealthy), "dead replicas are never used");
}

#[test]
fn failures_in_a_row_eject_and_a_probe_readmits() {
    let pool = router("random", specs(&["a", "b"]));
    let now = seconds(100);
    outcomes(&pool, 0, Outcome::ServerError, 4, now);
    outcomes(&pool, 0, Outcome::Answered, 1, now);
    outcomes(&pool, 0, Outcome::ConnectFailed, 4, now);
    outcomes(&pool, 0, Outcome::Abandoned, 9, now);
    assert_eq!(state(&pool, 0, now), HealthState::Unknown);
    outcomes(&pool, 0, Outcome::TimedOut, 1, now);
    assert_eq!(state(&pool, 0, now), HealthState::Ejected);
    assert_eq!(names(&pool, now), "b");
    // Half of the base at least, the base at most.
    assert_eq!(state(&pool, 0, now + Duration::from_millis(2499)), HealthState::Ejected);
    let later = now + seconds(5);
    assert_eq!(state(&pool, 0, later), HealthState::Probing);
    let probe = on(&pool, 0, later).unwrap();
    assert_eq!(names(&pool, later), "b", "one probe at a time");
    drop(probe);
    let probe = on(&pool, 0, later).unwrap();
    assert_eq!(probe.reason, PickReason::OnlyCandidate, "an abandoned probe makes room for the next");
    probe.lease.settle(Outcome::Answered, later);
    assert_eq!(state(&pool, 0, later), HealthState::Unknown);
    assert_eq!(names(&pool, later + seconds(60)), "ab");
}

#[test]
fn a_probe_readmits_when_its_answer_begins() {
    let pool = router("random", specs(&["a", "b"]));
    let now = seconds(100);
    outcomes(&pool, 0, Outcome::Broken, 5, now);
    let later = now + seconds(5);
    let mut probe = on(&pool, 0, later).unwrap();
    probe.lease.answering(later);
    assert_eq!(state(&pool, 0, later), HealthState::Unknown);
    assert_eq!(names(&pool, later + seconds(60)), "ab", "while the answer goes on");
    probe.lease.settle(Outcome::Broken, later);
    assert_eq!(state(&pool, 0, later), HealthState::Unknown, "one failure as any other");
    outcomes(&pool, 0, Outcome::Broken, 3, later);
    assert_eq!(state(&pool, 0, later), HealthState::Unknown);
    outcomes(&pool, 0, Outcome::Broken, 1, later);
    assert_eq!(state(&pool, 0, later), HealthState::Ejected, "the fifth in a row");
}

#[test]
fn ejections_double_to_the_cap_and_start_over_after_good_times() {
    let pool = router("random", specs(&["a", "b"]));
    let mut now = seconds(1000);
    let mut lengths = Vec::new();
    outcomes(&pool, 0, Outcome::Broken, 5, now);
    for _ in 0..9 {
        let start = now;
        while state(&pool, 0, now) == HealthState::Ejected {
            now += Duration::from_millis(500);
        }
        lengths.push((now - start).as_secs_f64());
        on(&pool, 0, now).unwrap().lease.settle(Outcome::ConnectFailed, now);
    }
    for (k, length) in lengths.iter().enumerate() {
        let longest = (5.0 * 2_f64.powi(k as i32)).min(300.0);
        assert!((longest / 2.0..longest + 0.5).contains(length), "ejection {k}: {length} s");
    }
    now += seconds(400);
    on(&pool, 0, now).unwrap().lease.settle(Outcome::Answered, now);
    now += seconds(301);
    outcomes(&pool, 0, Outcome::Broken, 5, now);
    assert_eq!(state(&pool, 0, now + seconds(5)), HealthState::Probing, "short again");
}

#[test]
fn a_low_share_of_successes_ejects() {
    let pool = router("random", specs(&["a", "b"]));
    let now = seconds(50);
    for _ in 0..4 {
        outcomes(&pool, 0, Outcome::Answered, 3, now);
        outcomes(&pool, 0, Outcome::ServerError, 1, now);
    }
    assert_eq!(state(&pool, 0, now), HealthState::Unknown, "16 results are too few");
    let later = now + seconds(31);
    outcomes(&pool, 0, Outcome::Answered, 3, later);
    outcomes(&pool, 0, Outcome::ServerError, 1, later);
    assert_eq!(state(&pool, 0, later), HealthState::Unknown, "the first 16 are forgotten");
    outcomes(&pool, 0, Outcome::Answered, 12, later);
    outcomes(&pool, 0, Outcome::ServerError, 3, later);
    assert_eq!(state(&pool, 0, later), HealthState::Unknown, "15 of 19");
    outcomes(&pool, 0, Outcome::ServerError, 1, later);
    assert_eq!(state(&pool, 0, later), HealthState::Ejected, "15 of 20 are fewer than 80 %");
}

#[test]
fn a_longer_window_counts_from_the_change_on() {
    let pool = router("random", specs(&["a", "b"]));
    let now = seconds(86_400);
    outcomes(&pool, 0, Outcome::Answered, 2000, now);
    pool.set_health(HealthSettings { window: seconds(60), ..HealthSettings::default() }).unwrap();
    let later = now + seconds(3600);
    for _ in 0..10 {
        assert_eq!(state(&pool, 0, later), HealthState::Unknown);
        outcomes(&pool, 0, Outcome::Answered, 1, later);
        outcomes(&pool, 0, Outcome::ServerError, 1, later);
    }
    assert_eq!(state(&pool, 0, later), HealthState::Ejected, "half of 20; what was an hour ago is forgotten");
}

#[test]
fn balancers_do_not_probe_at_the_same_moment() {
    let ends = |scatter| {
        let pool = router("random", specs(&["a", "b"]));
        pool.scatter(scatter);
        outcomes(&pool, 0, Outcome::Broken, 5, seconds(1));
        let ejected =
            |ms: &u64| state(&pool, 0, seconds(1) + Duration::from_millis(*ms)) == HealthState::Ejected;
        (0..6000).take_while(ejected).count()
    };
    let times: std::collections::BTreeSet<usize> = (0..8).map(ends).collect();
    assert!(times.len() >= 7 && times.iter().all(|ms| (2500..=5000).contains(ms)), "{times:?}");
}

#[test]
fn ejections_depend_on_names_and_not_on_what_went_before() {
    let end = |name| {
        let pool = router("random", specs(&[name, "b"]));
        outcomes(&pool, 0, Outcome::Broken, 5, seconds(1));
        let ejected =
            |ms: &u64| state(&pool, 0, seconds(1) + Duration::from_millis(*ms)) == HealthState::Ejected;
        (0..6000).take_while(ejected).count()
    };
    assert_eq!((end("a"), end("c")), (end("a"), end("c")));
    assert_ne!(end("a"), end("c"), "replicas that fail together are not probed together");
}

#[test]
fn busy_is_not_broken() {
    let pool = router("random", specs(&["a", "b"]));
    let now = seconds(10);
    let busy = |wait| Outcome::Busy { retry_after: Some(seconds(wait)) };
    outcomes(&pool, 0, busy(20), 12, now);
    assert_eq!(state(&pool, 0, now), HealthState::Busy);
    assert_eq!(names(&pool, now + seconds(19)), "b");
    assert_eq!(names(&pool, now + seconds(20)), "ab");
    outcomes(&pool, 0, busy(100_000), 1, now);
    assert_eq!(names(&pool, now + seconds(59)), "b");
    assert_eq!(names(&pool, now + seconds(60)), "ab", "nobody is avoided for longer than the cap");
    outcomes(&pool, 1, busy(100_000), 1, now + seconds(60));
    outcomes(&pool, 0, busy(100_000), 1, now + seconds(60));
    let mut random = generator(1);
    let both = pool.pick(&Query::default(), now + seconds(61), &mut random).unwrap();
    assert_eq!(both.reason, PickReason::Fallback);
    outcomes(&pool, 0, busy(0), 19, now + seconds(61));
    assert_eq!(state(&pool, 0, now + seconds(61)), HealthState::Ejected, "but it counts in the share");
}

#[test]
fn a_single_replica_is_never_cut_off_by_ejection() {
    let pool = router("least_requests", specs(&["a"]));
    outcomes(&pool, 0, Outcome::ConnectFailed, 50, seconds(1));
    let pick = on(&pool, 0, seconds(1)).unwrap();
    assert_eq!((name(&pick).as_str(), pick.reason), ("a", PickReason::Fallback));
}

#[test]
fn what_was_under_way_before_an_ejection_does_not_prolong_it() {
    let pool = router("random", specs(&["a", "b"]));
    let now = seconds(1);
    outcomes(&pool, 0, Outcome::Broken, 50, now);
    assert_eq!(state(&pool, 0, now + seconds(5)), HealthState::Probing, "one ejection, not ten");
}

#[test]
fn newcomers_and_the_recovered_start_slowly() {
    let pool = router("random", specs(&["a"]));
    pool.set_replicas(specs(&["a", "b"]));
    let share_of_b = |now: Duration| {
        let mut random = generator(11);
        let picks = (0..2000).map(|_| name(&pool.pick(&Query::default(), now, &mut random).unwrap()));
        picks.filter(|name| name == "b").count()
    };
    let start = seconds(500);
    let first = share_of_b(start);
    assert!((130..235).contains(&first), "a tenth of its weight: {first} of 2000");
    let half = share_of_b(start + seconds(15));
    assert!((580..755).contains(&half), "half of its weight: {half} of 2000");
    let full = share_of_b(start + seconds(30));
    assert!((900..1100).contains(&full), "{full} of 2000");
    for passed in [false, false, false, true, true] {
        pool.replicas()[1].health.record_check(passed, start + seconds(60));
    }
    // Its first passed check was its first ever, so that one sufficed.
    let again = share_of_b(start + seconds(60));
    assert!((130..235).contains(&again), "{again} of 2000");
}
