//! Flags of a foreign tool that evenload does not have: each is refused by its name and with a reason, never ignored.

use std::marker::PhantomData;

use clap::{
    Arg, ArgAction, ArgMatches, Args, Command, Error, FromArgMatches, error::ErrorKind, parser::ValueSource,
};

/// The flags of a tool that are refused.
pub(crate) trait RefusedFlags {
    /// Long names, several of one flag set apart by blanks, a single letter being a short one; and why they are refused.
    const FLAGS: &'static [(&'static str, &'static str)];
}

/// Proof that none of them was given.
#[derive(Clone, Debug)]
pub(crate) struct NoneOf<T>(PhantomData<T>);

impl<T: RefusedFlags> Args for NoneOf<T> {
    fn augment_args(command: Command) -> Command {
        command.args(T::FLAGS.iter().map(|(names, _)| {
            let mut argument =
                Arg::new(*names).num_args(0..).action(ArgAction::Append).allow_hyphen_values(true).hide(true);
            for (place, name) in names.split(' ').enumerate() {
                let mut letters = name.chars();
                argument = match (letters.next(), letters.next(), place) {
                    (Some(letter), None, _) => argument.short(letter),
                    (.., 0) => argument.long(name),
                    _ => argument.alias(name),
                };
            }
            argument
        }))
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl<T: RefusedFlags> FromArgMatches for NoneOf<T> {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, Error> {
        let given = |names| matches.value_source(names) == Some(ValueSource::CommandLine);
        match T::FLAGS.iter().find(|(names, _)| given(names)) {
            None => Ok(Self(PhantomData)),
            Some((names, why)) => {
                let name = names.split(' ').next().unwrap_or_default();
                Err(Error::raw(ErrorKind::UnknownArgument, format!("--{name} is not supported: {why}\n")))
            }
        }
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), Error> {
        Self::from_arg_matches(matches).map(|_| ())
    }
}
