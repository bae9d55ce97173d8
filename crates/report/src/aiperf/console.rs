//! The console: AIPerf's table of metrics and of errors, and our table of targets.

use comfy_table::{
    Cell, CellAlignment, ContentArrangement, ContentLineStyle, LineStyle, Row, Table, TableStyle,
};

use super::{
    Collector, MetricResult, Tag,
    json::{error_code, error_message, error_type},
};
use crate::{
    EngineFigures, TextTable,
    engines::{engine_cells, engine_columns},
    format::thousands,
    imbalance::Imbalance,
};

/// The box that AIPerf's tables have.
const STYLE: TableStyle = TableStyle::new()
    .top_border(LineStyle::new('┏', '━', '┳', '┓'))
    .header_lines(ContentLineStyle::new('┃', '┃', '┃'))
    .header_separator(LineStyle::new('┡', '━', '╇', '┩'))
    .content_lines(ContentLineStyle::new('│', '│', '│'))
    .bottom_border(LineStyle::new('└', '─', '┴', '┘'));
const COLUMNS: [&str; 7] = ["avg", "min", "max", "p99", "p90", "p50", "std"];
/// Names longer than this have their unit on the next line.
const HEADER_LETTERS: usize = 30;

/// The table of metrics, its title centred above it.
pub fn metrics_table(title: &str, collector: &Collector) -> String {
    let mut results = collector.results();
    results.retain(|result| result.order.is_some());
    results.sort_by_key(|result| result.order);
    results_table(title, results)
}

/// The table of socket timings.
pub fn trace_table(title: &str, collector: &Collector) -> String {
    let traced = Tag::ALL.into_iter().filter(|tag| tag.is_timing());
    results_table(title, traced.filter_map(|tag| collector.result(tag)).collect())
}

fn results_table(title: &str, results: Vec<MetricResult>) -> String {
    let mut table = table(std::iter::once("Metric").chain(COLUMNS));
    for result in results {
        let mark = if result.header.len() > HEADER_LETTERS { '\n' } else { ' ' };
        let name = format!("{}{mark}({})", result.header, result.unit);
        let values = COLUMNS.iter().map(|column| match result.statistic(column) {
            Some(value) => thousands(value, 2),
            None => "N/A".to_owned(),
        });
        table.add_row(right(std::iter::once(name).chain(values)));
    }
    titled(title, &table)
}

/// The table of targets: counts, share of the requests, latencies. One line below says how even the load was. Rates
/// are per second of the whole run, which `measured` has collected.
pub fn targets_table(title: &str, urls: &[String], targets: &[Collector], measured: &Collector) -> String {
    let columns = [
        "URL",
        "requests",
        "errors",
        "share",
        "req/s",
        "TTFT avg",
        "TTFT p99",
        "ITL avg",
        "latency avg",
        "latency p99",
    ];
    let mut table = table(columns);
    let requests: Vec<f64> = targets.iter().map(|target| (target.answered + target.failed) as f64).collect();
    let all: f64 = requests.iter().sum();
    for ((url, target), count) in urls.iter().zip(targets).zip(&requests) {
        let of = |tag: Tag, statistic: &str| {
            let value = target.result(tag).and_then(|result| result.statistic(statistic));
            value.map_or_else(|| "N/A".to_owned(), |value| thousands(value, 2))
        };
        let rate = crate::summary::ratio(target.answered as f64, measured.duration_s());
        table.add_row(right([
            url.clone(),
            target.answered.to_string(),
            target.failed.to_string(),
            format!("{:.1} %", 100.0 * count / all.max(1.0)),
            rate.map_or_else(|| "N/A".to_owned(), |rate| thousands(rate, 2)),
            of(Tag::TimeToFirstToken, "avg"),
            of(Tag::TimeToFirstToken, "p99"),
            of(Tag::InterTokenLatency, "avg"),
            of(Tag::RequestLatency, "avg"),
            of(Tag::RequestLatency, "p99"),
        ]));
    }
    let even =
        Imbalance::of(&requests).map_or_else(String::new, |imbalance| format!("Requests: {imbalance}\n"));
    titled(title, &table) + &even
}

/// The table of the engines' own figures; empty where none of them said anything.
pub fn engines_table(title: &str, urls: &[String], engines: &[EngineFigures]) -> String {
    if engines.iter().all(EngineFigures::is_empty) {
        return String::new();
    }
    let mut table = table(engine_columns());
    for (url, figures) in urls.iter().zip(engines) {
        table.add_row(right(std::iter::once(url.clone()).chain(engine_cells(figures))));
    }
    titled(title, &table)
}

/// Any table in the same box.
pub fn plain_table(title: &str, rows: &TextTable) -> String {
    let (columns, rows) = rows.cells();
    let mut table = table(columns.iter().map(String::as_str));
    for row in rows {
        table.add_row(right(row.iter().cloned()));
    }
    titled(title, &table)
}

/// The table of errors; empty where there were none.
pub fn error_table(title: &str, collector: &Collector) -> String {
    if collector.failed == 0 {
        return String::new();
    }
    let mut table = table(["Code", "Type", "Message", "Count"]);
    for (key, count) in collector.errors.most_frequent() {
        let code = error_code(key).map_or_else(|| "N/A".to_owned(), |code| code.to_string());
        table.add_row(right([
            code,
            error_type(key.kind).to_owned(),
            error_message(key).to_owned(),
            thousands(count as f64, 0),
        ]));
    }
    if collector.errors.omitted > 0 {
        let omitted = thousands(collector.errors.omitted as f64, 0);
        table.add_row(right(["N/A".to_owned(), "others".to_owned(), String::new(), omitted]));
    }
    titled(title, &table)
}

fn table<'a>(columns: impl IntoIterator<Item = &'a str>) -> Table {
    let mut table = Table::new();
    table.load_style(STYLE).set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(right(columns.into_iter().map(ToOwned::to_owned)));
    table
}

fn right(cells: impl IntoIterator<Item = String>) -> Row {
    cells
        .into_iter()
        .map(|text| Cell::new(text).set_alignment(CellAlignment::Right))
        .collect::<Vec<_>>()
        .into()
}

fn titled(title: &str, table: &Table) -> String {
    let table = table.to_string();
    let width = table.lines().next().map_or(0, |line| line.chars().count());
    format!("{}\n{table}\n", format!("{title:^width$}").trim_end())
}
