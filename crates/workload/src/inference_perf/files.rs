//! Requests from local files: `shareGPT`, `billsum_conversations`, `infinity_instruct`, `cnn_dailymail`.
//!
//! A path is a file or a folder with one. Conversations come as a JSON array or as JSON lines, plain or gzipped.
//! For completions the first message (for `infinity_instruct`: all but the last) is the prompt, and the next one's
//! length is what is asked for. For chat all messages go into one request, the last answer included, as
//! inference-perf sends them. Files are gone through again and again.

use std::{
    fs,
    io::BufRead,
    path::{Path, PathBuf},
    sync::Arc,
};

use protocol::Endpoint;
use serde::{Deserialize, de::DeserializeOwned};

use super::{Data, DataType, Distribution, source::Make};
use crate::{
    Conversation, Conversations, Error, Message, Prompt, Request, RequestTemplate, Said, Tokenizer,
    lines::{for_each_record, open},
};

#[derive(Debug, Deserialize)]
struct Article {
    article: String,
    highlights: String,
}

/// The requests of a file, at most `limit` of them.
pub(super) fn requests(
    data: &Data,
    template: &RequestTemplate,
    tokenizer: &Tokenizer,
    limit: usize,
) -> Result<Make, Error> {
    let name = data.r#type.word();
    let Some(path) = &data.path else {
        let problem = format!(
            "data.path: required with data.type {name}: nothing is fetched from a hub; download the data set and \
             give the path of its JSON file"
        );
        return Err(Error::Setting(problem));
    };
    let path = file_at(Path::new(path))?;
    let mut maker = Maker { template, tokenizer, data, requests: Vec::new() };
    match data.r#type {
        DataType::CnnDailymail => {
            for article in records::<Article>(&path)?.into_iter().take(limit) {
                let output = tokenizer.count(&article.highlights, false)?;
                maker.push(article.article, output)?;
            }
        }
        _ if is_array(&path)? => {
            let mut conversations = Conversations::open(&path)?;
            while maker.requests.len() < limit
                && let Some(conversation) = conversations.next()
            {
                maker.take(&conversation?.messages)?;
            }
        }
        _ => {
            for conversation in records::<Conversation>(&path)? {
                if maker.requests.len() == limit {
                    break;
                }
                maker.take(&conversation.messages)?;
            }
        }
    }
    let requests = maker.requests;
    if requests.is_empty() {
        return Err(Error::file(&path, "no usable entry: too short, or of other lengths than asked for"));
    }
    Ok(Arc::new(move |number| requests[(number % requests.len() as u64) as usize].clone()))
}

struct Maker<'a> {
    template: &'a RequestTemplate,
    tokenizer: &'a Tokenizer,
    data: &'a Data,
    requests: Vec<Request>,
}

impl Maker<'_> {
    /// A prompt, if its lengths are those asked for.
    fn push(&mut self, prompt: String, output: u32) -> Result<(), Error> {
        let input = self.tokenizer.count(&prompt, false)?;
        let within = |tokens: u32, wanted: &Option<Distribution>| {
            wanted.as_ref().is_none_or(|wanted| (wanted.min..=wanted.max).contains(&i64::from(tokens)))
        };
        if output > 0
            && within(input, &self.data.input_distribution)
            && within(output, &self.data.output_distribution)
        {
            let mut request = self.template.request(Prompt::Text(prompt.into()));
            request.input_tokens = Some(input);
            request.output_tokens = Some(output);
            self.requests.push(request);
        }
        Ok(())
    }

    fn take(&mut self, messages: &[Said]) -> Result<(), Error> {
        let [prompt, answer, ..] = messages else { return Ok(()) };
        if self.template.endpoint != Endpoint::Completions {
            let messages = messages.iter().map(|said| Message::new(role(&said.from), said.value.as_str()));
            self.requests.push(self.template.request(Prompt::Messages(messages.collect())));
            return Ok(());
        }
        let (prompt, answer) = match (self.data.r#type, messages) {
            (DataType::InfinityInstruct, [before @ .., last]) => {
                let before: Vec<&str> = before.iter().map(|said| said.value.as_str()).collect();
                (before.join("\n"), last)
            }
            _ => (prompt.value.clone(), answer),
        };
        let output = self.tokenizer.count(&answer.value, false)?;
        self.push(prompt, output)
    }
}

fn role(from: &str) -> &str {
    match from {
        "gpt" | "assistant" | "chatgpt" | "bing" | "bard" => "assistant",
        "system" => "system",
        _ => "user",
    }
}

/// The file itself, or the first JSON file in the folder.
fn file_at(path: &Path) -> Result<PathBuf, Error> {
    if !path.is_dir() {
        return Ok(path.to_owned());
    }
    let files = files_in(path, &[".json", ".jsonl", ".json.gz", ".jsonl.gz"])?;
    files.into_iter().next().ok_or_else(|| Error::file(path, "no .json or .jsonl file in this folder"))
}

/// The files of recorded sessions: those in a folder, or those that are named.
pub(super) fn traces(folder: Option<&str>, files: Option<&[String]>) -> Result<Vec<PathBuf>, Error> {
    match (folder, files) {
        (Some(folder), _) => {
            let found = files_in(Path::new(folder), &[".json"])?;
            if found.is_empty() {
                return Err(Error::file(Path::new(folder), "no .json file in this folder"));
            }
            Ok(found)
        }
        (None, files) => Ok(files.unwrap_or_default().iter().map(PathBuf::from).collect()),
    }
}

/// The files in a folder whose names end so, in the order of their names.
fn files_in(folder: &Path, ends: &[&str]) -> Result<Vec<PathBuf>, Error> {
    let entries = fs::read_dir(folder).map_err(|error| Error::read(folder, error))?;
    let is_wanted = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy().to_lowercase();
        ends.iter().any(|end| name.ends_with(end))
    };
    let mut files: Vec<PathBuf> =
        entries.filter_map(|entry| Some(entry.ok()?.path())).filter(is_wanted).collect();
    files.sort();
    Ok(files)
}

/// Whether the content is a JSON array.
fn is_array(path: &Path) -> Result<bool, Error> {
    let mut reader = open(path)?;
    loop {
        let held = reader.fill_buf().map_err(|error| Error::read(path, error))?;
        match held.iter().find(|byte| !byte.is_ascii_whitespace()) {
            Some(byte) => return Ok(*byte == b'['),
            None if held.is_empty() => return Ok(false),
            None => {
                let blank = held.len();
                reader.consume(blank);
            }
        }
    }
}

fn records<T: DeserializeOwned>(path: &Path) -> Result<Vec<T>, Error> {
    if is_array(path)? {
        return serde_json::from_reader(open(path)?).map_err(|error| Error::file(path, error));
    }
    let mut records = Vec::new();
    for_each_record(path, |_, record| {
        records.push(record);
        Ok(())
    })?;
    Ok(records)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TALKS: [&str; 3] = [
        r#"{"conversations": [{"from": "human", "value": "What is a cat?"}, {"from": "gpt", "value": "An animal."}, {"from": "human", "value": "Oh."}]}"#,
        r#"{"conversations": [{"from": "human", "value": "alone"}]}"#,
        r#"{"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello, hello, hello."}]}"#,
    ];

    fn make(kind: &str, endpoint: Endpoint, content: &str, more: &str) -> Result<Vec<Request>, Error> {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("data.json"), content).unwrap();
        let path = folder.path().display();
        let data: Data =
            serde_json::from_str(&format!(r#"{{"type": "{kind}", "path": "{path}"{more}}}"#)).unwrap();
        let template = RequestTemplate::new(endpoint, "m");
        let make = requests(&data, &template, &Tokenizer::estimate(), 10)?;
        Ok((0..3).map(|number| make(number)).collect())
    }

    fn said(request: &Request) -> String {
        match &request.prompt {
            Prompt::Text(text) => format!("{text} > {}", request.output_tokens.unwrap()),
            Prompt::Messages(messages) => {
                messages.iter().map(|said| format!("{}: {}|", said.role, said.content)).collect()
            }
            _ => panic!("another prompt"),
        }
    }

    #[test]
    fn conversations_as_prompts_and_as_chats_in_the_order_of_the_file() {
        for content in [format!("[{}]", TALKS.join(",")), TALKS.join("\n")] {
            let made = make("shareGPT", Endpoint::Completions, &content, "").unwrap();
            let texts: Vec<String> = made.iter().map(said).collect();
            assert_eq!(texts, ["What is a cat? > 3", "Hi > 5", "What is a cat? > 3"]);
            let chats = make("shareGPT", Endpoint::ChatCompletions, &content, "").unwrap();
            assert_eq!(said(&chats[0]), "user: What is a cat?|assistant: An animal.|user: Oh.|");
            let joined = make("infinity_instruct", Endpoint::Completions, &content, "").unwrap();
            assert_eq!(said(&joined[0]), "What is a cat?\nAn animal. > 1");
        }
    }

    #[test]
    fn only_the_lengths_that_are_asked_for() {
        let content = TALKS.join("\n");
        let made = make("shareGPT", Endpoint::Completions, &content, r#", "input_distribution": {"min": 2}"#)
            .unwrap();
        assert!(made.iter().all(|request| said(request).starts_with("What")));
        let none =
            make("shareGPT", Endpoint::Completions, &content, r#", "output_distribution": {"min": 99}"#);
        assert!(none.unwrap_err().to_string().contains("no usable entry"));
    }

    #[test]
    fn articles_ask_for_the_length_of_their_summary() {
        let article = r#"{"article": "A long story.", "highlights": "A story.", "id": "1"}"#;
        for content in [format!("[{article}]"), article.to_owned()] {
            let made = make("cnn_dailymail", Endpoint::Completions, &content, "").unwrap();
            assert_eq!(said(&made[1]), "A long story. > 2");
        }
        let data = Data { r#type: DataType::CnnDailymail, ..Data::default() };
        let template = RequestTemplate::new(Endpoint::Completions, "m");
        let missing = requests(&data, &template, &Tokenizer::estimate(), 1).err().unwrap().to_string();
        assert!(missing.starts_with("data.path: required with data.type cnn_dailymail"), "{missing}");
    }
}
