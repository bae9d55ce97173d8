//! `report.html`: the charts that people would rather look at than the table.

use std::time::Duration;

use report::{BarChart, Compared, HeatChart, LineChart, Page, PolicyFigures, TextTable};

use super::trial::Trial;

/// Points of a line over time, at most; more only make it jagged.
const POINTS: f64 = 80.0;

pub(super) fn render(compared: &[Compared], trials: &[Trial], concurrency: u32, speedup: f64) -> String {
    let requests = trials.first().map_or(0, |trial| trial.figures.requests);
    let mut page = Page::new("Routing policies, side by side").subtitle(format!(
        "Eight simulated L4 replicas of Llama 3.1 8B behind one balancer, over HTTP on one machine: {requests} requests \
         of KubeAI's published workload for each policy, at most {concurrency} in flight. Engines run {speedup:.1} times \
         as fast as real ones; all times are in simulated time."
    ));
    if let (Some(first), Some(best)) = (compared.first(), best(compared)) {
        let gain = best.total_tokens_per_s / first.measured.total_tokens_per_s;
        let wait = first.measured.ttft_ms.mean / best.ttft_ms.mean;
        page = page
            .headline(
                format!("{gain:.2}x"),
                format!("throughput of {} against {}", best.policy, first.measured.policy),
            )
            .headline(format!("{wait:.1}x"), "shorter mean time to first token")
            .headline(
                best.prefix_hit_ratio.map_or_else(|| "-".into(), |ratio| format!("{:.0} %", ratio * 100.0)),
                "of its prompt tokens came from a prefix cache",
            );
    }
    page = page
        .section("By policy", "Solid: measured here. Pale: what the KubeAI page published for eight real L4 replicas.")
        .bars(&bars(compared, "Throughput", "tokens/s", |figures| Some(figures.total_tokens_per_s)))
        .bars(&bars(compared, "Mean time to first token", "ms", |figures| Some(figures.ttft_ms.mean)))
        .bars(&bars(compared, "99th percentile of the time to first token", "ms", |figures| Some(figures.ttft_ms.p99)))
        .bars(&bars(compared, "Mean time per output token", "ms", |figures| Some(figures.tpot_ms.mean)))
        .section("Over time", "")
        .lines(&over_time(trials, "Mean time to first token", "ms", speedup, |bucket, _| {
            bucket.mean_ttft().map(|seconds| seconds * 1e3 * speedup)
        }))
        .lines(&over_time(trials, "Output", "tokens/s", speedup, |bucket, width_s| {
            Some(bucket.output_tokens as f64 / (width_s * speedup))
        }))
        .section(
            "Where the requests were",
            "Requests in flight at each replica. An even picture is a balanced fleet; a policy that follows the \
             caches may be uneven and still faster.",
        );
    let most = trials.iter().flat_map(|trial| &trial.in_flight).flat_map(|(_, loads)| loads).max();
    for trial in trials {
        page = page.heat(&requests_per_replica(trial, most.copied().unwrap_or(1) as f64));
    }
    page = page.section("All figures", "").table(&table(compared));
    for trial in trials {
        for note in &trial.notes {
            page = page.section(format!("Note on {}", trial.figures.policy), note);
        }
    }
    page.footer(format!(
        "evenload {} demo; published figures: {}",
        env!("CARGO_PKG_VERSION"),
        report::PUBLISHED_SOURCE
    ))
    .render()
}

/// The policy with the most throughput.
fn best(compared: &[Compared]) -> Option<&PolicyFigures> {
    compared
        .iter()
        .map(|policy| &policy.measured)
        .max_by(|a, b| a.total_tokens_per_s.total_cmp(&b.total_tokens_per_s))
}

fn bars(
    compared: &[Compared],
    title: &str,
    unit: &str,
    value: impl Fn(&PolicyFigures) -> Option<f64>,
) -> BarChart {
    let chart = BarChart::new(title, unit).series(["measured", "published"]).colour_by_group();
    compared.iter().fold(chart, |chart, policy| {
        let published = policy.published.as_ref().and_then(&value);
        chart.group(policy.measured.policy.clone(), [value(&policy.measured), published])
    })
}

fn over_time(
    trials: &[Trial],
    title: &str,
    unit: &str,
    speedup: f64,
    value: impl Fn(&report::Bucket, f64) -> Option<f64>,
) -> LineChart {
    let chart = LineChart::new(title, unit, "simulated seconds").wide();
    trials.iter().fold(chart, |chart, trial| {
        let length_s = trial.report.total.window.length().as_secs_f64();
        let series = trial.report.series.coarsened(Duration::from_secs_f64(length_s / POINTS));
        let width_s = series.width().as_secs_f64();
        let values = series.buckets().iter().map(|bucket| value(bucket, width_s));
        chart.line(trial.figures.policy.clone(), width_s * speedup, values)
    })
}

fn requests_per_replica(trial: &Trial, most: f64) -> HeatChart {
    let step = match &trial.in_flight[..] {
        [first, .., last] => (last.0 - first.0) / (trial.in_flight.len() - 1) as f64,
        _ => 1.0,
    };
    let chart = HeatChart::new(trial.figures.policy.clone(), "requests in flight", "simulated seconds", step)
        .darkest(most);
    let replicas = trial.in_flight.first().map_or(0, |(_, loads)| loads.len());
    (0..replicas).fold(chart, |chart, replica| {
        let loads = trial.in_flight.iter().map(|(_, loads)| loads[replica] as f64);
        chart.row(format!("replica {}", replica + 1), loads)
    })
}

fn table(compared: &[Compared]) -> TextTable {
    let columns = std::iter::once("".to_owned()).chain(compared.iter().flat_map(|policy| {
        let name = &policy.measured.policy;
        [name.clone(), format!("{name}, published")]
    }));
    let table = TextTable::new("Times in milliseconds unless their name says otherwise", columns);
    let Some(first) = compared.first() else { return table };
    first.measured.named().into_iter().fold(table, |table, (figure, _)| {
        let cells = compared.iter().flat_map(|policy| {
            [Some(&policy.measured), policy.published.as_ref()].map(|figures| {
                let value = figures.and_then(|figures| {
                    figures.named().into_iter().find(|(name, _)| *name == figure).map(|(_, value)| value)
                });
                value.map_or_else(|| "-".to_owned(), |value| format!("{value:.2}"))
            })
        });
        table.row(std::iter::once(figure.to_owned()).chain(cells))
    })
}
