//! Prompts of given lengths, made of words.
//!
//! A dataset of so many entries, each a function of the seed and its number: nothing is kept in memory, and an entry
//! that is used again is the same again. Lengths are exact by the common token rule.
//!
//! A session's first prompt is, in this order: the system prompt, the user's context, a prefix from the pool, and the
//! turn's own words. Later turns add their own words only. For chat the system prompt and the context are messages of
//! their own; otherwise all is one text.

use std::{sync::Arc, time::Duration};

use protocol::Endpoint;
use rand::{Rng, RngExt};
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, Normal};
use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::{
    Error, Length, MAX_PROMPT_TOKENS, Message, Prompt, RequestTemplate, Sampling, SequenceLengths, Turn,
    random, sample, words::push_words,
};

/// What synthetic sessions are like.
#[derive(Clone, Debug)]
pub struct Synthetic {
    /// Lengths of each turn's own words and of its answer.
    pub lengths: SequenceLengths,
    /// Turns of a session.
    pub turns: Length,
    /// Think time before each turn but the first.
    pub delay: Delay,
    /// Different prefixes; each session draws one.
    pub prefixes: u32,
    /// Length of a prefix.
    pub prefix_tokens: u32,
    /// A system prompt for all sessions, word for word.
    pub system_prompt: Option<Arc<str>>,
    /// Length of a system prompt that all sessions share.
    pub shared_system_tokens: u32,
    /// Length of a context that is each entry's own.
    pub context_tokens: u32,
    /// Number of the first entry: datasets of other entries share the prefixes and the system prompt only.
    pub first_entry: u64,
}

/// A normal think time, never below zero.
#[derive(Clone, Copy, Debug, Default)]
pub struct Delay {
    /// Mean.
    pub mean: Duration,
    /// Standard deviation.
    pub stddev: Duration,
}

impl Synthetic {
    /// Single prompts of these lengths with nothing in common.
    pub fn new(lengths: SequenceLengths) -> Self {
        Self {
            lengths,
            turns: Length::exactly(1),
            delay: Delay::default(),
            prefixes: 0,
            prefix_tokens: 0,
            system_prompt: None,
            shared_system_tokens: 0,
            context_tokens: 0,
            first_entry: 0,
        }
    }

    /// Endless sessions from `entries` different ones, used in the given order.
    pub fn sessions(
        self,
        template: RequestTemplate,
        entries: usize,
        sampling: Sampling,
        seed: u64,
    ) -> Result<impl Iterator<Item = Vec<Turn>> + Send + 'static, Error> {
        let shared = [self.prefix_tokens, self.shared_system_tokens, self.context_tokens];
        if shared.iter().any(|tokens| *tokens > MAX_PROMPT_TOKENS) {
            return Err(Error::Setting(format!("a prompt part of over {MAX_PROMPT_TOKENS} tokens")));
        }
        if entries == 0 {
            return Err(Error::Setting("a dataset of 0 entries: give 1 or more".into()));
        }
        Ok(sample(sampling, entries, seed)
            .map(move |entry| self.entry(&template, self.first_entry + entry as u64, seed)))
    }

    fn entry(&self, template: &RequestTemplate, entry: u64, seed: u64) -> Vec<Turn> {
        let mut random = random::stream(seed, "synthetic entries");
        random.set_stream(entry);
        let turns = self.turns.draw(&mut random);
        let first = self.first_turn(template, seed, &mut random);
        let mut all = vec![Turn::from(first)];
        for _ in 1..turns {
            let (tokens, output) = self.lengths.draw(&mut random);
            let mut text = String::new();
            push_words(random.random(), tokens, &mut text);
            let mut request = template.request(Prompt::Text(text.into()));
            request.output_tokens = output;
            all.push(Turn { delay: self.delay.draw(&mut random), ..Turn::from(request) });
        }
        all
    }

    fn first_turn(&self, template: &RequestTemplate, seed: u64, random: &mut ChaCha8Rng) -> crate::Request {
        let (tokens, output) = self.lengths.draw(random);
        let mut system = self.system_prompt.as_deref().unwrap_or_default().to_owned();
        push_words(xxh3_64_with_seed(b"system prompt", seed), self.shared_system_tokens, &mut system);
        let mut context = String::new();
        push_words(random.random(), self.context_tokens, &mut context);
        let mut text = String::new();
        let mut length = tokens + self.shared_system_tokens + self.context_tokens;
        if self.prefixes > 0 {
            let prefix = random.random_range(0..self.prefixes);
            push_words(xxh3_64_with_seed(&prefix.to_le_bytes(), seed), self.prefix_tokens, &mut text);
            length += self.prefix_tokens;
        }
        push_words(random.random(), tokens, &mut text);

        let is_chat =
            matches!(template.endpoint, Endpoint::ChatCompletions | Endpoint::Responses | Endpoint::Messages);
        let prompt = if !is_chat {
            Prompt::Text((system + &context + &text).into())
        } else if system.is_empty() && context.is_empty() {
            Prompt::Text(text.into())
        } else {
            let parts = [("system", system), ("user", context), ("user", text)];
            let said = parts.into_iter().filter(|(_, content)| !content.is_empty());
            Prompt::Messages(said.map(|(role, content)| Message::new(role, content)).collect())
        };
        let mut request = template.request(prompt);
        request.input_tokens = self.system_prompt.is_none().then_some(length);
        request.output_tokens = output;
        request
    }
}

impl Delay {
    pub(crate) fn draw(self, random: &mut impl Rng) -> Duration {
        let (mean, stddev) = (self.mean.as_secs_f64(), self.stddev.as_secs_f64());
        let seconds = Normal::new(mean, stddev).map_or(mean, |normal| normal.sample(random));
        Duration::try_from_secs_f64(seconds.max(0.0)).unwrap_or(Duration::MAX)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use protocol::estimate_tokens;

    use super::*;

    fn sessions(
        synthetic: Synthetic,
        endpoint: Endpoint,
        entries: usize,
        take: usize,
        seed: u64,
    ) -> Vec<Vec<Turn>> {
        let template = RequestTemplate::new(endpoint, "m");
        synthetic.sessions(template, entries, Sampling::Sequential, seed).unwrap().take(take).collect()
    }

    fn plain(input: u32, output: u32) -> Synthetic {
        Synthetic::new(SequenceLengths::of(Length::exactly(input), Some(Length::exactly(output))))
    }

    fn said(turn: &Turn) -> Vec<Message> {
        let mut said = Vec::new();
        turn.request.prompt.extend_history(&mut said);
        said
    }

    #[test]
    fn entries_are_different_come_again_and_have_their_lengths() {
        let sessions = sessions(plain(550, 20), Endpoint::ChatCompletions, 100, 150, 1);
        let texts: Vec<Arc<str>> = sessions.iter().map(|turns| said(&turns[0])[0].content.clone()).collect();
        assert_eq!(texts.iter().collect::<HashSet<_>>().len(), 100);
        assert_eq!(texts[..50], texts[100..]);
        assert!(texts.iter().all(|text| estimate_tokens(text.len()) == 550));
        let request = &sessions[0][0].request;
        assert_eq!((request.input_tokens, request.output_tokens), (Some(550), Some(20)));
    }

    #[test]
    fn a_seed_means_the_same_text() {
        let first = |seed| {
            said(&sessions(plain(8, 1), Endpoint::Completions, 1, 1, seed)[0][0])[0].content.to_string()
        };
        assert_eq!(first(3), " fox ski bit pin fit top use tap");
        assert_ne!(first(3), first(4));
    }

    #[test]
    fn shared_parts_are_shared_and_stand_in_order() {
        let synthetic = Synthetic {
            prefixes: 2,
            prefix_tokens: 10,
            shared_system_tokens: 20,
            context_tokens: 5,
            ..plain(30, 1)
        };
        let chats = sessions(synthetic.clone(), Endpoint::ChatCompletions, 50, 50, 1);
        let chats: Vec<Vec<Message>> = chats.iter().map(|turns| said(&turns[0])).collect();
        let different = |place: usize, bytes: usize| {
            chats.iter().map(|chat| &chat[place].content[..bytes]).collect::<HashSet<_>>().len()
        };
        assert!(
            chats.iter().all(|chat| chat.iter().map(|message| &*message.role).eq(["system", "user", "user"]))
        );
        assert_eq!((different(0, 80), different(1, 20), different(2, 40), different(2, 160)), (1, 50, 2, 50));

        let text = &sessions(synthetic, Endpoint::Completions, 50, 1, 1)[0];
        let joined: String = chats[0].iter().map(|message| &*message.content).collect();
        assert_eq!(*said(&text[0])[0].content, joined);
        assert_eq!(text[0].request.input_tokens, Some(65));
    }

    #[test]
    fn later_turns_add_their_own_words_after_a_delay() {
        let delay = Delay { mean: Duration::from_millis(500), stddev: Duration::from_millis(100) };
        let synthetic =
            Synthetic { turns: Length::exactly(4), delay, shared_system_tokens: 9, ..plain(30, 7) };
        let sessions = sessions(synthetic, Endpoint::ChatCompletions, 500, 500, 1);
        assert!(sessions.iter().all(|turns| turns.len() == 4 && turns[0].delay.is_zero()));
        assert_eq!((said(&sessions[0][0]).len(), said(&sessions[0][1]).len()), (2, 1));
        assert_eq!(sessions[0][1].request.input_tokens, None);
        let later = sessions.iter().flat_map(|turns| &turns[1..]);
        let delays: Vec<f64> = later.map(|turn| turn.delay.as_secs_f64()).collect();
        let mean = delays.iter().sum::<f64>() / delays.len() as f64;
        assert!((mean - 0.5).abs() < 0.01, "{mean}");
        assert!(delays.iter().any(|delay| *delay > 0.65) && delays.iter().any(|delay| *delay < 0.35));
    }

    #[test]
    fn a_system_prompt_of_the_users_leaves_the_length_open() {
        let synthetic = Synthetic { system_prompt: Some("Be brief.".into()), ..plain(4, 1) };
        let turn = &sessions(synthetic, Endpoint::ChatCompletions, 1, 1, 1)[0][0];
        assert_eq!((&*said(turn)[0].content, turn.request.input_tokens), ("Be brief.", None));
    }

    #[test]
    fn empty_and_endless_parts_are_refused() {
        let template = RequestTemplate::new(Endpoint::Completions, "m");
        assert!(plain(4, 1).sessions(template.clone(), 0, Sampling::Random, 0).is_err());
        let huge = Synthetic { context_tokens: u32::MAX, ..plain(4, 1) };
        assert!(huge.sessions(template, 1, Sampling::Random, 0).is_err());
    }
}
