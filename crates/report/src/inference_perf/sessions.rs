//! `*_session_lifecycle_metrics.json`: sessions of several requests.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use super::{
    Collector, Settings, StageResult,
    collector::start,
    failures::{error_type, message},
    figures::distribution,
};
use crate::{Distribution, Object, Record, SECOND};

/// Collects sessions. Memory grows with their number, as it does with that of the lines of the files.
#[derive(Clone, Debug)]
pub struct SessionCollector {
    settings: Arc<Settings>,
    sessions: BTreeMap<u64, Session>,
}

#[derive(Clone, Debug)]
struct Session {
    stage: u16,
    /// Where it was recorded; empty if it was made up.
    file: String,
    start: Duration,
    end: Duration,
    first_token: Option<Duration>,
    events: u64,
    failed: u64,
    cancelled: u64,
    input: u64,
    output: u64,
    /// Of the prompts whose cached tokens the server counted: those, and all.
    cached: Option<u64>,
    cacheable: u64,
    /// The first thing that went wrong: its kind and its words.
    error: Option<(String, String)>,
}

impl SessionCollector {
    /// Empty.
    pub fn new(settings: Arc<Settings>) -> Self {
        Self { settings, sessions: BTreeMap::new() }
    }

    /// Adds one request.
    pub fn push(&mut self, record: &Record) {
        let Some(start) = start(record) else { return };
        let session = self.sessions.entry(record.session).or_insert(Session {
            stage: record.phase,
            file: String::new(),
            start,
            end: record.done,
            first_token: None,
            events: 0,
            failed: 0,
            cancelled: 0,
            input: 0,
            output: 0,
            cached: None,
            cacheable: 0,
            error: None,
        });
        session.start = session.start.min(start);
        session.end = session.end.max(record.done);
        session.events += 1;
        session.failed += u64::from(record.outcome.is_failure());
        session.cancelled += u64::from(!record.outcome.is_failure() && !record.outcome.is_success());
        if record.outcome.is_success() {
            session.input += u64::from(record.input_tokens.tokens);
            session.output += u64::from(record.output_tokens.tokens);
            if let Some(cached) = record.cached_tokens {
                *session.cached.get_or_insert(0) += u64::from(cached);
                session.cacheable += u64::from(record.input_tokens.tokens);
            }
            if let Some(first) = record.first_chunk().filter(|_| self.settings.streaming) {
                session.first_token = Some(session.first_token.map_or(first, |known| known.min(first)));
            }
        } else {
            session.error.get_or_insert_with(|| (error_type(record), message(record)));
        }
    }

    /// Says which file each session was read from.
    pub fn name_files<'a>(&mut self, file: impl Fn(u64) -> Option<&'a str>) {
        for (id, session) in &mut self.sessions {
            file(*id).unwrap_or_default().clone_into(&mut session.file);
        }
    }

    /// `summary_session_lifecycle_metrics.json`.
    pub fn summary(&self) -> Object {
        self.report(None)
    }

    /// `stage_N_session_lifecycle_metrics.json`.
    pub fn stage(&self, stage: &StageResult, collected: &Collector) -> Object {
        let mut object = Object::default();
        object.nest("stage_metadata", stage_metadata(stage, collected.not_sent()));
        object.extend(self.report(Some(stage.number)));
        object
    }

    fn report(&self, stage: Option<u16>) -> Object {
        let mine = |session: &&Session| stage.is_none_or(|stage| stage == session.stage);
        let sessions: Vec<&Session> = self.sessions.values().filter(mine).collect();
        let sum = |value: fn(&Session) -> u64| sessions.iter().map(|session| value(session)).sum::<u64>();
        let spread = |value: &dyn Fn(&Session) -> Option<u64>, unit| {
            let mut values = Distribution::default();
            values.extend(sessions.iter().filter_map(|session| value(session)));
            distribution(&values, &self.settings.percentiles, unit)
        };
        let start = sessions.iter().map(|session| session.start).min().unwrap_or_default();
        let end = sessions.iter().map(|session| session.end).max().unwrap_or_default();
        let failed = sessions.iter().filter(|session| session.error.is_some()).count();
        let hits = |cached: u64, input: u64| (input > 0).then(|| 100.0 * cached as f64 / input as f64);

        let mut object = Object::default();
        object.set("num_sessions", sessions.len());
        object.set("num_sessions_succeeded", sessions.len() - failed);
        object.set("num_sessions_failed", failed);
        object.nest("failures", self.failures(stage));
        object.set("total_events", sum(|session| session.events));
        object.set(
            "total_events_completed",
            sum(|session| session.events - session.failed - session.cancelled),
        );
        object.set("total_events_cancelled", sum(|session| session.cancelled));
        object.set("sessions_with_recorded_substitution", 0);
        object.set("total_recorded_substitutions", serde_json::json!({ "count": 0, "messages": [] }));
        object.set(
            "sessions_per_second",
            crate::summary::ratio(sessions.len() as f64, (end - start).as_secs_f64()),
        );
        let nanoseconds = crate::distribution::nanoseconds;
        let length = |session: &Session| Some(nanoseconds(session.end - session.start));
        object.nest("session_duration_sec", spread(&length, SECOND));
        object.nest("num_events", spread(&|session| Some(session.events), 1.0));
        object.nest("num_events_cancelled", spread(&|session| Some(session.cancelled), 1.0));
        object.nest("total_input_tokens", spread(&|session| Some(session.input), 1.0));
        object.nest("total_output_tokens", spread(&|session| Some(session.output), 1.0));
        object.nest("total_cached_tokens", spread(&|session| session.cached, 1.0));
        let cacheable = |session: &Session| session.cached.map(|_| session.cacheable);
        object.nest("total_cacheable_input_tokens", spread(&cacheable, 1.0));
        object
            .set("sessions_with_cache_info", sessions.iter().filter(|session| session.cacheable > 0).count());
        let (cached, prompts) =
            (sum(|session| session.cached.unwrap_or(0)), sum(|session| session.cacheable));
        object.set("kv_cache_hit_percent", hits(cached, prompts));
        let share = |session: &Session| Some((hits(session.cached?, session.cacheable)? * 1e6) as u64);
        object.nest("kv_cache_hit_per_session_percent", spread(&share, 1e6));
        let first = |session: &Session| Some(nanoseconds(session.first_token?.saturating_sub(session.start)));
        object.nest("tfut_sec", spread(&first, SECOND));
        let none = sessions.iter().filter(|session| session.first_token.is_none()).count();
        object.set("sessions_with_tfut", sessions.len() - none);
        let reasons = (none > 0).then(|| serde_json::json!({ "no_streamed_token": none }));
        object.set("tfut_none_reasons", reasons);
        object.nest("num_user_facing_events", spread(&|session| Some(session.events), 1.0));
        object.nest("num_structured_output_excluded", spread(&|_| Some(0), 1.0));
        object
    }

    /// Sessions that failed, by the kind of what went wrong first.
    fn failures(&self, stage: Option<u16>) -> Object {
        let mut kinds: BTreeMap<&str, BTreeMap<&str, Vec<String>>> = BTreeMap::new();
        let mine = |session: &Session| stage.is_none_or(|stage| stage == session.stage);
        let mut count = 0;
        for (id, session) in self.sessions.iter().filter(|(_, session)| mine(session)) {
            if let Some((kind, message)) = &session.error {
                kinds.entry(kind).or_default().entry(message).or_default().push(id.to_string());
                count += 1;
            }
        }
        let mut by_label = Object::default();
        for (kind, messages) in kinds {
            let mut label = Object::default();
            label.set("count", messages.values().map(Vec::len).sum::<usize>());
            let shown = messages.into_iter().take(self.settings.error_messages);
            label.nest_all(
                "messages",
                shown.map(|(message, sessions)| {
                    let mut object = Object::default();
                    object.set("message", message);
                    object.set("session_ids", sessions);
                    object
                }),
            );
            by_label.nest(kind, label);
        }
        let mut failures = Object::default();
        failures.set("count", count);
        failures.nest("by_label", by_label);
        failures
    }

    /// The lines of `per_session_lifecycle_metrics.json`.
    pub fn entries(&self) -> Vec<Object> {
        let entry = |(id, session): (&u64, &Session)| {
            let mut object = Object::default();
            object.set("session_id", id.to_string());
            object.set("stage_id", session.stage);
            object.set("file_path", &session.file);
            object.set("start_time", session.start.as_secs_f64());
            object.set("end_time", session.end.as_secs_f64());
            object.set("duration_sec", (session.end - session.start).as_secs_f64());
            object.set("num_events", session.events);
            object.set("num_events_completed", session.events - session.failed - session.cancelled);
            object.set("num_events_cancelled", session.cancelled);
            object.set("n_recorded_substitutions", serde_json::Value::Null);
            object.set("recorded_substitution_event_ids", serde_json::Value::Null);
            object.set("success", session.error.is_none());
            let error = session.error.as_ref();
            object.set(
                "error",
                error.map(|(kind, message)| serde_json::json!({ "error_type": kind, "error_msg": message })),
            );
            object.set("total_input_tokens", session.input);
            object.set("total_output_tokens", session.output);
            object.set("total_cached_tokens", session.cached);
            object.set("total_cacheable_input_tokens", session.cached.map(|_| session.cacheable));
            object.set("user_facing_event_ids", serde_json::Value::Null);
            object.set("num_structured_output_excluded", 0);
            let first = session.first_token.map(|first| first.saturating_sub(session.start).as_secs_f64());
            object.set("tfut_sec", first);
            object.set("tfut_none_reason", first.is_none().then_some("no_streamed_token"));
            object
        };
        self.sessions.iter().map(entry).collect()
    }
}

/// A stage's fate. `dropped`: requests that were due and not sent.
fn stage_metadata(stage: &StageResult, dropped: u64) -> Object {
    let (concurrent_sessions, session_rate) = stage.sessions.unwrap_or_default();
    let mut object = Object::default();
    object.set("stage_id", stage.number);
    object.set("status", stage.status);
    object.set("timeout_configured", stage.timeout.map(|timeout| timeout.as_secs_f64()));
    object.set("actual_duration", stage.duration().as_secs_f64());
    object.set("teardown_duration", stage.teardown.as_secs_f64());
    object.set("dropped_requests", dropped);
    object.set("concurrent_sessions", concurrent_sessions);
    object.set("session_rate", session_rate);
    object
}
