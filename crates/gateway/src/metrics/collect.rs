//! A scrape: every metric with its name, help and labels, in one place.

use std::{
    fmt,
    sync::{Arc, atomic::Ordering::Relaxed},
};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeLabelSet, MetricEncoder, NoLabelSet},
    metrics::{MetricType, exemplar::Exemplar},
};
use routing::{HealthState, PickReason, PolicyName, Replica};

use super::{CLASSES, FAILURES, Histogram, Metrics, ReplicaMetrics};
use crate::{Reason, decision_log, fleet::Backend, kv_events, shared::Shared};

/// Reads all metrics of a gateway.
#[derive(Debug)]
pub(crate) struct Scrape(pub(crate) Arc<Shared>);

/// Name, help, and where to look.
type Row<T> = (&'static str, &'static str, fn(&T) -> u64);
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
        let shared = &*self.0;
        let metrics = &shared.metrics;
        let replicas: Vec<(Arc<Replica>, Arc<Backend>)> = shared.fleet.members();
        for &(name, help, read) in GATEWAY_COUNTERS {
            let mut family = describe(&mut encoder, name, help, MetricType::Counter)?;
            family.encode_counter(&read(metrics), None::<&Exemplar<NoLabelSet, u64>>)?;
        }
        for &(name, help, read) in GATEWAY_GAUGES {
            let mut family = describe(&mut encoder, name, help, MetricType::Gauge)?;
            family.encode_gauge(&read(shared))?;
        }

        if let Some(log) = &shared.decision_log {
            for &(name, help, read) in decision_log::COUNTERS {
                let mut family = describe(&mut encoder, name, help, MetricType::Counter)?;
                family.encode_counter(&read(&log.counts), None::<&Exemplar<NoLabelSet, u64>>)?;
            }
            let help = "Bytes of the decision log, older files included.";
            let mut family = describe(&mut encoder, "decision_log_bytes", help, MetricType::Gauge)?;
            family.encode_gauge(&log.counts.bytes.load(Relaxed))?;
        }
        for &(name, help, read) in kv_events::LESSON_COUNTERS {
            let mut family = describe(&mut encoder, name, help, MetricType::Counter)?;
            family.encode_counter(&read(&metrics.lessons), None::<&Exemplar<NoLabelSet, u64>>)?;
        }
        for &(name, help, read) in kv_events::LESSON_GAUGES {
            let mut family = describe(&mut encoder, name, help, MetricType::Gauge)?;
            family.encode_gauge(&read(&metrics.lessons))?;
        }

        let help = "Requests answered, by replica and class of status; replica is empty for evenload's own.";
        let mut family = describe(&mut encoder, "requests", help, MetricType::Counter)?;
        for (code, answers) in CLASSES.into_iter().zip(&metrics.own_answers) {
            counter(&mut family, &[("replica", ""), ("code", code)], answers.get())?;
        }
        for (replica, backend) in &replicas {
            for (code, answers) in CLASSES.into_iter().zip(&backend.metrics.answers) {
                counter(&mut family, &[("replica", &*replica.spec.name), ("code", code)], answers.get())?;
            }
        }

        let help = "Requests that got no whole answer from a replica.";
        let mut family = describe(&mut encoder, "errors", help, MetricType::Counter)?;
        for &reason in Reason::ALL {
            counter(&mut family, &[("reason", reason.label())], metrics.errors(reason).get())?;
        }

        let mut family =
            describe(&mut encoder, "picks", "Picks, by replica and reason.", MetricType::Counter)?;
        for (replica, backend) in &replicas {
            for reason in PickReason::ALL {
                let labels = [("replica", &*replica.spec.name), ("reason", reason.label())];
                counter(&mut family, &labels, backend.metrics.picks(reason).get())?;
            }
        }

        let help =
            "Attempts that a replica failed, repeated ones and broken streams too; these are what ejects it.";
        let mut family = describe(&mut encoder, "replica_failures", help, MetricType::Counter)?;
        for (replica, backend) in &replicas {
            for (outcome, failures) in FAILURES.into_iter().zip(&backend.metrics.failures) {
                let labels = [("replica", &*replica.spec.name), ("reason", outcome.label())];
                counter(&mut family, &labels, failures.get())?;
            }
        }

        for &(name, help, read) in REPLICA_COUNTERS.iter().chain(kv_events::COUNTERS) {
            let mut family = describe(&mut encoder, name, help, MetricType::Counter)?;
            for (replica, backend) in &replicas {
                let labels = [("replica", &*replica.spec.name)];
                counter(&mut family, &labels, read(&backend.metrics))?;
            }
        }
        for &(name, help, read) in PREDICTION_COUNTERS {
            let mut family = describe(&mut encoder, name, help, MetricType::Counter)?;
            for (replica, _) in &replicas {
                counter(&mut family, &[("replica", &*replica.spec.name)], read(replica))?;
            }
        }
        for &(name, help, read) in REPLICA_GAUGES {
            let mut family = describe(&mut encoder, name, help, MetricType::Gauge)?;
            for (replica, _) in &replicas {
                gauge(&mut family, &[("replica", &*replica.spec.name)], read(replica))?;
            }
        }
        for &(name, help, read) in kv_events::GAUGES {
            let mut family = describe(&mut encoder, name, help, MetricType::Gauge)?;
            for (replica, backend) in &replicas {
                gauge(&mut family, &[("replica", &*replica.spec.name)], read(&backend.metrics))?;
            }
        }
        for &(name, help, read) in REPLICA_HISTOGRAMS {
            let mut family = describe(&mut encoder, name, help, MetricType::Histogram)?;
            for (replica, backend) in &replicas {
                let (sum, count, buckets) = read(&backend.metrics).read();
                family
                    .encode_family(&[("replica", &*replica.spec.name)])?
                    .encode_histogram::<NoLabelSet>(sum, count, &buckets, None)?;
            }
        }

        let now = shared.fleet.now();
        let help = "1 for the state that a replica is in.";
        let mut family = describe(&mut encoder, "replica_state", help, MetricType::Gauge)?;
        for (replica, _) in &replicas {
            let current = replica.health.state(now);
            for state in HealthState::ALL {
                let labels = [("replica", &*replica.spec.name), ("state", state.label())];
                gauge(&mut family, &labels, u64::from(state == current))?;
            }
        }

        let current = shared.fleet.router.policy().name();
        let mut family = describe(&mut encoder, "policy", "1 for the policy in force.", MetricType::Gauge)?;
        for policy in PolicyName::ALL {
            gauge(&mut family, &[("policy", policy.label())], u64::from(policy == current))?;
        }
        Ok(())
    }
}

fn describe<'e>(
    encoder: &'e mut DescriptorEncoder<'_>,
    name: &'e str,
    help: &str,
    kind: MetricType,
) -> Result<MetricEncoder<'e>, fmt::Error> {
    encoder.encode_descriptor(name, help, None, kind)
}

fn counter(family: &mut MetricEncoder<'_>, labels: &impl EncodeLabelSet, value: u64) -> fmt::Result {
    family.encode_family(labels)?.encode_counter(&value, None::<&Exemplar<NoLabelSet, u64>>)
}

fn gauge(family: &mut MetricEncoder<'_>, labels: &impl EncodeLabelSet, value: u64) -> fmt::Result {
    family.encode_family(labels)?.encode_gauge(&value)
}
