//! Conversations without text: every prompt is its session's whole past and a new message, known by block ids.
//!
//! Answers are counted by the length that was asked for, so that prompts are known before the run and are the same in
//! a simulator, which makes no text, and over HTTP. Sessions begin with one of a few preambles (a system prompt, a
//! document); what follows is each session's own.

use protocol::BLOCK_TOKENS;
use rand::RngExt;
use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::{Error, Length, MAX_PROMPT_TOKENS, Prompt, RequestTemplate, Turn, random, synthetic::Delay};

/// What the conversations are like.
#[derive(Clone, Copy, Debug)]
pub struct BlockSessions {
    /// Different preambles; each session draws one.
    pub preambles: u32,
    /// Length of a preamble; 0 for none.
    pub preamble_tokens: u32,
    /// Turns of a session.
    pub turns: Length,
    /// Length of the user's messages.
    pub message: Length,
    /// Length of the answers.
    pub answer: Length,
    /// Think time before each turn but the first.
    pub delay: Delay,
    /// A session ends before its prompt and answer would be longer than this; its first turn stays whatever its length.
    pub max_tokens: u32,
}

impl BlockSessions {
    /// Endless sessions, each different.
    pub fn sessions(
        self,
        template: RequestTemplate,
        seed: u64,
    ) -> Result<impl Iterator<Item = Vec<Turn>> + Send + 'static, Error> {
        if self.preambles == 0 && self.preamble_tokens > 0 {
            return Err(Error::Setting(
                "0 different preambles: give 1 or more, or a preamble of 0 tokens".into(),
            ));
        }
        if self.preamble_tokens >= self.max_tokens || self.max_tokens > MAX_PROMPT_TOKENS {
            return Err(Error::Setting(format!(
                "a preamble of {} tokens in sessions of at most {}: the limit must be above it, and at most {}",
                self.preamble_tokens, self.max_tokens, MAX_PROMPT_TOKENS
            )));
        }
        Ok((0..).map(move |number| self.session(&template, number, seed)))
    }

    fn session(&self, template: &RequestTemplate, number: u64, seed: u64) -> Vec<Turn> {
        let mut random = random::stream(seed, "block sessions");
        random.set_stream(number);
        let own = xxh3_64_with_seed(&number.to_le_bytes(), seed);
        let preamble = xxh3_64_with_seed(&random.random_range(0..self.preambles.max(1)).to_le_bytes(), !seed);
        let shared_blocks = self.preamble_tokens as usize / BLOCK_TOKENS;
        let id = |block: usize| {
            let content = if block < shared_blocks { preamble } else { own };
            xxh3_64_with_seed(&(block as u64).to_le_bytes(), content)
        };
        let mut turns: Vec<Turn> = Vec::new();
        let mut past = self.preamble_tokens;
        for turn in 0..self.turns.draw(&mut random) {
            let (message, answer) = (self.message.draw(&mut random), self.answer.draw(&mut random));
            let delay = self.delay.draw(&mut random);
            let tokens = past + message;
            if turn > 0 && tokens.saturating_add(answer) > self.max_tokens {
                break;
            }
            // The next prompt has the answer's.
            let ids = (0..(tokens + answer) as usize / BLOCK_TOKENS).map(id).collect();
            let tail = xxh3_64_with_seed(&u64::from(turn).to_le_bytes(), !own);
            let mut request = template.request(Prompt::Blocks {
                ids,
                with_answer: true,
                block_tokens: BLOCK_TOKENS as u32,
                tokens,
                tail,
            });
            (request.input_tokens, request.output_tokens) = (Some(tokens), Some(answer));
            turns.push(Turn {
                delay: if turn == 0 { std::time::Duration::ZERO } else { delay },
                ..Turn::from(request)
            });
            past = tokens + answer;
        }
        turns
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::HashSet, time::Duration};

    use protocol::Endpoint;

    use super::*;

    fn settings() -> BlockSessions {
        BlockSessions {
            preambles: 2,
            preamble_tokens: 40,
            turns: Length::exactly(5),
            message: Length::exactly(30),
            answer: Length::exactly(20),
            delay: Delay { mean: Duration::from_secs(1), stddev: Duration::ZERO },
            max_tokens: 4096,
        }
    }

    fn sessions(settings: BlockSessions, count: usize) -> Vec<Vec<Turn>> {
        let template = RequestTemplate::new(Endpoint::Completions, "m");
        settings.sessions(template, 1).unwrap().take(count).collect()
    }

    fn ids(turn: &Turn) -> Vec<u64> {
        match &turn.request.prompt {
            Prompt::Blocks { ids, .. } => ids.to_vec(),
            prompt => panic!("{prompt:?}"),
        }
    }

    #[test]
    fn each_prompt_begins_with_the_one_before() {
        let session = &sessions(settings(), 1)[0];
        let lengths: Vec<u32> = session.iter().map(|turn| turn.request.input_tokens.unwrap()).collect();
        assert_eq!(lengths, [70, 120, 170, 220, 270]);
        for pair in session.windows(2) {
            assert!(ids(&pair[1]).starts_with(&ids(&pair[0])));
        }
        assert_eq!(ids(&session[4]).len(), (270 + 20) / 16);
        assert_eq!((session[0].delay, session[1].delay), (Duration::ZERO, Duration::from_secs(1)));
    }

    #[test]
    fn sessions_share_one_of_the_preambles_and_nothing_else() {
        let sessions = sessions(settings(), 60);
        let starts = |blocks: usize| {
            sessions.iter().map(|turns| ids(&turns[0])[..blocks].to_vec()).collect::<HashSet<_>>()
        };
        assert_eq!((starts(2).len(), starts(3).len()), (2, 60));
        let all: HashSet<u64> = sessions.iter().flat_map(|turns| ids(turns.last().unwrap())).collect();
        assert_eq!(all.len(), 2 * 2 + 60 * (18 - 2));
    }

    #[test]
    fn a_session_ends_before_it_grows_too_long() {
        let session = &sessions(BlockSessions { max_tokens: 200, ..settings() }, 1)[0];
        assert_eq!(session.len(), 3);
        let template = RequestTemplate::new(Endpoint::Completions, "m");
        assert!(BlockSessions { max_tokens: 40, ..settings() }.sessions(template.clone(), 1).is_err());
        assert!(BlockSessions { preambles: 0, ..settings() }.sessions(template, 1).is_err());
    }
}
