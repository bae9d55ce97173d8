//! Workloads from ShareGPT files, made as the known benchmarks make them.
//!
//! Everything random is drawn from one generator, CPython's, in the order in which the scripts draw, so that the
//! same file, seed and tokenizer give the same requests as theirs. An adapter a request (`--lora-modules`) is drawn
//! afterwards from the same generator.

mod kubeai;
mod pairs;
mod reader;
mod sessions;

use std::path::Path;

pub use reader::{Conversation, Conversations, Cut, Said};
pub use sessions::sharegpt_sessions;

use crate::{Error, PythonRandom, TextPrompts, Tokenizer};

/// Shortest prompt, and shortest answer where its length is not fixed, in tokens.
const MIN_TOKENS: u32 = 4;

/// How a conversation becomes prompts.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum ShareGptRule {
    /// KubeAI's multi-turn script: a prompt for every other message, with all messages before it.
    EveryTurn,
    /// vLLM's benchmark: the first two messages are prompt and answer; nothing else is used.
    FirstPair,
}

/// What to take from the file.
#[derive(Clone, Debug)]
pub struct ShareGptSettings {
    /// How a conversation becomes prompts.
    pub rule: ShareGptRule,
    /// Requests to make; prompts are repeated until there are so many, unless each is to be sent [once](Self::once).
    pub requests: usize,
    /// Conversations with fewer messages are left out; at least 2.
    pub min_messages: usize,
    /// At most this many conversations, the first of the file.
    pub conversations: Option<usize>,
    /// At most this many prompts, the first of the file, before they are shuffled. This is what the option called
    /// `--max-conversations` does in KubeAI's script; [`ShareGptRule::FirstPair`] has no such thing.
    pub max_prompts: Option<usize>,
    /// Output length of all requests, instead of the recorded answer's.
    pub output_tokens: Option<u32>,
    /// Leave the prompts in the order of the file.
    pub in_order: bool,
    /// Send each prompt once, even if there are fewer than requests.
    pub once: bool,
}

/// A prompt and its recorded answer, not yet counted.
struct Pair {
    prompt: String,
    answer: String,
}

/// Makes the requests of a benchmark from a ShareGPT file.
pub fn read_sharegpt(
    path: &Path,
    settings: &ShareGptSettings,
    tokenizer: &Tokenizer,
    random: &mut PythonRandom,
) -> Result<TextPrompts, Error> {
    let mut file = Conversations::open(path)?;
    let mut pairs = Vec::new();
    let mut conversations = 0;
    let full = |pairs: &[Pair], conversations| {
        settings.conversations.is_some_and(|limit| conversations >= limit)
            || settings.max_prompts.is_some_and(|limit| pairs.len() >= limit)
    };
    while !full(&pairs, conversations)
        && let Some(conversation) = file.next()
    {
        let messages = conversation?.messages;
        if messages.len() >= settings.min_messages.max(2) {
            conversations += 1;
            match settings.rule {
                ShareGptRule::EveryTurn => kubeai::expand(&messages, &mut pairs),
                ShareGptRule::FirstPair => pairs::expand(messages, &mut pairs),
            }
        }
    }
    pairs.truncate(settings.max_prompts.unwrap_or(usize::MAX));
    if pairs.is_empty() {
        let problem = match file.cut() {
            Some(cut) => format!("no conversation is long enough; {cut}"),
            None => format!("no conversation of {} messages or more", settings.min_messages.max(2)),
        };
        return Err(Error::file(path, problem));
    }
    if !settings.in_order {
        random.shuffle(&mut pairs);
    }
    let (prompts, left_out) = match settings.rule {
        ShareGptRule::EveryTurn => kubeai::repeat(&pairs, settings, tokenizer)?,
        ShareGptRule::FirstPair => pairs::oversample(&pairs, settings, tokenizer, random)?,
    };
    if prompts.is_empty() {
        return Err(Error::file(path, format_args!("all {left_out} prompts are too short or too long")));
    }
    let unique_prompts = prompts.len().min(pairs.len() - left_out);
    Ok(TextPrompts { prompts, conversations, unique_prompts, left_out, cut: file.cut() })
}

#[cfg(test)]
mod tests {
    use std::{fmt::Write, fs};

    use super::*;

    /// Conversations of 5, 1, 4, 2, 7 and 3 messages, each of another length.
    fn file() -> tempfile::NamedTempFile {
        let mut json = "[".to_owned();
        for (conversation, messages) in [5, 1, 4, 2, 7, 3].into_iter().enumerate() {
            json += r#"{"conversations":["#;
            for message in 0..messages {
                let padding = "x".repeat(4 * message + 12 + 40 * conversation);
                write!(json, r#"{{"from":"gpt","value":"c{conversation}m{message} {padding}"}},"#).unwrap();
            }
            json.pop();
            json += "]},\n";
        }
        json.truncate(json.len() - 2);
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), json + "]").unwrap();
        file
    }

    fn settings(rule: ShareGptRule, requests: usize) -> ShareGptSettings {
        let (conversations, max_prompts, output_tokens) = (None, None, None);
        let (in_order, once) = (false, false);
        ShareGptSettings {
            rule,
            requests,
            min_messages: 2,
            conversations,
            max_prompts,
            output_tokens,
            in_order,
            once,
        }
    }

    fn read(settings: &ShareGptSettings, random: &mut PythonRandom) -> TextPrompts {
        read_sharegpt(file().path(), settings, &Tokenizer::estimate(), random).unwrap()
    }

    fn lengths(made: &TextPrompts) -> Vec<(u32, u32)> {
        made.prompts.iter().map(|prompt| (prompt.input_tokens, prompt.output_tokens)).collect()
    }

    fn adapters(random: &mut PythonRandom) -> Vec<u8> {
        (0..8).filter_map(|_| random.choice(b"ab").copied()).collect()
    }

    // The expected lengths and draws were printed by a Python program that follows the scripts.

    #[test]
    fn every_turn_in_the_order_of_the_script_then_adapters_from_the_same_generator() {
        let mut random = PythonRandom::new(7);
        let made = read(&settings(ShareGptRule::EveryTurn, 10), &mut random);
        let once = [(143, 48), (26, 26), (56, 56), (243, 50), (83, 28), (23, 8), (6, 6), (46, 46), (36, 36)];
        assert_eq!(lengths(&made), [&once[..], &once[..1]].concat());
        assert_eq!(adapters(&mut random), b"aaabbaaa");
        assert_eq!((made.conversations, made.unique_prompts, made.left_out, made.cut), (5, 9, 3, None));
        let padding = ["x".repeat(12), "x".repeat(16), "x".repeat(20)];
        let [first, second, third] = &padding;
        let expected = format!("User: c0m0 {first}\nAssistant: c0m1 {second}\nUser: c0m2 {third}\n");
        assert_eq!(&*made.prompts[5].text, expected);
    }

    #[test]
    fn the_scripts_limit_cuts_prompts_and_ours_conversations() {
        let mut random = PythonRandom::new(7);
        let cut = ShareGptSettings { max_prompts: Some(5), ..settings(ShareGptRule::EveryTurn, 6) };
        let made = read(&cut, &mut random);
        assert_eq!(lengths(&made), [(83, 28), (6, 6), (26, 26), (23, 8), (83, 28), (6, 6)]);
        assert_eq!(adapters(&mut random), b"aabaaaab");
        assert_eq!((made.conversations, made.unique_prompts, made.left_out), (2, 4, 1));

        let limited = ShareGptSettings { conversations: Some(2), ..settings(ShareGptRule::EveryTurn, 100) };
        assert_eq!(read(&limited, &mut random).conversations, 2);
        let long = ShareGptSettings { min_messages: 5, ..settings(ShareGptRule::EveryTurn, 100) };
        assert_eq!(read(&long, &mut random).conversations, 2);
    }

    #[test]
    fn a_fixed_output_length_keeps_prompts_without_an_answer() {
        let fixed = ShareGptSettings { output_tokens: Some(9), ..settings(ShareGptRule::EveryTurn, 12) };
        let made = read(&fixed, &mut PythonRandom::new(7));
        let inputs = [143, 173, 26, 56, 243, 83, 347, 23, 6, 46, 43, 36];
        assert_eq!(lengths(&made), inputs.map(|tokens| (tokens, 9)));
        assert_eq!(made.left_out, 0);
    }

    #[test]
    fn first_pairs_are_oversampled_as_vllm_does() {
        let first = |requests| {
            lengths(&read(&settings(ShareGptRule::FirstPair, requests), &mut PythonRandom::new(3)))
        };
        let once = [(5, 6), (35, 36), (45, 46), (55, 56), (25, 26)];
        let again = [(35, 36), (25, 26), (25, 26), (35, 36)];
        assert_eq!(first(9), [&once[..], &again[..]].concat());
        assert_eq!(first(3), once[..3]);
    }

    #[test]
    fn prompts_stay_in_order_and_unrepeated_where_that_is_asked_for() {
        for (rule, prompts) in [(ShareGptRule::FirstPair, 5), (ShareGptRule::EveryTurn, 9)] {
            let settings = ShareGptSettings { in_order: true, once: true, ..settings(rule, 100) };
            let made = read(&settings, &mut PythonRandom::new(3));
            assert_eq!((made.prompts.len(), made.unique_prompts), (prompts, prompts));
            let conversations: Vec<usize> = made
                .prompts
                .iter()
                .map(|prompt| prompt.text.split('c').nth(1).unwrap()[..1].parse().unwrap())
                .collect();
            assert!(conversations.is_sorted(), "{conversations:?}");
        }
    }

    #[test]
    fn lengths_are_bounded() {
        assert!(pairs::fits(4, 4, false) && pairs::fits(1024, 1024, false) && pairs::fits(9, 1, true));
        assert!(!pairs::fits(3, 9, false) && !pairs::fits(1025, 9, false) && !pairs::fits(9, 3, false));
        assert!(!pairs::fits(1000, 1049, false));
    }

    #[test]
    fn sessions_need_speakers_that_take_turns() {
        let long = "x".repeat(40);
        let said = |from: &str| format!(r#"{{"from":"{from}","value":"{long}"}}"#);
        let (human, gpt) = (said("human"), said("gpt"));
        let json = format!(
            r#"[{{"conversations":[{human},{gpt},{human},{gpt},{human}]}},{{"conversations":[{gpt},{human}]}},"#
        );
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), json).unwrap();
        let template = crate::RequestTemplate::new(protocol::Endpoint::ChatCompletions, "m");
        let (sessions, cut) = sharegpt_sessions(file.path(), 9, &template, &Tokenizer::estimate()).unwrap();
        assert_eq!(sessions.iter().map(Vec::len).collect::<Vec<_>>(), [2]);
        assert_eq!(cut.unwrap().kept, 2);
        let lengths = |turn: &crate::Turn| (turn.request.input_tokens, turn.request.output_tokens);
        assert_eq!(
            sessions[0].iter().map(lengths).collect::<Vec<_>>(),
            [(Some(10), Some(10)), (None, Some(10))]
        );
    }

    #[test]
    fn nothing_usable_is_an_error_that_says_why() {
        let failure = |settings: &ShareGptSettings| {
            let made =
                read_sharegpt(file().path(), settings, &Tokenizer::estimate(), &mut PythonRandom::new(0));
            made.unwrap_err().to_string()
        };
        let long = ShareGptSettings { min_messages: 8, ..settings(ShareGptRule::EveryTurn, 1) };
        assert!(failure(&long).contains("no conversation of 8 messages or more"));
        let huge = ShareGptSettings { output_tokens: Some(5000), ..settings(ShareGptRule::FirstPair, 1) };
        assert!(failure(&huge).contains("all 5 prompts are too short or too long"));
    }
}
