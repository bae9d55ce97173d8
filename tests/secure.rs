//! TLS as its users meet it: the built binary as a balancer with a certificate, and the load generators that send to
//! it, as strangers, as those who trust it, and as those who do not care.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod run_support;

use std::{
    fs,
    io::{BufRead, BufReader, Write},
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, ChildStderr, Command, Output, Stdio},
    sync::Arc,
    thread,
};

use engine::{Config, Fleet, Profile};
use rustls::{
    RootCertStore, ServerConfig, ServerConnection, StreamOwned,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    server::WebPkiClientVerifier,
};
use serde_json::Value;
use tempfile::TempDir;

const MODEL: &str = "llama-3.1-8b-instruct-fp8-l4";

/// An engine, a balancer with a certificate before it, and a place for files.
struct Stage {
    folder: TempDir,
    balancer: Child,
    log: BufReader<ChildStderr>,
    url: String,
    _engine: Fleet,
}

/// Writes a new certificate for this machine, the key first.
fn certify(folder: &Path) {
    let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
    fs::write(folder.join("server.key"), made.signing_key.serialize_pem()).unwrap();
    fs::write(folder.join("server.pem"), made.cert.pem()).unwrap();
}

impl Stage {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        certify(folder.path());
        let engine = engine::serve(Config { speedup: 1000.0, ..Config::new(Profile::l4()) }).unwrap();
        let mut balancer = Command::new(env!("CARGO_BIN_EXE_evenload"))
            .args(["serve", "--listen=127.0.0.1:0", "--admin-listen=127.0.0.1:0", "--threads=1"])
            .args(["--tls-certificate=server.pem", "--tls-key=server.key", "--replica"])
            .arg(format!("http://{}", engine.addresses()[0]))
            .current_dir(&folder)
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let log = BufReader::new(balancer.stderr.take().unwrap());
        let mut stage = Self { folder, balancer, log, url: String::new(), _engine: engine };
        let line = stage.wait_for("serving");
        let address = line.split(" address=").nth(1).unwrap().split(' ').next().unwrap();
        stage.url = format!("https://{address}");
        stage
    }

    /// The next line of the balancer's log with `text` in it.
    #[track_caller]
    fn wait_for(&mut self, text: &str) -> String {
        let mut line = String::new();
        while !line.contains(text) {
            line.clear();
            assert!(self.log.read_line(&mut line).unwrap() > 0, "the log ends without {text:?}");
        }
        line
    }

    fn evenload(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_evenload"));
        command.args(arguments).current_dir(&self.folder);
        command
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn profile(&self) -> Command {
        let mut command = self.evenload(&["profile", "--model", MODEL, "--url", &self.url, "--streaming"]);
        command.args(["--request-count", "5", "--osl", "4", "--output-artifact-dir", "out"]);
        command
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        let _ = self.balancer.kill();
        let _ = self.balancer.wait();
    }
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&[&*output.stdout, &*output.stderr].concat()).into_owned()
}

#[test]
fn every_load_generator_speaks_tls() {
    let stage = Stage::new();
    let certificate = stage.path("server.pem");

    let stranger = stage.profile().output().unwrap();
    assert!(!stranger.status.success() && said(&stranger).contains("SSL_CERT_FILE"), "{}", said(&stranger));
    let trusting = stage.profile().env("SSL_CERT_FILE", &certificate).output().unwrap();
    assert!(trusting.status.success(), "{}", said(&trusting));
    let careless = stage.profile().env("AIPERF_HTTP_SSL_VERIFY", "false").output().unwrap();
    assert!(careless.status.success(), "{}", said(&careless));
    let report = fs::read_to_string(stage.path("out/profile_export_aiperf.json")).unwrap();
    let report: Value = serde_json::from_str(&report).unwrap();
    assert_eq!(report["request_count"]["avg"], 5.0);

    let bench = ["bench", "--insecure", "--base-url", &stage.url, "--model", MODEL];
    let random = ["--dataset-name", "random", "--num-prompts", "5", "--random-output-len", "4"];
    let output = stage.evenload(&bench).args(random).output().unwrap();
    assert!(output.status.success(), "{}", said(&output));
    assert!(said(&output).contains("Successful requests:                     5"), "{}", said(&output));

    let config = format!(
        "load: {{type: constant, stages: [{{rate: 50, duration: 1}}]}}\ndata: {{type: mock}}\napi: {{type: completion}}\n\
         server: {{type: vllm, base_url: '{}', model_name: {MODEL}}}\nevenload: {{insecure: true}}\n",
        stage.url
    );
    fs::write(stage.path("config.yml"), config).unwrap();
    let run = ["run", "--config_file", "config.yml", "--storage.local_storage.path", "reports"];
    let output = stage.evenload(&run).output().unwrap();
    assert!(output.status.success(), "{}", said(&output));
    let report = fs::read_to_string(stage.path("reports/summary_lifecycle_metrics.json")).unwrap();
    let report: Value = serde_json::from_str(&report).unwrap();
    assert_eq!((&report["successes"]["count"], &report["failures"]["count"]), (&50.into(), &0.into()));
}

#[test]
fn a_new_certificate_takes_effect_while_it_serves() {
    let mut stage = Stage::new();
    let old = stage.path("old.pem");
    fs::copy(stage.path("server.pem"), &old).unwrap();
    certify(stage.folder.path());
    stage.wait_for("certificate for clients taken over");
    let trusting = |file: &Path| stage.profile().env("SSL_CERT_FILE", file).output().unwrap().status;
    assert!(!trusting(&old).success());
    assert!(trusting(&stage.path("server.pem")).success());
}

/// A server that talks only to those who show a certificate that `trusted` holds; it answers every request.
fn demanding(folder: &Path, trusted: &Path) -> String {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let certificates =
        |path: &Path| CertificateDer::pem_file_iter(path).unwrap().map(Result::unwrap).collect::<Vec<_>>();
    let mut roots = RootCertStore::empty();
    certificates(trusted).into_iter().for_each(|certificate| roots.add(certificate).unwrap());
    let roots = Arc::new(roots);
    let verifier = WebPkiClientVerifier::builder_with_provider(roots, Arc::clone(&provider)).build().unwrap();
    let own = (
        certificates(&folder.join("server.pem")),
        PrivateKeyDer::from_pem_file(folder.join("server.key")).unwrap(),
    );
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_client_cert_verifier(verifier)
        .with_single_cert(own.0, own.1)
        .unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("https://{}", listener.local_addr().unwrap());
    let config = Arc::new(config);
    thread::spawn(move || {
        for socket in listener.incoming().flatten() {
            let connection = ServerConnection::new(Arc::clone(&config)).unwrap();
            thread::spawn(move || {
                let mut stream = StreamOwned::new(connection, socket);
                if run_support::read_request(&mut stream).is_some() {
                    let body =
                        r#"{"choices":[{"text":"x"}],"usage":{"prompt_tokens":3,"completion_tokens":1}}"#;
                    run_support::reply(&mut stream, "200 OK", body);
                    stream.conn.send_close_notify();
                    let _ = stream.flush();
                }
            });
        }
    });
    url
}

#[test]
fn run_shows_its_certificate_and_says_which_file_is_wrong() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    certify(folder.path());
    let certify_client = |name: &str| {
        let made = rcgen::generate_simple_self_signed([name.to_owned()]).unwrap();
        fs::write(path(&format!("{name}.key")), made.signing_key.serialize_pem()).unwrap();
        fs::write(path(&format!("{name}.pem")), made.cert.pem()).unwrap();
    };
    ["client", "other"].into_iter().for_each(certify_client);
    let url = demanding(folder.path(), &path("client.pem"));
    let config = format!(
        "load: {{stages: [{{rate: 5, duration: 1}}]}}\nserver: {{base_url: '{url}', model_name: {MODEL}}}\n"
    );
    fs::write(path("config.yml"), config).unwrap();
    let run = |flags: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_evenload"));
        command.args(["run", "--config_file", "config.yml", "--storage.local_storage.path", "reports"]);
        let command = command.args(flags).current_dir(&folder).env("SSL_CERT_FILE", path("server.pem"));
        command.output().unwrap()
    };
    let showing =
        |certificate: &str, key: &str| run(&["--server.cert_path", certificate, "--server.key_path", key]);

    let stranger = run(&[]);
    assert_eq!(stranger.status.code(), Some(1), "{}", said(&stranger));
    let known = showing("client.pem", "client.key");
    assert!(known.status.success(), "{}", said(&known));
    let report = fs::read_to_string(path("reports/summary_lifecycle_metrics.json")).unwrap();
    let report: Value = serde_json::from_str(&report).unwrap();
    assert_eq!((&report["successes"]["count"], &report["failures"]["count"]), (&5.into(), &0.into()));

    for (certificate, key, wanted) in [
        ("client.pem", "other.key", "server.key_path: other.key: the key of another certificate"),
        ("other.key", "client.key", "server.cert_path: other.key: no certificate in it"),
        ("client.pem", "gone.key", "server.key_path: gone.key: cannot be read: No such file"),
    ] {
        let output = showing(certificate, key);
        let said = said(&output);
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert!(said.contains(wanted), "{said}");
    }
}
