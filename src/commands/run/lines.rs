//! What is said about a run on standard error, one line each.

/// Least severity of what is said.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd, clap::ValueEnum)]
pub(super) enum Level {
    #[value(name = "DEBUG")]
    Debug,
    #[value(name = "INFO")]
    Info,
    #[value(name = "WARNING")]
    Warning,
    #[value(name = "ERROR")]
    Error,
    #[value(name = "CRITICAL")]
    Critical,
}

/// Says things, if they weigh enough.
#[derive(Clone, Copy, Debug)]
pub(super) struct Lines(Level);

impl Lines {
    pub(super) fn new(least: Level) -> Self {
        Self(least)
    }

    pub(super) fn info(&self, text: &str) {
        self.say(Level::Info, "", text);
    }

    pub(super) fn warn(&self, text: &str) {
        self.say(Level::Warning, "warning: ", text);
    }

    pub(super) fn error(&self, text: &str) {
        self.say(Level::Error, "error: ", text);
    }

    /// Whether a progress bar is wanted.
    pub(super) fn shows_progress(&self) -> bool {
        self.0 <= Level::Info
    }

    fn say(&self, level: Level, kind: &str, text: &str) {
        if level >= self.0 {
            remark!("evenload: {kind}{text}");
        }
    }
}
