//! `*_prometheus_metrics.json`: the server's own figures, asked of a Prometheus server after the run; or, where none is
//! named, read off the servers' metrics pages during it.

use std::{
    thread,
    time::{Duration, UNIX_EPOCH},
};

use anyhow::{Context, bail};
use loadgen::{Ask, Pages, Stop, Targets};
use report::{
    EnginePages, Object,
    inference_perf::{MetricFamily, Query, prometheus_report, queries, scraped_report},
};
use serde_json::Value;
use workload::inference_perf::{Config, PrometheusConfig, ServerType};

use super::{
    driver::Outcome,
    files::Folder,
    sending::Sending,
    server::{Server, trust},
};

/// Time limit for one query.
const TIMEOUT: Duration = Duration::from_secs(10);
/// What inference-perf waits beyond the scrape interval.
const MARGIN: Duration = Duration::from_secs(2);

const SUMMARY: &str = "summary_prometheus_metrics.json";
/// Time between two readings of the metrics pages, where the configuration does not say.
const INTERVAL: Duration = Duration::from_secs(1);

/// Reads the servers' metrics pages during a run.
#[derive(Debug)]
pub(super) struct Scraper<'a> {
    pages: Pages<'a>,
    interval: Duration,
}

impl<'a> Scraper<'a> {
    /// Where the configuration wants the servers' figures and names no Prometheus server.
    pub(super) fn new(config: &Config, server: &'a Server) -> Option<Self> {
        let prometheus = config.metrics.as_ref()?.prometheus.as_ref();
        if prometheus.is_some_and(|prometheus| prometheus.url.is_some()) {
            return None;
        }
        let given = prometheus.map(|given| Duration::from_secs(given.scrape_interval.max(1)));
        Some(Self { pages: Pages::new(Some(&server.targets), None), interval: given.unwrap_or(INTERVAL) })
    }

    /// Reads all pages before and after `work`, and now and then during it.
    pub(super) fn during<T>(&self, work: impl FnOnce() -> T) -> T {
        let stop = Stop::default();
        thread::scope(|scope| {
            self.pages.watch(scope, &stop, self.interval, |_, _| {});
            let done = work();
            stop.stop();
            done
        })
    }

    pub(super) fn finish(self) -> EnginePages {
        self.pages.finish()
    }
}

/// The Prometheus server that is asked after the run.
#[derive(Debug)]
pub(super) struct Prometheus {
    targets: Targets,
    filter: String,
    family: MetricFamily,
    /// Seconds between its own readings.
    interval: u64,
}

impl Prometheus {
    /// Where the configuration names one and wants its figures. A name that leads nowhere is better said before the
    /// run.
    pub(super) fn find(config: &Config, server: &Server) -> anyhow::Result<Option<Self>> {
        let wanted = &config.report.prometheus;
        let given = config.metrics.as_ref().and_then(|metrics| metrics.prometheus.as_ref());
        let Some((given, url)) = given.and_then(|given| Some((given, given.url.as_ref()?))) else {
            return Ok(None);
        };
        if !wanted.summary && !wanted.per_stage {
            return Ok(None);
        }
        let targets = Targets::resolve_with([url], &trust(config)).context("metrics.prometheus.url")?;
        if let Some((url, reason)) = targets.unresolved().next() {
            bail!("metrics.prometheus.url: {url}: {reason}");
        }
        let (filter, family, interval) = (filter(given, server), family(config), given.scrape_interval);
        Ok(Some(Self { targets, filter, family, interval }))
    }
}

/// Asks and writes the files that the configuration wants.
pub(super) fn write(
    sending: &Sending<'_>,
    prometheus: Option<&Prometheus>,
    folder: &Folder,
    outcome: &Outcome,
) -> anyhow::Result<()> {
    let Sending { config, server, lines, .. } = *sending;
    let wanted = &config.report.prometheus;
    let (Some(first), Some(last)) = (outcome.run.stages.first(), outcome.run.stages.last()) else {
        return Ok(());
    };
    if !wanted.summary && !wanted.per_stage {
        return Ok(());
    }
    if let Some(pages) = &outcome.pages {
        let started = UNIX_EPOCH + Duration::from_nanos(outcome.run.started_at_ns);
        let models: Vec<&str> = models(server).collect();
        let write = |name: &str, start, end| match scraped_report(
            pages,
            family(config),
            &models,
            pages.window(started, (start, end)),
        ) {
            Some(object) => folder.write_json(name, &object),
            None => {
                lines.warn(&format!("{name} is not written: no metrics page of the servers could be read"));
                Ok(())
            }
        };
        if wanted.summary {
            write(SUMMARY, first.start, last.end)?;
        }
        for stage in outcome.run.stages.iter().filter(|_| wanted.per_stage) {
            write(&format!("stage_{}_prometheus_metrics.json", stage.number), stage.start, stage.end)?;
        }
        return Ok(());
    }
    let Some(asked) = prometheus else { return Ok(()) };
    let margin = Duration::from_secs(asked.interval) + MARGIN;
    lines.info(&format!("waiting {} s for Prometheus to have seen the end of the run", margin.as_secs()));
    if sending.next_control().wait(margin) {
        lines.warn("stopped by hand: Prometheus may not have seen the end of the run");
    }
    let write = |name: String, start: Duration, end: Duration| -> anyhow::Result<()> {
        let at = Duration::from_nanos(outcome.run.started_at_ns) + end + margin;
        let (object, problem) = asked.report(end.saturating_sub(start) + margin, at);
        if let Some(problem) = problem {
            lines.warn(&format!("{name}: {problem}"));
        }
        folder.write_json(&name, &object)
    };
    if wanted.summary {
        write(SUMMARY.to_owned(), first.start, last.end)?;
    }
    for stage in outcome.run.stages.iter().filter(|_| wanted.per_stage) {
        write(format!("stage_{}_prometheus_metrics.json", stage.number), stage.start, stage.end)?;
    }
    Ok(())
}

impl Prometheus {
    /// The file for the window that ends at `at`, since 1970; and the first thing that went wrong.
    fn report(&self, window: Duration, at: Duration) -> (Object, Option<String>) {
        let mut problem = None;
        let mut answer = |query: &Query| {
            // A server that does not answer once is not asked a hundred times more.
            if problem.is_some() {
                return None;
            }
            match self.ask(&query.promql, at) {
                Ok(value) => value,
                Err(error) => {
                    problem = Some(error);
                    None
                }
            }
        };
        let queries = queries(self.family, &self.filter, window);
        let values: Vec<(Query, Option<f64>)> =
            queries.into_iter().map(|query| (query.clone(), answer(&query))).collect();
        (prometheus_report(&values), problem)
    }

    /// The value of a query; nothing where there is no such series.
    fn ask(&self, promql: &str, at: Duration) -> Result<Option<f64>, String> {
        let path = format!("/api/v1/query?query={}&time={:.3}", encoded(promql), at.as_secs_f64());
        let reply = Ask::get(&path, TIMEOUT).send(&self.targets, 0)?;
        let answer: Value =
            serde_json::from_slice(&reply.body).map_err(|error| format!("not Prometheus: {error}"))?;
        if answer["status"] != "success" {
            return Err(format!(
                "status {}: {}",
                reply.status,
                answer["error"].as_str().unwrap_or("no success")
            ));
        }
        let results = answer["data"]["result"].as_array();
        let value =
            results.and_then(|results| results.first()).and_then(|result| result["value"][1].as_str());
        Ok(value.and_then(|value| value.parse().ok()).filter(|value: &f64| value.is_finite()))
    }
}

fn family(config: &Config) -> MetricFamily {
    match config.server().r#type {
        ServerType::Vllm | ServerType::Mock => MetricFamily::Vllm,
        ServerType::Sglang => MetricFamily::Sglang,
        ServerType::Tgi => MetricFamily::Tgi,
    }
}

/// The names of the model and of its adapters.
fn models(server: &Server) -> impl Iterator<Item = &str> {
    std::iter::once(server.model()).chain(server.adapters.iter().map(String::as_str))
}

/// The matchers for all series: the model and its adapters, then the user's own.
fn filter(prometheus: &PrometheusConfig, server: &Server) -> String {
    let names: Vec<String> = models(server).map(escaped).collect();
    let model = match names.as_slice() {
        [name] => format!("model_name='{name}'"),
        names => format!("model_name=~'{}'", names.join("|")),
    };
    std::iter::once(model).chain(prometheus.filters.iter().cloned()).collect::<Vec<_>>().join(",")
}

fn escaped(name: &str) -> String {
    name.replace('\\', "\\\\").replace('\'', "\\'")
}

/// Percent-encoded for a query.
fn encoded(text: &str) -> String {
    text.bytes()
        .map(|byte| match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => {
                char::from(byte).to_string()
            }
            byte => format!("%{byte:02X}"),
        })
        .collect()
}
