//! Renders a page with every kind of chart from invented records, for a look at it:
//! `cargo run -p report --example page -- /tmp/page.html`

use std::{error::Error, sync::Arc, time::Duration};

use report::{
    BarChart, Chunk, ClientHealth, Compared, Count, CountSource, Flags, HeatChart, LineChart, MILLISECOND,
    Metric, Outcome, Page, PhaseShape, PolicyFigures, Record, Recorder, Report, RunShape, TextTable,
    comparison_table, judge, published, published_figures,
};

const REPLICAS: u64 = 8;

/// A stand-in for a run: `slow` is how much worse than the best it behaves.
fn run(slow: f64, skew: u64) -> Report {
    let main = PhaseShape { measured: true, target_rate: Some(80.0), ..PhaseShape::default() };
    let targets = (0..REPLICAS).map(|replica| format!("http://127.0.0.1:{}", 8001 + replica)).collect();
    let mut recorder = Recorder::new(RunShape { phases: vec![main], targets }, Vec::new());
    let mut noise = 1_u64;
    for index in 0..4000_u64 {
        noise = noise.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let chance = (noise >> 33) as f64 / f64::from(1_u32 << 31);
        let sent = Duration::from_micros(index * 12_500);
        let wave = 1.0 + 0.6 * (index as f64 / 500.0).sin();
        let mut at = sent + Duration::from_secs_f64((0.08 + 0.4 * chance * chance * wave) * slow * slow);
        let tokens = 20 + (chance * 60.0) as u32;
        let gap = Duration::from_secs_f64(0.03 * slow * (0.7 + 0.6 * chance));
        let chunks: Vec<Chunk> = (0..tokens)
            .map(|_| {
                at += gap;
                Chunk { at, tokens: 1 }
            })
            .collect();
        let usage = |tokens| Count { tokens, source: CountSource::Usage };
        recorder.push(&Record {
            phase: 0,
            index,
            session: index,
            turn: 0,
            target: if chance * 10.0 < skew as f64 { 2 } else { (index % REPLICAS) as u16 },
            model: Arc::from("llama-3.1-8b"),
            scheduled: sent,
            admitted: sent,
            sent: Some(sent + Duration::from_micros((300.0 * chance) as u64)),
            written: Some(sent),
            headers: chunks.first().map(|chunk| chunk.at),
            first_answer: chunks.first().map(|chunk| chunk.at),
            done: at,
            chunks,
            connection_reused: true,
            connect: None,
            input_tokens: usage(832),
            output_tokens: usage(tokens),
            reasoning_tokens: None,
            cached_tokens: Some((700.0 / slow) as u32),
            requested_tokens: Some(tokens),
            status: Some(200),
            outcome: Outcome::Success,
        });
    }
    recorder.report()
}

fn main() -> Result<(), Box<dyn Error>> {
    let path = std::env::args().nth(1).ok_or("which file?")?;
    let runs = [("random", run(2.1, 2)), ("least_requests", run(1.9, 0)), ("prefix_hash", run(1.0, 1))];
    let compared: Vec<Compared> = runs
        .iter()
        .map(|(policy, report)| Compared {
            measured: PolicyFigures::new(*policy, &report.total, 1.0),
            published: published_figures(policy, 800),
        })
        .collect();
    print!("{}", comparison_table(&compared));

    let mut page = Page::new("Three routing policies, one fleet")
        .subtitle("Invented figures, to look at the page: 8 replicas, 4,000 requests, 80 requests/s.");
    for (index, (policy, report)) in runs.iter().enumerate() {
        let mut health = ClientHealth::default();
        (health.payload_reads, health.multi_event_reads) = (1000, 70 * index as u64);
        page = page.verdict(policy, &judge(report, &health, &Flags::BENCH));
    }
    page = page
        .headline("1.45x", "throughput of prefix_hash against random")
        .headline("164x", "shorter mean time to first token at 8,000 in flight")
        .headline("81 %", "of the prompt tokens from the prefix cache")
        .headline("0.3 ms", "P99 schedule lag of this client")
        .section(
            "Policies",
            "Solid bars were measured here, pale ones are those of the published comparison.",
        );
    let bars = |title: &str, unit: &str, value: fn(&PolicyFigures) -> f64| {
        let chart = BarChart::new(title, unit).series(["measured", "published"]).colour_by_group();
        compared.iter().fold(chart, |chart, policy| {
            let values = [Some(value(&policy.measured)), policy.published.as_ref().map(value)];
            chart.group(policy.measured.policy.clone(), values)
        })
    };
    page = page
        .bars(&bars("Mean time to first token", "milliseconds", |figures| figures.ttft_ms.mean))
        .bars(&bars("Throughput", "tokens a second", |figures| figures.total_tokens_per_s));
    let mut over_time = LineChart::new(
        "Time to first token",
        "seconds, mean of the requests sent then",
        "seconds since the start",
    )
    .logarithmic();
    let mut flying = LineChart::new("Requests in flight", "", "seconds since the start");
    for (policy, report) in &runs {
        let series = report.series.coarsened(Duration::from_secs(1));
        let step = series.width().as_secs_f64();
        over_time = over_time.line(*policy, step, series.buckets().iter().map(|bucket| bucket.mean_ttft()));
        flying = flying.line(*policy, step, series.in_flight().map(|count| Some(count as f64)));
    }
    page = page.section("Over time", "").lines(&over_time).lines(&flying);
    page = page.section("Replicas", "Requests in flight at each replica: an even fleet has even rows.");
    for (policy, report) in &runs[..2] {
        let step = report.target_series[0].width().as_secs_f64();
        let mut heat =
            HeatChart::new(format!("In flight under {policy}"), "requests", "seconds since the start", step)
                .darkest(80.0);
        for (name, series) in report.shape.targets.iter().zip(&report.target_series) {
            heat = heat.row(name.trim_start_matches("http://"), series.in_flight().map(|count| count as f64));
        }
        page = page.heat(&heat);
    }
    let mut settings = BarChart::new("Mean time to first token as published", "milliseconds, by concurrency")
        .series(runs.iter().map(|(policy, _)| *policy));
    for concurrency in [800, 1600, 3200, 8000] {
        let of = published().into_iter().filter(|run| run.concurrency == concurrency);
        settings = settings.group(concurrency.to_string(), of.map(|run| Some(run.figures.ttft_ms.mean)));
    }
    let mut table =
        TextTable::new("Milliseconds.", ["policy", "mean TTFT", "P99 TTFT", "mean TPOT", "P99 stall"]);
    for (policy, report) in &runs {
        let ms = |metric, percent| {
            format!("{:.1}", report.total.of(metric).percentile(percent).unwrap_or_default() / MILLISECOND)
        };
        table = table.row([
            (*policy).to_owned(),
            ms(Metric::Ttft, 50.0),
            ms(Metric::Ttft, 99.0),
            ms(Metric::Tpot, 50.0),
            ms(Metric::MaxStall, 99.0),
        ]);
    }
    page = page.bars(&settings.wide()).section("Figures", "").table(&table).footer("evenload, example page");
    std::fs::write(path, page.render())?;
    Ok(())
}
