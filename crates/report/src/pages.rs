//! The two pages that evenload writes: a run, and policies side by side.

use std::time::Duration;

use crate::{
    Assessment, BarChart, ClientHealth, Compared, HeatChart, LineChart, MILLISECOND, Metric, Page,
    PolicyFigures, Report, SECOND, Summary, TextTable, TimeSeries,
    client::client_rows,
    comparison::comparison_rows,
    format::{human, thousands, times},
};

const SINCE_START: &str = "seconds since the start";
const IN_FLIGHT: &str = "requests in flight";
/// Buckets of a chart are at least this long, so that a rate per bucket is not noise.
const CHART_WIDTH: Duration = Duration::from_secs(1);
/// Rows of the table of errors.
const ERRORS_SHOWN: usize = 20;

/// One policy's run on the comparison page.
#[derive(Clone, Debug)]
pub struct PolicyRun {
    /// Its figures, and the published ones.
    pub compared: Compared,
    /// Everything measured.
    pub report: Report,
    /// What may be said about it.
    pub assessment: Assessment,
    /// How much faster the run's clock ran than the system it stands for.
    pub speedup: f64,
    /// It is no policy, but what no policy can beat: in charts and tables, not among the results.
    pub bound: bool,
    /// What was in flight at the replicas, where the report's targets are not the replicas themselves.
    pub replicas: Option<ReplicaLoads>,
}

/// Requests in flight at each replica over time.
#[derive(Clone, Debug, Default)]
pub struct ReplicaLoads {
    /// Between two values, in the time of the system that the run stands for.
    pub step_s: f64,
    /// The replicas' names and values.
    pub rows: Vec<(String, Vec<u64>)>,
}

/// The page of a single run.
pub fn run_page(
    title: &str,
    subtitle: &str,
    report: &Report,
    assessment: &Assessment,
    health: &ClientHealth,
) -> Page {
    let total = &report.total;
    let mut page = Page::new(title)
        .subtitle(subtitle)
        .verdict("", assessment)
        .headline(human(total.per_second(total.answered())), "requests answered per second")
        .headline(human(total.total_tokens_per_s()), "prompt and output tokens per second");
    if !total.of(Metric::Gap).is_empty() {
        page = page.headline(milliseconds(total, Metric::Ttft, 50.0), "median time to first token");
    }
    page = page
        .headline(milliseconds(total, Metric::E2e, 99.0), "99th percentile of the whole answer")
        .section("Over time", "");
    for chart in time_charts(report) {
        page = page.lines(&chart);
    }
    page = page.lines(&latency_curve(total));
    let view = View::new(report, 1.0);
    if report.targets.len() > 1 {
        let text = "Shares and latencies of each target: an even fleet has even bars and even rows.";
        page = page
            .section("Targets", text)
            .bars(&target_bars(report, "Requests", "answered", |target| Some(target.answered() as f64)));
        page = page
            .bars(&target_bars(report, "Mean time to first token", "milliseconds", |target| {
                target.of(Metric::Ttft).mean().map(|time| time / MILLISECOND)
            }))
            .heat(&view.heat("Load").wide());
    }
    page = page.section("Figures", "").table(&latency_table(total)).table(&count_table(total));
    if total.failed() > 0 {
        page = page.table(&error_table(total));
    }
    page.section("Client", "How this side fared; the verdict rests on it.")
        .table(&client_table(report, health))
}

/// What happened over a run's time: first tokens, output, requests in flight.
pub(crate) fn time_charts(report: &Report) -> [LineChart; 3] {
    let view = View::new(report, 1.0);
    let line = |title, unit| LineChart::new(title, unit, SINCE_START);
    [
        view.ttft(line("Time to first token", "seconds, mean of the requests sent then"), ""),
        view.tokens(line("Output tokens", "per second"), ""),
        view.in_flight(line("Requests in flight", ""), ""),
    ]
}

/// The page that sets policies side by side, and beside what was published. Its headline is the policy with the
/// shortest mean time to first token beside the first one.
pub fn comparison_page(title: &str, subtitle: &str, runs: &[PolicyRun]) -> Page {
    let mut page = Page::new(title).subtitle(subtitle);
    for run in runs.iter().filter(|run| !run.bound) {
        page = page.verdict(&run.compared.measured.policy, &run.assessment);
    }
    let results: Vec<&PolicyFigures> =
        runs.iter().filter(|run| run.has_result()).map(|run| &run.compared.measured).collect();
    let others = results.iter().skip(1);
    let best = others.min_by(|one, other| one.ttft_ms.mean.total_cmp(&other.ttft_ms.mean));
    if let (Some(base), Some(best)) = (results.first(), best) {
        let [before, after] = [base, best].map(|figures| figures.ttft_ms.mean);
        let (ratio, change) =
            if after <= before { (before / after, "shorter") } else { (after / before, "longer") };
        page = page
            .headline(
                times(best.total_tokens_per_s / base.total_tokens_per_s),
                format!("the throughput of {}, with {}", base.policy, best.policy),
            )
            .headline(
                times(ratio),
                format!("{change} mean time to first token, from {} to {} ms", human(before), human(after)),
            );
        if let Some(ratio) = best.prefix_hit_ratio {
            let label = format!("of the prompt tokens from prefix caches, with {}", best.policy);
            page = page.headline(format!("{:.0} %", ratio * 100.0), label);
        }
    }
    let published = runs.iter().any(|run| run.compared.published.is_some());
    let text = if published {
        "Solid bars were measured here; pale ones are those of the published comparison."
    } else {
        ""
    };
    page = page.section("Policies", text);
    for (title, unit, figure) in [
        (
            "Mean time to first token",
            "milliseconds, less is better",
            (|f| f.ttft_ms.mean) as fn(&PolicyFigures) -> f64,
        ),
        ("Throughput", "tokens per second, more is better", |f| f.total_tokens_per_s),
        ("P99 time to first token", "milliseconds, less is better", |f| f.ttft_ms.p99),
        ("Mean gap between tokens", "milliseconds, less is better", |f| f.itl_ms.mean),
    ] {
        page = page.bars(&policy_bars(runs, published, BarChart::new(title, unit), figure));
    }
    let line = |title, unit| LineChart::new(title, unit, SINCE_START);
    let mut ttft = line("Time to first token", "seconds, mean of the requests sent then").logarithmic();
    let mut tokens = line("Output tokens", "per second");
    for run in runs {
        let (view, policy) = (View::new(&run.report, run.speedup), &run.compared.measured.policy);
        ttft = view.ttft(ttft, policy);
        tokens = view.tokens(tokens, policy);
    }
    page = page.section("Over time", "").lines(&ttft).lines(&tokens);
    let most = runs.iter().map(PolicyRun::most_on_a_replica).fold(0.0, f64::max);
    page = page
        .section("Replicas", "Requests in flight at each replica, in the same shades under every policy.");
    for run in runs {
        page = page.heat(&run.heat().darkest(most).wide());
    }
    page.section("Figures", "").table(&policy_table(runs))
}

impl PolicyRun {
    /// Whether it is a policy's, and something was answered.
    fn has_result(&self) -> bool {
        !self.bound && self.report.total.answered() > 0
    }

    fn most_on_a_replica(&self) -> f64 {
        match &self.replicas {
            Some(loads) => {
                loads.rows.iter().flat_map(|(_, values)| values).max().copied().unwrap_or(0) as f64
            }
            None => View::new(&self.report, self.speedup).most_on_a_target(),
        }
    }

    fn heat(&self) -> HeatChart {
        let title = &self.compared.measured.policy;
        let Some(loads) = &self.replicas else {
            return View::new(&self.report, self.speedup).heat(title);
        };
        let chart = HeatChart::new(title, IN_FLIGHT, SINCE_START, loads.step_s);
        let rows = loads.rows.iter();
        rows.fold(chart, |chart, (name, values)| chart.row(name, values.iter().map(|load| *load as f64)))
    }
}

/// A report's series from its first send on, in the time of the system it stands for.
struct View<'a> {
    report: &'a Report,
    speedup: f64,
}

impl<'a> View<'a> {
    fn new(report: &'a Report, speedup: f64) -> Self {
        Self { report, speedup }
    }

    fn series(&self) -> TimeSeries {
        self.report.series.coarsened(CHART_WIDTH.div_f64(self.speedup.max(1e-3)))
    }

    /// Buckets before the first send.
    fn skipped(&self, series: &TimeSeries) -> usize {
        let start = self.report.total.window.start().unwrap_or_default();
        usize::try_from(start.as_nanos() / series.width().as_nanos().max(1)).unwrap_or(0)
    }

    fn step(&self, series: &TimeSeries) -> f64 {
        series.width().as_secs_f64() * self.speedup
    }

    fn ttft(&self, chart: LineChart, name: &str) -> LineChart {
        let series = self.series();
        let values = series.buckets().iter().skip(self.skipped(&series));
        let values = values.map(|bucket| Some(bucket.mean_ttft()? * self.speedup));
        chart.line(name, self.step(&series), values)
    }

    fn tokens(&self, chart: LineChart, name: &str) -> LineChart {
        let series = self.series();
        let values = series.buckets().iter().skip(self.skipped(&series));
        let step = self.step(&series);
        chart.line(name, step, values.map(|bucket| Some(bucket.output_tokens as f64 / step)))
    }

    fn in_flight(&self, chart: LineChart, name: &str) -> LineChart {
        let series = self.series();
        let values = series.mean_in_flight().skip(self.skipped(&series)).map(Some);
        chart.line(name, self.step(&series), values)
    }

    /// The targets' series in buckets of one width.
    fn targets(&self) -> Vec<TimeSeries> {
        let widest = self.report.target_series.iter().map(TimeSeries::width).max().unwrap_or_default();
        self.report.target_series.iter().map(|series| series.coarsened(widest)).collect()
    }

    fn most_on_a_target(&self) -> f64 {
        self.targets().iter().flat_map(TimeSeries::mean_in_flight).fold(0.0, f64::max)
    }

    fn heat(&self, title: &str) -> HeatChart {
        let targets = self.targets();
        let step = targets.first().map_or(1.0, |series| self.step(series));
        let mut heat = HeatChart::new(title, IN_FLIGHT, SINCE_START, step);
        for (name, series) in self.report.shape.targets.iter().zip(&targets) {
            let name = name.split("://").last().unwrap_or(name);
            heat = heat.row(name, series.mean_in_flight().skip(self.skipped(series)));
        }
        heat
    }
}

fn milliseconds(total: &Summary, metric: Metric, percent: f64) -> String {
    total
        .of(metric)
        .percentile(percent)
        .map_or_else(|| "-".to_owned(), |time| human(time / MILLISECOND) + " ms")
}

fn latency_curve(total: &Summary) -> LineChart {
    let percents: Vec<f64> = (0..200).map(|half| f64::from(half) / 2.0 + 0.25).collect();
    let mut chart =
        LineChart::new("Latency by percentile", "seconds", "percent of the answers").logarithmic();
    for (name, metric) in [
        ("first token, from schedule", Metric::TtftFromSchedule),
        ("first token", Metric::Ttft),
        ("whole answer", Metric::E2e),
    ] {
        if let Some(values) = total.of(metric).percentiles(&percents) {
            chart = chart.line(name, 0.5, values.into_iter().map(|time| Some(time / SECOND)));
        }
    }
    chart
}

fn target_bars(report: &Report, title: &str, unit: &str, value: fn(&Summary) -> Option<f64>) -> BarChart {
    let targets = report.shape.targets.iter().zip(&report.targets);
    targets.fold(BarChart::new(title, unit), |chart, (name, target)| {
        chart.group(name.split("://").last().unwrap_or(name), [value(target)])
    })
}

fn policy_bars(
    runs: &[PolicyRun],
    published: bool,
    chart: BarChart,
    value: fn(&PolicyFigures) -> f64,
) -> BarChart {
    let chart = if published { chart.series(["measured", "published"]) } else { chart };
    runs.iter().fold(chart.colour_by_group(), |chart, run| {
        let theirs = published.then(|| run.compared.published.as_ref().map(value));
        let ours = Some(value(&run.compared.measured)).filter(|value| value.is_finite());
        let values = std::iter::once(ours).chain(theirs);
        chart.group(run.compared.measured.policy.as_str(), values)
    })
}

fn latency_table(total: &Summary) -> TextTable {
    let columns = ["", "mean", "P50", "P90", "P95", "P99", "max", "std"];
    let mut table = TextTable::new("Milliseconds; answered requests only.", columns);
    for (name, metric) in [
        ("Time to first token", Metric::Ttft),
        ("Time to first token, from schedule", Metric::TtftFromSchedule),
        ("Time per output token", Metric::Tpot),
        ("Gap between events", Metric::Gap),
        ("Longest gap of a request", Metric::MaxStall),
        ("Whole answer", Metric::E2e),
        ("Whole answer, from schedule", Metric::E2eFromSchedule),
    ] {
        let values = total.of(metric);
        if let (Some(mean), Some(std), Some(percentiles)) =
            (values.mean(), values.std(), values.percentiles(&[50.0, 90.0, 95.0, 99.0, 100.0]))
        {
            let figures = std::iter::once(mean).chain(percentiles).chain([std]);
            table = table
                .row(std::iter::once(name.to_owned()).chain(figures.map(|time| human(time / MILLISECOND))));
        }
    }
    table
}

fn count_table(total: &Summary) -> TextTable {
    let mut table = TextTable::new("Counts.", ["", "number", "per second"]);
    for (name, count) in [
        ("Requests answered", total.answered()),
        ("Requests failed", total.failed()),
        ("Prompt tokens", total.input_tokens()),
        ("Output tokens", total.output_tokens()),
    ] {
        table = table.row([name.to_owned(), thousands(count as f64, 0), human(total.per_second(count))]);
    }
    table
}

fn error_table(total: &Summary) -> TextTable {
    let mut table =
        TextTable::new("Errors, the most frequent first.", ["kind", "status", "message", "count"]);
    let errors = total.errors.most_frequent();
    for (key, count) in errors.iter().take(ERRORS_SHOWN) {
        let status = key.status.map_or_else(String::new, |status| status.to_string());
        table = table.row([key.kind.to_owned(), status, key.message.clone(), count.to_string()]);
    }
    let shown: u64 = errors.iter().take(ERRORS_SHOWN).map(|(_, count)| count).sum();
    if shown < total.failed() {
        let more = (total.failed() - shown).to_string();
        table = table.row(["others".to_owned(), String::new(), String::new(), more]);
    }
    table
}

fn client_table(report: &Report, health: &ClientHealth) -> TextTable {
    let rows = client_rows(report, health);
    rows.into_iter().fold(TextTable::new("", ["", "value"]), |table, (label, value)| {
        table.row([label.trim_end_matches(':').to_owned(), human(value)])
    })
}

fn policy_table(runs: &[PolicyRun]) -> TextTable {
    let compared: Vec<Compared> = runs.iter().map(|run| run.compared.clone()).collect();
    let names = compared.iter().map(|policy| policy.measured.policy.as_str());
    let table = TextTable::new("As the real system would have shown them.", std::iter::once("").chain(names));
    comparison_rows(&compared)
        .into_iter()
        .fold(table, |table, (label, cells)| table.row(std::iter::once(label).chain(cells)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        Flags, Outcome, PhaseShape, Recorder, RunShape, judge, published_figures,
        sample::{failure, request},
    };

    fn report(ttft_ms: u64) -> Report {
        let main = PhaseShape { measured: true, ..PhaseShape::default() };
        let targets = vec!["http://a:1".to_owned(), "http://b:2".to_owned()];
        let mut recorder = Recorder::new(RunShape { phases: vec![main], targets }, Vec::new());
        for index in 0..1000 {
            let mut record = request(20_000 + 10 * index, ttft_ms + index % 7, 20, 5);
            record.target = (index % 2) as u16;
            recorder.push(&record);
        }
        recorder.push(&failure(21_000, 3, Outcome::Broken("<reset>".to_owned())));
        recorder.report()
    }

    #[test]
    fn a_runs_page_has_its_parts() {
        let report = report(40);
        let health = ClientHealth { io_thread_cpu: vec![0.25], ..ClientHealth::default() };
        let assessment = judge(&report, &health, &Flags::PROFILE);
        let html = run_page("One run", "", &report, &assessment, &health).render();
        for part in [
            "<b>VALID</b>",
            "Latency by percentile",
            ">a:1<",
            "&lt;reset&gt;",
            "Busiest I/O thread",
            ">25.0<",
        ] {
            assert!(html.contains(part), "{part}");
        }
        assert!(html.contains("<b>43.0 ms</b><span>median time to first token"), "{html}");
    }

    #[test]
    fn charts_start_with_the_first_request_and_show_the_real_systems_time() {
        let report = report(40);
        let view = View::new(&report, 10.0);
        let series = view.series();
        assert_eq!((series.width(), view.skipped(&series)), (Duration::from_millis(125), 160));
        assert!((view.step(&series) - 1.25).abs() < 1e-9);
        assert_eq!(view.most_on_a_target(), 6.192, "the mean over the fullest bucket");
    }

    #[test]
    fn policies_stand_beside_what_was_published() {
        let run = |policy: &str, ttft: u64| {
            let report = report(ttft);
            let measured = PolicyFigures::new(policy, &report.total, 10.0);
            let published = published_figures(policy, 800);
            let assessment = judge(&report, &ClientHealth::default(), &Flags::BENCH);
            let compared = Compared { measured, published };
            PolicyRun { compared, report, assessment, speedup: 10.0, bound: false, replicas: None }
        };
        let html = comparison_page("Policies", "", &[run("random", 86), run("prefix_hash", 40)]).render();
        assert!(
            html.contains("<b>2.07x</b><span>shorter mean time to first token, from 890 to 430 ms"),
            "{html}"
        );
        assert!(html.contains(">1,320<") && html.contains(">69,408<"), "published values are labelled");
        assert_eq!(html.matches("<figure").count(), 8);
    }

    #[test]
    fn the_headline_is_the_best_policys_and_says_so_where_it_is_worse() {
        let run = |policy: &str, ttft: u64| {
            let report = report(ttft);
            let measured = PolicyFigures::new(policy, &report.total, 1.0);
            let assessment = judge(&report, &ClientHealth::default(), &Flags::BENCH);
            let compared = Compared { measured, published: None };
            let loads = ReplicaLoads { step_s: 1.0, rows: vec![("replica 1".to_owned(), vec![1, 9])] };
            PolicyRun { compared, report, assessment, speedup: 1.0, bound: false, replicas: Some(loads) }
        };
        let page = |runs: &[PolicyRun]| comparison_page("Policies", "", runs).render();
        let best_in_the_middle =
            page(&[run("random", 83), run("prefix_aware", 40), run("least_requests", 60)]);
        assert!(best_in_the_middle.contains("<b>2.00x</b><span>shorter"), "{best_in_the_middle}");
        assert!(best_in_the_middle.contains("the throughput of random, with prefix_aware"));
        let worse = page(&[run("prefix_aware", 40), run("random", 83)]);
        assert!(worse.contains("<b>2.00x</b><span>longer mean time to first token, from 43.0 to 86.0 ms"));
        assert!(worse.contains(">replica 1<") && worse.contains("0 to 9") && !worse.contains(">a:1<"));
    }

    #[test]
    fn a_rate_is_shown_where_the_phases_have_one() {
        let shown = |rates: &[f64]| {
            let phase =
                |rate: &f64| PhaseShape { measured: true, target_rate: Some(*rate), ..PhaseShape::default() };
            let phases = rates.iter().map(phase).collect();
            let mut recorder = Recorder::new(RunShape { phases, targets: Vec::new() }, Vec::new());
            for (phase, index) in (0..rates.len()).flat_map(|phase| (0..10).map(move |index| (phase, index)))
            {
                let mut record = request(100 * index + 1000 * phase as u64, 40, 20, 5);
                record.phase = phase as u16;
                recorder.push(&record);
            }
            let rows = client_rows(&recorder.report(), &ClientHealth::default());
            rows.into_iter().filter(|(label, _)| label.starts_with("Request rate")).collect::<Vec<_>>()
        };
        assert_eq!(shown(&[10.0, 10.0])[0], ("Request rate asked for (req/s):", 10.0));
        let labels: Vec<&str> = shown(&[10.0, 20.0]).iter().map(|(label, _)| *label).collect();
        assert_eq!(labels, ["Request rate of the schedule (req/s):", "Request rate achieved (req/s):"]);
    }

    #[test]
    fn the_bound_is_no_result_and_neither_is_a_policy_without_answers() {
        let run = |policy: &str, report: Report, bound: bool| {
            let measured = PolicyFigures::new(policy, &report.total, 1.0);
            let assessment = judge(&report, &ClientHealth::default(), &Flags::BENCH);
            let compared = Compared { measured, published: None };
            PolicyRun { compared, report, assessment, speedup: 1.0, bound, replicas: None }
        };
        let failed = || {
            let mut recorder = Recorder::new(RunShape::default(), Vec::new());
            recorder.push(&failure(0, 5, Outcome::Timeout));
            recorder.report()
        };
        let page = |runs: &[PolicyRun]| comparison_page("Policies", "", runs).render();
        let three = [
            run("random", report(80), false),
            run("prefix_aware", report(40), false),
            run("bound", report(1), true),
        ];
        let html = page(&three);
        assert!(html.contains("the throughput of random, with prefix_aware"), "{html}");
        assert_eq!(html.matches("<b>VALID</b>").count(), 2, "the bound has no verdict");
        assert!(html.contains("Throughput against random"), "it is in the tables");
        assert!(!page(&three[1..]).contains("class=\"tile\""), "one policy is compared with nobody");
        let nothing = [run("random", failed(), false), run("prefix_aware", failed(), false)];
        let html = page(&nothing);
        assert!(!html.contains("NaN") && !html.contains("class=\"tile\""), "{html}");
        let some = [run("random", failed(), false), run("prefix_aware", report(40), false)];
        assert!(!page(&some).contains("NaN"));
    }
}
