//! What a running gateway takes over of a changed configuration, and what waits for its next start.
//!
//! What the process is made of waits: sockets, threads, files, limits. Everything else is taken over. Every field is
//! named here once, so that a new one cannot be forgotten.

use super::{CheckConfig, HealthConfig, LimitConfig, RetryConfig, Settings};
use routing::HealthSettings;

impl Settings {
    /// These settings, as far as a gateway that was started with `start` can take them over, and the keys whose
    /// changes have to wait.
    pub(crate) fn taken_over(&self, start: &Self) -> (Self, Vec<String>) {
        let mut taken = Self {
            listen: start.listen,
            admin_listen: start.admin_listen,
            threads: start.threads,
            decision_log: start.decision_log.clone(),
            log_level: start.log_level,
            log_format: start.log_format,
            limits: start.limits.clone(),
            replicas: self.replicas.clone(),
            policy: self.policy.clone(),
            scrape_interval: self.scrape_interval,
            drain_timeout: self.drain_timeout,
            access_log: self.access_log,
            checks: self.checks.clone(),
            // Whether there are checks to wait for was decided at the start.
            health: HealthSettings { wait_for_check: start.health.wait_for_check, ..self.health.clone() },
            retry: self.retry.clone(),
            tls: self.tls.clone(),
        };
        taken.tls.identity.clone_from(&start.tls.identity);
        // Those who check and read are there or not.
        for (interval, first) in [
            (&mut taken.checks.interval, start.checks.interval),
            (&mut taken.scrape_interval, start.scrape_interval),
        ] {
            if interval.is_zero() != first.is_zero() {
                *interval = first;
            }
        }
        let waiting = self.differing(&taken);
        (taken, waiting)
    }

    /// The keys in which the two differ.
    fn differing(&self, other: &Self) -> Vec<String> {
        let (log, other_log) = (self.decision_log.as_ref(), other.decision_log.as_ref());
        let (tls, other_tls) = (self.tls.identity.as_ref(), other.tls.identity.as_ref());
        let mut keys: Vec<String> = [
            ("listen", self.listen != other.listen),
            ("admin_listen", self.admin_listen != other.admin_listen),
            ("threads", self.threads != other.threads),
            ("scrape_interval_s", self.scrape_interval != other.scrape_interval),
            ("decision_log", log.map(|log| &log.path) != other_log.map(|log| &log.path)),
            ("decision_log_max_mib", log.map(|log| log.max_bytes) != other_log.map(|log| log.max_bytes)),
            ("decision_log_salt", log.map(|log| &log.salt) != other_log.map(|log| &log.salt)),
            ("log_level", self.log_level != other.log_level),
            ("log_format", self.log_format != other.log_format),
            ("tls.certificate", tls.map(|tls| &tls.certificates) != other_tls.map(|tls| &tls.certificates)),
            ("tls.key", tls.map(|tls| &tls.key) != other_tls.map(|tls| &tls.key)),
        ]
        .into_iter()
        .filter(|(_, differs)| *differs)
        .map(|(key, _)| key.to_owned())
        .collect();
        for (section, differing) in [
            ("limits", LimitConfig::differing(&self.limits, &other.limits)),
            ("checks", CheckConfig::differing(&self.checks, &other.checks)),
            ("health", HealthConfig::differing(&self.health, &other.health)),
            ("retry", RetryConfig::differing(&self.retry, &other.retry)),
        ] {
            keys.extend(differing.into_iter().map(|key| format!("{section}.{key}")));
        }
        keys
    }
}
