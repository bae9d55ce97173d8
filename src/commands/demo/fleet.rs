//! Eight simulated engines and the balancer in front of them, in this process.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, bail, ensure};
use engine::Profile;
use gateway::{Handle, ReplicaConfig, Settings};
use loadgen::RunSummary;
use routing::PolicySettings;
use serde_json::Value;

/// Replicas of the published runs.
pub(super) const REPLICAS: u16 = 8;
/// Steps that end later than this share of their mean length distort what is measured.
const LATE_SHARE: f64 = 0.1;
const PATIENCE: Duration = Duration::from_secs(10);

/// Engines with empty caches, and a balancer that finds them healthy.
pub(super) struct DemoFleet {
    engines: engine::Fleet,
    gateway: Handle,
}

impl DemoFleet {
    pub(super) fn start(policy: PolicySettings, speedup: f64) -> anyhow::Result<Self> {
        let config = engine::Config { replicas: REPLICAS, speedup, ..engine::Config::new(Profile::l4()) };
        let engines = engine::serve(config)?;
        let replicas = engines
            .addresses()
            .iter()
            .map(|address| Ok(ReplicaConfig::new(format!("http://{address}").parse()?)))
            .collect::<anyhow::Result<Vec<_>>>()?;
        let mut settings = Settings::new(replicas)?;
        settings.listen = SocketAddr::from(([127, 0, 0, 1], 0));
        settings.admin_listen = settings.listen;
        settings.policy = policy;
        settings.access_log = gateway::AccessLog::Off;
        let gateway = gateway::start(settings)?;
        let fleet = Self { engines, gateway };
        fleet.wait("the engines are not healthy", || {
            Ok(get(fleet.gateway.admin_address(), "/api/fleet")?["replicas"]
                .as_array()
                .is_some_and(|replicas| replicas.iter().all(|replica| replica["state"] == "healthy")))
        })?;
        Ok(fleet)
    }

    /// Where clients send to.
    pub(super) fn url(&self) -> String {
        format!("http://{}", self.gateway.address())
    }

    /// Requests in flight at each replica.
    pub(super) fn in_flight(&self) -> Vec<u64> {
        self.gateway.router().replicas().iter().map(|replica| replica.load.requests()).collect()
    }

    /// After a run nothing may be in flight anywhere.
    pub(super) fn check_idle(&self) -> anyhow::Result<()> {
        self.wait("requests are still in flight after the run", || {
            let engines = self.states()?;
            let at_engines = engines.iter().any(|state| state["running"] != 0 || state["waiting"] != 0);
            Ok(!at_engines && self.gateway.in_flight() == 0 && self.in_flight().iter().all(|load| *load == 0))
        })
    }

    /// What a reader of the figures should know about the run.
    pub(super) fn notes(&self, summary: &RunSummary) -> Vec<String> {
        let mut notes = Vec::new();
        match self.states() {
            Ok(states) => notes.extend(lateness_note(&states)),
            Err(error) => notes.push(format!("the engines' lateness is unknown: {error:#}")),
        }
        let busiest = summary.client.threads.iter().map(|thread| thread.cpu_share).fold(0.0, f64::max);
        if busiest > 0.8 {
            notes.push(format!(
                "a thread of the load generator was busy for {:.0} % of the time: choose a smaller --speedup",
                busiest * 100.0
            ));
        }
        notes
    }

    fn states(&self) -> anyhow::Result<Vec<Value>> {
        self.engines.addresses().iter().map(|address| get(*address, "/sim/state")).collect()
    }

    fn wait(&self, problem: &str, done: impl Fn() -> anyhow::Result<bool>) -> anyhow::Result<()> {
        let start = Instant::now();
        while !done()? {
            if start.elapsed() > PATIENCE {
                bail!("{problem}: gave up after {} s", PATIENCE.as_secs());
            }
            thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }
}

impl Drop for DemoFleet {
    fn drop(&mut self) {
        self.gateway.end();
    }
}

/// Says so if the engines' steps ended late.
fn lateness_note(states: &[Value]) -> Option<String> {
    let sum = |value: &dyn Fn(&Value) -> f64| states.iter().map(value).sum::<f64>();
    let number = |state: &Value, path: &str| state.pointer(path).and_then(Value::as_f64).unwrap_or(0.0);
    let steps = sum(&|state| number(state, "/steps")).max(1.0);
    let mean_step_ms = sum(&|state| number(state, "/busy_s")) * 1e3 / steps;
    let mean_lag_ms = sum(&|state| number(state, "/step_lag/mean_ms") * number(state, "/steps")) / steps;
    (mean_lag_ms > LATE_SHARE * mean_step_ms).then(|| {
        format!(
            "this machine could not follow: engine steps of {mean_step_ms:.1} ms ended {mean_lag_ms:.1} ms late \
             on average, so latencies are too long; choose a smaller --speedup"
        )
    })
}

/// The JSON behind a path of one of this process's own servers.
fn get(address: SocketAddr, path: &str) -> anyhow::Result<Value> {
    let ask = || -> std::io::Result<String> {
        let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        write!(stream, "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n")?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        Ok(text)
    };
    let text = ask().with_context(|| format!("http://{address}{path} does not answer"))?;
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
    ensure!(
        head.starts_with("HTTP/1.1 200"),
        "http://{address}{path} says: {}",
        head.lines().next().unwrap_or("")
    );
    serde_json::from_str(body).with_context(|| format!("http://{address}{path} does not answer with JSON"))
}
