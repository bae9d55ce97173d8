//! `evenload serve` as its users run it: the built binary with a configuration file and signals, before simulated
//! engines.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    path::PathBuf,
    process::{Child, ChildStderr, Command, Stdio},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use engine::{Config, Fleet, Profile};
use serde_json::Value;
use tempfile::TempDir;

const MODEL: &str = "llama-3.1-8b-instruct-fp8-l4";
const PATIENCE: Duration = Duration::from_secs(20);

/// A balancer process, its log, and a place for its file.
struct Serve {
    child: Child,
    log: mpsc::Receiver<String>,
    seen: Vec<String>,
    address: SocketAddr,
    admin: SocketAddr,
    directory: TempDir,
}

impl Serve {
    /// Starts it by `shell`, which gets the whole command as its arguments.
    fn new(config: &str, shell: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("evenload.yaml");
        fs::write(&path, config).unwrap();
        let mut child = Command::new("sh")
            .args(["-c", shell, "sh", env!("CARGO_BIN_EXE_evenload"), "serve", "--listen=127.0.0.1:0"])
            .args(["--admin-listen=127.0.0.1:0", "--threads=1", "--config"])
            .arg(&path)
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let log = lines(child.stderr.take().unwrap());
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let mut serve = Self { child, log, seen: Vec::new(), address: any, admin: any, directory };
        let line = serve.wait_for("serving");
        let address = |key: &str| line.split(key).nth(1).unwrap().split(' ').next().unwrap().parse().unwrap();
        (serve.address, serve.admin) = (address(" address="), address(" admin_address="));
        let begun = Instant::now();
        while !ask(serve.address, "GET /readyz HTTP/1.0\r\n\r\n").starts_with("HTTP/1.1 200 ") {
            assert!(begun.elapsed() < PATIENCE, "no replica passes its check");
            thread::sleep(Duration::from_millis(10));
        }
        serve
    }

    fn before(fleet: &Fleet, more: &str) -> Self {
        Self::new(&config(fleet, more), "exec \"$@\"")
    }

    fn file(&self) -> PathBuf {
        self.directory.path().join("evenload.yaml")
    }

    fn signal(&self, name: &str) {
        let killed = Command::new("kill").args([name, &self.child.id().to_string()]).status().unwrap();
        assert!(killed.success());
    }

    /// The next log line with `text` in it.
    #[track_caller]
    fn wait_for(&mut self, text: &str) -> String {
        let begun = Instant::now();
        while let Ok(line) = self.log.recv_timeout(PATIENCE.saturating_sub(begun.elapsed())) {
            self.seen.push(line.clone());
            if line.contains(text) {
                return line;
            }
        }
        panic!("no {text:?} in the log:\n{}", self.seen.join("\n"));
    }

    fn metric(&self, name: &str) -> f64 {
        let page = ask(self.admin, "GET /metrics HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n");
        let line = page.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.unwrap_or_else(|| panic!("no {name} in\n{page}")).trim().parse().unwrap()
    }

    fn policy(&self) -> String {
        let page = ask(self.admin, "GET /api/fleet HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n");
        let json: Value = serde_json::from_str(&page[page.find('{').unwrap()..]).unwrap();
        json["policy"].to_string()
    }

    /// Its exit status; it must end by itself.
    #[track_caller]
    fn status(&mut self) -> Option<i32> {
        let begun = Instant::now();
        while begun.elapsed() < PATIENCE {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status.code();
            }
            thread::sleep(Duration::from_millis(10));
        }
        panic!("it does not end");
    }
}

impl Drop for Serve {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn lines(log: ChildStderr) -> mpsc::Receiver<String> {
    let (send, receive) = mpsc::channel();
    thread::spawn(move || {
        for line in BufReader::new(log).lines().map_while(Result::ok) {
            if send.send(line).is_err() {
                return;
            }
        }
    });
    receive
}

fn engines(speedup: f64) -> Fleet {
    engine::serve(Config { speedup, ..Config::new(Profile::l4()) }).unwrap()
}

fn config(fleet: &Fleet, more: &str) -> String {
    format!("replicas:\n  - http://{}\npolicy: round_robin\n{more}", fleet.addresses()[0])
}

fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

fn ask(address: SocketAddr, request: &str) -> String {
    let mut stream = connect(address);
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    let _ = stream.read_to_string(&mut answer);
    answer
}

fn completion(tokens: u32) -> String {
    let body = format!(r#"{{"model":"{MODEL}","prompt":"a","max_tokens":{tokens},"stream":true}}"#);
    let length = body.len();
    format!(
        "POST /v1/completions HTTP/1.1\r\nhost: a\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n{body}"
    )
}

#[test]
fn a_changed_file_takes_effect_and_a_faulty_one_does_not() {
    let fleet = engines(1000.0);
    let mut serve = Serve::before(&fleet, "");
    assert!(serve.policy().contains("round_robin"));

    fs::write(serve.file(), config(&fleet, "").replace("round_robin", "least_tokens")).unwrap();
    serve.wait_for("configuration taken over");
    assert!(serve.policy().contains("least_tokens"), "the file is looked at without a signal");

    let more = "limits: {idle_timeout_s: 9}\nlog_level: debug\nretry: {retries: 1}\n";
    fs::write(serve.file(), config(&fleet, more).replace("round_robin", "least_tokens")).unwrap();
    let waiting = serve.wait_for("wait for the next start");
    assert!(waiting.contains("keys=\"log_level, limits.idle_timeout_s\""), "{waiting}");
    serve.wait_for("configuration taken over");

    fs::write(serve.file(), config(&fleet, "polcy: random\n")).unwrap();
    let refused = serve.wait_for("configuration refused");
    assert!(refused.contains("polcy") && refused.contains("evenload.yaml:4:1"), "{refused}");
    assert!(serve.policy().contains("least_tokens"));
    assert!(ask(serve.address, &completion(3)).starts_with("HTTP/1.1 200 "));

    fs::write(serve.file(), config(&fleet, "").replace("round_robin", "random")).unwrap();
    serve.signal("-HUP");
    serve.wait_for("configuration taken over");
    assert!(serve.policy().contains("random"));
    assert!(serve.metric("evenload_failed_reloads_total") >= 1.0);
}

#[test]
fn the_log_names_the_replica_that_failed() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let replica = listener.local_addr().unwrap();
    thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            let mut bytes = [0; 4096];
            let length = stream.read(&mut bytes).unwrap_or_default();
            if bytes[..length].starts_with(b"GET /health ") {
                let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n");
            }
        }
    });
    let mut serve = Serve::new(&format!("replicas: ['http://{replica}']\n"), "exec \"$@\"");
    assert!(ask(serve.address, &completion(3)).starts_with("HTTP/1.1 502 "));
    let line = serve.wait_for("upstream_closed");
    assert!(line.contains(&format!("replica=\"http://{replica}\"")), "{line}");
}

#[test]
fn a_termination_lets_streams_end_and_a_second_one_does_not() {
    for again in [false, true] {
        // A step of the profile takes about 12 ms: 100 tokens last for over a second.
        let fleet = engines(1.0);
        let mut serve = Serve::before(&fleet, "");
        let mut stream = connect(serve.address);
        stream.write_all(completion(100).as_bytes()).unwrap();
        let mut head = [0; 15];
        stream.read_exact(&mut head).unwrap();
        serve.signal("-TERM");
        serve.wait_for("draining");
        if again {
            serve.signal("-TERM");
        }
        let mut rest = Vec::new();
        let _ = stream.read_to_end(&mut rest);
        let whole = rest.ends_with(b"data: [DONE]\n\n\r\n0\r\n\r\n");
        assert_eq!(whole, !again, "{}", String::from_utf8_lossy(&rest[rest.len().saturating_sub(300)..]));
        assert_eq!(serve.status(), Some(0));
        TcpStream::connect(serve.address).expect_err("nobody listens any more");
    }
}

#[test]
fn requests_that_have_come_are_answered_before_the_end() {
    let fleet = engines(1000.0);
    let mut serve = Serve::before(&fleet, "");
    let check = b"GET /healthz HTTP/1.1\r\nhost: a\r\n\r\n";
    let mut streams: Vec<TcpStream> = (0..10).map(|_| connect(serve.address)).collect();
    for stream in &mut streams {
        stream.write_all(check).unwrap();
        let mut last = [0; 1024];
        assert!(stream.read(&mut last).unwrap() > 0);
    }
    // What comes now is there when the signal is.
    serve.signal("-STOP");
    streams.extend((0..10).map(|_| connect(serve.address)));
    for stream in &mut streams {
        stream.write_all(check).unwrap();
    }
    serve.signal("-TERM");
    serve.signal("-CONT");
    for (number, stream) in streams.iter_mut().enumerate() {
        let mut answer = [0; 15];
        stream.read_exact(&mut answer).unwrap_or_else(|error| panic!("connection {number}: {error}"));
        assert_eq!(&answer, b"HTTP/1.1 200 OK");
    }
    drop(streams);
    assert_eq!(serve.status(), Some(0));
}

#[test]
fn without_file_descriptors_a_replica_is_not_taken_to_be_ill() {
    let fleet = engines(1000.0);
    let more = "checks: {interval_s: 0.1, fast_interval_s: 0.1}\nhealth: {fall: 1}\nscrape_interval_s: 0\n";
    let mut serve = Serve::new(&config(&fleet, more), "ulimit -n 40; exec \"$@\"");
    let mut operator = connect(serve.admin);
    operator.write_all(b"GET /healthz HTTP/1.1\r\nhost: a\r\n\r\n").unwrap();
    assert!(operator.read(&mut [0; 1024]).unwrap() > 0, "it is accepted while there is room");
    let crowd: Vec<TcpStream> = (0..60).map(|_| connect(serve.address)).collect();
    serve.wait_for("a replica is not checked");
    operator.write_all(b"GET /api/fleet HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").unwrap();
    let mut fleet = String::new();
    let _ = operator.read_to_string(&mut fleet);
    assert!(fleet.contains("\"state\":\"healthy\""), "{fleet}");
    drop(crowd);
    serve.signal("-TERM");
    assert_eq!(serve.status(), Some(0));
    let said = serve.log.try_iter().chain(serve.seen.drain(..));
    let changes: Vec<_> = said.filter(|line| line.contains("state=\"unhealthy\"")).collect();
    assert!(changes.is_empty(), "{changes:?}");
}

#[test]
fn without_file_descriptors_it_waits_and_goes_on() {
    let fleet = engines(1000.0);
    let mut serve = Serve::new(&config(&fleet, ""), "ulimit -n 40; exec \"$@\"");
    let started = Instant::now();
    let crowd: Vec<TcpStream> = (0..60).map(|_| connect(serve.address)).collect();
    serve.wait_for("cannot accept connections");
    for one in crowd {
        // Each that goes lets one in, and then there is no room again.
        drop(one);
        thread::sleep(Duration::from_millis(20));
    }
    let begun = Instant::now();
    loop {
        // While the crowd is still being let go, the answer may be that there is no room yet; never that the replica
        // is at fault.
        let answer = ask(serve.address, &completion(3));
        if answer.starts_with("HTTP/1.1 200 ") {
            break;
        }
        assert!(answer.contains("no_descriptor") && begun.elapsed() < PATIENCE, "{answer}");
    }
    assert!(serve.metric("evenload_accept_errors_total") >= 1.0);
    serve.signal("-TERM");
    assert_eq!(serve.status(), Some(0));
    let warnings = serve.log.try_iter().chain(serve.seen.drain(..));
    let said = warnings.filter(|line| line.contains("cannot accept connections")).count();
    let intervals = started.elapsed().as_secs() / 10;
    assert!(said as u64 <= 1 + intervals, "{said} lines about one thing");
}
