//! Data of several turns: users of `shared_prefix` who go on talking, `conversation_replay`, and recorded sessions.
//!
//! There is a fixed number of slots. Request `i` of a stage belongs to slot `i mod slots`, as in inference-perf; a
//! slot plays one session after the other. A turn is sent at its time or when the one before it has been answered,
//! whichever is later. A session is never shared between two owners, and its history is the server's real answers.

use std::{iter, sync::Arc, time::Duration};

use protocol::Endpoint;
use rand::RngExt;
use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::{
    ConversationReplay,
    lengths::Sampler,
    prompts::{Shared, counted, random_of},
};
use crate::{Error, Message, Prompt, RequestTemplate, Turn, words::push_words};

/// inference-perf's defaults of keys that may be null.
const TURNS: f64 = 10.0;
const INPUT_TOKENS: f64 = 512.0;
const OUTPUT_TOKENS: f64 = 100.0;
const MAX_MODEL_LEN: u32 = 225_000;
/// What inference-perf keeps free of the model's length.
const MARGIN: u32 = 200;

/// Sessions of several turns.
#[derive(Clone, Debug)]
pub(super) enum Talks {
    /// Users who never stop.
    Users(Box<Shared>),
    /// Conversations that end.
    Conversations(Arc<Replay>),
    /// Sessions that were recorded; stages go on in them where the one before ended.
    Recorded(Arc<Recorded>),
}

/// Recorded sessions.
#[derive(Debug)]
pub(super) struct Recorded {
    sessions: Vec<RecordedSession>,
    notes: Vec<String>,
}

/// A recorded session: its file, and its turns.
pub(super) type RecordedSession = (Arc<str>, Arc<[Turn]>);

impl Recorded {
    /// Played again until there are `target` of them, if that is more.
    pub(super) fn new(
        mut sessions: Vec<RecordedSession>,
        target: Option<u32>,
        notes: Vec<String>,
    ) -> Result<Self, Error> {
        if sessions.is_empty() {
            return Err(Error::Setting("there is no session in the traces".to_owned()));
        }
        for again in 0..(target.unwrap_or(0) as usize).saturating_sub(sessions.len()) {
            sessions.push(sessions[again].clone());
        }
        Ok(Self { sessions, notes })
    }

    pub(super) fn sessions(&self) -> usize {
        self.sessions.len()
    }

    pub(super) fn session(&self, number: usize) -> &[Turn] {
        &self.sessions[number % self.sessions.len()].1
    }

    /// The file that a session was read from.
    pub(super) fn file(&self, number: usize) -> &str {
        &self.sessions[number % self.sessions.len()].0
    }

    /// What the user should know about them.
    pub(super) fn notes(&self) -> &[String] {
        &self.notes
    }
}

/// The blueprint of all conversations.
#[derive(Debug)]
pub(super) struct Replay {
    template: RequestTemplate,
    seed: u64,
    slots: u64,
    shared_tokens: u32,
    dynamic: Sampler,
    turns: Sampler,
    input: Sampler,
    output: Sampler,
    tool: Sampler,
    max_model_len: u32,
}

impl Talks {
    pub(super) fn conversations(
        given: &ConversationReplay,
        template: RequestTemplate,
    ) -> Result<Self, Error> {
        Ok(Self::Conversations(Arc::new(Replay {
            template,
            seed: given.seed,
            slots: given.num_conversations.into(),
            shared_tokens: given.shared_system_prompt_len,
            dynamic: Sampler::or(given.dynamic_system_prompt_len.as_ref(), 0.0)?,
            turns: Sampler::or(given.turns_per_conversation.as_ref(), TURNS)?,
            input: Sampler::or(given.input_tokens_per_turn.as_ref(), INPUT_TOKENS)?,
            output: Sampler::or(given.output_tokens_per_turn.as_ref(), OUTPUT_TOKENS)?,
            tool: Sampler::or(given.tool_call_latency_sec.as_ref(), 0.0)?,
            max_model_len: given.max_model_len.unwrap_or(MAX_MODEL_LEN),
        })))
    }

    pub(super) fn slots(&self) -> u64 {
        match self {
            Self::Users(shared) => shared.prompts(),
            Self::Conversations(replay) => replay.slots,
            Self::Recorded(recorded) => recorded.sessions() as u64,
        }
    }

    /// Whether turns come some time after the answers before them.
    pub(super) fn pause(&self) -> bool {
        match self {
            Self::Users(_) => false,
            Self::Conversations(replay) => !matches!(replay.tool, Sampler::Always(seconds) if seconds <= 0.0),
            Self::Recorded(recorded) => recorded
                .sessions
                .iter()
                .any(|(_, turns)| turns.iter().skip(1).any(|turn| !turn.delay.is_zero())),
        }
    }

    /// Slot and round of session `number` of a stage whose first one is `first` in the run.
    pub(super) fn place(&self, first: u64, number: u64) -> (u64, u64) {
        let slots = self.slots();
        match self {
            Self::Recorded(_) => ((first + number) % slots, (first + number) / slots),
            _ => (number % slots, (first + number) / slots),
        }
    }

    /// Turns of the `round`th session in `slot`; `None` where it never ends.
    pub(super) fn turns(&self, slot: u64, round: u64) -> Option<u32> {
        match self {
            Self::Users(_) => None,
            Self::Conversations(replay) => Some(replay.lengths(slot, round).len() as u32),
            Self::Recorded(recorded) => Some(recorded.session(slot as usize).len() as u32),
        }
    }

    /// The first `turns` turns of a session.
    pub(super) fn session(&self, stage: u16, slot: u64, round: u64, turns: usize) -> Vec<Turn> {
        match self {
            Self::Users(shared) => (0..turns as u64).map(|turn| shared.request(slot, turn).into()).collect(),
            Self::Conversations(replay) => replay.session(stage, slot, round, turns),
            Self::Recorded(recorded) => recorded.session(slot as usize).iter().take(turns).cloned().collect(),
        }
    }
}

/// Tokens that a turn adds, tokens of its answer, and the time before it.
type TurnLengths = (u32, u32, Duration);

impl Replay {
    /// The turns of a session that fit into the model's length.
    fn lengths(&self, slot: u64, round: u64) -> Vec<TurnLengths> {
        let mut random = random_of(self.seed, "conversations", slot | round << 32);
        let mut total = self.shared_tokens + self.dynamic.count(&mut random);
        let turns = self.turns.count(&mut random).max(1);
        let mut lengths = Vec::new();
        for turn in 0..turns {
            let (input, output) =
                (self.input.count(&mut random).max(1), self.output.count(&mut random).max(1));
            let seconds = self.tool.draw(&mut random).max(0.0);
            let before = if turn == 0 { 0.0 } else { seconds };
            total = total.saturating_add(input).saturating_add(output);
            if turn > 0 && total.saturating_add(MARGIN) > self.max_model_len {
                break;
            }
            lengths.push((input, output, Duration::try_from_secs_f64(before).unwrap_or_default()));
        }
        lengths
    }

    fn session(&self, stage: u16, slot: u64, round: u64, turns: usize) -> Vec<Turn> {
        let mut random = random_of(self.seed, "conversations", slot | round << 32);
        let dynamic = self.dynamic.count(&mut random);
        let mut system = String::new();
        push_words(xxh3_64_with_seed(&stage.to_le_bytes(), self.seed), self.shared_tokens, &mut system);
        let mut words = random_of(self.seed, "conversation texts", slot | round << 32);
        push_words(words.random(), dynamic, &mut system);
        let is_completion = self.template.endpoint == Endpoint::Completions;
        let starts = iter::once(Some(system)).chain(iter::repeat(None));
        let lengths = self.lengths(slot, round).into_iter().take(turns);
        lengths
            .zip(starts)
            .map(|((input, output, delay), system)| {
                let mut text = String::new();
                push_words(words.random(), input, &mut text);
                let tokens = system.is_some().then_some(self.shared_tokens + dynamic + input);
                let request = match system.filter(|system| !system.is_empty()) {
                    Some(system) if is_completion => counted(&self.template, system + &text, tokens, output),
                    Some(system) => {
                        let mut request = counted(&self.template, String::new(), tokens, output);
                        request.prompt =
                            Prompt::Messages([Message::new("system", system), Message::user(text)].into());
                        request
                    }
                    None => counted(&self.template, text, tokens, output),
                };
                Turn { delay, ..Turn::from(request) }
            })
            .collect()
    }
}
