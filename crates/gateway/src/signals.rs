//! The gateway as a program: it runs until a signal ends it, and follows its configuration file.
//!
//! SIGTERM and SIGINT drain; a second one ends it at once. SIGHUP reads the file again, and so does a change of
//! its content, which is looked for every second (that also sees a Kubernetes ConfigMap change, where the file
//! is a link to a link). A file with a fault changes nothing.

use std::{
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use tokio::{
    runtime::Builder,
    signal::unix::{SignalKind, signal},
    time::{MissedTickBehavior, interval},
};

use crate::{Config, ConfigError, Handle, Settings};

/// Time between two looks at the file.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// A configuration file, the flags that go over it, and what it said last.
struct Source {
    path: PathBuf,
    flags: Config,
    text: io::Result<String>,
}

/// Runs `handle` until a signal ends it. With a `file`, changes of its content are taken over; `flags` go over
/// it as they did at the start.
///
/// # Errors
/// When signals cannot be waited for.
pub fn run(handle: Handle, file: Option<&Path>, flags: Config) -> io::Result<()> {
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let source = file.map(|path| Source { path: path.into(), flags, text: std::fs::read_to_string(path) });
    runtime.block_on(wait(&handle, source))?;
    handle.join();
    Ok(())
}

async fn wait(handle: &Handle, mut source: Option<Source>) -> io::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut hang_up = signal(SignalKind::hangup())?;
    let mut look = interval(LOOK_INTERVAL);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut draining = false;
    loop {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
            _ = hang_up.recv() => {
                if let Some(source) = &mut source {
                    source.reload(handle);
                }
                continue;
            }
            _ = look.tick() => {
                if handle.is_over() {
                    return Ok(());
                }
                if let Some(source) = source.as_mut().filter(|source| source.has_changed()) {
                    source.reload(handle);
                }
                continue;
            }
        }
        if draining {
            tracing::info!("ending now");
            handle.end();
            return Ok(());
        }
        draining = true;
        tracing::info!(requests = handle.in_flight(), "draining; a second signal ends at once");
        handle.drain();
        // From here on only the end matters, and it should not wait for the next look.
        look = interval(Duration::from_millis(20));
    }
}

// === impl Source ===

impl Source {
    fn has_changed(&self) -> bool {
        match (&self.text, std::fs::read_to_string(&self.path)) {
            (Ok(old), Ok(new)) => *old != new,
            (Err(_), Ok(_)) => true,
            // While the file is being replaced there may be none.
            (_, Err(_)) => false,
        }
    }

    fn reload(&mut self, handle: &Handle) {
        self.text = std::fs::read_to_string(&self.path);
        let metrics = &handle.shared().metrics;
        match self.settings().and_then(|settings| handle.apply(&settings)) {
            Ok(()) => {
                metrics.reloads.add(1);
                tracing::info!(file = %self.path.display(), "configuration taken over");
            }
            Err(error) => {
                metrics.failed_reloads.add(1);
                tracing::error!(%error, "configuration refused; the one before stays in force");
            }
        }
    }

    fn settings(&self) -> Result<Settings, ConfigError> {
        let written = Config::from_file(&self.path)?;
        self.flags.clone().over(written).resolve()
    }
}
