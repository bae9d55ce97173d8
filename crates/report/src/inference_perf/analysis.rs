//! Charts over the stages of runs: inference-perf's six, and percentiles, the knee and time.
//!
//! The stages come from report files, inference-perf's own or ours; what needs records is drawn where they are there.

use serde_json::Value;

use crate::{CurveChart, Page, Report, TextTable, format::human, pages::time_charts};

/// A run whose reports were read.
#[derive(Clone, Debug)]
pub struct Analysed {
    /// Shown to the user.
    pub name: String,
    /// Its stages' files, in order.
    pub stages: Vec<Value>,
    /// Its records' figures, where there are records.
    pub report: Option<Report>,
}

/// A figure of a stage.
struct Figure {
    name: &'static str,
    path: &'static [&'static str],
    factor: f64,
}

const LATENCY: &str = "latency";
const TTFT: Figure =
    Figure { name: "first token", path: &["successes", LATENCY, "time_to_first_token", "mean"], factor: 1e3 };
const NTPOT: Figure = Figure {
    name: "normalized per token",
    path: &["successes", LATENCY, "normalized_time_per_output_token", "mean"],
    factor: 1e3,
};
const ITL: Figure = Figure {
    name: "between tokens",
    path: &["successes", LATENCY, "inter_token_latency", "mean"],
    factor: 1e3,
};
const INPUT: Figure =
    Figure { name: "prompt", path: &["successes", "throughput", "input_tokens_per_sec"], factor: 1.0 };
const OUTPUT: Figure =
    Figure { name: "output", path: &["successes", "throughput", "output_tokens_per_sec"], factor: 1.0 };
const TOTAL: Figure =
    Figure { name: "both", path: &["successes", "throughput", "total_tokens_per_sec"], factor: 1.0 };
const GOOD_SHARE: Figure = Figure {
    name: "good requests, %",
    path: &["successes", "goodput_metrics", "goodput_percentage"],
    factor: 1.0,
};
const GOOD_RATE: Figure = Figure {
    name: "good requests/s",
    path: &["successes", "goodput_metrics", "request_goodput"],
    factor: 1.0,
};
const RATE: Figure = Figure { name: "requests/s", path: &["load_summary", "achieved_rate"], factor: 1.0 };
const CONCURRENCY: Figure =
    Figure { name: "requests at a time", path: &["load_summary", "concurrency"], factor: 1.0 };
const ANSWERED: Figure =
    Figure { name: "answered", path: &["successes", "throughput", "requests_per_sec"], factor: 1.0 };

const ACHIEVED: &str = "requests/s sent";

impl Figure {
    fn of(&self, stage: &Value) -> Option<f64> {
        let found = self.path.iter().try_fold(stage, |value, key| value.get(key))?;
        Some(found.as_f64()? * self.factor)
    }
}

/// inference-perf's charts by the names of their files; those without any point are left out.
pub fn six_charts(runs: &[Analysed]) -> Vec<(&'static str, String)> {
    let all = charts(runs);
    all.into_iter().filter(|(_, chart)| !chart.is_empty()).map(|(name, chart)| (name, chart.file())).collect()
}

fn charts(runs: &[Analysed]) -> [(&'static str, CurveChart); 6] {
    let latency = [&TTFT, &NTPOT, &ITL];
    let throughput = [&INPUT, &OUTPUT, &TOTAL];
    let level = "requests at a time";
    let output = "output tokens/s";
    [
        ("latency_vs_qps", chart(runs, "Latency", "mean, milliseconds", ACHIEVED, &RATE, &latency)),
        ("throughput_vs_qps", chart(runs, "Throughput", "tokens/s", ACHIEVED, &RATE, &throughput)),
        (
            "goodput_vs_qps",
            chart(runs, "Goodput", "% and requests/s", ACHIEVED, &RATE, &[&GOOD_SHARE, &GOOD_RATE]),
        ),
        ("throughput_vs_latency", against_output(runs, output)),
        (
            "latency_vs_concurrency",
            chart(runs, "Latency", "mean, milliseconds", level, &CONCURRENCY, &latency),
        ),
        (
            "throughput_vs_concurrency",
            chart(runs, "Throughput", "tokens/s", level, &CONCURRENCY, &throughput),
        ),
    ]
}

/// The page of one run, or of several laid over each other.
pub fn analysis_page(runs: &[Analysed]) -> Page {
    let stages: usize = runs.iter().map(|run| run.stages.len()).sum();
    let mut page = Page::new("Analysis of inference-perf reports")
        .subtitle(format!("{} runs, {stages} stages: {}", runs.len(), names(runs)))
        .section("Over the load", "Means of each stage, by the rate at which requests were really sent.");
    for (_, chart) in charts(runs).iter().filter(|(_, chart)| !chart.is_empty()) {
        page = page.curve(chart);
    }
    page = page.section("Percentiles", "Half of the requests, and the slowest hundredth.");
    for (title, metric) in [
        ("Whole answer", "request_latency"),
        ("First token", "time_to_first_token"),
        ("Per output token", "time_per_output_token"),
    ] {
        let chart = percentiles(runs, title, metric);
        if !chart.is_empty() {
            page = page.curve(&chart);
        }
    }
    let knee = knee(runs);
    if !knee.is_empty() {
        let text = "Where answers fall behind what is asked for, the server is past its capacity.";
        page = page.section("Knee", text).curve(&knee).curve(&delays(runs));
    }
    for run in runs {
        if let Some(report) = &run.report {
            page = page.section(format!("Over time: {}", run.name), "");
            for chart in time_charts(report) {
                page = page.lines(&chart);
            }
        }
    }
    page.section("Stages", "").table(&table(runs))
}

fn names(runs: &[Analysed]) -> String {
    runs.iter().map(|run| run.name.as_str()).collect::<Vec<_>>().join(", ")
}

/// The name of a line: the run's too, if there are several.
fn line_name(runs: &[Analysed], run: &Analysed, figure: &str) -> String {
    if runs.len() > 1 { format!("{}: {figure}", run.name) } else { figure.to_owned() }
}

fn chart(
    runs: &[Analysed],
    title: &str,
    unit: &str,
    label: &str,
    x: &Figure,
    lines: &[&Figure],
) -> CurveChart {
    let mut chart = CurveChart::new(title, unit, label);
    for (run, figure) in runs.iter().flat_map(|run| lines.iter().map(move |figure| (run, figure))) {
        let points = points(run, x, figure);
        if !points.is_empty() {
            chart = chart.line(line_name(runs, run, figure.name), points);
        }
    }
    chart
}

fn points(run: &Analysed, x: &Figure, y: &Figure) -> Vec<(f64, f64)> {
    run.stages.iter().filter_map(|stage| Some((x.of(stage)?, y.of(stage)?))).collect()
}

fn against_output(runs: &[Analysed], output: &str) -> CurveChart {
    let mut chart = CurveChart::new("Throughput against latency", output, "mean latency, milliseconds");
    for (run, figure) in runs.iter().flat_map(|run| [&NTPOT, &TTFT, &ITL].map(|figure| (run, figure))) {
        let points = points(run, figure, &OUTPUT);
        if !points.is_empty() {
            chart = chart.line(line_name(runs, run, figure.name), points);
        }
    }
    chart
}

fn percentiles(runs: &[Analysed], title: &str, metric: &str) -> CurveChart {
    let mut chart = CurveChart::new(title, "milliseconds", ACHIEVED);
    for run in runs {
        for (name, key) in [("median", "median"), ("P90", "p90"), ("P99", "p99")] {
            let at = |stage: &Value| Some(stage["successes"][LATENCY][metric].get(key)?.as_f64()? * 1e3);
            let points: Vec<_> =
                run.stages.iter().filter_map(|stage| Some((x_of(stage)?, at(stage)?))).collect();
            if !points.is_empty() {
                chart = chart.line(line_name(runs, run, name), points);
            }
        }
    }
    chart
}

/// The rate of a stage, or its concurrency where it has no rate.
fn x_of(stage: &Value) -> Option<f64> {
    CONCURRENCY.of(stage).or_else(|| RATE.of(stage))
}

/// What was answered, by what was asked for.
fn knee(runs: &[Analysed]) -> CurveChart {
    let asked = Figure { name: "asked", path: &["load_summary", "requested_rate"], factor: 1.0 };
    let mut chart = CurveChart::new("Answers", "requests/s", "requests/s asked for");
    for run in runs.iter().filter(|run| run.stages.iter().all(|stage| CONCURRENCY.of(stage).is_none())) {
        chart = chart.line(line_name(runs, run, "answered"), points(run, &asked, &ANSWERED));
        chart = chart.line(line_name(runs, run, "sent"), points(run, &asked, &RATE));
    }
    chart
}

fn delays(runs: &[Analysed]) -> CurveChart {
    let asked = Figure { name: "asked", path: &["load_summary", "requested_rate"], factor: 1.0 };
    let delay = Figure { name: "P99", path: &["load_summary", "schedule_delay", "p99"], factor: 1e3 };
    let chart = CurveChart::new("Schedule delay", "P99, milliseconds", "requests/s asked for");
    runs.iter().fold(chart, |chart, run| chart.line(line_name(runs, run, "P99"), points(run, &asked, &delay)))
}

fn table(runs: &[Analysed]) -> TextTable {
    let columns = ["run", "stage", "asked/s", "sent/s", "answered/s", "output tok/s", "TTFT ms", "NTPOT ms"];
    let asked = Figure { name: "asked", path: &["load_summary", "requested_rate"], factor: 1.0 };
    let mut table = TextTable::new("Means.", columns);
    for run in runs {
        for (number, stage) in run.stages.iter().enumerate() {
            let figures = [&asked, &RATE, &ANSWERED, &OUTPUT, &TTFT, &NTPOT];
            let cells = figures.map(|figure| figure.of(stage).map_or_else(|| "-".to_owned(), human));
            table = table.row([run.name.clone(), number.to_string()].into_iter().chain(cells));
        }
    }
    table
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn run(name: &str, concurrency: bool) -> Analysed {
        let stage = |rate: f64| {
            let mut stage = json!({
                "load_summary": {"requested_rate": rate, "achieved_rate": rate * 0.99, "schedule_delay": {"p99": 0.001}},
                "successes": {
                    "latency": {
                        "time_to_first_token": {"mean": 0.2, "median": 0.1, "p90": 0.3, "p99": 0.9},
                        "normalized_time_per_output_token": {"mean": 0.02},
                        "inter_token_latency": null,
                    },
                    "throughput": {"input_tokens_per_sec": 5.0, "output_tokens_per_sec": 4.0,
                                   "total_tokens_per_sec": 9.0, "requests_per_sec": rate},
                },
            });
            if concurrency {
                stage["load_summary"]["concurrency"] = json!(8);
            }
            stage
        };
        Analysed { name: name.to_owned(), stages: vec![stage(1.0), stage(2.0)], report: None }
    }

    #[test]
    fn charts_are_drawn_where_there_are_points() {
        let names =
            |runs: &[Analysed]| six_charts(runs).into_iter().map(|(name, _)| name).collect::<Vec<_>>();
        assert_eq!(
            names(&[run("a", false)]),
            ["latency_vs_qps", "throughput_vs_qps", "throughput_vs_latency"]
        );
        assert_eq!(names(&[run("a", true)]).len(), 5);
    }

    #[test]
    fn several_runs_are_laid_over_each_other() {
        let page = analysis_page(&[run("one", false), run("two", false)]).render();
        for part in ["one: first token", "two: first token", "one: P99", "Knee", "Answers"] {
            assert!(page.contains(part), "{part}");
        }
        assert!(!page.contains("between tokens"), "a figure that no stage has has no line");
    }
}
