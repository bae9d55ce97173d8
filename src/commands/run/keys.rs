//! A flag for every key of the file.

use std::sync::OnceLock;

use clap::{Arg, ArgAction, ArgMatches, Args, Command, Error, FromArgMatches, error::ErrorKind};
use workload::inference_perf::Config;

/// Names that keys also have.
const OTHER_NAMES: [(&str, &str); 2] =
    [("num_unique_system_prompts", "num_groups"), ("num_users_per_system_prompt", "num_prompts_per_group")];

/// The keys that were given as flags, with their values, in order.
#[derive(Debug)]
pub(super) struct KeyFlags(Vec<(String, String)>);

impl KeyFlags {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(key, value)| (key.as_str(), value.as_str()))
    }
}

/// The keys that have flags: all but those inside of lists, and the sections that they are in.
fn keys() -> impl Iterator<Item = &'static str> {
    static KEYS: OnceLock<Vec<String>> = OnceLock::new();
    let all = || {
        let mut all: Vec<String> = Vec::new();
        for key in Config::all_keys().into_iter().map(|key| key.path).filter(|path| !path.contains("[]")) {
            let ends = key.match_indices('.').map(|(end, _)| end).chain([key.len()]);
            all.extend(ends.map(|end| key[..end].to_owned()));
        }
        all.sort();
        all.dedup();
        all
    };
    KEYS.get_or_init(all).iter().map(String::as_str)
}

/// The flag that a key has for its other name.
fn alias(key: &str) -> Option<&'static str> {
    let (name, other) = OTHER_NAMES.iter().find(|(name, _)| key.ends_with(name))?;
    static ALIASES: OnceLock<Vec<String>> = OnceLock::new();
    let aliases = ALIASES.get_or_init(|| {
        let both = keys().flat_map(|key| OTHER_NAMES.iter().map(move |names| (key, names)));
        both.filter(|(key, (name, _))| key.ends_with(name))
            .map(|(key, (name, other))| key.replace(name, other))
            .collect()
    });
    let written = key.replace(name, other);
    aliases.iter().find(|alias| **alias == written).map(String::as_str)
}

impl Args for KeyFlags {
    fn augment_args(command: Command) -> Command {
        command.args(keys().map(|key| {
            let flag = Arg::new(key).long(key).hide(true).allow_hyphen_values(true);
            let flag = flag.num_args(1).action(ArgAction::Append);
            match alias(key) {
                Some(alias) => flag.alias(alias),
                None => flag,
            }
        }))
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for KeyFlags {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, Error> {
        let mut given = Vec::new();
        for key in keys() {
            let values = matches.try_get_many::<String>(key);
            let values = values.map_err(|error| Error::raw(ErrorKind::InvalidValue, error))?;
            let places = matches.indices_of(key).into_iter().flatten();
            given.extend(
                places
                    .zip(values.into_iter().flatten())
                    .map(|(place, value)| (place, key.to_owned(), value.clone())),
            );
        }
        given.sort();
        Ok(Self(given.into_iter().map(|(_, key, value)| (key, value)).collect()))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}
