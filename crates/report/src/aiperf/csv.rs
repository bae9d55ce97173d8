//! The two CSV files: the summary in blocks, the slices in long form. Lines end as Python's `csv` ends them.

use csv::{Terminator, Writer, WriterBuilder};

use super::{Collector, MetricResult, Slices, Statistics, Tag, results::STATISTICS};
use crate::{distribution::nanoseconds, imbalance::Imbalance};

/// `profile_export_aiperf.csv`: metrics with percentiles, a blank line, single values; then, with several
/// targets, two blank lines and a block that AIPerf does not have.
pub fn summary_csv(collector: &Collector, urls: &[String], targets: &[Collector]) -> String {
    let mut results = collector.results();
    results.sort_by(|a, b| a.tag.cmp(&b.tag));
    let many = |result: &&MetricResult| !matches!(result.statistics, Statistics::Scalar(_));
    let mut blocks = Vec::new();
    if results.iter().any(|result| many(&result)) {
        blocks.push(block(|writer| {
            writer.write_record(std::iter::once("Metric").chain(STATISTICS))?;
            results.iter().filter(many).try_for_each(|result| {
                let values = STATISTICS.iter().map(|statistic| number(result.statistic(statistic)));
                writer.write_record(std::iter::once(name(result)).chain(values))
            })
        }));
    }
    blocks.push(block(|writer| {
        writer.write_record(["Metric", "Value"])?;
        results
            .iter()
            .filter(|result| !many(result))
            .try_for_each(|result| writer.write_record([name(result), number(result.statistic("avg"))]))
    }));
    let mut text = blocks.join("\r\n");
    if targets.len() > 1 {
        text += "\r\n\r\n";
        text += &block(|writer| targets_block(writer, urls, targets));
    }
    text
}

/// `profile_export_aiperf_timeslices.csv`
pub fn slices_csv(slices: &Slices, measured: &Collector, epoch_ns: u64) -> String {
    block(|writer| {
        writer.write_record(["Timeslice", "Start_NS", "End_NS", "Metric", "Unit", "Stat", "Value"])?;
        for (position, (slice, mut results)) in slices.results(measured).enumerate() {
            let [start, end] = [slice.start, slice.end].map(|time| epoch_ns + nanoseconds(time));
            results.sort_by(|a, b| a.tag.cmp(&b.tag));
            for result in &results {
                for statistic in STATISTICS {
                    if let Some(value) = result.statistic(statistic) {
                        let value = number(Some(value));
                        let [position, start, end] =
                            [position as u64, start, end].map(|number| number.to_string());
                        let fields = [position, start, end, result.header.clone(), result.unit.to_owned()];
                        writer.write_record(fields.iter().map(String::as_str).chain([statistic, &value]))?;
                    }
                }
            }
        }
        Ok(())
    })
}

fn targets_block(writer: &mut Writer<Vec<u8>>, urls: &[String], targets: &[Collector]) -> csv::Result<()> {
    let columns = [
        ("TTFT avg (ms)", Tag::TimeToFirstToken, "avg"),
        ("TTFT p50 (ms)", Tag::TimeToFirstToken, "p50"),
        ("TTFT p99 (ms)", Tag::TimeToFirstToken, "p99"),
        ("ITL avg (ms)", Tag::InterTokenLatency, "avg"),
        ("ITL p99 (ms)", Tag::InterTokenLatency, "p99"),
        ("Request Latency avg (ms)", Tag::RequestLatency, "avg"),
        ("Request Latency p99 (ms)", Tag::RequestLatency, "p99"),
    ];
    let head = ["URL", "Requests", "Errors", "Share (%)"];
    writer.write_record(head.into_iter().chain(columns.map(|(column, ..)| column)))?;
    let requests: Vec<f64> = targets.iter().map(|target| (target.answered + target.failed) as f64).collect();
    let all: f64 = requests.iter().sum();
    for ((url, target), count) in urls.iter().zip(targets).zip(&requests) {
        let share = number(crate::summary::ratio(100.0 * count, all));
        let head = [url.clone(), target.answered.to_string(), target.failed.to_string(), share];
        let values = columns.map(|(_, tag, statistic)| {
            number(target.result(tag).and_then(|result| result.statistic(statistic)))
        });
        writer.write_record(head.into_iter().chain(values))?;
    }
    let Some(imbalance) = Imbalance::of(&requests) else { return Ok(()) };
    let figures = [("Max/Mean", imbalance.max_over_mean), ("CV", imbalance.cv), ("Jain", imbalance.jain)];
    let fields = figures.into_iter().flat_map(|(label, value)| [label.to_owned(), format!("{value:.4}")]);
    let fields = std::iter::once("Imbalance of requests".to_owned()).chain(fields);
    let width = head.len() + columns.len();
    writer.write_record(fields.chain(std::iter::repeat(String::new())).take(width))
}

pub(super) fn block(fill: impl FnOnce(&mut Writer<Vec<u8>>) -> csv::Result<()>) -> String {
    let mut writer = WriterBuilder::new().terminator(Terminator::CRLF).flexible(true).from_writer(Vec::new());
    // Rows of any width, to memory: there is nothing that could fail.
    let _ = fill(&mut writer);
    String::from_utf8_lossy(&writer.into_inner().unwrap_or_default()).into_owned()
}

/// Counts go without their unit.
fn name(result: &MetricResult) -> String {
    match result.unit {
        "count" | "requests" => result.header.clone(),
        unit => format!("{} ({unit})", result.header),
    }
}

fn number(value: Option<f64>) -> String {
    value.map_or_else(String::new, |value| format!("{value:.2}"))
}
