//! Files of texts and of finished bodies.

use std::{path::Path, sync::Arc};

use serde::Deserialize;
use serde_json::{Map, Value, value::RawValue};

use super::{
    Dataset, Sessions,
    rows::{Name, finished, time_ms},
};
use crate::{
    Error, Message, Prompt, RequestTemplate, Turn,
    lines::{for_each_record, open},
};

/// One request. Pictures, sound and films are unknown fields, and therefore errors.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Row {
    #[serde(default, rename = "type")]
    _kind: Option<String>,
    text: Option<String>,
    texts: Option<Vec<String>>,
    role: Option<String>,
    timestamp: Option<f64>,
    delay: Option<f64>,
    session_id: Option<Name>,
    #[serde(alias = "max_tokens")]
    output_length: Option<u32>,
    extra: Option<Map<String, Value>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SessionRow {
    #[serde(default, rename = "type")]
    _kind: Option<String>,
    session_id: Option<Name>,
    turns: Vec<Row>,
}

pub(super) fn single_turns(path: &Path, template: &RequestTemplate) -> Result<Dataset, Error> {
    let mut sessions = Sessions::default();
    for_each_record(path, |line, mut row: Row| {
        let session = row.session_id.take().map(String::from);
        add(&mut sessions, session, row, template).map_err(|problem| Error::line(path, line, problem))
    })?;
    Ok(sessions.dataset)
}

pub(super) fn multi_turns(path: &Path, template: &RequestTemplate) -> Result<Dataset, Error> {
    let mut sessions = Sessions::default();
    for_each_record(path, |line, row: SessionRow| {
        // A session without a name is named by its line.
        let session = row.session_id.map_or_else(|| format!("line {line}"), String::from);
        row.turns.into_iter().try_for_each(|turn| {
            let added = add(&mut sessions, Some(session.clone()), turn, template);
            added.map_err(|problem| Error::line(path, line, problem))
        })
    })?;
    Ok(sessions.dataset)
}

pub(super) fn raw_payloads(path: &Path, template: &RequestTemplate) -> Result<Dataset, Error> {
    let mut sessions = Sessions::default();
    for_each_record(path, |line, body: Box<RawValue>| {
        let request = finished(template, &body).map_err(|problem| Error::line(path, line, problem))?;
        sessions.push(None, None, request.into()).map_err(|problem| Error::line(path, line, problem))
    })?;
    Ok(sessions.dataset)
}

pub(super) fn inputs_json(path: &Path, template: &RequestTemplate) -> Result<Dataset, Error> {
    #[derive(Deserialize)]
    struct Inputs {
        data: Vec<Session>,
    }
    #[derive(Deserialize)]
    struct Session {
        payloads: Vec<Box<RawValue>>,
    }
    let inputs: Inputs = serde_json::from_reader(open(path)?).map_err(|error| Error::file(path, error))?;
    let mut sessions = Sessions::default();
    for (number, session) in inputs.data.into_iter().enumerate() {
        for body in session.payloads {
            finished(template, &body)
                .and_then(|request| sessions.push(Some(number.to_string()), None, request.into()))
                .map_err(|problem| Error::file(path, format_args!("session {number}: {problem}")))?;
        }
    }
    Ok(sessions.dataset)
}

fn add(
    sessions: &mut Sessions,
    session: Option<String>,
    row: Row,
    template: &RequestTemplate,
) -> Result<(), String> {
    let text: Arc<str> = match (row.text, row.texts) {
        (Some(text), None) => text.into(),
        (None, Some(texts)) => match <[String; 1]>::try_from(texts) {
            Ok([text]) => text.into(),
            Err(texts) => return Err(format!("{} texts in one request: give one", texts.len())),
        },
        _ => return Err("give either text or texts".into()),
    };
    let prompt = match row.role {
        Some(role) if role != "user" => Prompt::Messages([Message::new(role, text)].into()),
        _ => Prompt::Text(text),
    };
    let mut turn = Turn::from(template.request(prompt));
    turn.request.output_tokens = row.output_length;
    turn.request.extra = row.extra.map(Arc::new);
    turn.delay = row.delay.map(time_ms).transpose()?.unwrap_or_default();
    let at = row.timestamp.map(time_ms).transpose()?;
    sessions.push(session, at, turn)
}
