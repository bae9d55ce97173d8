//! Several runs in one command: lists of values, and repetitions.

use super::{Arguments, Status, files::Files, output, run};
use crate::commands::interrupt::Interrupts;

/// Carries out all runs, and says how they ended.
pub(super) fn carry_out(arguments: &Arguments, interrupts: &Interrupts) -> anyhow::Result<Status> {
    let seed = arguments.input.random_seed.unwrap_or_else(|| run::drawn() & 0xffff_ffff);
    let files = Files::new(arguments, None);
    let control = interrupts.next_run();
    let finished = run::carry_out(arguments, &files, seed, &control)?;
    output::conclude(arguments, &files, finished)
}
