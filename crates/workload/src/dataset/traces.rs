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
    parent_chat_id: Option<Name>,
    #[serde(default = "first_turn")]
    turn: i64,
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
            // Without block ids nobody can say what two rows share: what comes before is then the earlier turns.
            let ids = row.hash_ids.unwrap_or_default();
            let adds = ids.is_empty() && row.session_id.is_some();
            covered(&ids, block_tokens, tokens)?;
            Request { is_whole: !adds, ..counted(template, ids.into(), block_tokens, tokens, line)? }
        }
        (None, Some(text), None, None) => template.request(Prompt::Text(text.into())),
        (None, None, Some(said), None) => Request { is_whole: true, ..template.request(messages(said)) },
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

/// Chats name their parents, which may come after them; a chat whose parent the file lacks is a root. A session is a
/// root and its descendants, in the order of their turns and in the place of its first row.
pub(super) fn bailian(path: &Path, template: &RequestTemplate, block_tokens: u32) -> Result<Dataset, Error> {
    let mut rows: Vec<(u64, BailianRow)> = Vec::new();
    for_each_record(path, |line, row: BailianRow| {
        rows.push((line, row));
        Ok(())
    })?;
    let mut order: Vec<(usize, i64, usize)> = Vec::with_capacity(rows.len());
    let mut places: HashMap<&Name, usize> = HashMap::new();
    for (place, root) in bailian_roots(&rows).into_iter().enumerate() {
        order.push((*places.entry(root).or_insert(place), rows[place].1.turn, place));
    }
    order.sort_unstable();
    let mut sessions = Sessions::default();
    for (session, _, place) in order {
        let (line, row) = &rows[place];
        bailian_request(row, template, block_tokens, *line)
            .and_then(|request| {
                sessions.push(Some(session.to_string()), Some(time(row.timestamp)?), request.into())
            })
            .map_err(|problem| Error::line(path, *line, problem))?;
    }
    Ok(sessions.dataset)
}

/// The root of each row's chat. Chats that are each other's ancestors have one of them for a root.
fn bailian_roots(rows: &[(u64, BailianRow)]) -> Vec<&Name> {
    let chats: HashMap<&Name, &BailianRow> = rows.iter().map(|(_, row)| (&row.chat_id, row)).collect();
    let mut roots: HashMap<&Name, &Name> = HashMap::with_capacity(rows.len());
    let mut all = Vec::with_capacity(rows.len());
    for (_, row) in rows {
        let (mut chat, mut path) = (row, Vec::new());
        // Marking the way before its end is known ends it where it would go round.
        while !roots.contains_key(&chat.chat_id) {
            roots.insert(&chat.chat_id, &chat.chat_id);
            let parent = chat.parent_chat_id.as_ref().and_then(|parent| chats.get(parent));
            let Some(parent) = parent else { break };
            path.push(&chat.chat_id);
            chat = parent;
        }
        let root = roots[&chat.chat_id];
        roots.extend(path.into_iter().map(|chat| (chat, root)));
        all.push(root);
    }
    all
}

/// Of rows that do not say theirs.
fn first_turn() -> i64 {
    1
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
