//! The gateway as a program: it runs until a signal ends it, and follows its configuration file.
//!
//! SIGTERM and SIGINT drain; a second one ends it at once. SIGHUP reads the file again, and so does a change of
//! its content, which is looked for every second (that also sees a Kubernetes ConfigMap change, where the file
//! is a link to a link). A file with a fault changes nothing; where the fault is in a file of certificates that it
//! names, it is tried again with every look. The files of certificates in force are followed likewise, and SIGHUP reads
//! them again with or without a configuration file.

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
    /// Why it was refused, where the cause is in a file that it names and may go away by itself.
    refused: Option<String>,
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
                    file.refused = None;
                    file.reload(handle);
                }
                if !handle.shared().security.follow(true) && file.is_none() {
                    tracing::info!("SIGHUP: no configuration file and no certificates, so nothing is read again");
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
                if let Some(file) = &mut file {
                    file.look(handle);
                }
                handle.shared().security.follow(false);
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
        Ok(Self { path: path.into(), flags, text: read(path)?, refused: None })
    }

    /// What it says, under the flags.
    ///
    /// # Errors
    /// When that is no configuration.
    pub fn settings(&self) -> Result<Settings, ConfigError> {
        self.flags.clone().over(Config::from_yaml(&self.text, &self.path)?).resolve()
    }

    /// Takes it over if it has changed, or may be mended. While it is being replaced there may be none, which is no
    /// change.
    fn look(&mut self, handle: &Handle) {
        if read(&self.path).is_ok_and(|text| text != self.text || self.refused.is_some()) {
            self.reload(handle);
        }
    }

    fn reload(&mut self, handle: &Handle) {
        let metrics = &handle.shared().metrics;
        let reloaded = read(&self.path).and_then(|text| {
            self.text = text;
            handle.apply(&self.settings()?)
        });
        match reloaded {
            Ok(()) => {
                self.refused = None;
                metrics.reloads.add(1);
                tracing::info!(file = %self.path.display(), "configuration taken over");
            }
            Err(error) => {
                let text = error.to_string();
                // Said once, however often it is tried.
                if self.refused.as_ref() != Some(&text) {
                    metrics.failed_reloads.add(1);
                    tracing::error!(%error, "configuration refused; the one before stays in force");
                }
                self.refused = matches!(error, ConfigError::Tls(_)).then_some(text);
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
    use crate::start;

    /// A gateway that follows a file, and a look at what it took over: the replicas' URLs, the reloads, the refusals.
    struct Following {
        folder: tempfile::TempDir,
        file: ConfigFile,
        handle: Handle,
    }

    impl Following {
        fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("evenload.yaml");
            std::fs::write(&path, text("http://a")).unwrap();
            let file = ConfigFile::read(&path, Config::default()).unwrap();
            let handle = start(file.settings().unwrap()).unwrap();
            Self { folder, file, handle }
        }

        fn write(&self, text: &str) {
            std::fs::write(&self.file.path, text).unwrap();
        }

        fn look(&mut self) -> (String, u64, u64) {
            self.file.look(&self.handle);
            let metrics = &self.handle.shared().metrics;
            let replica = self.handle.router().replicas()[0].spec.name.to_string();
            (replica, metrics.reloads.get(), metrics.failed_reloads.get())
        }
    }

    fn text(replica: &str) -> String {
        format!("listen: 127.0.0.1:0\nadmin_listen: 127.0.0.1:0\nthreads: 1\nreplicas: ['{replica}']\n")
    }

    #[test]
    fn a_change_before_the_first_look_is_seen() {
        let mut following = Following::new();
        assert_eq!(following.look(), ("http://a".into(), 0, 0));
        following.write(&text("http://b"));
        assert_eq!(following.look(), ("http://b".into(), 1, 0));
        std::fs::remove_file(&following.file.path).unwrap();
        assert_eq!(following.look(), ("http://b".into(), 1, 0), "it is being replaced");
        following.write("replicas: [x]");
        assert_eq!(following.look(), ("http://b".into(), 1, 1));
        assert_eq!(following.look(), ("http://b".into(), 1, 1), "nothing but a change can mend it");
    }

    #[test]
    fn a_configuration_that_waits_for_a_certificate_is_taken_over_when_that_comes() {
        let mut following = Following::new();
        let authorities = following.folder.path().join("late.pem");
        let tls = format!("tls: {{replica_authorities: {}}}\n", authorities.display());
        following.write(&(text("https://b") + &tls));
        for _ in 0..2 {
            assert_eq!(following.look(), ("http://a".into(), 0, 1), "said once");
        }
        let made = rcgen::generate_simple_self_signed(["b".to_owned()]).unwrap();
        std::fs::write(&authorities, made.cert.pem()).unwrap();
        for _ in 0..2 {
            assert_eq!(following.look(), ("https://b".into(), 1, 1), "taken over once");
        }
    }
}
