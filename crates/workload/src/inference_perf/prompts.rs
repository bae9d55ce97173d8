//! Requests that are made: `mock`, `random`, `synthetic`, and single requests of `shared_prefix`.
//!
//! Each is a function of the seed and the request's number alone, so that any part of a run can be made by itself.

use std::{cmp::Ordering, path::Path, sync::Arc};

use protocol::Endpoint;
use rand::{RngExt, seq::SliceRandom};
use rand_chacha::ChaCha8Rng;
use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::{Data, Distribution, SharedPrefix, lengths::Sampler, source::Make};
use crate::{Error, Prompt, Request, RequestTemplate, Tokenizer, random, words::push_words};

/// Places in a text at which slices of a length are looked for, and how far they are apart.
const STARTS: usize = 64;
const STEP: usize = 97;
/// Rounds in which a slice is brought to its length, and those of them that guess by the tokens of the one before.
const ROUNDS: usize = 40;
const GUESSES: usize = 6;
/// Words of the text that `synthetic` is cut from where no file is given.
const CORPUS_WORDS: u32 = 1 << 18;
/// Longest text that slices are cut from.
const MAX_CORPUS_BYTES: u64 = 256 << 20;

/// The generator of request `number`.
pub(super) fn random_of(seed: u64, purpose: &str, number: u64) -> ChaCha8Rng {
    let mut random = random::stream(seed, purpose);
    random.set_stream(number);
    random
}

/// Short fixed texts.
pub(super) fn mock(template: RequestTemplate) -> Make {
    let is_completion = template.endpoint == Endpoint::Completions;
    Arc::new(move |number| {
        let text = if is_completion { format!("1 2 3 {number}") } else { format!("mock prompt {number}") };
        template.request(Prompt::Text(text.into()))
    })
}

/// Prompt and answer lengths of `data`.
struct Lengths {
    input: Sampler,
    output: Sampler,
}

impl Lengths {
    fn new(data: &Data) -> Result<Self, Error> {
        let of = |given: &Option<Distribution>| match given {
            Some(given) => Sampler::new(given),
            None => Sampler::new(&Distribution::default()),
        };
        Ok(Self { input: of(&data.input_distribution)?, output: of(&data.output_distribution)? })
    }

    fn draw(&self, random: &mut ChaCha8Rng) -> (u32, u32) {
        (self.input.count(random).max(1), self.output.count(random).max(1))
    }
}

/// Words without meaning, of exact lengths by the common token rule.
pub(super) fn random_words(data: &Data, template: RequestTemplate, seed: u64) -> Result<Make, Error> {
    let lengths = Lengths::new(data)?;
    Ok(Arc::new(move |number| {
        let mut random = random_of(seed, "random prompts", number);
        let (input, output) = lengths.draw(&mut random);
        let mut text = String::new();
        push_words(random.random(), input, &mut text);
        counted(&template, text, Some(input), output)
    }))
}

/// Slices of a text, of exact lengths by the tokenizer.
pub(super) fn slices(
    data: &Data,
    template: RequestTemplate,
    tokenizer: Arc<Tokenizer>,
    seed: u64,
) -> Result<Make, Error> {
    let lengths = Lengths::new(data)?;
    let corpus = match &data.corpus_file_path {
        Some(path) => read_text(Path::new(path))?,
        None => {
            let mut words = String::new();
            push_words(xxh3_64_with_seed(b"corpus", seed), CORPUS_WORDS, &mut words);
            words
        }
    };
    Ok(Arc::new(move |number| {
        let mut random = random_of(seed, "synthetic prompts", number);
        let (input, output) = lengths.draw(&mut random);
        let start = random.random_range(0..corpus.len());
        let (text, tokens) = slice(&corpus, start, input, &tokenizer);
        counted(&template, text, tokens, output)
    }))
}

/// The text of a file that is held in memory.
pub(super) fn read_text(path: &Path) -> Result<String, Error> {
    let size = std::fs::metadata(path).map_err(|error| Error::read(path, error))?.len();
    if size > MAX_CORPUS_BYTES {
        return Err(Error::file(path, "over 256 MiB; give a smaller one"));
    }
    let text = std::fs::read(path).map_err(|error| Error::read(path, error))?;
    let text = String::from_utf8_lossy(&text).into_owned();
    if text.trim().is_empty() { Err(Error::file(path, "no text in it")) } else { Ok(text) }
}

/// A part of a text of so many tokens, around its end if need be, and its length, if it is known. It begins at `start`,
/// or elsewhere where no part that begins there has that length: a letter may be several tokens.
fn slice(corpus: &str, start: usize, tokens: u32, tokenizer: &Tokenizer) -> (String, Option<u32>) {
    let mut best = (String::new(), u32::MAX);
    for attempt in 0..STARTS {
        let start = (start + attempt * STEP) % corpus.len();
        // Too few bytes, and too many.
        let (mut low, mut high) = (0, None);
        let mut bytes = tokens as usize * 4;
        for round in 0..ROUNDS {
            let text = cut(corpus, start, bytes);
            let Ok(counted) = tokenizer.count(&text, false) else { return (text, None) };
            if counted.abs_diff(tokens) < best.1.abs_diff(tokens) {
                best = (text, counted);
            }
            match counted.cmp(&tokens) {
                Ordering::Equal => return (best.0, Some(tokens)),
                Ordering::Less => low = bytes,
                Ordering::Greater => high = Some(bytes),
            }
            let guess = (bytes as u64 * u64::from(tokens) / u64::from(counted.max(1))) as usize;
            bytes = match high {
                None => guess.max(low + 1),
                Some(high) if high - low < 2 => break,
                Some(high) if round < GUESSES && (low + 1..high).contains(&guess) => guess,
                Some(high) => usize::midpoint(low, high),
            };
        }
    }
    (best.0, Some(best.1))
}

fn cut(corpus: &str, start: usize, bytes: usize) -> String {
    let boundary = |mut place: usize| {
        while !corpus.is_char_boundary(place) {
            place -= 1;
        }
        place
    };
    let mut text = String::with_capacity(bytes + 4);
    let mut from = boundary(start % corpus.len());
    while text.len() < bytes {
        let to = boundary((from + bytes - text.len()).min(corpus.len()));
        text.push_str(&corpus[from..to.max(from)]);
        if to < corpus.len() {
            break;
        }
        from = 0;
    }
    text
}

/// The parts of the prompts of `shared_prefix`.
#[derive(Clone, Debug)]
pub(super) struct Shared {
    pub(super) template: RequestTemplate,
    seed: u64,
    prompts_per_group: u64,
    /// The prompts in the order in which they are used.
    order: Arc<[u64]>,
    system: Sampler,
    question: Sampler,
    output: Sampler,
}

impl Shared {
    pub(super) fn new(
        given: &SharedPrefix,
        template: RequestTemplate,
        base_seed: u64,
    ) -> Result<Self, Error> {
        let seed = given.seed.unwrap_or(base_seed);
        let prompts = u64::from(given.num_groups) * u64::from(given.num_prompts_per_group);
        let mut order: Vec<u64> = (0..prompts).collect();
        order.shuffle(&mut random::stream(seed, "shared prefix order"));
        let older = |older: &Option<Distribution>, newer| match older {
            Some(older) => Sampler::new(older),
            None => Sampler::of(newer),
        };
        Ok(Self {
            template,
            seed,
            prompts_per_group: given.num_prompts_per_group.into(),
            order: order.into(),
            system: Sampler::of(&given.system_prompt_len)?,
            question: older(&given.question_distribution, &given.question_len)?,
            output: older(&given.output_distribution, &given.output_len)?,
        })
    }

    /// Different prompts.
    pub(super) fn prompts(&self) -> u64 {
        self.order.len() as u64
    }

    /// The common beginning of the group of the prompt in this place of the order, and its length.
    fn system(&self, place: u64) -> (String, u32) {
        let group = self.order[place as usize] / self.prompts_per_group;
        let mut random = random_of(self.seed, "shared prefixes", group);
        let tokens = self.system.count(&mut random);
        let mut text = String::new();
        push_words(random.random(), tokens, &mut text);
        (text, tokens)
    }

    /// What user `place` says in round `round`; in the first one after the group's common beginning.
    pub(super) fn request(&self, place: u64, round: u64) -> Request {
        let prompt = self.order[place as usize];
        let mut random = random_of(self.seed, "shared prefix questions", prompt | round << 40);
        let (question, output) =
            (self.question.count(&mut random).max(1), self.output.count(&mut random).max(1));
        let (mut text, mut tokens) = if round == 0 { self.system(place) } else { (String::new(), 0) };
        push_words(random.random(), question, &mut text);
        tokens += question;
        let mut request = counted(&self.template, text, Some(tokens), output);
        if round > 0 {
            request.input_tokens = None;
        }
        request
    }
}

pub(super) fn counted(template: &RequestTemplate, text: String, input: Option<u32>, output: u32) -> Request {
    let mut request = template.request(Prompt::Text(text.into()));
    request.input_tokens = input;
    request.output_tokens = Some(output);
    request
}

#[cfg(test)]
mod tests {
    use protocol::estimate_tokens;

    use super::*;
    use crate::inference_perf::LengthOr;

    fn template() -> RequestTemplate {
        RequestTemplate::new(Endpoint::Completions, "m")
    }

    fn text(request: &Request) -> &str {
        let Prompt::Text(text) = &request.prompt else { panic!("no text") };
        text
    }

    fn data(text: &str) -> Data {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn random_prompts_have_their_lengths_and_depend_on_their_number_alone() {
        let data = data(
            r#"{"type": "random", "input_distribution": {"type": "uniform", "min": 3, "max": 30},
                            "output_distribution": {"type": "fixed", "mean": 7}}"#,
        );
        let make = random_words(&data, template(), 1).unwrap();
        let again = random_words(&data, template(), 1).unwrap();
        for number in [5, 0, 9] {
            let request = make(number);
            assert_eq!(estimate_tokens(text(&request).len()), request.input_tokens.unwrap());
            assert_eq!((text(&request), request.output_tokens), (text(&again(number)), Some(7)));
        }
        assert_ne!(text(&make(0)), text(&make(1)));
        assert_ne!(text(&make(0)), text(&random_words(&data, template(), 2).unwrap()(0)));
    }

    #[test]
    fn slices_come_from_the_text_and_have_their_lengths() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("text");
        std::fs::write(&file, "Wörter, Wörter. ".repeat(9)).unwrap();
        let mut data =
            data(r#"{"type": "synthetic", "input_distribution": {"type": "uniform", "min": 2, "max": 90}}"#);
        data.corpus_file_path = Some(file.display().to_string());
        let make = slices(&data, template(), Arc::new(Tokenizer::estimate()), 1).unwrap();
        for number in 0..50 {
            let request = make(number);
            let tokens = request.input_tokens.unwrap();
            assert_eq!(estimate_tokens(text(&request).len()), tokens);
            assert!(text(&request).contains("rter") || tokens < 4);
        }
        data.corpus_file_path = Some(folder.path().join("none").display().to_string());
        assert!(slices(&data, template(), Arc::new(Tokenizer::estimate()), 1).is_err());
    }

    #[test]
    fn slices_are_exact_where_a_letter_is_several_tokens() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tokenizer.json");
        let json = r#"{"version": "1.0", "truncation": null, "padding": null, "added_tokens": [],
            "normalizer": {"type": "Replace", "pattern": {"String": "日"}, "content": "aaa"},
            "pre_tokenizer": {"type": "Split", "pattern": {"Regex": "."}, "behavior": "Isolated", "invert": false},
            "post_processor": null, "decoder": null,
            "model": {"type": "WordLevel", "vocab": {"?": 0, "a": 1}, "unk_token": "?"}}"#;
        std::fs::write(&path, json).unwrap();
        let tokenizer = Tokenizer::load(&path).unwrap();
        assert_eq!(tokenizer.count("日b", false).unwrap(), 4);
        let corpus = "日日日日b日日日日日bb日日日".repeat(40);
        for start in 0..corpus.len() / 4 {
            let tokens = 1 + (start as u32 * 7) % 120;
            let (text, counted) = slice(&corpus, start, tokens, &tokenizer);
            assert_eq!((tokenizer.count(&text, false).unwrap(), counted), (tokens, Some(tokens)), "{start}");
        }
    }

    #[test]
    fn prompts_of_a_group_share_their_beginning_and_nothing_else() {
        let given = SharedPrefix {
            num_groups: 3,
            num_prompts_per_group: 4,
            system_prompt_len: LengthOr::Number(20.0),
            question_len: LengthOr::Number(5.0),
            ..SharedPrefix::default()
        };
        let shared = Shared::new(&given, template(), 1).unwrap();
        let texts: Vec<String> = (0..12).map(|place| text(&shared.request(place, 0)).to_owned()).collect();
        let mut beginnings: Vec<&str> = texts.iter().map(|text| &text[..80]).collect();
        beginnings.sort_unstable();
        assert!(beginnings.chunks(4).all(|group| group.iter().all(|text| *text == group[0])));
        beginnings.dedup();
        let mut ends: Vec<&str> = texts.iter().map(|text| &text[80..]).collect();
        ends.sort_unstable();
        ends.dedup();
        assert_eq!((beginnings.len(), ends.len(), ends[0].len()), (3, 12, 20));
        assert_eq!(text(&shared.request(3, 1)).len(), 20, "later rounds add a question only");
        assert!(shared.order.windows(2).any(|pair| pair[0] > pair[1]), "shuffled");
    }
}
