//! Files of texts and of finished bodies.

use std::{path::Path, sync::Arc, time::Duration};

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

/// One request. Pictures, sound and films are unknown fields, and therefore errors. `prompt` and `output_tokens` are
/// the words of vLLM's `custom` files.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Row {
    #[serde(default, rename = "type")]
    _kind: Option<String>,
    #[serde(alias = "prompt")]
    text: Option<String>,
    texts: Option<Vec<Texts>>,
    role: Option<String>,
    timestamp: Option<f64>,
    delay: Option<f64>,
    session_id: Option<Name>,
    #[serde(alias = "max_tokens", alias = "output_tokens")]
    output_length: Option<u32>,
    extra: Option<Map<String, Value>>,
}

/// A text, or texts under a name that is not sent.
#[derive(Deserialize)]
#[serde(untagged, expecting = "texts are strings, or objects of a name and of contents that are strings")]
enum Texts {
    One(String),
    Named(NamedTexts),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NamedTexts {
    #[serde(default, rename = "name")]
    _name: Option<String>,
    contents: Vec<String>,
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
        turn(row, session.as_deref(), template)
            .and_then(|(at, mut turn)| {
                turn.request.is_whole = true;
                sessions.push(session, at, turn)
            })
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
        row.turns.into_iter().try_for_each(|row| {
            turn(row, name.as_deref(), template)
                .and_then(|(at, turn)| sessions.push(Some(session.clone()), at, turn))
                .map_err(|problem| Error::line(path, line, problem))
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

/// The time and the turn of a row, in a session which the file calls `name`.
fn turn(
    row: Row,
    name: Option<&str>,
    template: &RequestTemplate,
) -> Result<(Option<Duration>, Turn), String> {
    let texts = match (row.text, row.texts) {
        (Some(text), None) => vec![text],
        (None, Some(texts)) => texts.into_iter().flat_map(Vec::from).collect(),
        _ => Vec::new(),
    };
    if texts.is_empty() {
        return Err("give either text or texts".into());
    }
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
    Ok((row.timestamp.map(time_ms).transpose()?, turn))
}

impl From<Texts> for Vec<String> {
    fn from(texts: Texts) -> Self {
        match texts {
            Texts::One(text) => vec![text],
            Texts::Named(named) => named.contents,
        }
    }
}
