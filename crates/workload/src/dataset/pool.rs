//! Files of texts and of finished bodies.

use std::{path::Path, sync::Arc};

use protocol::Endpoint;
use serde::Deserialize;
use serde_json::{Map, Value, value::RawValue};

use super::{
    Dataset, Sessions,
    rows::{Name, finished, time_ms},
};
use crate::{
    Error, Message, Prompt, Request, RequestTemplate, Turn,
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
        add(&mut sessions, session.clone(), session, row, template)
            .map_err(|problem| Error::line(path, line, problem))
    })?;
    Ok(sessions.dataset)
}

pub(super) fn multi_turns(path: &Path, template: &RequestTemplate) -> Result<Dataset, Error> {
    let mut sessions = Sessions::default();
    for_each_record(path, |line, row: SessionRow| {
        // A session without a name is named by its line.
        let name = row.session_id.map(String::from);
        let session = name.clone().unwrap_or_else(|| format!("line {line}"));
        row.turns.into_iter().try_for_each(|turn| {
            let added = add(&mut sessions, Some(session.clone()), name.clone(), turn, template);
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
        session_id: Option<Name>,
        payloads: Vec<Box<RawValue>>,
    }
    let inputs: Inputs = serde_json::from_reader(open(path)?).map_err(|error| Error::file(path, error))?;
    let mut sessions = Sessions::default();
    for (number, session) in inputs.data.into_iter().enumerate() {
        let conversation: Option<Arc<str>> = session.session_id.map(|name| String::from(name).into());
        for body in session.payloads {
            let turn = |request: Request| Turn { conversation: conversation.clone(), ..Turn::from(request) };
            finished(template, &body)
                .and_then(|request| sessions.push(Some(number.to_string()), None, turn(request)))
                .map_err(|problem| Error::file(path, format_args!("session {number}: {problem}")))?;
        }
    }
    Ok(sessions.dataset)
}

/// Adds a row to the session that `session` tells apart, which the file calls `name`.
fn add(
    sessions: &mut Sessions,
    session: Option<String>,
    name: Option<String>,
    row: Row,
    template: &RequestTemplate,
) -> Result<(), String> {
    let texts = match (row.text, row.texts) {
        (Some(text), None) => vec![text],
        (None, Some(texts)) if !texts.is_empty() => texts,
        _ => return Err("give either text or texts".into()),
    };
    if texts.len() > 1 && template.endpoint != Endpoint::Embeddings {
        let count = texts.len();
        return Err(format!("{count} texts in one request: only embeddings take several, others one"));
    }
    let list = (texts.len() > 1).then(|| ("input".to_owned(), Value::from(texts.clone())));
    let text: Arc<str> = texts.concat().into();
    let prompt = match row.role {
        Some(role) if role != "user" => Prompt::Messages([Message::new(role, text)].into()),
        _ => Prompt::Text(text),
    };
    let mut turn = Turn::from(template.request(prompt));
    turn.conversation = name.map(Arc::from);
    turn.request.output_tokens = row.output_length;
    // The prompt is what is counted; the list is what is sent.
    let extra: Map<String, Value> = list.into_iter().chain(row.extra.into_iter().flatten()).collect();
    turn.request.extra = (!extra.is_empty()).then(|| Arc::new(extra));
    turn.delay = row.delay.map(time_ms).transpose()?.unwrap_or_default();
    let at = row.timestamp.map(time_ms).transpose()?;
    sessions.push(session, at, turn)
}
