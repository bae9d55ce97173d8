//! `evenload engine`: simulated vLLM servers.

use std::{
    fmt::Write,
    net::{IpAddr, Ipv4Addr},
    process::ExitCode,
    time::Duration,
};

use anyhow::Context;
use engine::{Adapter, Config, FixedTimes, KvEvents, Profile};
use protocol::kv_events::EventFormat;
use tokio::signal::unix::{SignalKind, signal};

use super::{
    calibrate::latency,
    engine_profile::{self, LimitFlags},
};
use crate::print;

/// Flags of `evenload engine`.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    #[arg(long, value_name = "NAME|FILE", default_value = Profile::NAMES[0], help = profile_help())]
    profile: String,
    /// Engines to run, each on a port of its own.
    #[arg(long, value_name = "N", default_value_t = 1)]
    replicas: u16,
    /// Address to listen on.
    #[arg(long, value_name = "IP", default_value_t = IpAddr::V4(Ipv4Addr::LOCALHOST))]
    host: IpAddr,
    /// Port of the first replica; the others follow. 0 lets the system choose one for each.
    #[arg(long, value_name = "PORT", default_value_t = 8000)]
    port: u16,
    /// Threads that share the replicas.
    #[arg(long, value_name = "N", default_value_t = 1)]
    threads: usize,
    /// Divides the time of every step: the engine of a machine so many times faster.
    #[arg(long, value_name = "FACTOR", default_value_t = 1.0)]
    speedup: f64,
    /// Name of the model; may be given several times [default: the profile's].
    #[arg(long, value_name = "NAME", num_args = 1..)]
    served_model_name: Vec<String>,
    /// LoRA adapters that are there from the start, as NAME=PATH; nothing is read from the path.
    #[arg(long, value_name = "NAME=PATH", num_args = 1.., value_parser = adapter)]
    lora_modules: Vec<Adapter>,
    /// The model ends its answers by itself after about so many tokens. Without it answers run to their
    /// max_tokens, and chat answers without one end after 256 tokens.
    #[arg(long, value_name = "TOKENS")]
    output_tokens: Option<u32>,
    /// Answer 503 for so many seconds after the start.
    #[arg(long, value_name = "SECONDS", default_value_t = 0.0)]
    startup_delay: f64,
    /// Refuse larger request bodies.
    #[arg(long, value_name = "MIB", default_value_t = 64)]
    max_body_mib: usize,
    /// Give every request its first token so long after its arrival, whatever the load: no batch, no queue, no
    /// memory. For measuring load generators.
    #[arg(long, value_name = "MS", requires = "fixed_itl_ms", value_parser = latency)]
    fixed_ttft_ms: Option<f64>,
    /// The time between its tokens.
    #[arg(long, value_name = "MS", requires = "fixed_ttft_ms", value_parser = latency)]
    fixed_itl_ms: Option<f64>,
    /// Publish what happens to the prefix caches on this port, as vLLM does with --kv-events-config; further
    /// replicas on the ports after it. 0 lets the system choose.
    #[arg(long, value_name = "PORT")]
    kv_events_port: Option<u16>,
    /// Replay what was published before on this port, and those after it. [default: the ports after those of the
    /// publishers]
    #[arg(long, value_name = "PORT", requires = "kv_events_port")]
    kv_events_replay_port: Option<u16>,
    #[arg(long, value_name = "FORMAT", help = format_help(), requires = "kv_events_port", default_value = "vllm", value_parser = format)]
    kv_events_format: EventFormat,
    #[command(flatten)]
    numbers: Numbers,
}

/// Numbers of the profile, where they are to differ from it.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Profile")]
struct Numbers {
    /// Time of every step, whatever is in it.
    #[arg(long, value_name = "MS")]
    step_base_ms: Option<f64>,
    /// Time for each sequence in a step.
    #[arg(long, value_name = "MS")]
    per_sequence_ms: Option<f64>,
    /// Time for each token of context that a step reads.
    #[arg(long, value_name = "NS")]
    per_context_token_ns: Option<f64>,
    /// Time for each prompt token that a step computes.
    #[arg(long, value_name = "US")]
    per_prefill_token_us: Option<f64>,
    #[command(flatten)]
    limits: LimitFlags,
    /// LoRA adapters whose requests run at the same time.
    #[arg(long, value_name = "N")]
    max_loras: Option<u32>,
    /// Keep nothing of a prompt for later ones.
    #[arg(long)]
    no_enable_prefix_caching: bool,
    /// Blocks taken beyond the need whenever a sequence grows.
    #[arg(long, value_name = "N")]
    preallocated_blocks: Option<u32>,
    /// Admit a prompt only when all of it fits into the memory, not only its first chunk.
    #[arg(long, value_name = "BOOL")]
    reserve_prompt: Option<bool>,
}

impl Arguments {
    pub(crate) fn run(self) -> anyhow::Result<ExitCode> {
        tracing_subscriber::fmt()
            .with_writer(std::io::stderr)
            .with_max_level(tracing::Level::WARN)
            .log_internal_errors(false)
            .init();
        let config = self.config()?;
        let (names, startup_delay) = (config.model_names.join(", "), config.startup_delay);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let fleet = engine::serve(config)?;
        let mut listening = String::new();
        for address in fleet.addresses() {
            writeln!(listening, "http://{address}")?;
        }
        print::text(&listening);
        for (address, [publisher, replay]) in fleet.addresses().iter().zip(fleet.kv_events()) {
            remark!("cache events of http://{address}: tcp://{publisher}, replay tcp://{replay}");
        }
        let state = match startup_delay {
            Duration::ZERO => "ready".to_owned(),
            delay => format!("listening, ready in {delay:?}"),
        };
        remark!("{} engine(s) {state}, model {names}; Ctrl-C stops", fleet.addresses().len());
        runtime.block_on(told_to_stop()).context("cannot wait for signals")?;
        fleet.shutdown();
        Ok(ExitCode::SUCCESS)
    }

    fn config(self) -> anyhow::Result<Config> {
        let profile = engine_profile::read(&self.profile)?;
        let kv_events = self.kv_events_port.map(|port| KvEvents {
            port,
            replay_port: self.kv_events_replay_port.unwrap_or(match port {
                0 => 0,
                port => port.saturating_add(self.replicas),
            }),
            format: self.kv_events_format,
        });
        let defaults = Config::new(self.numbers.over(profile));
        let startup_delay = Duration::try_from_secs_f64(self.startup_delay)
            .with_context(|| format!("--startup-delay {} is no time", self.startup_delay))?;
        let time = |ms: f64| Duration::from_secs_f64(ms / 1e3);
        let fixed = self.fixed_ttft_ms.zip(self.fixed_itl_ms);
        let fixed_times =
            fixed.map(|(ttft, itl)| FixedTimes { first_token: time(ttft), between_tokens: time(itl) });
        let named = !self.served_model_name.is_empty();
        Ok(Config {
            replicas: self.replicas,
            host: self.host,
            port: self.port,
            threads: self.threads,
            speedup: self.speedup,
            model_names: if named { self.served_model_name } else { defaults.model_names },
            adapters: self.lora_modules,
            output_tokens: self.output_tokens,
            startup_delay,
            max_body_bytes: self.max_body_mib.saturating_mul(1 << 20),
            fixed_times,
            kv_events,
            profile: defaults.profile,
        })
    }
}

impl Numbers {
    fn over(&self, profile: Profile) -> Profile {
        let profile = self.limits.limits().over(profile);
        let seconds =
            |value: Option<f64>, unit: f64, default: f64| value.map_or(default, |value| value * unit);
        Profile {
            step_base_s: seconds(self.step_base_ms, 1e-3, profile.step_base_s),
            per_sequence_s: seconds(self.per_sequence_ms, 1e-3, profile.per_sequence_s),
            per_context_token_s: seconds(self.per_context_token_ns, 1e-9, profile.per_context_token_s),
            per_prefill_token_s: seconds(self.per_prefill_token_us, 1e-6, profile.per_prefill_token_s),
            max_adapters: self.max_loras.unwrap_or(profile.max_adapters),
            prefix_caching: profile.prefix_caching && !self.no_enable_prefix_caching,
            preallocated_blocks: self.preallocated_blocks.unwrap_or(profile.preallocated_blocks),
            reserve_prompt: self.reserve_prompt.unwrap_or(profile.reserve_prompt),
            ..profile
        }
    }
}

fn profile_help() -> String {
    format!(
        "Hardware, model and engine to simulate: {}; or a JSON file such as `simulate fit` writes. The flags under \
         \"Profile\" change single numbers of it",
        Profile::NAMES.join(", ")
    )
}

fn format_help() -> String {
    format!("Whose messages they are like: {}", EventFormat::ALL.map(EventFormat::label).join(", "))
}

fn format(text: &str) -> Result<EventFormat, String> {
    let labels = EventFormat::ALL.map(EventFormat::label);
    let found = EventFormat::ALL.into_iter().find(|format| format.label() == text);
    found.ok_or_else(|| format!("use one of {}", labels.join(", ")))
}

fn adapter(text: &str) -> Result<Adapter, String> {
    match text.split_once('=') {
        Some((name, path)) if !name.is_empty() && !path.is_empty() => {
            Ok(Adapter { name: name.to_owned(), path: path.to_owned() })
        }
        _ => Err("an adapter is given as NAME=PATH".to_owned()),
    }
}

async fn told_to_stop() -> std::io::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::select! {
        interrupted = tokio::signal::ctrl_c() => interrupted,
        _ = terminate.recv() => Ok(()),
    }
}
