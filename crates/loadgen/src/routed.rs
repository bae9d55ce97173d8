//! The balancer's policies as URL strategies: the same router that `evenload serve` uses, inside the load generator.
//!
//! Every request holds a lease, so loads are exact; answers teach the router what they teach the balancer. A target
//! that keeps failing is ejected, as the balancer would: without that, a dead target would look like the one with
//! the least load and draw all requests to it. What is random in a pick follows from the seed and the request's
//! place in the plan, not from the thread that sends it.

use std::time::{Duration, Instant};

use protocol::{BLOCK_TOKENS, Endpoint, RequestView, Usage, block_hashes, estimate_tokens};
use rand_chacha::{ChaCha8Rng, rand_core::SeedableRng};
use report::Outcome;
use routing::{
    EngineReport, Lease, Outcome as LeaseOutcome, PolicySettings, PrefixKey, PrefixNeed, Query, ReplicaSpec,
    Router, SettingsError, session_key,
};
use workload::Request;

use crate::{Choice, Features, Guard, RouteKey, Targets, UrlChooser};

/// Chooses targets by a policy of the balancer.
#[derive(Debug)]
pub struct Routed {
    router: Router,
    /// For each target, the replicas that are not it: how a pick is held to a target.
    others: Vec<Vec<u64>>,
    prefix: Option<PrefixNeed>,
    blocks: bool,
    seed: u64,
    epoch: Instant,
}

/// A request's lease.
#[derive(Debug)]
struct Held {
    lease: Lease,
    epoch: Instant,
}

impl Routed {
    /// The policy over these targets.
    pub fn new(policy: PolicySettings, targets: &Targets, seed: u64) -> Result<Self, SettingsError> {
        let needs = policy.needs();
        let (prefix, blocks) = (needs.prefix, needs.blocks);
        // Several URLs of one name would be one replica: each gets its place in its name.
        let specs =
            targets.names().enumerate().map(|(place, name)| ReplicaSpec::new(format!("{name}#{place}")));
        let router = Router::new(policy, specs.collect())?;
        let ids: Vec<u64> = router.replicas().iter().map(|replica| replica.id).collect();
        let others = |own: &u64| ids.iter().copied().filter(|id| id != own).collect();
        Ok(Self {
            others: ids.iter().map(others).collect(),
            router,
            prefix,
            blocks,
            seed,
            epoch: Instant::now(),
        })
    }

    /// Tells the router what the engine of a target said about its queue.
    pub fn report(&self, target: u16, report: EngineReport) {
        if let Some(replica) = self.router.replicas().get(usize::from(target)) {
            replica.report(report, self.epoch.elapsed());
        }
    }

    fn query<'a>(&'a self, features: &'a Features<'_>) -> Query<'a> {
        let others = features.pinned.and_then(|target| self.others.get(usize::from(target)));
        Query {
            adapter: None,
            prefix_key: features.key.prefix,
            session_key: Some(session_key(&features.session.to_le_bytes())),
            blocks: &features.key.blocks,
            block_tokens: BLOCK_TOKENS as u32,
            prompt_tokens: features.key.prompt_tokens,
            output_tokens: features.request.output_tokens,
            tried: others.map_or(&[], Vec::as_slice),
        }
    }
}

impl UrlChooser for Routed {
    fn prepare(&self, request: &Request, body: &[u8]) -> RouteKey {
        let mut key = RouteKey { prompt_tokens: estimate_tokens(body.len()), ..RouteKey::default() };
        // A body that is not understood goes where the load is least.
        let Ok(view) = RequestView::parse(request.endpoint, body) else { return key };
        if request.endpoint == Endpoint::Other {
            return key;
        }
        let mut prompt = Vec::with_capacity(body.len());
        view.render_prompt(&mut prompt);
        key.prompt_tokens = estimate_tokens(prompt.len());
        if let Some(need) = self.prefix {
            let model = Some(&*view.model);
            key.prefix = match need.source {
                PrefixKey::FirstUserMessage => {
                    need.key(model, view.first_user_text().as_deref().unwrap_or_default().as_bytes())
                }
                PrefixKey::WholePrompt => need.key(model, &prompt),
            };
        }
        if self.blocks {
            block_hashes(view.model.as_bytes(), &prompt, &mut key.blocks);
        }
        key
    }

    fn choose(&self, features: &Features<'_>) -> Choice {
        let place = features.position.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ u64::from(features.turn);
        let mut random = ChaCha8Rng::seed_from_u64(self.seed ^ place);
        let now = self.epoch.elapsed();
        match self.router.pick(&self.query(features), now, &mut random) {
            Ok(pick) => {
                let id = pick.lease.replica().id;
                let target =
                    self.router.replicas().iter().position(|replica| replica.id == id).unwrap_or_default();
                Choice {
                    target: target as u16,
                    guard: Some(Box::new(Held { lease: pick.lease, epoch: self.epoch })),
                }
            }
            // There is always a replica; should there be none, requests go round.
            Err(_) => Choice {
                target: (features.position % u64::from(features.targets.max(1))) as u16,
                guard: None,
            },
        }
    }
}

impl Guard for Held {
    fn produced(&mut self, tokens: u32, _now: Duration) {
        self.lease.produced(tokens, self.epoch.elapsed());
    }

    fn usage(&mut self, usage: Usage) {
        if let Some(cached) = usage.cached_tokens {
            self.lease.observed_cached(cached, usage.prompt_tokens);
        }
        if usage.completion_tokens > 0 {
            self.lease.counted(usage.completion_tokens);
        }
    }

    fn ended(self: Box<Self>, outcome: &Outcome, _now: Duration) {
        let outcome = match outcome {
            Outcome::Success | Outcome::Status(400..=428 | 430..=499, _) => LeaseOutcome::Answered,
            Outcome::Status(429, _) => LeaseOutcome::Busy { retry_after: None },
            Outcome::Status(..) | Outcome::StreamError(_) => LeaseOutcome::ServerError,
            Outcome::Connect(_) => LeaseOutcome::ConnectFailed,
            Outcome::Broken(_) | Outcome::Malformed(_) => LeaseOutcome::Broken,
            Outcome::Timeout => LeaseOutcome::TimedOut,
            Outcome::Cancelled | Outcome::Incomplete | Outcome::NotSent => LeaseOutcome::Abandoned,
        };
        self.lease.settle(outcome, self.epoch.elapsed());
    }
}
