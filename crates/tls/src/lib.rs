//! Whom to trust, and who we are.
//!
//! One TLS stack for all rooms: rustls, with ring's cryptography, TLS 1.2 and 1.3. Servers are trusted if an authority
//! of this system vouches for them (`SSL_CERT_FILE` and `SSL_CERT_DIR` name others, as with OpenSSL), or one that the
//! user names. Files are PEM. What is wrong with one is said before anything is sent.

mod anyone;

use std::{
    fmt::Display,
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use rustls::{
    CertificateError, Error, InconsistentKeys, RootCertStore,
    crypto::{CryptoProvider, ring},
    pki_types::{
        CertificateDer, PrivateKeyDer,
        pem::{self, PemObject},
    },
};
pub use rustls::{
    ClientConfig, ClientConnection, ServerConfig, ServerConnection, StreamOwned, pki_types::ServerName,
};

/// How to meet servers.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct ClientSettings {
    /// Talk to servers whoever they are.
    pub insecure: bool,
    /// Authorities to trust beside those of the system.
    pub authorities: Option<PathBuf>,
    /// What to show to servers that ask who we are.
    pub identity: Option<Identity>,
}

/// A certificate with those that vouch for it, and its key.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Identity {
    /// The own certificate first.
    pub certificates: PathBuf,
    /// PKCS #8, PKCS #1 or SEC 1.
    pub key: PathBuf,
}

/// Why there can be no TLS.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file that cannot be read, or holds something else.
    #[error("{path}: {what}")]
    File {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
    },
    /// Nobody to trust.
    #[error("this system has no certificate authorities{0}; name some in SSL_CERT_FILE")]
    NoAuthorities(String),
    /// Neither a name nor an address.
    #[error("{0} is not the name of a host that a certificate can be for")]
    Host(String),
    /// The library refuses the combination.
    #[error(transparent)]
    Settings(#[from] Error),
}

// === impl ClientSettings ===

impl ClientSettings {
    /// What connections to servers are made with.
    ///
    /// # Errors
    /// A file is not what it should be, or there is no authority to trust.
    pub fn load(&self) -> Result<Arc<ClientConfig>, TlsError> {
        let builder =
            ClientConfig::builder_with_provider(provider()).with_safe_default_protocol_versions()?;
        let trusting = if self.insecure {
            builder.dangerous().with_custom_certificate_verifier(anyone::verifier())
        } else {
            builder.with_root_certificates(self.roots()?)
        };
        let mut config = match &self.identity {
            None => trusting.with_no_client_auth(),
            Some(identity) => {
                let (certificates, key) = identity.read()?;
                let shown = trusting.with_client_auth_cert(certificates, key);
                shown.map_err(|error| identity.explain(&error))?
            }
        };
        config.alpn_protocols = vec![PROTOCOL.to_vec()];
        Ok(Arc::new(config))
    }

    fn roots(&self) -> Result<RootCertStore, TlsError> {
        let system = rustls_native_certs::load_native_certs();
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(system.certs);
        if let Some(path) = &self.authorities {
            for certificate in certificates(path)? {
                roots.add(certificate).map_err(|error| wrong(path, error))?;
            }
        }
        if roots.is_empty() {
            let why = system.errors.first().map(|error| format!(" ({error})")).unwrap_or_default();
            return Err(TlsError::NoAuthorities(why));
        }
        Ok(roots)
    }
}

// === impl Identity ===

impl Identity {
    /// Whether the files can be shown to anyone.
    ///
    /// # Errors
    /// One of them is not what it should be, or the key belongs to another certificate.
    pub fn check(&self) -> Result<(), TlsError> {
        let identity = Some(self.clone());
        ClientSettings { insecure: true, identity, authorities: None }.load().map(drop)
    }

    /// What connections of clients are taken with.
    ///
    /// # Errors
    /// A file is not what it should be, or the key belongs to another certificate.
    pub fn server(&self) -> Result<Arc<ServerConfig>, TlsError> {
        let (certificates, key) = self.read()?;
        let builder =
            ServerConfig::builder_with_provider(provider()).with_safe_default_protocol_versions()?;
        let certified = builder.with_no_client_auth().with_single_cert(certificates, key);
        let mut config = certified.map_err(|error| self.explain(&error))?;
        config.alpn_protocols = vec![PROTOCOL.to_vec()];
        Ok(Arc::new(config))
    }

    fn read(&self) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), TlsError> {
        Ok((certificates(&self.certificates)?, private_key(&self.key)?))
    }

    /// Which of the files is wrong if the library does not take the two, and what to do about it.
    fn explain(&self, error: &Error) -> TlsError {
        let certificates = self.certificates.display();
        match error {
            Error::InconsistentKeys(InconsistentKeys::KeyMismatch) => wrong(
                &self.key,
                format_args!("the key of another certificate than the first one in {certificates}"),
            ),
            // The library has no word of its own for it.
            Error::InvalidCertificate(CertificateError::Other(other)) if other.to_string() == OLD => wrong(
                &self.certificates,
                "a certificate of X.509 version 1; make one of version 3, as openssl x509 -req does with -extfile",
            ),
            Error::InvalidCertificate(_) => wrong(&self.certificates, error),
            _ => wrong(&self.key, error),
        }
    }
}

/// The host of a URL as certificates name it; addresses of IPv6 without brackets.
///
/// # Errors
/// It is neither a name nor an address.
pub fn server_name(host: &str) -> Result<ServerName<'static>, TlsError> {
    ServerName::try_from(host.to_owned()).map_err(|_| TlsError::Host(host.to_owned()))
}

/// What went wrong on a connection, in words that say what to do about a certificate.
pub fn explain(error: &io::Error) -> String {
    explain_with(error, "in SSL_CERT_FILE")
}

/// The same for those who can name authorities elsewhere: `place` says where.
pub fn explain_with(error: &io::Error, place: &str) -> String {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref());
    match inner {
        // The other is what comes if an authority of the same name is known.
        Some(Error::InvalidCertificate(CertificateError::UnknownIssuer | CertificateError::BadSignature)) => {
            format!("nobody trusted vouches for the server's certificate; name its authority's file {place}")
        }
        // The library has no word of its own for it.
        Some(Error::InvalidCertificate(CertificateError::Other(other))) if other.to_string() == AUTHORITY => {
            "the server shows the certificate of an authority (CA:TRUE), which is for signing others".into()
        }
        _ => error.to_string(),
    }
}

/// What is spoken under TLS, for those who ask.
const PROTOCOL: &[u8] = b"http/1.1";
/// The certificate library's name for an authority that is shown as a server.
const AUTHORITY: &str = "CaUsedAsEndEntity";

/// Its name for a certificate of another version than 3.
const OLD: &str = "UnsupportedCertVersion";

fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}

fn read(path: &Path) -> Result<Vec<u8>, TlsError> {
    fs::read(path).map_err(|error| wrong(path, format_args!("cannot be read: {error}")))
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let text = read(path)?;
    match CertificateDer::pem_slice_iter(&text).collect::<Result<Vec<_>, _>>() {
        Ok(found) if found.is_empty() => Err(wrong(path, "no certificate in it")),
        found => found.map_err(|error| wrong(path, error)),
    }
}

fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, TlsError> {
    let text = read(path)?;
    if String::from_utf8_lossy(&text).lines().any(|line| line.contains("ENCRYPTED")) {
        let what = "the key is encrypted; write it without a password: openssl pkey -in KEY -out PLAIN";
        return Err(wrong(path, what));
    }
    PrivateKeyDer::from_pem_slice(&text).map_err(|error| match error {
        pem::Error::NoItemsFound => wrong(path, "no private key in it"),
        error => wrong(path, error),
    })
}

fn wrong(path: &Path, what: impl Display) -> TlsError {
    TlsError::File { path: path.to_owned(), what: what.to_string() }
}

#[cfg(test)]
mod tests;
