//! Values as they are written in files and flags.

use std::{fmt, num::NonZero, str::FromStr, time::Duration};

use serde::{Deserialize, Deserializer, de::Error};
use tls::ServerName;

/// The longest time. Moments that lie so far ahead can still be computed with.
const LONGEST: Duration = Duration::from_secs(365 * 86_400);

/// A time, written as seconds, whole or with a fraction; such keys end in `_s`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Seconds(pub Duration);

/// The base URL of a replica: `http://host:port` or `https://host:port`, with a path if the engine has one.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ReplicaUrl {
    text: String,
    authority_end: usize,
    authority: String,
    /// Of a secure one, what its certificate must be for.
    name: Option<ServerName<'static>>,
}

/// A value that cannot be used.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum ValueError {
    /// Not a number of seconds.
    #[error("`{0}` is not a time in seconds: use a number from 0 to {longest}, which is a year", longest = LONGEST.as_secs())]
    Seconds(String),
    /// Not a replica's URL.
    #[error("`{url}` is not a replica's URL: {problem}; use http://host:port")]
    Url {
        /// As it was written.
        url: String,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// Not an address of a publisher.
    #[error("`{0}` is not an address for cache events: use tcp://host:port")]
    EventAddress(String),
}

/// Where a replica publishes what happens to its prefix cache.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct EventSource {
    /// `host:port` of the publisher.
    pub publisher: Box<str>,
    /// `host:port` where it replays what was missed.
    pub replay: Option<Box<str>>,
}

/// `tcp://host:port`, or `host:port`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct EventAddress(pub(super) Box<str>);

// === impl Seconds ===

impl Seconds {
    fn read(seconds: f64) -> Result<Self, ValueError> {
        match Duration::try_from_secs_f64(seconds) {
            Ok(time) if time <= LONGEST => Ok(Self(time)),
            _ => Err(ValueError::Seconds(seconds.to_string())),
        }
    }
}

impl From<Seconds> for Duration {
    fn from(seconds: Seconds) -> Self {
        seconds.0
    }
}

impl FromStr for Seconds {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        text.parse().map_err(|_| ValueError::Seconds(text.into())).and_then(Self::read)
    }
}

impl<'de> Deserialize<'de> for Seconds {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

// === impl EventSource ===

impl fmt::Display for EventSource {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "tcp://{}", self.publisher)
    }
}

impl FromStr for EventAddress {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        let address = text.strip_prefix("tcp://").unwrap_or(text);
        let port = address.rsplit_once(':').filter(|(host, _)| !host.is_empty() && !host.contains('/'));
        match port.and_then(|(_, port)| port.parse::<NonZero<u16>>().ok()) {
            Some(_) => Ok(Self(address.into())),
            None => Err(ValueError::EventAddress(text.into())),
        }
    }
}

impl<'de> Deserialize<'de> for EventAddress {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

// === impl ReplicaUrl ===

impl ReplicaUrl {
    /// The URL, without a final slash. It names the replica everywhere.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// `host:port`.
    pub fn authority(&self) -> &str {
        &self.authority
    }

    /// Whether to speak TLS.
    pub fn is_secure(&self) -> bool {
        self.name.is_some()
    }

    /// What its certificate must be for, if it is `https`.
    pub(crate) fn secure_name(&self) -> Option<ServerName<'static>> {
        self.name.clone()
    }

    /// The same for every way to write the same place: whether it speaks TLS, `host:port` in small letters, the path.
    pub(crate) fn place(&self) -> (bool, String, &str) {
        (self.is_secure(), self.authority.to_ascii_lowercase(), self.path_prefix())
    }

    /// The path, without a final slash.
    pub fn path_prefix(&self) -> &str {
        &self.text[self.authority_end..]
    }
}

impl FromStr for ReplicaUrl {
    type Err = ValueError;

    fn from_str(url: &str) -> Result<Self, ValueError> {
        let wrong = |problem| ValueError::Url { url: url.into(), problem };
        let text = url.trim_end_matches('/');
        let schemes = [("http://", 80), ("https://", 443)];
        let (scheme, usual_port) = schemes
            .into_iter()
            .find(|(scheme, _)| text.starts_with(scheme))
            .ok_or_else(|| wrong("it begins with neither http:// nor https://"))?;
        let parsed: http::Uri = text.parse().map_err(|_| wrong("it is malformed"))?;
        let authority = parsed.authority().ok_or_else(|| wrong("it has no host"))?;
        if authority.host().is_empty() || authority.as_str().contains('@') {
            return Err(wrong("it needs a host, and no user name"));
        }
        if parsed.query().is_some() || text.contains('#') {
            return Err(wrong("it must end with its path"));
        }
        let port = match authority.port_u16() {
            Some(port @ 1..) => port,
            None if authority.as_str() == authority.host() => usual_port,
            _ => return Err(wrong("its port is not a number from 1 to 65535")),
        };
        let name =
            (scheme == "https://").then(|| tls::server_name(authority.host().trim_matches(['[', ']'])));
        Ok(Self {
            name: name.transpose().map_err(|_| wrong("no certificate can be for its host"))?,
            authority_end: scheme.len() + authority.as_str().len(),
            authority: format!("{}:{port}", authority.host()),
            text: text.into(),
        })
    }
}

impl fmt::Display for ReplicaUrl {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.text)
    }
}

impl<'de> Deserialize<'de> for ReplicaUrl {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_taken_apart() {
        let url: ReplicaUrl = "http://a.example:8000/base/".parse().unwrap();
        assert_eq!(url.as_str(), "http://a.example:8000/base");
        assert_eq!((url.authority(), url.path_prefix()), ("a.example:8000", "/base"));
        assert!(!url.is_secure());
        let url: ReplicaUrl = "https://a.example/base".parse().unwrap();
        assert_eq!((url.authority(), url.path_prefix(), url.is_secure()), ("a.example:443", "/base", true));
        let url: ReplicaUrl = "https://[::1]:8000".parse().unwrap();
        assert_eq!((url.authority(), url.is_secure()), ("[::1]:8000", true));
        let url: ReplicaUrl = "http://[::1]".parse().unwrap();
        assert_eq!((url.authority(), url.path_prefix()), ("[::1]:80", ""));
    }

    #[test]
    fn what_is_no_url_is_said_to_be_none() {
        for bad in [
            "a:8000",
            "https://",
            "ftp://a",
            "http://",
            "http://:80",
            "http://a:0",
            "http://a:99999",
            "http://a b",
            "http://a?x=1",
            "http://u@a",
            "http://a/#f",
        ] {
            let error = bad.parse::<ReplicaUrl>().expect_err(bad).to_string();
            assert!(error.contains(bad) && error.contains("http://host:port"), "{error}");
        }
    }

    #[test]
    fn addresses_of_events_are_hosts_and_ports() {
        for (text, address) in
            [("tcp://a:5557", "a:5557"), ("10.0.0.1:1", "10.0.0.1:1"), ("[::1]:9", "[::1]:9")]
        {
            assert_eq!(text.parse(), Ok(EventAddress(address.into())));
        }
        for bad in ["a", "tcp://a", "tcp://:5", "http://a:5", "a:0", "a:70000", "ipc:///tmp/x"] {
            assert!(bad.parse::<EventAddress>().is_err(), "{bad}");
        }
    }

    #[test]
    fn times_are_seconds() {
        assert_eq!("0.25".parse(), Ok(Seconds(Duration::from_millis(250))));
        assert_eq!("31536000".parse(), Ok(Seconds(LONGEST)));
        for bad in ["-1", "x", "inf", "NaN", "", "31536001", "1e19", "1e300"] {
            let error = bad.parse::<Seconds>().expect_err(bad).to_string();
            assert!(error.contains("from 0 to 31536000"), "{error}");
        }
    }
}
