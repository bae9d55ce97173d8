//! `evenload simulate fit`: an engine's profile from measurements.

use std::{fs, io::Write, path::PathBuf, process::ExitCode};

use anyhow::{Context, bail};
use clap::Args;
use indicatif::ProgressBar;
use serde_json::json;
use simulate::fit::{Fit, Judgement, Limits, Search, read};

use super::inputs::Engines;
use crate::commands::engine_profile;

/// Errors of a figure above this are worth a word.
const POOR: f64 = 0.1;

/// Flags of `evenload simulate fit`.
#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// Measurements: a vLLM request log (its meta.json beside it), evenload's records, a decision log of
    /// `serve`, or JSON lines of figures: concurrency or rate, requests, input_tokens, output_tokens, and of
    /// duration_s, output_tokens_per_s, mean_ttft_ms, mean_tpot_ms, mean_e2e_ms what is known.
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Profile that the search begins with, NAME[@SPEED], and that has what the measurements do not say: a built-in
    /// name or a JSON file.
    #[arg(long, default_value = "rtx4090-llama-3.1-8b-bf16", value_parser = super::inputs::engines)]
    base: Engines,
    /// Name of the new profile. [default: the file's]
    #[arg(long)]
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
    #[command(flatten)]
    limits: LimitFlags,
}

/// The engine's limits; those that are not given come with the measurements or from the base profile.
#[derive(Clone, Copy, Debug, Args)]
#[command(next_help_heading = "Limits of the engine")]
struct LimitFlags {
    /// KV memory, in blocks.
    #[arg(long, value_name = "N")]
    kv_blocks: Option<u32>,
    /// Tokens in a block.
    #[arg(long, value_name = "TOKENS")]
    block_size: Option<u32>,
    /// Sequences that run at the same time.
    #[arg(long, value_name = "N")]
    max_num_seqs: Option<u32>,
    /// Tokens computed in one step.
    #[arg(long, value_name = "TOKENS")]
    max_num_batched_tokens: Option<u32>,
    /// Prompt and output of one request together.
    #[arg(long, value_name = "TOKENS")]
    max_model_len: Option<u32>,
}

impl Arguments {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        let (evidence, found) = read(&self.file)?;
        let given = Limits {
            kv_blocks: self.limits.kv_blocks,
            block_tokens: self.limits.block_size,
            max_num_seqs: self.limits.max_num_seqs,
            max_num_batched_tokens: self.limits.max_num_batched_tokens,
            max_model_len: self.limits.max_model_len,
        };
        let mut base = given.or(found).over(self.base.profile()?);
        base.name = self.name.unwrap_or_else(|| {
            self.file.file_stem().map_or_else(|| "fitted".into(), |stem| stem.to_string_lossy().into_owned())
        });
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
        let mut out = std::io::stdout().lock();
        if self.json {
            let value = json!({"profile": fit.profile, "evaluations": fit.evaluations, "measured": evidence.len(),
                "seen": fit.seen, "held_out": fit.held_out});
            writeln!(out, "{}", serde_json::to_string_pretty(&value)?)?;
        } else {
            writeln!(out, "{text}\n")?;
            print(&fit, &mut out)?;
        }
        if let Some(path) = &self.output {
            fs::write(path, text + "\n").with_context(|| format!("cannot write {}", path.display()))?;
            // What was written can be read again.
            engine_profile::read(&path.to_string_lossy())?;
            eprintln!("written: {}", path.display());
        }
        Ok(ExitCode::SUCCESS)
    }
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
        None => writeln!(out, "held out: nothing; a table needs four rows for that")?,
    }
    let worst = fit.held_out.as_ref().unwrap_or(&fit.seen).worst();
    let verdict = if worst > POOR {
        "poor: are the limits right, does all load of the engine appear in the measurements?"
    } else {
        "good"
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
