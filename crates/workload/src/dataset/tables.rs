//! Traces as CSV: times and lengths, no content. Every prompt is unique.

use std::{path::Path, sync::Arc, time::Duration};

use super::{
    Dataset, Sessions,
    rows::{counted, time},
};
use crate::{Error, RequestTemplate, date_time::nanoseconds, lines::open};

/// From the first day of the year 1, before which no time is, to 1970.
const YEAR_ONE_NS: i128 = 719_162 * 86_400 * 1_000_000_000;

/// Requests that failed when they were recorded have no response tokens; they are left out.
pub(super) fn burst_gpt(path: &Path, template: &RequestTemplate) -> Result<Dataset, Error> {
    let seconds =
        |text: &str| text.parse().map_err(|_| format!("{text:?} is not a number of seconds")).and_then(time);
    read(path, template, ["Timestamp", "Request tokens", "Response tokens"], seconds)
}

/// Times are counted from the earliest row's.
pub(super) fn azure(path: &Path, template: &RequestTemplate) -> Result<Dataset, Error> {
    let since_year_one = |text: &str| {
        let time = nanoseconds(text).and_then(|time| u128::try_from(time + YEAR_ONE_NS).ok());
        time.map(Duration::from_nanos_u128)
            .ok_or_else(|| format!("{text:?} is not a time like 2023-11-16 18:17:03.9799600"))
    };
    let mut dataset =
        read(path, template, ["TIMESTAMP", "ContextTokens", "GeneratedTokens"], since_year_one)?;
    let first = dataset.entries.iter().filter_map(|entry| entry.at).min().unwrap_or_default();
    dataset.entries.iter_mut().filter_map(|entry| entry.at.as_mut()).for_each(|at| *at -= first);
    Ok(dataset)
}

fn read(
    path: &Path,
    template: &RequestTemplate,
    columns: [&str; 3],
    time_of: impl Fn(&str) -> Result<Duration, String>,
) -> Result<Dataset, Error> {
    let wrong = |error: csv::Error| match error.position() {
        Some(position) => Error::line(path, position.line(), &error),
        None => Error::file(path, &error),
    };
    let mut table = csv::ReaderBuilder::new().trim(csv::Trim::All).from_reader(open(path)?);
    let head = table.headers().map_err(wrong)?.clone();
    let place = |name: &str| {
        let is_it = |column: &str| column.eq_ignore_ascii_case(name);
        head.iter().position(is_it).ok_or_else(|| Error::line(path, 1, format_args!("no column {name}")))
    };
    let [at, input, output] = [place(columns[0])?, place(columns[1])?, place(columns[2])?];
    let ids: Arc<[u64]> = Arc::from([]);
    let mut sessions = Sessions::default();
    for row in table.records() {
        let row = row.map_err(wrong)?;
        let line = row.position().map_or(0, csv::Position::line);
        let mut add = || {
            let (input, output) = (tokens(&row[input])?, tokens(&row[output])?);
            if input == 0 || output == 0 {
                return Ok(());
            }
            let mut request = counted(template, ids.clone(), 1, input, line)?;
            request.output_tokens = Some(output);
            sessions.push(None, Some(time_of(&row[at])?), request.into())
        };
        add().map_err(|problem: String| Error::line(path, line, problem))?;
    }
    Ok(sessions.dataset)
}

fn tokens(text: &str) -> Result<u32, String> {
    text.parse().map_err(|_| format!("{text:?} is not a number of tokens"))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use protocol::Endpoint;

    use super::*;
    use crate::{DatasetKind, Prompt, Schedule};

    fn load(kind: DatasetKind, content: &str) -> Result<Dataset, Error> {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), content).unwrap();
        assert_eq!(DatasetKind::detect(file.path()).unwrap(), kind);
        Dataset::load(file.path(), kind, &RequestTemplate::new(Endpoint::Completions, "m"), None)
    }

    fn rows(dataset: &Dataset) -> Vec<(u128, u32, u32)> {
        let row = |entry: &super::super::Entry| {
            let request = &entry.turns[0].request;
            (entry.at.unwrap().as_nanos(), request.input_tokens.unwrap(), request.output_tokens.unwrap())
        };
        dataset.entries.iter().map(row).collect()
    }

    #[test]
    fn azure_times_have_seven_decimals_and_may_cross_a_leap_day() {
        let content = "TIMESTAMP,ContextTokens,GeneratedTokens\r\n\
                       2024-02-28 23:59:59.9000001,374,44\r\n\
                       2024-02-29T00:00:00.1Z,396,109\r\n\
                       2024-03-01 00:00:00+00:00,5,6";
        let dataset = load(DatasetKind::AzureTrace, content).unwrap();
        let expected = [(0, 374, 44), (199_999_900, 396, 109), (86_400_099_999_900, 5, 6)];
        assert_eq!(rows(&dataset), expected);
        let Prompt::Blocks { tokens, tail, .. } = dataset.entries[1].turns[0].request.prompt else {
            panic!()
        };
        let Prompt::Blocks { tail: other, .. } = dataset.entries[2].turns[0].request.prompt else { panic!() };
        assert_eq!(tokens, 396);
        assert_ne!(tail, other, "prompts share nothing");
        let arrivals = dataset.schedule(&Schedule { speed_up: 2.0, ..Schedule::default() }).unwrap();
        assert_eq!(arrivals[1].at.as_nanos(), 99_999_950);
    }

    #[test]
    fn azure_times_have_zones_and_any_order() {
        let content = "TIMESTAMP,ContextTokens,GeneratedTokens\n\
                       2024-05-10 00:00:02,2,2\n\
                       2024-05-10 02:00:01+02:00,1,1\n\
                       2024-05-09 20:00:03-0400,3,3\n";
        let dataset = load(DatasetKind::AzureTrace, content).unwrap();
        assert_eq!(rows(&dataset), [(1_000_000_000, 2, 2), (0, 1, 1), (2_000_000_000, 3, 3)]);
        let arrivals = dataset.schedule(&Schedule::default()).unwrap();
        assert_eq!(arrivals.iter().map(|arrival| arrival.at.as_secs()).collect::<Vec<_>>(), [0, 1, 2]);
    }

    #[test]
    fn burst_gpt_leaves_failed_requests_out() {
        let content = "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type\n\
                       5,ChatGPT,472,18,490,Conversation log\n\
                       45.5,ChatGPT,1087,0,1087,Conversation log\n\
                       118,GPT-4,417,276,693,API log\n";
        let dataset = load(DatasetKind::BurstGptTrace, content).unwrap();
        assert_eq!(rows(&dataset), [(5_000_000_000, 472, 18), (118_000_000_000, 417, 276)]);
    }

    #[test]
    fn what_is_wrong_is_told_with_its_line() {
        let failure = |rows: &str| {
            let content = format!("TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:15:46,1,2\n{rows}");
            load(DatasetKind::AzureTrace, &content).unwrap_err().to_string()
        };
        assert!(failure("2023-11-16 18:15,1,2").contains("line 3: \"2023-11-16 18:15\" is not a time"));
        assert!(failure("2023-11-16 18:15:47,x,2").contains("line 3: \"x\" is not a number of tokens"));
        assert!(failure("2023-11-16 18:15:47,1").contains("line: 3"));
        assert!(
            failure("2023-11-16 18:15:47,4294967295,2").contains("line 3: a prompt of 4294967295 tokens")
        );
        let missing = load(DatasetKind::AzureTrace, "TIMESTAMP,ContextTokens\n").unwrap_err();
        assert!(missing.to_string().contains("line 1: no column GeneratedTokens"));
        let empty =
            load(DatasetKind::BurstGptTrace, "Timestamp,Request tokens,Response tokens\n").unwrap_err();
        assert!(empty.to_string().contains("no entries in it"));
    }
}
