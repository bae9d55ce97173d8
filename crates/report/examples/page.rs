//! Renders both pages from invented records, for a look at them:
//! `cargo run -p report --example page -- /tmp/pages`

use std::{error::Error, path::Path, sync::Arc, time::Duration};

use report::{
    Chunk, ClientHealth, Compared, Count, CountSource, Flags, Outcome, PhaseShape, PolicyFigures, PolicyRun,
    Record, Recorder, Report, RunShape, comparison_page, comparison_table, judge, published_figures,
    run_page,
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
            index,
            session: index,
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
            input_tokens: usage(832),
            output_tokens: usage(tokens),
            cached_tokens: Some((700.0 / slow) as u32),
            requested_tokens: Some(tokens),
            status: Some(200),
            outcome: Outcome::Success,
            ..Record::default()
        });
    }
    recorder.report()
}

fn main() -> Result<(), Box<dyn Error>> {
    let directory = std::env::args().nth(1).ok_or("which directory?")?;
    std::fs::create_dir_all(&directory)?;
    let mut runs = Vec::new();
    for (policy, slow, skew, bunched) in
        [("random", 2.1, 2, 0), ("least_requests", 1.9, 0, 70), ("prefix_hash", 1.0, 1, 140)]
    {
        let report = run(slow, skew);
        let health =
            ClientHealth { payload_reads: 1000, multi_event_reads: bunched, ..ClientHealth::default() };
        let assessment = judge(&report, &health, &Flags::BENCH);
        let page =
            run_page("One run", "Invented figures, to look at the page.", &report, &assessment, &health);
        std::fs::write(Path::new(&directory).join("run.html"), page.footer("evenload").render())?;
        let measured = PolicyFigures::new(policy, &report.total, 1.0);
        let compared = Compared { measured, published: published_figures(policy, 800) };
        runs.push(PolicyRun { compared, report, assessment, speedup: 1.0, bound: false, replicas: None });
    }
    let compared: Vec<Compared> = runs.iter().map(|run| run.compared.clone()).collect();
    print!("{}", comparison_table(&compared));
    let subtitle = "Invented figures, to look at the page: 8 replicas, 4,000 requests, 80 requests/s.";
    let page = comparison_page("Three routing policies, one fleet", subtitle, &runs).footer("evenload");
    std::fs::write(Path::new(&directory).join("comparison.html"), page.render())?;
    Ok(())
}
