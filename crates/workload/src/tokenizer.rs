//! Counts tokens, with the model's own tokenizer where one is given.
//!
//! Two kinds of file are read: Hugging Face's `tokenizer.json`, and the tiktoken form that Meta and OpenAI ship (a
//! line a token: base64 and rank). The latter says neither how text is split nor whether prompts begin with a
//! special token; both follow from the number of ranks. Without a tokenizer a token is four bytes.

use std::{
    collections::HashMap,
    fs,
    path::{Path, PathBuf},
};

use base64::{Engine, prelude::BASE64_STANDARD};
use protocol::estimate_tokens;
use tokenizers::{
    PreTokenizerWrapper, SplitDelimiterBehavior,
    models::bpe::{BPE, Vocab},
    pre_tokenizers::{
        byte_level::ByteLevel,
        sequence::Sequence,
        split::{Split, SplitPattern},
    },
};

use crate::Error;

const MAX_FILE_BYTES: u64 = 256 << 20;
const FILES_IN_A_MODEL: [&str; 3] = ["tokenizer.json", "tokenizer.model", "original/tokenizer.model"];

const CL100K: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const O200K: &str = concat!(
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
);

/// Tiktoken files by their number of ranks.
const FAMILIES: [Family; 4] = [
    Family { name: "cl100k_base", ranks: 100_256, split: CL100K, begins: 0 },
    Family { name: "Llama 3", ranks: 128_000, split: CL100K, begins: 1 },
    Family { name: "o200k_base", ranks: 199_998, split: O200K, begins: 0 },
    Family { name: "Llama 4", ranks: 200_000, split: O200K, begins: 1 },
];

/// Counts the tokens of texts.
#[derive(Clone, Debug)]
pub struct Tokenizer {
    model: Option<Box<tokenizers::Tokenizer>>,
    /// Special tokens at the beginning that the model does not add itself.
    begins: u32,
}

/// Where a tokenizer's counts come from.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum TokenSource {
    /// The model's tokenizer.
    Tokenizer,
    /// Four bytes a token.
    Estimate,
}

struct Family {
    name: &'static str,
    ranks: usize,
    split: &'static str,
    begins: u32,
}

impl Tokenizer {
    /// Four bytes a token.
    pub fn estimate() -> Self {
        Self { model: None, begins: 0 }
    }

    /// Reads a `tokenizer.json`, a tiktoken file, or a model's folder that holds one of them.
    pub fn load(path: &Path) -> Result<Self, Error> {
        let path = if path.is_dir() { file_in(path)? } else { path.to_owned() };
        let size = fs::metadata(&path).map_err(|error| Error::read(&path, error))?.len();
        if size > MAX_FILE_BYTES {
            return Err(Error::file(&path, "over 256 MiB; a tokenizer is smaller"));
        }
        let content = fs::read(&path).map_err(|error| Error::read(&path, error))?;
        if content.trim_ascii_start().starts_with(b"{") {
            let mut model = tokenizers::Tokenizer::from_bytes(&content)
                .map_err(|error| Error::file(&path, format_args!("not a tokenizer.json: {error}")))?;
            model.with_padding(None);
            model.with_truncation(None).map_err(|error| Error::file(&path, error))?;
            return Ok(Self { model: Some(Box::new(model)), begins: 0 });
        }
        let ranks = read_ranks(&path, &content)?;
        let Some(family) = FAMILIES.iter().find(|family| family.ranks == ranks.len()) else {
            let known = FAMILIES.map(|family| format!("{} ({})", family.name, family.ranks)).join(", ");
            let problem = format!(
                "a tiktoken file of {} ranks; the kinds that are known: {known}; give the tokenizer.json instead",
                ranks.len()
            );
            return Err(Error::file(&path, problem));
        };
        let model = byte_level_model(&ranks, family.split).map_err(|error| Error::file(&path, error))?;
        Ok(Self { model: Some(Box::new(model)), begins: family.begins })
    }

    /// Where the counts come from.
    pub fn source(&self) -> TokenSource {
        if self.model.is_some() { TokenSource::Tokenizer } else { TokenSource::Estimate }
    }

    /// The tokens of `text`; with `special`, also those that the tokenizer puts around a prompt.
    pub fn count(&self, text: &str, special: bool) -> Result<u32, Error> {
        let Some(model) = &self.model else {
            return Ok(estimate_tokens(text.len()));
        };
        let encoding = model
            .encode_fast(text, special)
            .map_err(|error| Error::Setting(format!("the tokenizer fails on a text: {error}")))?;
        Ok(encoding.len() as u32 + if special { self.begins } else { 0 })
    }
}

fn file_in(folder: &Path) -> Result<PathBuf, Error> {
    FILES_IN_A_MODEL
        .iter()
        .map(|name| folder.join(name))
        .find(|path| path.is_file())
        .ok_or_else(|| Error::file(folder, "neither a tokenizer.json nor a tokenizer.model in this folder"))
}

/// Reads "base64 rank" lines.
fn read_ranks(path: &Path, content: &[u8]) -> Result<HashMap<Vec<u8>, u32>, Error> {
    let wrong = |line| {
        let problem = "neither a tokenizer.json nor lines of base64 and rank; \
                       for a SentencePiece model give the tokenizer.json instead";
        Error::line(path, line, problem)
    };
    let mut ranks = HashMap::new();
    for (line, number) in content.split(|&byte| byte == b'\n').zip(1..) {
        let line = line.trim_ascii();
        if line.is_empty() {
            continue;
        }
        let text = std::str::from_utf8(line).map_err(|_| wrong(number))?;
        let (token, rank) = text.split_once(' ').ok_or_else(|| wrong(number))?;
        let token = BASE64_STANDARD.decode(token).map_err(|_| wrong(number))?;
        ranks.insert(token, rank.parse().map_err(|_| wrong(number))?);
    }
    Ok(ranks)
}

/// The same tokenizer in Hugging Face's form: every way to split a token into two others is a merge, in the order
/// of the ranks that result.
fn byte_level_model(
    ranks: &HashMap<Vec<u8>, u32>,
    split: &str,
) -> Result<tokenizers::Tokenizer, tokenizers::Error> {
    let letters = byte_letters();
    let spell = |token: &[u8]| token.iter().map(|&byte| letters[usize::from(byte)]).collect::<String>();
    let mut merges: Vec<([u32; 3], [&[u8]; 2])> = Vec::new();
    for (token, &rank) in ranks {
        for cut in 1..token.len() {
            let (left, right) = token.split_at(cut);
            if let (Some(&left_rank), Some(&right_rank)) = (ranks.get(left), ranks.get(right)) {
                merges.push(([rank, left_rank, right_rank], [left, right]));
            }
        }
    }
    merges.sort_unstable();
    let merges: Vec<(String, String)> =
        merges.into_iter().map(|(_, [left, right])| (spell(left), spell(right))).collect();
    let vocabulary: Vocab = ranks.iter().map(|(token, &rank)| (spell(token), rank)).collect();
    let model = BPE::builder().vocab_and_merges(vocabulary, merges).ignore_merges(true).build()?;
    let words = Split::new(SplitPattern::Regex(split.to_owned()), SplitDelimiterBehavior::Isolated, false)?;
    let mut tokenizer = tokenizers::Tokenizer::new(model);
    tokenizer.with_pre_tokenizer(Some(Sequence::new(vec![
        PreTokenizerWrapper::Split(words),
        PreTokenizerWrapper::ByteLevel(ByteLevel::new(false, false, false)),
    ])));
    Ok(tokenizer)
}

/// The letter that stands for each byte in byte-level vocabularies: itself where it can be seen, otherwise the next
/// one from U+0100.
fn byte_letters() -> [char; 256] {
    let mut letters = ['\0'; 256];
    let mut spare = 0x100;
    for byte in 0..=u8::MAX {
        letters[usize::from(byte)] = match byte {
            b'!'..=b'~' | 0xa1..=0xac | 0xae.. => char::from(byte),
            _ => {
                spare += 1;
                char::from_u32(spare - 1).unwrap_or_default()
            }
        };
    }
    letters
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A byte-level tokenizer of all bytes and a few merges, in both forms; padded to the size of a known family.
    fn tiktoken_file(words: &[&str]) -> Vec<u8> {
        let mut tokens: Vec<Vec<u8>> = (0..=u8::MAX).map(|byte| vec![byte]).collect();
        tokens.extend(words.iter().map(|word| word.as_bytes().to_vec()));
        let filler = (0_u32..).map(|number| [&[0xff, 0xff, 0xff], &number.to_be_bytes()[..]].concat());
        tokens.extend(filler.take(128_000 - tokens.len()));
        let lines = tokens.iter().enumerate();
        lines
            .map(|(rank, token)| format!("{} {rank}\n", BASE64_STANDARD.encode(token)))
            .collect::<String>()
            .into()
    }

    fn saved(name: &str, content: &[u8]) -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(name);
        fs::write(&path, content).unwrap();
        (folder, path)
    }

    #[test]
    fn a_tiktoken_file_merges_lowest_rank_first_and_counts_the_beginning() {
        let (folder, path) = saved("tokenizer.model", &tiktoken_file(&["ab", "bc", "abcd", " x", "é"]));
        let tokenizer = Tokenizer::load(&path).unwrap();
        assert_eq!(tokenizer.source(), TokenSource::Tokenizer);
        let count = |text| tokenizer.count(text, false).unwrap();
        assert_eq!(count("abc"), 2); // ab c
        assert_eq!(count("abcd"), 1); // a whole word of the vocabulary needs no merges
        assert_eq!(count("abcde"), 4); // but nothing merges into it: ab c d e
        assert_eq!(count("x x"), 2); // x, space-x
        assert_eq!(count("é"), 1);
        assert_eq!(count("1234"), 4);
        assert_eq!(count(""), 0);
        assert_eq!(tokenizer.count("abc", true).unwrap(), 3);
        assert_eq!(Tokenizer::load(folder.path()).unwrap().count("abc", true).unwrap(), 3);
    }

    #[test]
    fn a_tokenizer_json_counts_its_own_special_tokens_and_is_not_cut_short() {
        let json = r#"{"version":"1.0",
            "truncation":{"direction":"Right","max_length":2,"strategy":"LongestFirst","stride":0},
            "padding":null,"added_tokens":[],"normalizer":null,"pre_tokenizer":{"type":"Whitespace"},
            "post_processor":{"type":"TemplateProcessing",
                "single":[{"SpecialToken":{"id":"<s>","type_id":0}},{"Sequence":{"id":"A","type_id":0}}],
                "pair":[{"Sequence":{"id":"A","type_id":0}},{"Sequence":{"id":"B","type_id":0}}],
                "special_tokens":{"<s>":{"id":"<s>","ids":[1],"tokens":["<s>"]}}},
            "decoder":null,
            "model":{"type":"WordLevel","vocab":{"?":0,"<s>":1,"a":2},"unk_token":"?"}}"#;
        let (_folder, path) = saved("tokenizer.json", json.as_bytes());
        let tokenizer = Tokenizer::load(&path).unwrap();
        assert_eq!(tokenizer.count("a b a a", false).unwrap(), 4);
        assert_eq!(tokenizer.count("a b a a", true).unwrap(), 5);
    }

    #[test]
    fn without_one_a_token_is_four_bytes() {
        let tokenizer = Tokenizer::estimate();
        assert_eq!(tokenizer.source(), TokenSource::Estimate);
        assert_eq!(tokenizer.count("123456789", true).unwrap(), 3);
    }

    #[test]
    fn what_cannot_be_used_is_named() {
        let failure = |content: &[u8]| {
            let (_folder, path) = saved("tokenizer.model", content);
            Tokenizer::load(&path).unwrap_err().to_string()
        };
        assert!(failure(b"{\"model\": 3}").contains("not a tokenizer.json"));
        assert!(failure(b"YQ== 0\nYg== 1\n").contains("2 ranks"));
        assert!(failure(b"YQ== 0\n\x0a\x0e\xff").contains("line 3: neither"));
        let folder = tempfile::tempdir().unwrap();
        assert!(
            Tokenizer::load(folder.path()).unwrap_err().to_string().contains("neither a tokenizer.json nor")
        );
        assert!(matches!(Tokenizer::load(&folder.path().join("none")), Err(Error::Read { .. })));
    }
}
