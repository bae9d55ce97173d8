//! A run that has ended: its stages, their figures, and the reports that are made of them.

use std::time::{Duration, UNIX_EPOCH};

use super::{
    Books, Collector, Finding, Kind, StageResult, lifecycle,
    partial::{PartialTimes, partial},
    table::tables,
};
use crate::{ClientHealth, Object, Report, iso_time};

/// A rate that is missed by less is met.
const RATE_SHARE: f64 = 0.999;

/// A run that has ended, or one share of it.
#[derive(Debug)]
pub struct Run {
    /// What was counted.
    pub books: Books,
    /// The stages that were run.
    pub stages: Vec<StageResult>,
    /// How this side fared.
    pub health: ClientHealth,
    /// When the clock of the records began, in nanoseconds from 1970.
    pub started_at_ns: u64,
    /// Which share it is, from 0; and of how many.
    pub share: (u32, u32),
    /// Stages that were not run.
    pub left_out: usize,
}

impl Run {
    /// The stages that were run, with their figures.
    pub fn stages(&self) -> impl Iterator<Item = (&StageResult, &Collector)> {
        let books = &self.books;
        self.stages.iter().filter_map(|stage| Some((stage, books.stages.get(usize::from(stage.number))?)))
    }

    /// `summary_lifecycle_metrics.json`.
    pub fn summary(&self) -> Object {
        lifecycle(&self.books.total, self.whole())
    }

    /// `stage_N_lifecycle_metrics.json`.
    pub fn stage(&self, stage: &StageResult, collected: &Collector) -> Object {
        lifecycle(collected, self.kind(stage, 1.0))
    }

    /// `adapter_NAME_lifecycle_metrics.json`, each with the name.
    pub fn adapters(&self) -> impl Iterator<Item = (&str, Object)> {
        let whole = self.whole();
        self.books.adapters.iter().map(move |(name, books)| (name.as_str(), lifecycle(&books.total, whole)))
    }

    /// `adapter_NAME_stage_N_lifecycle_metrics.json`, each with name and number. `share_of`: an adapter's share of the
    /// requests.
    pub fn adapter_stages(
        &self,
        share_of: impl Fn(&str) -> f64,
    ) -> impl Iterator<Item = (&str, u16, Object)> {
        let names =
            self.books.adapters.iter().map(move |(name, books)| (name.as_str(), share_of(name), books));
        names.flat_map(move |(name, share, books)| {
            self.stages.iter().filter_map(move |stage| {
                let collected = books.stages.get(usize::from(stage.number))?;
                Some((name, stage.number, lifecycle(collected, self.kind(stage, share))))
            })
        })
    }

    /// `inference-perf.partial.stage_N.yaml`.
    pub fn partial(&self, stage: &StageResult, collected: &Collector, seed: u64) -> Object {
        let at = |since: Duration| iso_time(UNIX_EPOCH + Duration::from_nanos(self.started_at_ns) + since);
        let eid = format!("{:016x}", self.started_at_ns ^ seed);
        let times = PartialTimes {
            uid: format!("{eid}-{}", stage.number),
            eid,
            start: at(stage.start),
            end: at(stage.end),
            duration: stage.duration(),
        };
        partial(collected, &times)
    }

    /// The tables for the terminal.
    pub fn tables(&self) -> String {
        let rows = self.stages().map(|(stage, collected)| {
            (stage.number.to_string(), stage.requested_rate.map(|rate| rate / self.shares()), collected)
        });
        tables(&rows.collect::<Vec<_>>(), &self.books.total)
    }

    /// Whether each stage got the load that it asked for. `bound`: workers, and requests in flight for each.
    pub fn load_findings(&self, report: &Report, bound: (u32, u32)) -> Vec<Finding> {
        let finding = |(stage, collected)| self.load_finding(report, bound, stage, collected);
        self.stages().filter_map(finding).collect()
    }

    fn load_finding(
        &self,
        report: &Report,
        (workers, each): (u32, u32),
        stage: &StageResult,
        collected: &Collector,
    ) -> Option<Finding> {
        let number = stage.number;
        let asked = stage.requested_rate? / self.shares();
        let summary = report.phases.get(usize::from(number))?;
        let (achieved, scheduled) = (collected.achieved_rate()?, summary.scheduled_rate().unwrap_or(asked));
        let is_missed = achieved < RATE_SHARE * scheduled;
        if let Some((requests, since, longest)) = collected.bounded() {
            let after = since.saturating_sub(stage.start).as_secs_f64();
            let longest = longest.as_secs_f64();
            return Some(Finding {
                check: "bound_reached".to_owned(),
                is_error: is_missed,
                message: format!(
                    "stage {number}: {requests} requests waited up to {longest:.3} s for the bound on what may be in \
                     flight, first {after:.3} s after the start (load.num_workers {workers} x \
                     load.worker_max_concurrency {each}): from there on the server set the pace, {achieved:.1} requests/s \
                     of {asked:.1}"
                ),
            });
        }
        is_missed.then(|| Finding {
            check: "client_limited".to_owned(),
            is_error: true,
            message: format!(
                "stage {number}: client-limited: {achieved:.1} requests/s were sent of {scheduled:.1}, because this side \
                 did not keep up; give it more cores, or share the run with --shard"
            ),
        })
    }

    fn shares(&self) -> f64 {
        f64::from(self.share.1)
    }

    fn whole(&self) -> Kind {
        Kind::Run { active: self.stages.iter().map(StageResult::duration).sum() }
    }

    fn kind(&self, stage: &StageResult, share: f64) -> Kind {
        Kind::Stage {
            requested_rate: stage.requested_rate.map(|rate| rate * (share / self.shares())),
            concurrency: stage.concurrency.or(stage.sessions.map(|(at_once, _)| at_once)),
            start: stage.start,
        }
    }
}
