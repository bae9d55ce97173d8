//! What can be wrong with a workload.

use std::{
    fmt, io,
    path::{Path, PathBuf},
};

/// A dataset, trace, tokenizer or setting that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file cannot be opened or read.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file can be read, and says something unusable.
    #[error("{}, {place}: {problem}", path.display())]
    Data {
        /// The file.
        path: PathBuf,
        /// Where in it.
        place: Place,
        /// What is wrong there.
        problem: String,
    },
    /// Nothing usable is in the file, or it is of an unknown kind.
    #[error("{}: {problem}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// A setting that no workload can be made from.
    #[error("{0}")]
    Setting(String),
}

/// A place in a file.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Place {
    /// Line, from 1.
    Line(u64),
    /// Byte, from 0.
    Byte(u64),
}

impl Error {
    pub(crate) fn read(path: &Path, source: io::Error) -> Self {
        Self::Read { path: path.to_owned(), source }
    }

    pub(crate) fn line(path: &Path, line: u64, problem: impl fmt::Display) -> Self {
        Self::Data { path: path.to_owned(), place: Place::Line(line), problem: problem.to_string() }
    }

    pub(crate) fn byte(path: &Path, byte: u64, problem: impl fmt::Display) -> Self {
        Self::Data { path: path.to_owned(), place: Place::Byte(byte), problem: problem.to_string() }
    }

    pub(crate) fn file(path: &Path, problem: impl fmt::Display) -> Self {
        Self::File { path: path.to_owned(), problem: problem.to_string() }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Line(line) => write!(formatter, "line {line}"),
            Self::Byte(byte) => write!(formatter, "byte {byte}"),
        }
    }
}
