//! What this side did: the lines that follow a dialect's own output, lateness, rate and requests in flight.

use crate::{ClientHealth, MILLISECOND, Metric, Report, SECOND, summary::ratio};

/// Labels and values in the columns of vLLM's block.
pub fn client_lines(report: &Report, health: &ClientHealth) -> String {
    let rows = client_rows(report, health).into_iter();
    let rows = rows.map(|(label, value)| format!("{label:<40} {value:<10.2}\n"));
    format!("{:-^50}\n", "Client") + &rows.collect::<String>()
}

/// Labels and values; what is not known is left out.
pub(crate) fn client_rows(report: &Report, health: &ClientHealth) -> Vec<(&'static str, f64)> {
    let total = &report.total;
    let percentile = |metric, percent| total.of(metric).percentile(percent).map(|time| time / MILLISECOND);
    let rates: Vec<Option<f64>> = report.measured().map(|(shape, _)| shape.target_rate).collect();
    // Phases of different rates have no rate in common.
    let asked = rates.iter().copied().reduce(|one, other| one.filter(|_| one == other)).flatten();
    let scheduled = rates.iter().any(Option::is_some).then(|| total.scheduled_rate()).flatten();
    // Without a stream the first token is the last.
    let streamed = total.of(Metric::Gap).max();
    let busiest = health.io_thread_cpu.iter().copied().reduce(f64::max);
    let bunched = ratio(health.multi_event_reads as f64, health.payload_reads as f64);
    let stalls = &health.stalls;
    let rows = [
        ("Request rate asked for (req/s):", asked),
        ("Request rate of the schedule (req/s):", scheduled),
        ("Request rate achieved (req/s):", total.achieved_rate()),
        ("Median schedule lag (ms):", percentile(Metric::ScheduleLag, 50.0)),
        ("P99 schedule lag (ms):", percentile(Metric::ScheduleLag, 99.0)),
        ("P99 wait for a slot (ms):", percentile(Metric::SlotWait, 99.0)),
        ("P99 client lag (ms):", percentile(Metric::ClientLag, 99.0)),
        (
            "Mean TTFT from schedule (ms):",
            streamed.and(total.of(Metric::TtftFromSchedule).mean()).map(|time| time / MILLISECOND),
        ),
        ("P99 max stall (ms):", percentile(Metric::MaxStall, 99.0)),
        ("In flight, Little's law:", Some(total.in_flight_by_littles_law())),
        ("In flight, mean over time:", Some(total.mean_in_flight())),
        ("Prefix cache hits (% of prompt tokens):", total.prefix_hit_ratio().map(|share| share * 100.0)),
        ("Busiest I/O thread (% of a core):", busiest.map(|share| share * 100.0)),
        ("Longest stall of the client (ms):", Some(stalls.longest_ms).filter(|_| stalls.watched_ms > 0.0)),
        ("CPU time taken by the host (%):", health.stolen_share.map(|share| share * 100.0)),
        ("Reads with several events (%):", bunched.map(|share| share * 100.0)),
        ("P99 read lag (ms):", health.read_lag.percentile(99.0).map(|time| time / MILLISECOND)),
    ];
    rows.into_iter().filter_map(|(label, value)| Some((label, value?))).collect()
}

/// The same for files: times in milliseconds, rates per second.
pub fn client_json(report: &Report, health: &ClientHealth) -> serde_json::Value {
    let total = &report.total;
    let spread = |metric| total.of(metric).spread(MILLISECOND);
    serde_json::json!({
        "scheduled_rate": total.scheduled_rate(),
        "achieved_rate": total.achieved_rate(),
        "schedule_lag_ms": spread(Metric::ScheduleLag),
        "slot_wait_ms": spread(Metric::SlotWait),
        "client_lag_ms": spread(Metric::ClientLag),
        "ttft_sched_ms": spread(Metric::TtftFromSchedule),
        "e2el_sched_ms": spread(Metric::E2eFromSchedule),
        "max_stall_ms": spread(Metric::MaxStall),
        "read_lag_ms": health.read_lag.spread(MILLISECOND),
        "in_flight_littles_law": total.in_flight_by_littles_law(),
        "in_flight_mean": total.mean_in_flight(),
        "in_flight_peak": health.peak_in_flight.unwrap_or_else(|| report.peak_in_flight()),
        "window_s": total.window.length().as_nanos() as f64 / SECOND,
        "prefix_hit_ratio": total.prefix_hit_ratio(),
        "connections": total.connections,
        "io_thread_cpu": health.io_thread_cpu,
        "stalls": health.stalls,
        "stolen_share": health.stolen_share,
        "payload_reads": health.payload_reads,
        "multi_event_reads": health.multi_event_reads,
    })
}
