//! Circuit breakers: end a run when requests go wrong.
//!
//! A request that any `matches` expression holds for becomes a sample; it is a hit if any rule holds, or if there are
//! no rules. Expressions see the request's entry without empty values, so `error` is there for failures only. Once
//! open, a breaker stays open: the stage has failed, and no further one is started.

use std::{collections::VecDeque, time::Duration};

use jmespath::{Expression, Variable};
use serde_json::Value;

use super::{CircuitBreaker, Config, ConfigError, Trigger, TriggerType};

/// A circuit breaker with what it has seen.
#[derive(Debug)]
pub struct Breaker {
    name: String,
    matches: Vec<Expression<'static>>,
    rules: Vec<Expression<'static>>,
    triggers: Vec<State>,
    only_failures: bool,
}

#[derive(Debug)]
struct State {
    trigger: Trigger,
    consecutive: u64,
    /// Samples within the time, and how many of them are hits.
    window: VecDeque<(Duration, bool)>,
    hits: usize,
}

impl Breaker {
    /// The breakers that the load names.
    pub fn enabled(config: &Config) -> Result<Vec<Self>, ConfigError> {
        let declared = (0..).zip(config.circuit_breakers.iter().flatten());
        let enabled = declared.filter(|(_, breaker)| config.load.circuit_breakers.contains(&breaker.name));
        enabled.map(|(number, breaker)| Self::new(number, breaker)).collect()
    }

    fn new(number: usize, given: &CircuitBreaker) -> Result<Self, ConfigError> {
        let compile = |key: &str, texts: &[String]| {
            let compiled = texts.iter().map(|text| {
                jmespath::compile(text).map_err(|error| {
                    let key = format!("circuit_breakers[{number}].metrics.{key}");
                    ConfigError::key(key, format!("{text:?} is not JMESPath: {}", error.reason))
                })
            });
            compiled.collect::<Result<Vec<_>, _>>()
        };
        let only_failures = given.metrics.rules.is_empty()
            && given.metrics.matches.iter().all(|text| text.contains("error"))
            && given.triggers.iter().any(|trigger| trigger.r#type == TriggerType::RateOverWindow);
        Ok(Self {
            name: given.name.clone(),
            matches: compile("matches", &given.metrics.matches)?,
            rules: compile("rules", &given.metrics.rules)?,
            triggers: given.triggers.iter().map(State::new).collect(),
            only_failures,
        })
    }

    /// A trap that the user should know of.
    pub fn note(&self) -> Option<String> {
        self.only_failures.then(|| {
            format!(
                "circuit breaker {}: it looks at failures only and has no rules, so its rate is always 1; put the \
                 condition into rules, and a condition that holds for all requests into matches",
                self.name
            )
        })
    }

    /// Looks at a request that ended at `now`; says why the breaker opens.
    pub fn look(&mut self, entry: &Value, now: Duration) -> Option<String> {
        let entry = Variable::try_from(without_nulls(entry)).ok()?;
        let holds = |expressions: &[Expression<'static>]| {
            expressions
                .iter()
                .any(|expression| expression.search(&entry).is_ok_and(|found| found.is_truthy()))
        };
        if !holds(&self.matches) {
            return None;
        }
        let hit = self.rules.is_empty() || holds(&self.rules);
        let fired = self.triggers.iter_mut().find_map(|state| state.take(hit, now))?;
        Some(format!("circuit breaker {} has opened: {fired}", self.name))
    }
}

impl State {
    fn new(trigger: &Trigger) -> Self {
        Self { trigger: trigger.clone(), consecutive: 0, window: VecDeque::new(), hits: 0 }
    }

    fn take(&mut self, hit: bool, now: Duration) -> Option<String> {
        let Trigger { r#type, threshold, window_sec, min_samples } = self.trigger;
        match r#type {
            TriggerType::Consecutive => {
                self.consecutive = if hit { self.consecutive + 1 } else { 0 };
                (self.consecutive as f64 >= threshold)
                    .then(|| format!("{} hits one after the other", self.consecutive))
            }
            TriggerType::RateOverWindow => {
                let seconds = window_sec.unwrap_or_default();
                self.window.push_back((now, hit));
                self.hits += usize::from(hit);
                let start = now.saturating_sub(Duration::from_secs_f64(seconds));
                while let Some((_, hit)) = self.window.pop_front_if(|(at, _)| *at < start) {
                    self.hits -= usize::from(hit);
                }
                let (samples, hits) = (self.window.len(), self.hits);
                let fires = samples as u64 >= min_samples && hits as f64 >= threshold * samples as f64;
                fires.then(|| format!("{hits} hits among {samples} requests within {seconds} s"))
            }
        }
    }
}

fn without_nulls(value: &Value) -> Value {
    match value {
        Value::Object(map) => {
            let kept = map.iter().filter(|(_, value)| !value.is_null());
            Value::Object(kept.map(|(key, value)| (key.clone(), without_nulls(value))).collect())
        }
        value => value.clone(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn breaker(metrics: &str, trigger: &str) -> Breaker {
        let text = format!(r#"{{"name": "b", "metrics": {metrics}, "triggers": [{trigger}]}}"#);
        let given: CircuitBreaker = serde_json::from_str(&text).unwrap();
        Breaker::new(0, &given).unwrap()
    }

    fn failed() -> Value {
        json!({"error": {"error_type": "TimeoutError"}, "status": null})
    }

    #[test]
    fn hits_one_after_the_other_open_it() {
        let mut breaker = breaker(
            r#"{"matches": ["`true`"], "rules": ["error.error_type == 'TimeoutError'"]}"#,
            r#"{"type": "consecutive", "threshold": 2}"#,
        );
        let answers = [failed(), json!({"error": null}), failed(), failed()];
        let opened: Vec<bool> =
            answers.iter().map(|entry| breaker.look(entry, Duration::ZERO).is_some()).collect();
        assert_eq!(opened, [false, false, false, true]);
    }

    #[test]
    fn a_share_of_hits_within_a_time_opens_it() {
        let mut breaker = breaker(
            r#"{"matches": ["`true`"], "rules": ["error"]}"#,
            r#"{"type": "rate_over_window", "window_sec": 10, "threshold": 0.5, "min_samples": 4}"#,
        );
        let mut look = |failure: bool, second| {
            let entry = if failure { failed() } else { json!({"error": null}) };
            breaker.look(&entry, Duration::from_secs(second)).is_some()
        };
        assert_eq!([look(true, 0), look(true, 1), look(true, 2)], [false; 3], "too few samples");
        assert_eq!(
            [look(false, 12), look(false, 13), look(false, 14)],
            [false; 3],
            "the window has moved on"
        );
        assert_eq!(
            [look(true, 15), look(true, 16), look(true, 17)],
            [false, false, true],
            "3 of 6 in ten seconds"
        );
    }

    #[test]
    fn an_expression_that_is_none_is_named_with_its_place() {
        let text =
            r#"{"name": "b", "metrics": {"matches": ["`true`"], "rules": ["error ="]}, "triggers": []}"#;
        let error = Breaker::new(3, &serde_json::from_str(text).unwrap()).unwrap_err().to_string();
        assert!(
            error.starts_with("circuit_breakers[3].metrics.rules: \"error =\" is not JMESPath"),
            "{error}"
        );
    }

    #[test]
    fn a_rate_of_failures_among_failures_is_pointed_out() {
        let rate = r#"{"type": "rate_over_window", "window_sec": 10, "threshold": 0.5}"#;
        let trap = breaker(r#"{"matches": ["error.error_type == 'TimeoutError'"]}"#, rate);
        assert!(trap.note().unwrap().contains("always 1"));
        assert!(breaker(r#"{"matches": ["`true`"], "rules": ["error"]}"#, rate).note().is_none());
    }
}
