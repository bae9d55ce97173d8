//! `--config FILE`: AIPerf's configuration (its schema 2.0), read as flags of the command line.
//!
//! Every key stands for a flag ([`keys`]), and its value goes through that flag's parser: there is one truth about what
//! is possible. Flags on the command line win over those of the file, and over those that do not go together with
//! them. What is wrong is said with the file, the line and the key.

mod keys;
mod settings;
mod special;
mod tree;

use std::{ffi::OsString, fs, path::Path};

use clap::{
    Arg, ArgMatches, Command, Error,
    error::{ContextKind, ContextValue, ErrorKind},
    parser::ValueSource,
};

use self::{
    settings::{Setting, Settings},
    tree::{Node, Problem},
};

const COMMAND: &str = "profile";
const FLAG: &str = "config";

/// The words of a command line with the flags of its configuration file put in, parsed.
pub(crate) fn parse(mut command: Command, mut words: Vec<OsString>) -> Result<ArgMatches, Error> {
    let Some((file, flags)) = flags(&mut command, &words)? else {
        return command.try_get_matches_from_mut(words);
    };
    // After the program and the subcommand.
    words.splice(2..2, flags.iter().flat_map(words_of));
    command.try_get_matches_from_mut(words).map_err(|error| located(error, &file, &flags))
}

/// The file, and what of it the command line does not say itself.
fn flags(command: &mut Command, words: &[OsString]) -> Result<Option<(String, Vec<Setting>)>, Error> {
    if words.get(1).is_none_or(|word| word != COMMAND) {
        return Ok(None);
    }
    // What is wrong with the words themselves is said later, with the file's flags among them.
    let Ok(matches) = command.clone().ignore_errors(true).try_get_matches_from(words) else {
        return Ok(None);
    };
    let Some(matches) = matches.subcommand_matches(COMMAND) else { return Ok(None) };
    let Some(path) = matches.get_one::<std::path::PathBuf>(FLAG) else { return Ok(None) };
    let file = path.display().to_string();
    let said = |Problem { line, said }| raw(&format!("{file}:{line}: {said}"));
    let settings = read(path).map_err(said)?;
    command.build();
    let Some(command) = command.find_subcommand(COMMAND) else { return Ok(None) };
    let given = |argument: &Arg| {
        matches.try_contains_id(argument.get_id().as_str()).unwrap_or(false)
            && matches.value_source(argument.get_id().as_str()) == Some(ValueSource::CommandLine)
    };
    let excludes = |one: &Arg, other: &Arg| {
        command.get_arg_conflicts_with(one).iter().any(|argument| argument.get_id() == other.get_id())
    };
    let all_given: Vec<&Arg> = command.get_arguments().filter(|argument| given(argument)).collect();
    let wins = |setting: &Setting| {
        let Some(own) = argument(command, setting.flag) else { return true };
        !all_given
            .iter()
            .any(|other| own.get_id() == other.get_id() || excludes(own, other) || excludes(other, own))
    };
    let settings: Vec<Setting> = settings.all.into_iter().filter(wins).collect();
    for Setting { flag, key, line, .. } in &settings {
        let is_given = |flag| argument(command, flag).is_some_and(given);
        let named = settings.iter().any(|setting| setting.flag == "input-file") || is_given("input-file");
        let why = match *flag {
            "public-dataset" if !named => settings::refusal("hf-subset"),
            "gpu-telemetry" if is_given("no-gpu-telemetry") => None,
            flag => settings::refusal(flag),
        };
        if let Some(why) = why {
            return Err(said(settings::refused(key, *line, why)));
        }
    }
    let settings = settings.into_iter().filter(|setting| settings::refusal(setting.flag).is_none()).collect();
    Ok(Some((file, settings)))
}

fn read(path: &Path) -> Result<Settings, Problem> {
    let text = fs::read_to_string(path).map_err(|error| Problem::new(0, error.to_string()))?;
    Settings::read(&Node::read(&text, |name| std::env::var(name).ok())?)
}

fn argument<'a>(command: &'a Command, flag: &str) -> Option<&'a Arg> {
    command.get_arguments().find(|argument| argument.get_long() == Some(flag))
}

fn words_of(setting: &Setting) -> Vec<OsString> {
    let Setting { flag, values, .. } = setting;
    if values.is_empty() {
        return vec![format!("--{flag}").into()];
    }
    values.iter().map(|value| format!("--{flag}={value}").into()).collect()
}

/// Says where in the file the flag stands with which something is wrong.
fn located(error: Error, file: &str, flags: &[Setting]) -> Error {
    let said = match error.get(ContextKind::InvalidArg) {
        Some(ContextValue::String(argument)) => argument.clone(),
        Some(ContextValue::Strings(arguments)) => arguments.join(" "),
        _ => return error,
    };
    let names: Vec<&str> = said.split_whitespace().collect();
    let value = match error.get(ContextKind::InvalidValue) {
        Some(ContextValue::String(value)) => Some(value.as_str()),
        _ => None,
    };
    let is_meant = |setting: &&Setting| {
        let same = names.iter().any(|name| name.split('=').next() == Some(&format!("--{}", setting.flag)));
        same && value.is_none_or(|value| setting.values.iter().any(|own| own.contains(value)))
    };
    let Some(Setting { key, line, .. }) = flags.iter().find(is_meant) else { return error };
    let text = error.to_string();
    let text = text.strip_prefix("error: ").unwrap_or(&text);
    let first = text.split("\n\n").next().unwrap_or(text);
    let text = first.split_whitespace().collect::<Vec<_>>().join(" ");
    raw(&format!("{file}:{line}: {key}: {text}"))
}

fn raw(message: &str) -> Error {
    Error::raw(ErrorKind::ValueValidation, format!("{message}\n"))
}

#[cfg(test)]
mod tests {
    use clap::Args as _;

    use super::{
        keys::{KEYS, Meaning},
        *,
    };
    use crate::commands::profile::Arguments;

    #[test]
    fn every_key_stands_for_a_flag_that_is_there_or_has_a_reason() {
        let command = Arguments::augment_args(Command::new(COMMAND));
        let known = |flag: &str| assert!(argument(&command, flag).is_some(), "--{flag}");
        for (key, meaning) in KEYS {
            assert_eq!(KEYS.iter().filter(|(other, _)| other == key).count(), 1, "{key}");
            match meaning {
                Meaning::Value(flag) | Meaning::Seconds(flag) | Meaning::Ramp(flag) | Meaning::Json(flag) => {
                    known(flag)
                }
                Meaning::Switch(on, off) => on.iter().chain(off).for_each(|flag| known(flag)),
                Meaning::Length(mean, spread) => {
                    std::iter::once(mean).chain(spread).for_each(|flag| known(flag))
                }
                Meaning::RefusedAs(flag) => assert!(settings::refusal(flag).is_some(), "{key}: --{flag}"),
                Meaning::Special | Meaning::Given(_) | Meaning::Refused(_) => {}
            }
        }
    }
}
