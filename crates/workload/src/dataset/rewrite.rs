//! Makes other traces of a trace: longer or more shared prefixes, longer prompts and answers.
//!
//! The blocks that two or more prompts of the trace begin with form a tree. Its paths are stretched, the whole tree is
//! copied, and what follows in each prompt (unique to it) is stretched by itself. So the load grows in one respect at
//! a time, and who shares with whom stays as it was recorded.

use std::{collections::HashMap, sync::Arc};

use rand::RngExt;
use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::Dataset;
use crate::{Error, MAX_PROMPT_TOKENS, Prompt, random};

/// The factors; 1 leaves things as they are.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rewrite {
    /// Length of shared prefixes.
    pub prefix_length: f64,
    /// Copies of the tree of shared prefixes; each prompt is dealt to one of them at random.
    pub prefix_roots: u32,
    /// Length of what is not shared.
    pub prompt_length: f64,
    /// Length of answers.
    pub output_length: f64,
    /// Requests with longer prompts (before the rewrite) are left out.
    pub max_input_tokens: Option<u32>,
    /// Answers are at most so long.
    pub max_output_tokens: Option<u32>,
}

impl Default for Rewrite {
    fn default() -> Self {
        Self {
            prefix_length: 1.0,
            prefix_roots: 1,
            prompt_length: 1.0,
            output_length: 1.0,
            max_input_tokens: None,
            max_output_tokens: None,
        }
    }
}

impl Rewrite {
    /// Rewrites the prompts that are known by block ids, and the output lengths of all.
    pub fn apply(&self, dataset: &mut Dataset, seed: u64) -> Result<(), Error> {
        for factor in [self.prefix_length, self.prompt_length, self.output_length] {
            if !(0.0..=1e6).contains(&factor) {
                return Err(Error::Setting(format!(
                    "a length factor of {factor}: give a number from 0 to 1e6"
                )));
            }
        }
        if self.prefix_roots == 0 {
            return Err(Error::Setting("0 copies of the shared prefixes: give 1 or more".into()));
        }
        if let Some(limit) = self.max_input_tokens {
            for entry in &mut dataset.entries {
                entry.turns.retain(|turn| turn.request.input_tokens.is_none_or(|tokens| tokens <= limit));
            }
            dataset.entries.retain(|entry| !entry.turns.is_empty());
            if dataset.entries.is_empty() {
                return Err(Error::Setting(format!("no prompt of the trace has {limit} tokens or fewer")));
            }
        }
        let changes_prompts =
            self.prefix_length != 1.0 || self.prefix_roots != 1 || self.prompt_length != 1.0;
        let uses = if changes_prompts { count_uses(dataset) } else { HashMap::new() };
        let mut random = random::stream(seed, "prefix roots");
        for entry in &mut dataset.entries {
            let root = random.random_range(0..self.prefix_roots);
            for turn in &mut entry.turns {
                let request = &mut turn.request;
                if changes_prompts
                    && let Prompt::Blocks { ids, block_tokens, tokens, .. } = &mut request.prompt
                {
                    let shared =
                        ids.iter().take_while(|id| uses.get(id).is_some_and(|uses| *uses > 1)).count();
                    let own = u64::from(*tokens).saturating_sub(shared as u64 * u64::from(*block_tokens));
                    let own = (own as f64 * self.prompt_length).round();
                    let total = self.blocks_until(shared) as f64 * f64::from(*block_tokens) + own;
                    if total > f64::from(MAX_PROMPT_TOKENS) {
                        return Err(Error::Setting(format!("a prompt would grow to {total:.0} tokens")));
                    }
                    *ids = self.stretch(&ids[..shared], root);
                    *tokens = (total as u32).max(1);
                    request.input_tokens = Some(*tokens);
                }
                request.output_tokens = request.output_tokens.map(|tokens| {
                    let tokens = (f64::from(tokens) * self.output_length).round() as u32;
                    tokens.max(1).min(self.max_output_tokens.unwrap_or(u32::MAX))
                });
            }
        }
        Ok(())
    }

    /// Blocks in the rewritten prefix up to this depth of the recorded one.
    fn blocks_until(&self, depth: usize) -> u64 {
        (depth as f64 * self.prefix_length).round() as u64
    }

    /// Puts as many copies in the place of each id as keep all paths through it in proportion.
    fn stretch(&self, ids: &[u64], root: u32) -> Arc<[u64]> {
        let copies = |(depth, &id): (usize, &u64)| {
            let first = if root == 0 { id } else { xxh3_64_with_seed(&id.to_le_bytes(), u64::from(root)) };
            (0..self.blocks_until(depth + 1) - self.blocks_until(depth)).map(move |copy| match copy {
                0 => first,
                copy => xxh3_64_with_seed(&first.to_le_bytes(), copy),
            })
        };
        ids.iter().enumerate().flat_map(copies).collect()
    }
}

fn count_uses(dataset: &Dataset) -> HashMap<u64, u32> {
    let mut uses = HashMap::new();
    for turn in dataset.entries.iter().flat_map(|entry| &entry.turns) {
        if let Prompt::Blocks { ids, .. } = &turn.request.prompt {
            ids.iter().for_each(|id| *uses.entry(*id).or_default() += 1);
        }
    }
    uses
}

#[cfg(test)]
mod tests {
    use protocol::Endpoint;

    use super::*;
    use crate::{Request, Turn, dataset::Entry};

    /// Two prompts that share two blocks of 10 tokens, and one that shares the first of them.
    fn dataset() -> Dataset {
        let prompt = |ids: &[u64], tokens| {
            let ids = ids.into();
            let prompt =
                Prompt::Blocks { ids, with_answer: false, block_tokens: 10, tokens, tail: tokens.into() };
            let mut request = Request::new(Endpoint::Completions, "m", prompt);
            (request.input_tokens, request.output_tokens) = (Some(tokens), Some(8));
            Entry { at: None, turns: vec![Turn::from(request)] }
        };
        Dataset { entries: vec![prompt(&[1, 2, 3], 28), prompt(&[1, 2, 4, 5], 36), prompt(&[1, 6], 15)] }
    }

    fn rewritten(rewrite: Rewrite) -> Vec<(Vec<u64>, u32, u32)> {
        let mut dataset = dataset();
        rewrite.apply(&mut dataset, 1).unwrap();
        let row = |entry: Entry| {
            let request = &entry.turns[0].request;
            let Prompt::Blocks { ids, tokens, .. } = &request.prompt else { panic!() };
            assert_eq!(request.input_tokens, Some(*tokens));
            (ids.to_vec(), *tokens, request.output_tokens.unwrap())
        };
        dataset.entries.into_iter().map(row).collect()
    }

    #[test]
    fn factors_of_one_change_nothing() {
        let rows = rewritten(Rewrite::default());
        assert_eq!(rows, [(vec![1, 2, 3], 28, 8), (vec![1, 2, 4, 5], 36, 8), (vec![1, 6], 15, 8)]);
    }

    #[test]
    fn prefixes_grow_and_stay_shared() {
        let rows = rewritten(Rewrite { prefix_length: 1.5, ..Rewrite::default() });
        let lengths: Vec<(usize, u32)> = rows.iter().map(|(ids, tokens, _)| (ids.len(), *tokens)).collect();
        assert_eq!(lengths, [(3, 38), (3, 46), (2, 25)]);
        assert_eq!(rows[0].0, rows[1].0);
        assert_eq!(rows[0].0[..2], rows[2].0);
        let halved = rewritten(Rewrite { prefix_length: 0.5, ..Rewrite::default() });
        assert_eq!(
            halved.iter().map(|row| (row.0.len(), row.1)).collect::<Vec<_>>(),
            [(1, 18), (1, 26), (1, 15)]
        );
    }

    #[test]
    fn prompts_and_answers_grow_by_themselves() {
        let rows = rewritten(Rewrite {
            prompt_length: 2.0,
            output_length: 3.0,
            max_output_tokens: Some(20),
            ..Rewrite::default()
        });
        assert_eq!(rows, [(vec![1, 2], 36, 20), (vec![1, 2], 52, 20), (vec![1], 20, 20)]);
        let short =
            rewritten(Rewrite { max_input_tokens: Some(28), output_length: 0.01, ..Rewrite::default() });
        assert_eq!(short, [(vec![1, 2, 3], 28, 1), (vec![1, 6], 15, 1)]);
    }

    #[test]
    fn roots_are_copies_that_share_nothing() {
        let mut dataset = Dataset { entries: (0..200).flat_map(|_| dataset().entries).collect() };
        Rewrite { prefix_roots: 4, ..Rewrite::default() }.apply(&mut dataset, 1).unwrap();
        let mut firsts: HashMap<u64, u32> = HashMap::new();
        for entry in &dataset.entries {
            let Prompt::Blocks { ids, .. } = &entry.turns[0].request.prompt else { panic!() };
            *firsts.entry(ids[0]).or_default() += 1;
        }
        assert_eq!(firsts.len(), 4);
        assert!(firsts.values().all(|count| (100..200).contains(count)), "{firsts:?}");
    }

    #[test]
    fn impossible_rewrites_are_refused() {
        for rewrite in [
            Rewrite { prefix_roots: 0, ..Rewrite::default() },
            Rewrite { prompt_length: f64::NAN, ..Rewrite::default() },
            Rewrite { prefix_length: 1e6, ..Rewrite::default() },
            Rewrite { max_input_tokens: Some(3), ..Rewrite::default() },
        ] {
            assert!(rewrite.apply(&mut dataset(), 0).is_err(), "{rewrite:?}");
        }
    }
}
