//! `inputs.json`: the bodies of the measured phase, as AIPerf writes them, to look at or to send again
//! (`--custom-dataset-type inputs-json`).
//!
//! Written after the run, from the same seed, so that it costs the run nothing. A turn's body holds the turn alone, as
//! AIPerf's does: what the server answered before is not in it. The names of sessions are those of the records. At
//! most [`MOST_SESSIONS`] sessions, and no session after [`MOST_BYTES`].

use report::aiperf::conversation_name;
use serde_json::value::{RawValue, to_raw_value};
use workload::write_body;

use super::{Arguments, data::Data, targets::body_options};

/// Most sessions in the file.
const MOST_SESSIONS: usize = 10_000;
/// No session is added to a file of this size.
const MOST_BYTES: usize = 64 << 20;

#[derive(serde::Serialize)]
struct Session {
    session_id: String,
    payloads: Vec<Box<RawValue>>,
}

/// The content of the file: `sessions` of them, named from `first` on.
pub(super) fn inputs_json(
    arguments: &Arguments,
    data: &Data,
    seed: u64,
    first: u64,
    sessions: usize,
) -> anyhow::Result<String> {
    let options = body_options(arguments);
    let mut text = "{\"data\":[".to_owned();
    for (number, turns) in (first..).zip(data.sent(arguments, seed)?).take(sessions.min(MOST_SESSIONS)) {
        let payload = |turn: &workload::Turn| {
            let mut body = Vec::new();
            write_body(&turn.request, &[], &options, &mut body);
            let body = String::from_utf8_lossy(&body).into_owned();
            // A finished body that is no JSON stands there as text.
            RawValue::from_string(body.clone()).or_else(|_| to_raw_value(&body))
        };
        let own = turns.first().and_then(|turn| turn.conversation.as_deref());
        let name = conversation_name(own, number);
        let payloads: Result<Vec<_>, _> = turns.iter().map(payload).collect();
        let session = Session { session_id: name, payloads: payloads? };
        text += if number == first { "\n" } else { ",\n" };
        text += &serde_json::to_string(&session)?;
        if text.len() > MOST_BYTES {
            break;
        }
    }
    Ok(text + "\n]}\n")
}
