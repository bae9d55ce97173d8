//! The section `tls`: certificates.

use std::path::PathBuf;

use serde::Deserialize;
use tls::{ClientSettings, Identity};

use super::ConfigError;
use crate::TlsSettings;

/// Certificates, as they are written. All files are PEM.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, clap::Args)]
#[serde(default, deny_unknown_fields)]
pub struct TlsConfig {
    /// Certificate to show to clients, and those that vouch for it; with it, clients are served over TLS alone. A
    /// change of the file takes effect while running.
    #[arg(long = "tls-certificate", value_name = "FILE")]
    pub certificate: Option<PathBuf>,
    /// Key of that certificate.
    #[arg(long = "tls-key", value_name = "FILE")]
    pub key: Option<PathBuf>,
    /// Authorities that vouch for https replicas, beside those of the system.
    #[arg(long = "tls-replica-authorities", value_name = "FILE")]
    pub replica_authorities: Option<PathBuf>,
    /// Certificate to show to https replicas that ask for one.
    #[arg(long = "tls-replica-certificate", value_name = "FILE")]
    pub replica_certificate: Option<PathBuf>,
    /// Key of that certificate.
    #[arg(long = "tls-replica-key", value_name = "FILE")]
    pub replica_key: Option<PathBuf>,
    /// Talk to https replicas whatever certificate they show.
    #[serde(deserialize_with = "super::or_default")]
    #[arg(long = "tls-insecure-replicas")]
    pub insecure_replicas: bool,
}

impl TlsConfig {
    pub(super) fn resolve(&self) -> Result<TlsSettings, ConfigError> {
        let pair = |names: [&'static str; 2], certificates: &Option<PathBuf>, key: &Option<PathBuf>| match (
            certificates.clone(),
            key.clone(),
        ) {
            (None, None) => Ok(None),
            (Some(certificates), Some(key)) => Ok(Some(Identity { certificates, key })),
            _ => Err(ConfigError::HalfIdentity(names[0], names[1])),
        };
        Ok(TlsSettings {
            identity: pair(["certificate", "key"], &self.certificate, &self.key)?,
            replicas: ClientSettings {
                insecure: self.insecure_replicas,
                authorities: self.replica_authorities.clone(),
                identity: pair(
                    ["replica_certificate", "replica_key"],
                    &self.replica_certificate,
                    &self.replica_key,
                )?,
            },
        })
    }

    pub(super) fn over(self, under: Self) -> Self {
        Self {
            certificate: self.certificate.or(under.certificate),
            key: self.key.or(under.key),
            replica_authorities: self.replica_authorities.or(under.replica_authorities),
            replica_certificate: self.replica_certificate.or(under.replica_certificate),
            replica_key: self.replica_key.or(under.replica_key),
            insecure_replicas: self.insecure_replicas || under.insecure_replicas,
        }
    }
}
