//! Where log lines go: to standard error, and with their times to `logs/aiperf.log` among the files.

use std::{
    fs::{self, File},
    io,
    path::Path,
    sync::Mutex,
};

use tracing_subscriber::{filter::LevelFilter, fmt, layer::SubscriberExt as _, util::SubscriberInitExt as _};

use super::{Arguments, files::Files};

/// Begins to log. Without the file everything is still said on standard error.
pub(super) fn begin(arguments: &Arguments) {
    let path = Files::new(arguments, None).log();
    let file = create(&path);
    let problem = file.as_ref().err().map(ToString::to_string);
    let kept = file.ok().map(|file| {
        // A full disk is no reason to say so with every line, and a reader that has gone none to stop.
        fmt::layer()
            .with_writer(Mutex::new(file))
            .with_target(false)
            .with_ansi(false)
            .log_internal_errors(false)
    });
    tracing_subscriber::registry()
        .with(LevelFilter::from_level(arguments.output.level()))
        .with(
            fmt::layer()
                .with_writer(io::stderr)
                .with_target(false)
                .with_ansi(false)
                .without_time()
                .log_internal_errors(false),
        )
        .with(kept)
        .init();
    if let Some(problem) = problem {
        tracing::warn!("cannot write {}: {problem}", path.display());
    }
}

fn create(path: &Path) -> io::Result<File> {
    path.parent().map_or(Ok(()), fs::create_dir_all)?;
    File::create(path)
}
