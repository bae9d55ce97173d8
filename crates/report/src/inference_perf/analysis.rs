//! Charts over the stages of runs: inference-perf's six, and percentiles, the knee and time.
//!
//! The stages come from report files, inference-perf's own or ours; what needs records is drawn where they are there.
//! One run's figures are lines of one chart; of several runs each figure has a chart of its own, with a line a run.

use serde_json::Value;

use crate::{CurveChart, Page, Report, TextTable, curve_file, format::human, pages::time_charts};

/// A run whose reports were read.
#[derive(Clone, Debug)]
pub struct Analysed {
    /// Shown to the user; no other run has it.
    pub name: String,
    /// Its stages' numbers and files, in order.
    pub stages: Vec<(u32, Value)>,
    /// Its records' figures, where there are records.
    pub report: Option<Report>,
}

/// A figure of a stage.
#[derive(Clone, Copy, Debug)]
struct Figure {
    name: &'static str,
    /// A JSON pointer.
    path: &'static str,
    factor: f64,
    /// Of stages that have a rate, not a number of requests at a time.
    open_only: bool,
}

/// Figures of the same unit, against another one.
#[derive(Clone, Copy, Debug)]
struct Panel<'a> {
    title: &'a str,
    unit: &'a str,
    x: Figure,
    figures: &'a [Figure],
}

const TTFT: Figure = Figure::new("first token", "/successes/latency/time_to_first_token/mean").times(1e3);
const NTPOT: Figure =
    Figure::new("normalized per token", "/successes/latency/normalized_time_per_output_token/mean")
        .times(1e3);
const ITL: Figure = Figure::new("between tokens", "/successes/latency/inter_token_latency/mean").times(1e3);
const INPUT: Figure = Figure::new("prompt", "/successes/throughput/input_tokens_per_sec");
const OUTPUT: Figure = Figure::new("output", "/successes/throughput/output_tokens_per_sec");
const TOTAL: Figure = Figure::new("both", "/successes/throughput/total_tokens_per_sec");
const GOOD_SHARE: Figure = Figure::new("good requests", "/successes/goodput_metrics/goodput_percentage");
const GOOD_RATE: Figure = Figure::new("good requests", "/successes/goodput_metrics/request_goodput");
const RATE: Figure = Figure::new("requests/s sent", "/load_summary/achieved_rate");
const OPEN_RATE: Figure = RATE.of_open_stages();
/// inference-perf gives a stage with a concurrency its number of requests as a rate.
const ASKED: Figure = Figure::new("requests/s asked for", "/load_summary/requested_rate").of_open_stages();
const CONCURRENCY: Figure = Figure::new("requests at a time", "/load_summary/concurrency");
const ANSWERED: Figure = Figure::new("answered", "/successes/throughput/requests_per_sec");
const SENT: Figure = Figure { name: "sent", ..RATE };
const DELAY: Figure = Figure::new("P99", "/load_summary/schedule_delay/p99").times(1e3);

const LATENCIES: [Figure; 3] = [TTFT, NTPOT, ITL];
const THROUGHPUTS: [Figure; 3] = [INPUT, OUTPUT, TOTAL];
const MEAN: &str = "mean, milliseconds";
const TOKENS: &str = "tokens/s";

/// Half of the requests, and the slowest.
macro_rules! percentiles {
    ($metric:literal) => {
        [
            Figure::new("median", concat!("/successes/latency/", $metric, "/median")).times(1e3),
            Figure::new("P90", concat!("/successes/latency/", $metric, "/p90")).times(1e3),
            Figure::new("P99", concat!("/successes/latency/", $metric, "/p99")).times(1e3),
        ]
    };
}
const PERCENTILES: [(&str, [Figure; 3]); 3] = [
    ("Whole answer", percentiles!("request_latency")),
    ("First token", percentiles!("time_to_first_token")),
    ("Per output token", percentiles!("time_per_output_token")),
];

impl Figure {
    const fn new(name: &'static str, path: &'static str) -> Self {
        Self { name, path, factor: 1.0, open_only: false }
    }

    const fn times(self, factor: f64) -> Self {
        Self { factor, ..self }
    }

    const fn of_open_stages(self) -> Self {
        Self { open_only: true, ..self }
    }

    fn of(&self, stage: &Value) -> Option<f64> {
        if self.open_only && CONCURRENCY.of(stage).is_some() {
            return None;
        }
        Some(stage.pointer(self.path)?.as_f64()? * self.factor)
    }
}

impl Panel<'_> {
    /// Its charts; those without any point are left out.
    fn charts(&self, runs: &[&Analysed]) -> Vec<CurveChart> {
        let charts = match runs {
            [run] => {
                let chart = CurveChart::new(self.title, self.unit, self.x.name);
                let lines = self.figures.iter();
                vec![lines.fold(chart, |chart, figure| chart.line(figure.name, self.points(run, figure)))]
            }
            _ => self.figures.iter().map(|figure| self.over_runs(runs, figure)).collect(),
        };
        charts.into_iter().filter(|chart| !chart.is_empty()).collect()
    }

    fn over_runs(&self, runs: &[&Analysed], figure: &Figure) -> CurveChart {
        let title = format!("{}: {}", self.title, figure.name);
        runs.iter().fold(CurveChart::new(title, self.unit, self.x.name), |chart, run| {
            chart.line(run.name.as_str(), self.points(run, figure))
        })
    }

    fn points(&self, run: &Analysed, y: &Figure) -> Vec<(f64, f64)> {
        run.stages.iter().filter_map(|(_, stage)| Some((self.x.of(stage)?, y.of(stage)?))).collect()
    }
}

/// inference-perf's charts by the names of their files; those without any point are left out.
pub fn six_charts(runs: &[&Analysed]) -> Vec<(&'static str, String)> {
    let all = charts(runs).into_iter().filter(|(_, charts)| !charts.is_empty());
    all.map(|(name, charts)| (name, curve_file(&charts))).collect()
}

fn charts(runs: &[&Analysed]) -> [(&'static str, Vec<CurveChart>); 6] {
    let panel = |title, unit, x, figures| Panel { title, unit, x, figures }.charts(runs);
    let by_latency = [
        ("Throughput against time to first token", TTFT),
        ("Throughput against normalized time per output token", NTPOT),
        ("Throughput against time between tokens", ITL),
    ];
    let by_latency =
        by_latency.map(|(title, latency)| panel(title, TOKENS, Figure { name: MEAN, ..latency }, &[OUTPUT]));
    [
        ("latency_vs_qps", panel("Latency", MEAN, RATE, &LATENCIES)),
        ("throughput_vs_qps", panel("Throughput", TOKENS, RATE, &THROUGHPUTS)),
        (
            "goodput_vs_qps",
            [panel("Goodput", "%", RATE, &[GOOD_SHARE]), panel("Goodput", "per second", RATE, &[GOOD_RATE])]
                .concat(),
        ),
        ("throughput_vs_latency", by_latency.concat()),
        ("latency_vs_concurrency", panel("Latency", MEAN, CONCURRENCY, &LATENCIES)),
        ("throughput_vs_concurrency", panel("Throughput", TOKENS, CONCURRENCY, &THROUGHPUTS)),
    ]
}

/// The page of one run, or of several laid over each other.
pub fn analysis_page(runs: &[&Analysed]) -> Page {
    let stages: usize = runs.iter().map(|run| run.stages.len()).sum();
    let names: Vec<&str> = runs.iter().map(|run| run.name.as_str()).collect();
    let page = Page::new("Analysis of inference-perf reports")
        .subtitle(format!("{} runs, {stages} stages: {}", runs.len(), names.join(", ")))
        .section("Over the load", "Means of each stage, by the rate at which requests were really sent.");
    let mut page = curves(page, charts(runs).into_iter().flat_map(|(_, charts)| charts));
    page = page.section("Percentiles", "Half of the requests, and the slowest tenth and hundredth.");
    for (title, figures) in &PERCENTILES {
        for x in [OPEN_RATE, CONCURRENCY] {
            let panel = Panel { title, unit: "milliseconds", x, figures };
            page = curves(page, panel.charts(runs));
        }
    }
    let knee = Panel { title: "Answers", unit: "requests/s", x: ASKED, figures: &[ANSWERED, SENT] };
    let delays = Panel { title: "Schedule delay", unit: "milliseconds", x: ASKED, figures: &[DELAY] };
    let knee: Vec<CurveChart> = [knee, delays].iter().flat_map(|panel| panel.charts(runs)).collect();
    if !knee.is_empty() {
        let text = "Where answers fall behind what is asked for, the server is past its capacity.";
        page = curves(page.section("Knee", text), knee);
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

fn curves(page: Page, charts: impl IntoIterator<Item = CurveChart>) -> Page {
    charts.into_iter().fold(page, |page, chart| page.curve(&chart))
}

fn table(runs: &[&Analysed]) -> TextTable {
    let columns = [
        "run",
        "stage",
        "asked/s",
        "at a time",
        "sent/s",
        "answered/s",
        "output tok/s",
        "TTFT ms",
        "NTPOT ms",
    ];
    let mut table = TextTable::new("Means.", columns);
    for (run, (number, stage)) in runs.iter().flat_map(|run| run.stages.iter().map(move |stage| (run, stage)))
    {
        let figures = [ASKED, CONCURRENCY, RATE, ANSWERED, OUTPUT, TTFT, NTPOT];
        let cells = figures.map(|figure| figure.of(stage).map_or_else(|| "-".to_owned(), human));
        table = table.row([run.name.clone(), number.to_string()].into_iter().chain(cells));
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
        Analysed { name: name.to_owned(), stages: vec![(3, stage(1.0)), (7, stage(2.0))], report: None }
    }

    #[test]
    fn charts_are_drawn_where_there_are_points() {
        let names =
            |runs: &[&Analysed]| six_charts(runs).into_iter().map(|(name, _)| name).collect::<Vec<_>>();
        assert_eq!(
            names(&[&run("a", false)]),
            ["latency_vs_qps", "throughput_vs_qps", "throughput_vs_latency"]
        );
        assert_eq!(names(&[&run("a", true)]).len(), 5);
    }

    #[test]
    fn several_runs_are_laid_over_each_other() {
        let four = ["one", "two", "three", "four"].map(|name| run(name, false));
        let four = four.each_ref();
        let page = analysis_page(&four).render();
        for part in
            ["Latency: first token", "First token: P90", "Knee", "Answers: sent", "Schedule delay: P99"]
        {
            assert!(page.contains(part), "{part}");
        }
        assert!(!page.contains("between tokens"), "a figure that no stage has has no chart");
        let against = |latency: &str| page.matches(&format!("Throughput against {latency}: output<")).count();
        assert_eq!(["time to first token", "normalized time per output token"].map(against), [1, 1]);
        assert!(!page.contains("not shown"), "all runs are in all charts");
        let latency = &six_charts(&four)[0].1;
        assert_eq!(latency.matches(">four<").count(), 2, "once for each figure");
        let alone = analysis_page(&four[..1]).render();
        assert!(
            alone.contains("</i>first token<") && alone.contains("</i>P99<") && !alone.contains("</i>one<")
        );
    }

    #[test]
    fn a_number_of_requests_at_a_time_is_no_rate() {
        // inference-perf's requested_rate is then the number of requests.
        let page = analysis_page(&[&run("closed", true)]).render();
        assert!(!page.contains("Knee") && !page.contains("requests/s asked for"), "{page}");
        assert!(
            page.contains("<td>7</td><td>-</td><td>8.00</td>"),
            "the stage's number, and nothing asked for"
        );
        let both = analysis_page(&[&run("closed", true), &run("open", false)]).render();
        let percentiles = &both[both.find("<h2>Percentiles").unwrap()..both.find("<h2>Knee").unwrap()];
        let charts: Vec<&str> =
            percentiles.split("<figure").filter(|chart| chart.contains("First token: P90")).collect();
        assert_eq!(charts.len(), 2, "a chart for each unit");
        assert!(charts[0].contains(">requests/s sent<") && charts[0].contains("</i>open<"));
        assert!(charts[1].contains(">requests at a time<") && charts[1].contains("</i>closed<"));
        assert!(!charts[0].contains("</i>closed<") && !charts[1].contains("</i>open<"));
    }
}
