//! What simulated engines say of themselves.

use std::time::Duration;

use anyhow::{Context, anyhow, ensure};
use loadgen::{Ask, Targets};
use serde_json::Value;

/// Time in which a server of this process answers.
pub(crate) const PATIENCE: Duration = Duration::from_secs(5);

/// Means and the worst over the steps of all engines, in milliseconds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Lateness {
    /// How long a step was to last.
    pub(crate) step_ms: f64,
    /// How late it ended.
    pub(crate) mean_ms: f64,
    pub(crate) most_ms: f64,
}

/// The JSON behind a path of a target.
pub(crate) fn ask(targets: &Targets, target: u16, path: &str) -> anyhow::Result<Value> {
    let reply = Ask::get(path, PATIENCE).send(targets, target);
    let reply = reply.map_err(|problem| anyhow!("{path}: {problem}"))?;
    ensure!(reply.status == 200, "{path}: status {}", reply.status);
    serde_json::from_slice(&reply.body).with_context(|| format!("{path}: the answer is no JSON"))
}

/// What all engines say.
pub(crate) fn states(targets: &Targets) -> anyhow::Result<Vec<Value>> {
    (0..targets.count()).map(|target| ask(targets, target, "/sim/state")).collect()
}

/// How late the engines were.
pub(crate) fn lateness(states: &[Value]) -> Lateness {
    let number = |state: &Value, path: &str| state.pointer(path).and_then(Value::as_f64).unwrap_or(0.0);
    // Engines with fixed times have no steps to weigh them by.
    let weight = |state: &Value| number(state, "/steps").max(1.0);
    let all: f64 = states.iter().map(weight).sum();
    let mean = |value: &dyn Fn(&Value) -> f64| {
        states.iter().map(|state| value(state) * weight(state)).sum::<f64>() / all
    };
    Lateness {
        step_ms: mean(&|state| number(state, "/busy_s") * 1e3 / weight(state)),
        mean_ms: mean(&|state| number(state, "/step_lag/mean_ms")),
        most_ms: states.iter().map(|state| number(state, "/step_lag/max_ms")).fold(0.0, f64::max),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_engine_counts_as_much_as_its_steps() {
        let state = |steps: u32, busy_s: f64, mean_ms: f64, max_ms: f64| json!({"steps": steps, "busy_s": busy_s, "step_lag": {"mean_ms": mean_ms, "max_ms": max_ms}});
        let found =
            lateness(&[state(300, 3.0, 1.0, 4.0), state(100, 3.0, 5.0, 6.0), state(0, 0.0, 0.0, 0.0)]);
        assert!((found.step_ms - 15.0).abs() < 0.1 && (found.mean_ms - 2.0).abs() < 0.01, "{found:?}");
        assert_eq!(found.most_ms, 6.0);
    }
}
