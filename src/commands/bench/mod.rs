//! `evenload bench`: the serving benchmark of KubeAI and of vLLM, by their flags, with their output.
//!
//! The script decides the defaults, the prompts, the send times, what is sent before the run, what counts as a chunk,
//! and the output. Flags that are not there are refused by name.
//!
//! The block and the JSON hold those scripts' figures by their definitions. What they do not say (how late requests
//! left, how many were in flight, whether the numbers may be quoted) follows after the block.
//!
//! Exit status: 0; 1 if nothing was answered or something could not be read or written; 2 for wrong flags; 130 after
//! Ctrl-C or SIGTERM, with partial results.

mod dataset;
mod flags;
mod load;
mod modern;
mod output;
mod send;
mod unsupported;

use std::process::ExitCode;

use anyhow::Context;

pub(crate) use flags::Arguments;
use load::Load;
use send::Sender;

use super::interrupt::Interrupts;
use crate::print;

/// Exit status for flags that cannot be used together, as for wrong ones.
const USAGE: u8 = 2;

impl Arguments {
    pub(crate) fn run(mut self) -> anyhow::Result<ExitCode> {
        if let Err(problem) = self.check() {
            remark!("evenload: {problem}");
            return Ok(ExitCode::from(USAGE));
        }
        output::check(&self)?;
        let sender = Sender::new(&self)?;
        if self.model.is_none() {
            self.model = Some(sender.first_model()?);
        }
        let load = Load::read(&self)?;
        print::text(&load.describe(&self));
        sender.warm_up(&self, &load)?;
        let run = self.bench_run();
        let control = Interrupts::listen().context("cannot wait for signals")?.next_run();
        print::text(&run.preamble());
        let measured = sender.measure(&self, &load, &control)?;
        output::conclude(&self, run, &load, &measured)
    }
}
