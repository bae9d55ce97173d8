//! Token counts, as engines report them.

use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;

/// What a request cost, in tokens.
///
/// Written in OpenAI's shape. Read in that of chat and completions, of responses, and of Anthropic's messages,
/// whose `input_tokens` leaves out what came from the cache; here the prompt always counts in full.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(from = "Read", into = "Written")]
pub struct Usage {
    /// The whole prompt, cached part included.
    pub prompt_tokens: u32,
    /// The whole answer, reasoning included.
    pub completion_tokens: u32,
    /// The part of the prompt that the engine found in its prefix cache, where it says so.
    pub cached_tokens: Option<u32>,
    /// The part of the answer that was reasoning, where the engine says so.
    pub reasoning_tokens: Option<u32>,
}

impl Usage {
    /// Takes in a later report of the same request. Counts never shrink; a report may lack some.
    pub fn update(&mut self, later: Self) {
        self.prompt_tokens = self.prompt_tokens.max(later.prompt_tokens);
        self.completion_tokens = self.completion_tokens.max(later.completion_tokens);
        self.cached_tokens = self.cached_tokens.max(later.cached_tokens);
        self.reasoning_tokens = self.reasoning_tokens.max(later.reasoning_tokens);
    }
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Read {
    prompt_tokens: Count,
    completion_tokens: Count,
    prompt_tokens_details: Option<PromptDetails>,
    completion_tokens_details: Option<CompletionDetails>,
    input_tokens: Count,
    output_tokens: Count,
    input_tokens_details: Option<PromptDetails>,
    output_tokens_details: Option<CompletionDetails>,
    cache_read_input_tokens: Count,
    cache_creation_input_tokens: Count,
}

#[derive(Clone, Copy, Default, Deserialize, Serialize)]
#[serde(default)]
struct PromptDetails {
    cached_tokens: Count,
}

#[derive(Clone, Copy, Default, Deserialize, Serialize)]
#[serde(default)]
struct CompletionDetails {
    reasoning_tokens: Count,
}

/// A count as an engine wrote it. What is no whole number of tokens is as good as not said: it must not cost the answer.
#[derive(Clone, Copy, Default, Serialize)]
struct Count(Option<u32>);

#[derive(Serialize)]
struct Written {
    prompt_tokens: u32,
    total_tokens: u32,
    completion_tokens: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    prompt_tokens_details: Option<PromptDetails>,
    #[serde(skip_serializing_if = "Option::is_none")]
    completion_tokens_details: Option<CompletionDetails>,
}

impl<'de> Deserialize<'de> for Count {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let number = Value::deserialize(deserializer)?.as_f64();
        let is_count = |number: &f64| number.fract() == 0.0 && (0.0..=f64::from(u32::MAX)).contains(number);
        Ok(Self(number.filter(is_count).map(|number| number as u32)))
    }
}

impl From<Read> for Usage {
    fn from(read: Read) -> Self {
        let outside = read.cache_read_input_tokens.0.unwrap_or_default();
        let created = read.cache_creation_input_tokens.0.unwrap_or_default();
        let input = read.input_tokens.0.map(|tokens| tokens.saturating_add(outside).saturating_add(created));
        let prompt_details = read.prompt_tokens_details.or(read.input_tokens_details).unwrap_or_default();
        let completion_details =
            read.completion_tokens_details.or(read.output_tokens_details).unwrap_or_default();
        Self {
            prompt_tokens: read.prompt_tokens.0.or(input).unwrap_or_default(),
            completion_tokens: read.completion_tokens.0.or(read.output_tokens.0).unwrap_or_default(),
            cached_tokens: prompt_details.cached_tokens.0.or(read.cache_read_input_tokens.0),
            reasoning_tokens: completion_details.reasoning_tokens.0,
        }
    }
}

impl From<Usage> for Written {
    fn from(usage: Usage) -> Self {
        Self {
            prompt_tokens: usage.prompt_tokens,
            total_tokens: usage.prompt_tokens.saturating_add(usage.completion_tokens),
            completion_tokens: usage.completion_tokens,
            prompt_tokens_details: usage
                .cached_tokens
                .map(|tokens| PromptDetails { cached_tokens: Count(Some(tokens)) }),
            completion_tokens_details: usage
                .reasoning_tokens
                .map(|tokens| CompletionDetails { reasoning_tokens: Count(Some(tokens)) }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(json: &str) -> Usage {
        serde_json::from_str(json).unwrap()
    }

    const FULL: Usage = Usage {
        prompt_tokens: 100,
        completion_tokens: 20,
        cached_tokens: Some(64),
        reasoning_tokens: Some(5),
    };

    #[test]
    fn written_in_openais_shape() {
        assert_eq!(
            serde_json::to_string(&FULL).unwrap(),
            r#"{"prompt_tokens":100,"total_tokens":120,"completion_tokens":20,"prompt_tokens_details":{"cached_tokens":64},"completion_tokens_details":{"reasoning_tokens":5}}"#
        );
        let plain = Usage { prompt_tokens: 1, completion_tokens: 2, ..Usage::default() };
        let json = serde_json::to_string(&plain).unwrap();
        assert_eq!(json, r#"{"prompt_tokens":1,"total_tokens":3,"completion_tokens":2}"#);
        assert_eq!(read(&json), plain);
        assert_eq!(read(&serde_json::to_string(&FULL).unwrap()), FULL);
    }

    #[test]
    fn read_in_every_shape() {
        let responses = r#"{"input_tokens":100,"input_tokens_details":{"cached_tokens":64},"output_tokens":20,
            "output_tokens_details":{"reasoning_tokens":5},"total_tokens":120}"#;
        assert_eq!(read(responses), FULL);
        let messages = r#"{"input_tokens":6,"cache_read_input_tokens":64,"cache_creation_input_tokens":30,
            "output_tokens":20}"#;
        assert_eq!(read(messages), Usage { reasoning_tokens: None, ..FULL });
        let unknown = r#"{"prompt_tokens":100,"completion_tokens":20,"prompt_tokens_details":null}"#;
        assert_eq!(read(unknown), Usage { cached_tokens: None, reasoning_tokens: None, ..FULL });
        let vllm = r#"{"prompt_tokens":100,"completion_tokens":20,"prompt_tokens_details":
            {"cached_tokens":64,"created_cache_tokens":0},"completion_tokens_details":{"reasoning_tokens":5}}"#;
        assert_eq!(read(vllm), FULL);
    }

    #[test]
    fn a_count_that_is_no_whole_number_is_absent_and_costs_nothing() {
        let prompt = |count: &str| read(&format!(r#"{{"prompt_tokens":{count},"completion_tokens":2}}"#));
        for (written, tokens) in [("7.0", 7), ("7e2", 700), ("4294967295", u32::MAX), ("0", 0)] {
            assert_eq!(prompt(written).prompt_tokens, tokens, "{written}");
        }
        for written in ["-1", "7.5", "1e20", "4294967296", "\"7\"", "null", "true", "[7]", "{}"] {
            let usage = Usage { completion_tokens: 2, ..Usage::default() };
            assert_eq!(prompt(written), usage, "{written}");
        }
        let details =
            r#"{"prompt_tokens":9,"completion_tokens":2,"prompt_tokens_details":{"cached_tokens":-1}}"#;
        assert_eq!(read(details), Usage { prompt_tokens: 9, completion_tokens: 2, ..Usage::default() });
    }
}
