//! The workload of KubeAI's published comparison of routing policies, built in.
//!
//! 732 prompts of 69 conversations, in the shuffled order in which the benchmark sends them, over and over:
//! 8,000 requests have 6,656,338 prompt tokens and 608,447 output tokens, the totals of the published runs.
//!
//! The table holds numbers only, counted from public conversations with Llama 3's tokenizer. It is small because ids
//! are numbered as they first appear: a row needs only the row that holds the beginning it shares, and how many blocks
//! of it; its other ids are the next free numbers.

use std::sync::LazyLock;

use protocol::BLOCK_TOKENS;

use crate::{
    Request, RequestTemplate, SeedPrompt,
    seed_prompt::{SeedRow, with_tails},
};

const TABLE: &str = include_str!("../data/kubeai-seed-prompts.csv");

static PROMPTS: LazyLock<Vec<SeedPrompt>> =
    LazyLock::new(|| parse(TABLE).expect("the built-in table is checked by a test"));

/// The 732 prompts, in order.
pub fn kubeai_seed() -> &'static [SeedPrompt] {
    &PROMPTS
}

/// The first `count` requests of the published runs: the prompts in order, again and again.
pub fn kubeai_seed_requests(
    template: RequestTemplate,
    count: usize,
) -> impl Iterator<Item = Request> + Send + 'static {
    kubeai_seed().iter().cycle().take(count).map(move |prompt| prompt.request(&template))
}

fn parse(table: &str) -> Option<Vec<SeedPrompt>> {
    let mut rows: Vec<SeedRow> = Vec::new();
    let mut next_id = 0;
    for line in table.lines().skip(1) {
        let mut columns = line.split(',').map(str::parse::<u32>);
        let mut column = || columns.next()?.ok();
        let (conversation, turn) = (column()?, column()?);
        let (input_tokens, output_tokens, first_100_chars) = (column()?, column()?, column()?);
        let (like_row, shared_blocks) = (column()? as usize, column()? as usize);
        let mut hash_ids = match shared_blocks {
            0 => Vec::new(),
            shared => rows.get(like_row)?.hash_ids.get(..shared)?.to_vec(),
        };
        let fresh = (input_tokens as usize / BLOCK_TOKENS).checked_sub(shared_blocks)? as u64;
        hash_ids.extend(next_id..next_id + fresh);
        next_id += fresh;
        rows.push(SeedRow { conversation, turn, input_tokens, output_tokens, first_100_chars, hash_ids });
    }
    Some(with_tails(rows))
}

#[cfg(test)]
mod tests {
    use std::collections::{HashMap, HashSet};

    use protocol::{BLOCK_BYTES, Endpoint, block_hashes, estimate_tokens};

    use super::*;
    use crate::{Prompt, render_blocks};

    fn text(prompt: &SeedPrompt) -> String {
        let mut out = String::new();
        render_blocks(&prompt.hash_ids, BLOCK_TOKENS as u32, prompt.input_tokens, prompt.tail, &mut out);
        out
    }

    #[test]
    fn eight_thousand_requests_have_the_published_totals() {
        let template = RequestTemplate::new(Endpoint::Completions, "m");
        let (mut requests, mut input, mut output) = (0, 0, 0);
        for request in kubeai_seed_requests(template, 8000) {
            requests += 1;
            input += request.input_tokens.unwrap();
            output += request.output_tokens.unwrap();
            assert!(
                matches!(request.prompt, Prompt::Blocks { tokens, .. } if Some(tokens) == request.input_tokens)
            );
        }
        assert_eq!((requests, input, output), (8000, 6_656_338, 608_447));
        assert_eq!(kubeai_seed().len(), 732);
        assert_eq!(kubeai_seed().iter().map(|prompt| prompt.conversation).collect::<HashSet<_>>().len(), 69);
    }

    #[test]
    fn text_has_the_stated_length_and_shares_exactly_the_stated_blocks() {
        let mut hash_of_id = HashMap::new();
        let mut hashes_seen = HashSet::new();
        for prompt in kubeai_seed() {
            let text = text(prompt);
            assert_eq!(estimate_tokens(text.len()), prompt.input_tokens);
            let mut hashes = Vec::new();
            block_hashes(b"", text.as_bytes(), &mut hashes);
            assert_eq!(hashes.len(), text.len() / BLOCK_BYTES);
            for (&id, &hash) in prompt.hash_ids.iter().zip(&hashes) {
                assert_eq!(*hash_of_id.entry(id).or_insert(hash), hash);
                hashes_seen.insert(hash);
            }
        }
        assert_eq!((hash_of_id.len(), hashes_seen.len()), (6776, 6776));
    }

    #[test]
    fn the_first_hundred_characters_are_equal_exactly_where_the_table_says_so() {
        let mut text_of_number: HashMap<u32, String> = HashMap::new();
        let mut number_of_text: HashMap<String, u32> = HashMap::new();
        for prompt in kubeai_seed() {
            let start: String = text(prompt).chars().take(100).collect();
            assert_eq!(text_of_number.entry(prompt.first_100_chars).or_insert(start.clone()), &start);
            assert_eq!(
                *number_of_text.entry(start).or_insert(prompt.first_100_chars),
                prompt.first_100_chars
            );
        }
        assert_eq!((text_of_number.len(), number_of_text.len()), (87, 87));
    }

    #[test]
    fn prompts_longer_than_their_first_hundred_characters_end_in_words_of_their_own() {
        let mut tails = HashSet::new();
        let long = kubeai_seed().iter().filter(|prompt| prompt.hash_ids.len() >= 2);
        assert!(long.map(|prompt| prompt.tail).all(|tail| tails.insert(tail)));
        assert!(tails.len() > 700);
    }

    #[test]
    fn a_broken_table_is_refused() {
        assert!(parse("head\n1,2,3").is_none());
        assert!(parse("head\n0,1,32,4,0,7,1").is_none());
        assert!(parse("head\n0,1,16,4,0,0,0\n0,1,16,4,0,0,2").is_none());
    }
}
