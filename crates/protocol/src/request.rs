//! A view of a request body: what routing, accounting and the simulated engine need, borrowed from the bytes.
//!
//! The body itself is never rewritten; this is only a look at it. The view is as tolerant as it can be without
//! guessing: unknown members are skipped, of a repeated member the last counts (but inside a message all do, which
//! is read in one pass: its text is that of several members, and nobody repeats one), and an optional member of the
//! wrong type counts as absent, because refusing it is the engine's business. What cannot be read is an error:
//! bytes that are not JSON, a `model` that is not a string, a prompt whose text cannot be known, and one of so many
//! parts (65,536, or four million token ids) that no engine has room for it.

use std::{borrow::Cow, fmt};

use serde::{
    Deserialize, Deserializer,
    de::{DeserializeSeed, IgnoredAny, MapAccess, Visitor},
};
use serde_json::{error::Category, value::RawValue};

use crate::{
    Endpoint,
    json::Text,
    prompt::{BatchInput, Content, Input, ItemsInput, Messages, NEXT_PROMPT, close, open},
};

/// Role of the message that is about to be generated.
const ASSISTANT: &str = "assistant";

/// Why a body could not be read.
#[derive(Debug, thiserror::Error)]
pub enum RequestError {
    /// Not JSON, or cut off.
    #[error("the request body is not valid JSON: {0}")]
    Syntax(#[source] serde_json::Error),
    /// JSON, but not a request.
    #[error("the request body is not a valid request for {path}: {source}")]
    Shape {
        /// The path of the operation.
        path: &'static str,
        /// What is wrong, and where.
        source: serde_json::Error,
    },
}

/// What a request body says, borrowed from it.
#[derive(Clone, Debug)]
pub struct RequestView<'a> {
    /// The operation it asks for.
    pub endpoint: Endpoint,
    /// `model`; empty where the body names none.
    pub model: Cow<'a, str>,
    /// `stream`.
    pub stream: bool,
    /// `stream_options.include_usage`.
    pub include_usage: bool,
    /// The limit on the answer's length: `max_completion_tokens`, else `max_tokens`; `max_output_tokens` for
    /// responses.
    pub max_tokens: Option<u32>,
    /// `user`; `metadata.user_id` for messages.
    pub user: Option<Cow<'a, str>>,
    /// `prompt_cache_key`.
    pub prompt_cache_key: Option<Cow<'a, str>>,
    /// `ignore_eos`, vLLM's extension: generate to the limit.
    pub ignore_eos: bool,
    /// `n`, the number of answers asked for.
    pub choices: Option<u32>,
    stop: Option<&'a str>,
    tools: Option<&'a str>,
    functions: Option<&'a str>,
    system: Content<'a>,
    input: Input<'a>,
}

struct BodySeed(Endpoint);

#[derive(Deserialize)]
#[serde(field_identifier, rename_all = "snake_case")]
enum Member {
    Model,
    Stream,
    StreamOptions,
    MaxTokens,
    MaxCompletionTokens,
    MaxOutputTokens,
    User,
    Metadata,
    PromptCacheKey,
    Stop,
    StopSequences,
    IgnoreEos,
    N,
    Tools,
    Functions,
    System,
    Instructions,
    Messages,
    Prompt,
    Input,
    #[serde(other)]
    Other,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct StreamOptions {
    include_usage: bool,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Metadata<'a> {
    #[serde(borrow)]
    user_id: Option<Text<'a>>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Stop<'a> {
    #[serde(borrow)]
    One(Text<'a>),
    Many(Vec<Text<'a>>),
}

// === impl RequestView ===

impl<'a> RequestView<'a> {
    /// Reads the body of a request to `endpoint`.
    ///
    /// # Errors
    /// When the body is not JSON, `model` is not a string, or the prompt has no readable shape. A body without
    /// a prompt is not an error, see [`has_prompt`](Self::has_prompt).
    pub fn parse(endpoint: Endpoint, body: &'a [u8]) -> Result<Self, RequestError> {
        let mut deserializer = serde_json::Deserializer::from_slice(body);
        BodySeed(endpoint)
            .deserialize(&mut deserializer)
            .and_then(|view| deserializer.end().map(|()| view))
            .map_err(|source| match source.classify() {
                Category::Data => RequestError::Shape { path: endpoint.path(), source },
                Category::Io | Category::Syntax | Category::Eof => RequestError::Syntax(source),
            })
    }

    fn empty(endpoint: Endpoint) -> Self {
        Self {
            endpoint,
            model: Cow::default(),
            stream: false,
            include_usage: false,
            max_tokens: None,
            user: None,
            prompt_cache_key: None,
            ignore_eos: false,
            choices: None,
            stop: None,
            tools: None,
            functions: None,
            system: Content::default(),
            input: Input::default(),
        }
    }

    /// Whether the body has a prompt, of any shape, an empty one included.
    pub fn has_prompt(&self) -> bool {
        !matches!(self.input, Input::Absent)
    }

    /// Appends the canonical prompt text to `out`.
    ///
    /// A plain prompt is its own text. Token ids are four little-endian bytes each. A conversation is its tools,
    /// then its messages, each `<|role|>\n`, its content and `<|end|>\n`, then `<|assistant|>\n`: a later turn
    /// that repeats the conversation with the answer has this text as an exact prefix.
    pub fn render_prompt(&self, out: &mut Vec<u8>) {
        match &self.input {
            Input::Absent => {}
            Input::Text(text) => out.extend_from_slice(text.as_bytes()),
            Input::Texts(texts) => {
                for (index, text) in texts.iter().enumerate() {
                    if index > 0 {
                        out.push(0);
                    }
                    out.extend_from_slice(text.as_bytes());
                }
            }
            Input::Tokens(tokens) => out.extend(tokens.iter().flat_map(|token| token.to_le_bytes())),
            Input::Messages(messages) => {
                for (label, json) in [("tools", self.tools), ("functions", self.functions)] {
                    if let Some(json) = json {
                        open(label, out);
                        out.extend_from_slice(json.as_bytes());
                        close(out);
                    }
                }
                if !matches!(&self.system, Content::Text(text) if text.is_empty()) {
                    self.system.render_as("system", out);
                }
                for message in messages {
                    message.render(out);
                }
                open(ASSISTANT, out);
            }
        }
    }

    /// The prompts of a batch, each as its canonical text; a conversation is one.
    pub fn prompts(&self) -> Vec<Cow<'_, [u8]>> {
        match &self.input {
            Input::Absent => Vec::new(),
            Input::Text(text) => vec![Cow::Borrowed(text.as_bytes())],
            Input::Texts(texts) => texts.iter().map(|text| Cow::Borrowed(text.as_bytes())).collect(),
            Input::Tokens(tokens) => {
                let prompts = tokens.split(|token| *token == NEXT_PROMPT);
                prompts.map(|tokens| tokens.iter().flat_map(|token| token.to_le_bytes()).collect()).collect()
            }
            Input::Messages(_) => {
                let mut text = Vec::new();
                self.render_prompt(&mut text);
                vec![Cow::Owned(text)]
            }
        }
    }

    /// KubeAI's routing text: the text of the first user message of a conversation, or the first prompt of a
    /// completion. `None` without one, for token ids, and for embeddings.
    pub fn first_user_text(&self) -> Option<Cow<'_, str>> {
        match &self.input {
            _ if self.endpoint == Endpoint::Embeddings => None,
            Input::Text(text) => Some(Cow::Borrowed(text)),
            Input::Texts(texts) => texts.first().map(|text| Cow::Borrowed(text.as_ref())),
            Input::Messages(messages) => {
                messages.iter().find(|message| message.role == "user").map(|message| message.content.text())
            }
            Input::Absent | Input::Tokens(_) => None,
        }
    }

    /// `stop`, as a list. For messages: `stop_sequences`.
    pub fn stop(&self) -> Vec<Cow<'a, str>> {
        match self.stop.and_then(|json| serde_json::from_str(json).ok()) {
            None => Vec::new(),
            Some(Stop::One(text)) => vec![text.0],
            Some(Stop::Many(texts)) => texts.into_iter().map(|text| text.0).collect(),
        }
    }

    /// The token ids of the prompt, where it is given as one list of them.
    pub fn token_ids(&self) -> Option<&[u32]> {
        match &self.input {
            Input::Tokens(tokens) if !tokens.contains(&NEXT_PROMPT) => Some(tokens),
            _ => None,
        }
    }
}

impl<'de> DeserializeSeed<'de> for BodySeed {
    type Value = RequestView<'de>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<RequestView<'de>, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for BodySeed {
    type Value = RequestView<'de>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a JSON object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<RequestView<'de>, A::Error> {
        let Self(endpoint) = self;
        let mut view = RequestView::empty(endpoint);
        let mut max_tokens = None;
        while let Some(member) = map.next_key::<Member>()? {
            match (member, endpoint) {
                (Member::Model, _) => {
                    view.model = map.next_value::<Option<Text<'de>>>()?.unwrap_or_default().0;
                }
                (Member::Stream, _) => view.stream = lenient(&mut map)?,
                (Member::StreamOptions, _) => {
                    view.include_usage = lenient::<StreamOptions, A>(&mut map)?.include_usage;
                }
                (Member::MaxTokens, _) => max_tokens = lenient(&mut map)?,
                (Member::MaxCompletionTokens, _) | (Member::MaxOutputTokens, Endpoint::Responses) => {
                    view.max_tokens = lenient(&mut map)?
                }
                (Member::User, _) => view.user = lenient_text(&mut map)?,
                (Member::Metadata, Endpoint::Messages) => {
                    view.user = lenient::<Metadata<'de>, A>(&mut map)?.user_id.map(|text| text.0);
                }
                (Member::PromptCacheKey, _) => view.prompt_cache_key = lenient_text(&mut map)?,
                (Member::Stop | Member::StopSequences, _) => view.stop = raw(&mut map)?,
                (Member::IgnoreEos, _) => view.ignore_eos = lenient(&mut map)?,
                (Member::N, _) => view.choices = lenient(&mut map)?,
                (Member::Tools, _) => view.tools = raw(&mut map)?,
                (Member::Functions, _) => view.functions = raw(&mut map)?,
                (Member::System, Endpoint::Messages) | (Member::Instructions, Endpoint::Responses) => {
                    view.system = map.next_value()?;
                }
                (Member::Messages, Endpoint::ChatCompletions | Endpoint::Messages) => {
                    view.input = map
                        .next_value::<Option<Messages<'de>>>()?
                        .map_or(Input::Absent, |all| Input::Messages(all.0));
                }
                (Member::Prompt, Endpoint::Completions) | (Member::Input, Endpoint::Embeddings) => {
                    view.input = map.next_value::<BatchInput<'de>>()?.0;
                }
                (Member::Input, Endpoint::Responses) => {
                    view.input = map.next_value::<ItemsInput<'de>>()?.0;
                }
                _ => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        view.max_tokens = view.max_tokens.or(max_tokens);
        Ok(view)
    }
}

/// Reads a member whose wrong type is not our business.
fn lenient<'de, T, A>(map: &mut A) -> Result<T, A::Error>
where
    T: Deserialize<'de> + Default,
    A: MapAccess<'de>,
{
    let value: &RawValue = map.next_value()?;
    Ok(serde_json::from_str(value.get()).unwrap_or_default())
}

fn lenient_text<'de, A: MapAccess<'de>>(map: &mut A) -> Result<Option<Cow<'de, str>>, A::Error> {
    Ok(lenient::<Option<Text<'de>>, A>(map)?.map(|text| text.0))
}

/// A member as it stands in the body; null is nothing.
fn raw<'de, A: MapAccess<'de>>(map: &mut A) -> Result<Option<&'de str>, A::Error> {
    Ok(map.next_value::<Option<&RawValue>>()?.map(RawValue::get))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    const ALL: [Endpoint; 6] = [
        Endpoint::ChatCompletions,
        Endpoint::Completions,
        Endpoint::Responses,
        Endpoint::Messages,
        Endpoint::Embeddings,
        Endpoint::Other,
    ];

    fn view(endpoint: Endpoint, body: &str) -> RequestView<'_> {
        RequestView::parse(endpoint, body.as_bytes()).unwrap()
    }

    fn prompt(endpoint: Endpoint, body: &str) -> String {
        let mut out = Vec::new();
        view(endpoint, body).render_prompt(&mut out);
        String::from_utf8(out).unwrap()
    }

    fn chat(messages: &Value) -> String {
        prompt(Endpoint::ChatCompletions, &json!({ "model": "m", "messages": messages }).to_string())
    }

    fn error(endpoint: Endpoint, body: &str) -> String {
        RequestView::parse(endpoint, body.as_bytes()).unwrap_err().to_string()
    }

    #[test]
    fn chat_members_are_read_and_borrowed() {
        let body = r#"{"model":"llama","messages":[{"role":"user","content":"hi"}],"stream":true,
            "stream_options":{"include_usage":true},"max_tokens":7,"user":"u","prompt_cache_key":"k",
            "stop":["a","b"],"ignore_eos":true,"n":2,"temperature":0.5,"unknown":{"deep":[1,{"x":null}]}}"#;
        let view = view(Endpoint::ChatCompletions, body);
        assert!(matches!(view.model, Cow::Borrowed("llama")));
        assert!(view.stream && view.include_usage && view.ignore_eos && view.has_prompt());
        assert_eq!((view.max_tokens, view.choices), (Some(7), Some(2)));
        assert!(matches!(view.user, Some(Cow::Borrowed("u"))));
        assert!(matches!(view.prompt_cache_key, Some(Cow::Borrowed("k"))));
        assert_eq!(view.stop(), ["a", "b"]);
        assert!(matches!(view.first_user_text(), Some(Cow::Borrowed("hi"))));
    }

    #[test]
    fn the_output_limit_has_a_name_an_endpoint() {
        let limit = |endpoint, body| view(endpoint, body).max_tokens;
        let both = [
            r#"{"max_completion_tokens":1,"max_tokens":2}"#,
            r#"{"max_tokens":2,"max_completion_tokens":1}"#,
        ];
        assert_eq!(both.map(|body| limit(Endpoint::ChatCompletions, body)), [Some(1); 2]);
        let null = r#"{"max_completion_tokens":null,"max_tokens":2}"#;
        assert_eq!(limit(Endpoint::ChatCompletions, null), Some(2));
        assert_eq!(limit(Endpoint::Responses, r#"{"max_output_tokens":3}"#), Some(3));
        assert_eq!(limit(Endpoint::ChatCompletions, r#"{"max_output_tokens":3}"#), None);
    }

    #[test]
    fn of_a_repeated_member_the_last_counts() {
        let body = r#"{"model":"a","prompt":"x","model":"b","stream":true,"prompt":"y","stream":false}"#;
        let view = view(Endpoint::Completions, body);
        assert_eq!((view.model.as_ref(), view.stream), ("b", false));
        assert_eq!(prompt(Endpoint::Completions, body), "y");
        let body = r#"{"messages":[{"role":"system"}],"messages":[{"role":"tool","role":"user","content":"x","content":"y"}]}"#;
        let text = prompt(Endpoint::ChatCompletions, body);
        assert_eq!(text, "<|user|>\nxy<|end|>\n<|assistant|>\n", "inside a message all texts count");
    }

    #[test]
    fn wrong_optional_members_are_left_to_the_engine() {
        let body = r#"{"model":null,"stream":"yes","stream_options":[1],"max_tokens":-4,"user":{"a":[]},
            "prompt_cache_key":5,"stop":{"x":1},"n":"two","ignore_eos":null,"tools":null,"prompt":"p"}"#;
        let view = view(Endpoint::Completions, body);
        assert_eq!(view.model, "");
        assert!(!view.stream && !view.include_usage && !view.ignore_eos && view.stop().is_empty());
        assert_eq!(
            (view.max_tokens, view.choices, view.user, view.prompt_cache_key),
            (None, None, None, None)
        );
    }

    #[test]
    fn errors_say_what_and_where() {
        assert_eq!(
            error(Endpoint::ChatCompletions, r#"{"model":5}"#),
            "the request body is not a valid request for /v1/chat/completions: \
             invalid type: integer `5`, expected a string at line 1 column 10"
        );
        let cut = error(Endpoint::Completions, r#"{"model":"m","prompt":"half"#);
        assert_eq!(cut, "the request body is not valid JSON: EOF while parsing a string at line 1 column 27");
        for body in ["", "[]", "5", "{}{}", "{\"model\":\"m\"} x", "\u{feff}{}"] {
            error(Endpoint::ChatCompletions, body);
        }
        for messages in ["5", "\"hi\"", "[5]", "[[]]", r#"[{"content":5}]"#, r#"[{"role":[]}]"#] {
            error(Endpoint::ChatCompletions, &format!(r#"{{"messages":{messages}}}"#));
        }
        for prompt in
            ["5", "{}", r#"["a",1]"#, r#"[1,"a"]"#, "[-1]", "[1.5]", "[4294967296]", "[[[1]]]", "[null]"]
        {
            error(Endpoint::Completions, &format!(r#"{{"prompt":{prompt}}}"#));
        }
    }

    #[test]
    fn a_prompt_of_more_parts_than_any_is_not_read() {
        let list = |item: &str, count: usize| format!("[{}{item}]", format!("{item},").repeat(count - 1));
        let parts = 1 << 16;
        let tokens = 1 << 22;
        for (endpoint, member, item, most) in [
            (Endpoint::ChatCompletions, "messages", "{}", parts),
            (Endpoint::Messages, "messages", r#"{"content":"a"}"#, parts / 2),
            (Endpoint::Messages, "messages", r#"{"content":["a",{"text":"b"},"c"]}"#, parts / 6),
            (Endpoint::Messages, "system", "{}", parts - 1),
            (Endpoint::Messages, "system", "[]", parts - 1),
            (Endpoint::ChatCompletions, "messages", r#"{"image":1}"#, parts / 2),
            (Endpoint::ChatCompletions, "messages", r#"{"name":1,"name":1,"arguments":1}"#, parts / 4),
            (Endpoint::Messages, "system", r#""a""#, parts - 1),
            (Endpoint::Responses, "input", "{}", parts),
            (Endpoint::Completions, "prompt", r#""""#, parts),
            (Endpoint::Embeddings, "input", r#""""#, parts),
            (Endpoint::Completions, "prompt", "1", tokens),
            // Separators count.
            (Endpoint::Completions, "prompt", "[]", tokens + 1),
        ] {
            let body = |count| format!(r#"{{"{member}":{}}}"#, list(item, count));
            assert!(RequestView::parse(endpoint, body(most).as_bytes()).is_ok(), "{item}");
            let more =
                RequestView::parse(endpoint, body(most + 1).as_bytes()).err().map(|error| error.to_string());
            assert!(more.is_some_and(|error| error.contains("a prompt of more than")), "{item}");
        }
        let stops = format!(r#"{{"prompt":"a","stop":{}}}"#, list("\"\"", 1 << 20));
        assert!(
            RequestView::parse(Endpoint::Completions, stops.as_bytes()).is_ok(),
            "not read until asked for"
        );
        let one = format!(r#"{{"prompt":[{}]}}"#, list("1", tokens + 1));
        assert!(RequestView::parse(Endpoint::Completions, one.as_bytes()).is_err());
    }

    #[test]
    fn hostile_nesting_and_escapes_are_errors() {
        let deep = "[".repeat(10_000);
        for endpoint in ALL {
            error(endpoint, &deep);
            error(endpoint, &format!("{{\"a\":{deep}"));
        }
        error(Endpoint::ChatCompletions, &format!(r#"{{"messages":{deep}"#));
        let closed = format!("{deep}{}", "]".repeat(10_000));
        error(Endpoint::ChatCompletions, &format!(r#"{{"messages":[{{"content":{closed}}}]}}"#));
        error(Endpoint::Completions, &format!(r#"{{"prompt":{closed}}}"#));
        for text in [r"\ud800", r"\udc00", r"\ud800\u0041", r"\q", r"\u12"] {
            error(Endpoint::Completions, &format!(r#"{{"prompt":"{text}"}}"#));
            error(
                Endpoint::ChatCompletions,
                &format!(r#"{{"messages":[{{"role":"user","content":"{text}"}}]}}"#),
            );
        }
        let invalid = b"{\"prompt\":\"\xff\"}";
        assert!(RequestView::parse(Endpoint::Completions, invalid).is_err());
    }

    #[test]
    fn conversations_have_a_canonical_text() {
        let messages = json!([
            { "role": "system", "content": "Be brief." },
            { "role": "user", "content": [{ "type": "text", "text": "a" }, { "type": "text", "text": "b\n" }] },
            { "role": "assistant", "content": null, "tool_calls": [{ "id": "1" }] },
            { "role": "tool", "tool_call_id": "1", "content": "42" },
        ]);
        assert_eq!(
            chat(&messages),
            "<|system|>\nBe brief.<|end|>\n<|user|>\nab\n<|end|>\n\
             <|assistant|>\n<|tool_calls|>\n[{\"id\":\"1\"}]<|end|>\n<|tool|>\n42<|end|>\n<|assistant|>\n"
        );
        let tools = r#"{"messages":[{"role":"user","content":"x"}],"tools":[{"a": 1}]}"#;
        assert_eq!(
            prompt(Endpoint::ChatCompletions, tools),
            "<|tools|>\n[{\"a\": 1}]<|end|>\n<|user|>\nx<|end|>\n<|assistant|>\n"
        );
    }

    #[test]
    fn other_conversations_are_rendered_alike() {
        let expected = "<|system|>\ns<|end|>\n<|user|>\nhi<|end|>\n<|assistant|>\n";
        let messages = r#"{"messages":[{"role":"user","content":[{"type":"text","text":"hi",
            "cache_control":{"type":"ephemeral"}}]}],"system":[{"type":"text","text":"s"}]}"#;
        assert_eq!(prompt(Endpoint::Messages, messages), expected);
        assert_eq!(prompt(Endpoint::Responses, r#"{"input":"hi","instructions":"s"}"#), expected);
        let items =
            r#"{"instructions":"s","input":[{"role":"user","content":[{"type":"input_text","text":"hi"}]}]}"#;
        assert_eq!(prompt(Endpoint::Responses, items), expected);
        let call = r#"{"input":[{"type":"function_call","call_id":"c","name":"f","arguments":"{}"},
            {"type":"function_call_output","call_id":"c","output":"42"}]}"#;
        assert_eq!(
            prompt(Endpoint::Responses, call),
            "<|function_call|>\n<|name|>\n\"f\"<|arguments|>\n\"{}\"<|end|>\n\
             <|function_call_output|>\n42<|end|>\n<|assistant|>\n"
        );
        let result = r#"{"messages":[{"role":"user","content":[{"type":"tool_result","tool_use_id":"t",
            "content":[{"type":"text","text":"42"}]}]}],"metadata":{"user_id":"u"}}"#;
        assert_eq!(prompt(Endpoint::Messages, result), "<|user|>\n42<|end|>\n<|assistant|>\n");
        assert_eq!(view(Endpoint::Messages, result).user.as_deref(), Some("u"));
    }

    #[test]
    fn images_count_by_their_content() {
        let with = |url: &str| {
            let image = json!({ "type": "image_url", "text": null, "image_url": { "url": url } });
            chat(&json!([{ "role": "user", "content": [{ "type": "text", "text": "see" }, image] }]))
        };
        assert_eq!(with("http://a/1.png"), with("http://a/1.png"));
        assert_ne!(with("http://a/1.png"), with("http://a/2.png"));
        assert_eq!(with("x").len(), with(&"x".repeat(100_000)).len(), "an image is not text");
        let nulls = json!([{ "role": "assistant", "content": null, "refusal": null, "audio": null }]);
        assert_eq!(chat(&nulls), chat(&json!([{ "role": "assistant", "content": "" }])));
    }

    #[test]
    fn prompts_of_completions_take_four_shapes() {
        let of = |prompt| format!(r#"{{"prompt":{prompt}}}"#);
        let render = |body: &str| {
            let mut out = Vec::new();
            view(Endpoint::Completions, body).render_prompt(&mut out);
            out
        };
        assert_eq!(render(&of(r#""a\u0041\n""#)), b"aA\n");
        assert_eq!(render(&of(r#"["one"]"#)), b"one");
        assert_eq!(render(&of(r#"["one","two"]"#)), b"one\0two");
        assert_eq!(render(&of("[1,258]")), [1, 0, 0, 0, 2, 1, 0, 0]);
        assert_eq!(render(&of("[[1],[2]]")), [1, 0, 0, 0, 255, 255, 255, 255, 2, 0, 0, 0]);
        assert_ne!(render(&of("[[1],[2]]")), render(&of("[1,2]")));
        assert_eq!(view(Endpoint::Completions, &of("[1,2]")).token_ids(), Some(&[1, 2][..]));
        assert_eq!(view(Endpoint::Completions, &of("[[1],[2]]")).token_ids(), None);
        let present =
            ["null", "[]", "\"\""].map(|prompt| view(Endpoint::Completions, &of(prompt)).has_prompt());
        assert_eq!(present, [false, true, true]);
    }

    #[test]
    fn the_prompts_of_a_batch_are_told_apart() {
        let prompts = |input: &str| -> Vec<Vec<u8>> {
            let body = format!(r#"{{"input":{input}}}"#);
            let view = view(Endpoint::Embeddings, &body);
            view.prompts().into_iter().map(Cow::into_owned).collect()
        };
        let none: &[u8] = b"";
        assert_eq!(prompts("null"), [none; 0]);
        assert_eq!(prompts("[]"), [none; 0]);
        assert_eq!(prompts("[[]]"), [none]);
        assert_eq!(prompts(r#""a\u0000b""#), [b"a\0b"]);
        assert_eq!(prompts(r#"["a","","bc"]"#), [&b"a"[..], none, b"bc"]);
        assert_eq!(prompts("[1,2]"), [[1, 0, 0, 0, 2, 0, 0, 0]]);
        assert_eq!(prompts("[[1],[],[2]]"), [&[1, 0, 0, 0][..], none, &[2, 0, 0, 0]]);
    }

    #[test]
    fn the_first_user_text_is_kubeais() {
        let first = |endpoint, body| view(endpoint, body).first_user_text().map(Cow::into_owned);
        let messages = r#"{"messages":[{"role":"system","content":"s"},{"role":"user","content":[
            {"type":"text","text":"a"},{"type":"image_url","image_url":{"url":"u"}},{"type":"text","text":"b"}]},
            {"role":"user","content":"c"}]}"#;
        assert_eq!(first(Endpoint::ChatCompletions, messages).as_deref(), Some("ab"));
        let none = r#"{"messages":[{"role":"system","content":"s"}]}"#;
        assert_eq!(first(Endpoint::ChatCompletions, none), None);
        assert_eq!(first(Endpoint::Completions, r#"{"prompt":["x","y"]}"#).as_deref(), Some("x"));
        assert_eq!(first(Endpoint::Completions, r#"{"prompt":[1,2]}"#), None);
        assert_eq!(first(Endpoint::Embeddings, r#"{"input":"text"}"#), None);
    }

    proptest! {
        #[test]
        fn a_later_turn_extends_the_earlier_one(texts in prop::collection::vec(any::<String>(), 3..9)) {
            let roles = ["system", "user", "assistant"];
            let message = |(index, text): (usize, &String)| {
                let role = if index == 0 { roles[0] } else { roles[2 - index % 2] };
                json!({ "role": role, "content": text })
            };
            let messages: Vec<_> = texts.iter().enumerate().map(message).collect();
            let answered = (messages.len() - 1) / 2 * 2;
            let early = chat(&json!(messages[..answered]));
            let later = chat(&json!(messages));
            let text = messages[answered]["content"].as_str().unwrap();
            prop_assert!(later.starts_with(&early), "{later:?} goes on from {early:?}");
            prop_assert!(later[early.len()..].starts_with(text));
        }

        #[test]
        fn any_bytes_are_safe(body in prop::collection::vec(any::<u8>(), 0..200)) {
            for endpoint in ALL {
                let _ = RequestView::parse(endpoint, &body);
            }
        }

        #[test]
        fn any_json_soup_is_safe(tokens in prop::collection::vec(prop::sample::select(vec![
            "{", "}", "[", "]", ":", ",", "null", "1", "-1.5e3", "true", "\"model\"", "\"messages\"", "\"role\"",
            "\"content\"", "\"prompt\"", "\"input\"", "\"text\"", "\"\\ud83d\\ude00\"", "\"stop\"", "\"tools\"",
        ]), 0..40)) {
            let body = tokens.concat();
            for endpoint in ALL {
                if let Ok(view) = RequestView::parse(endpoint, body.as_bytes()) {
                    view.render_prompt(&mut Vec::new());
                    let _ = view.first_user_text();
                }
            }
        }
    }
}
