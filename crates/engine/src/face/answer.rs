//! What the model will say to a request: its length, its text, and the hashes of prompt and answer.
//!
//! All of it is known when the request arrives, because it follows from the prompt. The first token's text is
//! lengthened so that prompt and answer together end on a token: the next turn, which repeats both, then has
//! the same tokens at the same places.

use std::{borrow::Cow, sync::Arc};

use protocol::{BYTES_PER_TOKEN, BlockChain, estimate_tokens};
use xxhash_rust::xxh3::xxh3_64;

use super::tokens::{mix, word};

/// As many bytes as a token can lack.
const PADDING: &[u8] = b"   ";

/// What a request allows.
#[derive(Clone, Debug)]
pub(crate) struct Wish<'a> {
    /// The limit on the answer's length.
    pub(crate) max_tokens: u32,
    /// Where the model ends by itself.
    pub(crate) natural_end: NaturalEnd,
    /// Nothing ends the answer before.
    pub(crate) min_tokens: u32,
    /// Texts that end the answer.
    pub(crate) stop: &'a [Cow<'a, str>],
    /// They are part of it.
    pub(crate) include_stop: bool,
}

/// Where the model ends an answer by itself, within the limit.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum NaturalEnd {
    Never,
    After(u32),
    /// Half as many tokens to half as many again, by the prompt.
    About(u32),
}

/// An answer, before it is given. Its text is made again whenever a piece of it is needed.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    seed: u64,
    /// Bytes put before the first word.
    padding: u32,
    /// Bytes of text that are shown; less than there are where a stop text was found.
    visible: u32,
    /// Length.
    pub(crate) tokens: u32,
    /// Ended by itself or by a stop text, not by its limit.
    pub(crate) stopped: bool,
    /// The stop text that ended it.
    pub(crate) stop_text: Option<String>,
}

impl Answer {
    /// The answer to `prompt`. Appends its text to `prompt`.
    pub(crate) fn to(prompt: &mut Vec<u8>, wish: &Wish<'_>) -> Self {
        let start = prompt.len();
        let mut answer = Self {
            seed: xxh3_64(prompt),
            padding: (start.next_multiple_of(BYTES_PER_TOKEN) - start) as u32,
            visible: u32::MAX,
            tokens: wish.max_tokens,
            stopped: false,
            stop_text: None,
        };
        let natural = match wish.natural_end {
            NaturalEnd::Never => u32::MAX,
            NaturalEnd::After(tokens) => tokens,
            NaturalEnd::About(tokens) => {
                let spread = mix(answer.seed, u64::MAX) % (u64::from(tokens) + 1);
                tokens / 2 + spread as u32
            }
        };
        let natural = natural.max(wish.min_tokens).max(1);
        if natural <= wish.max_tokens {
            (answer.tokens, answer.stopped) = (natural, true);
        }
        for index in 0..answer.tokens {
            answer.pieces(index).iter().for_each(|piece| prompt.extend_from_slice(piece));
        }
        answer.cut(&prompt[start..], wish);
        prompt.truncate(start + answer.bytes(answer.tokens));
        answer
    }

    /// That of a request which only reads its prompt.
    pub(crate) fn none() -> Self {
        Self { seed: 0, padding: 0, visible: 0, tokens: 0, stopped: true, stop_text: None }
    }

    /// The text of one token, in two pieces.
    pub(crate) fn pieces(&self, index: u32) -> [&'static [u8]; 2] {
        let padding = if index == 0 { self.padding as usize } else { 0 };
        let start = self.bytes(index);
        let shown = (self.visible as usize).saturating_sub(start);
        let word = word(mix(self.seed, u64::from(index)));
        let shown_word = shown.saturating_sub(padding).min(word.len());
        [&PADDING[..padding.min(shown)], &word[..shown_word]]
    }

    /// The whole text that is shown.
    pub(crate) fn text(&self) -> String {
        let pieces = (0..self.tokens).flat_map(|index| self.pieces(index));
        let text = pieces.fold(Vec::new(), |mut text, piece| {
            text.extend_from_slice(piece);
            text
        });
        String::from_utf8_lossy(&text).into_owned()
    }

    /// Ends the answer at the first stop text that comes after the least length.
    fn cut(&mut self, text: &[u8], wish: &Wish<'_>) {
        let text = std::str::from_utf8(text).unwrap_or_default();
        let least = self.bytes(wish.min_tokens);
        let found = wish.stop.iter().filter(|stop| !stop.is_empty()).filter_map(|stop| {
            let mut places = text.match_indices(stop.as_ref()).map(|(start, _)| start);
            places.find(|start| start + stop.len() > least).map(|start| (start + stop.len(), start, stop))
        });
        if let Some((end, start, stop)) = found.min() {
            self.visible = if wish.include_stop { end } else { start } as u32;
            self.tokens = (end as u32).saturating_sub(self.padding).div_ceil(BYTES_PER_TOKEN as u32).max(1);
            (self.stopped, self.stop_text) = (true, Some(stop.clone().into_owned()));
        }
    }

    /// Length of the first `tokens` tokens of text, hidden ones included.
    fn bytes(&self, tokens: u32) -> usize {
        if tokens == 0 { 0 } else { self.padding as usize + tokens as usize * BYTES_PER_TOKEN }
    }
}

/// Tokens of a rendered prompt; an empty one still has its first.
pub(crate) fn prompt_tokens(prompt: &[u8]) -> u32 {
    estimate_tokens(prompt.len()).max(1)
}

/// One chained hash for each full block of `text`.
pub(crate) fn hashes(salt: &str, text: &[u8], block_tokens: u32) -> Arc<[u64]> {
    let mut chain = BlockChain::new(salt.as_bytes());
    text.chunks_exact(block_tokens as usize * BYTES_PER_TOKEN).map(|block| chain.push(block)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wish(max_tokens: u32) -> Wish<'static> {
        Wish { max_tokens, natural_end: NaturalEnd::Never, min_tokens: 0, stop: &[], include_stop: false }
    }

    fn answer(prompt: &str, wish: &Wish<'_>) -> (Answer, String) {
        let mut text = prompt.as_bytes().to_vec();
        let answer = Answer::to(&mut text, wish);
        assert!(text.starts_with(prompt.as_bytes()));
        (answer, String::from_utf8(text[prompt.len()..].to_vec()).expect("text"))
    }

    #[test]
    fn prompt_and_answer_end_on_a_token() {
        for (prompt, padding) in [("abcd", 0), ("abcde", 3), ("ab", 2), ("abc", 1), ("", 0)] {
            let (answer, text) = answer(prompt, &wish(5));
            assert_eq!(text.len(), padding + 20, "{prompt:?}");
            assert_eq!(answer.text(), text);
            assert!(!answer.stopped);
        }
    }

    #[test]
    fn equal_prompts_get_equal_answers_and_longer_ones_begin_alike() {
        let (_, long) = answer("hello", &wish(50));
        assert_eq!(long, answer("hello", &wish(50)).1);
        assert!(long.starts_with(&answer("hello", &wish(7)).1));
        assert_ne!(long, answer("hallo", &wish(50)).1);
    }

    #[test]
    fn a_stop_text_ends_the_answer_and_is_left_out() {
        let (_, whole) = answer("abcde", &wish(50));
        let stop = [Cow::Owned(whole[31..37].to_owned()), Cow::Borrowed("never"), Cow::Borrowed("")];
        let first = whole.find(stop[0].as_ref()).expect("it is in there");
        let (answer, _) = answer("abcde", &Wish { stop: &stop, ..wish(50) });
        assert!(answer.stopped);
        assert_eq!(answer.stop_text.as_deref(), Some(stop[0].as_ref()));
        assert_eq!(answer.text(), whole[..first]);
        assert_eq!(answer.tokens as usize, (first + 6 - 3).div_ceil(4));
        let kept = Answer::to(&mut b"abcde".to_vec(), &Wish { stop: &stop, include_stop: true, ..wish(50) });
        assert_eq!((kept.text().as_str(), kept.tokens), (&whole[..first + 6], answer.tokens));
    }

    #[test]
    fn nothing_ends_the_answer_before_its_least_length() {
        let stop = [Cow::Borrowed(" ")];
        let (answer, _) = answer("abcd", &Wish { stop: &stop, min_tokens: 10, ..wish(50) });
        assert_eq!(answer.tokens, 11);
        let natural = Wish { natural_end: NaturalEnd::After(3), min_tokens: 10, ..wish(50) };
        let mut text = b"abcd".to_vec();
        assert_eq!(Answer::to(&mut text, &natural).tokens, 10);
    }

    #[test]
    fn a_natural_end_counts_only_within_the_limit() {
        for (natural, tokens, stopped) in [(3, 3, true), (8, 8, true), (9, 8, false)] {
            let (answer, _) = answer("abcd", &Wish { natural_end: NaturalEnd::After(natural), ..wish(8) });
            assert_eq!((answer.tokens, answer.stopped), (tokens, stopped));
        }
    }

    #[test]
    fn lengths_about_a_mean_keep_to_their_range_and_meet_the_mean() {
        let lengths: Vec<_> = (0..1000)
            .map(|number| {
                let about = Wish { natural_end: NaturalEnd::About(20), ..wish(50) };
                answer(&format!("prompt {number}"), &about).0.tokens
            })
            .collect();
        assert!(lengths.iter().all(|tokens| (10..=30).contains(tokens)));
        let mean = f64::from(lengths.iter().sum::<u32>()) / 1000.0;
        assert!((mean - 20.0).abs() < 1.0, "{mean}");
    }

    #[test]
    fn the_next_turn_repeats_the_blocks_of_prompt_and_answer() {
        let prompt = "User: how are you today, my friend?\nAssistant:";
        let mut text = prompt.as_bytes().to_vec();
        let answer = Answer::to(&mut text, &wish(40));
        let first = hashes("model", &text, 16);
        let next = format!("{prompt}{}\nUser: and now?", answer.text());
        let second = hashes("model", next.as_bytes(), 16);
        assert_eq!(first.len(), 3);
        assert_eq!(second[..3], first[..]);
        assert_ne!(hashes("adapter", &text, 16), first);
    }
}
