//! `--search-recipe`: what is searched for, and the runs of a search.
//!
//! Each load is a run of its own in `search_iter_0000`, `search_iter_0001` and so on; the trail is in
//! `search_history.json`, written anew after each of them, and the answer in `report.html`.

use std::fs;

use anyhow::Context;
use report::{
    CurveChart, Degradation, Page, Search, SearchEnd, SearchPlan, Sla, TextTable, Verdict,
    aiperf::{Slo, plain_table},
    logarithmic_steps,
};
use serde_json::{Value, json};

use super::{
    Arguments, Status,
    files::Files,
    flags::{Recipe, SearchFlags, SloList},
    run::Finished,
    runs::{self, Setting},
    stability::Stability,
};
use crate::commands::interrupt::Interrupts;

/// Loads that AIPerf tries.
const RANGE: (u32, u32) = (1, 1000);
const PROBES: u32 = 30;
const STEPS: u32 = 8;
const ATTAINMENT: f64 = 0.95;
const DEGRADATION: f64 = 0.2;
const TTFT: &str = "time_to_first_token";
const ITL: &str = "inter_token_latency";
const LATENCY: &str = "request_latency";

/// What a recipe stands for.
#[derive(Debug)]
pub(super) enum Wanted {
    /// A search, and the limits of a good request that it sets.
    Search(SearchPlan, Vec<Slo>),
    /// Loads, and what is looked for.
    Ramp(Vec<u32>, Degradation),
}

/// What the flags ask for, or what is wrong with them.
pub(super) fn plan(arguments: &Arguments) -> Result<Option<Wanted>, String> {
    let flags = &arguments.search;
    let Some(recipe) = flags.search_recipe else { return Ok(None) };
    let range = (
        flags.concurrency_min.unwrap_or(RANGE.0),
        flags.concurrency_max.unwrap_or(RANGE.1.max(flags.concurrency_min.unwrap_or(0))),
    );
    if range.0 >= range.1 {
        return Err(format!("--concurrency-min {} must be less than --concurrency-max {}", range.0, range.1));
    }
    let stray = stray(recipe, flags);
    if let Some(flag) = stray {
        return Err(format!("{flag} is not for --search-recipe {recipe}; --search-sla gives any limit"));
    }
    let wanted = if recipe == Recipe::ConcurrencyRamp {
        ramp(flags, range)
    } else {
        search(arguments, recipe, range)?
    };
    let needs_stream = match &wanted {
        Wanted::Search(plan, slos) => {
            plan.slas.iter().any(Sla::needs_stream) || slos.iter().any(|slo| slo.needs_stream())
        }
        Wanted::Ramp(_, Degradation { metric, stat, threshold }) => {
            Sla::below(metric, stat, *threshold).needs_stream()
        }
    };
    if needs_stream && !arguments.endpoint.streams() {
        return Err(format!(
            "--search-recipe {recipe}: first-token and inter-token times are measured only with --streaming"
        ));
    }
    Ok(Some(wanted))
}

/// The first flag that this recipe does not heed.
fn stray(recipe: Recipe, flags: &SearchFlags) -> Option<&'static str> {
    let goodput = recipe == Recipe::MaxGoodputUnderSlo;
    let any = recipe == Recipe::MaxConcurrencyUnderSla;
    let ramp = recipe == Recipe::ConcurrencyRamp;
    let itl = any || goodput || recipe == Recipe::MaxThroughputItlSla;
    let all = [
        (
            "--ttft-sla-ms",
            flags.ttft_sla_ms.is_some(),
            any || goodput || recipe == Recipe::MaxThroughputTtftSla,
        ),
        ("--itl-sla-ms", flags.itl_sla_ms.is_some(), itl),
        ("--tpot-sla-ms", flags.tpot_sla_ms.is_some(), itl),
        ("--e2e-sla-ms", flags.e2e_sla_ms.is_some(), any || goodput),
        ("--error-rate-sla", flags.error_rate_sla.is_some(), any),
        ("--slo-attainment-fraction", flags.slo_attainment_fraction.is_some(), goodput),
        ("--search-sla", !flags.search_sla.is_empty(), !ramp),
        ("--search-max-iterations", flags.search_max_iterations.is_some(), !ramp),
        ("--concurrency-steps", flags.concurrency_steps.is_some(), ramp),
        ("--degradation-threshold", flags.degradation_threshold.is_some(), ramp),
        ("--degradation-metric-tag", flags.degradation_metric_tag.is_some(), ramp),
        ("--degradation-stat", flags.degradation_stat.is_some(), ramp),
    ];
    all.into_iter().find(|(_, given, heeded)| *given && !heeded).map(|(flag, ..)| flag)
}

fn ramp(flags: &SearchFlags, range: (u32, u32)) -> Wanted {
    let loads = logarithmic_steps(range.0, range.1, flags.concurrency_steps.unwrap_or(STEPS));
    let degradation = Degradation {
        metric: flags.degradation_metric_tag.clone().unwrap_or_else(|| LATENCY.to_owned()),
        stat: flags.degradation_stat.clone().unwrap_or_else(|| "p99".to_owned()),
        threshold: flags.degradation_threshold.unwrap_or(DEGRADATION),
    };
    Wanted::Ramp(loads, degradation)
}

fn search(arguments: &Arguments, recipe: Recipe, range: (u32, u32)) -> Result<Wanted, String> {
    let flags = &arguments.search;
    let itl = flags.itl_sla_ms.or(flags.tpot_sla_ms);
    let mut slos = Vec::new();
    let mut slas = Vec::new();
    let mut objective = "output_token_throughput";
    if recipe == Recipe::MaxGoodputUnderSlo {
        objective = "goodput";
        let (Some(ttft), Some(itl), Some(latency)) = (flags.ttft_sla_ms, itl, flags.e2e_sla_ms) else {
            return Err(format!(
                "--search-recipe {recipe} needs --ttft-sla-ms, --tpot-sla-ms and --e2e-sla-ms"
            ));
        };
        if !arguments.output.goodput.is_empty() {
            return Err(format!(
                "--search-recipe {recipe} says itself what a good request is: leave --goodput out"
            ));
        }
        let list = format!("{TTFT}:{ttft} {ITL}:{itl} {LATENCY}:{latency}");
        slos = Slo::parse_list(&list).map_err(|error| error.to_string())?;
        let share = flags.slo_attainment_fraction.unwrap_or(ATTAINMENT);
        let comparison = report::Comparison::Ge;
        slas.push(Sla { comparison, ..Sla::below("good_request_fraction", "avg", share) });
    } else {
        slas.extend(flags.ttft_sla_ms.map(|limit| Sla::below(TTFT, "p95", limit)));
        slas.extend(itl.map(|limit| Sla::below(ITL, "p95", limit)));
        slas.extend(flags.e2e_sla_ms.map(|limit| Sla::below(LATENCY, "p99", limit)));
        // The metric is a percentage.
        slas.extend(flags.error_rate_sla.map(|limit| Sla::below("request_error_rate", "avg", limit * 100.0)));
        let needed = match recipe {
            Recipe::MaxThroughputTtftSla => ("--ttft-sla-ms", flags.ttft_sla_ms.is_some()),
            Recipe::MaxThroughputItlSla => ("--itl-sla-ms", itl.is_some()),
            _ => (
                "a limit: --ttft-sla-ms, --itl-sla-ms, --e2e-sla-ms, --error-rate-sla or --search-sla",
                !slas.is_empty() || !flags.search_sla.is_empty(),
            ),
        };
        if !needed.1 {
            return Err(format!("--search-recipe {recipe} needs {}", needed.0));
        }
    }
    slas.extend(flags.search_sla.iter().cloned());
    let plan = SearchPlan {
        recipe: recipe.to_string(),
        slas,
        objective: objective.to_owned(),
        range,
        most_probes: flags.search_max_iterations.unwrap_or(PROBES),
    };
    Ok(Wanted::Search(plan, slos))
}

/// Runs one load after the other until the answer is known.
pub(super) fn carry_out(
    arguments: &Arguments,
    interrupts: &Interrupts,
    top: &Files,
    plan: SearchPlan,
    slos: &[Slo],
) -> anyhow::Result<Status> {
    let trials = arguments.runs.num_profile_runs;
    let seed = runs::base_seed(arguments, trials);
    let mut search = Search::new(plan);
    let mut statuses = Vec::new();
    let mut ended = false;
    while !ended && let Ok(load) = search.next() {
        let place = search.probes().len();
        let mut own = arguments.clone();
        own.load.concurrency = vec![load];
        if !slos.is_empty() {
            own.output.goodput = vec![SloList(slos.to_vec())];
        }
        let setting = Setting { name: format!("search_iter_{place:04}"), arguments: own };
        tracing::info!("Probe {}: concurrency {load}", place + 1);
        let mut stability = Stability::new(arguments);
        let mut taken = Taken::new(search.plan());
        let (mut status, mut before) = (Status::Good, place.checked_sub(1));
        for trial in 0..trials {
            ended = runs::pause(arguments, before.replace(place), place, interrupts);
            if ended {
                break;
            }
            let mut stable = false;
            let seed = runs::seed_of(arguments, seed, place, trial);
            let (own_status, own_ended) =
                runs::one(arguments, top, &setting, trial, seed, interrupts, |finished| {
                    taken.push(search.plan(), finished);
                    if let Some(said) = stability.push(finished) {
                        tracing::info!("{said}");
                        stable = true;
                    }
                })?;
            (status, ended) = (status.max(own_status), own_ended);
            if ended || stable {
                break;
            }
        }
        // What the user cut short says nothing about its load.
        if !ended {
            let (figures, objective) = taken.means();
            search.tell(load, figures, objective, taken.verdict);
            statuses.push(status);
            write_history(top, &search, false)?;
        }
    }
    write_history(top, &search, ended)?;
    conclude(arguments, top, &search, ended)?;
    Ok(match (search.best(), search.next()) {
        _ if ended => Status::Interrupted,
        (None, Err(SearchEnd::NeverHeld | SearchEnd::OutOfProbes)) => Status::LimitBroken,
        (best, _) => best.map_or(Status::Good, |place| statuses[place]),
    })
}

/// The figures of the repetitions of a load.
struct Taken {
    figures: Vec<Vec<f64>>,
    objective: Vec<f64>,
    verdict: Verdict,
}

impl Taken {
    fn new(plan: &SearchPlan) -> Self {
        let figures = vec![Vec::new(); plan.slas.len()];
        Self { figures, objective: Vec::new(), verdict: Verdict::Valid }
    }

    fn push(&mut self, plan: &SearchPlan, finished: &Finished) {
        let measured = &finished.recording.measured;
        for (figures, sla) in self.figures.iter_mut().zip(&plan.slas) {
            figures.extend(measured.statistic(&sla.metric, &sla.stat));
        }
        self.objective.extend(measured.statistic(&plan.objective, "avg"));
        self.verdict = self.verdict.max(finished.assessment.verdict);
    }

    /// Their means; none where one was not measured at all.
    fn means(&self) -> (Vec<Option<f64>>, Option<f64>) {
        let mean = |values: &Vec<f64>| {
            (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
        };
        (self.figures.iter().map(mean).collect(), mean(&self.objective))
    }
}

fn write_history(top: &Files, search: &Search, interrupted: bool) -> anyhow::Result<()> {
    let mut history = search.json();
    history["evenload"] = json!({ "answer": search.answer(interrupted) });
    write(top, "search_history.json", &(serde_json::to_string_pretty(&history)? + "\n"))
}

/// Prints the answer, and writes its page.
fn conclude(arguments: &Arguments, top: &Files, search: &Search, ended: bool) -> anyhow::Result<()> {
    let (answer, table) = (search.answer(ended), search.table());
    say!("\n{}", plain_table("evenload profile | Search", &table));
    say!("{answer}");
    say!("Search: {}", top.directory.join("search_history.json").display());
    let charts = search.plan().slas.iter().enumerate().map(|(place, sla)| {
        let mut points: Vec<(f64, f64)> = search
            .probes()
            .iter()
            .filter_map(|probe| Some((f64::from(probe.value), probe.figures[place]?)))
            .collect();
        points.sort_by(|a, b| a.0.total_cmp(&b.0));
        let limit = points.iter().map(|point| (point.0, sla.threshold)).collect::<Vec<_>>();
        CurveChart::new(format!("{} {}", sla.metric, sla.stat), "", "sessions at a time")
            .line("measured", points)
            .line("limit", limit)
    });
    page(arguments, top, &answer, &table, charts)
}

/// Says where the ramp's figure degrades, and writes it down.
pub(super) fn conclude_ramp(
    arguments: &Arguments,
    top: &Files,
    degradation: &Degradation,
    points: &[(u32, f64)],
) -> anyhow::Result<()> {
    let answer = degradation.answer(points);
    say!("{answer}.");
    if let Some(json) = degradation.json(points) {
        write_knee(top, &json)?;
    }
    let Degradation { metric, stat, .. } = degradation;
    let figure = format!("{metric} {stat}");
    let table = TextTable::new("Loads of the ramp.", ["sessions", &figure]);
    let table = points
        .iter()
        .fold(table, |table, (load, figure)| table.row([load.to_string(), format!("{figure:.2}")]));
    let curve = CurveChart::new(&figure, "", "sessions at a time")
        .line("measured", points.iter().map(|(load, figure)| (f64::from(*load), *figure)));
    page(arguments, top, &answer, &table, [curve])
}

fn write_knee(top: &Files, json: &Value) -> anyhow::Result<()> {
    let directory = top.directory.join("sweep_aggregate");
    fs::create_dir_all(&directory).with_context(|| format!("cannot create {}", directory.display()))?;
    let name = "sweep_aggregate/degradation_knee.json";
    write(top, name, &(serde_json::to_string_pretty(json)? + "\n"))?;
    say!("Knee: {}", top.directory.join(name).display());
    Ok(())
}

fn page(
    arguments: &Arguments,
    top: &Files,
    answer: &str,
    table: &TextTable,
    charts: impl IntoIterator<Item = CurveChart>,
) -> anyhow::Result<()> {
    if arguments.own.no_report {
        return Ok(());
    }
    let recipe = arguments.search.search_recipe.map(|recipe| recipe.to_string()).unwrap_or_default();
    let subtitle =
        format!("{} at {}", arguments.endpoint.model_names.join(", "), arguments.endpoint.url.join(", "));
    let page = Page::new(format!("evenload profile: {recipe}")).subtitle(subtitle).section("Answer", answer);
    let page = charts.into_iter().fold(page, |page, chart| page.curve(&chart));
    let path = top.page();
    write(top, "report.html", &page.table(table).render())?;
    say!("Report: {}", path.display());
    Ok(())
}

fn write(top: &Files, name: &str, content: &str) -> anyhow::Result<()> {
    let path = top.directory.join(name);
    fs::write(&path, content).with_context(|| format!("cannot write {}", path.display()))
}
