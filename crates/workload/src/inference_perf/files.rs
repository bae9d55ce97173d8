//! Requests from local files: `shareGPT`, `billsum_conversations`, `infinity_instruct`, `cnn_dailymail`.
//!
//! A path is a file, or a folder whose files are read one after the other. Entries come as a JSON array or as JSON
//! lines, plain or gzipped. Those without a prompt or an answer are left out and counted, and of an array that is cut
//! off in the middle what is complete is used: the user is told of both.
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
use serde_json::Value;

use super::{Data, DataType, Distribution, source::Make};
use crate::{
    Conversations, Cut, Error, Message, Prompt, Request, RequestTemplate, Tokenizer,
    lines::{for_each_record, open},
};

/// The requests of the files, at most `limit` of them, and what the user should know.
pub(super) fn requests(
    data: &Data,
    template: &RequestTemplate,
    tokenizer: &Tokenizer,
    limit: usize,
) -> Result<(Make, Vec<String>), Error> {
    let name = data.r#type.word();
    let Some(path) = &data.path else {
        let problem = format!(
            "data.path: required with data.type {name}: nothing is fetched from a hub; download the data set and \
             give the path of its JSON file"
        );
        return Err(Error::Setting(problem));
    };
    let path = Path::new(path);
    let mut maker = Maker {
        template,
        tokenizer,
        data,
        limit,
        requests: Vec::new(),
        read: 0,
        useless: 0,
        notes: Vec::new(),
    };
    for file in files_at(path)? {
        maker.read(&file)?;
    }
    let Maker { requests, read, useless, mut notes, .. } = maker;
    if requests.is_empty() {
        return Err(Error::file(path, "no usable entry: too short, or of other lengths than asked for"));
    }
    if useless > 0 {
        notes.push(format!(
            "{}: {useless} of {read} entries left out: they have no prompt or no answer",
            path.display()
        ));
    }
    Ok((Arc::new(move |number| requests[(number % requests.len() as u64) as usize].clone()), notes))
}

struct Maker<'a> {
    template: &'a RequestTemplate,
    tokenizer: &'a Tokenizer,
    data: &'a Data,
    limit: usize,
    requests: Vec<Request>,
    /// Entries that were looked at, and those among them that no request can be made of.
    read: u64,
    useless: u64,
    notes: Vec<String>,
}

/// One message; what it says may be missing.
struct Said {
    from: String,
    value: Option<String>,
}

impl Maker<'_> {
    fn read(&mut self, path: &Path) -> Result<(), Error> {
        if !is_array(path)? {
            return for_each_record(path, |_, entry: Value| self.take(&entry));
        }
        let mut elements = Conversations::open(path)?;
        while self.requests.len() < self.limit
            && let Some(start) = elements.next_element()?
        {
            let entry = serde_json::from_slice(elements.element())
                .map_err(|error| Error::byte(path, start, error))?;
            self.take(&entry)?;
        }
        if let Some(Cut { kept, at_byte }) = elements.cut() {
            self.notes.push(format!(
                "{}: the file is cut off at byte {at_byte}: the {kept} entries before it are used",
                path.display()
            ));
        }
        Ok(())
    }

    fn take(&mut self, entry: &Value) -> Result<(), Error> {
        if self.requests.len() == self.limit {
            return Ok(());
        }
        self.read += 1;
        let is_useful = match self.data.r#type {
            DataType::CnnDailymail => match (entry["article"].as_str(), entry["highlights"].as_str()) {
                (Some(article), Some(highlights)) => self.push(article.to_owned(), highlights)?,
                _ => false,
            },
            _ => self.take_conversation(entry)?,
        };
        self.useless += u64::from(!is_useful);
        Ok(())
    }

    /// Adds a prompt, if its lengths are those asked for; false if there is no prompt or no answer.
    fn push(&mut self, prompt: String, answer: &str) -> Result<bool, Error> {
        let input = self.tokenizer.count(&prompt, false)?;
        let output = self.tokenizer.count(answer, false)?;
        if input == 0 || output == 0 {
            return Ok(false);
        }
        let within = |tokens: u32, wanted: &Option<Distribution>| {
            wanted.as_ref().is_none_or(|wanted| (wanted.min..=wanted.max).contains(&i64::from(tokens)))
        };
        if within(input, &self.data.input_distribution) && within(output, &self.data.output_distribution) {
            let mut request = self.template.request(Prompt::Text(prompt.into()));
            request.input_tokens = Some(input);
            request.output_tokens = Some(output);
            self.requests.push(request);
        }
        Ok(true)
    }

    /// False if there is no prompt or no answer in it.
    fn take_conversation(&mut self, entry: &Value) -> Result<bool, Error> {
        let Some(messages) = conversation(entry) else { return Ok(false) };
        let is_instruct = self.data.r#type == DataType::InfinityInstruct;
        if self.template.endpoint != Endpoint::Completions {
            // It passes over what says nothing there, and asks for no second message.
            let said = messages
                .iter()
                .filter(|said| !is_instruct || said.value.as_ref().is_some_and(|value| !value.is_empty()));
            let said = said.map(|said| Some(Message::new(role(&said.from), said.value.as_deref()?)));
            let said: Option<Vec<Message>> = said.collect();
            let least = if is_instruct { 1 } else { 2 };
            let Some(said) = said.filter(|said| said.len() >= least) else { return Ok(false) };
            self.requests.push(self.template.request(Prompt::Messages(said.into())));
            return Ok(true);
        }
        match messages.as_slice() {
            [before @ .., Said { from, value: Some(answer) }] if is_instruct && from == "gpt" => {
                let before: Option<Vec<&str>> = before.iter().map(|said| said.value.as_deref()).collect();
                before.map_or(Ok(false), |before| self.push(before.join("\n"), answer))
            }
            [Said { value: Some(prompt), .. }, Said { value: Some(answer), .. }, ..] if !is_instruct => {
                self.push(prompt.clone(), answer)
            }
            _ => Ok(false),
        }
    }
}

/// The messages of an entry, some of which may be JSON in a string, as some copies of the data sets have them.
fn conversation(entry: &Value) -> Option<Vec<Said>> {
    let said = |message: &Value| {
        let unpacked = message.as_str().and_then(|text| serde_json::from_str::<Value>(text).ok());
        let message = unpacked.as_ref().unwrap_or(message);
        let text = |key: &str| message[key].as_str().map(str::to_owned);
        Said { from: text("from").unwrap_or_default(), value: text("value") }
    };
    Some(entry["conversations"].as_array()?.iter().map(said).collect())
}

fn role(from: &str) -> &str {
    match from {
        "gpt" | "assistant" | "chatgpt" | "bing" | "bard" => "assistant",
        "system" => "system",
        _ => "user",
    }
}

/// The file itself, or the JSON files in the folder.
fn files_at(path: &Path) -> Result<Vec<PathBuf>, Error> {
    if !path.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let files = files_in(path, &[".json", ".jsonl", ".json.gz", ".jsonl.gz"])?;
    match files.is_empty() {
        true => Err(Error::file(path, "no .json or .jsonl file in this folder")),
        false => Ok(files),
    }
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
        let (make, _) = requests(&data, &template, &Tokenizer::estimate(), 10)?;
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
            assert_eq!(said(&joined[0]), "Hi > 5", "the first one does not end with the model's answer");
        }
        let long = r#"{"conversations": [{"from": "human", "value": "What is a cat?"}, {"from": "gpt", "value": "An animal."},
            {"from": "human", "value": "Which?"}, {"from": "gpt", "value": "Oh."}]}"#;
        let joined = make("infinity_instruct", Endpoint::Completions, &long.replace('\n', " "), "").unwrap();
        assert_eq!(said(&joined[0]), "What is a cat?\nAn animal.\nWhich? > 1");
    }

    #[test]
    fn what_cannot_be_used_is_left_out_and_counted() {
        let folder = tempfile::tempdir().unwrap();
        let entries = [
            TALKS[0],
            TALKS[1],
            r#"{"conversations": null}"#,
            r#"{"id": "none"}"#,
            r#"{"conversations": [{"from": "human", "value": ""}, {"from": "gpt", "value": "What?"}]}"#,
            r#"{"conversations": [{"from": "human", "value": null}, {"from": "gpt", "value": "What?"}]}"#,
            r#"{"conversations": ["{\"from\": \"human\", \"value\": \"In JSON\"}", {"from": "gpt", "value": "Yes."}, null]}"#,
        ];
        // A folder's files are read one after the other, and this one is cut off in the middle.
        std::fs::write(folder.path().join("1.json"), format!("[{}, {}", entries.join(","), &TALKS[2][..40]))
            .unwrap();
        std::fs::write(folder.path().join("2.json"), format!("[{}]", TALKS[2])).unwrap();
        let of = |kind: &str, path: &Path, limit| {
            let data = Data {
                r#type: serde_json::from_str(&format!("\"{kind}\"")).unwrap(),
                path: Some(path.display().to_string()),
                ..Data::default()
            };
            let template = RequestTemplate::new(Endpoint::Completions, "m");
            requests(&data, &template, &Tokenizer::estimate(), limit).unwrap()
        };
        let (make, notes) = of("shareGPT", folder.path(), 10);
        let texts: Vec<String> = (0..3).map(|number| said(&make(number))).collect();
        assert_eq!(texts, ["What is a cat? > 3", "In JSON > 1", "Hi > 5"]);
        assert!(
            notes[0].contains("1.json: the file is cut off at byte") && notes[0].contains("the 7 entries"),
            "{notes:?}"
        );
        assert!(notes[1].contains("5 of 8 entries left out"), "{notes:?}");
        assert!(of("shareGPT", folder.path(), 1).1.is_empty(), "nothing was left out of what was read");

        let articles = folder.path().join("articles.jsonl");
        let lines = [
            r#"{"article": null, "highlights": "A story."}"#,
            r#"{"article": "", "highlights": "A story."}"#,
            r#"{"article": "A long story.", "highlights": "A story."}"#,
        ];
        std::fs::write(&articles, lines.join("\n")).unwrap();
        let (make, notes) = of("cnn_dailymail", &articles, 10);
        assert_eq!(said(&make(0)), "A long story. > 2");
        assert!(notes[0].contains("2 of 3 entries left out"), "{notes:?}");
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
