//! The operators' side, on its own address: metrics, the fleet, decisions explained, and changes.
//!
//! It may be reached by those who may change the balancer; there is no authentication of its own.

use std::{collections::BTreeSet, sync::Arc};

use axum::{
    Json, Router,
    body::Bytes,
    extract::{DefaultBodyLimit, FromRequest, Path, Request, State},
    http::{HeaderMap, StatusCode, header::CONTENT_TYPE},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use prometheus_client::{encoding::text::encode, registry::Registry};
use protocol::Endpoint;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use routing::{HealthState, LoadSnapshot, PolicySettings, session_key};
use serde::{Deserialize, Serialize};

use crate::{
    Reason,
    forward::query::Meaning,
    metrics::Scrape,
    shared::{Shared, Stage},
    worker::Scratch,
};

const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
/// How long ago an engine may have reported to be quoted, in intervals of asking.
const QUOTED_INTERVALS: u32 = 3;

/// The state of the fleet, as `GET /api/fleet` tells it.
#[derive(Debug, Serialize)]
struct FleetView {
    policy: Arc<PolicySettings>,
    draining: bool,
    in_flight_requests: u64,
    replicas: Vec<ReplicaView>,
}

#[derive(Debug, Serialize)]
struct ReplicaView {
    url: Arc<str>,
    state: HealthState,
    weight: u32,
    adapters: Option<BTreeSet<String>>,
    load: LoadSnapshot,
    pending_tokens: u64,
    /// Of all picks since the start.
    share_of_picks: f64,
    /// What the engine says, where it said so lately.
    engine: Option<EngineView>,
}

#[derive(Debug, Serialize)]
struct EngineView {
    running: u64,
    waiting: u64,
}

/// Which replica a change is about.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Named {
    url: String,
}

/// The body of a request; what cannot be read is said in the usual shape.
struct Posted(Bytes);

impl<S: Send + Sync> FromRequest<S> for Posted {
    type Rejection = Response;

    async fn from_request(request: Request, state: &S) -> Result<Self, Response> {
        Bytes::from_request(request, state).await.map(Self).map_err(|rejection| {
            let reason = match rejection.status() {
                StatusCode::PAYLOAD_TOO_LARGE => Reason::BodyTooLarge,
                _ => Reason::BodyBroken,
            };
            reason.response(rejection.body_text()).map(axum::body::Body::from)
        })
    }
}

/// The routes of the operators' side.
pub(crate) fn routes(shared: Arc<Shared>) -> Router {
    let mut registry = Registry::with_prefix("evenload");
    registry.register_collector(Box::new(Scrape(Arc::clone(&shared))));
    let registry = Arc::new(registry);
    // What would be served can be explained.
    let explained = usize::try_from(shared.settings.limits.max_body).unwrap_or(usize::MAX);
    Router::new()
        .route("/metrics", get(move || metrics(Arc::clone(&registry))))
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .route("/api/fleet", get(fleet))
        .route("/api/explain/{*path}", post(explain).layer(DefaultBodyLimit::max(explained)))
        .route("/api/policy", get(policy).put(set_policy))
        .route("/api/replicas/drain", post(|state, body| set_draining(state, body, true)))
        .route("/api/replicas/resume", post(|state, body| set_draining(state, body, false)))
        .fallback(|| async { problem(StatusCode::NOT_FOUND, "not_found", "there is nothing at this path") })
        .with_state(shared)
}

async fn metrics(registry: Arc<Registry>) -> Response {
    let mut page = String::new();
    match encode(&mut page, &registry) {
        Ok(()) => ([(CONTENT_TYPE, OPEN_METRICS)], page).into_response(),
        Err(error) => problem(StatusCode::INTERNAL_SERVER_ERROR, "internal", &error.to_string()),
    }
}

async fn ready(State(shared): State<Arc<Shared>>) -> Response {
    if shared.is_ready() {
        return "ready\n".into_response();
    }
    Reason::NoReplica.response("no replica can take requests now").map(axum::body::Body::from)
}

async fn fleet(State(shared): State<Arc<Shared>>) -> Json<FleetView> {
    let now = shared.fleet.now();
    let replicas = shared.fleet.router.replicas();
    let picks: u64 = replicas.iter().map(|replica| replica.load.snapshot().picked).sum();
    let stale_after = shared.in_force.load().scrape_interval * QUOTED_INTERVALS;
    let replicas = replicas
        .iter()
        .map(|replica| {
            let load = replica.load.snapshot();
            let report = replica.reported.latest(now, stale_after);
            ReplicaView {
                url: Arc::clone(&replica.spec.name),
                state: replica.health.state(now),
                weight: replica.spec.weight,
                adapters: replica.spec.adapters.clone(),
                load,
                pending_tokens: load.pending_tokens(),
                share_of_picks: if picks == 0 { 0.0 } else { load.picked as f64 / picks as f64 },
                engine: report.map(|report| EngineView { running: report.running, waiting: report.waiting }),
            }
        })
        .collect();
    Json(FleetView {
        policy: shared.fleet.router.policy(),
        draining: *shared.stage.borrow() != Stage::Running,
        in_flight_requests: shared.budget.active(),
        replicas,
    })
}

async fn policy(State(shared): State<Arc<Shared>>) -> Json<Arc<PolicySettings>> {
    Json(shared.fleet.router.policy())
}

/// Where a request to this path, with this body and these headers, would go now, and why. It goes nowhere.
async fn explain(
    State(shared): State<Arc<Shared>>,
    Path(path): Path<String>,
    headers: HeaderMap,
    Posted(body): Posted,
) -> Response {
    let endpoint = Endpoint::from_path(&format!("/{path}"));
    let session = |name: &str| headers.get(name).map(|value| session_key(value.as_bytes()));
    let meaning = Meaning::read(&shared, &mut Scratch::default(), endpoint, session, &body);
    if let Some(error) = &meaning.unread {
        return problem(StatusCode::BAD_REQUEST, "invalid_body", error);
    }
    let now = shared.fleet.now();
    let mut random = ChaCha8Rng::seed_from_u64(now.as_nanos() as u64);
    Json(shared.fleet.router.explain(&meaning.query(&[]), now, &mut random)).into_response()
}

async fn set_policy(State(shared): State<Arc<Shared>>, Posted(body): Posted) -> Response {
    let parsed = serde_json::from_slice::<PolicySettings>(&body).map_err(|error| error.to_string());
    match parsed.and_then(|policy| shared.fleet.router.set_policy(policy).map_err(|error| error.to_string()))
    {
        Ok(()) => {
            let policy = shared.fleet.router.policy();
            tracing::info!(policy = policy.name().label(), "policy changed");
            Json(policy).into_response()
        }
        Err(error) => problem(StatusCode::BAD_REQUEST, "invalid_policy", &error),
    }
}

async fn set_draining(State(shared): State<Arc<Shared>>, Posted(body): Posted, draining: bool) -> Response {
    let named: Named = match serde_json::from_slice(&body) {
        Ok(named) => named,
        Err(error) => return problem(StatusCode::BAD_REQUEST, "invalid_body", &error.to_string()),
    };
    let url = named.url.trim_end_matches('/');
    let Some(replica) =
        shared.fleet.router.replicas().iter().find(|replica| &*replica.spec.name == url).cloned()
    else {
        return problem(StatusCode::NOT_FOUND, "unknown_replica", &format!("{url} is not a replica"));
    };
    replica.health.set_draining(draining);
    tracing::info!(replica = url, draining, "replica told to drain or resume");
    StatusCode::NO_CONTENT.into_response()
}

fn problem(status: StatusCode, code: &str, message: &str) -> Response {
    let body = protocol::ErrorBody::new("invalid_request_error", code, message).to_json();
    (status, [(CONTENT_TYPE, "application/json")], body).into_response()
}
