//! What this process has cost so far, as Linux counts it.

use std::fs;

use anyhow::Context;

/// Unit of the times in `/proc`, the same on every Linux.
const TICKS_PER_S: f64 = 100.0;

/// Processor time, user and system, in seconds.
pub(crate) fn processor_s() -> anyhow::Result<f64> {
    let text = fs::read_to_string("/proc/self/stat").context("cannot read /proc/self/stat")?;
    let ticks = |place: usize| text.rsplit(')').next()?.split_whitespace().nth(place)?.parse::<f64>().ok();
    let both = ticks(11).zip(ticks(12)).context("/proc/self/stat has another form than expected")?;
    Ok((both.0 + both.1) / TICKS_PER_S)
}

/// The most memory that was resident at a time, in MiB.
pub(crate) fn peak_memory_mib() -> anyhow::Result<f64> {
    let text = fs::read_to_string("/proc/self/status").context("cannot read /proc/self/status")?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<f64>().ok());
    Ok(kib.context("/proc/self/status does not state VmHWM")? / 1024.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_costs_of_this_process_are_read() {
        assert!(peak_memory_mib().expect("Linux says so") > 0.5);
        assert!(processor_s().expect("Linux says so") >= 0.0);
    }
}
