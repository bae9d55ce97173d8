//! A whole answer, as it comes without streaming.

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::value::RawValue;

use crate::{
    Endpoint, Usage,
    json::Text,
    stream::{Chunk, IncompleteDetails, StreamEvent, failure},
};

/// A body that is not an answer.
#[derive(Debug, thiserror::Error)]
pub enum AnswerError {
    /// Not an object of the operation's shape.
    #[error("the response body is not a valid answer of {path}: {source}")]
    Shape {
        /// The path of the operation.
        path: &'static str,
        /// What is wrong, and where.
        source: serde_json::Error,
    },
    /// An error object, whatever the status said.
    #[error("the response body is an error: {0}")]
    Error(String),
}

/// What an answer says. Embeddings have only a model and usage.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Answer {
    /// The visible text; of several choices, one after the other.
    pub text: String,
    /// The reasoning.
    pub reasoning: String,
    /// Whether it calls a tool.
    pub tool_call: bool,
    /// Token counts.
    pub usage: Option<Usage>,
    /// Why generation ended, in the API's own word.
    pub finish_reason: Option<String>,
    /// The model that answered.
    pub model: Option<String>,
}

/// Reads the body of an answer to a request that did not stream.
///
/// # Errors
/// When the body is not an object of the shape that `endpoint` answers with, or is an error object.
pub fn parse_answer(endpoint: Endpoint, body: &[u8]) -> Result<Answer, AnswerError> {
    let shape = |source| AnswerError::Shape { path: endpoint.path(), source };
    match endpoint {
        Endpoint::Responses | Endpoint::Messages => {
            let whole: Whole<'_> = serde_json::from_slice(body).map_err(shape)?;
            whole.read(body)
        }
        Endpoint::ChatCompletions | Endpoint::Completions | Endpoint::Embeddings | Endpoint::Other => {
            let mut chunk: Chunk<'_> = serde_json::from_slice(body).map_err(shape)?;
            let model = chunk.model.take().map(|model| model.0.into_owned());
            let StreamEvent { text, reasoning, tool_call, finish_reason, usage, error, .. } =
                chunk.read(body);
            match error {
                Some(message) => Err(AnswerError::Error(message)),
                None => Ok(Answer {
                    text: text.into_owned(),
                    reasoning: reasoning.into_owned(),
                    tool_call,
                    usage,
                    finish_reason: finish_reason.map(Cow::into_owned),
                    model,
                }),
            }
        }
    }
}

/// An answer of responses (`output`, `status`) or of messages (`content`, `stop_reason`).
#[derive(Deserialize)]
struct Whole<'a> {
    #[serde(borrow, rename = "type")]
    kind: Option<Text<'a>>,
    #[serde(borrow)]
    model: Option<Text<'a>>,
    #[serde(borrow)]
    output: Option<Vec<Item<'a>>>,
    #[serde(borrow)]
    content: Option<Vec<Item<'a>>>,
    #[serde(borrow)]
    status: Option<Text<'a>>,
    #[serde(borrow)]
    incomplete_details: Option<IncompleteDetails<'a>>,
    #[serde(borrow)]
    stop_reason: Option<Text<'a>>,
    usage: Option<Usage>,
    #[serde(borrow)]
    error: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Item<'a> {
    #[serde(borrow, rename = "type")]
    kind: Option<Text<'a>>,
    #[serde(borrow)]
    text: Option<Text<'a>>,
    #[serde(borrow)]
    thinking: Option<Text<'a>>,
    #[serde(borrow)]
    refusal: Option<Text<'a>>,
    #[serde(borrow)]
    content: Option<Vec<Self>>,
    #[serde(borrow)]
    summary: Option<Vec<Self>>,
}

impl<'a> Whole<'a> {
    fn read(self, body: &[u8]) -> Result<Answer, AnswerError> {
        if self.error.is_some() || self.kind.is_some_and(|kind| kind.0 == "error") {
            return Err(AnswerError::Error(failure(body)));
        }
        let owned = |text: Text<'a>| text.0.into_owned();
        let mut answer = Answer { usage: self.usage, model: self.model.map(owned), ..Answer::default() };
        answer.finish_reason = self
            .stop_reason
            .or(self.incomplete_details.and_then(|details| details.reason))
            .or(self.status)
            .map(owned);
        for item in self.output.into_iter().chain(self.content).flatten() {
            item.read(&mut answer);
        }
        Ok(answer)
    }
}

impl Item<'_> {
    fn read(self, answer: &mut Answer) {
        let kind = self.kind.unwrap_or_default().0;
        answer.tool_call |= kind.ends_with("_call") || kind.ends_with("tool_use");
        let text = self.text.or(self.refusal).unwrap_or_default().0;
        match kind.as_ref() {
            "reasoning_text" | "summary_text" => answer.reasoning.push_str(&text),
            _ => answer.text.push_str(&text),
        }
        answer.reasoning.push_str(&self.thinking.unwrap_or_default().0);
        for item in self.summary.into_iter().chain(self.content).flatten() {
            item.read(answer);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(endpoint: Endpoint, body: &str) -> Answer {
        parse_answer(endpoint, body.as_bytes()).unwrap()
    }

    fn usage(prompt_tokens: u32, completion_tokens: u32) -> Option<Usage> {
        Some(Usage { prompt_tokens, completion_tokens, ..Usage::default() })
    }

    #[test]
    fn each_operation_has_its_shape() {
        let chat = r#"{"id":"c","object":"chat.completion","model":"m","choices":[{"index":0,"message":
            {"role":"assistant","content":"Hi","reasoning_content":"hm","tool_calls":[]},"finish_reason":"stop"}],
            "usage":{"prompt_tokens":5,"completion_tokens":2}}"#;
        let expected = Answer {
            text: "Hi".to_owned(),
            reasoning: "hm".to_owned(),
            tool_call: false,
            usage: usage(5, 2),
            finish_reason: Some("stop".to_owned()),
            model: Some("m".to_owned()),
        };
        assert_eq!(answer(Endpoint::ChatCompletions, chat), expected);
        let responses = r#"{"object":"response","model":"m","status":"completed","error":null,"output":[
            {"type":"reasoning","summary":[{"type":"summary_text","text":"h"}],"content":[{"type":"reasoning_text","text":"m"}]},
            {"type":"message","content":[{"type":"output_text","text":"Hi"}]}],
            "usage":{"input_tokens":5,"output_tokens":2}}"#;
        let finish_reason = Some("completed".to_owned());
        assert_eq!(answer(Endpoint::Responses, responses), Answer { finish_reason, ..expected.clone() });
        let messages = r#"{"type":"message","model":"m","content":[{"type":"thinking","thinking":"hm"},
            {"type":"text","text":"Hi"},{"type":"tool_use","name":"f","input":{"text":"no"}}],
            "stop_reason":"tool_use","usage":{"input_tokens":5,"output_tokens":2}}"#;
        let finish_reason = Some("tool_use".to_owned());
        assert_eq!(
            answer(Endpoint::Messages, messages),
            Answer { finish_reason, tool_call: true, ..expected }
        );
        let completion = answer(Endpoint::Completions, r#"{"choices":[{"text":"a"},{"text":"b"}]}"#);
        assert_eq!((completion.text.as_str(), completion.usage), ("ab", None));
        let embeddings =
            r#"{"object":"list","model":"e","data":[{"embedding":[0.5,1]}],"usage":{"prompt_tokens":4}}"#;
        let expected = Answer { usage: usage(4, 0), model: Some("e".to_owned()), ..Answer::default() };
        assert_eq!(answer(Endpoint::Embeddings, embeddings), expected);
    }

    #[test]
    fn errors_are_not_answers() {
        let error = |endpoint, body: &str| parse_answer(endpoint, body.as_bytes()).unwrap_err().to_string();
        let failed = r#"{"error":{"message":"boom"}}"#;
        for endpoint in [Endpoint::ChatCompletions, Endpoint::Responses, Endpoint::Messages] {
            assert_eq!(error(endpoint, failed), "the response body is an error: boom");
        }
        let html = error(Endpoint::Completions, "<html>");
        assert!(
            html.starts_with("the response body is not a valid answer of /v1/completions: expected value"),
            "{html}"
        );
        let nested = format!(r#"{{"output":{}"#, r#"[{"content":"#.repeat(10_000));
        assert!(
            error(Endpoint::Responses, &nested).contains("recursion limit"),
            "deep nesting ends in an error"
        );
    }
}
