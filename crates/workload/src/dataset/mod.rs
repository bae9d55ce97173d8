//! Files of prompts and traces.
//!
//! Every kind of file becomes a [`Dataset`]: entries of one or more turns, with times where the file has them. A
//! dataset is either sampled, its times ignored ([`Dataset::sample`]), or replayed by its times
//! ([`Dataset::schedule`]). Files are read as they are written: a field that is not understood is an error where it
//! would change what is sent, and errors name the line.
//!
//! Rows of one session that are single turns, messages or finished bodies, or that state block ids, are whole prompts
//! ([`Request::is_whole`](crate::Request::is_whole)); turns, texts of a trace and lengths without block ids are what
//! the turn adds.

mod chat;
mod kind;
mod pool;
mod rewrite;
mod rows;
mod schedule;
mod tables;
mod traces;

use std::{collections::HashMap, path::Path, time::Duration};

pub use kind::DatasetKind;
pub use rewrite::Rewrite;
pub use schedule::Schedule;

use crate::{Error, RequestTemplate, Sampling, Turn, sample};

/// Most rows that are read.
const MAX_ROWS: usize = 1 << 24;

/// The entries of a file, in its order.
#[derive(Clone, Debug, Default)]
pub struct Dataset {
    /// At least one.
    pub entries: Vec<Entry>,
}

/// A request, or a session of several.
#[derive(Clone, Debug)]
pub struct Entry {
    /// When it starts, on the file's own clock.
    pub at: Option<Duration>,
    /// At least one. Times ([`Turn::not_before`]) are on the file's own clock.
    pub turns: Vec<Turn>,
}

impl Dataset {
    /// Reads a file of the given kind; prompts that are known by block ids have blocks of `block_tokens` tokens (the
    /// kind's usual size where it is `None`).
    pub fn load(
        path: &Path,
        kind: DatasetKind,
        template: &RequestTemplate,
        block_tokens: Option<u32>,
    ) -> Result<Self, Error> {
        if block_tokens == Some(0) {
            return Err(Error::Setting("blocks of 0 tokens: give 1 or more".into()));
        }
        let dataset = match kind {
            DatasetKind::SingleTurn | DatasetKind::RandomPool => pool::single_turns(path, template)?,
            DatasetKind::MultiTurn => pool::multi_turns(path, template)?,
            DatasetKind::MooncakeTrace => traces::mooncake(path, template, block_tokens.unwrap_or(512))?,
            DatasetKind::BailianTrace => traces::bailian(path, template, block_tokens.unwrap_or(16))?,
            DatasetKind::BurstGptTrace => tables::burst_gpt(path, template)?,
            DatasetKind::AzureTrace => tables::azure(path, template)?,
            DatasetKind::RawPayload => pool::raw_payloads(path, template)?,
            DatasetKind::InputsJson => pool::inputs_json(path, template)?,
        };
        if dataset.entries.is_empty() {
            return Err(Error::file(path, format_args!("no entries in it; it was read as {}", kind.name())));
        }
        Ok(dataset)
    }

    /// Requests in all turns of all entries.
    pub fn requests(&self) -> usize {
        self.entries.iter().map(|entry| entry.turns.len()).sum()
    }

    /// Whether every entry says when it starts.
    pub fn has_times(&self) -> bool {
        self.entries.iter().all(|entry| entry.at.is_some())
    }

    /// Endless sessions in the given order; the file's times play no part.
    pub fn sample(self, sampling: Sampling, seed: u64) -> impl Iterator<Item = Vec<Turn>> + Send + 'static {
        sample(sampling, self.entries.len(), seed).map(move |place| {
            let mut turns = self.entries[place].turns.clone();
            turns.iter_mut().for_each(|turn| turn.not_before = None);
            turns
        })
    }
}

/// Collects rows into entries: those of one session into one, in the place of its first.
#[derive(Default)]
struct Sessions {
    dataset: Dataset,
    places: HashMap<String, usize>,
}

impl Sessions {
    /// Adds a row; `at` is its time.
    fn push(&mut self, session: Option<String>, at: Option<Duration>, mut turn: Turn) -> Result<(), String> {
        if self.dataset.entries.len() == MAX_ROWS {
            return Err(format!("more than {MAX_ROWS} entries; take a part of the file"));
        }
        let place = session.and_then(|session| {
            let next = self.dataset.entries.len();
            let place = *self.places.entry(session).or_insert(next);
            (place != next).then_some(place)
        });
        match place {
            Some(place) => {
                turn.not_before = at;
                self.dataset.entries[place].turns.push(turn);
            }
            None => self.dataset.entries.push(Entry { at, turns: vec![turn] }),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, sync::Arc};

    use protocol::Endpoint;
    use serde_json::{Value, json};

    use super::*;
    use crate::{Message, Prompt, Request};

    fn load(content: &str) -> (DatasetKind, Result<Dataset, Error>) {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), content).unwrap();
        let kind = DatasetKind::detect(file.path()).unwrap();
        let template = RequestTemplate::new(Endpoint::ChatCompletions, "m");
        (kind, Dataset::load(file.path(), kind, &template, None))
    }

    fn entries(content: &str, kind: DatasetKind) -> Vec<Entry> {
        let (detected, dataset) = load(content);
        assert_eq!(detected, kind);
        dataset.unwrap().entries
    }

    fn failure(content: &str) -> String {
        load(content).1.unwrap_err().to_string()
    }

    fn said(request: &Request) -> Vec<Message> {
        let mut said = Vec::new();
        request.prompt.extend_history(&mut said);
        said
    }

    fn seconds(seconds: f64) -> Duration {
        Duration::from_secs_f64(seconds)
    }

    #[test]
    fn single_turns_with_sessions_and_extra_keys() {
        let content = r#"{"text": "a", "session_id": 7, "timestamp": 1500, "output_length": 3}
            {"texts": ["b"], "type": "single_turn", "extra": {"top_k": 1}}

            {"text": "c", "session_id": 7, "delay": 250, "role": "system"}"#;
        let entries = entries(content, DatasetKind::SingleTurn);
        assert_eq!(entries.iter().map(|entry| entry.turns.len()).collect::<Vec<_>>(), [2, 1]);
        let [first, second] = &entries[0].turns[..] else { panic!() };
        assert_eq!((entries[0].at, first.request.output_tokens), (Some(seconds(1.5)), Some(3)));
        assert_eq!(said(&first.request), [Message::user("a")]);
        assert_eq!((second.delay, second.not_before), (seconds(0.25), None));
        assert_eq!(said(&second.request), [Message::new("system", "c")]);
        assert_eq!(entries[1].turns[0].request.extra.as_ref().unwrap()["top_k"], 1);
        let names = [&first.conversation, &second.conversation, &entries[1].turns[0].conversation];
        assert_eq!(names.map(Option::as_deref), [Some("7"), Some("7"), None]);
    }

    #[test]
    fn several_texts_are_a_list_for_embeddings_and_refused_elsewhere() {
        let content = r#"{"texts": ["one ", "two"], "extra": {"dimensions": 8}}"#;
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(&file, content).unwrap();
        let load = |endpoint| {
            let template = RequestTemplate::new(endpoint, "m");
            Dataset::load(file.path(), DatasetKind::SingleTurn, &template, None)
        };
        let entries = load(Endpoint::Embeddings).unwrap().entries;
        let request = &entries[0].turns[0].request;
        let extra = Value::from(request.extra.as_deref().unwrap().clone());
        assert_eq!(extra, json!({ "input": ["one ", "two"], "dimensions": 8 }));
        assert_eq!(said(request), [Message::user("one two")]);
        let refused = load(Endpoint::ChatCompletions).unwrap_err().to_string();
        assert!(
            refused.contains(", line 1: 2 texts in one request: only embeddings take several"),
            "{refused}"
        );
    }

    #[test]
    fn multi_turns_without_names_stay_apart() {
        let content = r#"{"turns": [{"text": "a"}, {"text": "b", "timestamp": 2000}]}
            {"turns": [{"text": "c"}]}"#;
        let entries = entries(content, DatasetKind::MultiTurn);
        assert!(entries.iter().all(|entry| entry.turns[0].conversation.is_none()));
        assert_eq!(entries.iter().map(|entry| entry.turns.len()).collect::<Vec<_>>(), [2, 1]);
        assert_eq!(entries[0].turns[1].not_before, Some(seconds(2.0)));
    }

    #[test]
    fn rows_of_a_session_are_whole_or_add_to_it() {
        let wholes = |content: &str, kind| {
            let entries = entries(content, kind);
            let [entry] = &entries[..] else { panic!("{entries:?}") };
            entry.turns.iter().map(|turn| turn.request.is_whole).collect::<Vec<_>>()
        };
        let single = r#"{"text": "a", "session_id": "s"}
            {"text": "b", "session_id": "s"}"#;
        assert_eq!(wholes(single, DatasetKind::SingleTurn), [true, true]);
        let turns = r#"{"turns": [{"text": "a"}, {"text": "b"}]}"#;
        assert_eq!(wholes(turns, DatasetKind::MultiTurn), [false, false]);
        let trace = r#"{"session_id": "s", "timestamp": 1, "messages": [{"role": "user", "content": "u"}]}
            {"session_id": "s", "payload": {"model": "x"}}
            {"session_id": "s", "input_length": 9, "hash_ids": [1]}
            {"session_id": "s", "input_length": 9}
            {"session_id": "s", "input_length": 9, "hash_ids": []}
            {"session_id": "s", "text_input": "a"}"#;
        assert_eq!(wholes(trace, DatasetKind::MooncakeTrace), [true, true, true, false, false, false]);
    }

    #[test]
    fn mooncake_rows_of_all_four_forms() {
        let content = r#"{"timestamp": 100, "input_length": 700, "output_length": 9, "hash_ids": [4, 5], "other": 1}
            {"text_input": "a", "output_length": 2}
            {"messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "u"}], "tools": [{}]}
            {"payload": {"model": "x", "stream": false, "messages": []}, "delay": 5}"#;
        let entries = entries(content, DatasetKind::MooncakeTrace);
        let request = |entry: usize| &entries[entry].turns[0].request;
        let Prompt::Blocks { ids, block_tokens, tokens, .. } = &request(0).prompt else { panic!() };
        assert_eq!(
            (&ids[..], *block_tokens, *tokens, entries[0].at),
            (&[4, 5][..], 512, 700, Some(seconds(0.1)))
        );
        assert_eq!(said(request(1)), [Message::user("a")]);
        assert_eq!(said(request(2)), [Message::new("system", "s"), Message::user("u")]);
        assert_eq!(request(2).extra.as_ref().unwrap()["tools"], json!([{}]));
        let Prompt::Raw(body) = &request(3).prompt else { panic!() };
        assert_eq!(&body[..], br#"{"model": "x", "stream": false, "messages": []}"#);
        assert_eq!((&*request(3).model, request(3).stream), ("x", false));
    }

    #[test]
    fn bailian_chats_are_chained_to_their_root() {
        let row = |chat: i32, parent: i32, at: f64, length: u32| {
            format!(
                r#"{{"chat_id": {chat}, "parent_chat_id": {parent}, "timestamp": {at}, "input_length": {length},
                "output_length": 2, "type": "text", "turn": 1, "hash_ids": [1, 2]}}"#
            )
            .replace('\n', "")
        };
        let rows = [
            row(1, -1, 0.5, 17),
            row(2, -1, 1.0, 20),
            row(3, 1, 2.5, 31),
            row(4, 3, 3.0, 32),
            row(9, 8, 4.0, 32),
        ];
        let entries = entries(&rows.join("\n"), DatasetKind::BailianTrace);
        assert_eq!(entries.iter().map(|entry| entry.turns.len()).collect::<Vec<_>>(), [3, 1, 1]);
        assert_eq!(entries[0].at, Some(seconds(0.5)));
        assert_eq!(entries[0].turns[2].not_before, Some(seconds(3.0)));
    }

    #[test]
    fn bailian_children_find_their_parents_in_any_order_and_go_by_their_turns() {
        let rows = r#"{"chat_id": 4, "parent_chat_id": 3, "timestamp": 3, "input_length": 4, "output_length": 2, "turn": 3}
            {"chat_id": 7, "timestamp": 4, "input_length": 7, "output_length": 2}
            {"chat_id": 3, "parent_chat_id": 1, "timestamp": 2, "input_length": 3, "output_length": 2, "turn": 2}
            {"chat_id": 8, "parent_chat_id": 9, "timestamp": 5, "input_length": 8, "output_length": 2}
            {"chat_id": 9, "parent_chat_id": 8, "timestamp": 6, "input_length": 9, "output_length": 2}
            {"chat_id": 1, "parent_chat_id": -1, "timestamp": 1, "input_length": 1, "output_length": 2}"#;
        let entries = entries(rows, DatasetKind::BailianTrace);
        let tokens = |entry: &Entry| -> Vec<u32> {
            entry.turns.iter().map(|turn| turn.request.input_tokens.unwrap()).collect()
        };
        assert_eq!(entries.iter().map(tokens).collect::<Vec<_>>(), [vec![1, 3, 4], vec![7], vec![8, 9]]);
        assert_eq!((entries[0].at, entries[0].turns[2].not_before), (Some(seconds(1.0)), Some(seconds(3.0))));
    }

    #[test]
    fn a_row_may_name_its_kind_and_a_file_may_begin_with_a_byte_order_mark() {
        let mark = "\u{feff}";
        let named =
            entries(&format!(r#"{mark}{{"type": "random_pool", "text": "a"}}"#), DatasetKind::RandomPool);
        assert_eq!(said(&named[0].turns[0].request), [Message::user("a")]);
        let inputs = format!(r#"{mark}{{"data": [{{"payloads": [{{"model": "a"}}]}}]}}"#);
        assert_eq!(entries(&inputs, DatasetKind::InputsJson).len(), 1);
    }

    #[test]
    fn texts_in_the_words_of_other_tools() {
        let content = r#"{"prompt": "a", "output_tokens": 5}
            {"texts": [{"name": "t", "contents": ["b"]}]}"#;
        let entries = entries(content, DatasetKind::SingleTurn);
        assert_eq!(said(&entries[0].turns[0].request), [Message::user("a")]);
        assert_eq!(entries[0].turns[0].request.output_tokens, Some(5));
        assert_eq!(said(&entries[1].turns[0].request), [Message::user("b")]);
        assert!(failure(r#"{"texts": [{"contents": ["a", "b"]}]}"#).contains("2 texts in one request"));
        let other = failure(r#"{"texts": [{"content": "a"}]}"#);
        assert!(other.contains("line 1: texts are strings, or objects of a name and of contents"), "{other}");
    }

    #[test]
    fn finished_bodies_are_sent_as_they_are() {
        let lines = r#"{"model": "a", "prompt": "x", "stream": true}
            {"messages":[], "temperature": 0}"#;
        let entries_of_lines = entries(lines, DatasetKind::RawPayload);
        assert!(entries_of_lines[0].turns[0].request.stream && !entries_of_lines[1].turns[0].request.stream);
        assert_eq!(&*entries_of_lines[1].turns[0].request.model, "m");

        let inputs = r#"{
            "data": [
                {"session_id": "s", "payloads": [{"model": "a"}, {"model": "b"}]},
                {"session_id": "t", "payloads": [{"model": "c"}]}
            ]
        }"#;
        let sessions = entries(inputs, DatasetKind::InputsJson);
        assert_eq!(sessions.iter().map(|entry| entry.turns.len()).collect::<Vec<_>>(), [2, 1]);
        let Prompt::Raw(body) = &sessions[0].turns[1].request.prompt else { panic!() };
        assert_eq!(&body[..], br#"{"model": "b"}"#);
        assert_eq!(sessions[1].turns[0].conversation.as_deref(), Some("t"));
    }

    #[test]
    fn what_would_change_the_requests_is_an_error_with_its_line() {
        assert!(
            failure("{\"text\": \"a\"}\n{\"text\": \"a\", \"image\": \"x.png\"}")
                .contains("line 2: unknown field `image`")
        );
        assert!(failure(r#"{"text": "a", "texts": ["b"]}"#).contains("line 1: give either text or texts"));
        assert!(failure(r#"{"texts": ["a", "b"]}"#).contains("2 texts in one request"));
        assert!(failure(r#"{"text": "a", "timestamp": -1}"#).contains("a time of -0.001 s"));
        assert!(
            failure(r#"{"input_length": 9, "text_input": "a"}"#).contains("give exactly one of input_length")
        );
        assert!(failure(r#"{"input_length": 9, "hash_ids": [1, 2]}"#).contains("block size"));
        assert!(failure(r#"{"text_input": "a", "hash_ids": [1]}"#).contains("hash_ids need input_length"));
        assert!(failure(r#"{"payload": 3}"#).contains("line 1: the body"));
        let parts = r#"{"timestamp": 1, "messages": [{"role": "user", "content": [{"type": "text"}]}]}"#;
        assert!(failure(parts).contains("expected a string"));
        assert!(failure("{\"text\": \"a\"}\nnot json").contains("line 2"));
    }

    #[test]
    fn a_file_of_no_known_kind_is_refused_with_the_names() {
        let file = tempfile::NamedTempFile::new().unwrap();
        for content in ["", "a,b\n1,2", "[1]", "{\"x\": 1}"] {
            fs::write(file.path(), content).unwrap();
            let message = DatasetKind::detect(file.path()).unwrap_err().to_string();
            assert!(message.contains("mooncake_trace"), "{message}");
        }
        for kind in DatasetKind::ALL {
            assert_eq!(DatasetKind::from_name(&kind.name().replace('_', "-")), Some(kind));
        }
    }

    #[test]
    fn sampled_sessions_forget_their_times() {
        let turn = |text: &str| {
            let request = Request::new(Endpoint::Completions, "m", Prompt::Text(Arc::from(text)));
            Turn { not_before: Some(seconds(9.0)), ..Turn::from(request) }
        };
        let entry = |text| Entry { at: Some(seconds(1.0)), turns: vec![turn(text)] };
        let dataset = Dataset { entries: vec![entry("a"), entry("b")] };
        assert_eq!(dataset.requests(), 2);
        let sessions: Vec<Vec<Turn>> = dataset.sample(Sampling::Sequential, 0).take(3).collect();
        let texts: Vec<Message> = sessions.iter().flat_map(|turns| said(&turns[0].request)).collect();
        assert_eq!(texts, [Message::user("a"), Message::user("b"), Message::user("a")]);
        assert!(sessions.iter().flatten().all(|turn| turn.not_before.is_none()));
    }
}
