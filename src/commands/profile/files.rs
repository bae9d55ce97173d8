//! Where the files of a run lie, and what they are called: AIPerf's names.

use std::path::{Path, PathBuf};

use super::Arguments;

/// Endings that users append to the prefix and that do not belong to it.
const ENDINGS: [&str; 9] = [
    "_server_metrics.jsonl",
    "_server_metrics.json",
    "_server_metrics.csv",
    "_timeslices.csv",
    "_timeslices.json",
    "_raw.jsonl",
    ".csv",
    ".json",
    ".jsonl",
];

/// The files of a run.
#[derive(Clone, Debug)]
pub(super) struct Files {
    pub(super) directory: PathBuf,
    /// The user's beginning of all names, instead of AIPerf's own names.
    prefix: Option<String>,
}

impl Files {
    /// In `directory`, or in the one that follows from the flags.
    pub(super) fn new(arguments: &Arguments, directory: Option<PathBuf>) -> Self {
        let output = &arguments.output;
        let directory = directory
            .or_else(|| output.output_artifact_dir.clone())
            .unwrap_or_else(|| Path::new("artifacts").join(directory_name(arguments)));
        let prefix = output.profile_export_prefix.as_deref().map(|prefix| {
            let ending = ENDINGS.iter().find_map(|ending| prefix.strip_suffix(ending));
            ending.unwrap_or(prefix).to_owned()
        });
        Self { directory, prefix }
    }

    pub(super) fn summary(&self) -> PathBuf {
        self.named("profile_export_aiperf.json", ".json")
    }

    pub(super) fn summary_csv(&self) -> PathBuf {
        self.named("profile_export_aiperf.csv", ".csv")
    }

    pub(super) fn records(&self) -> PathBuf {
        self.named("profile_export.jsonl", ".jsonl")
    }

    pub(super) fn raw(&self) -> PathBuf {
        self.named("profile_export_raw.jsonl", "_raw.jsonl")
    }

    pub(super) fn inputs(&self) -> PathBuf {
        self.directory.join("inputs.json")
    }

    /// Says that all files are there, to whoever waits for them.
    pub(super) fn ready(&self) -> PathBuf {
        self.directory.join(".aiperf_results_ready.json")
    }

    pub(super) fn outputs(&self) -> PathBuf {
        self.directory.join("outputs.json")
    }

    pub(super) fn slices(&self, csv: bool) -> PathBuf {
        if csv {
            self.named("profile_export_aiperf_timeslices.csv", "_timeslices.csv")
        } else {
            self.named("profile_export_aiperf_timeslices.json", "_timeslices.json")
        }
    }

    pub(super) fn server_metrics(&self, ending: &str) -> PathBuf {
        self.named(&format!("server_metrics_export.{ending}"), &format!("_server_metrics.{ending}"))
    }

    pub(super) fn console(&self) -> PathBuf {
        self.named("profile_export_console.txt", "_console.txt")
    }

    /// What the command logged.
    pub(super) fn log(&self) -> PathBuf {
        self.directory.join("logs/aiperf.log")
    }

    pub(super) fn page(&self) -> PathBuf {
        self.directory.join("report.html")
    }

    fn named(&self, usual: &str, ending: &str) -> PathBuf {
        match &self.prefix {
            Some(prefix) => self.directory.join(format!("{prefix}{ending}")),
            None => self.directory.join(usual),
        }
    }
}

/// Model, type and load, in characters that every file system takes.
fn directory_name(arguments: &Arguments) -> String {
    let (endpoint, load) = (&arguments.endpoint, &arguments.load);
    let model = endpoint.model_names.first().map_or("model", String::as_str);
    let model = model.rsplit('/').next().unwrap_or(model);
    let mut name = format!("{model}-{}", endpoint.endpoint_type.name());
    let mut add = |what: &str, value: Option<String>| {
        if let Some(value) = value {
            name += &format!("-{what}{value}");
        }
    };
    add("concurrency", load.concurrency.first().map(ToString::to_string));
    add("rate", load.request_rate.first().map(ToString::to_string));
    add("users", load.num_users.first().map(ToString::to_string));
    add("rate", load.user_centric_rate.map(|rate| rate.to_string()));
    add("", load.request_rate_series.as_ref().map(|_| "rate_series".to_owned()));
    let other = load.concurrency.is_empty() && load.request_rate.is_empty() && load.num_users.is_empty();
    let trace = arguments.input.input_file.as_ref().filter(|_| other && load.request_rate_series.is_none());
    add("", trace.and_then(|path| Some(path.file_stem()?.to_string_lossy().into_owned())));
    name.chars()
        .map(|letter| if letter.is_alphanumeric() || "-_.".contains(letter) { letter } else { '_' })
        .collect()
}
