//! What the terminal shows of a run: five tables that fit 80 columns.

use super::Collector;
use crate::{
    Distribution, MILLISECOND,
    format::{human, thousands},
};

/// A stage's name, the rate asked for, and its figures.
type Row<'a> = (String, Option<f64>, &'a Collector);
/// Some of the figures.
type Values = fn(&Collector) -> &Distribution;

/// The tables, one row a stage and one for all of them.
pub(super) fn tables(stages: &[Row<'_>], total: &Collector) -> String {
    let all = ("all".to_owned(), None, total);
    let rows: Vec<&Row<'_>> = stages.iter().chain(std::iter::once(&all)).collect();
    let figure = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), human);
    let per_second = |collected: &Collector, amount: u128| {
        let seconds = collected.time_s();
        figure((seconds > 0.0).then(|| amount as f64 / seconds))
    };
    let mut text = table(
        "Throughput and goodput",
        &["stage", "asked/s", "sent/s", "answered/s", "in tok/s", "out tok/s", "good %"],
        rows.iter().map(|(name, asked, collected)| {
            let all = collected.count + collected.not_sent;
            vec![
                name.clone(),
                figure(*asked),
                // Between stages nothing is sent: all of them have no rate.
                figure(collected.achieved_rate().filter(|_| !std::ptr::eq(*collected, total))),
                per_second(collected, collected.answered.into()),
                per_second(collected, collected.input.sum()),
                per_second(collected, collected.output.sum()),
                figure(collected.goodput.percent_of_all(all, &collected.settings)),
            ]
        }),
    );
    let times = |figures: &[(&str, Values)]| -> Vec<Vec<String>> {
        let lines = figures.iter().flat_map(|figure| rows.iter().map(move |row| (figure, row)));
        let line = |((name, values), (stage, _, collected)): (&(&str, Values), &&Row<'_>)| {
            let values = values(collected);
            let at = values.percentiles(&[50.0, 90.0, 99.0]).unwrap_or_default();
            let mut cells = vec![(*name).to_owned(), stage.clone()];
            cells.push(figure(values.mean().map(|mean| mean / MILLISECOND)));
            cells.extend((0..3).map(|place| figure(at.get(place).map(|value| value / MILLISECOND))));
            cells.push(figure(values.max().map(|max| max as f64 / MILLISECOND)));
            cells
        };
        lines.map(line).collect()
    };
    let columns = ["milliseconds", "stage", "mean", "P50", "P90", "P99", "max"];
    text += &table(
        "Latency",
        &columns,
        times(&[
            ("schedule delay", |collected| &collected.delay),
            ("request", |collected| &collected.latency.request),
            ("from schedule", |collected| &collected.latency.from_schedule),
            ("first token", |collected| &collected.latency.ttft),
        ]),
    );
    text += &table(
        "Token generation",
        &columns,
        times(&[
            ("per output token", |collected| &collected.latency.tpot),
            ("between tokens", |collected| &collected.latency.itl),
            ("normalized per token", |collected| &collected.latency.ntpot),
        ]),
    );
    text += &table(
        "Lengths",
        &["stage", "prompt", "P99", "output", "P99", "cached %"],
        rows.iter().map(|(name, _, collected)| {
            let (input, output) = (&collected.input, &collected.output);
            let hits = 100.0 * collected.cached_tokens as f64;
            let hits = crate::summary::ratio(hits, collected.cacheable_tokens as f64);
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
        &["stage", "sent", "answered", "failed", "cut off", "not sent", "retried"],
        rows.iter().map(|(name, _, collected)| {
            let counts = [
                collected.count,
                collected.answered,
                collected.failed,
                collected.cut_off,
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
