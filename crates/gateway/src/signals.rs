//! The gateway as a program: it runs until a signal ends it, and follows its configuration file.
//!
//! SIGTERM and SIGINT drain; a second one ends it at once. SIGHUP reads the file again, and so does a change of
//! its content, which is looked for every second (that also sees a Kubernetes ConfigMap change, where the file
//! is a link to a link). A file with a fault changes nothing. The files of the certificate are followed likewise.

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
#[derive(Debug)]
pub struct ConfigFile {
    path: PathBuf,
    flags: Config,
    text: String,
}

/// Runs `handle` until a signal ends it. Changes of the content that `file` had when it was read are taken over.
///
/// # Errors
/// When signals cannot be waited for.
pub fn run(handle: Handle, file: Option<ConfigFile>) -> io::Result<()> {
    let runtime = Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(wait(&handle, file))?;
    handle.join();
    Ok(())
}

async fn wait(handle: &Handle, mut file: Option<ConfigFile>) -> io::Result<()> {
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
                if let Some(file) = &mut file {
                    file.reload(handle);
                }
                continue;
            }
            _ = look.tick() => {
                if handle.is_over() {
                    return Ok(());
                }
                if draining {
                    continue;
                }
                if let Some(file) = file.as_mut().filter(|file| file.has_changed()) {
                    file.reload(handle);
                }
                handle.shared().security.follow();
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

// === impl ConfigFile ===

impl ConfigFile {
    /// Reads a file.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn read(path: &Path, flags: Config) -> Result<Self, ConfigError> {
        Ok(Self { path: path.into(), flags, text: read(path)? })
    }

    /// What it says, under the flags.
    ///
    /// # Errors
    /// When that is no configuration.
    pub fn settings(&self) -> Result<Settings, ConfigError> {
        self.flags.clone().over(Config::from_yaml(&self.text, &self.path)?).resolve()
    }

    /// While the file is being replaced there may be none, which is no change.
    fn has_changed(&self) -> bool {
        read(&self.path).is_ok_and(|text| text != self.text)
    }

    fn reload(&mut self, handle: &Handle) {
        let metrics = &handle.shared().metrics;
        let reloaded = read(&self.path).and_then(|text| {
            self.text = text;
            handle.apply(&self.settings()?)
        });
        match reloaded {
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
}

fn read(path: &Path) -> Result<String, ConfigError> {
    std::fs::read_to_string(path).map_err(|source| ConfigError::Read { path: path.into(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_before_the_first_look_is_seen() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("evenload.yaml");
        std::fs::write(&path, "policy: random\n").unwrap();
        let file = ConfigFile::read(&path, Config::default()).unwrap();
        assert!(!file.has_changed());
        std::fs::write(&path, "policy: least_tokens\n").unwrap();
        assert!(file.has_changed());
        std::fs::remove_file(&path).unwrap();
        assert!(!file.has_changed(), "it is being replaced");
    }
}
