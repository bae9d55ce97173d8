//! Why a run could not start or go on. What happens to single requests is in their records.

use std::io;

/// A run that cannot start or go on.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A header that HTTP does not allow, or that belongs to the sender.
    #[error("header {name:?}: {why}")]
    Header {
        /// Its name as given.
        name: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// A request path that HTTP does not allow.
    #[error("path {0:?}: a path holds visible ASCII characters only; write others as %XX")]
    Path(String),
    /// No threads.
    #[error("0 threads cannot send; give at least 1")]
    NoThreads,
    /// More phases than a record can name.
    #[error("{0} phases planned; at most 65535 are possible")]
    TooManyPhases(usize),
    /// The operating system refused what sending needs.
    #[error("cannot {what}: {source}")]
    Io {
        /// What was tried.
        what: &'static str,
        /// Why it failed.
        source: io::Error,
    },
    /// A fault in this program.
    #[error("a {0} thread broke down; this is a fault in evenload, please report it with the lines above")]
    Thread(&'static str),
}

impl Error {
    pub(crate) fn io(what: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { what, source }
    }
}
