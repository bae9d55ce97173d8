//! One run of several shares of the same schedule.
//!
//! Every share leaves a [`Manifest`], which says what it ran and when, and its records. The records are moved to one
//! clock, that of the earliest share by the machines' own clocks, and all figures are worked out anew: percentiles
//! are as exact as those of one process. Times between machines are as exact as their clocks.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{Run, StageResult};
use crate::{ClientHealth, Stalls};

/// The version in `run.json`.
const VERSION: u32 = 1;

/// What `run.json` says of a share with the configuration `C`.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Manifest<C> {
    evenload_run: u32,
    /// As it was run.
    pub config: C,
    shard: (u32, u32),
    /// Nanoseconds from 1970 to the zero of the records' clock.
    started_at_ns: u64,
    stages: Vec<StageResult>,
    stages_left_out: usize,
    io_thread_cpu: Vec<f64>,
    payload_reads: u64,
    multi_event_reads: u64,
    peak_in_flight: Option<u64>,
    #[serde(default)]
    stolen_share: Option<f64>,
    #[serde(default)]
    stalls: Stalls,
    interrupted: bool,
    #[serde(default)]
    ended_by: Option<String>,
}

/// All shares of one run.
#[derive(Debug)]
pub struct Shares<C>(Vec<Manifest<C>>);

/// Why manifests are not those of one run.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum MergeError {
    /// The manifest at this place was written by another version.
    #[error("written by another version of evenload")]
    Version(usize),
    /// The manifest at this place is that of another run.
    #[error(
        "another run: load, data, api, seed and the number of shares must be the same (set load.base_seed)"
    )]
    OtherRun(usize),
    /// Shares that are not there.
    #[error("shares {} are missing", .0.join(", "))]
    Missing(Vec<String>),
    /// A share is there twice.
    #[error("a share is given twice")]
    Twice,
    /// There is none.
    #[error("no folders to merge")]
    None,
}

impl MergeError {
    /// The place of the manifest that is wrong, where it is a single one.
    pub fn place(&self) -> Option<usize> {
        match self {
            Self::Version(place) | Self::OtherRun(place) => Some(*place),
            Self::Missing(_) | Self::Twice | Self::None => None,
        }
    }
}

// === impl Manifest ===

impl<C: Clone> Manifest<C> {
    /// That of a run with this configuration.
    pub fn of(config: &C, run: &Run) -> Self {
        let health = &run.health;
        Self {
            evenload_run: VERSION,
            config: config.clone(),
            shard: run.share,
            started_at_ns: run.started_at_ns,
            stages: run.stages.clone(),
            stages_left_out: run.left_out,
            io_thread_cpu: health.io_thread_cpu.clone(),
            payload_reads: health.payload_reads,
            multi_event_reads: health.multi_event_reads,
            peak_in_flight: health.peak_in_flight,
            stolen_share: health.stolen_share,
            stalls: health.stalls,
            interrupted: health.interrupted,
            ended_by: health.ended_by.clone(),
        }
    }
}

impl<C> Manifest<C> {
    /// Which share it is, from 0; and of how many.
    pub fn share(&self) -> (u32, u32) {
        self.shard
    }

    fn health(&self) -> ClientHealth {
        ClientHealth {
            io_thread_cpu: self.io_thread_cpu.clone(),
            payload_reads: self.payload_reads,
            multi_event_reads: self.multi_event_reads,
            peak_in_flight: self.peak_in_flight,
            stolen_share: self.stolen_share,
            stalls: self.stalls,
            interrupted: self.interrupted,
            ended_by: self.ended_by.clone(),
            ..ClientHealth::default()
        }
    }
}

// === impl Shares ===

impl<C> Shares<C> {
    /// The shares of one run, each once; in any order. `is_same` compares two configurations.
    pub fn new(manifests: Vec<Manifest<C>>, is_same: impl Fn(&C, &C) -> bool) -> Result<Self, MergeError> {
        let Some(first) = manifests.first() else { return Err(MergeError::None) };
        let count = first.shard.1;
        for (place, manifest) in manifests.iter().enumerate() {
            if manifest.evenload_run != VERSION {
                return Err(MergeError::Version(place));
            }
            if manifest.shard.1 != count || !is_same(&first.config, &manifest.config) {
                return Err(MergeError::OtherRun(place));
            }
        }
        let is_there = |index: u32| manifests.iter().any(|manifest| manifest.shard.0 == index);
        let missing = (0..count).filter(|index| !is_there(*index));
        let missing: Vec<String> = missing.map(|index| format!("{}/{count}", index + 1)).collect();
        match missing.as_slice() {
            [] if manifests.len() == count as usize => Ok(Self(manifests)),
            [] => Err(MergeError::Twice),
            _ => Err(MergeError::Missing(missing)),
        }
    }

    /// Nanoseconds from 1970 to the zero of the common clock.
    pub fn started_at_ns(&self) -> u64 {
        self.0.iter().map(|share| share.started_at_ns).min().unwrap_or_default()
    }

    /// How much later than the common clock that of each share began, in the order in which they were given.
    pub fn offsets(&self) -> Vec<Duration> {
        let zero = self.started_at_ns();
        self.0.iter().map(|share| Duration::from_nanos(share.started_at_ns - zero)).collect()
    }

    /// The stages on the common clock.
    pub fn stages(&self) -> Vec<StageResult> {
        let mut merged: Vec<StageResult> = Vec::new();
        for (share, offset) in self.0.iter().zip(self.offsets()) {
            for stage in share.stages.iter().map(|stage| stage.shifted(offset)) {
                match merged.iter_mut().find(|known| known.number == stage.number) {
                    None => merged.push(stage),
                    Some(known) => known.join(&stage),
                }
            }
        }
        merged.sort_by_key(|stage| stage.number);
        merged
    }

    /// How all sides fared together.
    pub fn health(&self) -> ClientHealth {
        let mut health = ClientHealth::default();
        for share in self.0.iter().map(Manifest::health) {
            // Each process knows its own peak only: together they had no more than the sum.
            health.peak_in_flight =
                Some(health.peak_in_flight.unwrap_or(0) + share.peak_in_flight.unwrap_or(0));
            health.add(&share);
        }
        health
    }

    /// Stages that were not run in one share at least.
    pub fn left_out(&self) -> usize {
        self.0.iter().map(|share| share.stages_left_out).max().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inference_perf::StageStatus;

    fn stage(number: u16, start_s: u64, end_s: u64, status: StageStatus) -> StageResult {
        StageResult {
            number,
            requested_rate: Some(10.0),
            concurrency: None,
            sessions: None,
            timeout: None,
            start: Duration::from_secs(start_s),
            end: Duration::from_secs(end_s),
            started_at_ns: 0,
            status,
            teardown: Duration::ZERO,
        }
    }

    fn share(index: u32, started_s: u64, stages: Vec<StageResult>) -> Manifest<&'static str> {
        Manifest {
            evenload_run: VERSION,
            config: "a",
            shard: (index, 2),
            started_at_ns: started_s * 1_000_000_000,
            stages,
            stages_left_out: index as usize,
            io_thread_cpu: vec![0.25],
            payload_reads: 10,
            multi_event_reads: 1,
            peak_in_flight: Some(4),
            stolen_share: None,
            stalls: Stalls::default(),
            interrupted: index == 1,
            ended_by: None,
        }
    }

    fn same(one: &&str, other: &&str) -> bool {
        one == other
    }

    #[test]
    fn stages_last_from_the_first_start_to_the_last_end_on_the_earliest_clock() {
        let late = share(1, 103, vec![stage(0, 1, 5, StageStatus::Failed)]);
        let early = share(
            0,
            100,
            vec![stage(0, 2, 6, StageStatus::Completed), stage(1, 8, 9, StageStatus::Completed)],
        );
        let shares = Shares::new(vec![late, early], same).unwrap();
        assert_eq!(shares.offsets(), [Duration::from_secs(3), Duration::ZERO]);
        let stages = shares.stages();
        let times: Vec<_> =
            stages.iter().map(|stage| (stage.number, stage.start.as_secs(), stage.end.as_secs())).collect();
        assert_eq!(times, [(0, 2, 8), (1, 8, 9)]);
        assert_eq!(stages[0].status, StageStatus::Failed);
        let health = shares.health();
        assert_eq!((health.io_thread_cpu, health.payload_reads), (vec![0.25, 0.25], 20));
        assert_eq!((health.peak_in_flight, health.interrupted, shares.left_out()), (Some(8), true, 1));
    }

    #[test]
    fn what_is_not_one_run_is_told_apart() {
        let error = |manifests| Shares::new(manifests, same).unwrap_err();
        assert_eq!(error(Vec::new()), MergeError::None);
        assert_eq!(error(vec![share(1, 0, Vec::new())]).to_string(), "shares 1/2 are missing");
        let twice = vec![share(0, 0, Vec::new()), share(1, 0, Vec::new()), share(1, 0, Vec::new())];
        assert_eq!(error(twice), MergeError::Twice);
        let other = Manifest { config: "b", ..share(1, 0, Vec::new()) };
        assert_eq!(error(vec![share(0, 0, Vec::new()), other]).place(), Some(1));
        let old = Manifest { evenload_run: 0, ..share(0, 0, Vec::new()) };
        assert_eq!(error(vec![old, share(1, 0, Vec::new())]), MergeError::Version(0));
    }

    #[test]
    fn a_manifest_is_read_as_it_was_written() {
        let written = serde_json::to_value(share(0, 7, vec![stage(0, 1, 2, StageStatus::TimedOut)])).unwrap();
        assert_eq!(
            (&written["evenload_run"], &written["stages"][0]["status"]),
            (&1.into(), &"TIMED_OUT".into())
        );
        let read: Manifest<String> = serde_json::from_value(written).unwrap();
        assert_eq!((read.started_at_ns, read.stages[0].number), (7_000_000_000, 0));
    }
}
