//! What goes on around a run of `evenload profile`: waiting for servers, profilers, pauses, keys and signals.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    path::Path,
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex},
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

/// No test waits longer.
const PATIENCE: Duration = Duration::from_secs(60);

/// A server that writes down the heads of requests, and answers those whose path it knows.
struct Server {
    url: String,
    heads: Arc<Mutex<Vec<String>>>,
}

impl Server {
    fn start(answers: impl Fn(&str) -> bool + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let heads = Arc::<Mutex<Vec<String>>>::default();
        let (seen, answers) = (Arc::clone(&heads), Arc::new(answers));
        thread::spawn(move || {
            for socket in listener.incoming() {
                let (seen, answers) = (Arc::clone(&seen), Arc::clone(&answers));
                thread::spawn(move || serve(socket.unwrap(), &seen, &*answers));
            }
        });
        Self { url, heads }
    }

    fn heads(&self) -> Vec<String> {
        self.heads.lock().unwrap().clone()
    }

    /// Methods and paths, but for the metrics page.
    fn paths(&self) -> Vec<String> {
        let line = |head: String| head.lines().next().unwrap().trim_end_matches(" HTTP/1.1").to_owned();
        self.heads().into_iter().map(line).filter(|line| !line.ends_with("/metrics")).collect()
    }
}

fn serve(mut socket: TcpStream, seen: &Mutex<Vec<String>>, answers: &dyn Fn(&str) -> bool) {
    let mut reader = BufReader::new(socket.try_clone().unwrap());
    loop {
        let (mut head, mut length) = (String::new(), 0);
        loop {
            let before = head.len();
            if reader.read_line(&mut head).unwrap_or(0) == 0 {
                return;
            }
            let line = head[before..].trim().to_lowercase();
            if let Some(value) = line.strip_prefix("content-length: ") {
                length = value.parse().unwrap();
            }
            if line.is_empty() {
                break;
            }
        }
        reader.read_exact(&mut vec![0; length]).unwrap();
        let path = head.split(' ').nth(1).unwrap().to_owned();
        seen.lock().unwrap().push(head);
        if !answers(&path) {
            thread::sleep(PATIENCE);
            return;
        }
        let (status, body) = match path.as_str() {
            "/metrics" => ("404 Not Found", "{}"),
            path if path.ends_with("/chat/completions") => (
                "200 OK",
                r#"{"choices":[{"message":{"content":"a"},"finish_reason":"stop"}],"usage":{"prompt_tokens":3,"completion_tokens":1}}"#,
            ),
            path if path.ends_with("_profile") => {
                // Nothing may be sent before a slow answer to this is there.
                thread::sleep(Duration::from_millis(300));
                ("200 OK", "{}")
            }
            _ => ("404 Not Found", "{}"),
        };
        let answer = format!(
            "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        if socket.write_all(answer.as_bytes()).is_err() {
            return;
        }
    }
}

fn profile(directory: &TempDir, url: &str, flags: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_evenload"));
    command.args(["profile", "-m", "llama", "--artifact-dir", "out", "--isl", "8", "--osl", "4", "-u", url]);
    command.args(flags).current_dir(directory).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn until(condition: impl Fn() -> bool) {
    let began = Instant::now();
    while !condition() {
        assert!(began.elapsed() < PATIENCE, "waited in vain");
        thread::sleep(Duration::from_millis(5));
    }
}

/// Sends a signal and returns the status, which must come before any wait is over.
fn status_after(signal: Signal, mut run: Child) -> Option<i32> {
    kill_process(Pid::from_child(&run), signal).unwrap();
    let began = Instant::now();
    loop {
        if let Some(status) = run.try_wait().unwrap() {
            return status.code();
        }
        if began.elapsed() > PATIENCE / 2 {
            run.kill().unwrap();
            panic!("the signal was swallowed");
        }
        thread::sleep(Duration::from_millis(5));
    }
}

fn all_text(folder: &Path) -> String {
    let mut text = String::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        text += &if path.is_dir() {
            all_text(&path)
        } else {
            String::from_utf8_lossy(&fs::read(&path).unwrap()).into_owned()
        };
    }
    text
}

#[test]
fn a_signal_ends_the_waiting_for_a_server() {
    let directory = tempfile::tempdir().unwrap();
    for (hangs, signal) in [(true, Signal::TERM), (false, Signal::INT)] {
        // One that leaves the question open, and one that says no.
        let server = Server::start(move |_| !hangs);
        let flags = [
            "--endpoint=/not-there",
            "--wait-for-model-timeout=900000",
            "--wait-for-model-interval=100000",
            "--request-count=3",
        ];
        let run = profile(&directory, &server.url, &flags).spawn().unwrap();
        until(|| !server.paths().is_empty());
        thread::sleep(Duration::from_millis(100));
        assert_eq!(status_after(signal, run), Some(130));
        assert_eq!(server.paths(), ["POST /not-there"], "nothing else is sent");
    }
}

#[test]
fn a_signal_ends_the_pause_between_two_runs_and_the_first_one_counts() {
    let directory = tempfile::tempdir().unwrap();
    let server = Server::start(|_| true);
    let flags = ["--request-count=3", "--num-profile-runs=2", "--profile-run-cooldown-seconds=100000"];
    let run = profile(&directory, &server.url, &flags).spawn().unwrap();
    let first = directory.path().join("out/run_0001/report.html");
    until(|| first.exists());
    thread::sleep(Duration::from_millis(200));
    assert_eq!(status_after(Signal::INT, run), Some(130));
    let table = fs::read_to_string(directory.path().join("out/sweep.csv")).unwrap();
    assert_eq!(table.lines().nth(1).and_then(|line| line.split(',').nth(1)), Some("1"), "{table}");
    assert!(!directory.path().join("out/run_0002").exists());
}

#[test]
fn a_server_is_asked_where_the_run_will_ask() {
    for (endpoint, path) in [("v1/chat/completions", "/v1/chat/completions"), ("", "/v1/chat/completions")] {
        let directory = tempfile::tempdir().unwrap();
        let server = Server::start(|_| true);
        let base = if endpoint.is_empty() { "/v1/chat/completions" } else { "/v1" };
        let flags = ["--endpoint", endpoint, "--wait-for-model-timeout=1", "--request-count=2"];
        let output = profile(&directory, &format!("{}{base}", server.url), &flags).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        assert_eq!(server.paths(), vec![format!("POST {path}"); 3]);
    }
}

#[test]
fn the_servers_profiler_runs_before_the_first_measured_request() {
    for warm_up in [0, 2] {
        let directory = tempfile::tempdir().unwrap();
        let server = Server::start(|_| true);
        let warm = format!("--warmup-request-count={warm_up}");
        let mut flags = vec!["--server-profiler", "--request-count=3"];
        flags.extend((warm_up > 0).then_some(warm.as_str()));
        let output = profile(&directory, &server.url, &flags).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        let mut expected = vec!["POST /v1/chat/completions"; warm_up];
        expected.push("POST /start_profile");
        expected.extend(["POST /v1/chat/completions"; 3]);
        expected.push("POST /stop_profile");
        assert_eq!(server.paths(), expected);
    }
}

#[test]
fn keys_reach_the_server_and_nobody_else() {
    let directory = tempfile::tempdir().unwrap();
    let server = Server::start(|_| true);
    let flags = ["-H", "Authorization: Bearer sesame-1", "--header=x-api-key:sesame-2", "--request-count=2"];
    let output = profile(&directory, &server.url, &flags).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.contains("Authorization:***"), "{said}");
    assert!(!said.contains("sesame") && !all_text(directory.path()).contains("sesame"));
    for head in server.heads().iter().filter(|head| head.starts_with("POST")) {
        assert!(head.contains("Bearer sesame-1") && head.contains("sesame-2"), "{head}");
    }

    let config = format!(
        "api: {{type: chat, headers: {{Cookie: sesame-3}}}}\nload: {{stages: [{{rate: 10, duration: 1}}]}}\n\
         server: {{base_url: \"{}\", model_name: llama, api_key: sesame-4}}\n\
         storage: {{local_storage: {{path: reports}}}}\n",
        server.url
    );
    let outside = tempfile::tempdir().unwrap();
    fs::write(outside.path().join("config.yml"), config).unwrap();
    for shard in ["1/1", "2/2"] {
        server.heads.lock().unwrap().clear();
        let output = Command::new(env!("CARGO_BIN_EXE_evenload"))
            .arg("run")
            .arg("--config_file")
            .arg(outside.path().join("config.yml"))
            .args(["--shard", shard])
            .current_dir(&directory)
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && said.contains("***"), "{said}");
        assert!(!said.contains("sesame") && !all_text(directory.path()).contains("sesame"));
        let heads = server.heads();
        assert!(heads.iter().any(|head| head.starts_with("POST")));
        for head in heads.iter().filter(|head| !head.contains("/metrics")) {
            assert!(head.contains("Bearer sesame-4") && head.contains("sesame-3"), "{head}");
        }
    }
}
