//! Answers in OpenAI's and Anthropic's shapes, rendered by hand: of a stream's chunks only the token's text differs.

use bytes::BytesMut;
use protocol::Usage;
use serde_json::json;

use super::{answer::Answer, messages};

/// What vLLM sends when its engine dies in the middle of a stream.
const ERROR_EVENT: &[u8] = b"data: {\"error\":{\"message\":\"EngineCore encountered an issue.\",\
    \"type\":\"InternalServerError\",\"param\":null,\"code\":500}}\n\ndata: [DONE]\n\n";
/// Numbers in a made-up embedding, unless a request wants another number of them.
pub(crate) const EMBEDDING_DIMENSIONS: usize = 64;

/// Everything that is sent to one request, but for what only the run brings: usage and faults.
#[derive(Debug)]
pub(crate) struct Script {
    shape: Shape,
    delivery: Delivery,
    /// The members that begin every chunk and every answer, `{` and the last comma included.
    head: String,
    /// A chunk up to the token's text.
    opening: Vec<u8>,
    pub(crate) answer: Answer,
}

/// Which of the APIs' objects.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Shape {
    Chat,
    Completion,
    /// Anthropic's.
    Messages,
    Embeddings {
        /// Number of inputs.
        inputs: usize,
        /// Numbers of each embedding.
        dimensions: usize,
        /// Numbers as base64 of little-endian floats.
        base64: bool,
    },
}

/// All at once, or as events.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Delivery {
    Whole,
    Stream(StreamUsage),
}

/// Where in a stream usage is said.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum StreamUsage {
    Nowhere,
    /// In an event of its own.
    AtTheEnd,
    /// There, and in every chunk.
    Everywhere,
}

impl Script {
    /// `id` without its prefix; `created` in Unix seconds.
    pub(crate) fn new(
        shape: Shape,
        delivery: Delivery,
        id: &str,
        created: u64,
        model: &str,
        answer: Answer,
    ) -> Self {
        if shape == Shape::Messages {
            let opening = messages::BEFORE_TEXT.into();
            return Self { shape, delivery, head: messages::head(id, model), opening, answer };
        }
        let streams = delivery != Delivery::Whole;
        let (prefix, object, before_text) = match (shape, streams) {
            (Shape::Chat, true) => ("chatcmpl", "chat.completion.chunk", r#""delta":{"content":""#),
            (Shape::Chat, false) => ("chatcmpl", "chat.completion", ""),
            (Shape::Completion, _) => ("cmpl", "text_completion", r#""text":""#),
            (Shape::Embeddings { .. } | Shape::Messages, _) => ("embd", "list", ""),
        };
        let (id, model) = (json!(format!("{prefix}-{id}")), json!(model));
        let head = format!(r#"{{"id":{id},"object":"{object}","created":{created},"model":{model},"#);
        let opening = format!(r#"data: {head}"choices":[{{"index":0,{before_text}"#).into_bytes();
        Self { shape, delivery, head, opening, answer }
    }

    /// The event with which an engine that dies ends a stream.
    pub(crate) fn error_event(&self) -> &'static [u8] {
        if self.shape == Shape::Messages { messages::ERROR_EVENT } else { ERROR_EVENT }
    }

    pub(crate) fn streams(&self) -> bool {
        self.delivery != Delivery::Whole
    }

    /// Appends the events of one token: before the first token of a chat the role, after the last token of any
    /// answer the usage and the end.
    pub(crate) fn write_token(&self, index: u32, usage: Usage, out: &mut BytesMut) {
        if self.shape == Shape::Messages {
            return self.write_messages_token(index, usage, out);
        }
        if index == 0 && self.shape == Shape::Chat {
            out.extend_from_slice(b"data: ");
            out.extend_from_slice(self.head.as_bytes());
            out.extend_from_slice(
                br#""choices":[{"index":0,"delta":{"role":"assistant","content":""},"logprobs":null,"finish_reason":null}]"#,
            );
            self.close_chunk(Usage { completion_tokens: 0, ..usage }, out);
        }
        out.extend_from_slice(&self.opening);
        self.answer.pieces(index).iter().for_each(|piece| out.extend_from_slice(piece));
        let last = index + 1 >= self.answer.tokens;
        match (self.shape, last) {
            (Shape::Chat, false) => {
                out.extend_from_slice(br#""},"logprobs":null,"finish_reason":null}]"#);
            }
            (_, false) => {
                out.extend_from_slice(br#"","logprobs":null,"finish_reason":null,"stop_reason":null}]"#);
            }
            (Shape::Chat, true) => {
                out.extend_from_slice(br#""},"logprobs":null,"#);
                self.write_reason(out);
            }
            (_, true) => {
                out.extend_from_slice(br#"","logprobs":null,"#);
                self.write_reason(out);
            }
        }
        self.close_chunk(usage, out);
        if last {
            if self.delivery != Delivery::Stream(StreamUsage::Nowhere) {
                out.extend_from_slice(
                    format!("data: {}\"choices\":[],\"usage\":{}}}\n\n", self.head, to_json(usage))
                        .as_bytes(),
                );
            }
            out.extend_from_slice(b"data: [DONE]\n\n");
        }
    }

    fn write_messages_token(&self, index: u32, usage: Usage, out: &mut BytesMut) {
        if index == 0 {
            messages::write_start(&self.head, usage, out);
        }
        out.extend_from_slice(&self.opening);
        self.answer.pieces(index).iter().for_each(|piece| out.extend_from_slice(piece));
        out.extend_from_slice(messages::AFTER_TEXT);
        if index + 1 >= self.answer.tokens {
            messages::write_end(&self.answer, usage, out);
        }
    }

    /// Appends the whole answer.
    pub(crate) fn write_whole(&self, usage: Usage, out: &mut BytesMut) {
        out.extend_from_slice(self.head.as_bytes());
        match self.shape {
            Shape::Messages => return messages::write_whole(&self.answer, usage, out),
            Shape::Chat => {
                let message = format!(
                    r#""choices":[{{"index":0,"message":{{"role":"assistant","content":"{}","refusal":null,"tool_calls":[]}},"logprobs":null,"#,
                    self.answer.text()
                );
                out.extend_from_slice(message.as_bytes());
                self.write_reason(out);
            }
            Shape::Completion => {
                let text =
                    format!(r#""choices":[{{"index":0,"text":"{}","logprobs":null,"#, self.answer.text());
                out.extend_from_slice(text.as_bytes());
                self.write_reason(out);
            }
            Shape::Embeddings { inputs, dimensions, base64 } => {
                let numbers = embedding(dimensions);
                let embedding = if base64 { json!(base64_of(&numbers)) } else { json!(numbers) };
                let item = |index| {
                    json!({"object": "embedding", "index": index, "embedding": embedding}).to_string()
                };
                let items: Vec<_> = (0..inputs).map(item).collect();
                out.extend_from_slice(format!(r#""data":[{}]"#, items.join(",")).as_bytes());
            }
        }
        out.extend_from_slice(format!(r#","usage":{}}}"#, to_json(usage)).as_bytes());
    }

    /// The end of the list of choices, with the reason for the end of the answer.
    fn write_reason(&self, out: &mut BytesMut) {
        let reason = if self.answer.stopped { "stop" } else { "length" };
        let stop_text = json!(self.answer.stop_text);
        out.extend_from_slice(
            format!(r#""finish_reason":"{reason}","stop_reason":{stop_text}}}]"#).as_bytes(),
        );
    }

    fn close_chunk(&self, usage: Usage, out: &mut BytesMut) {
        if self.delivery == Delivery::Stream(StreamUsage::Everywhere) {
            out.extend_from_slice(format!(r#","usage":{}"#, to_json(usage)).as_bytes());
        }
        out.extend_from_slice(b"}\n\n");
    }
}

fn to_json(usage: Usage) -> String {
    serde_json::to_string(&usage).unwrap_or_default()
}

/// The same for every input: a unit vector.
fn embedding(dimensions: usize) -> Vec<f32> {
    let length = (dimensions as f32).sqrt();
    (0..dimensions).map(|place| if place % 2 == 0 { 1.0 } else { -1.0 } / length).collect()
}

/// Base64, as OpenAI's client libraries ask for, of the numbers' bytes.
fn base64_of(numbers: &[f32]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let bytes: Vec<u8> = numbers.iter().flat_map(|number| number.to_le_bytes()).collect();
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for group in bytes.chunks(3) {
        let bits = (0..3)
            .fold(0, |bits, place| (bits << 8) | u32::from(group.get(place).copied().unwrap_or_default()));
        for place in 0..4 {
            let sextet = (bits >> (18 - 6 * place)) as usize & 63;
            text.push(if place <= group.len() { char::from(ALPHABET[sextet]) } else { '=' });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::face::answer::{NaturalEnd, Wish};

    const USAGE: Usage =
        Usage { prompt_tokens: 3, completion_tokens: 2, cached_tokens: Some(0), reasoning_tokens: None };

    fn script(shape: Shape, delivery: Delivery) -> Script {
        let wish = Wish {
            max_tokens: 2,
            natural_end: NaturalEnd::Never,
            min_tokens: 0,
            stop: &[],
            include_stop: false,
        };
        let answer = Answer::to(&mut b"hello".to_vec(), &wish);
        Script::new(shape, delivery, "7", 99, "a \"model\"", answer)
    }

    fn events(script: &Script) -> Vec<serde_json::Value> {
        let mut out = BytesMut::new();
        for index in 0..2 {
            script.write_token(index, USAGE, &mut out);
        }
        let text = std::str::from_utf8(&out).expect("text");
        let datas = text.split_terminator("\n\n").map(|event| event.strip_prefix("data: ").expect("data"));
        let mut datas: Vec<_> = datas.collect();
        assert_eq!(datas.pop(), Some("[DONE]"));
        datas.iter().map(|data| serde_json::from_str(data).expect("JSON")).collect()
    }

    #[test]
    fn a_chat_stream_has_role_tokens_reason_and_usage() {
        let script = script(Shape::Chat, Delivery::Stream(StreamUsage::AtTheEnd));
        let events = events(&script);
        let deltas: Vec<_> = events.iter().map(|event| event["choices"][0]["delta"].clone()).collect();
        let [first, second] = [0, 1].map(|index| {
            script.answer.pieces(index).concat().iter().map(|byte| char::from(*byte)).collect::<String>()
        });
        assert_eq!(
            deltas,
            [
                json!({"role": "assistant", "content": ""}),
                json!({"content": first}),
                json!({"content": second}),
                json!(null),
            ]
        );
        assert_eq!(events[1]["choices"][0]["finish_reason"], json!(null));
        assert_eq!(events[2]["choices"][0]["finish_reason"], "length");
        assert_eq!(events[3]["choices"], json!([]));
        assert_eq!(events[3]["usage"]["total_tokens"], 5);
        assert_eq!(events[0]["id"], "chatcmpl-7");
        assert_eq!((&events[0]["model"], &events[0]["created"]), (&json!("a \"model\""), &json!(99)));
    }

    #[test]
    fn a_completion_stream_says_usage_only_where_asked() {
        for (usage, events_expected, in_chunks) in [
            (StreamUsage::Nowhere, 2, false),
            (StreamUsage::AtTheEnd, 3, false),
            (StreamUsage::Everywhere, 3, true),
        ] {
            let events = events(&script(Shape::Completion, Delivery::Stream(usage)));
            assert_eq!(events.len(), events_expected);
            assert_eq!(events[0]["usage"]["prompt_tokens"].is_number(), in_chunks);
            assert_eq!(events[0]["object"], "text_completion");
            assert!(events[1]["choices"][0]["text"].as_str().is_some_and(|text| text.len() == 4));
        }
    }

    #[test]
    fn whole_answers_are_read_back_by_the_protocol() {
        for (shape, endpoint) in [
            (Shape::Chat, protocol::Endpoint::ChatCompletions),
            (Shape::Completion, protocol::Endpoint::Completions),
        ] {
            let script = script(shape, Delivery::Whole);
            let mut out = BytesMut::new();
            script.write_whole(USAGE, &mut out);
            let answer = protocol::parse_answer(endpoint, &out).expect("an answer");
            assert_eq!(answer.text, script.answer.text());
            assert_eq!(answer.finish_reason.as_deref(), Some("length"));
            assert_eq!(answer.usage, Some(USAGE));
        }
    }

    #[test]
    fn embeddings_come_one_for_each_input_as_numbers_or_as_base64() {
        for base64 in [false, true] {
            let script = script(Shape::Embeddings { inputs: 2, dimensions: 8, base64 }, Delivery::Whole);
            let mut out = BytesMut::new();
            script.write_whole(USAGE, &mut out);
            let value: serde_json::Value = serde_json::from_slice(&out).expect("JSON");
            assert_eq!(value["data"].as_array().map(Vec::len), Some(2));
            assert_eq!(value["data"][1]["index"], 1);
            assert_eq!(value["data"][0]["embedding"].is_string(), base64);
        }
    }

    #[test]
    fn base64_is_padded() {
        assert_eq!(base64_of(&[1.0]), "AACAPw==");
        assert_eq!(base64_of(&[1.0, -2.5]), "AACAPwAAIMA=");
        assert_eq!(base64_of(&[1.0, -2.5, 0.5]), "AACAPwAAIMAAAAA/");
    }
}
