//! Traces as JSON lines: lengths and block ids instead of text.

use std::{collections::HashMap, path::Path, sync::Arc};

use serde::Deserialize;
use serde_json::{Map, Value, value::RawValue};

use super::{
    Dataset, Sessions,
    chat::{TextMessage, messages},
    rows::{Name, counted, finished, time, time_ms},
};
use crate::{Error, Prompt, Request, RequestTemplate, Turn, lines::for_each_record};

#[derive(Deserialize)]
struct MooncakeRow {
    timestamp: Option<f64>,
    delay: Option<f64>,
    session_id: Option<Name>,
    input_length: Option<u32>,
    output_length: Option<u32>,
    hash_ids: Option<Vec<u64>>,
    text_input: Option<String>,
    messages: Option<Vec<TextMessage>>,
    tools: Option<Value>,
    payload: Option<Box<RawValue>>,
    extra: Option<Map<String, Value>>,
}

#[derive(Deserialize)]
struct BailianRow {
    chat_id: Name,
    parent_chat_id: Name,
    timestamp: f64,
    input_length: u32,
    output_length: u32,
    #[serde(default)]
    hash_ids: Vec<u64>,
}

pub(super) fn mooncake(path: &Path, template: &RequestTemplate, block_tokens: u32) -> Result<Dataset, Error> {
    let mut sessions = Sessions::default();
    for_each_record(path, |line, row: MooncakeRow| {
        add_mooncake(&mut sessions, row, template, block_tokens, line)
            .map_err(|problem| Error::line(path, line, problem))
    })?;
    Ok(sessions.dataset)
}

fn add_mooncake(
    sessions: &mut Sessions,
    row: MooncakeRow,
    template: &RequestTemplate,
    block_tokens: u32,
    line: u64,
) -> Result<(), String> {
    if row.hash_ids.is_some() && row.input_length.is_none() {
        return Err("hash_ids need input_length".into());
    }
    let mut request = match (row.input_length, row.text_input, row.messages, row.payload) {
        (Some(tokens), None, None, None) => {
            let ids = row.hash_ids.unwrap_or_default();
            covered(&ids, block_tokens, tokens)?;
            counted(template, ids.into(), block_tokens, tokens, line)?
        }
        (None, Some(text), None, None) => template.request(Prompt::Text(text.into())),
        (None, None, Some(said), None) => template.request(messages(said)),
        (None, None, None, Some(body)) => finished(template, &body)?,
        _ => return Err("give exactly one of input_length, text_input, messages and payload".into()),
    };
    let mut extra = row.extra.unwrap_or_default();
    extra.extend(row.tools.map(|tools| ("tools".to_owned(), tools)));
    request.extra = (!extra.is_empty()).then(|| Arc::new(extra));
    request.output_tokens = row.output_length;
    let delay = row.delay.map(time_ms).transpose()?.unwrap_or_default();
    let at = row.timestamp.map(time_ms).transpose()?;
    let session = row.session_id.map(String::from);
    let conversation = session.as_deref().map(Arc::from);
    sessions.push(session, at, Turn { delay, conversation, ..Turn::from(request) })
}

pub(super) fn bailian(path: &Path, template: &RequestTemplate, block_tokens: u32) -> Result<Dataset, Error> {
    let mut sessions = Sessions::default();
    let mut roots: HashMap<Name, String> = HashMap::new();
    for_each_record(path, |line, row: BailianRow| {
        let root = roots.get(&row.parent_chat_id).cloned().unwrap_or_else(|| row.chat_id.clone().into());
        let turn = bailian_request(&row, template, block_tokens, line);
        roots.insert(row.chat_id, root.clone());
        turn.and_then(|request| sessions.push(Some(root), Some(time(row.timestamp)?), request.into()))
            .map_err(|problem| Error::line(path, line, problem))
    })?;
    Ok(sessions.dataset)
}

fn bailian_request(
    row: &BailianRow,
    template: &RequestTemplate,
    block_tokens: u32,
    line: u64,
) -> Result<Request, String> {
    covered(&row.hash_ids, block_tokens, row.input_length)?;
    let mut request = counted(template, row.hash_ids.clone().into(), block_tokens, row.input_length, line)?;
    request.output_tokens = Some(row.output_length);
    Ok(request)
}

/// Ids beyond the prompt's end mean another block size.
fn covered(ids: &[u64], block_tokens: u32, tokens: u32) -> Result<(), String> {
    let blocks = tokens.div_ceil(block_tokens) as usize;
    if ids.len() > blocks {
        return Err(format!(
            "{} hash_ids for {tokens} tokens: blocks of {block_tokens} tokens would be {blocks}; \
             what is the trace's block size?",
            ids.len()
        ));
    }
    Ok(())
}
