//! Flags of the scripts that evenload does not have: each is refused by its name, never ignored.

use clap::{
    Arg, ArgAction, ArgMatches, Args, Command, Error, FromArgMatches, error::ErrorKind, parser::ValueSource,
};

const NO_DOWNLOADS: &str = "evenload downloads nothing; save the data as a ShareGPT file";
const FLAGS: [(&str, &str); 6] = [
    ("use-beam-search", "answers are sampled"),
    ("profile", "start the server's profiler by hand"),
    ("dataset", "name the file with --dataset-path"),
    ("hf-subset", NO_DOWNLOADS),
    ("hf-split", NO_DOWNLOADS),
    ("hf-output-len", NO_DOWNLOADS),
];

/// Proof that none of them was given.
#[derive(Debug)]
pub(super) struct NoneUnsupported;

impl Args for NoneUnsupported {
    fn augment_args(command: Command) -> Command {
        command.args(
            FLAGS.map(|(name, _)| {
                Arg::new(name).long(name).num_args(0..).action(ArgAction::Append).hide(true)
            }),
        )
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for NoneUnsupported {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, Error> {
        let given = |name| matches.value_source(name) == Some(ValueSource::CommandLine);
        match FLAGS.iter().find(|(name, _)| given(name)) {
            None => Ok(Self),
            Some((name, why)) => {
                Err(Error::raw(ErrorKind::UnknownArgument, format!("--{name} is not supported: {why}\n")))
            }
        }
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), Error> {
        Self::from_arg_matches(matches).map(|_| ())
    }
}
