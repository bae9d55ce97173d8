//! Engines, folders and files for the tests of `evenload run`.

#![allow(dead_code, reason = "each test file uses its part")]

use std::{
    fs,
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Command, Output},
    sync::{Arc, Mutex},
    thread,
};

use engine::{Adapter, Config, Fleet, Profile};
use serde_json::Value;
use tempfile::TempDir;

pub(crate) const MODEL: &str = "llama-3.1-8b-instruct-fp8-l4";

/// An engine and a place for files.
pub(crate) struct Stage {
    pub(crate) engine: Fleet,
    pub(crate) folder: TempDir,
}

impl Stage {
    /// A fast engine with these adapters.
    pub(crate) fn with_adapters(adapters: &[&str]) -> Self {
        let profile = Profile { max_adapters: 8, ..Profile::l4() };
        let adapter = |name: &&str| Adapter { name: (*name).to_owned(), path: "none".to_owned() };
        Self::with(Config {
            speedup: 2000.0,
            adapters: adapters.iter().map(adapter).collect(),
            ..Config::new(profile)
        })
    }

    pub(crate) fn new() -> Self {
        Self::with_adapters(&[])
    }

    pub(crate) fn with(config: Config) -> Self {
        Self { engine: engine::serve(config).unwrap(), folder: tempfile::tempdir().unwrap() }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.engine.addresses()[0])
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// A configuration with the server added; a whole one at every moment, since another process may be reading the last.
    pub(crate) fn config(&self, text: &str) -> PathBuf {
        let server = format!("\nserver:\n  base_url: {}\n  model_name: {MODEL}\n", self.url());
        let path = self.path("config.yml");
        let written = tempfile::NamedTempFile::new_in(&self.folder).unwrap();
        fs::write(&written, text.to_owned() + &server).unwrap();
        written.persist(&path).unwrap();
        path
    }

    /// `evenload run` with a configuration and flags; reports go to `out`.
    pub(crate) fn command(&self, text: &str, flags: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_evenload"));
        command.arg("run").arg("--config_file").arg(self.config(text)).current_dir(&self.folder);
        command.args(["--storage.local_storage.path", "out"]).args(flags);
        command
    }

    /// Runs it; it must succeed.
    #[track_caller]
    pub(crate) fn run(&self, text: &str, flags: &[&str]) -> Output {
        let output = self.command(text, flags).output().unwrap();
        assert!(output.status.success(), "{}\n{}", said(&output.stderr), said(&output.stdout));
        output
    }

    /// A report of the last run.
    #[track_caller]
    pub(crate) fn report(&self, name: &str) -> Value {
        read(&self.path("out").join(name))
    }
}

#[track_caller]
pub(crate) fn read(path: &Path) -> Value {
    let text = fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_json::from_str(&text).unwrap()
}

pub(crate) fn said(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// All paths of keys in a value, lists without their places, sorted.
pub(crate) fn key_paths(value: &Value) -> Vec<String> {
    fn walk(value: &Value, path: &str, paths: &mut Vec<String>) {
        match value {
            Value::Object(map) => {
                for (key, value) in map {
                    let path = if path.is_empty() { key.clone() } else { format!("{path}/{key}") };
                    paths.push(path.clone());
                    walk(value, &path, paths);
                }
            }
            Value::Array(items) => {
                items.iter().take(1).for_each(|item| walk(item, &format!("{path}[]"), paths))
            }
            _ => {}
        }
    }
    let mut paths = Vec::new();
    walk(value, "", &mut paths);
    paths.sort();
    paths
}

/// A server that is told what to answer, and keeps what it was asked.
pub(crate) struct Stub {
    pub(crate) url: String,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Stub {
    /// `answer` writes the whole answer to a request; the connection is closed after it.
    pub(crate) fn new(answer: impl Fn(&str, &mut TcpStream) + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let (asked, answer) = (Arc::new(Mutex::new(Vec::new())), Arc::new(answer));
        let kept = Arc::clone(&asked);
        thread::spawn(move || {
            for mut socket in listener.incoming().flatten() {
                let (kept, answer) = (Arc::clone(&kept), Arc::clone(&answer));
                thread::spawn(move || {
                    let Some(request) = read_request(&mut socket) else { return };
                    kept.lock().unwrap().push(request.clone());
                    answer(&request, &mut socket);
                });
            }
        });
        Self { url, asked }
    }

    /// Head and body of all requests so far.
    pub(crate) fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }
}

/// Head and body of a request; nothing if it ends before it is whole.
pub(crate) fn read_request(socket: &mut impl Read) -> Option<String> {
    let (mut bytes, mut buffer) = (Vec::new(), [0; 4096]);
    loop {
        let text = String::from_utf8_lossy(&bytes).into_owned();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let head = head.to_lowercase();
            let length =
                head.split("content-length: ").nth(1).and_then(|rest| rest.lines().next()?.parse().ok());
            if body.len() >= length.unwrap_or(0) {
                return Some(text);
            }
        }
        match socket.read(&mut buffer) {
            Ok(count) if count > 0 => bytes.extend_from_slice(&buffer[..count]),
            _ => return None,
        }
    }
}

/// Writes an answer with its length.
pub(crate) fn reply(socket: &mut impl Write, status: &str, body: &str) {
    let head = format!("HTTP/1.1 {status}\r\nConnection: close\r\nContent-Length: {}\r\n\r\n", body.len());
    let _ = socket.write_all((head + body).as_bytes());
    let _ = socket.flush();
}
