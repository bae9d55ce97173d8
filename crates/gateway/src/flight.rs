//! One request from its head to its last byte: what it holds, and what is told about it at the end.
//!
//! Promise: whichever way a request ends (answered, refused, its client gone, its replica broken, a panic), its
//! flight is dropped once, and that drop gives back its load, counts it and writes its log line. Nothing else
//! does any of this.

use std::{
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{Method, Response, StatusCode};
use protocol::{COMPLETE, Decision, Usage};
use routing::{ActiveRequest, Lease, Outcome, Replica, Retry};

use crate::{
    Reason,
    config::AccessLog,
    fleet::Backend,
    http1::{fields::Fields, request::RequestHead, response::ResponseHead},
    metrics::class,
    server::{Client, Phase},
    shared::Stage,
};

/// A request in progress.
#[derive(Debug)]
pub(crate) struct Flight {
    pub(crate) client: Rc<Client>,
    started: Instant,
    status: u16,
    reason: Option<Reason>,
    complete: bool,
    attempt: Option<Attempt>,
    /// The replica that it was at last, once it is there no more.
    last: Option<Arc<Replica>>,
    first_token: Option<Instant>,
    pub(crate) request_bytes: u64,
    pub(crate) response_bytes: u64,
    /// Of the answer's stream, that came of the model.
    events: u64,
    /// What the engine says that it counted, so far.
    usage: Usage,
    retries: u32,
    /// For the log line, where there may be one.
    request: Option<Box<(Method, String, String)>>,
    /// For the decision log, where there is one.
    pub(crate) decision: Option<Box<Decision<'static>>>,
    _active: ActiveRequest,
}

/// The replica that a request is at.
#[derive(Debug)]
pub(crate) struct Attempt {
    pub(crate) lease: Lease,
    pub(crate) backend: Arc<Backend>,
    _retry: Option<Retry>,
    /// What its health shall learn, where that is known.
    pub(crate) outcome: Option<Outcome>,
    /// An answer that is no error has begun.
    begun: bool,
}

impl Attempt {
    pub(crate) fn new(lease: Lease, backend: Arc<Backend>, retry: Option<Retry>) -> Self {
        Self { lease, backend, _retry: retry, outcome: None, begun: false }
    }
}

// === impl Flight ===

impl Flight {
    pub(crate) fn begin(client: Rc<Client>) -> Box<Self> {
        let active = client.worker.shared.budget.begin();
        Box::new(Self {
            started: client.worker.now(),
            client,
            status: 0,
            reason: None,
            complete: false,
            attempt: None,
            last: None,
            first_token: None,
            request_bytes: 0,
            response_bytes: 0,
            events: 0,
            usage: Usage::default(),
            retries: 0,
            request: None,
            decision: None,
            _active: active,
        })
    }

    /// Keeps what the log line needs.
    pub(crate) fn describe(&mut self, head: &RequestHead, request_id: &str) {
        if self.client.worker.shared.in_force.load().access_log != AccessLog::Off {
            let request = (head.method.clone(), head.target().to_owned(), request_id.to_owned());
            self.request = Some(Box::new(request));
        }
    }

    /// Takes a replica for the request; the one before, if any, gets its load back.
    pub(crate) fn attempt(&mut self, attempt: Attempt) {
        self.retries += u32::from(self.attempt.is_some());
        // What the one before answered is thrown away.
        self.status = 0;
        self.end_attempt();
        self.attempt = Some(attempt);
    }

    /// The replica that the request is at.
    pub(crate) fn current(&mut self) -> Option<&mut Attempt> {
        self.attempt.as_mut()
    }

    /// The answer has begun; unless it is an error, the replica works.
    pub(crate) fn answering(&mut self) {
        let now = self.client.worker.routing_now();
        if let Some(attempt) = &mut self.attempt
            && attempt.outcome == Some(Outcome::Answered)
        {
            attempt.begun = true;
            attempt.lease.answering(now);
        }
    }

    /// Says how the current attempt went.
    pub(crate) fn judge(&mut self, outcome: Outcome) {
        if let Some(attempt) = &mut self.attempt {
            attempt.outcome = Some(outcome);
        }
    }

    /// Gives the replica's load back, and counts its failure if it failed.
    pub(crate) fn end_attempt(&mut self) {
        if let Some(Attempt { mut lease, backend, outcome, .. }) = self.attempt.take() {
            let outcome = outcome.unwrap_or(Outcome::Abandoned);
            // What an engine says in the middle is about the beginning.
            if outcome == Outcome::Answered && self.usage.completion_tokens > 0 {
                lease.counted(self.usage.completion_tokens);
            }
            if let Some(failures) = backend.metrics.failures(outcome) {
                failures.add(1);
            }
            self.last = Some(Arc::clone(lease.replica()));
            lease.settle(outcome, self.client.worker.routing_now());
        }
    }

    /// Notes the head of the replica's answer.
    pub(crate) fn answered(&mut self, head: &ResponseHead) {
        self.status = head.status.as_u16();
        self.judge(outcome(head.status, &head.fields));
    }

    /// `count` more events of the answer's stream have come.
    pub(crate) fn produced(&mut self, count: u32) {
        let now = self.client.worker.routing_now();
        if self.first_token.is_none() {
            self.first_token = Some(self.client.worker.now());
        }
        self.events += u64::from(count);
        if let Some(attempt) = &mut self.attempt {
            attempt.lease.produced(count, now);
        }
    }

    /// The answer is whole, and came in one piece of so many tokens.
    pub(crate) fn produced_at_once(&mut self, tokens: u32) {
        let now = self.client.worker.routing_now();
        if let Some(attempt) = &mut self.attempt {
            attempt.lease.produced_at_once(tokens, now);
        }
    }

    /// Takes over what the engine says it produced and found in its cache. A stream may say it often, and in parts.
    pub(crate) fn report(&mut self, usage: Usage) {
        self.usage.update(usage);
        if let (Some(attempt), Some(cached)) = (&mut self.attempt, usage.cached_tokens) {
            attempt.lease.observed_cached(cached, self.usage.prompt_tokens);
        }
    }

    /// What the engine counted, or events; of an answer that broke off the engine may have told the beginning alone.
    fn output_tokens(&self) -> u64 {
        match u64::from(self.usage.completion_tokens) {
            0 => self.events,
            counted if self.complete => counted,
            counted => counted.max(self.events),
        }
    }

    /// The client has the whole answer, or all of it that means something.
    pub(crate) fn complete(&mut self) {
        self.complete = true;
    }

    /// The answer broke off.
    pub(crate) fn fail(&mut self, reason: Reason, outcome: Outcome) {
        self.reason = Some(reason);
        self.judge(outcome);
    }

    /// Answers in evenload's own words.
    pub(crate) fn refuse(&mut self, reason: Reason, message: impl Into<String>) -> Response<Bytes> {
        self.reason = Some(reason);
        self.own(reason.response(message))
    }

    /// Answers without a replica.
    pub(crate) fn own(&mut self, response: Response<Bytes>) -> Response<Bytes> {
        self.end_attempt();
        self.status = response.status().as_u16();
        self.response_bytes = response.body().len() as u64;
        response
    }

    /// Hands what was decided, and what came of it, to the decision log.
    fn keep_decision(&mut self, elapsed: Duration) {
        let (Some(decision), Some(log)) = (self.decision.take(), &self.client.worker.shared.decision_log)
        else {
            return;
        };
        let mut decision = *decision;
        decision.timestamp = log.time(self.started);
        decision.prompt_tokens = Some(self.usage.prompt_tokens).filter(|tokens| *tokens > 0);
        decision.cached_tokens = self.usage.cached_tokens;
        decision.output_length = u32::try_from(self.output_tokens()).unwrap_or(u32::MAX);
        decision.replica = self.last.as_ref().map(|replica| replica.spec.name.to_string().into());
        decision.outcome = self.reason.map_or(COMPLETE, Reason::label).into();
        decision.status = self.status;
        decision.retries = self.retries;
        decision.ttft_ms =
            self.first_token.map(|first| milliseconds(first.saturating_duration_since(self.started)));
        decision.duration_ms = milliseconds(elapsed);
        log.offer(decision);
    }

    fn log(&self, elapsed: Duration) {
        let wanted = match self.client.worker.shared.in_force.load().access_log {
            AccessLog::Off => false,
            AccessLog::Errors => self.reason.is_some() || self.status >= 500,
            AccessLog::All => true,
        };
        let Some((method, target, request_id)) = self.request.as_deref().filter(|_| wanted) else { return };
        tracing::info!(
            target: "evenload::access",
            client = %self.client.address,
            request_id,
            %method,
            uri = target,
            status = self.status,
            reason = self.reason.map(Reason::label),
            replica = self.last.as_ref().map(|replica| &*replica.spec.name),
            retries = self.retries,
            request_bytes = self.request_bytes,
            response_bytes = self.response_bytes,
            tokens = self.output_tokens(),
            first_token_ms = self.first_token.map(|first| milliseconds(first.duration_since(self.started))),
            duration_ms = milliseconds(elapsed),
            "request"
        );
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        let worker = Rc::clone(&self.client.worker);
        let now = worker.now();
        if !self.complete && self.reason.is_none() {
            self.reason = Some(match worker.stage() {
                Stage::Ending => Reason::Aborted,
                _ if std::thread::panicking() => Reason::Internal,
                _ if self.client.phase() == Phase::Reply && self.client.is_late() => Reason::ClientStalled,
                _ => Reason::ClientGone,
            });
        }
        let metrics = &worker.shared.metrics;
        // The log and the decision log have a status even where nobody gave one.
        let answered = self.status;
        if let Some(reason) = self.reason {
            metrics.errors(reason).add(1);
            if self.status == 0 {
                self.status = reason.status();
            }
        }
        let elapsed = now.saturating_duration_since(self.started);
        match &self.attempt {
            Some(Attempt { backend, .. }) => {
                let metrics = &backend.metrics;
                metrics.answers(answered).add(1);
                metrics.duration.observe(elapsed);
                metrics.output_tokens.add(self.output_tokens());
                metrics.cached_tokens.add(self.usage.cached_tokens.unwrap_or_default().into());
                if let Some(first) = self.first_token {
                    metrics.first_token.observe(first.saturating_duration_since(self.started));
                }
            }
            None => metrics.own_answers[class(answered)].add(1),
        }
        if let Some(attempt) = self.attempt.as_mut().filter(|_| !self.complete)
            && attempt.outcome == Some(Outcome::Answered)
        {
            // The client did not hear it out: where it was cut off says nothing about how long answers get, and the
            // head of a stream alone, which engines send before they begin, nothing at all.
            attempt.outcome = attempt.begun.then_some(Outcome::CutOff);
        }
        self.end_attempt();
        self.log(elapsed);
        self.keep_decision(elapsed);
        self.client.enter(Phase::Idle, worker.limits().idle_timeout);
    }
}

fn milliseconds(time: Duration) -> f64 {
    (time.as_secs_f64() * 1e6).round() / 1e3
}

/// What an answer says about its replica. 429 means busy, and so does a 503 that says when to come back.
fn outcome(status: StatusCode, fields: &Fields) -> Outcome {
    let retry_after = || {
        let seconds = std::str::from_utf8(fields.get("retry-after")?).ok()?;
        seconds.trim().parse().ok().map(Duration::from_secs)
    };
    match status.as_u16() {
        429 => Outcome::Busy { retry_after: retry_after() },
        503 if fields.contains("retry-after") => Outcome::Busy { retry_after: retry_after() },
        500 | 502 | 503 | 504 => Outcome::ServerError,
        _ => Outcome::Answered,
    }
}
