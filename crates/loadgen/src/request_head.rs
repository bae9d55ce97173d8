//! The head of a request as it goes over the wire.
//!
//! Everything that is the same for all requests of a run is written once, beforehand, in [`Heads::new`]; names and
//! values that would break the framing are refused there. Per request only the path, the length and the names of
//! request and session are added.

use std::io::Write as _;

use protocol::{Endpoint, header_problem};

use crate::{Error, Options, Reuse, Targets, target::Target};

/// Writes request heads for one run.
#[derive(Debug)]
pub(crate) struct Heads {
    /// Header lines that all requests share, each with its line end.
    common: Vec<u8>,
    /// `Host` line per target; empty where the user sets that header.
    hosts: Vec<String>,
    path: Option<String>,
    session_header: String,
    affinity: bool,
    names: bool,
    run_name: String,
}

/// What differs between requests.
#[derive(Clone, Copy, Debug)]
pub(crate) struct HeadParts {
    pub(crate) target: u16,
    pub(crate) endpoint: Endpoint,
    pub(crate) body_bytes: usize,
    pub(crate) phase: u16,
    pub(crate) index: u64,
    pub(crate) session: u64,
}

const AFFINITY_HEADER: &str = "X-Session-Affinity";
const REQUEST_HEADER: &str = "X-Request-ID";

impl Heads {
    pub(crate) fn new(targets: &Targets, options: &Options) -> Result<Self, Error> {
        let given = |name: &str| options.headers.iter().any(|(given, _)| given.eq_ignore_ascii_case(name));
        let mut common = Vec::new();
        for (name, value) in [
            ("Content-Type", "application/json"),
            ("Accept", "text/event-stream, application/json"),
            ("User-Agent", concat!("evenload/", env!("CARGO_PKG_VERSION"))),
        ] {
            if !given(name) {
                header(&mut common, name, value)?;
            }
        }
        if let (Some(key), false) = (&options.api_key, given("Authorization")) {
            header(&mut common, "Authorization", &format!("Bearer {key}"))?;
        }
        for (name, value) in &options.headers {
            header(&mut common, name, value)?;
        }
        if options.reuse == Reuse::Never {
            common.extend_from_slice(b"Connection: close\r\n");
        }
        if !options.session_header.is_empty() {
            header(&mut Vec::new(), &options.session_header, &options.run_name)?;
        }
        if options.path.as_ref().is_some_and(|path| path.contains(|c: char| !c.is_ascii_graphic())) {
            return Err(Error::Path(options.path.clone().unwrap_or_default()));
        }
        let host = |target: &Target| match given("Host") {
            true => String::new(),
            false => format!("Host: {}\r\n", target.authority()),
        };
        Ok(Self {
            common,
            hosts: (0..targets.count()).map(|index| host(targets.get(index))).collect(),
            path: options.path.clone(),
            session_header: options.session_header.clone(),
            affinity: options.names && !options.session_header.eq_ignore_ascii_case(AFFINITY_HEADER),
            names: options.names,
            run_name: options.run_name.clone(),
        })
    }

    /// Writes a head to the end of `out`.
    pub(crate) fn write(&self, target: &Target, parts: HeadParts, out: &mut Vec<u8>) {
        let HeadParts { target: target_index, endpoint, body_bytes, phase, index, session } = parts;
        let [slash, before, between, path] = operation_path(target, endpoint, self.path.as_deref());
        let run = &self.run_name;
        // Writing to a Vec does not fail.
        let _ = write!(
            out,
            "POST {slash}{before}{between}{path} HTTP/1.1\r\n{}Content-Length: {body_bytes}\r\n",
            self.hosts[usize::from(target_index)],
        );
        if self.names {
            let _ = write!(out, "{REQUEST_HEADER}: {run}-{phase}-{index}\r\n");
        }
        if !self.session_header.is_empty() {
            let _ = write!(out, "{}: {run}-{session}\r\n", self.session_header);
        }
        if self.affinity {
            let _ = write!(out, "{AFFINITY_HEADER}: {run}-{session}\r\n");
        }
        out.extend_from_slice(&self.common);
        out.extend_from_slice(b"\r\n");
    }
}

/// The path of a request of the run, as the parts that are written one after the other: that of its operation, or the
/// user's own, after the base of the target.
pub(crate) fn operation_path<'a>(
    target: &'a Target,
    endpoint: Endpoint,
    own: Option<&'a str>,
) -> [&'a str; 4] {
    match own {
        None => joined(target.prefix(), endpoint.path()),
        Some("") => joined(target.path(), ""),
        Some(path) if target.path().ends_with(path) => joined(target.path(), ""),
        Some(path) => joined(target.prefix(), path),
    }
}

/// One path after another, with a slash before each.
pub(crate) fn joined<'a>(before: &'a str, path: &'a str) -> [&'a str; 4] {
    let slash =
        if before.starts_with('/') || (before.is_empty() && path.starts_with('/')) { "" } else { "/" };
    let between = if path.is_empty() || path.starts_with('/') || before.is_empty() { "" } else { "/" };
    [slash, before, between, path]
}

fn header(out: &mut Vec<u8>, name: &str, value: &str) -> Result<(), Error> {
    if let Some(why) = header_problem(name, value) {
        return Err(Error::Header { name: name.to_owned(), why });
    }
    for part in [name, ": ", value.trim(), "\r\n"] {
        out.extend_from_slice(part.as_bytes());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn written(url: &str, change: impl FnOnce(&mut Options)) -> Result<String, Error> {
        let targets = Targets::resolve([url]).unwrap();
        let mut options = Options::new(Arc::new(|_, _, _| {}));
        change(&mut options);
        let heads = Heads::new(&targets, &options)?;
        let endpoint = Endpoint::ChatCompletions;
        let parts = HeadParts { target: 0, endpoint, body_bytes: 12, phase: 1, index: 34, session: 5 };
        let mut out = Vec::new();
        heads.write(targets.get(0), parts, &mut out);
        Ok(String::from_utf8(out).unwrap())
    }

    fn path(url: &str, path: Option<&str>) -> String {
        let head = written(url, |options| options.path = path.map(str::to_owned)).unwrap();
        head.split(' ').nth(1).unwrap().to_owned()
    }

    #[test]
    fn the_standard_head_is_complete() {
        let head = written("127.0.0.1:8/base/v1", |options| options.api_key = Some("k".to_owned())).unwrap();
        let version = env!("CARGO_PKG_VERSION");
        assert_eq!(
            head,
            format!(
                "POST /base/v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1:8\r\nContent-Length: 12\r\n\
                 X-Request-ID: run-1-34\r\nX-Correlation-ID: run-5\r\nX-Session-Affinity: run-5\r\n\
                 Content-Type: application/json\r\nAccept: text/event-stream, application/json\r\n\
                 User-Agent: evenload/{version}\r\nAuthorization: Bearer k\r\n\r\n"
            )
        );
    }

    #[test]
    fn requests_are_named_only_if_they_shall_be() {
        let head = |header: &str| {
            let change = |options: &mut Options| {
                options.names = false;
                header.clone_into(&mut options.session_header);
            };
            written("127.0.0.1", change).unwrap()
        };
        assert!(!head("").contains("\r\nX-"), "{}", head(""));
        let own = head("X-Own");
        assert!(own.contains("\r\nX-Own: run-5\r\n") && own.matches("\r\nX-").count() == 1, "{own}");
    }

    #[test]
    fn own_headers_replace_standard_ones() {
        let head = written("127.0.0.1", |options| {
            options.headers = [("user-agent", "x"), ("Host", "h"), ("A", "1"), ("A", "2")]
                .map(|(n, v)| (n.into(), v.into()))
                .into();
            options.session_header = "x-session-affinity".to_owned();
            options.reuse = Reuse::Never;
        })
        .unwrap();
        assert_eq!(head.to_lowercase().matches("user-agent").count(), 1);
        assert_eq!(head.to_lowercase().matches("host: ").count(), 1);
        assert_eq!(head.to_lowercase().matches("x-session-affinity").count(), 1);
        assert!(head.contains("A: 1\r\nA: 2\r\nConnection: close\r\n"));
    }

    #[test]
    fn headers_that_would_break_the_message_are_refused() {
        for (name, value) in [("A\r\nB", "x"), ("", "x"), ("A", "x\r\nB: y"), ("Content-Length", "3")] {
            let refused = written("127.0.0.1", |o| o.headers = vec![(name.into(), value.into())]);
            assert!(matches!(refused, Err(Error::Header { .. })), "{name:?}: {value:?}");
        }
        assert!(matches!(written("127.0.0.1", |o| o.path = Some("/a b".into())), Err(Error::Path(_))));
        assert!(matches!(written("127.0.0.1", |o| o.run_name = "a\nb".into()), Err(Error::Header { .. })));
    }

    #[test]
    fn a_path_of_ones_own_is_put_after_the_base_once() {
        assert_eq!(path("127.0.0.1", None), "/v1/chat/completions");
        assert_eq!(path("127.0.0.1/v1", Some("/v1/generate")), "/v1/generate");
        assert_eq!(path("127.0.0.1/base", Some("generate")), "/base/generate");
        assert_eq!(path("127.0.0.1/a/generate", Some("/generate")), "/a/generate");
        assert_eq!(path("127.0.0.1/v1/x", Some("")), "/v1/x");
        assert_eq!(path("127.0.0.1", Some("")), "/");
    }
}
