//! Looking after each replica from the side: health checks, and readings of its metrics page.
//!
//! One task a replica and kind, on the control thread; it ends when the replica leaves. Intervals are jittered
//! by a fifth, so that several balancers do not ask in step. Where this process has no room for another socket nothing
//! was asked, so nothing is known. What a check or a reading means is decided in
//! `routing`; here is only when to ask, and what counts as an answer.

use std::{
    collections::HashSet,
    hash::{BuildHasher, RandomState},
    pin::pin,
    sync::Arc,
    time::{Duration, Instant},
};

use protocol::EngineMetrics;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use routing::{EngineReport, HealthState, Replica};
use tokio::{
    sync::watch,
    task::spawn_local,
    time::{sleep, timeout_at},
};

use crate::{
    Settings,
    fleet::Backend,
    probe::{self, ProbeError},
    shared::Shared,
};

/// Bytes of a health answer; its text does not matter.
const MOST_HEALTH_BYTES: usize = 64 * 1024;
/// Bytes of a metrics page. vLLM's have 100 to 300 KB.
const MOST_METRICS_BYTES: usize = 8 * 1024 * 1024;
const METRICS_PATH: &str = "/metrics";
/// Between two warnings about the same.
const WARNING_INTERVAL: Duration = Duration::from_secs(10);
/// Between two look-ups of a name that no check looks up.
const RESOLVE_INTERVAL: Duration = Duration::from_secs(10);
/// Time for a metrics page.
const METRICS_TIMEOUT: Duration = Duration::from_secs(3);

/// Watches all replicas, also those that join later.
pub(crate) async fn watch(shared: Arc<Shared>) {
    let mut watched = HashSet::new();
    loop {
        let mut changed = pin!(shared.fleet.changed.notified());
        changed.as_mut().enable();
        let members = shared.fleet.members();
        watched.retain(|&id| shared.fleet.backend(id).is_some());
        for (_, backend) in members {
            if watched.insert(backend.id) {
                spawn_local(check(Arc::clone(&shared), Arc::clone(&backend)));
                spawn_local(scrape(Arc::clone(&shared), backend));
            }
        }
        changed.await;
    }
}

/// Checks one replica until it leaves. Without checks its name is looked up all the same, in case nobody else does.
async fn check(shared: Arc<Shared>, backend: Arc<Backend>) {
    let mut random = random(&backend);
    if shared.settings.checks.interval.is_zero() {
        while shared.fleet.backend(backend.id).is_some() && backend.has_name() {
            backend.resolve().await;
            sleep(RESOLVE_INTERVAL.mul_f64(random.random_range(0.8..1.2))).await;
        }
        return;
    }
    let (mut is_first, mut warned) = (true, None::<Instant>);
    let mut applied = shared.applied.subscribe();
    while let Some(replica) = shared.fleet.replica(backend.id) {
        let checks = &shared.in_force.load_full().checks;
        let before = replica.health.state(shared.fleet.now());
        let answer =
            probe::get(&shared.security, &backend, &checks.path, checks.timeout, MOST_HEALTH_BYTES).await;
        let now = shared.fleet.now();
        let result = match answer {
            Ok((status, _)) if status.is_success() => Some(Ok(())),
            Ok((status, _)) => Some(Err(format!("{} answers {status}", checks.path))),
            // Engines starve their health check while they prefill: one that delivers tokens is alive.
            Err(ProbeError::TimedOut) if delivers(&replica, now, checks.interval) => None,
            Err(error @ ProbeError::OwnWant(_)) => {
                if warned.is_none_or(|then| then.elapsed() >= WARNING_INTERVAL) {
                    warned = Some(Instant::now());
                    tracing::warn!(replica = %replica.spec.name, %error, "a replica is not checked");
                }
                None
            }
            Err(error) => Some(Err(error.to_string())),
        };
        if let Some(result) = result {
            let passed = result.is_ok();
            let count = if passed { &backend.metrics.checks_passed } else { &backend.metrics.checks_failed };
            count.add(1);
            replica.health.record_check(passed, now);
            tell(&replica, before, replica.health.state(now), result.err().as_deref());
        }
        if std::mem::take(&mut is_first) {
            shared.first_check_is_over();
        }
        let in_transition = replica.health.in_transition();
        let interval = |settings: &Settings| match in_transition {
            true => settings.checks.fast_interval,
            false => settings.checks.interval,
        };
        rest(&shared, &mut applied, random.random_range(0.8..1.2), interval).await;
    }
}

/// Waits for a `share` of the interval in force, also of one that comes into force meanwhile.
async fn rest(
    shared: &Shared,
    applied: &mut watch::Receiver<()>,
    share: f64,
    interval: impl Fn(&Settings) -> Duration,
) {
    let begun = tokio::time::Instant::now();
    let end = || begun + interval(&shared.in_force.load()).mul_f64(share);
    while timeout_at(end(), applied.changed()).await.is_ok() {}
}

fn random(backend: &Backend) -> ChaCha8Rng {
    // Process numbers tell nothing apart: in containers every one is the first.
    ChaCha8Rng::seed_from_u64(RandomState::new().hash_one(backend.id))
}

fn delivers(replica: &Replica, now: Duration, within: Duration) -> bool {
    replica.load.last_produced().is_some_and(|last| now.saturating_sub(last) <= within)
}

fn tell(replica: &Replica, before: HealthState, after: HealthState, problem: Option<&str>) {
    let name = &replica.spec.name;
    if before == after {
        return;
    }
    match problem {
        Some(problem) => {
            tracing::warn!(replica = %name, state = after.label(), problem, "replica state changed")
        }
        None => tracing::info!(replica = %name, state = after.label(), "replica state changed"),
    }
}

/// Reads one replica's metrics page until it leaves. What cannot be read stays unknown; the last reading grows
/// stale by itself.
async fn scrape(shared: Arc<Shared>, backend: Arc<Backend>) {
    if shared.settings.scrape_interval.is_zero() {
        return;
    }
    let mut random = random(&backend);
    let mut readable = true;
    let mut applied = shared.applied.subscribe();
    while let Some(replica) = shared.fleet.replica(backend.id) {
        let problem =
            match probe::get(&shared.security, &backend, METRICS_PATH, METRICS_TIMEOUT, MOST_METRICS_BYTES)
                .await
            {
                Ok((status, page)) if status.is_success() => {
                    let metrics = EngineMetrics::read(&page);
                    if let Some(tokens) = cache_tokens(&metrics) {
                        replica.set_cache_tokens(tokens);
                    }
                    match report(&metrics) {
                        Some(report) => {
                            replica.report(report, shared.fleet.now());
                            None
                        }
                        None => Some("the page has no queue length".to_owned()),
                    }
                }
                Ok((status, _)) => Some(format!("{METRICS_PATH} answers {status}")),
                Err(error) => Some(error.to_string()),
            };
        if let Some(problem) = &problem {
            backend.metrics.scrapes_failed.add(1);
            if readable {
                tracing::warn!(replica = %replica.spec.name, problem, "engine metrics are not known");
            }
        } else if !readable {
            tracing::info!(replica = %replica.spec.name, "engine metrics are known again");
        }
        readable = problem.is_none();
        rest(&shared, &mut applied, random.random_range(0.8..1.2), |settings| settings.scrape_interval).await;
    }
}

fn report(metrics: &EngineMetrics) -> Option<EngineReport> {
    Some(EngineReport::new(whole(metrics.running?)?, whole(metrics.waiting?)?, metrics.kv_cache_usage))
}

fn cache_tokens(metrics: &EngineMetrics) -> Option<u64> {
    whole(metrics.block_size? * metrics.kv_blocks?)
}

/// A gauge as a count; nonsense is unknown.
fn whole(value: f64) -> Option<u64> {
    (value.is_finite() && (0.0..1e15).contains(&value)).then_some(value as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_give_a_report_or_nothing() {
        let page = b"vllm:num_requests_running{model_name=\"m\"} 3.0\nvllm:num_requests_waiting 2\n";
        assert_eq!(report(&EngineMetrics::read(page)), Some(EngineReport::new(3, 2, None)));
        for bad in [
            &b""[..],
            b"vllm:num_requests_running 3\n",
            b"vllm:num_requests_running NaN\nvllm:num_requests_waiting 1\n",
            b"vllm:num_requests_running +Inf\nvllm:num_requests_waiting 1\n",
            b"vllm:num_requests_running -1\nvllm:num_requests_waiting 1\n",
            b"\xff\xfe not a page",
        ] {
            assert_eq!(report(&EngineMetrics::read(bad)), None);
        }
    }
}
