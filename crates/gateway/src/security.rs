//! TLS on both sides: the certificate that clients are shown, which follows its files, and whom to trust among
//! replicas.

use std::{fs, io, sync::Arc};

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
    shown: Option<Shown>,
    /// There is none before a replica's URL was `https`.
    replicas: ArcSwapOption<ClientConfig>,
}

/// What a connection to a replica under TLS needs, and the name that the replica must prove.
pub(crate) type Secret = (Arc<ClientConfig>, ServerName<'static>);

/// A certificate, and what its files held when they were looked at last.
#[derive(Debug)]
struct Shown {
    identity: Identity,
    config: ArcSwap<ServerConfig>,
    held: Mutex<Option<[Vec<u8>; 2]>>,
}

/// What went wrong on a connection to a replica.
pub(crate) fn explain(error: &io::Error) -> String {
    tls::explain_with(error, "with --tls-replica-authorities (tls.replica_authorities)")
}

// === impl Security ===

impl Security {
    pub(crate) fn new(settings: &Settings) -> Result<Self, TlsError> {
        let security = Self {
            shown: settings.tls.identity.clone().map(Shown::new).transpose()?,
            replicas: ArcSwapOption::default(),
        };
        security.trust(settings)?;
        Ok(security)
    }

    /// Whom to trust from the next connection on.
    pub(crate) fn trust(&self, settings: &Settings) -> Result<(), TlsError> {
        if settings.replicas.iter().any(|replica| replica.url.is_secure()) {
            self.replicas.store(Some(settings.tls.replicas.load()?));
        }
        Ok(())
    }

    /// How to meet a replica of this name. Never without TLS, whatever happens.
    pub(crate) fn of_replica(&self, name: &ServerName<'static>) -> io::Result<Secret> {
        let config = self.replicas.load_full();
        config.map(|config| (config, name.clone())).ok_or_else(|| io::Error::other("nobody is trusted"))
    }

    /// How to meet clients; without it they come as they are.
    pub(crate) fn of_clients(&self) -> Option<Arc<ServerConfig>> {
        Some(self.shown.as_ref()?.config.load_full())
    }

    /// Looks at the certificate's files, and takes it over if they have changed.
    pub(crate) fn follow(&self) {
        let Some(shown) = &self.shown else { return };
        match shown.follow() {
            Ok(false) => {}
            Ok(true) => {
                tracing::info!(file = %shown.identity.certificates.display(), "certificate taken over")
            }
            Err(error) => tracing::error!(%error, "certificate refused; the one before stays in force"),
        }
    }
}

impl Shown {
    fn new(identity: Identity) -> Result<Self, TlsError> {
        let held = held(&identity).ok();
        Ok(Self { config: ArcSwap::new(identity.server()?), held: Mutex::new(held), identity })
    }

    /// While files are being replaced there may be none, which is no change.
    fn follow(&self) -> Result<bool, TlsError> {
        let Ok(now) = held(&self.identity) else { return Ok(false) };
        if self.held.lock().replace(now.clone()) == Some(now) {
            return Ok(false);
        }
        self.config.store(self.identity.server()?);
        Ok(true)
    }
}

fn held(identity: &Identity) -> io::Result<[Vec<u8>; 2]> {
    Ok([fs::read(&identity.certificates)?, fs::read(&identity.key)?])
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
        let shown = Shown::new(identity.clone()).unwrap();
        let first = shown.config.load_full();
        assert!(!shown.follow().unwrap());
        fs::write(&identity.key, "half").unwrap();
        assert!(shown.follow().is_err());
        assert!(Arc::ptr_eq(&first, &shown.config.load_full()), "the one before stays");
        assert!(!shown.follow().unwrap(), "said once");
        write(&identity, "second");
        assert!(shown.follow().unwrap());
        assert!(!Arc::ptr_eq(&first, &shown.config.load_full()));
        fs::remove_file(&identity.key).unwrap();
        assert!(!shown.follow().unwrap(), "it is being replaced");
    }
}
