//! Traces of requests: times, lengths, and where the format has them, block ids.
//!
//! Azure files are read by inference-perf's rules, with what it gets wrong put right: columns are separated by commas
//! and further ones ignored, a header is skipped, quotes and blanks around a time are taken off, `T` and `Z` are
//! understood, fractions may have any number of digits. A UTC offset is applied, not dropped. A line that cannot be
//! read is left out and reported. Rows come out in the order of their times, the first at time 0.

use std::{
    io::{BufRead, Read},
    path::Path,
    time::Duration,
};

use super::{Trace, TraceFormat};
use crate::{
    Dataset, DatasetKind, Error, MAX_PROMPT_TOKENS, Prompt, Request, RequestTemplate, date_time::nanoseconds,
    lines::open, words::push_words,
};

/// Longest line that is read.
const LINE_BYTES: u64 = 64 << 10;
/// Lines with problems that are reported one by one.
const PROBLEMS: usize = 3;

/// One request of a trace.
#[derive(Clone, Debug)]
pub(super) struct Row {
    /// Since the first request.
    pub(super) at: Duration,
    pub(super) what: What,
}

/// What a row says of its content.
#[derive(Clone, Debug)]
pub(super) enum What {
    Lengths { input: u32, output: u32 },
    Request(Box<Request>),
}

/// The requests of a trace in order of time.
#[derive(Clone, Debug, Default)]
pub(super) struct Rows {
    pub(super) rows: Vec<Row>,
    /// What the user should know.
    pub(super) notes: Vec<String>,
}

impl Rows {
    pub(super) fn load(trace: &Trace, template: &RequestTemplate, speed: f64) -> Result<Self, Error> {
        let path = Path::new(&trace.file);
        let mut loaded = match trace.format {
            TraceFormat::AzurePublicDataset => azure(path)?,
            TraceFormat::Mooncake => dataset(path, DatasetKind::MooncakeTrace, template)?,
            TraceFormat::BurstGpt => dataset(path, DatasetKind::BurstGptTrace, template)?,
            TraceFormat::Bailian => dataset(path, DatasetKind::BailianTrace, template)?,
        };
        loaded.rows.sort_by_key(|row| row.at);
        let first = loaded.rows.first().map_or(Duration::ZERO, |row| row.at);
        for row in &mut loaded.rows {
            row.at = (row.at - first).div_f64(speed);
        }
        Ok(loaded)
    }
}

impl What {
    /// The request; `number` makes its text its own where the trace has lengths only.
    pub(super) fn request(&self, template: &RequestTemplate, number: u64) -> Request {
        match self {
            Self::Request(request) => (**request).clone(),
            Self::Lengths { input, output } => {
                let mut text = String::new();
                push_words(number, *input, &mut text);
                let mut request = template.request(Prompt::Text(text.into()));
                request.input_tokens = Some(*input);
                request.output_tokens = Some(*output);
                request
            }
        }
    }
}

fn dataset(path: &Path, kind: DatasetKind, template: &RequestTemplate) -> Result<Rows, Error> {
    let (mut rows, mut empty) = (Vec::new(), 0);
    for entry in Dataset::load(path, kind, template, None)?.entries {
        for (number, mut turn) in entry.turns.into_iter().enumerate() {
            let at = if number == 0 { entry.at } else { turn.not_before };
            let at =
                at.ok_or_else(|| Error::file(path, "a request without a time; a trace needs them all"))?;
            let Request { prompt, input_tokens, output_tokens, .. } = &mut turn.request;
            empty += u64::from(*input_tokens == Some(0) || *output_tokens == Some(0));
            *output_tokens = output_tokens.map(|tokens| tokens.max(1));
            if let (Some(0), Prompt::Blocks { tokens, .. }) = (*input_tokens, prompt) {
                (*input_tokens, *tokens) = (Some(1), 1);
            }
            rows.push(Row { at, what: What::Request(Box::new(turn.request)) });
        }
    }
    let notes = nothing_asked(path, empty, rows.len()).into_iter().collect();
    Ok(Rows { rows, notes })
}

/// What to say of rows with a length of 0: a request has one token at least, and asks for one.
fn nothing_asked(path: &Path, empty: u64, rows: usize) -> Option<String> {
    (empty > 0).then(|| {
        format!("{}: {empty} of {rows} requests have a length of 0: they are sent with 1", path.display())
    })
}

fn azure(path: &Path) -> Result<Rows, Error> {
    let mut reader = open(path)?;
    let (mut rows, mut problems, mut bad, mut empty) = (Vec::new(), Vec::new(), 0_u64, 0);
    let mut line = Vec::new();
    for number in 1_u64.. {
        line.clear();
        let read = reader.by_ref().take(LINE_BYTES).read_until(b'\n', &mut line);
        if read.map_err(|error| Error::read(path, error))? == 0 {
            break;
        }
        let text = String::from_utf8_lossy(&line);
        let text = text.trim_start_matches('\u{feff}').trim();
        if text.is_empty() {
            continue;
        }
        match azure_row(text) {
            Ok((at, input, output)) => {
                empty += u64::from(input == 0 || output == 0);
                rows.push((at, What::Lengths { input: input.max(1), output: output.max(1) }));
            }
            // The first line may be a header.
            Err(_)
                if number == 1 && !text.starts_with(['"', ' ']) && !text.as_bytes()[0].is_ascii_digit() => {}
            Err(_) if number == 1 && text.to_ascii_lowercase().contains("timestamp") => {}
            Err(problem) => {
                bad += 1;
                if problems.len() < PROBLEMS {
                    problems.push(format!("line {number}: {problem}"));
                }
            }
        }
    }
    let first = rows.iter().map(|(at, _)| *at).min();
    let Some(first) = first else {
        let why = problems.first().map_or_else(String::new, |problem| format!("; {problem}"));
        return Err(Error::file(path, format!("no requests in it{why}")));
    };
    let mut notes = Vec::new();
    if bad > 0 {
        let shown = problems.join("; ");
        notes.push(format!(
            "{}: {bad} of {} lines left out: {shown}",
            path.display(),
            bad + rows.len() as u64
        ));
    }
    notes.extend(nothing_asked(path, empty, rows.len()));
    let row = |(at, what): (i128, What)| Row {
        at: Duration::from_nanos(u64::try_from(at - first).unwrap_or(u64::MAX)),
        what,
    };
    Ok(Rows { rows: rows.into_iter().map(row).collect(), notes })
}

/// The time, and the numbers of prompt and output tokens.
fn azure_row(text: &str) -> Result<(i128, u32, u32), String> {
    let mut fields = text.split(',').map(|field| field.trim_matches([' ', '"', '\t']));
    let mut field = |name| fields.next().ok_or_else(|| format!("{name} is missing"));
    let time = field("the time")?;
    let at = nanoseconds(time)
        .ok_or_else(|| format!("{time:?} is not a time like 2023-11-16 18:17:03.9799600"))?;
    let mut tokens = |name| -> Result<u32, String> {
        let text = field(name)?;
        text.parse().map_err(|_| format!("{text:?} is not {name}"))
    };
    let (input, output) = (tokens("a number of prompt tokens")?, tokens("a number of output tokens")?);
    if input > MAX_PROMPT_TOKENS {
        return Err(format!("a prompt of {input} tokens; at most {MAX_PROMPT_TOKENS} are sent"));
    }
    Ok((at, input, output))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use protocol::Endpoint;

    use super::*;

    fn load(text: &str, format: TraceFormat) -> Result<Rows, Error> {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("trace");
        fs::write(&file, text).unwrap();
        let trace = Trace { file: file.display().to_string(), format };
        Rows::load(&trace, &RequestTemplate::new(Endpoint::Completions, "m"), 1.0)
    }

    fn seen(rows: &Rows) -> Vec<(u128, u32, u32)> {
        let seen = |row: &Row| match &row.what {
            What::Lengths { input, output } => (row.at.as_millis(), *input, *output),
            What::Request(request) => {
                (row.at.as_millis(), request.input_tokens.unwrap_or(0), request.output_tokens.unwrap_or(0))
            }
        };
        rows.rows.iter().map(seen).collect()
    }

    #[test]
    fn the_sample_of_the_guide() {
        let text = "TIMESTAMP, ContextTokens, GeneratedTokens\n2023-01-01 00:00:00.000, 150, 200\n\
                    2023-01-01 00:00:05.500, 300, 150\n";
        let rows = load(text, TraceFormat::AzurePublicDataset).unwrap();
        assert_eq!(seen(&rows), [(0, 150, 200), (5500, 300, 150)]);
        assert!(rows.notes.is_empty());
    }

    #[test]
    fn times_in_all_their_forms_and_zones() {
        let text = "2024-05-10 02:00:00.009930+02:00,1,1,more\n2024-05-10T00:00:01.0099300Z,2,2\n\
                    \"2024-05-09 20:00:02.00993-04:00\",3,3\n2024-05-10 00:00:03+00:00,4,4\n";
        let rows = load(text, TraceFormat::AzurePublicDataset).unwrap();
        assert_eq!(seen(&rows), [(0, 1, 1), (1000, 2, 2), (2000, 3, 3), (2990, 4, 4)]);
    }

    #[test]
    fn bad_lines_are_left_out_and_reported_and_move_nothing() {
        let text = "TIMESTAMP,ContextTokens,GeneratedTokens\nnonsense,1,2\n2023-01-01 00:00:07,1,1\n\
                    2023-01-01 00:00:05,2,2\n2023-01-01 00:00:06,x,2\n2023-01-01 00:00:06,4000000000,2\n1700000000.5,3,3\n2023-01-01 00:00:06\n";
        let rows = load(text, TraceFormat::AzurePublicDataset).unwrap();
        assert_eq!(seen(&rows), [(0, 2, 2), (2000, 1, 1)], "in order, from the first");
        let note = &rows.notes[0];
        assert!(note.contains("5 of 7 lines left out: line 2: \"nonsense\" is not a time"), "{note}");
        assert!(note.contains("line 5: \"x\" is not a number of prompt tokens"), "{note}");
        assert!(note.contains("line 6: a prompt of 4000000000 tokens; at most 4194304 are sent"), "{note}");
        let none = load("a,b\nc,d\n", TraceFormat::AzurePublicDataset).unwrap_err().to_string();
        assert!(none.contains("no requests in it; line 2"), "{none}");
    }

    #[test]
    fn a_length_of_nothing_is_one_token_and_said() {
        let azure = "2023-01-01 00:00:00,0,7\n2023-01-01 00:00:01,5,0\n2023-01-01 00:00:02,5,6\n";
        let mooncake = "{\"timestamp\": 0, \"input_length\": 0, \"output_length\": 7, \"hash_ids\": []}\n\
                        {\"timestamp\": 1000, \"input_length\": 5, \"output_length\": 0, \"hash_ids\": [1]}\n\
                        {\"timestamp\": 2000, \"input_length\": 5, \"output_length\": 6, \"hash_ids\": [1]}\n";
        for (text, format) in [(azure, TraceFormat::AzurePublicDataset), (mooncake, TraceFormat::Mooncake)] {
            let rows = load(text, format).unwrap();
            assert_eq!(seen(&rows), [(0, 1, 7), (1000, 5, 1), (2000, 5, 6)], "{format:?}");
            assert!(rows.notes[0].contains("2 of 3 requests have a length of 0"), "{:?}", rows.notes);
        }
    }

    #[test]
    fn other_formats_give_the_same_rows() {
        let mooncake = "{\"timestamp\": 2000, \"input_length\": 600, \"output_length\": 5, \"hash_ids\": [1, 2]}\n\
                        {\"timestamp\": 1000, \"input_length\": 500, \"output_length\": 4, \"hash_ids\": [1]}\n";
        let rows = load(mooncake, TraceFormat::Mooncake).unwrap();
        assert_eq!(seen(&rows), [(0, 500, 4), (1000, 600, 5)]);
        let burst = "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type\n5,m,7,8,15,x\n6,m,9,1,10,x\n";
        assert_eq!(seen(&load(burst, TraceFormat::BurstGpt).unwrap()), [(0, 7, 8), (1000, 9, 1)]);
    }
}
