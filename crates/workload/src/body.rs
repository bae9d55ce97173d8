//! Writes a request as the JSON body that goes over the wire.
//!
//! Compact JSON with the keys in a fixed order: the same request, history and options give the same bytes. Keys of
//! the user's `extra` and of the request's own replace those written here; they come last, the request's winning.

use protocol::Endpoint;
use serde::Serialize;
use serde_json::{Map, Value};

use crate::{Message, Prompt, Request, render_blocks};

/// Output limit for the Messages operation, which demands one, where the request has none.
const MESSAGES_DEFAULT_TOKENS: u32 = 1024;

/// What the body says beyond the request.
#[derive(Clone, Debug, Default)]
pub struct BodyOptions {
    /// Sampling temperature.
    pub temperature: Option<f64>,
    /// Go on after the end-of-sequence token (vLLM).
    pub ignore_eos: bool,
    /// Ask for exactly the requested number of tokens: `min_tokens` (vLLM) besides the limit.
    pub exact_tokens: bool,
    /// Ask for a last event with the token counts of a streamed answer.
    pub include_usage: bool,
    /// Ask for token counts with every event (vLLM).
    pub continuous_usage: bool,
    /// The key that limits the output of a chat.
    pub max_tokens_field: MaxTokensField,
    /// Candidates for completions.
    pub best_of: Option<u32>,
    /// Log probabilities to return for each token.
    pub logprobs: Option<u32>,
    /// Merged into every body.
    pub extra: Map<String, Value>,
}

/// The key that limits the output of a chat. Completions have only `max_tokens`.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum MaxTokensField {
    /// The current one.
    #[default]
    MaxCompletionTokens,
    /// The one that older servers know.
    MaxTokens,
}

/// Appends the body of `request` to `out`. `history` is what was said before in the session, answers included; whole
/// prompts go without it.
pub fn write_body(request: &Request, history: &[Message], options: &BodyOptions, out: &mut Vec<u8>) {
    let history = if request.is_whole { &[] } else { history };
    if let Prompt::Raw(body) = &request.prompt {
        out.extend_from_slice(body);
        return;
    }
    let mut body = Body { out, options, own: request.extra.as_deref(), empty: true };
    body.out.push(b'{');
    body.field("model", &*request.model);
    match request.endpoint {
        Endpoint::ChatCompletions => body.chat(request, history),
        Endpoint::Responses => body.responses(request, history),
        Endpoint::Messages => body.messages(request, history),
        Endpoint::Embeddings => body.prompt("input", request, history),
        Endpoint::Completions | Endpoint::Other | _ => body.completions(request, history),
    }
    body.extra();
    body.out.push(b'}');
}

struct Body<'a> {
    out: &'a mut Vec<u8>,
    options: &'a BodyOptions,
    own: Option<&'a Map<String, Value>>,
    empty: bool,
}

#[derive(Serialize)]
struct StreamOptions {
    include_usage: bool,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    continuous_usage_stats: bool,
}

impl Body<'_> {
    fn completions(&mut self, request: &Request, history: &[Message]) {
        self.prompt("prompt", request, history);
        self.optional("max_tokens", request.output_tokens);
        self.optional("best_of", self.options.best_of);
        self.optional("logprobs", self.options.logprobs);
        self.sampling(request);
    }

    fn chat(&mut self, request: &Request, history: &[Message]) {
        self.conversation("messages", request, history, |_| true);
        let limit = match self.options.max_tokens_field {
            MaxTokensField::MaxCompletionTokens => "max_completion_tokens",
            MaxTokensField::MaxTokens => "max_tokens",
        };
        self.optional(limit, request.output_tokens);
        self.optional("logprobs", self.options.logprobs.map(|_| true));
        self.optional("top_logprobs", self.options.logprobs);
        self.sampling(request);
    }

    fn responses(&mut self, request: &Request, history: &[Message]) {
        self.conversation("input", request, history, |_| true);
        self.optional("max_output_tokens", request.output_tokens);
        self.optional("temperature", self.options.temperature);
        self.field("stream", &request.stream);
    }

    fn messages(&mut self, request: &Request, history: &[Message]) {
        let new = new_messages(request);
        let system: Vec<&str> = history
            .iter()
            .chain(&*new)
            .filter(|message| &*message.role == "system")
            .map(|message| &*message.content)
            .collect();
        if !system.is_empty() {
            self.field("system", &system.join("\n"));
        }
        self.conversation("messages", request, history, |message| &*message.role != "system");
        self.field("max_tokens", &request.output_tokens.unwrap_or(MESSAGES_DEFAULT_TOKENS));
        self.optional("temperature", self.options.temperature);
        self.field("stream", &request.stream);
    }

    fn sampling(&mut self, request: &Request) {
        let options = self.options;
        self.optional("temperature", options.temperature);
        self.optional("ignore_eos", options.ignore_eos.then_some(true));
        self.optional("min_tokens", request.output_tokens.filter(|_| options.exact_tokens));
        self.field("stream", &request.stream);
        if request.stream && (options.include_usage || options.continuous_usage) {
            let continuous_usage_stats = options.continuous_usage;
            self.field("stream_options", &StreamOptions { include_usage: true, continuous_usage_stats });
        }
    }

    /// The prompt as one string; a conversation is joined by line breaks.
    fn prompt(&mut self, key: &str, request: &Request, history: &[Message]) {
        match &request.prompt {
            Prompt::Text(text) if history.is_empty() => self.field(key, &**text),
            Prompt::Blocks { .. } if history.is_empty() => self.field(key, &text_of_blocks(&request.prompt)),
            _ => {
                let new = new_messages(request);
                let parts: Vec<&str> = history.iter().chain(&*new).map(|message| &*message.content).collect();
                self.field(key, &parts.join("\n"));
            }
        }
    }

    fn conversation(
        &mut self,
        key: &str,
        request: &Request,
        history: &[Message],
        keep: impl Fn(&Message) -> bool,
    ) {
        #[derive(Serialize)]
        struct Said<'a> {
            role: &'a str,
            content: &'a str,
        }
        let new = new_messages(request);
        let said: Vec<Said<'_>> = history
            .iter()
            .chain(&*new)
            .filter(|message| keep(message))
            .map(|message| Said { role: &message.role, content: &message.content })
            .collect();
        self.field(key, &said);
    }

    fn optional(&mut self, key: &str, value: Option<impl Serialize>) {
        if let Some(value) = value {
            self.field(key, &value);
        }
    }

    fn field(&mut self, key: &str, value: &(impl Serialize + ?Sized)) {
        let replaced =
            self.options.extra.contains_key(key) || self.own.is_some_and(|own| own.contains_key(key));
        if !replaced {
            self.write(key, value);
        }
    }

    fn extra(&mut self) {
        let (options, own) = (self.options, self.own);
        for (key, value) in &options.extra {
            if !own.is_some_and(|own| own.contains_key(key)) {
                self.write(key, value);
            }
        }
        for (key, value) in own.into_iter().flatten() {
            self.write(key, value);
        }
    }

    fn write(&mut self, key: &str, value: &(impl Serialize + ?Sized)) {
        if !std::mem::take(&mut self.empty) {
            self.out.push(b',');
        }
        write_json(key, self.out);
        self.out.push(b':');
        write_json(value, self.out);
    }
}

fn write_json(value: &(impl Serialize + ?Sized), out: &mut Vec<u8>) {
    serde_json::to_writer(out, value).expect("text, numbers and JSON values can always be written to memory");
}

/// What the request adds to its conversation.
fn new_messages(request: &Request) -> std::borrow::Cow<'_, [Message]> {
    match &request.prompt {
        Prompt::Messages(messages) => messages[..].into(),
        Prompt::Text(text) => vec![Message::user(text.clone())].into(),
        prompt => vec![Message::user(text_of_blocks(prompt))].into(),
    }
}

fn text_of_blocks(prompt: &Prompt) -> String {
    let mut text = String::new();
    if let Prompt::Blocks { ids, block_tokens, tokens, tail, .. } = prompt {
        render_blocks(ids, *block_tokens, *tokens, *tail, &mut text);
    }
    text
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::json;

    use super::*;

    fn body(request: &Request, history: &[Message], options: &BodyOptions) -> String {
        let mut out = Vec::new();
        write_body(request, history, options, &mut out);
        String::from_utf8(out).unwrap()
    }

    fn request(endpoint: Endpoint, prompt: Prompt) -> Request {
        Request { output_tokens: Some(7), ..Request::new(endpoint, "m", prompt) }
    }

    fn text(text: &str) -> Prompt {
        Prompt::Text(text.into())
    }

    #[test]
    fn a_completion_as_the_serving_benchmark_sends_it() {
        let options = BodyOptions {
            temperature: Some(0.0),
            best_of: Some(1),
            include_usage: true,
            max_tokens_field: MaxTokensField::MaxTokens,
            ..BodyOptions::default()
        };
        assert_eq!(
            body(&request(Endpoint::Completions, text("say \"hi\"\n")), &[], &options),
            r#"{"model":"m","prompt":"say \"hi\"\n","max_tokens":7,"best_of":1,"temperature":0.0,"stream":true,"stream_options":{"include_usage":true}}"#
        );
    }

    #[test]
    fn a_chat_carries_its_history_and_the_current_limit_key() {
        let history =
            [Message::new("system", "be brief"), Message::user("a"), Message::new("assistant", "b")];
        assert_eq!(
            body(&request(Endpoint::ChatCompletions, text("c")), &history, &BodyOptions::default()),
            concat!(
                r#"{"model":"m","messages":[{"role":"system","content":"be brief"},{"role":"user","content":"a"},"#,
                r#"{"role":"assistant","content":"b"},{"role":"user","content":"c"}],"max_completion_tokens":7,"stream":true}"#
            )
        );
        let old = BodyOptions { max_tokens_field: MaxTokensField::MaxTokens, ..BodyOptions::default() };
        assert!(
            body(&request(Endpoint::ChatCompletions, text("c")), &[], &old).contains(r#""max_tokens":7"#)
        );
    }

    #[test]
    fn messages_take_the_system_prompt_out_and_always_have_a_limit() {
        let prompt: Arc<[Message]> = [Message::new("system", "s"), Message::user("u")].into();
        let mut request = request(Endpoint::Messages, Prompt::Messages(prompt));
        request.output_tokens = None;
        request.stream = false;
        assert_eq!(
            body(&request, &[], &BodyOptions::default()),
            r#"{"model":"m","system":"s","messages":[{"role":"user","content":"u"}],"max_tokens":1024,"stream":false}"#
        );
    }

    #[test]
    fn responses_and_embeddings_have_their_own_keys() {
        let options = BodyOptions { include_usage: true, ignore_eos: true, ..BodyOptions::default() };
        assert_eq!(
            body(&request(Endpoint::Responses, text("x")), &[], &options),
            r#"{"model":"m","input":[{"role":"user","content":"x"}],"max_output_tokens":7,"stream":true}"#
        );
        assert_eq!(
            body(&request(Endpoint::Embeddings, text("x")), &[], &options),
            r#"{"model":"m","input":"x"}"#
        );
    }

    #[test]
    fn blocks_become_text_and_need_no_history() {
        let prompt =
            Prompt::Blocks { ids: [5, 6].into(), with_answer: false, block_tokens: 16, tokens: 35, tail: 9 };
        let mut expected = String::new();
        render_blocks(&[5, 6], 16, 35, 9, &mut expected);
        let history = [Message::user("before")];
        for (endpoint, place) in
            [(Endpoint::Completions, "/prompt"), (Endpoint::ChatCompletions, "/messages/0/content")]
        {
            let written = body(&request(endpoint, prompt.clone()), &history, &BodyOptions::default());
            let written: Value = serde_json::from_str(&written).unwrap();
            assert_eq!(written.pointer(place).unwrap(), &json!(expected));
        }
    }

    #[test]
    fn a_conversation_on_completions_is_joined() {
        let history = [Message::user("a"), Message::new("assistant", "b")];
        let written = body(&request(Endpoint::Completions, text("c")), &history, &BodyOptions::default());
        assert!(written.starts_with(r#"{"model":"m","prompt":"a\nb\nc","#));
    }

    #[test]
    fn extra_keys_replace_and_the_request_wins() {
        let extra = json!({"temperature": 1, "top_k": 3, "stream": false}).as_object().unwrap().clone();
        let options = BodyOptions { temperature: Some(0.5), extra, ..BodyOptions::default() };
        let mut request = request(Endpoint::Completions, text("x"));
        request.extra = Some(Arc::new(json!({"top_k": 4, "max_tokens": 9}).as_object().unwrap().clone()));
        assert_eq!(
            body(&request, &[], &options),
            r#"{"model":"m","prompt":"x","stream":false,"temperature":1,"max_tokens":9,"top_k":4}"#
        );
    }

    #[test]
    fn exact_lengths_and_counts_for_every_event() {
        let options = BodyOptions {
            exact_tokens: true,
            ignore_eos: true,
            continuous_usage: true,
            logprobs: Some(2),
            ..BodyOptions::default()
        };
        let written: Value =
            serde_json::from_str(&body(&request(Endpoint::ChatCompletions, text("x")), &[], &options))
                .unwrap();
        assert_eq!((&written["min_tokens"], &written["ignore_eos"]), (&json!(7), &json!(true)));
        assert_eq!(written["stream_options"], json!({"include_usage": true, "continuous_usage_stats": true}));
        assert_eq!((&written["logprobs"], &written["top_logprobs"]), (&json!(true), &json!(2)));
    }

    #[test]
    fn a_finished_body_is_left_alone() {
        let raw: &[u8] = b"{ \"any\" : 1 }";
        let mut request = request(Endpoint::ChatCompletions, Prompt::Raw(raw.into()));
        request.extra = Some(Arc::new(Map::new()));
        assert_eq!(body(&request, &[Message::user("x")], &BodyOptions::default()).as_bytes(), raw);
    }
}
