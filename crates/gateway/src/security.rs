//! TLS on both sides: the certificate that clients are shown, and whom to trust among replicas. Both follow their files.
//!
//! The authorities of the system are many files and are read again only when somebody asks for it.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use arc_swap::{ArcSwap, ArcSwapOption};
use parking_lot::Mutex;
use tls::{ClientConfig, ClientSettings, Identity, ServerConfig, ServerName, TlsError};

use crate::Settings;

/// As it is written: see [`TlsConfig`](crate::TlsConfig).
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TlsSettings {
    /// What clients are shown; without it they come without TLS.
    pub identity: Option<Identity>,
    /// How to meet replicas whose URL is `https`.
    pub replicas: ClientSettings,
}

/// What connections are made secure with.
#[derive(Debug)]
pub(crate) struct Security {
    shown: Option<Followed<Identity>>,
    /// There is none before a replica's URL was `https`.
    trusted: ArcSwapOption<Followed<ClientSettings>>,
}

/// What a connection to a replica under TLS needs, and the name that the replica must prove.
pub(crate) type Secret = (Arc<ClientConfig>, ServerName<'static>);

/// What is made of files, and what they held when they were looked at last.
#[derive(Debug)]
struct Followed<S: Source> {
    source: S,
    made: ArcSwap<S::Made>,
    held: Mutex<Option<Vec<Vec<u8>>>>,
}

/// Files, and what is made of them.
trait Source {
    type Made;
    fn files(&self) -> Vec<&Path>;
    fn make(&self) -> Result<Arc<Self::Made>, TlsError>;
}

/// What went wrong on a connection to a replica.
pub(crate) fn explain(error: &io::Error) -> String {
    tls::explain_with(error, "with --tls-replica-authorities (tls.replica_authorities)")
}

// === impl Security ===

impl Security {
    pub(crate) fn new(settings: &Settings) -> Result<Self, TlsError> {
        let security = Self {
            shown: settings.tls.identity.clone().map(Followed::new).transpose()?,
            trusted: ArcSwapOption::default(),
        };
        security.trust(settings)?;
        Ok(security)
    }

    /// Whom to trust from the next connection on.
    pub(crate) fn trust(&self, settings: &Settings) -> Result<(), TlsError> {
        if settings.replicas.iter().any(|replica| replica.url.is_secure()) {
            self.trusted.store(Some(Arc::new(Followed::new(settings.tls.replicas.clone())?)));
        }
        Ok(())
    }

    /// How to meet a replica of this name. Never without TLS, whatever happens.
    pub(crate) fn of_replica(&self, name: &ServerName<'static>) -> io::Result<Secret> {
        let trusted = self.trusted.load();
        let config = trusted.as_ref().map(|trusted| trusted.made.load_full());
        config.map(|config| (config, name.clone())).ok_or_else(|| io::Error::other("nobody is trusted"))
    }

    /// How to meet clients; without it they come as they are.
    pub(crate) fn of_clients(&self) -> Option<Arc<ServerConfig>> {
        Some(self.shown.as_ref()?.made.load_full())
    }

    /// Looks at the files, and takes over those that have changed, or all of them, and the system's, where `anyway` says
    /// so. Says what came of it, and returns whether there are any.
    pub(crate) fn follow(&self, anyway: bool) -> bool {
        let trusted = self.trusted.load();
        let shown = self.shown.as_ref();
        if let Some(shown) = shown {
            tell("the certificate for clients", &shown.source, shown.follow(anyway));
        }
        if let Some(trusted) = &*trusted {
            tell("the certificates for replicas", &trusted.source, trusted.follow(anyway));
        }
        shown.is_some() || trusted.is_some()
    }
}

fn tell(what: &str, source: &impl Source, followed: Result<bool, TlsError>) {
    match followed {
        Ok(false) => {}
        Ok(true) => {
            let files: Vec<_> = source.files().into_iter().map(Path::to_string_lossy).collect();
            tracing::info!(files = files.join(", "), "{what} taken over");
        }
        Err(error) => tracing::error!(%error, "{what} refused; what was before stays in force"),
    }
}

// === impl Followed ===

impl<S: Source> Followed<S> {
    fn new(source: S) -> Result<Self, TlsError> {
        let held = held(&source).ok();
        Ok(Self { made: ArcSwap::new(source.make()?), held: Mutex::new(held), source })
    }

    /// While files are being replaced there may be none, which is no change.
    fn follow(&self, anyway: bool) -> Result<bool, TlsError> {
        let now = held(&self.source).ok();
        let has_changed = now.is_some() && *self.held.lock() != now;
        if !has_changed && !anyway {
            return Ok(false);
        }
        *self.held.lock() = now;
        self.made.store(self.source.make()?);
        Ok(true)
    }
}

fn held(source: &impl Source) -> io::Result<Vec<Vec<u8>>> {
    source.files().into_iter().map(fs::read).collect()
}

impl Source for Identity {
    type Made = ServerConfig;

    fn files(&self) -> Vec<&Path> {
        vec![&self.certificates, &self.key]
    }

    fn make(&self) -> Result<Arc<ServerConfig>, TlsError> {
        self.server()
    }
}

impl Source for ClientSettings {
    type Made = ClientConfig;

    fn files(&self) -> Vec<&Path> {
        let identity = self.identity.iter().flat_map(Identity::files);
        self.authorities.iter().map(PathBuf::as_path).chain(identity).collect()
    }

    fn make(&self) -> Result<Arc<ClientConfig>, TlsError> {
        self.load()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(identity: &Identity, host: &str) {
        let made = rcgen::generate_simple_self_signed([host.to_owned()]).unwrap();
        fs::write(&identity.certificates, made.cert.pem()).unwrap();
        fs::write(&identity.key, made.signing_key.serialize_pem()).unwrap();
    }

    #[test]
    fn a_name_without_anyone_to_trust_is_an_error_and_no_plain_connection() {
        let mut settings = Settings::new(vec!["http://a".parse().unwrap()]).unwrap();
        let security = Security::new(&settings).unwrap();
        let name = tls::server_name("a").unwrap();
        assert!(security.of_replica(&name).is_err());
        settings.tls.replicas.insecure = true;
        settings.replicas = vec!["https://a".parse().unwrap()];
        security.trust(&settings).unwrap();
        settings.replicas = vec!["http://a".parse().unwrap()];
        security.trust(&settings).unwrap();
        assert!(security.of_replica(&name).is_ok(), "requests may be on their way still");
    }

    #[test]
    fn a_certificate_follows_its_files() {
        let folder = tempfile::tempdir().unwrap();
        let [certificates, key] = ["a.pem", "a.key"].map(|name| folder.path().join(name));
        let identity = Identity { certificates, key };
        write(&identity, "first");
        let shown = Followed::new(identity.clone()).unwrap();
        let first = shown.made.load_full();
        assert!(!shown.follow(false).unwrap());
        fs::write(&identity.key, "half").unwrap();
        assert!(shown.follow(false).is_err());
        assert!(Arc::ptr_eq(&first, &shown.made.load_full()), "the one before stays");
        assert!(!shown.follow(false).unwrap(), "said once");
        assert!(shown.follow(true).is_err(), "said again to those who ask");
        write(&identity, "second");
        assert!(shown.follow(false).unwrap());
        let second = shown.made.load_full();
        assert!(!Arc::ptr_eq(&first, &second));
        assert!(shown.follow(true).unwrap());
        assert!(!Arc::ptr_eq(&second, &shown.made.load_full()));
        fs::remove_file(&identity.key).unwrap();
        assert!(!shown.follow(false).unwrap(), "it is being replaced");
    }

    #[test]
    fn whom_to_trust_among_replicas_follows_its_files() {
        let folder = tempfile::tempdir().unwrap();
        let [certificates, key, authorities] =
            ["a.pem", "a.key", "authorities.pem"].map(|name| folder.path().join(name));
        let identity = Identity { certificates, key };
        write(&identity, "first");
        fs::copy(&identity.certificates, &authorities).unwrap();
        let mut settings = Settings::new(vec!["https://a".parse().unwrap()]).unwrap();
        settings.tls.replicas.authorities = Some(authorities.clone());
        settings.tls.replicas.identity = Some(identity.clone());
        let security = Security::new(&settings).unwrap();
        let now = || security.of_replica(&tls::server_name("a").unwrap()).unwrap().0;
        let mut before = now();
        let mut has_changed = || {
            assert!(security.follow(false));
            !Arc::ptr_eq(&std::mem::replace(&mut before, now()), &before)
        };
        assert!(!has_changed());
        write(&identity, "second");
        assert!(has_changed(), "what we show");
        fs::copy(&identity.certificates, &authorities).unwrap();
        assert!(has_changed(), "who vouches for them");
        fs::write(&authorities, "half").unwrap();
        assert!(!has_changed(), "those before stay");
    }
}
