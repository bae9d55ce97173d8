//! A scrape: every metric with its name, help and labels, in one place.

use std::{
    fmt, iter,
    sync::{Arc, atomic::Ordering::Relaxed},
};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet},
    metrics::{
        MetricType::{self, Counter, Gauge},
        exemplar::Exemplar,
    },
};
use routing::{HealthState, PickReason, PolicyName, Replica};

use super::{CLASSES, FAILURES, Histogram, Metrics, ReplicaMetrics};
use crate::{Reason, decision_log, fleet::Backend, kv_events, shared::Shared};

/// Reads all metrics of a gateway.
#[derive(Debug)]
pub(crate) struct Scrape(pub(crate) Arc<Shared>);

/// Name, help, and where to look.
type Row<T> = (&'static str, &'static str, fn(&T) -> u64);
/// A replica, and what the gateway knows of it.
type Member = (Arc<Replica>, Arc<Backend>);
type HistogramRow = (&'static str, &'static str, for<'a> fn(&'a ReplicaMetrics) -> &'a Histogram);

const GATEWAY_COUNTERS: &[Row<Metrics>] = &[
    ("client_connections_accepted", "Connections accepted from clients.", |all| {
        all.connections_accepted.get()
    }),
    ("accept_errors", "Connections that could not be accepted.", |all| all.accept_errors.get()),
    ("failed_handshakes", "Connections of clients that came to no agreement on TLS.", |all| {
        all.failed_handshakes.get()
    }),
    ("retries", "Attempts repeated on another replica.", |all| all.retries.get()),
    ("retries_refused", "Attempts not repeated because the retry budget was used up.", |all| {
        all.retries_refused.get()
    }),
    (
        "replays",
        "Requests sent again because a kept connection was closed by the replica just then.",
        |all| all.replays.get(),
    ),
    ("unread_bodies", "Request bodies that could not be understood, and were routed by load.", |all| {
        all.unread_bodies.get()
    }),
    ("reloads", "Configurations taken over.", |all| all.reloads.get()),
    ("failed_reloads", "Configurations refused.", |all| all.failed_reloads.get()),
];

const GATEWAY_GAUGES: &[Row<Shared>] = &[
    ("in_flight_requests", "Requests between their head and the last byte of their answer.", |all| {
        all.budget.active()
    }),
    ("retrying_requests", "Retries under way.", |all| all.budget.retrying()),
    ("client_connections", "Open connections of clients.", |all| all.metrics.connections.get()),
    ("idle_upstream_connections", "Idle connections to replicas.", |all| all.metrics.idle_upstream.get()),
    ("buffered_body_bytes", "Request body bytes held in memory.", |all| all.metrics.buffered_bytes.get()),
    ("prefix_index_bytes", "Memory of prefix_aware's history of prompts.", |all| {
        all.fleet.router.index_bytes() as u64
    }),
    ("engine_caches_bytes", "Memory of what engines said about their caches.", |all| {
        all.fleet.router.engine_caches_bytes() as u64
    }),
];

const REPLICA_COUNTERS: &[Row<ReplicaMetrics>] = &[
    ("prompt_tokens", "Prompt tokens sent to a replica, estimated.", |all| all.prompt_tokens.get()),
    ("output_tokens", "Tokens that a replica produced; events of a stream where it gave no usage.", |all| {
        all.output_tokens.get()
    }),
    ("cached_tokens", "Prompt tokens that a replica said it found in its prefix cache.", |all| {
        all.cached_tokens.get()
    }),
    ("upstream_connects", "Connections opened to a replica.", |all| all.connects.get()),
    ("health_checks_passed", "Passed health checks.", |all| all.checks_passed.get()),
    ("health_checks_failed", "Failed health checks.", |all| all.checks_failed.get()),
    ("scrapes_failed", "Metrics pages of a replica that could not be read.", |all| all.scrapes_failed.get()),
];

/// Of answers that said how much of their prompt was cached, where the policy expected something.
const PREDICTION_COUNTERS: &[Row<Replica>] = &[
    (
        "predicted_cached_tokens",
        "Prompt tokens that a replica's cache was expected to hold, estimated.",
        |replica| replica.load.prediction().expected_tokens,
    ),
    (
        "predicted_missing_tokens",
        "Prompt tokens that were expected in a replica's cache and not found, estimated.",
        |replica| replica.load.prediction().missing_tokens,
    ),
    (
        "unpredicted_cached_tokens",
        "Prompt tokens that a replica's cache held unexpectedly, estimated.",
        |replica| replica.load.prediction().surprising_tokens,
    ),
];

const REPLICA_GAUGES: &[Row<Replica>] = &[
    ("replica_requests", "Open requests at a replica.", |replica| replica.load.snapshot().requests),
    ("replica_waiting_requests", "Open requests at a replica without a first token.", |replica| {
        replica.load.snapshot().waiting
    }),
    ("replica_pending_tokens", "Prompt tokens not yet prefilled and output tokens expected.", |replica| {
        replica.load.snapshot().pending_tokens()
    }),
    ("replica_weight", "Configured weight.", |replica| replica.spec.weight.into()),
];

const REPLICA_HISTOGRAMS: &[HistogramRow] = &[
    (
        "time_to_first_token_seconds",
        "From the head of a request to the first event of its stream that comes of the model.",
        |all| &all.first_token,
    ),
    ("request_duration_seconds", "From the head of a request to the last byte of its answer.", |all| {
        &all.duration
    }),
];

// === impl Scrape ===

impl Collector for Scrape {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let encoder = &mut encoder;
        let shared = &*self.0;
        let metrics = &shared.metrics;
        plain(encoder, GATEWAY_COUNTERS, Counter, metrics)?;
        plain(encoder, GATEWAY_GAUGES, Gauge, shared)?;
        if let Some(log) = &shared.decision_log {
            plain(encoder, decision_log::COUNTERS, Counter, &log.counts)?;
            let help = "Bytes of the decision log, older files included.";
            value(
                describe(encoder, "decision_log_bytes", help, Gauge)?,
                Gauge,
                log.counts.bytes.load(Relaxed),
            )?;
        }
        plain(encoder, kv_events::LESSON_COUNTERS, Counter, &metrics.lessons)?;
        plain(encoder, kv_events::LESSON_GAUGES, Gauge, &metrics.lessons)?;

        let help = "Requests that got no whole answer from a replica.";
        let mut family = describe(encoder, "errors", help, Counter)?;
        for &reason in Reason::ALL {
            let labels = [("reason", reason.label())];
            value(family.encode_family(&labels)?, Counter, metrics.errors(reason).get())?;
        }
        let current = shared.fleet.router.policy().name();
        let mut family = describe(encoder, "policy", "1 for the policy in force.", Gauge)?;
        for policy in PolicyName::ALL {
            let labels = [("policy", policy.label())];
            value(family.encode_family(&labels)?, Gauge, u64::from(policy == current))?;
        }
        encode_replicas(encoder, shared)
    }
}

/// What is counted for each replica.
fn encode_replicas(encoder: &mut DescriptorEncoder<'_>, shared: &Shared) -> fmt::Result {
    let members = &*shared.fleet.members();
    let help = "Requests answered, by replica and class of status; replica is empty for evenload's own.";
    let mut family = describe(encoder, "requests", help, Counter)?;
    let own = iter::once(("", &shared.metrics.own_answers));
    let theirs = members.iter().map(|(replica, backend)| (&*replica.spec.name, &backend.metrics.answers));
    for (name, answers) in own.chain(theirs) {
        for (code, answers) in CLASSES.into_iter().zip(answers) {
            value(family.encode_family(&[("replica", name), ("code", code)])?, Counter, answers.get())?;
        }
    }

    let mut split = |name, help, kind, label, values: &dyn Fn(&Member) -> Vec<(&'static str, u64)>| {
        let mut family = describe(encoder, name, help, kind)?;
        for member in members {
            for (named, number) in values(member) {
                let labels = [("replica", &*member.0.spec.name), (label, named)];
                value(family.encode_family(&labels)?, kind, number)?;
            }
        }
        Ok::<(), fmt::Error>(())
    };
    split("picks", "Picks, by replica and reason.", Counter, "reason", &|(_, backend)| {
        PickReason::ALL.iter().map(|&reason| (reason.label(), backend.metrics.picks(reason).get())).collect()
    })?;
    let help =
        "Attempts that a replica failed, repeated ones and broken streams too; these are what ejects it.";
    split("replica_failures", help, Counter, "reason", &|(_, backend)| {
        let failures = FAILURES.iter().zip(&backend.metrics.failures);
        failures.map(|(outcome, count)| (outcome.label(), count.get())).collect()
    })?;
    let now = shared.fleet.now();
    split("replica_state", "1 for the state that a replica is in.", Gauge, "state", &|(replica, _)| {
        let current = replica.health.state(now);
        HealthState::ALL.iter().map(|&state| (state.label(), u64::from(state == current))).collect()
    })?;

    per_replica(encoder, REPLICA_COUNTERS, Counter, members, |member| &member.1.metrics)?;
    per_replica(encoder, kv_events::COUNTERS, Counter, members, |member| &member.1.metrics)?;
    per_replica(encoder, PREDICTION_COUNTERS, Counter, members, |member| &*member.0)?;
    per_replica(encoder, REPLICA_GAUGES, Gauge, members, |member| &*member.0)?;
    per_replica(encoder, kv_events::GAUGES, Gauge, members, |member| &member.1.metrics)?;
    for &(name, help, read) in REPLICA_HISTOGRAMS {
        let mut family = describe(encoder, name, help, MetricType::Histogram)?;
        for (replica, backend) in members {
            let (sum, count, buckets) = read(&backend.metrics).read();
            family
                .encode_family(&[("replica", &*replica.spec.name)])?
                .encode_histogram::<NoLabelSet>(sum, count, &buckets, None)?;
        }
    }
    Ok(())
}

/// Metrics of one value, read from `source`.
fn plain<T>(
    encoder: &mut DescriptorEncoder<'_>,
    rows: &[Row<T>],
    kind: MetricType,
    source: &T,
) -> fmt::Result {
    for &(name, help, read) in rows {
        value(describe(encoder, name, help, kind)?, kind, read(source))?;
    }
    Ok(())
}

/// Metrics of one value a replica.
fn per_replica<T>(
    encoder: &mut DescriptorEncoder<'_>,
    rows: &[Row<T>],
    kind: MetricType,
    members: &[Member],
    source: fn(&Member) -> &T,
) -> fmt::Result {
    for &(name, help, read) in rows {
        let mut family = describe(encoder, name, help, kind)?;
        for member in members {
            let labels = [("replica", &*member.0.spec.name)];
            value(family.encode_family(&labels)?, kind, read(source(member)))?;
        }
    }
    Ok(())
}

fn describe<'e>(
    encoder: &'e mut DescriptorEncoder<'_>,
    name: &'e str,
    help: &str,
    kind: MetricType,
) -> Result<MetricEncoder<'e>, fmt::Error> {
    encoder.encode_descriptor(name, help, None, kind)
}

fn value(mut metric: MetricEncoder<'_>, kind: MetricType, value: u64) -> fmt::Result {
    match kind {
        Counter => metric.encode_counter(&value, None::<&Exemplar<NoLabelSet, u64>>),
        _ => metric.encode_gauge(&value),
    }
}
