//! Recorded sessions of calls to a model, as OpenTelemetry keeps them: `otel_trace_replay`.
//!
//! A file is a session: a JSON object with a list of `spans`. A span is a call if its `gen_ai.operation.name` is
//! `chat`, or its name begins with `chat `, and it has `gen_ai.input.messages`; a span with the times and the attributes
//! of one before it is the same one, written twice. Calls are made in the order of their
//! starts, one after the other, each after the recorded time since the end of those before it. Answers are as long as
//! the recorded ones.
//!
//! Where a session is one conversation of plain text, a call adds what its messages have beyond the last call's, and
//! the server's own answers stand in for the recorded ones. Everywhere else (tools, branches, calls at the same time)
//! the messages are sent as they were recorded. Tools are offered as recorded, and none is forced. Calls that ran at
//! the same time are not: the user is told how many sessions have such.

use std::{collections::HashSet, path::Path, sync::Arc, time::Duration};

use protocol::estimate_tokens;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::{OtelReplay, prompts::read_text, talks::Recorded};
use crate::{Error, Message, Prompt, RequestTemplate, Turn, date_time::nanoseconds};

#[derive(Debug, Deserialize)]
struct File {
    spans: Vec<Span>,
}

#[derive(Debug, Deserialize)]
struct Span {
    #[serde(default)]
    name: String,
    start_time: Option<String>,
    end_time: Option<String>,
    status: Option<Value>,
    #[serde(default)]
    attributes: Map<String, Value>,
}

/// One call. Times are nanoseconds since 1970.
#[derive(Debug)]
struct Call {
    start: i128,
    end: i128,
    model: String,
    /// As they go over the wire.
    messages: Vec<Value>,
    tools: Option<Value>,
    input_tokens: Option<u32>,
    output_tokens: Option<u32>,
}

/// What is peculiar about the sessions.
#[derive(Default)]
struct Peculiar {
    as_recorded: usize,
    at_once: usize,
    tools: usize,
    left_out: Vec<String>,
}

/// The sessions that the configuration names.
pub(super) fn load(given: &OtelReplay, template: &RequestTemplate) -> Result<Recorded, Error> {
    let files = super::files::traces(given.trace_directory.as_deref(), given.trace_files.as_deref())?;
    let mut peculiar = Peculiar::default();
    let mut sessions = Vec::new();
    for path in &files {
        match calls(path, given.include_errors) {
            Ok(calls) => {
                let turns = turns(&calls, given, template, &mut peculiar);
                sessions.push((path.display().to_string().into(), turns.into()));
            }
            Err(error) if given.skip_invalid_files => peculiar.left_out.push(error.to_string()),
            Err(error) => return Err(error),
        }
    }
    Recorded::new(sessions, given.duplicate_sessions_target, peculiar.notes(files.len()))
}

fn calls(path: &Path, include_errors: bool) -> Result<Vec<Call>, Error> {
    let text = read_text(path)?;
    let file: File = serde_json::from_str(&text).map_err(|error| Error::file(path, error))?;
    let mut known = HashSet::new();
    let wanted = |span: &&Span| span.is_call() && (include_errors || !span.has_failed());
    // Exporters may write a span twice, under two ids.
    let spans = file.spans.iter().filter(wanted).filter(|span| known.insert(span.content()));
    let calls = spans.map(Call::of).collect::<Result<Vec<_>, _>>();
    let mut calls = calls.map_err(|problem| Error::file(path, problem))?;
    if calls.is_empty() {
        return Err(Error::file(path, "no call in it: no span with gen_ai.operation.name chat and messages"));
    }
    calls.sort_by_key(|call| call.start);
    Ok(calls)
}

fn turns(
    calls: &[Call],
    given: &OtelReplay,
    template: &RequestTemplate,
    peculiar: &mut Peculiar,
) -> Vec<Turn> {
    let is_conversation = !given.disable_output_substitution
        && calls.iter().all(Call::is_plain)
        && calls.windows(2).all(|pair| pair[1].continues(&pair[0]));
    peculiar.as_recorded += usize::from(!is_conversation);
    peculiar.at_once += usize::from(calls.windows(2).any(|pair| pair[1].start < pair[0].end));
    peculiar.tools += usize::from(calls.iter().any(|call| call.tools.is_some()));
    let mut before: Option<&Call> = None;
    let mut ended = calls.first().map_or(0, |call| call.start);
    let longest = Duration::from_millis(given.max_wait_ms);
    let turn = |call| {
        let known =
            before.replace(call).filter(|_| is_conversation).map_or(0, |last| last.messages.len() + 1);
        let prompt = if is_conversation { call.said(known) } else { Vec::new() };
        let mut request = template.request(Prompt::Messages(prompt.into()));
        if !is_conversation {
            request.extra = Some(Arc::new(call.whole()));
        }
        request.model = match given.model_mapping.as_ref().and_then(|models| models.get(&call.model)) {
            _ if given.use_static_model => given.static_model_name.as_str().into(),
            Some(model) => model.as_str().into(),
            None => Arc::clone(&template.model),
        };
        request.input_tokens = call.input_tokens;
        request.output_tokens = Some(call.output_tokens.unwrap_or(given.default_max_tokens).max(1));
        let waited = u64::try_from((call.start - ended).max(0)).unwrap_or(u64::MAX);
        ended = ended.max(call.end);
        Turn { delay: Duration::from_nanos(waited).min(longest), ..Turn::from(request) }
    };
    calls.iter().map(turn).collect()
}

impl Span {
    fn is_call(&self) -> bool {
        let named = self.attributes.get("gen_ai.operation.name").is_some_and(|name| name == "chat");
        let messages = self.attributes.get("gen_ai.input.messages");
        (named || self.name.starts_with("chat ")) && messages.is_some_and(|messages| !is_empty(messages))
    }

    /// What makes two spans the same.
    fn content(&self) -> (Option<&str>, Option<&str>, String) {
        let attributes = serde_json::to_string(&self.attributes).unwrap_or_default();
        (self.start_time.as_deref(), self.end_time.as_deref(), attributes)
    }

    fn has_failed(&self) -> bool {
        self.status.as_ref().is_some_and(|status| status["code"] == 2)
    }

    /// An attribute whose value is JSON, or a text that is JSON.
    fn json(&self, key: &str) -> Result<Option<Value>, String> {
        match self.attributes.get(key) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(text)) => serde_json::from_str(text)
                .map(Some)
                .map_err(|error| format!("{key} of span {:?}: {error}", self.name)),
            Some(value) => Ok(Some(value.clone())),
        }
    }

    fn number(&self, keys: [&str; 2]) -> Option<u32> {
        let number = keys.iter().find_map(|key| self.attributes.get(*key)?.as_u64())?;
        u32::try_from(number).ok()
    }
}

impl Call {
    fn of(span: &Span) -> Result<Self, String> {
        let time =
            |text: &str| nanoseconds(text).ok_or_else(|| format!("{text:?} is not a time in ISO 8601"));
        let start = span.start_time.as_deref();
        let start =
            time(start.ok_or_else(|| format!("span {:?} is a call and has no start_time", span.name))?)?;
        let end = span.end_time.as_deref().map_or(Ok(start), time)?.max(start);
        let mut messages = Vec::new();
        for message in
            span.json("gen_ai.input.messages")?.as_ref().and_then(Value::as_array).into_iter().flatten()
        {
            push_wire(message, &mut messages)?;
        }
        if messages.is_empty() {
            return Err(format!("gen_ai.input.messages of span {:?} is not a list of messages", span.name));
        }
        let answer = span.json("gen_ai.output.messages")?.map(|said| text_of(&said));
        let text = ["gen_ai.output.text", "gen_ai.completion", "gen_ai.output"];
        let text = text.iter().find_map(|key| span.attributes.get(*key)?.as_str().map(str::to_owned));
        let output = text.or(answer).map(|text| estimate_tokens(text.len()));
        let tools = span.json("gen_ai.tool.definitions")?;
        Ok(Self {
            start,
            end,
            model: span
                .attributes
                .get("gen_ai.request.model")
                .and_then(Value::as_str)
                .unwrap_or_default()
                .to_owned(),
            messages,
            tools: tools.filter(|tools| tools.as_array().is_some_and(|tools| !tools.is_empty())),
            input_tokens: span.number(["gen_ai.usage.input_tokens", "gen_ai.usage.prompt_tokens"]),
            output_tokens: span
                .number(["gen_ai.usage.output_tokens", "gen_ai.usage.completion_tokens"])
                .or(output),
        })
    }

    /// Roles and texts, and nothing else.
    fn is_plain(&self) -> bool {
        let plain = |message: &Value| {
            message.as_object().is_some_and(|parts| parts.len() == 2)
                && message["content"].is_string()
                && message["role"] != "tool"
        };
        self.tools.is_none() && self.messages.iter().all(plain)
    }

    /// Whether it goes on where `last` ended: with its answer, and something new.
    fn continues(&self, last: &Self) -> bool {
        let known = last.messages.len();
        self.start >= last.end
            && self.messages.len() > known + 1
            && self.messages.starts_with(&last.messages)
            && self.messages[known]["role"] == "assistant"
    }

    /// The messages from `known` on.
    fn said(&self, known: usize) -> Vec<Message> {
        let text = |message: &Value, key: &str| message[key].as_str().unwrap_or_default().to_owned();
        self.messages[known..]
            .iter()
            .map(|message| Message::new(text(message, "role"), text(message, "content")))
            .collect()
    }

    /// The parts of the body that say what was recorded.
    fn whole(&self) -> Map<String, Value> {
        let mut body = Map::new();
        body.insert("messages".to_owned(), self.messages.clone().into());
        body.extend(self.tools.clone().map(|tools| ("tools".to_owned(), tools)));
        body
    }
}

/// Whether an attribute says nothing: some exporters write all of them on every span.
fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::String(text) => text.is_empty(),
        Value::Array(list) => list.is_empty(),
        _ => false,
    }
}

/// Appends a recorded message as the chat operation wants it. Results of several tools become a message each.
fn push_wire(message: &Value, messages: &mut Vec<Value>) -> Result<(), String> {
    let role = match message["role"].as_str() {
        Some("developer") => "system",
        Some(role) => role,
        None => return Err("a message has no role".to_owned()),
    };
    let parts = message["parts"].as_array().or(message["content"].as_array());
    let parts = parts.map(Vec::as_slice).unwrap_or_default();
    let of_kind = |kind: &'static str| parts.iter().filter(move |part| part["type"] == kind);
    let results: Vec<Value> = of_kind("tool_call_response")
        .map(|part| {
            let result = if part["response"].is_null() { &part["result"] } else { &part["response"] };
            json!({ "role": "tool", "tool_call_id": part["id"], "content": text_of(result) })
        })
        .collect();
    if !results.is_empty() {
        messages.extend(results);
        return Ok(());
    }
    let given = message["tool_calls"].as_array().into_iter().flatten();
    let tool_calls = given.chain(of_kind("tool_call")).map(tool_call).collect::<Result<Vec<_>, _>>()?;
    let text = if parts.is_empty() { text_of(&message["content"]) } else { text_of(&json!(parts)) };
    let mut wire = json!({ "role": role });
    if !tool_calls.is_empty() {
        wire["tool_calls"] = tool_calls.into();
    }
    if !text.is_empty() || wire["tool_calls"].is_null() {
        wire["content"] = text.into();
    }
    if role == "tool" && !message["tool_call_id"].is_null() {
        wire["tool_call_id"] = message["tool_call_id"].clone();
    }
    messages.push(
        wire.as_object()
            .map(|wire| {
                wire.iter()
                    .filter(|(_, value)| !value.is_null())
                    .map(|(key, value)| (key.clone(), value.clone()))
                    .collect::<Map<_, _>>()
            })
            .unwrap_or_default()
            .into(),
    );
    Ok(())
}

fn tool_call(call: &Value) -> Result<Value, String> {
    let function = if call["function"].is_object() { &call["function"] } else { call };
    let (id, name) = (call["id"].as_str(), function["name"].as_str());
    let (Some(id), Some(name)) = (id, name) else {
        return Err("a tool call has no id or no name".to_owned());
    };
    let arguments = match &function["arguments"] {
        Value::String(text) => text.clone(),
        Value::Null => String::new(),
        value => value.to_string(),
    };
    Ok(json!({ "id": id, "type": "function", "function": { "name": name, "arguments": arguments } }))
}

/// The text of a message or of its parts.
fn text_of(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Array(parts) => parts.iter().map(text_of).collect(),
        Value::Object(part) => ["text", "content", "parts", "arguments"]
            .iter()
            .filter_map(|key| part.get(*key))
            .map(text_of)
            .collect(),
        _ => String::new(),
    }
}

impl Peculiar {
    fn notes(self, files: usize) -> Vec<String> {
        let mut notes = Vec::new();
        let mut note = |count: usize, text: &str| {
            if count > 0 {
                notes.push(format!("otel_trace_replay: {count} of {files} {text}"));
            }
        };
        note(
            self.at_once,
            "sessions have calls that ran at the same time: they are made one after the other",
        );
        note(
            self.as_recorded,
            "sessions are sent as they were recorded, without the server's own answers: they are not one conversation of plain text",
        );
        note(self.tools, "sessions offer tools: no tool is forced");
        let first = self.left_out.first().cloned().unwrap_or_default();
        note(self.left_out.len(), &format!("files left out: {first}"));
        notes
    }
}

#[cfg(test)]
mod tests {
    use protocol::Endpoint;

    use super::*;

    fn span(start: u32, end: u32, messages: &Value, more: &Value) -> Value {
        let mut attributes = json!({
            "gen_ai.operation.name": "chat", "gen_ai.request.model": "recorded",
            "gen_ai.input.messages": messages.to_string(), "gen_ai.usage.output_tokens": 7,
        });
        attributes.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let time = |second: u32| format!("2026-01-01T00:00:{second:02}.500Z");
        json!({ "name": "chat m", "start_time": time(start), "end_time": time(end), "attributes": attributes })
    }

    fn load(spans: &[Value], more: &str) -> Result<Recorded, Error> {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("a.json"), json!({ "spans": spans }).to_string()).unwrap();
        let given = format!(r#"{{"trace_directory": "{}"{more}}}"#, folder.path().display());
        let template = RequestTemplate::new(Endpoint::ChatCompletions, "m");
        super::load(&serde_json::from_str(&given).unwrap(), &template)
    }

    fn said(role: &str, text: &str) -> Value {
        json!({ "role": role, "content": text })
    }

    #[test]
    fn a_conversation_is_played_with_the_servers_own_answers() {
        let first = json!([said("developer", "Be kind."), said("user", "Hi")]);
        let second = json!([
            said("developer", "Be kind."),
            said("user", "Hi"),
            said("assistant", "Hello"),
            said("user", "Bye")
        ]);
        let other = json!({ "name": "tool x", "start_time": "2026-01-01T00:00:02Z", "end_time": null });
        let spans = [span(9, 10, &second, &json!({})), other, span(1, 3, &first, &json!({}))];
        let recorded = load(&spans, r#", "model_mapping": {"recorded": "mapped"}"#).unwrap();
        assert_eq!(recorded.notes(), [""; 0]);
        let turns = recorded.session(0);
        let texts = |turn: &Turn| match &turn.request.prompt {
            Prompt::Messages(said) => {
                said.iter().map(|said| format!("{}: {}", said.role, said.content)).collect::<Vec<_>>()
            }
            _ => panic!("another prompt"),
        };
        assert_eq!(texts(&turns[0]), ["system: Be kind.", "user: Hi"]);
        assert_eq!(texts(&turns[1]), ["user: Bye"]);
        assert_eq!((turns[0].delay, turns[1].delay), (Duration::ZERO, Duration::from_secs(6)));
        assert_eq!((&*turns[1].request.model, turns[1].request.output_tokens), ("mapped", Some(7)));
    }

    #[test]
    fn tools_and_branches_are_sent_as_they_were_recorded() {
        let call = json!({ "role": "assistant", "parts": [{ "type": "tool_call", "id": "c1", "name": "f", "arguments": { "x": 1 } }] });
        let result = json!({ "role": "user", "parts": [{ "type": "tool_call_response", "id": "c1", "response": "42" }] });
        let messages = json!([said("user", "Count"), call, result]);
        let tools =
            json!({ "gen_ai.tool.definitions": [{ "type": "function", "function": { "name": "f" } }] });
        let spans = [span(1, 5, &json!([said("user", "Count")]), &tools), span(4, 6, &messages, &tools)];
        let recorded = load(&spans, r#", "max_wait_ms": 10"#).unwrap();
        let turns = recorded.session(0);
        let body = turns[1].request.extra.as_ref().unwrap();
        assert_eq!(body["messages"][1]["tool_calls"][0]["function"]["arguments"], r#"{"x":1}"#);
        assert_eq!(body["messages"][2], json!({ "role": "tool", "tool_call_id": "c1", "content": "42" }));
        assert_eq!(body["tools"][0]["function"]["name"], "f");
        assert_eq!(turns[1].delay, Duration::ZERO);
        let notes = recorded.notes().join("\n");
        for part in ["at the same time", "as they were recorded", "no tool is forced"] {
            assert!(notes.contains(part), "{part} in {notes}");
        }
    }

    #[test]
    fn a_span_that_was_written_twice_is_one_call_and_one_without_messages_is_none() {
        let first = span(1, 3, &json!([said("user", "Hi")]), &json!({}));
        let mut again = first.clone();
        again["span_id"] = json!("another");
        let later = span(2, 3, &json!([said("user", "Hi")]), &json!({}));
        let mut silent = span(4, 5, &json!([]), &json!({ "gen_ai.input.messages": "" }));
        silent["start_time"] = Value::Null;
        let timeless = json!({ "name": "tool x", "attributes": {} });
        let recorded = load(&[first, again, silent, timeless, later], "").unwrap();
        assert_eq!(recorded.session(0).len(), 2);
        let mut call = span(1, 3, &json!([said("user", "Hi")]), &json!({}));
        call["start_time"] = Value::Null;
        let error = load(&[call], "").unwrap_err().to_string();
        assert!(error.contains("span \"chat m\" is a call and has no start_time"), "{error}");
    }

    #[test]
    fn what_is_no_recording_is_said_or_left_out() {
        let bad = [json!({ "name": "x", "start_time": "2026-01-01T00:00:02Z" })];
        assert!(load(&bad, "").unwrap_err().to_string().contains("no call in it"));
        let empty = load(&bad, r#", "skip_invalid_files": true"#).unwrap_err().to_string();
        assert!(empty.contains("no session"), "{empty}");
        let mut failed = span(1, 2, &json!([said("user", "Hi")]), &json!({}));
        failed["status"] = json!({ "code": 2 });
        assert!(load(&[failed.clone()], r#", "include_errors": false"#).is_err());
        let twice = load(&[failed], r#", "duplicate_sessions_target": 3"#).unwrap();
        assert_eq!(twice.sessions(), 3);
    }
}
