//! The servers under load, as the user names them.
//!
//! A URL may lack its scheme (`http` is meant, `https` is TLS) and may end in `/v1` or in the path of an operation;
//! both are taken off, because the path of each request is put after the base. Any other path prefix is kept. Host
//! names are looked up once, before the run, so that no request waits for a name server. A name that cannot be looked
//! up is not an error of the run: its target fails its own requests, as a target that refuses does.

use std::{
    io,
    net::{SocketAddr, ToSocketAddrs},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
};

use protocol::Endpoint;
use tls::{ClientConfig, ClientConnection, ClientSettings, ServerName, TlsError};

/// The targets of a run, in the order in which records name them.
#[derive(Debug)]
pub struct Targets(Vec<Target>);

/// One server, or balancer, under load.
#[derive(Debug)]
pub struct Target {
    name: Arc<str>,
    authority: String,
    secure: Option<SecureTarget>,
    /// The path as given, without a slash at its end.
    path: String,
    /// The path without what the path of a request brings.
    prefix: String,
    addresses: Result<Vec<SocketAddr>, String>,
    /// The address that took the last connection; the first one tried next time.
    preferred: AtomicUsize,
}

/// How to reach one under TLS.
#[derive(Clone, Debug)]
pub(crate) struct SecureTarget {
    config: Arc<ClientConfig>,
    name: ServerName<'static>,
}

/// What is wrong with a target's URL.
#[derive(Debug, thiserror::Error)]
pub enum TargetError {
    /// No URL at all.
    #[error("no target URL given; name at least one, such as http://localhost:8000")]
    None,
    /// More URLs than a record can name.
    #[error("{0} target URLs given; at most 65535 are possible")]
    TooMany(usize),
    /// There can be no TLS.
    #[error("{0}: {1}")]
    Tls(String, #[source] TlsError),
    /// Anything else than HTTP.
    #[error("{0}: only http and https URLs are supported")]
    Scheme(String),
    /// A part that a base URL cannot have, or that is broken.
    #[error("{url}: {what}")]
    Part {
        /// The URL as given.
        url: String,
        /// What is wrong with it.
        what: &'static str,
    },
}

const OPERATIONS: [Endpoint; 5] = [
    Endpoint::ChatCompletions,
    Endpoint::Completions,
    Endpoint::Responses,
    Endpoint::Messages,
    Endpoint::Embeddings,
];

impl Targets {
    /// Reads base URLs and looks their hosts up. Servers behind `https` are trusted as this system trusts them.
    pub fn resolve<I>(urls: I) -> Result<Self, TargetError>
    where
        I: IntoIterator,
        I::Item: AsRef<str>,
    {
        Self::resolve_with(urls, &ClientSettings::default())
    }

    /// The same, with other ideas of whom to trust.
    pub fn resolve_with<I>(urls: I, settings: &ClientSettings) -> Result<Self, TargetError>
    where
        I: IntoIterator,
        I::Item: AsRef<str>,
    {
        let mut config = None;
        let mut secure = || match &config {
            Some(known) => Ok(Arc::clone(known)),
            None => Ok(Arc::clone(config.insert(settings.load()?))),
        };
        let targets: Vec<Target> = urls
            .into_iter()
            .map(|url| Target::resolve(url.as_ref(), &mut secure))
            .collect::<Result<_, _>>()?;
        match targets.len() {
            0 => Err(TargetError::None),
            count if count > usize::from(u16::MAX) => Err(TargetError::TooMany(count)),
            _ => Ok(Self(targets)),
        }
    }

    /// The base URLs in the order given, with scheme and without `/v1`.
    pub fn names(&self) -> impl Iterator<Item = &Arc<str>> {
        self.0.iter().map(|target| &target.name)
    }

    /// The targets whose host could not be looked up, each with the reason.
    pub fn unresolved(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().filter_map(|target| Some((&*target.name, target.addresses.as_ref().err()?.as_str())))
    }

    /// How many there are; at least one, at most 65535.
    pub fn count(&self) -> u16 {
        u16::try_from(self.0.len()).unwrap_or(u16::MAX)
    }

    pub(crate) fn get(&self, index: u16) -> &Target {
        &self.0[usize::from(index)]
    }
}

impl Target {
    /// `tls` is asked for what TLS needs, if the URL wants it.
    fn resolve(
        url: &str,
        tls: &mut impl FnMut() -> Result<Arc<ClientConfig>, TlsError>,
    ) -> Result<Self, TargetError> {
        let url = url.trim();
        let part = |what| TargetError::Part { url: url.to_owned(), what };
        let (scheme, usual_port, rest) = match url.split_once("://") {
            None => ("http", "80", url),
            Some((scheme, rest)) if scheme.eq_ignore_ascii_case("http") => ("http", "80", rest),
            Some((scheme, rest)) if scheme.eq_ignore_ascii_case("https") => ("https", "443", rest),
            Some(_) => return Err(TargetError::Scheme(url.to_owned())),
        };
        if rest.contains(['?', '#']) {
            return Err(part("a base URL has no query and no fragment"));
        }
        if rest.contains(|c: char| c.is_whitespace() || c.is_control()) {
            return Err(part("a URL holds no white space"));
        }
        let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        if authority.contains('@') {
            return Err(part("no user name in a URL; give an authorization header instead"));
        }
        let (host, port) = split_authority(authority, usual_port).map_err(part)?;
        let secure = (scheme == "https").then(|| SecureTarget::new(host, tls)).transpose();
        let secure = secure.map_err(|error| TargetError::Tls(url.to_owned(), error))?;
        let path = path.trim_end_matches('/');
        let prefix = base_path(path);
        let addresses = (host, port)
            .to_socket_addrs()
            .map_err(|error| format!("{host} cannot be looked up: {error}"))
            .map(|found| found.collect::<Vec<_>>())
            .and_then(
                |found| if found.is_empty() { Err(format!("{host} has no address")) } else { Ok(found) },
            );
        Ok(Self {
            name: format!("{scheme}://{authority}{prefix}").into(),
            authority: authority.to_owned(),
            secure,
            path: path.to_owned(),
            prefix: prefix.to_owned(),
            addresses,
            preferred: AtomicUsize::new(0),
        })
    }

    pub(crate) fn authority(&self) -> &str {
        &self.authority
    }

    pub(crate) fn secure(&self) -> Option<&SecureTarget> {
        self.secure.as_ref()
    }

    pub(crate) fn path(&self) -> &str {
        &self.path
    }

    pub(crate) fn prefix(&self) -> &str {
        &self.prefix
    }

    /// The address for the `attempt`th try of a request; `None` when all have been tried.
    pub(crate) fn address(&self, attempt: usize) -> Result<Option<SocketAddr>, &str> {
        let addresses = self.addresses.as_ref().map_err(String::as_str)?;
        let start = self.preferred.load(Relaxed);
        Ok((attempt < addresses.len()).then(|| addresses[(start + attempt) % addresses.len()]))
    }

    /// `address` took a connection: it is tried first from now on.
    pub(crate) fn prefer(&self, address: SocketAddr) {
        if let Ok(addresses) = &self.addresses
            && let Some(index) = addresses.iter().position(|known| *known == address)
        {
            self.preferred.store(index, Relaxed);
        }
    }
}

impl SecureTarget {
    fn new(
        host: &str,
        config: &mut impl FnMut() -> Result<Arc<ClientConfig>, TlsError>,
    ) -> Result<Self, TlsError> {
        Ok(Self { name: tls::server_name(host)?, config: config()? })
    }

    /// A connection's side of TLS, from its first byte on.
    pub(crate) fn session(&self) -> io::Result<ClientConnection> {
        ClientConnection::new(Arc::clone(&self.config), self.name.clone()).map_err(io::Error::other)
    }
}

fn split_authority<'a>(authority: &'a str, usual_port: &'a str) -> Result<(&'a str, u16), &'static str> {
    let (host, port) = match authority.strip_prefix('[') {
        Some(bracketed) => {
            let (host, after) = bracketed.split_once(']').ok_or("the bracket after '[' is missing")?;
            (
                host,
                after
                    .strip_prefix(':')
                    .or(after.is_empty().then_some(usual_port))
                    .ok_or("no port after ']'")?,
            )
        }
        None => authority.split_once(':').unwrap_or((authority, usual_port)),
    };
    if host.is_empty() {
        return Err("the host is missing");
    }
    match port.parse() {
        Ok(port @ 1..) => Ok((host, port)),
        _ => Err("the port is not a number from 1 to 65535"),
    }
}

fn base_path(path: &str) -> &str {
    let base = OPERATIONS.iter().find_map(|operation| path.strip_suffix(operation.path())).unwrap_or(path);
    base.trim_end_matches('/').trim_end_matches("/v1").trim_end_matches('/')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolve(url: &str) -> Result<Target, TargetError> {
        let settings = ClientSettings { insecure: true, ..ClientSettings::default() };
        Target::resolve(url, &mut || settings.load())
    }

    fn name(url: &str) -> Result<String, TargetError> {
        resolve(url).map(|target| target.name.to_string())
    }

    #[test]
    fn the_forms_that_users_write_mean_the_same_base() {
        for url in [
            "127.0.0.1:8000",
            "http://127.0.0.1:8000/",
            " HTTP://127.0.0.1:8000/v1 ",
            "http://127.0.0.1:8000/v1/",
            "127.0.0.1:8000/v1/chat/completions",
        ] {
            assert_eq!(name(url).unwrap(), "http://127.0.0.1:8000", "{url}");
        }
        assert_eq!(name("127.0.0.1/openai/v1").unwrap(), "http://127.0.0.1/openai");
        assert_eq!(name("http://[::1]:9/x/").unwrap(), "http://[::1]:9/x");
    }

    #[test]
    fn ports_default_by_scheme_and_are_checked() {
        for (url, port) in [("127.0.0.1", 80), ("HTTPS://127.0.0.1/v1", 443), ("https://127.0.0.1:80", 80)] {
            assert_eq!(resolve(url).unwrap().address(0), Ok(Some(([127, 0, 0, 1], port).into())), "{url}");
        }
        assert_eq!(split_authority("[::1]", "443"), Ok(("::1", 443)));
        for url in ["http://:80", "a:0", "a:70000", "a:b", "[::1:80", "[::1]80", ""] {
            assert!(matches!(name(url), Err(TargetError::Part { .. })), "{url}");
        }
    }

    #[test]
    fn only_https_is_secure() {
        assert!(resolve("127.0.0.1").unwrap().secure().is_none());
        let target = resolve("https://127.0.0.1:8443/v1").unwrap();
        assert_eq!((&*target.name, target.secure().is_some()), ("https://127.0.0.1:8443", true));
        let missing =
            ClientSettings { authorities: Some("/missing.pem".into()), ..ClientSettings::default() };
        let error = Targets::resolve_with(["https://127.0.0.1"], &missing).unwrap_err().to_string();
        assert!(error.starts_with("https://127.0.0.1: /missing.pem: "), "{error}");
        assert!(Targets::resolve_with(["http://127.0.0.1"], &missing).is_ok(), "nobody needs it");
    }

    #[test]
    fn what_is_not_supported_is_said() {
        assert!(matches!(name("unix://a"), Err(TargetError::Scheme(_))));
        assert!(name("http://u:p@a").unwrap_err().to_string().contains("authorization header"));
        assert!(name("http://a?b=c").unwrap_err().to_string().contains("no query"));
        assert!(matches!(Targets::resolve([""; 0]), Err(TargetError::None)));
    }

    #[test]
    fn an_unknown_host_is_the_targets_own_trouble() {
        let targets = Targets::resolve(["127.0.0.1:1", "no-such-host.invalid:8000"]).unwrap();
        let unresolved: Vec<_> = targets.unresolved().collect();
        assert_eq!(unresolved.len(), 1);
        assert_eq!(unresolved[0].0, "http://no-such-host.invalid:8000");
        assert!(targets.get(1).address(0).unwrap_err().contains("no-such-host.invalid"));
    }

    #[test]
    fn every_address_is_tried_once_the_last_good_one_first() {
        let mut target = resolve("127.0.0.1:1").unwrap();
        let other = SocketAddr::from(([127, 0, 0, 2], 1));
        target.addresses.as_mut().unwrap().push(other);
        target.prefer(other);
        let tried: Vec<_> = (0..3).map(|attempt| target.address(attempt).unwrap()).collect();
        assert_eq!(tried, [Some(other), Some(([127, 0, 0, 1], 1).into()), None]);
    }
}
