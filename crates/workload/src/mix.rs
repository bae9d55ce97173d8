//! Changes to sessions on their way into the plan: which model, which are cancelled, which must not hit a cache.

use std::{sync::Arc, time::Duration};

use rand::RngExt;
use serde_json::Value;
use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::{Error, Message, Prompt, Turn, random, words::push_words};

/// Tokens in the words that make a prompt unique.
const MARK_TOKENS: u32 = 8;

/// How several models or adapters share the sessions.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum ModelChoice {
    /// One after the other.
    RoundRobin,
    /// Any.
    Random,
}

/// Where words that are unique to a session are put, so that no cache knows its prompt.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum CacheBust {
    /// Before the system prompt: nothing is shared. Before the first message where there is no system prompt.
    SystemPrefix,
    /// After the system prompt, which stays shared. After the first message where there is none.
    SystemSuffix,
    /// Before the first message that is not the system's.
    FirstTurnPrefix,
    /// After the last message of the first turn.
    FirstTurnSuffix,
}

/// Gives each session one of `models`.
pub fn assign_models(
    sessions: impl Iterator<Item = Vec<Turn>> + Send + 'static,
    models: Vec<Arc<str>>,
    choice: ModelChoice,
    seed: u64,
) -> Result<impl Iterator<Item = Vec<Turn>> + Send + 'static, Error> {
    if models.is_empty() {
        return Err(Error::Setting("no model to ask for: name one".into()));
    }
    let mut random = random::stream(seed, "models");
    Ok(sessions.enumerate().map(move |(number, mut turns)| {
        let place = match choice {
            ModelChoice::RoundRobin => number % models.len(),
            ModelChoice::Random => random.random_range(0..models.len()),
        };
        turns.iter_mut().for_each(|turn| turn.request.model = models[place].clone());
        turns
    }))
}

/// Cancels a share of the requests, this long after they were written.
pub fn cancel_some(
    sessions: impl Iterator<Item = Vec<Turn>> + Send + 'static,
    share: f64,
    after: Duration,
    seed: u64,
) -> Result<impl Iterator<Item = Vec<Turn>> + Send + 'static, Error> {
    if !(0.0..=1.0).contains(&share) {
        return Err(Error::Setting(format!("a share of {share} to cancel: give a number from 0 to 1")));
    }
    let mut random = random::stream(seed, "cancellation");
    Ok(sessions.map(move |mut turns| {
        for turn in &mut turns {
            turn.request.cancel_after = random.random_bool(share).then_some(after);
        }
        turns
    }))
}

/// Puts the texts of so many sessions into one request each: `input` becomes their list, as embeddings take it. Later
/// turns are left out.
pub fn batch_texts(
    mut sessions: impl Iterator<Item = Vec<Turn>> + Send + 'static,
    texts: u32,
) -> impl Iterator<Item = Vec<Turn>> + Send + 'static {
    std::iter::from_fn(move || {
        let mut firsts = sessions.by_ref().filter_map(|turns| turns.into_iter().next());
        let mut turn = firsts.next()?;
        let mut all: Vec<Arc<str>> = Vec::new();
        let mut tokens = Some(0);
        for request in std::iter::once(turn.request.clone())
            .chain(firsts.take(texts.max(1) as usize - 1).map(|turn| turn.request))
        {
            tokens = tokens.zip(request.input_tokens).map(|(sum, own)| sum + own);
            if let Prompt::Text(text) = request.prompt {
                all.push(text);
            }
        }
        let mut extra = turn.request.extra.as_deref().cloned().unwrap_or_default();
        extra.insert("input".to_owned(), all.iter().map(|text| Value::from(&**text)).collect());
        // The prompt is what is counted; the list is what is sent.
        turn.request.prompt = Prompt::Text(all.concat().into());
        turn.request.input_tokens = tokens;
        turn.request.extra = Some(Arc::new(extra));
        Some(vec![turn])
    })
}

/// Makes every session's first prompt unique, and with it all its prompts. Finished bodies stay as they are.
pub fn bust_cache(
    sessions: impl Iterator<Item = Vec<Turn>> + Send + 'static,
    place: CacheBust,
    seed: u64,
) -> impl Iterator<Item = Vec<Turn>> + Send + 'static {
    (0_u64..).zip(sessions).map(move |(number, mut turns)| {
        let id = xxh3_64_with_seed(&number.to_le_bytes(), seed);
        for (turn, is_first) in turns.iter_mut().zip([true].into_iter().chain(std::iter::repeat(false))) {
            if is_first || turn.request.is_whole {
                mark(turn, place, id);
            }
        }
        turns
    })
}

/// Whole prompts need the mark in each turn; others carry it in the history.
fn mark(turn: &mut Turn, place: CacheBust, id: u64) {
    let mut words = String::new();
    push_words(id, MARK_TOKENS, &mut words);
    let prefix = matches!(place, CacheBust::SystemPrefix | CacheBust::FirstTurnPrefix);
    let join = |content: &str| -> Arc<str> {
        if prefix { format!("{words}{content}").into() } else { format!("{content}{words}").into() }
    };
    let request = &mut turn.request;
    match &mut request.prompt {
        Prompt::Blocks { ids, block_tokens, tokens, .. } if prefix => {
            *ids = std::iter::once(id).chain(ids.iter().copied()).collect();
            *tokens += *block_tokens;
            request.input_tokens = Some(*tokens);
        }
        Prompt::Blocks { ids, with_answer, block_tokens, tokens, tail } => {
            let covering = tokens.div_ceil((*block_tokens).max(1)) as usize;
            if ids.len() >= covering {
                // Ids beyond the prompt are those of its answer; in their place come words of its own.
                *ids = ids[..covering].into();
                *with_answer = false;
                *tokens += *block_tokens;
                request.input_tokens = Some(*tokens);
            }
            *tail ^= id;
        }
        Prompt::Text(text) => {
            *text = join(text);
            request.input_tokens = request.input_tokens.map(|tokens| tokens + MARK_TOKENS);
        }
        Prompt::Messages(messages) => {
            let is_system = |message: &Message| &*message.role == "system";
            let target = match place {
                CacheBust::SystemPrefix | CacheBust::SystemSuffix => {
                    messages.iter().position(is_system).unwrap_or(0)
                }
                CacheBust::FirstTurnPrefix => {
                    messages.iter().position(|message| !is_system(message)).unwrap_or(0)
                }
                CacheBust::FirstTurnSuffix => messages.len().saturating_sub(1),
            };
            let marked = messages.iter().enumerate().map(|(index, message)| {
                if index == target {
                    Message { role: message.role.clone(), content: join(&message.content) }
                } else {
                    message.clone()
                }
            });
            *messages = marked.collect();
            request.input_tokens = request.input_tokens.map(|tokens| tokens + MARK_TOKENS);
        }
        Prompt::Raw(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use protocol::Endpoint;

    use super::*;
    use crate::Request;

    fn repeated(prompt: Prompt, turns: usize) -> impl Iterator<Item = Vec<Turn>> + Send + 'static {
        let turn = Turn::from(Request {
            input_tokens: Some(50),
            ..Request::new(Endpoint::Completions, "m", prompt)
        });
        std::iter::repeat(vec![turn; turns])
    }

    fn text() -> Prompt {
        Prompt::Text("abc".into())
    }

    fn contents(turn: &Turn) -> Vec<String> {
        let mut said = Vec::new();
        turn.request.prompt.extend_history(&mut said);
        said.into_iter().map(|message| message.content.to_string()).collect()
    }

    #[test]
    fn models_are_shared_out_by_session() {
        let models: Vec<Arc<str>> = vec!["a".into(), "b".into(), "c".into()];
        let named = |choice| {
            let sessions = assign_models(repeated(text(), 2), models.clone(), choice, 1).unwrap();
            let name = |turns: Vec<Turn>| {
                assert_eq!(turns[0].request.model, turns[1].request.model);
                turns[0].request.model.to_string()
            };
            sessions.take(3000).map(name).collect::<Vec<_>>()
        };
        assert_eq!(named(ModelChoice::RoundRobin)[..4], ["a", "b", "c", "a"]);
        let random = named(ModelChoice::Random);
        for model in ["a", "b", "c"] {
            let count = random.iter().filter(|name| *name == model).count();
            assert!((900..1100).contains(&count), "{model} {count}");
        }
        assert!(assign_models(repeated(text(), 1), Vec::new(), ModelChoice::Random, 1).is_err());
    }

    #[test]
    fn the_asked_share_is_cancelled() {
        let after = Duration::from_millis(30);
        let sessions = cancel_some(repeated(text(), 2), 0.2, after, 1).unwrap();
        let turns: Vec<Turn> = sessions.take(5000).flatten().collect();
        let cancelled = turns.iter().filter(|turn| turn.request.cancel_after == Some(after)).count();
        assert!((1850..2150).contains(&cancelled), "{cancelled}");
        assert!(cancel_some(repeated(text(), 1), 1.2, after, 1).is_err());
    }

    #[test]
    fn busted_prompts_differ_where_they_should() {
        let messages: Arc<[Message]> =
            [Message::new("system", "s"), Message::user("u"), Message::user("v")].into();
        let bust = |place| {
            let sessions: Vec<Vec<Turn>> =
                bust_cache(repeated(Prompt::Messages(messages.clone()), 2), place, 1).take(100).collect();
            assert!(sessions.iter().all(|turns| contents(&turns[1]) == ["s", "u", "v"]));
            assert!(sessions.iter().all(|turns| turns[0].request.input_tokens == Some(58)));
            let firsts: HashSet<Vec<String>> = sessions.iter().map(|turns| contents(&turns[0])).collect();
            assert_eq!(firsts.len(), 100);
            let mut words = String::new();
            push_words(xxh3_64_with_seed(&0_u64.to_le_bytes(), 1), 8, &mut words);
            contents(&sessions[0][0]).into_iter().map(|text| text.replace(&words, "*")).collect::<Vec<_>>()
        };
        assert_eq!(bust(CacheBust::SystemPrefix), ["*s", "u", "v"]);
        assert_eq!(bust(CacheBust::SystemSuffix), ["s*", "u", "v"]);
        assert_eq!(bust(CacheBust::FirstTurnPrefix), ["s", "*u", "v"]);
        assert_eq!(bust(CacheBust::FirstTurnSuffix), ["s", "u", "v*"]);
    }

    #[test]
    fn blocks_get_an_id_of_their_own_in_every_turn() {
        let blocks =
            Prompt::Blocks { ids: [1, 2].into(), with_answer: false, block_tokens: 16, tokens: 40, tail: 9 };
        let mut sessions = bust_cache(repeated(blocks.clone(), 2), CacheBust::SystemPrefix, 1);
        let (one, two) = (sessions.next().unwrap(), sessions.next().unwrap());
        let ids = |turn: &Turn| match &turn.request.prompt {
            Prompt::Blocks { ids, tokens: 56, .. } => ids.to_vec(),
            prompt => panic!("{prompt:?}"),
        };
        assert_eq!(ids(&one[0]), ids(&one[1]));
        assert_eq!(ids(&one[0])[1..], [1, 2]);
        assert_ne!(ids(&one[0])[0], ids(&two[0])[0]);
        let mut suffixed = bust_cache(repeated(blocks, 1), CacheBust::FirstTurnSuffix, 1);
        let turn = &suffixed.next().unwrap()[0];
        assert!(matches!(turn.request.prompt, Prompt::Blocks { tail, tokens: 40, .. } if tail != 9));
    }

    #[test]
    fn a_prompt_that_its_ids_cover_gets_words_after_them() {
        for (tokens, ids) in [(32, vec![1, 2]), (40, vec![1, 2, 3]), (40, vec![1, 2, 3, 4, 5])] {
            let blocks =
                Prompt::Blocks { ids: ids.into(), with_answer: true, block_tokens: 16, tokens, tail: 9 };
            let text = |turns: Vec<Turn>| {
                let request = &turns[0].request;
                let Prompt::Blocks { ids, block_tokens, tokens: now, tail, .. } = &request.prompt else {
                    panic!()
                };
                assert_eq!((request.input_tokens, *now), (Some(tokens + 16), tokens + 16));
                let mut text = String::new();
                crate::render_blocks(ids, *block_tokens, *now, *tail, &mut text);
                text
            };
            let mut sessions = bust_cache(repeated(blocks, 1), CacheBust::SystemSuffix, 1).map(text);
            let (one, two) = (sessions.next().unwrap(), sessions.next().unwrap());
            let words = |text: &str| text.split(' ').map(ToOwned::to_owned).collect::<Vec<_>>();
            let same = words(&one).iter().zip(&words(&two)).take_while(|(one, two)| one == two).count();
            assert!(
                (tokens as usize..tokens as usize + 16).contains(&same),
                "{same} of {tokens}: {one} {two}"
            );
        }
    }
}
