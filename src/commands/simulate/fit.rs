//! `evenload simulate fit`: an engine's profile from measurements.

use std::{
    fs,
    io::Write,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context, anyhow, bail};
use clap::Args;
use engine::Profile;
use indicatif::ProgressBar;
use serde_json::json;
use simulate::fit::{Evidence, Fit, Judgement, Limits, Measurements, Search, read};

use super::inputs::Engines;
use crate::{
    commands::engine_profile::{self, LimitFlags},
    print,
};

/// Errors of a figure above this are worth a word.
const POOR: f64 = 0.1;
/// Said where measurements tell that prompts were found in caches, and not which ones are alike.
const UNSHARED: &str = "not in the measurements: which prompts share a beginning. Each is taken to hold what it found in \
                        the cache alone: where the memory was full, a decision log fits better";

/// Flags of `evenload simulate fit`.
#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// Measurements: a vLLM request log (its meta.json beside it), evenload's records, a decision log of
    /// `serve`, or JSON lines of figures: concurrency or rate, requests (by default 200, or 10 times the
    /// concurrency), input_tokens, output_tokens, and of duration_s (with requests), output_tokens_per_s,
    /// mean_ttft_ms, mean_tpot_ms, mean_e2e_ms what is known.
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Profile that the search begins with, NAME[@SPEED], and that has what the measurements do not say: a built-in
    /// name or a JSON file.
    #[arg(long, value_name = "PROFILE", default_value = "rtx4090-llama-3.1-8b-bf16", value_parser = super::inputs::engine)]
    base: Engines,
    /// Name of the new profile [default: the file's].
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// Write the profile to this JSON file, for --profile of `engine` and `simulate`.
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Find the KV memory, too, instead of taking it as given.
    #[arg(long)]
    fit_kv_blocks: bool,
    /// Print JSON instead of a table.
    #[arg(long)]
    json: bool,
    #[command(
        flatten,
        next_help_heading = "Limits of the engine [default: the measurements', or the base profile's]"
    )]
    limits: LimitFlags,
}

impl Arguments {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        let Measurements { evidence, limits, left_out, unreadable_lines } = read(&self.file)?;
        if let Some(path) = &self.output {
            check_writable(path)?;
        }
        let known = self.limits.limits().or(limits);
        let mut base = known.over(self.base.profile()?);
        let model_len = self.model_len(&mut base, &known, &evidence);
        base.name = self.name.unwrap_or_else(|| {
            self.file.file_stem().map_or_else(|| "fitted".into(), |stem| stem.to_string_lossy().into_owned())
        });
        if self.fit_kv_blocks {
            // Where the search begins; any memory that it tries holds the longest request.
            base.kv_blocks = base.kv_blocks.max(base.max_model_len.div_ceil(base.block_tokens.max(1)));
        }
        evidence.check(&base).map_err(|error| {
            let file = self.file.display();
            anyhow!("{file}:{}: {error}: raise --max-model-len or --kv-blocks, or let --fit-kv-blocks find the memory", error.longest.line)
        })?;
        base.check().context("the engine's limits cannot work")?;
        let bar = ProgressBar::new_spinner();
        let search = Search { base, kv_blocks: self.fit_kv_blocks };
        let fit = search.fit(&evidence, |evaluations, least| {
            bar.set_message(format!("{evaluations} simulated runs, loss {least:.5}"));
            bar.tick();
        });
        bar.finish_and_clear();
        if let Err(error) = fit.profile.check() {
            bail!("no profile that can work was found: {error}");
        }
        let text = serde_json::to_string_pretty(&fit.profile)?;
        if let Some(path) = &self.output {
            fs::write(path, format!("{text}\n"))
                .with_context(|| format!("cannot write {}", path.display()))?;
            // What was written can be read again.
            engine_profile::read(&path.to_string_lossy())?;
            remark!("written: {}", path.display());
        }
        let mut out = print::Output;
        if self.json {
            let value = json!({"profile": fit.profile, "evaluations": fit.evaluations, "measured": evidence.len(),
                "left_out": left_out, "unreadable_lines": unreadable_lines, "seen": fit.seen, "held_out": fit.held_out});
            writeln!(out, "{}", serde_json::to_string_pretty(&value)?)?;
        } else {
            writeln!(out, "{text}\n")?;
            if left_out > 0 {
                writeln!(out, "left out: requests without an answer, an output or its times {left_out}")?;
            }
            if unreadable_lines > 0 {
                writeln!(out, "left out: lines that are no decisions {unreadable_lines}")?;
            }
            writeln!(out, "{}", assumed(&fit.profile, &known, self.fit_kv_blocks, model_len))?;
            if evidence.hides_what_is_shared() {
                writeln!(out, "{UNSHARED}")?;
            }
            print(&fit, &mut out)?;
        }
        Ok(ExitCode::SUCCESS)
    }

    /// Where nothing says how long a request may be, it is as the base profile has it, but no longer than the memory
    /// and no shorter than what was measured. Says so.
    fn model_len(&self, base: &mut Profile, known: &Limits, evidence: &Evidence) -> Option<String> {
        let memory = u32::try_from(base.kv_tokens()).unwrap_or(u32::MAX);
        if self.limits.limits().max_model_len.is_none() {
            base.max_model_len = base.max_model_len.min(memory);
        }
        if known.max_model_len.is_some() {
            return None;
        }
        let within_memory = base.max_model_len;
        let longest = evidence.longest().map_or(0, |longest| longest.tokens);
        base.max_model_len = within_memory.max(longest);
        let why = match () {
            () if longest > within_memory => " (raised to the longest that was measured)",
            () if within_memory == memory => " (all that the KV memory holds)",
            () => "",
        };
        Some(format!("max_model_len {}{why}", base.max_model_len))
    }
}

/// A search takes long, so that it begins only if what it finds can be kept. Leaves no file where none was.
fn check_writable(path: &Path) -> anyhow::Result<()> {
    let new = !path.exists();
    let opened = fs::OpenOptions::new().append(true).create(true).open(path);
    opened.with_context(|| format!("cannot write {}", path.display()))?;
    if new {
        fs::remove_file(path).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}

/// What the profile has of the base, because neither the measurements nor a flag said it.
fn assumed(profile: &Profile, known: &Limits, fit_kv_blocks: bool, model_len: Option<String>) -> String {
    let numbers = [
        ("kv_blocks", known.kv_blocks.is_some() || fit_kv_blocks, profile.kv_blocks),
        ("block_tokens", known.block_tokens.is_some(), profile.block_tokens),
        ("max_num_seqs", known.max_num_seqs.is_some(), profile.max_num_seqs),
        ("max_num_batched_tokens", known.max_num_batched_tokens.is_some(), profile.max_num_batched_tokens),
    ];
    let numbers = numbers.iter().filter(|(_, known, _)| !known);
    let mut all: Vec<String> = numbers.map(|(name, _, value)| format!("{name} {value}")).collect();
    all.extend(model_len);
    all.push(format!("preallocated_blocks {}", profile.preallocated_blocks));
    all.push(format!("reserve_prompt {}", profile.reserve_prompt));
    all.push(format!("prefix_caching {}", profile.prefix_caching));
    format!("not in the measurements, so the base profile's: {}", all.join(", "))
}

fn print(fit: &Fit, out: &mut impl Write) -> anyhow::Result<()> {
    writeln!(out, "{} simulated runs", fit.evaluations)?;
    writeln!(
        out,
        "{:<12}{:>9}  {:<18}{:>12}{:>12}{:>9}",
        "", "number", "figure", "measured", "model", "error"
    )?;
    table("fitted to", &fit.seen, out)?;
    match &fit.held_out {
        Some(held_out) => table("held out", held_out, out)?,
        None => writeln!(
            out,
            "held out: nothing; that needs four rows of a table, or four requests to an engine"
        )?,
    }
    let worst = fit.held_out.as_ref().unwrap_or(&fit.seen).worst();
    let verdict = if fit.held_out.is_none() {
        "not judged: what a fit is made from says little about it"
    } else if worst <= POOR {
        "good"
    } else {
        "poor: are the limits right (--fit-kv-blocks finds the memory), does all load of the engine appear in the \
         measurements?"
    };
    writeln!(out, "\nlargest error of a figure: {:.1} % ({verdict})", worst * 100.0)?;
    Ok(())
}

fn table(part: &str, judgement: &Judgement, out: &mut impl Write) -> anyhow::Result<()> {
    for compared in &judgement.figures {
        writeln!(
            out,
            "{part:<12}{:>9}  {:<18}{:>12.3}{:>12.3}{:>8.1}%",
            judgement.requests,
            compared.figure,
            compared.measured,
            compared.model,
            compared.error * 100.0
        )?;
    }
    if let (Some(ttft), Some(e2e)) = (judgement.median_ttft_error, judgement.median_e2e_error) {
        writeln!(
            out,
            "{part:<12}{:>9}  half of the requests are off by less than {:.1} % in TTFT, {:.1} % in E2E",
            judgement.requests,
            ttft * 100.0,
            e2e * 100.0
        )?;
    }
    Ok(())
}
