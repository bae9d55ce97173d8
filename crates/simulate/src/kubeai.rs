//! KubeAI's published comparison of routing policies, again, in virtual time.
//!
//! Eight L4 replicas, the built-in seed workload, twelve tables: three policies at four settings. With the
//! legacy client the tables come out as published; with the ideal one they show what the page would have shown
//! had its load generator kept up.

use engine::Profile;
use protocol::Endpoint;
use report::{PhaseShape, Recorder, Report, RunShape};
use routing::{PolicySettings, PrefixHashSettings};
use workload::{
    Arrival, Arrivals, Limits, Pattern, Phase, PhaseKind, Plan, Rate, RequestTemplate, Session, Turn,
    kubeai_seed_requests,
};

use crate::{ClientModel, Error, Figures, FleetSettings, Settings, run};

/// Replicas of the published runs.
pub const REPLICAS: usize = 8;
/// Requests of each published run.
pub const REQUESTS: usize = 8_000;
/// Sessions in flight and requests per second of the published runs.
pub const LOADS: [(u32, f64); 4] = [(800, 800.0), (1_600, 200.0), (3_200, 200.0), (8_000, 800.0)];

/// The published policies in the order of the page. Its "Kubernetes service" opens a connection a request, and
/// kube-proxy draws a random replica for each: the page's word for it is round robin, the effect is random.
pub fn policies() -> [PolicySettings; 3] {
    [
        PolicySettings::Random,
        PolicySettings::LeastRequests,
        PolicySettings::PrefixHash(PrefixHashSettings {
            exact_kubeai: true,
            ..PrefixHashSettings::default()
        }),
    ]
}

/// One table, simulated.
#[derive(Clone, Debug)]
pub struct Table {
    /// What was measured, as a load generator reports it.
    pub report: Report,
    /// What only a simulator knows.
    pub figures: Figures,
}

/// The plan of the published runs at one of the [`LOADS`].
pub fn plan(concurrency: u32, rate: f64, count: usize, seed: u64) -> Result<Plan, workload::Error> {
    let template = RequestTemplate::new(Endpoint::Completions, "llama-3.1-8b-instruct-fp8-l4");
    let requests = kubeai_seed_requests(template, count);
    let times = Arrivals::new(Pattern::Poisson, Rate::constant(rate)?, seed)?;
    let arrivals = (0..).zip(times.zip(requests)).map(|(id, (at, request))| Arrival {
        at,
        session: Session { id, turns: vec![Turn::from(request)], target: None },
    });
    Ok(Plan {
        phases: vec![Phase {
            name: format!("{concurrency} concurrent"),
            kind: PhaseKind::Measured,
            limits: Limits { concurrency: Some(concurrency), ..Limits::default() },
            closed_loop: false,
            target_rate: Some(rate),
            expected_requests: Some(count as u64),
            arrivals: Box::new(arrivals),
        }],
    })
}

/// Runs one table.
pub fn table(
    policy: PolicySettings,
    concurrency: u32,
    rate: f64,
    client: ClientModel,
    seed: u64,
) -> Result<Table, Error> {
    let fleet = FleetSettings::uniform(&Profile::l4(), REPLICAS, policy);
    let settings = Settings { fleet, client, seed };
    let shape = RunShape {
        phases: vec![PhaseShape {
            name: format!("{concurrency} concurrent"),
            measured: true,
            target_rate: Some(rate),
            concurrency: Some(concurrency),
            closed_loop: false,
        }],
        targets: Vec::new(),
    };
    let mut recorder = Recorder::new(shape, Vec::new());
    let figures = run(&settings, plan(concurrency, rate, REQUESTS, seed)?, |record| recorder.push(record))?;
    Ok(Table { report: recorder.report(), figures })
}

#[cfg(test)]
mod tests {
    use report::Metric;

    use super::*;

    /// Duration in seconds, mean TPOT and mean inter-token latency in milliseconds: the published tables, in the
    /// order of [`LOADS`] and [`policies`].
    const PUBLISHED: [[(f64, f64, f64); 3]; 4] = [
        [(159.98, 189.29, 173.06), (158.39, 191.44, 176.03), (104.67, 86.55, 85.78)],
        [(157.07, 216.53, 197.37), (153.02, 212.39, 193.34), (110.00, 78.51, 79.20)],
        [(156.36, 214.63, 195.30), (152.43, 211.98, 192.94), (111.37, 78.73, 78.49)],
        [(156.20, 215.24, 196.77), (152.59, 214.09, 194.44), (107.89, 79.99, 79.90)],
    ];

    #[test]
    fn the_twelve_published_tables_come_out_within_5_percent_of_their_durations() {
        for ((concurrency, rate), published) in LOADS.into_iter().zip(PUBLISHED) {
            for (policy, (duration_s, tpot_ms, itl_ms)) in policies().into_iter().zip(published) {
                let name = format!("{} at {concurrency}", policy.name());
                let Table { report, .. } = table(policy, concurrency, rate, ClientModel::LEGACY, 1).unwrap();
                assert_eq!(report.total.answered(), 8_000, "{name}");
                assert_eq!(report.total.input_tokens(), 6_656_338, "{name}");
                assert_eq!(report.total.output_tokens(), 608_447, "{name}");
                let mean_ms = |metric| report.total.of(metric).mean().unwrap() / 1e6;
                let close = |figure: f64, published: f64, share: f64| {
                    assert!((figure / published - 1.0).abs() <= share, "{name}: {figure} for {published}");
                };
                close(report.total.duration_s(), duration_s, 0.05);
                close(mean_ms(Metric::Tpot), tpot_ms, 0.10);
                close(mean_ms(Metric::Gap), itl_ms, 0.10);
            }
        }
    }

    #[test]
    fn a_run_is_a_function_of_its_seed() {
        let run = |seed| {
            let table = table(PolicySettings::Random, 800, 800.0, ClientModel::IDEAL, seed).unwrap();
            (table.figures.simulated, table.figures.events)
        };
        assert_eq!(run(7), run(7));
        assert_ne!(run(7), run(8));
    }
}
