//! Recorded agents, as Weka's traces keep them: `weka_trace_replay`.
//!
//! A file is a session: an `id`, a `block_size` and `requests`, each with a time `t` in seconds, its lengths `in` and
//! `out`, and `hash_ids`, one a block of the prompt. Equal ids are equal text within a session and nowhere else. Calls
//! of nested agents, whose times may count from the start of their agent, are put among the others by their time, and
//! all are made one after the other, after the recorded pause; calls that ran at the same time are reported.

use std::{sync::Arc, time::Duration};

use serde::Deserialize;
use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::{
    WekaReplay,
    prompts::read_text,
    talks::{Recorded, RecordedSession},
};
use crate::{Error, MAX_PROMPT_TOKENS, Prompt, RequestTemplate, Turn};

/// Times that differ by less are the same.
const TIME_TOLERANCE: f64 = 1e-6;

#[derive(Debug, Deserialize)]
struct Trace {
    id: String,
    block_size: Option<u32>,
    requests: Vec<Entry>,
}

#[derive(Debug, Deserialize)]
#[serde(tag = "type")]
enum Entry {
    #[serde(rename = "n", alias = "s")]
    Call(Call),
    #[serde(rename = "subagent")]
    Agent {
        /// When it was started.
        #[serde(default)]
        t: f64,
        #[serde(default)]
        requests: Vec<Call>,
    },
}

/// Times are seconds.
#[derive(Clone, Debug, Deserialize)]
struct Call {
    t: f64,
    #[serde(default)]
    model: String,
    #[serde(rename = "in")]
    input: u32,
    #[serde(rename = "out")]
    output: u32,
    #[serde(default)]
    hash_ids: Vec<u64>,
    api_time: Option<f64>,
    think_time: Option<f64>,
}

/// The sessions that the configuration names; `seed` decides over their texts.
pub(super) fn load(given: &WekaReplay, template: &RequestTemplate, seed: u64) -> Result<Recorded, Error> {
    let files = super::files::traces(given.trace_directory.as_deref(), given.trace_files.as_deref())?;
    let (mut sessions, mut at_once, mut empty, mut left_out) = (Vec::new(), 0, 0, Vec::new());
    for path in files.iter().take(given.num_dataset_entries as usize) {
        let trace = read_text(path)
            .and_then(|text| serde_json::from_str::<Trace>(&text).map_err(|error| Error::file(path, error)));
        let calls = trace.and_then(|trace| match trace.calls() {
            Ok(calls) => Ok((trace, calls)),
            Err(problem) => Err(Error::file(path, problem)),
        });
        match calls {
            Ok((trace, calls)) => {
                empty += calls.iter().filter(|call| call.input == 0 || call.output == 0).count();
                at_once += usize::from(calls.windows(2).any(|pair| pair[1].t < pair[0].end()));
                let turns: Arc<[Turn]> = turns(&trace, &calls, given, template, seed).into();
                sessions.push((path.display().to_string().into(), turns));
            }
            Err(error) if given.skip_invalid_files => left_out.push(error.to_string()),
            Err(error) => return Err(error),
        }
    }
    let mut notes = Vec::new();
    if empty > 0 {
        notes.push(format!("weka_trace_replay: {empty} calls with a length of 0 are sent with 1"));
    }
    if at_once > 0 {
        notes.push(format!(
            "weka_trace_replay: {at_once} of {} sessions have calls that ran at the same time: they are made one after \
             the other",
            files.len()
        ));
    }
    if let Some(first) = left_out.first() {
        notes.push(format!(
            "weka_trace_replay: {} of {} files left out: {first}",
            left_out.len(),
            files.len()
        ));
    }
    sessions.retain(|(_, turns): &RecordedSession| !turns.is_empty());
    Recorded::new(sessions, given.duplicate_sessions_target, notes)
}

fn turns(
    trace: &Trace,
    calls: &[Call],
    given: &WekaReplay,
    template: &RequestTemplate,
    seed: u64,
) -> Vec<Turn> {
    let block_tokens = trace.block_size.filter(|size| *size > 0).unwrap_or(given.default_block_size).max(1);
    let salt = xxh3_64_with_seed(trace.id.as_bytes(), seed);
    let longest = Duration::from_millis(given.max_wait_ms);
    let mut ended: Option<f64> = None;
    let turn = |(number, call): (u64, &Call)| {
        let tokens = call.input.max(1);
        let ids = call.hash_ids.iter().take(tokens.div_ceil(block_tokens) as usize);
        let mut request = template.request(Prompt::Blocks {
            ids: ids.map(|id| xxh3_64_with_seed(&id.to_le_bytes(), salt)).collect(),
            with_answer: false,
            block_tokens,
            tokens,
            tail: salt ^ number,
        });
        request.input_tokens = Some(tokens);
        request.output_tokens = Some(call.output.max(1));
        let recorded = ended.map_or(0.0, |ended| call.t - ended);
        let seconds = match (given.ignore_trace_delays, given.use_think_time_only) {
            (true, _) => 0.0,
            (false, true) => call.think_time.unwrap_or(0.0),
            (false, false) => recorded.min(given.trace_idle_gap_cap_seconds),
        };
        ended = Some(ended.unwrap_or(call.t).max(call.end()));
        if let Some(model) = given.model_mapping.as_ref().and_then(|models| models.get(&call.model)) {
            request.model = model.as_str().into();
        }
        if given.use_static_model {
            request.model = given.static_model_name.as_str().into();
        }
        let delay = Duration::try_from_secs_f64(seconds).unwrap_or_default().min(longest);
        Turn { delay: if number == 0 { Duration::ZERO } else { delay }, ..Turn::from(request) }
    };
    (0..).zip(calls).map(turn).collect()
}

impl Trace {
    /// All calls, in the order of their times, if all can be made.
    fn calls(&self) -> Result<Vec<Call>, String> {
        let of = |entry: &Entry| match entry {
            Entry::Call(call) => vec![call.clone()],
            Entry::Agent { t, requests } => {
                let at = |call: &Call| Call { t: since_start(*t, call.t), ..call.clone() };
                requests.iter().map(at).collect()
            }
        };
        let mut calls: Vec<Call> = self.requests.iter().flat_map(of).collect();
        calls.sort_by(|one, other| one.t.total_cmp(&other.t));
        match calls.iter().find(|call| call.input > MAX_PROMPT_TOKENS) {
            None => Ok(calls),
            Some(Call { input, .. }) => {
                Err(format!("a prompt of {input} tokens; at most {MAX_PROMPT_TOKENS} are sent"))
            }
        }
    }
}

/// The time of a nested agent's call in its session: traces state it so, or since the agent was started, which an
/// earlier time than that shows.
fn since_start(agent: f64, call: f64) -> f64 {
    if call + TIME_TOLERANCE < agent { agent + call } else { call }
}

impl Call {
    fn end(&self) -> f64 {
        self.t + self.api_time.unwrap_or(0.0)
    }
}

#[cfg(test)]
mod tests {
    use protocol::Endpoint;

    use super::*;

    const TRACE: &str = r#"{"id": "a", "models": ["x"], "block_size": 16, "requests": [
        {"t": 0.0, "type": "n", "model": "x", "in": 40, "out": 5, "hash_ids": [1, 2], "api_time": 2.0},
        {"t": 4.0, "type": "subagent", "agent_id": "s", "subagent_type": "t",
         "requests": [{"t": 4.5, "type": "n", "model": "x", "in": 16, "out": 3, "hash_ids": [9], "api_time": 1.0}]},
        {"t": 100.0, "type": "s", "model": "x", "in": 48, "out": 6, "hash_ids": [1, 2, 3], "think_time": 1.5, "ttft": 0.1}]}"#;

    fn load(traces: &[String], more: &str) -> Recorded {
        try_load(traces, more).unwrap()
    }

    fn try_load(traces: &[String], more: &str) -> Result<Recorded, Error> {
        let folder = tempfile::tempdir().unwrap();
        for (number, trace) in traces.iter().enumerate() {
            std::fs::write(folder.path().join(format!("{number}.json")), trace).unwrap();
        }
        let given = format!(r#"{{"trace_directory": "{}"{more}}}"#, folder.path().display());
        super::load(
            &serde_json::from_str(&given).unwrap(),
            &RequestTemplate::new(Endpoint::ChatCompletions, "m"),
            1,
        )
    }

    #[test]
    fn a_prompt_that_cannot_be_made_is_an_error_of_its_file() {
        let long = TRACE.replace("\"in\": 40", "\"in\": 4000000000");
        let error = try_load(std::slice::from_ref(&long), "").unwrap_err().to_string();
        assert!(error.contains("0.json") && error.contains("a prompt of 4000000000 tokens"), "{error}");
        let rest = load(&[long, TRACE.to_owned()], r#", "skip_invalid_files": true"#);
        assert!(rest.notes()[0].contains("1 of 2 files left out"), "{:?}", rest.notes());
    }

    fn ids(turn: &Turn) -> Vec<u64> {
        let Prompt::Blocks { ids, .. } = &turn.request.prompt else { panic!("no blocks") };
        ids.to_vec()
    }

    #[test]
    fn calls_come_in_order_with_their_lengths_and_pauses() {
        let recorded = load(&[TRACE.to_owned()], r#", "max_wait_ms": 70000"#);
        let turns = recorded.session(0);
        let lengths: Vec<_> = turns
            .iter()
            .map(|turn| (turn.request.input_tokens.unwrap(), turn.request.output_tokens.unwrap()))
            .collect();
        assert_eq!(lengths, [(40, 5), (16, 3), (48, 6)]);
        let pauses: Vec<f64> = turns.iter().map(|turn| turn.delay.as_secs_f64()).collect();
        assert_eq!(pauses, [0.0, 2.5, 60.0], "idle time is capped");
        assert_eq!(ids(&turns[0])[..], ids(&turns[2])[..2], "equal ids are equal text");
        assert_eq!(recorded.notes(), [""; 0]);
        let think = load(&[TRACE.to_owned()], r#", "use_think_time_only": true"#);
        assert_eq!(think.session(0)[2].delay, Duration::from_millis(1500));
        let none = load(&[TRACE.to_owned()], r#", "ignore_trace_delays": true"#);
        assert!(none.session(0).iter().all(|turn| turn.delay.is_zero()));
    }

    #[test]
    fn a_length_of_nothing_is_one_token_and_said() {
        let recorded = load(&[TRACE.replace("\"out\": 5", "\"out\": 0")], "");
        assert_eq!(recorded.session(0)[0].request.output_tokens, Some(1));
        assert!(recorded.notes()[0].contains("1 calls with a length of 0"), "{:?}", recorded.notes());
    }

    #[test]
    fn calls_of_an_agent_may_have_times_since_its_start() {
        let relative = TRACE.replace("\"t\": 4.5", "\"t\": 0.5");
        let recorded = load(&[relative], r#", "max_wait_ms": 70000"#);
        let pauses: Vec<f64> = recorded.session(0).iter().map(|turn| turn.delay.as_secs_f64()).collect();
        assert_eq!(pauses, [0.0, 2.5, 60.0], "half a second after its agent, not after the session's start");
        assert_eq!(recorded.session(0)[1].request.input_tokens, Some(16), "after the first call");
        assert_eq!(recorded.notes(), [""; 0]);
    }

    #[test]
    fn ids_mean_the_same_within_a_session_only() {
        let other = TRACE.replace(r#""id": "a""#, r#""id": "b""#).replace("\"t\": 4.", "\"t\": 1.");
        let recorded = load(&[TRACE.to_owned(), other], "");
        assert_ne!(ids(&recorded.session(0)[0]), ids(&recorded.session(1)[0]));
        assert!(recorded.notes()[0].contains("1 of 2 sessions have calls that ran at the same time"));
    }
}
