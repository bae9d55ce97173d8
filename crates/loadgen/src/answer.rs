//! What the server answers: output events with their times, token counts, text, failures.
//!
//! All events that one read completes carry the time at which that read returned. Only events with output count as
//! chunks; role-only, empty, usage and end events do not, unless a [`ChunkRule`] says otherwise. Text is kept only
//! where a later turn or the caller wants it. Limits: [`TEXT_LIMIT`] bytes of text or document, [`CHUNK_LIMIT`]
//! chunks.

use std::time::Duration;

use protocol::{
    Endpoint, SseEvent, SseSplitter, Usage, error_message, estimate_tokens, parse_answer, parse_event,
};
use report::{Chunk, Count, CountSource, Outcome};

use crate::{
    ChunkRule,
    response::{Content, ResponseHead},
};

const TEXT_LIMIT: usize = 64 << 20;
const CHUNK_LIMIT: usize = 4 << 20;
/// Of an error body, what is read; of a message, what is kept.
const ERROR_BODY_LIMIT: usize = 64 << 10;
const MESSAGE_CHARS: usize = 300;
/// Room made for chunks beforehand, at most.
const CHUNKS_EXPECTED_LIMIT: u32 = 1024;

/// The text of an answer, as far as it was received.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct AnswerText {
    /// What the user would see.
    pub text: String,
    /// What the model thought.
    pub reasoning: String,
    /// Where the words of each chunk of the record end in the two, in bytes.
    pub ends: Vec<(usize, usize)>,
    /// The bodies, where they are kept.
    pub bodies: Option<Box<Bodies>>,
}

/// What went over the wire, without heads and without transfer coding.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Bodies {
    /// The body of the request.
    pub request: Vec<u8>,
    /// The body of the answer, as far as it was received, up to 64 MiB.
    pub answer: Vec<u8>,
    /// It is a stream of events.
    pub events: bool,
    /// How much of it had come after each read, and when that was.
    pub reads: Vec<(usize, Duration)>,
}

/// Collects one answer.
#[derive(Debug)]
pub(crate) struct Answer {
    endpoint: Endpoint,
    wants_stream: bool,
    keep_text: bool,
    /// The body as it came, where it is kept.
    raw: Option<Box<Bodies>>,
    form: Form,
    status: u16,
    seen: Seen,
}

/// The form of the body.
#[derive(Debug)]
enum Form {
    Unknown,
    Events(SseSplitter),
    Document(Vec<u8>),
    Error(Vec<u8>),
}

/// What has been received.
#[derive(Debug, Default)]
struct Seen {
    rule: ChunkRule,
    now: Duration,
    chunks: Vec<Chunk>,
    ended_at: Option<Duration>,
    first_answer: Option<Duration>,
    usage: Option<Usage>,
    /// Every event carries the token count so far.
    continuous_usage: bool,
    any_event: bool,
    ended: bool,
    /// Something has come that is more than usage and end marks.
    any_content: bool,
    /// What has come of the body: bytes, the reads that brought them, and the first of these.
    bytes: u64,
    reads: u32,
    first_byte: Option<Duration>,
    last_byte: Option<Duration>,
    text: AnswerText,
    text_bytes: usize,
    /// Of the tokens, those that came with reasoning alone.
    reasoning_tokens: u32,
    failure: Option<Outcome>,
}

/// The measured part of a finished answer.
#[derive(Debug)]
pub(crate) struct Measured {
    pub(crate) chunks: Vec<Chunk>,
    pub(crate) ended: Option<Duration>,
    pub(crate) first_answer: Option<Duration>,
    pub(crate) usage: Option<Usage>,
    pub(crate) output_tokens: Count,
    /// Those among them that are reasoning, where the server does not count.
    pub(crate) own_reasoning_tokens: Option<u32>,
    pub(crate) bytes: u64,
    pub(crate) reads: u32,
    pub(crate) first_byte: Option<Duration>,
    pub(crate) text: AnswerText,
}

impl Answer {
    pub(crate) fn new(
        endpoint: Endpoint,
        stream: bool,
        expected_tokens: Option<u32>,
        keep_text: bool,
        keep_bodies: bool,
        rule: ChunkRule,
    ) -> Self {
        let expected = if stream { expected_tokens.unwrap_or(0).min(CHUNKS_EXPECTED_LIMIT) } else { 1 };
        let seen = Seen { rule, chunks: Vec::with_capacity(expected as usize), ..Seen::default() };
        let raw = keep_bodies.then(Box::default);
        Self { endpoint, wants_stream: stream, keep_text, raw, form: Form::Unknown, status: 0, seen }
    }

    /// The time of the read whose bytes come next.
    pub(crate) fn set_now(&mut self, now: Duration) {
        self.seen.now = now;
    }

    /// Whether the text is kept.
    pub(crate) fn keeps_text(&self) -> bool {
        self.keep_text
    }

    /// Which events count as chunks.
    pub(crate) fn chunk_rule(&self) -> ChunkRule {
        self.seen.rule
    }

    /// Output events so far.
    pub(crate) fn chunks(&self) -> &[Chunk] {
        &self.seen.chunks
    }

    /// What the server counted, so far.
    pub(crate) fn usage(&self) -> Option<Usage> {
        self.seen.usage
    }

    /// Whether there was anything in it. Nobody can tell of an operation that is not known.
    pub(crate) fn has_content(&self) -> bool {
        matches!(self.endpoint, Endpoint::Embeddings | Endpoint::Other) || self.seen.any_content
    }

    /// The response head is complete.
    pub(crate) fn begin(&mut self, head: ResponseHead) {
        self.status = head.status;
        self.form = match (head.status, head.content) {
            (200..=299, Content::Events) => Form::Events(SseSplitter::new()),
            (200..=299, Content::Other) if self.wants_stream => Form::Events(SseSplitter::new()),
            (200..=299, _) => Form::Document(Vec::new()),
            _ => Form::Error(Vec::new()),
        };
    }

    /// Takes bytes of the body.
    pub(crate) fn receive(&mut self, bytes: &[u8]) -> Result<(), Outcome> {
        self.seen.count(bytes);
        if let Some(raw) = &mut self.raw {
            let room = TEXT_LIMIT.saturating_sub(raw.answer.len());
            raw.answer.extend_from_slice(&bytes[..bytes.len().min(room)]);
            raw.events = matches!(self.form, Form::Events(_));
            raw.reads.push((raw.answer.len(), self.seen.now));
        }
        match &mut self.form {
            Form::Unknown => {}
            Form::Error(body) => {
                let room = ERROR_BODY_LIMIT - body.len();
                body.extend_from_slice(&bytes[..bytes.len().min(room)]);
            }
            Form::Document(body) if body.len() + bytes.len() > TEXT_LIMIT => {
                return Err(Outcome::Malformed(format!("an answer over {} MiB", TEXT_LIMIT >> 20)));
            }
            Form::Document(body) => body.extend_from_slice(bytes),
            Form::Events(splitter) => {
                let (seen, endpoint, keep_text) = (&mut self.seen, self.endpoint, self.keep_text);
                splitter.feed(bytes, |event| seen.take(endpoint, keep_text, event));
                if splitter.overflowed() {
                    return Err(Outcome::Malformed("a stream event over 1 MiB".to_owned()));
                }
            }
        }
        self.seen.failure.take().map_or(Ok(()), Err)
    }

    /// The body is complete.
    pub(crate) fn finish(&mut self) -> Outcome {
        match &mut self.form {
            Form::Unknown => Outcome::Broken("no answer".to_owned()),
            Form::Error(_) => self.refusal().unwrap_or(Outcome::Status(self.status, String::new())),
            Form::Document(body) => {
                let body = std::mem::take(body);
                self.read_document(&body)
            }
            Form::Events(splitter) => {
                let (seen, endpoint, keep_text) = (&mut self.seen, self.endpoint, self.keep_text);
                splitter.finish(|event| seen.take(endpoint, keep_text, event));
                match seen.failure.take() {
                    Some(failure) => failure,
                    None if seen.any_event && seen.chunks.is_empty() && seen.rule != ChunkRule::Output => {
                        Outcome::Malformed("a stream without any token to time".to_owned())
                    }
                    None if seen.ended => Outcome::Success,
                    None if seen.any_event => {
                        Outcome::Broken("the stream ended without its end event".to_owned())
                    }
                    None => Outcome::Malformed("a stream without any event".to_owned()),
                }
            }
        }
    }

    /// The outcome that an error status means, whatever happened to the body.
    pub(crate) fn refusal(&self) -> Option<Outcome> {
        let Form::Error(body) = &self.form else { return None };
        let message = error_message(body).unwrap_or_else(|| String::from_utf8_lossy(body).trim().to_owned());
        Some(Outcome::Status(self.status, shorten(&message)))
    }

    pub(crate) fn into_measured(self) -> Measured {
        let Seen {
            chunks,
            ended_at: ended,
            first_answer,
            usage,
            bytes,
            reads,
            first_byte,
            mut text,
            text_bytes,
            reasoning_tokens,
            ..
        } = self.seen;
        text.bodies = self.raw;
        let streamed = matches!(self.form, Form::Events(_));
        let output_tokens = match usage {
            Some(usage) if usage.completion_tokens > 0 || chunks.is_empty() => {
                Count { tokens: usage.completion_tokens, source: CountSource::Usage }
            }
            _ if streamed => {
                let tokens = chunks.iter().fold(0, |sum: u32, chunk| sum.saturating_add(chunk.tokens));
                Count { tokens, source: CountSource::Chunks }
            }
            _ => Count { tokens: estimate_tokens(text_bytes), source: CountSource::Estimate },
        };
        let ours = output_tokens.source != CountSource::Usage && reasoning_tokens > 0;
        Measured {
            chunks,
            ended,
            first_answer,
            usage,
            output_tokens,
            own_reasoning_tokens: ours.then_some(reasoning_tokens),
            bytes,
            reads,
            first_byte,
            text,
        }
    }

    fn read_document(&mut self, body: &[u8]) -> Outcome {
        let answer = match parse_answer(self.endpoint, body) {
            Ok(answer) => answer,
            Err(protocol::AnswerError::Error(message)) => return Outcome::StreamError(shorten(&message)),
            Err(error) => return Outcome::Malformed(shorten(&error.to_string())),
        };
        let seen = &mut self.seen;
        seen.usage = answer.usage;
        seen.text_bytes = answer.text.len() + answer.reasoning.len();
        seen.reasoning_tokens = estimate_tokens(answer.reasoning.len());
        let tokens = answer.usage.map_or(estimate_tokens(seen.text_bytes), |usage| usage.completion_tokens);
        seen.chunks.push(Chunk { at: seen.now, tokens });
        seen.first_answer = Some(seen.now);
        seen.any_content = seen.text_bytes > 0 || answer.tool_call;
        if self.keep_text {
            let ends = vec![(answer.text.len(), answer.reasoning.len())];
            seen.text = AnswerText { text: answer.text, reasoning: answer.reasoning, ends, bodies: None };
        }
        Outcome::Success
    }
}

impl Seen {
    fn count(&mut self, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        self.bytes += bytes.len() as u64;
        // A read may bring several chunks of the transfer coding.
        self.reads += u32::from(self.last_byte != Some(self.now));
        self.first_byte.get_or_insert(self.now);
        self.last_byte = Some(self.now);
    }

    fn take(&mut self, endpoint: Endpoint, keep_text: bool, event: SseEvent<'_>) {
        if self.failure.is_some() || event.data.trim_ascii().is_empty() {
            return;
        }
        self.any_event = true;
        if event.event == Some(b"error") {
            let message = error_message(event.data);
            let message = message.unwrap_or_else(|| String::from_utf8_lossy(event.data).into_owned());
            self.failure = Some(Outcome::StreamError(shorten(&message)));
            return;
        }
        let said = match parse_event(endpoint, event.data) {
            Ok(said) => said,
            Err(error) => {
                self.failure = Some(Outcome::Malformed(shorten(&error.to_string())));
                return;
            }
        };
        if let Some(message) = &said.error {
            self.failure = Some(Outcome::StreamError(shorten(message)));
            return;
        }
        self.ended |= said.done || said.finish_reason.is_some();
        let counted_before = self.usage.map_or(0, |usage| usage.completion_tokens);
        if let Some(usage) = said.usage {
            self.usage.get_or_insert_default().update(usage);
        }
        if self.rule == ChunkRule::ChoiceThenUsage && !said.done {
            self.ended_at = Some(self.now);
        }
        let counts = match self.rule {
            ChunkRule::Output => said.is_payload(),
            ChunkRule::Choice | ChunkRule::ChoiceThenUsage => said.choice,
            ChunkRule::Token => said.is_payload() || said.empty_text,
        };
        self.any_content |= said.is_payload();
        if !counts {
            return;
        }
        self.continuous_usage |= self.chunks.is_empty() && said.usage.is_some();
        let counted = self.usage.map_or(0, |usage| usage.completion_tokens).saturating_sub(counted_before);
        let tokens = if self.continuous_usage { counted.max(1) } else { 1 };
        self.chunks.push(Chunk { at: self.now, tokens });
        if self.first_answer.is_none() && (said.tool_call || !said.text.is_empty()) {
            self.first_answer = Some(self.now);
        }
        self.text_bytes += said.text.len() + said.reasoning.len();
        if !said.reasoning.is_empty() && said.text.is_empty() {
            self.reasoning_tokens = self.reasoning_tokens.saturating_add(tokens);
        }
        if keep_text {
            self.text.text.push_str(&said.text);
            self.text.reasoning.push_str(&said.reasoning);
            self.text.ends.push((self.text.text.len(), self.text.reasoning.len()));
        }
        if self.chunks.len() >= CHUNK_LIMIT || (keep_text && self.text_bytes > TEXT_LIMIT) {
            self.failure = Some(Outcome::Malformed("a stream without measure: too many events".to_owned()));
        }
    }
}

/// The first line's worth of a message, on one line, without what a terminal would obey.
fn shorten(message: &str) -> String {
    let mut words = message.split_whitespace().collect::<Vec<_>>().join(" ");
    words = words.replace(char::is_control, "\u{fffd}");
    if let Some((end, _)) = words.char_indices().nth(MESSAGE_CHARS) {
        words.truncate(end);
        words.push_str(" ...");
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reads a stream of events, one read an event, a second apart.
    fn stream(endpoint: Endpoint, events: &[&str]) -> (Outcome, Measured) {
        counted(ChunkRule::Output, endpoint, events)
    }

    /// The same, with chunks counted by `rule`.
    fn counted(rule: ChunkRule, endpoint: Endpoint, events: &[&str]) -> (Outcome, Measured) {
        let mut answer = Answer::new(endpoint, true, Some(8), true, false, rule);
        answer.begin(ResponseHead { status: 200, content: Content::Events });
        for (second, event) in (1..).zip(events) {
            answer.set_now(Duration::from_secs(second));
            if let Err(outcome) = answer.receive(format!("{event}\n\n").as_bytes()) {
                return (outcome, answer.into_measured());
            }
        }
        (answer.finish(), answer.into_measured())
    }

    fn document(endpoint: Endpoint, body: &str) -> (Outcome, Measured) {
        let mut answer = Answer::new(endpoint, false, None, true, true, ChunkRule::Output);
        answer.begin(ResponseHead { status: 200, content: Content::Json });
        answer.set_now(Duration::from_secs(3));
        answer.receive(body.as_bytes()).unwrap();
        (answer.finish(), answer.into_measured())
    }

    fn seconds(measured: &Measured) -> Vec<u64> {
        measured.chunks.iter().map(|chunk| chunk.at.as_secs()).collect()
    }

    #[test]
    fn reasoning_is_counted_apart_where_the_server_does_not_count() {
        let mut events = vec![r#"data: {"choices":[{"delta":{"reasoning_content":"hm"}}]}"#; 3];
        events.extend([r#"data: {"choices":[{"delta":{"content":"x"}}]}"#; 4]);
        let uncounted = stream(Endpoint::ChatCompletions, &[&events[..], &["data: [DONE]"]].concat()).1;
        assert_eq!(uncounted.output_tokens, Count { tokens: 7, source: CountSource::Chunks });
        assert_eq!(uncounted.own_reasoning_tokens, Some(3));
        let usage =
            [r#"data: {"choices":[],"usage":{"prompt_tokens":9,"completion_tokens":12}}"#, "data: [DONE]"];
        let counted = stream(Endpoint::ChatCompletions, &[&events[..], &usage].concat()).1;
        assert_eq!(counted.own_reasoning_tokens, None, "events are not what the server counts in");
        let body = r#"{"choices":[{"message":{"reasoning_content":"eight by","content":"four"}}]}"#;
        assert_eq!(document(Endpoint::ChatCompletions, body).1.own_reasoning_tokens, Some(2));
    }

    #[test]
    fn only_output_events_are_chunks() {
        let (outcome, measured) = stream(
            Endpoint::ChatCompletions,
            &[
                r#"data: {"choices":[{"delta":{"role":"assistant","content":""}}]}"#,
                ": keep-alive",
                "data:",
                r#"data: {"choices":[{"delta":{"reasoning_content":"hm"}}]}"#,
                r#"data:{"choices":[{"delta":{"tool_calls":[{"function":{"arguments":"{"}}]}}]}"#,
                r#"data: {"choices":[{"delta":{"content":"x"}}]}"#,
                r#"data: {"choices":[{"delta":{},"finish_reason":"stop"}]}"#,
                r#"data: {"choices":[],"usage":{"prompt_tokens":9,"completion_tokens":12,"prompt_tokens_details":{"cached_tokens":8}}}"#,
                "data: [DONE]",
            ],
        );
        assert_eq!(outcome, Outcome::Success);
        assert_eq!(seconds(&measured), [4, 5, 6]);
        assert_eq!(measured.first_answer, Some(Duration::from_secs(5)));
        assert_eq!(measured.output_tokens, Count { tokens: 12, source: CountSource::Usage });
        assert_eq!(measured.usage.unwrap().cached_tokens, Some(8));
        assert_eq!(
            measured.text,
            AnswerText {
                text: "x".to_owned(),
                reasoning: "hm".to_owned(),
                ends: vec![(0, 2), (0, 2), (1, 2)],
                bodies: None
            }
        );
    }

    #[test]
    fn an_empty_reason_ends_no_stream() {
        let token = r#"data: {"choices":[{"delta":{"content":"x"},"finish_reason":""}]}"#;
        let (outcome, _) = stream(Endpoint::ChatCompletions, &[token, token]);
        assert_eq!(outcome, Outcome::Broken("the stream ended without its end event".to_owned()));
    }

    #[test]
    fn counts_that_are_none_do_not_cost_the_answer() {
        let (outcome, measured) = stream(
            Endpoint::ChatCompletions,
            &[
                r#"data: {"choices":[{"delta":{"content":"x"}}]}"#,
                r#"data: {"choices":[],"usage":{"prompt_tokens":7.0,"completion_tokens":-1}}"#,
                "data: [DONE]",
            ],
        );
        assert_eq!(outcome, Outcome::Success);
        assert_eq!(measured.output_tokens, Count { tokens: 1, source: CountSource::Chunks });
        assert_eq!(measured.usage.unwrap().prompt_tokens, 7);
    }

    #[test]
    fn other_rules_count_other_events() {
        let usage = r#"data: {"choices":[],"usage":{"prompt_tokens":9,"completion_tokens":4}}"#;
        let chat = [
            r#"data: {"choices":[{"delta":{"role":"assistant","content":""}}]}"#,
            r#"data: {"choices":[{"delta":{"content":""}}]}"#,
            r#"data: {"choices":[{"delta":{"content":"x"}}]}"#,
            r#"data: {"choices":[{"delta":{},"finish_reason":"stop"}]}"#,
            usage,
            "data: [DONE]",
        ];
        let read = |rule, endpoint, events| {
            let (outcome, measured) = counted(rule, endpoint, events);
            assert_eq!(outcome, Outcome::Success);
            (seconds(&measured), measured.ended.map(|at| at.as_secs()))
        };
        assert_eq!(read(ChunkRule::Output, Endpoint::ChatCompletions, &chat), (vec![3], None));
        assert_eq!(read(ChunkRule::Token, Endpoint::ChatCompletions, &chat), (vec![2, 3], None));
        assert_eq!(read(ChunkRule::Choice, Endpoint::ChatCompletions, &chat), (vec![1, 2, 3, 4], None));
        let old = read(ChunkRule::ChoiceThenUsage, Endpoint::ChatCompletions, &chat);
        assert_eq!(old, (vec![1, 2, 3, 4], Some(5)));
        let completion = [
            r#"data: {"choices":[{"text":""}]}"#,
            r#"data: {"choices":[{"text":"x"}]}"#,
            r#"data: {"choices":[{"text":"","finish_reason":"stop"}]}"#,
            usage,
            "data: [DONE]",
        ];
        assert_eq!(read(ChunkRule::Output, Endpoint::Completions, &completion), (vec![2], None));
        assert_eq!(read(ChunkRule::Choice, Endpoint::Completions, &completion), (vec![1, 2, 3], None));
        let (outcome, _) = counted(ChunkRule::Choice, Endpoint::Completions, &[usage, "data: [DONE]"]);
        assert!(matches!(outcome, Outcome::Malformed(_)), "nothing to time: {outcome:?}");
    }

    #[test]
    fn tokens_of_a_chunk_come_from_continuous_usage_only() {
        let event =
            |text: &str, usage: &str| format!("data: {{\"choices\":[{{\"text\":\"{text}\"}}]{usage}}}");
        let counted =
            |tokens: u32| format!(",\"usage\":{{\"prompt_tokens\":1,\"completion_tokens\":{tokens}}}");
        let tokens = |events: &[String]| {
            let mut events: Vec<&str> = events.iter().map(String::as_str).collect();
            events.push("data: [DONE]");
            let (outcome, measured) = stream(Endpoint::Completions, &events);
            assert_eq!(outcome, Outcome::Success);
            let tokens: Vec<u32> = measured.chunks.iter().map(|chunk| chunk.tokens).collect();
            (tokens, measured.output_tokens.tokens, measured.output_tokens.source)
        };
        let continuous = [event("a", &counted(3)), event("b", &counted(4)), event("c", &counted(6))];
        assert_eq!(tokens(&continuous), (vec![3, 1, 2], 6, CountSource::Usage));
        let at_the_end = [event("a", ""), event("b", &counted(9))];
        assert_eq!(tokens(&at_the_end), (vec![1, 1], 9, CountSource::Usage));
        let uncounted = [event("a", ""), event("b", "")];
        assert_eq!(tokens(&uncounted), (vec![1, 1], 2, CountSource::Chunks));
    }

    #[test]
    fn failures_inside_a_stream_are_told_apart() {
        let chat = |events: &[&str]| stream(Endpoint::ChatCompletions, events).0;
        let first = r#"data: {"choices":[{"delta":{"content":"x"}}]}"#;
        let failed = Outcome::StreamError("out of memory".to_owned());
        assert_eq!(chat(&[first, r#"data: {"error":{"message":"out of memory"}}"#]), failed);
        assert_eq!(chat(&[first, "event: error\ndata: out of   memory"]), failed);
        assert!(matches!(chat(&[first, "data: {nonsense"]), Outcome::Malformed(_)));
        assert!(matches!(chat(&[": only comments"]), Outcome::Malformed(_)));
        assert!(matches!(chat(&[first]), Outcome::Broken(_)));
        assert_eq!(chat(&["data: [DONE]"]), Outcome::Success, "an empty answer is an answer");
    }

    #[test]
    fn answers_without_content_are_told_apart() {
        let answer = |endpoint, content, body: &str| {
            let mut answer =
                Answer::new(endpoint, content == Content::Events, None, false, false, ChunkRule::default());
            answer.begin(ResponseHead { status: 200, content });
            answer.receive(body.as_bytes()).unwrap();
            assert_eq!(answer.finish(), Outcome::Success);
            answer.has_content()
        };
        let chat = Endpoint::ChatCompletions;
        let usage = r#"{"choices":[],"usage":{"prompt_tokens":1,"completion_tokens":0}}"#;
        assert!(!answer(chat, Content::Events, &format!("data: {usage}\n\ndata: [DONE]\n\n")));
        assert!(answer(
            chat,
            Content::Events,
            "data: {\"choices\":[{\"delta\":{\"content\":\"x\"}}]}\n\ndata: [DONE]\n\n"
        ));
        assert!(!answer(chat, Content::Json, r#"{"choices":[{"message":{"content":""}}]}"#));
        assert!(answer(chat, Content::Json, r#"{"choices":[{"message":{"reasoning_content":"x"}}]}"#));
        assert!(answer(chat, Content::Json, r#"{"choices":[{"message":{"tool_calls":[{"id":"1"}]}}]}"#));
        assert!(answer(Endpoint::Embeddings, Content::Json, r#"{"data":[{"embedding":[1.0]}]}"#));
    }

    #[test]
    fn the_bytes_of_the_body_are_counted_by_their_reads() {
        let mut answer = Answer::new(Endpoint::Completions, false, None, false, false, ChunkRule::default());
        answer.begin(ResponseHead { status: 200, content: Content::Json });
        for (second, bytes) in [(1, ""), (2, r#"{"choices":[{"#), (2, r#""text":"a""#), (5, "}]}")] {
            answer.set_now(Duration::from_secs(second));
            answer.receive(bytes.as_bytes()).unwrap();
        }
        let Measured { bytes, reads, first_byte, .. } = answer.into_measured();
        assert_eq!((bytes, reads, first_byte), (26, 2, Some(Duration::from_secs(2))));
    }

    #[test]
    fn whole_answers_are_one_chunk() {
        let (outcome, measured) = document(
            Endpoint::Completions,
            r#"{"choices":[{"text":"abcdefgh","finish_reason":"stop"}],"usage":{"prompt_tokens":5,"completion_tokens":7}}"#,
        );
        assert_eq!(outcome, Outcome::Success);
        assert_eq!(measured.chunks, [Chunk { at: Duration::from_secs(3), tokens: 7 }]);
        let (_, measured) = document(Endpoint::Completions, r#"{"choices":[{"text":"abcdefgh"}]}"#);
        assert_eq!(measured.output_tokens, Count { tokens: 2, source: CountSource::Estimate });
        let (outcome, measured) =
            document(Endpoint::Embeddings, r#"{"data":[{"embedding":[1.0]}],"usage":{"prompt_tokens":5}}"#);
        assert_eq!((outcome, measured.chunks.len(), measured.output_tokens.tokens), (Outcome::Success, 1, 0));
        assert!(matches!(document(Endpoint::Completions, "<html>").0, Outcome::Malformed(_)));
        let (outcome, _) = document(Endpoint::Completions, r#"{"error":{"message":"no"}}"#);
        assert_eq!(outcome, Outcome::StreamError("no".to_owned()));
    }

    #[test]
    fn messages_are_cut_to_a_line() {
        assert_eq!(shorten(" a\n\tb "), "a b");
        assert_eq!(shorten("\u{1b}[2Jgone\u{9b}31m\u{7}"), "\u{fffd}[2Jgone\u{fffd}31m\u{fffd}");
        let long = shorten(&"ä".repeat(1000));
        assert_eq!(long.chars().count(), MESSAGE_CHARS + 4);
    }
}
