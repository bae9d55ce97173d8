//! Values of flags that several subcommands take.

use std::{path::PathBuf, time::Duration};

use anyhow::bail;
use engine::Profile;
use routing::{PolicySettings, PrefixAwareSettings, PrefixHashSettings, SessionSettings};
use workload::{DatasetKind, Delay, Length, Pattern};

use crate::commands::engine_profile;

/// Longest think time, and longest time on a network, in seconds.
const LONGEST_DELAY_S: f64 = 1e6;
const LONGEST_LATENCY_S: f64 = 3600.0;

/// What is sent, as it is written.
#[derive(Clone, Debug)]
pub(super) enum Workload {
    Kubeai,
    Prompts(PathBuf),
    Sessions(PathBuf),
    Conversations,
    Words,
    File { path: PathBuf, kind: Option<DatasetKind> },
}

/// Replicas of one engine profile, as they are written.
#[derive(Clone, Debug)]
pub(super) struct Engines {
    name: String,
    speed: f64,
    count: Option<usize>,
}

pub(super) fn workload(text: &str) -> Result<Workload, String> {
    Ok(match text.split_once(':') {
        _ if text == "kubeai" => Workload::Kubeai,
        _ if text == "conversations" => Workload::Conversations,
        _ if text == "words" => Workload::Words,
        Some(("prompts", path)) => Workload::Prompts(path.into()),
        Some(("sessions", path)) => Workload::Sessions(path.into()),
        Some((kind, path)) if DatasetKind::from_name(kind).is_some() => {
            Workload::File { path: path.into(), kind: DatasetKind::from_name(kind) }
        }
        _ if std::path::Path::new(text).exists() => Workload::File { path: text.into(), kind: None },
        _ => {
            let kinds = DatasetKind::ALL.map(DatasetKind::name).join(", ");
            return Err(format!(
                "`{text}` is neither a file nor a workload: give kubeai, conversations, words, prompts:FILE, \
                 sessions:FILE, a FILE, or KIND:FILE with one of {kinds}"
            ));
        }
    })
}

/// `NAME[@SPEED][=COUNT]`.
pub(super) fn engines(text: &str) -> Result<Engines, String> {
    let (rest, count) = match text.rsplit_once('=') {
        Some((rest, count)) => {
            let count = count.parse().ok().filter(|count| (1..=65_535).contains(count));
            (rest, Some(count.ok_or_else(|| format!("`{text}`: the count after = must be from 1 to 65535"))?))
        }
        None => (text, None),
    };
    let (name, speed) = match rest.rsplit_once('@') {
        Some((name, speed)) => {
            let speed = speed.parse().ok().filter(|speed| (1e-3..=1e3).contains(speed));
            (name, speed.ok_or_else(|| format!("`{text}`: the speed after @ must be from 0.001 to 1000"))?)
        }
        None => (rest, 1.0),
    };
    Ok(Engines { name: name.into(), speed, count })
}

/// `NAME[@SPEED]`, of one engine.
pub(super) fn engine(text: &str) -> Result<Engines, String> {
    let engine = engines(text)?;
    match engine.count {
        Some(count) => Err(format!("`{text}`: this is about one engine: leave =COUNT (={count}) out")),
        None => Ok(engine),
    }
}

/// A fleet of these engines: as many as their counts say, or `replicas` of them in turn.
pub(super) fn fleet(engines: &[Engines], replicas: usize) -> anyhow::Result<Vec<Profile>> {
    let profiles = engines.iter().map(Engines::profile).collect::<anyhow::Result<Vec<_>>>()?;
    let counts: Vec<usize> = engines.iter().filter_map(|engines| engines.count).collect();
    if counts.is_empty() {
        return Ok(profiles.into_iter().cycle().take(replicas).collect());
    }
    if counts.len() < engines.len() {
        bail!("give a count (=COUNT) for every --profile or for none");
    }
    let all: usize = counts.iter().sum();
    if all > usize::from(u16::MAX) {
        bail!("{all} replicas: at most {} can be told apart", u16::MAX);
    }
    Ok(profiles.into_iter().zip(counts).flat_map(|(profile, count)| vec![profile; count]).collect())
}

impl Engines {
    /// The profile at its speed.
    pub(super) fn profile(&self) -> anyhow::Result<Profile> {
        let profile = engine_profile::read(&self.name)?;
        Ok(if self.speed == 1.0 { profile } else { profile.sped_up(self.speed) })
    }
}

/// A policy with the name that tables give it.
#[derive(Clone, Debug)]
pub(super) struct Policy {
    pub(super) label: String,
    pub(super) settings: PolicySettings,
}

/// A policy's name; `kubeai`; JSON with settings, `{"prefix_hash": {"load_factor_percent": 150}}`; or `LABEL=JSON`.
pub(super) fn policy(text: &str) -> Result<Policy, String> {
    let (label, json) = match text.find('{') {
        Some(0) => (None, Some(text)),
        Some(_) => match text.split_once('=') {
            Some((label, json)) => (Some(label), Some(json)),
            None => (None, Some(text)),
        },
        None => (None, None),
    };
    let settings: PolicySettings = match json {
        Some(json) => serde_json::from_str(json).map_err(|error| error.to_string())?,
        None if text == "kubeai" => {
            PolicySettings::PrefixHash(PrefixHashSettings { exact_kubeai: true, ..Default::default() })
        }
        None => text.parse().map_err(|error: routing::SettingsError| error.to_string())?,
    };
    settings.validate().map_err(|error| error.to_string())?;
    if let Some((setting, why)) = unused(&settings) {
        return Err(format!("`{setting}` plays no part in a simulation, {why}: leave it out"));
    }
    let label = match label {
        None if json.is_some() => settings.name().to_string(),
        None => text.replace('-', "_"),
        Some(label) => label.to_owned(),
    };
    Ok(Policy { label, settings })
}

/// A setting that is not the usual one and plays no part here, with the reason: who gives one believes to have tried it.
fn unused(settings: &PolicySettings) -> Option<(&'static str, &'static str)> {
    const KEY: &str = "whose prompts are known by the first hundred characters of the first user message";
    match settings {
        PolicySettings::PrefixHash(given) => {
            let usual = PrefixHashSettings::default();
            if given.prefix_chars != usual.prefix_chars {
                return Some(("prefix_chars", KEY));
            }
            (given.key != usual.key).then_some(("key", KEY))
        }
        PolicySettings::Session(given) if given.headers != SessionSettings::default().headers => {
            Some(("headers", "whose requests have none: their sessions are known"))
        }
        PolicySettings::PrefixAware(given) if given.balancers != PrefixAwareSettings::default().balancers => {
            Some(("balancers", "where --balancers says how many there are"))
        }
        _ => None,
    }
}

/// `MEAN`, `MEAN,DEVIATION` or `LOW-HIGH`.
pub(super) fn length(text: &str) -> Result<Length, String> {
    let wrong = || format!("`{text}` is no length: give MEAN, MEAN,DEVIATION or LOW-HIGH");
    if let Some((low, high)) = text.split_once('-') {
        let (low, high) = (low.parse().map_err(|_| wrong())?, high.parse().map_err(|_| wrong())?);
        return if 0 < low && low <= high { Ok(Length::Uniform { low, high }) } else { Err(wrong()) };
    }
    let (mean, stddev) = pair(text).ok_or_else(wrong)?;
    Length::normal(mean, stddev).map_err(|error| error.to_string())
}

/// `MEAN` or `MEAN,DEVIATION`, in seconds.
pub(super) fn delay(text: &str) -> Result<Delay, String> {
    let seconds = |seconds: f64| within(seconds, LONGEST_DELAY_S);
    let delay =
        pair(text).and_then(|(mean, stddev)| Some(Delay { mean: seconds(mean)?, stddev: seconds(stddev)? }));
    delay.ok_or_else(|| {
        format!("`{text}` is no time: give MEAN or MEAN,DEVIATION in seconds, at most {LONGEST_DELAY_S}")
    })
}

fn pair(text: &str) -> Option<(f64, f64)> {
    match text.split_once(',') {
        Some((mean, stddev)) => Some((mean.parse().ok()?, stddev.parse().ok()?)),
        None => Some((text.parse().ok()?, 0.0)),
    }
}

/// `constant`, `poisson` or `gamma:SHAPE`.
pub(super) fn pattern(text: &str) -> Result<Pattern, String> {
    match text.split_once(':') {
        None if text == "constant" => Ok(Pattern::Constant),
        None if text == "poisson" => Ok(Pattern::Poisson),
        Some(("gamma", shape)) if shape.parse::<f64>().is_ok_and(|shape| shape > 0.0) => {
            Ok(Pattern::Gamma(shape.parse().unwrap_or(1.0)))
        }
        _ => Err(format!(
            "`{text}` is no arrival process: give constant, poisson or gamma:SHAPE (below 1: bursts)"
        )),
    }
}

/// Sessions per second.
pub(super) fn rate(text: &str) -> Result<f64, String> {
    let rate = text.parse().ok().filter(|rate| (1e-6..=1e6).contains(rate));
    rate.ok_or_else(|| format!("`{text}` is no rate: give sessions per second, from 0.000001 to 1000000"))
}

/// A time in milliseconds.
pub(super) fn milliseconds(text: &str) -> Result<Duration, String> {
    let time = text.parse().ok().and_then(|time: f64| within(time / 1e3, LONGEST_LATENCY_S));
    time.ok_or_else(|| {
        format!("`{text}` is no time: give milliseconds, from 0 to {}", LONGEST_LATENCY_S * 1e3)
    })
}

/// So many seconds, if that is from 0 to `most`.
fn within(seconds: f64, most: f64) -> Option<Duration> {
    (0.0..=most).contains(&seconds).then(|| Duration::from_secs_f64(seconds))
}
