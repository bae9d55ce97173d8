//! Prompts that vLLM's benchmark makes without recorded traffic: random tokens of given lengths, and lines of a poem.
//!
//! The poem's prompts are the script's own for the same file, seed and counts, since it draws lines from CPython's
//! generator. Random prompts have the script's lengths and its shared prefix, not its text: the script decodes
//! random token ids, which comes out longer or shorter than asked; here a prompt is made of words of one token each.

use std::path::Path;

use crate::{Error, PythonRandom, TextPrompt, TextPrompts, Tokenizer, words::push_words};

/// The beginning of every poem prompt.
const POEM_BASE: &str = "Pick as many lines as you can from these poem lines:\n";
/// Names the shared prefix among the streams of words.
const PREFIX: u64 = 0;

/// Sizes of random prompts, in tokens.
#[derive(Clone, Copy, Debug)]
pub struct RandomPrompts {
    /// Requests to make.
    pub requests: usize,
    /// Least and most prompt tokens after the prefix, drawn evenly.
    pub input: (u32, u32),
    /// Least and most output tokens, drawn evenly.
    pub output: (u32, u32),
    /// Tokens at the beginning that are the same in all prompts.
    pub prefix: u32,
}

/// Sizes of poem prompts, in tokens.
#[derive(Clone, Copy, Debug)]
pub struct PoemPrompts {
    /// Requests to make.
    pub requests: usize,
    /// Prompt length, as near as whole lines come to it.
    pub input: u32,
    /// Output length.
    pub output: u32,
    /// Tokens at the beginning that are the same in all prompts, as near as whole lines come to it.
    pub prefix: u32,
}

/// Makes prompts of random words.
pub fn random_prompts(
    sizes: &RandomPrompts,
    tokenizer: &Tokenizer,
    random: &mut PythonRandom,
) -> Result<TextPrompts, Error> {
    let between = |(least, most): (u32, u32), random: &mut PythonRandom| {
        least + random.below((most.saturating_sub(least) + 1) as usize) as u32
    };
    let mut prompts = Vec::with_capacity(sizes.requests);
    for _ in 0..sizes.requests {
        let (input, output) = (between(sizes.input, random), between(sizes.output, random));
        let mut text = String::new();
        push_words(PREFIX, sizes.prefix, &mut text);
        push_words(random.bits(64) | 1, input, &mut text);
        prompts.push(prompt(text, output.max(1), tokenizer)?);
    }
    Ok(TextPrompts::made(prompts))
}

/// Makes prompts of a file's lines.
pub fn poem_prompts(
    path: &Path,
    sizes: &PoemPrompts,
    tokenizer: &Tokenizer,
    random: &mut PythonRandom,
) -> Result<TextPrompts, Error> {
    let poem = std::fs::read_to_string(path).map_err(|error| Error::read(path, error))?;
    let lines: Vec<&str> = poem.split_inclusive('\n').collect();
    let mut tokens = 0;
    for line in &lines {
        tokens += u64::from(tokenizer.count(line, true)?);
    }
    if tokens == 0 {
        return Err(Error::file(path, "no line of text in it"));
    }
    let base = tokenizer.count(POEM_BASE, true)?;
    if sizes.prefix <= base || sizes.input <= sizes.prefix {
        let (input, prefix) = (sizes.input, sizes.prefix);
        let problem = format!(
            "a poem prompt of {input} tokens with a prefix of {prefix} cannot be made: the prefix holds the \
             {base} tokens of the question, and the prompt is longer than the prefix"
        );
        return Err(Error::Setting(problem));
    }
    let average = tokens as f64 / lines.len() as f64;
    let lines_for = |length: u32| (f64::from(length - base) / average).round_ties_even() as usize;
    let shared = lines_for(sizes.prefix).min(lines.len());
    let drawn = lines_for(sizes.input).saturating_sub(lines_for(sizes.prefix));
    let mut prompts = Vec::with_capacity(sizes.requests);
    for _ in 0..sizes.requests {
        let mut text = POEM_BASE.to_owned();
        text.extend(lines[..shared].iter().copied());
        for _ in 0..drawn {
            text.push_str(lines[(random.random() * lines.len() as f64) as usize]);
        }
        prompts.push(prompt(text, sizes.output, tokenizer)?);
    }
    Ok(TextPrompts::made(prompts))
}

fn prompt(text: String, output_tokens: u32, tokenizer: &Tokenizer) -> Result<TextPrompt, Error> {
    let input_tokens = tokenizer.count(&text, true)?;
    Ok(TextPrompt { text: text.into(), input_tokens, output_tokens })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn random_prompts_have_their_lengths_and_their_prefix() {
        let sizes = RandomPrompts { requests: 200, input: (50, 100), output: (0, 7), prefix: 30 };
        let made = random_prompts(&sizes, &Tokenizer::estimate(), &mut PythonRandom::new(3)).unwrap();
        let inputs: Vec<u32> = made.prompts.iter().map(|prompt| prompt.input_tokens).collect();
        let (least, most) = (*inputs.iter().min().unwrap(), *inputs.iter().max().unwrap());
        assert!((80..85).contains(&least) && (126..=130).contains(&most), "{least}..{most}");
        assert!(made.prompts.iter().all(|prompt| (1..=7).contains(&prompt.output_tokens)));
        let (first, second) = (&made.prompts[0].text, &made.prompts[1].text);
        assert_eq!(first[..120], second[..120], "30 words of 4 bytes are shared");
        assert_ne!(first[120..160], second[120..160]);
    }

    #[test]
    fn poem_prompts_are_the_scripts() {
        let file = tempfile::NamedTempFile::new().unwrap();
        // Lines of 20 bytes: 5 tokens each by the estimate.
        let poem: String = (0..10).map(|line| format!("line number {line:07}\n")).collect();
        std::fs::write(file.path(), poem).unwrap();
        // The question is 53 bytes, 14 tokens: (64 - 14) / 5 = 10 lines, (24 - 14) / 5 = 2 of them shared.
        let sizes = PoemPrompts { requests: 2, input: 64, output: 9, prefix: 24 };
        let made = poem_prompts(file.path(), &sizes, &Tokenizer::estimate(), &mut PythonRandom::new(12_345))
            .unwrap();
        let numbers = |text: &str| -> Vec<u32> {
            text.lines().skip(1).map(|line| line[12..].parse().unwrap()).collect()
        };
        // random.seed(12345); print(random.choices(range(10), k=8)), twice.
        assert_eq!(numbers(&made.prompts[0].text), [0, 1, 4, 0, 8, 2, 3, 1, 5, 1]);
        assert_eq!(numbers(&made.prompts[1].text), [0, 1, 1, 4, 5, 1, 5, 3, 9, 0]);
        assert_eq!(made.prompts[0].output_tokens, 9);
        let short = PoemPrompts { prefix: 14, ..sizes };
        assert!(
            poem_prompts(file.path(), &short, &Tokenizer::estimate(), &mut PythonRandom::new(0)).is_err()
        );
    }
}
