//! Eight simulated engines and the balancer in front of them, in this process.

use std::{
    net::SocketAddr,
    thread,
    time::{Duration, Instant},
};

use anyhow::bail;
use engine::Profile;
use gateway::{Handle, ReplicaConfig, Settings};
use loadgen::Targets;
use report::{Flags, Warning};
use routing::PolicySettings;
use serde_json::Value;

use crate::commands::engine_state::{self, Lateness};

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
        let admin = Targets::resolve([fleet.gateway.admin_address().to_string()])?;
        fleet.wait("the engines are not healthy", || {
            Ok(engine_state::ask(&admin, 0, "/api/fleet")?["replicas"]
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

    /// What the engines say of their steps, if these ended too late.
    pub(super) fn lateness(&self) -> anyhow::Result<Option<Warning>> {
        let Lateness { step_ms, mean_ms: lag_ms, .. } = engine_state::lateness(&self.states()?);
        let late = Warning::EnginesLate { step_ms, lag_ms, speedup: Flags::DEMO.rate };
        Ok((lag_ms > LATE_SHARE * step_ms).then_some(late))
    }

    fn states(&self) -> anyhow::Result<Vec<Value>> {
        let targets = Targets::resolve(self.engines.addresses().iter().map(ToString::to_string))?;
        engine_state::states(&targets)
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
