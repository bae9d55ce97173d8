//! `evenload simulate run`: routing policies compared on a workload.

use std::{collections::BTreeMap, io::Write, path::PathBuf, process::ExitCode, time::Duration};

use anyhow::bail;
use clap::Args;
use routing::PolicySettings;
use simulate::{ClientModel, Fault, FleetSettings, Pace, Scrape, Traffic, scenario::Scenario};
use workload::{BlockSessions, Delay, Length, Pattern, SequenceLengths, Synthetic};

use super::{
    compare::Comparison,
    inputs::{self, Engines, Policy, Workload},
    output,
};
use crate::{commands::command_line::command_line, print};

/// Sessions in flight and sessions a second of the built-in workload, if neither is said: the published run's.
const USUAL_LOAD: (u32, f64) = simulate::kubeai::LOADS[0];

/// Flags of `evenload simulate run`.
#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// What is sent: `kubeai` (built in); `conversations` or `words` (made, see below); a FILE that load generators
    /// take, or KIND:FILE, in the file's order; `prompts:FILE` or `sessions:FILE` (JSON lines with conversation, turn,
    /// input_length, output_length, first_100_chars, hash_ids), in an order that the seed draws.
    #[arg(long, value_name = "WORKLOAD", default_value = "kubeai", value_parser = inputs::workload)]
    workload: Workload,
    /// A policy to compare; repeat for more. Its name; `kubeai`, prefix_hash exactly as KubeAI does it; or JSON with
    /// settings, as {"prefix_hash": {"load_factor_percent": 150}}, with LABEL= before it or not.
    #[arg(long = "policy", value_name = "POLICY", default_value = "prefix_aware", value_parser = inputs::policy)]
    policies: Vec<Policy>,
    /// Sessions to send; without it the whole file, or 8000 of what has no end. More than a file has begin it again,
    /// except at its own times.
    #[arg(long, value_name = "NUMBER")]
    sessions: Option<usize>,
    /// Sessions in flight; without it the loop is open. `kubeai` without this and --rate is sent as it was published,
    /// with 800 sessions in flight and 800 a second.
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u32).range(1..))]
    concurrency: Option<u32>,
    /// Sessions per second; without it one starts as soon as there is room, or at the file's own times.
    #[arg(long, value_name = "RATE", value_parser = inputs::rate)]
    rate: Option<f64>,
    /// Gaps between sessions at a rate: constant, poisson, or gamma:SHAPE (below 1 in bursts) [default: poisson].
    #[arg(long, value_name = "PATTERN", value_parser = inputs::pattern)]
    arrival: Option<Pattern>,
    /// Divide the file's own times by this [default: 1].
    #[arg(long, value_name = "FACTOR")]
    speed_up: Option<f64>,
    /// Send everything once before, so that caches are warm.
    #[arg(long)]
    warm: bool,
    #[command(flatten)]
    made: Made,
    #[command(flatten)]
    fleet: Fleet,
    /// A seed; repeat for more, figures are means over them.
    #[arg(long = "seed", value_name = "NUMBER", default_values_t = [1, 2, 3])]
    seeds: Vec<u64>,
    /// Leave out the bound: the run in which every prefix is a hit, wherever a request goes.
    #[arg(long)]
    no_bound: bool,
    /// Print JSON instead of a table.
    #[arg(long)]
    json: bool,
    /// Write results.json and report.html into this directory.
    #[arg(long, value_name = "DIR")]
    output: Option<PathBuf>,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Made workloads, and tokens that prompts share")]
struct Made {
    /// Tokens that prompts start with, in made sessions and in those of `sessions:FILE` [default: 0].
    #[arg(long, value_name = "NUMBER")]
    preamble_tokens: Option<u32>,
    /// Different preambles; a made session draws one [default: 1].
    #[arg(long, value_name = "NUMBER")]
    preambles: Option<u32>,
    /// Turns of a session: MEAN, MEAN,DEVIATION or LOW-HIGH [default: 5].
    #[arg(long, value_name = "LENGTH", value_parser = inputs::length)]
    turns: Option<Length>,
    /// Tokens of a turn's message, likewise [default: 200,100].
    #[arg(long, value_name = "LENGTH", value_parser = inputs::length)]
    message_tokens: Option<Length>,
    /// Tokens of an answer, likewise [default: 200,100].
    #[arg(long, value_name = "LENGTH", value_parser = inputs::length)]
    answer_tokens: Option<Length>,
    /// Seconds from an answer to the next message: MEAN or MEAN,DEVIATION [default: 0].
    #[arg(long, value_name = "SECONDS", value_parser = inputs::delay)]
    think_time_s: Option<Delay>,
    /// A conversation ends before its prompt and answer would be longer than this; its first turn is sent whatever its
    /// length [default: 8192].
    #[arg(long, value_name = "NUMBER")]
    max_session_tokens: Option<u32>,
    /// Tokens in a block of the file's ids, where that is not the kind's usual number.
    #[arg(long, value_name = "NUMBER")]
    block_tokens: Option<u32>,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Fleet")]
struct Fleet {
    /// Replicas in all, of the engine profiles in turn.
    #[arg(long, value_name = "NUMBER", default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..))]
    replicas: u16,
    /// Engine profile, NAME[@SPEED][=COUNT]: a built-in name (`evenload engine --help` has them) or a JSON file, how many
    /// times as fast, how many replicas. Repeat for a mixed fleet; with counts on all of them --replicas plays no part.
    #[arg(long = "profile", value_name = "PROFILE", default_value = "l4-llama-3.1-8b-fp8", value_parser = inputs::engines)]
    profiles: Vec<Engines>,
    /// Independent balancers, each with its own view.
    #[arg(long, value_name = "NUMBER", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=64))]
    balancers: u32,
    /// One way, through the balancer, in milliseconds.
    #[arg(long, value_name = "MS", default_value = "3", value_parser = inputs::milliseconds)]
    network_ms: Duration,
    /// The balancers do not know output lengths.
    #[arg(long)]
    unknown_output: bool,
    /// Milliseconds between two readings of the engines' queues by a balancer, for least_queue and
    /// prefix_aware.
    #[arg(long, value_name = "MS", default_value = "1000", value_parser = inputs::milliseconds)]
    scrape_interval_ms: Duration,
    /// Age of such a reading when it arrives, in milliseconds.
    #[arg(long, value_name = "MS", default_value = "0", value_parser = inputs::milliseconds)]
    scrape_delay_ms: Duration,
    /// SECONDS:REPLICA:down, SECONDS:REPLICA:up (with an empty cache) or SECONDS:REPLICA:speed=FACTOR
    /// (0.001 to 1000). Repeat for more.
    #[arg(long = "fault", value_name = "FAULT")]
    faults: Vec<Fault>,
}

impl Arguments {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        let loaded = self.scenario()?.load()?;
        output::create(self.output.as_deref())?;
        let demand = loaded.demand(self.seeds.first().copied().unwrap_or(1))?;
        let mut out = print::Output;
        if !self.json {
            writeln!(out, "{}", output::demand_lines(&demand))?;
            writeln!(out, "{}", output::header())?;
        }
        let comparison = Comparison { loaded: &loaded, demand: &demand, seeds: &self.seeds, json: self.json };
        let compared = comparison.run(&self.policies, !self.no_bound, &mut out)?;
        if let Some(directory) = &self.output {
            for path in output::write(directory, &demand, None, &compared, &self.seeds, &command_line())? {
                remark!("written: {}", path.display());
            }
        }
        Ok(ExitCode::SUCCESS)
    }

    fn scenario(&self) -> anyhow::Result<Scenario> {
        let said = self.rate.is_some() || self.concurrency.is_some();
        let (concurrency, rate) = match self.workload {
            Workload::Kubeai if !said => (Some(USUAL_LOAD.0), Some(USUAL_LOAD.1)),
            _ => (self.concurrency, self.rate),
        };
        let pace = match rate {
            Some(rate) => Pace::Rate { pattern: self.arrival.unwrap_or(Pattern::Poisson), rate },
            None if concurrency.is_none() && matches!(self.workload, Workload::File { .. }) => {
                Pace::OwnTimes { speed_up: self.speed_up.unwrap_or(1.0) }
            }
            None => Pace::AtOnce,
        };
        if pace == Pace::AtOnce && concurrency.is_none() {
            bail!("give --concurrency (a closed loop) or --rate (an open one)");
        }
        if self.arrival.is_some() && rate.is_none() {
            bail!("--arrival is about a rate: give --rate");
        }
        if self.speed_up.is_some() && !matches!(pace, Pace::OwnTimes { .. }) {
            bail!(
                "--speed-up is about a file's own times: give a file with times, and neither --rate nor --concurrency"
            );
        }
        self.made.check(&self.workload)?;
        Ok(Scenario {
            traffic: self.traffic(),
            pace,
            sessions: self.sessions,
            concurrency,
            warm: self.warm,
            fleet: self.fleet.settings()?,
            client: ClientModel::IDEAL,
        })
    }

    fn traffic(&self) -> Traffic {
        let made = &self.made;
        let preamble_tokens = made.preamble_tokens.unwrap_or(0);
        let preambles = made.preambles.unwrap_or(1);
        let turns = made.turns.unwrap_or(Length::exactly(5));
        let usual = Length::Normal { mean: 200.0, stddev: 100.0 };
        let (message, answer) = (made.message_tokens.unwrap_or(usual), made.answer_tokens.unwrap_or(usual));
        let delay = made.think_time_s.unwrap_or_default();
        match &self.workload {
            Workload::Kubeai => Traffic::Kubeai,
            Workload::Prompts(path) => Traffic::Prompts(path.clone()),
            Workload::Sessions(path) => Traffic::Sessions { path: path.clone(), preamble_tokens },
            Workload::File { path, kind } => {
                Traffic::File { path: path.clone(), kind: *kind, block_tokens: made.block_tokens }
            }
            Workload::Conversations => Traffic::Conversations(BlockSessions {
                preambles,
                preamble_tokens,
                turns,
                message,
                answer,
                delay,
                max_tokens: made.max_session_tokens.unwrap_or(8192),
            }),
            Workload::Words => Traffic::Words(Box::new(Synthetic {
                turns,
                delay,
                prefixes: if preamble_tokens > 0 { preambles } else { 0 },
                prefix_tokens: preamble_tokens,
                ..Synthetic::new(SequenceLengths::of(message, Some(answer)))
            })),
        }
    }
}

impl Made {
    /// Refuses flags that play no part in a workload: who gives one believes to have tried it.
    fn check(&self, workload: &Workload) -> anyhow::Result<()> {
        let (conversations, words) =
            (matches!(workload, Workload::Conversations), matches!(workload, Workload::Words));
        let made = conversations || words;
        let shared = made || matches!(workload, Workload::Sessions(_));
        let flags = [
            ("preamble-tokens", self.preamble_tokens.is_some(), shared),
            ("preambles", self.preambles.is_some(), made),
            ("turns", self.turns.is_some(), made),
            ("message-tokens", self.message_tokens.is_some(), made),
            ("answer-tokens", self.answer_tokens.is_some(), made),
            ("think-time-s", self.think_time_s.is_some(), made),
            ("max-session-tokens", self.max_session_tokens.is_some(), conversations),
            ("block-tokens", self.block_tokens.is_some(), matches!(workload, Workload::File { .. })),
        ];
        if let Some((flag, ..)) = flags.into_iter().find(|(_, given, used)| *given && !used) {
            bail!("--{flag} plays no part in this --workload: leave it out");
        }
        if self.preambles == Some(0) && self.preamble_tokens.is_some_and(|tokens| tokens > 0) {
            bail!(
                "--preambles 0 with --preamble-tokens: give 1 or more preambles, or leave their tokens out"
            );
        }
        Ok(())
    }
}

impl Fleet {
    fn settings(&self) -> anyhow::Result<FleetSettings> {
        Ok(FleetSettings {
            profiles: inputs::fleet(&self.profiles, self.replicas.into())?,
            policy: PolicySettings::default(),
            balancers: self.balancers,
            network: self.network_ms,
            output_known: !self.unknown_output,
            scrape: Scrape { interval: self.scrape_interval_ms, delay: self.scrape_delay_ms },
            faults: self.faults.clone(),
            all_hits: false,
            names: None,
            served: BTreeMap::new(),
        })
    }
}
