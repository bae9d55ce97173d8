//! Data of several turns: users of `shared_prefix` who go on talking, `conversation_replay`, and recorded sessions.
//!
//! There is a fixed number of slots. Request `i` of a stage belongs to slot `i mod slots`, as in inference-perf; a
//! slot plays one session after the other. A turn is sent at its time or when the one before it has been answered,
//! whichever is later. A session is never shared between two owners, and its history is the server's real answers.

use std::{iter, sync::Arc, time::Duration};

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
pub(super) const OUTPUT_TOKENS: f64 = 256.0;
/// Conversations whose lengths are looked at for what the user should know.
const LOOKED_AT: u64 = 1000;
/// What inference-perf keeps free of the model's length.
pub(super) const MARGIN: u32 = 200;

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

/// The blueprints of all conversations. A slot plays its own again and again.
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

    /// Slot of session `number` of a stage whose first one is `first` in the run.
    pub(super) fn slot(&self, first: u64, number: u64) -> u64 {
        match self {
            Self::Recorded(_) => (first + number) % self.slots(),
            _ => number % self.slots(),
        }
    }

    /// Turns of the sessions in `slot`; `None` where they never end.
    pub(super) fn turns(&self, slot: u64) -> Option<u32> {
        match self {
            Self::Users(_) => None,
            Self::Conversations(replay) => Some(replay.lengths(slot).turns.len() as u32),
            Self::Recorded(recorded) => Some(recorded.session(slot as usize).len() as u32),
        }
    }

    /// The first `turns` turns of a session.
    pub(super) fn session(&self, stage: u16, slot: u64, turns: usize) -> Vec<Turn> {
        match self {
            Self::Users(shared) => (0..turns as u64).map(|turn| shared.request(slot, turn).into()).collect(),
            Self::Conversations(replay) => replay.session(stage, slot, turns),
            Self::Recorded(recorded) => recorded.session(slot as usize).iter().take(turns).cloned().collect(),
        }
    }
}

/// The lengths of a conversation.
struct Lengths {
    /// Tokens of its beginning.
    system: u32,
    turns: Vec<TurnLengths>,
    /// The beginning or a turn is shorter than was asked for: the model's length has no more room.
    is_cut: bool,
}

struct TurnLengths {
    /// Tokens that it adds.
    input: u32,
    output: u32,
    /// Between the answer before it and it.
    delay: Duration,
    /// Tokens of its prompt, earlier turns included.
    limit: u32,
}

impl Replay {
    pub(super) fn new(given: &ConversationReplay, template: RequestTemplate) -> Result<Self, Error> {
        Ok(Self {
            template,
            seed: given.seed,
            slots: given.num_conversations.into(),
            shared_tokens: given.shared_system_prompt_len,
            dynamic: Sampler::or(given.dynamic_system_prompt_len.as_ref(), 0.0)?,
            turns: Sampler::or(given.turns_per_conversation.as_ref(), TURNS)?,
            input: Sampler::or(given.input_tokens_per_turn.as_ref(), INPUT_TOKENS)?,
            output: Sampler::or(given.output_tokens_per_turn.as_ref(), OUTPUT_TOKENS)?,
            tool: Sampler::or(given.tool_call_latency_sec.as_ref(), 0.0)?,
            max_model_len: given.model_tokens(),
        })
    }

    fn lengths(&self, slot: u64) -> Lengths {
        let mut random = random_of(self.seed, "conversations", slot);
        let asked = self.shared_tokens.saturating_add(self.dynamic.count(&mut random));
        let turns = self.turns.count(&mut random).max(1);
        let mut lengths = Lengths { system: asked, turns: Vec::new(), is_cut: false };
        for turn in 0..turns {
            let (input, output) =
                (self.input.count(&mut random).max(1), self.output.count(&mut random).max(1));
            let seconds = self.tool.draw(&mut random).max(0.0);
            let before = if turn == 0 { 0.0 } else { seconds };
            let limit = self.max_model_len.saturating_sub(output.saturating_add(MARGIN)).max(1);
            // What is there in every turn must fit into the one with the least room.
            lengths.system = lengths.system.min(limit.saturating_sub(input));
            lengths.is_cut |= input > limit || lengths.system < asked;
            lengths.turns.push(TurnLengths {
                input: input.min(limit),
                output,
                delay: Duration::try_from_secs_f64(before).unwrap_or_default(),
                limit,
            });
        }
        lengths
    }

    /// What to say if conversations have no room for their beginnings.
    pub(super) fn note(&self) -> Option<String> {
        let looked_at = self.slots.min(LOOKED_AT);
        let cut = (0..looked_at).filter(|slot| self.lengths(*slot).is_cut).count();
        (cut > 0).then(|| {
            format!(
                "data.conversation_replay.max_model_len: {} has no room for the beginning, a turn and its answer in {cut} \
                 of {looked_at} conversations: their prompts are cut to it",
                self.max_model_len
            )
        })
    }

    fn session(&self, stage: u16, slot: u64, turns: usize) -> Vec<Turn> {
        let lengths = self.lengths(slot);
        let mut system = String::new();
        let shared = self.shared_tokens.min(lengths.system);
        push_words(xxh3_64_with_seed(&stage.to_le_bytes(), self.seed), shared, &mut system);
        let mut words = random_of(self.seed, "conversation texts", slot);
        push_words(words.random(), lengths.system - shared, &mut system);
        let starts = iter::once(Some(system).filter(|system| !system.is_empty())).chain(iter::repeat(None));
        let lengths_of_turns = lengths.turns.into_iter().take(turns).enumerate();
        lengths_of_turns
            .zip(starts)
            .map(|((turn, TurnLengths { input, output, delay, limit }), start)| {
                let mut text = String::new();
                push_words(words.random(), input, &mut text);
                let tokens = (turn == 0).then_some(lengths.system + input);
                let mut request = counted(&self.template, text, tokens, output);
                if let (Some(start), Prompt::Text(text)) = (start, &request.prompt) {
                    let said = [Message::new("system", start), Message::user(Arc::clone(text))];
                    request.prompt = Prompt::Messages(said.into());
                }
                Turn { delay, prompt_limit: Some(limit), ..Turn::from(request) }
            })
            .collect()
    }
}
