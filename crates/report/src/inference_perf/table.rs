//! What the terminal shows of a run: five tables that fit 80 columns.

use super::Collector;
use crate::{
    Distribution, MILLISECOND,
    format::{human, thousands},
};

/// The tables, one row a stage and one for all of them.
pub(super) fn tables(stages: &[(String, Option<f64>, &Collector)], total: &Collector) -> String {
    let all = ("all".to_owned(), None, total);
    let rows: Vec<_> = stages.iter().chain(std::iter::once(&all)).collect();
    let figure = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), human);
    let per_second = |collected: &Collector, amount: u128| {
        let seconds = collected.time_s();
        figure((seconds > 0.0).then(|| amount as f64 / seconds))
    };
    let mut text = table(
        "Throughput and goodput",
        &["stage", "asked/s", "sent/s", "answered/s", "in tok/s", "out tok/s", "good %"],
        rows.iter().map(|(name, asked, collected)| {
            let all = collected.answered + collected.failed + collected.not_sent;
            vec![
                name.clone(),
                figure(*asked),
                figure(asked.and(collected.achieved_rate())),
                per_second(collected, collected.answered.into()),
                per_second(collected, collected.input.sum()),
                per_second(collected, collected.output.sum()),
                figure(collected.goodput.percent_of_all(all, &collected.settings)),
            ]
        }),
    );
    let times = |name: &str, values: &Distribution| {
        let at = values.percentiles(&[50.0, 90.0, 99.0]).unwrap_or_default();
        let mut row = vec![name.to_owned(), figure(values.mean().map(|mean| mean / MILLISECOND))];
        row.extend((0..3).map(|place| figure(at.get(place).map(|value| value / MILLISECOND))));
        row.push(figure(values.max().map(|max| max as f64 / MILLISECOND)));
        row
    };
    let columns = ["milliseconds", "mean", "P50", "P90", "P99", "max"];
    let latency = &total.latency;
    text += &table(
        "Latency",
        &columns,
        [
            times("schedule delay", &total.delay),
            times("request", &latency.request),
            times("request, from schedule", &latency.from_schedule),
            times("first token", &latency.ttft),
        ],
    );
    text += &table(
        "Token generation",
        &columns,
        [
            times("per output token", &latency.tpot),
            times("between tokens", &latency.itl),
            times("normalized per token", &latency.ntpot),
        ],
    );
    text += &table(
        "Lengths",
        &["stage", "prompt", "P99", "output", "P99", "cached %"],
        rows.iter().map(|(name, _, collected)| {
            let (input, output) = (&collected.input, &collected.output);
            let hits = crate::summary::ratio(100.0 * collected.cached_tokens as f64, input.sum() as f64);
            vec![
                name.clone(),
                figure(input.mean()),
                figure(input.percentile(99.0)),
                figure(output.mean()),
                figure(output.percentile(99.0)),
                figure(hits),
            ]
        }),
    );
    text + &table(
        "Requests",
        &["stage", "sent", "answered", "failed", "not sent", "retried"],
        rows.iter().map(|(name, _, collected)| {
            let counts = [
                collected.count,
                collected.answered,
                collected.failed,
                collected.not_sent,
                collected.retries.requests,
            ];
            std::iter::once(name.clone()).chain(counts.map(|count| thousands(count as f64, 0))).collect()
        }),
    )
}

fn table(title: &str, columns: &[&str], rows: impl IntoIterator<Item = Vec<String>>) -> String {
    let rows: Vec<Vec<String>> = rows.into_iter().collect();
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count());
        cells.max().unwrap_or(0).max(columns[column].chars().count())
    };
    let widths: Vec<usize> = (0..columns.len()).map(width).collect();
    let line = |cells: &[String]| {
        let mut text = String::new();
        for (place, (cell, width)) in cells.iter().zip(&widths).enumerate() {
            text += &if place == 0 { format!("  {cell:<width$}") } else { format!("  {cell:>width$}") };
        }
        text.trim_end().to_owned() + "\n"
    };
    let head: Vec<String> = columns.iter().map(|&column| column.to_owned()).collect();
    let rows: String = rows.iter().map(|row| line(row)).collect();
    format!("{title}\n{}{rows}\n", line(&head))
}
