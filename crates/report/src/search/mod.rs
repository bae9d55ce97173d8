//! The search for the largest load that keeps its limits, from probe to answer.
//!
//! Pure: it says which load to run next and takes the figures of that run. [`Bracket`] decides; [`Search`] keeps the
//! trail, and writes it in the shape of AIPerf's `search_history.json`. Loads are numbers of sessions at a time.

mod bracket;
mod ramp;
mod sla;

use serde_json::{Value, json};

pub use self::{
    bracket::{Bracket, SearchEnd},
    ramp::{Degradation, logarithmic_steps},
    sla::{Comparison, Sla, SlaError},
};
use crate::{TextTable, Verdict};

/// What is searched over, in AIPerf's words.
const PATH: &str = "phases.profiling.concurrency";

/// What a search is about.
#[derive(Clone, Debug)]
pub struct SearchPlan {
    /// Its name.
    pub recipe: String,
    /// All of them must hold.
    pub slas: Vec<Sla>,
    /// The figure that a larger load is for; its average is kept.
    pub objective: String,
    /// Smallest and largest load.
    pub range: (u32, u32),
    /// Loads that are probed, at most.
    pub most_probes: u32,
}

/// A search and its trail.
#[derive(Clone, Debug)]
pub struct Search {
    plan: SearchPlan,
    bracket: Bracket,
    probes: Vec<Probe>,
}

/// What one load came to.
#[derive(Clone, Debug, PartialEq)]
pub struct Probe {
    /// The load.
    pub value: u32,
    /// Whether all limits held.
    pub holds: bool,
    /// The figure of each limit.
    pub figures: Vec<Option<f64>>,
    /// The objective.
    pub objective: Option<f64>,
    /// Verdicts of its runs, the gravest of which counts.
    pub verdict: Verdict,
    /// It contradicts an earlier probe.
    pub contradicts: bool,
}

impl Search {
    /// Nothing is probed yet.
    pub fn new(plan: SearchPlan) -> Self {
        let bracket = Bracket::new(plan.range.0, plan.range.1, plan.most_probes);
        Self { plan, bracket, probes: Vec::new() }
    }

    /// What it is about.
    pub fn plan(&self) -> &SearchPlan {
        &self.plan
    }

    /// The load to run next, until the search has ended.
    pub fn next(&self) -> Result<u32, SearchEnd> {
        self.bracket.next()
    }

    /// Takes the figures of a load: one for each limit, and the objective; and how far they can be trusted.
    pub fn tell(&mut self, value: u32, figures: Vec<Option<f64>>, objective: Option<f64>, verdict: Verdict) {
        let holds = self.plan.slas.iter().zip(&figures).all(|(sla, figure)| sla.holds(*figure));
        let contradicts = self.bracket.tell(value, holds);
        self.probes.push(Probe { value, holds, figures, objective, verdict, contradicts });
    }

    /// All probes, in their order.
    pub fn probes(&self) -> &[Probe] {
        &self.probes
    }

    /// The last probe of the answer: the largest load that held.
    pub fn best(&self) -> Option<usize> {
        let held = self.bracket.held()?;
        self.probes.iter().rposition(|probe| probe.value == held && probe.holds)
    }

    /// The probe of the smallest load that did not hold.
    fn worst(&self) -> Option<usize> {
        let failed = self.bracket.failed()?;
        self.probes.iter().rposition(|probe| probe.value == failed && !probe.holds)
    }

    /// The first limit that a probe breaks.
    fn breach(&self, probe: &Probe) -> Option<(&Sla, Option<f64>)> {
        let pairs = self.plan.slas.iter().zip(probe.figures.iter().copied());
        pairs.into_iter().find(|(sla, figure)| !sla.holds(*figure))
    }

    /// The answer in a line or two; `interrupted`: by the user, before the search was done.
    pub fn answer(&self, interrupted: bool) -> String {
        let limits = self.plan.slas.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        let figure =
            |figure: Option<f64>| figure.map_or("not measured".to_owned(), |figure| format!("{figure:.2}"));
        let broken = self.worst().map(|place| &self.probes[place]).and_then(|probe| {
            let (sla, observed) = self.breach(probe)?;
            Some(format!("{} did not: {} {} was {}", probe.value, sla.metric, sla.stat, figure(observed)))
        });
        let (low, high) = self.plan.range;
        let held = self.bracket.held();
        let end = if interrupted { None } else { self.bracket.next().err() };
        let mut text = match (held, end, broken) {
            (Some(held), Some(SearchEnd::Found), Some(broken)) => {
                format!("At most {} {limits} ({broken}).", sessions(held, "holds", "hold"))
            }
            (Some(held), Some(SearchEnd::NeverFailed), _) => format!(
                "{} {limits}, and no more were tried: the limit is above --concurrency-max {high}.",
                sessions(held, "holds", "hold")
            ),
            (None, _, Some(broken)) if !interrupted => format!(
                "No load holds {limits}: {} too many ({broken}). The knee was not found; it is below --concurrency-min, or the limits cannot be kept.",
                sessions(low, "is", "are")
            ),
            (Some(held), _, broken) => format!(
                "At least {} {limits}{}; the search ended before the knee was found.",
                sessions(held, "holds", "hold"),
                broken.map(|broken| format!(" ({broken})")).unwrap_or_default()
            ),
            (None, ..) => format!("The search for {limits} ended before any load held."),
        };
        if self.probes.iter().any(|probe| probe.contradicts) {
            text += " Runs of the same load contradicted each other: longer runs, or --num-profile-runs, would tell better.";
        }
        let ends = [self.best(), self.worst()].into_iter().flatten().map(|place| &self.probes[place]);
        if let Some(probe) = ends.into_iter().find(|probe| probe.verdict == Verdict::Invalid) {
            text += &format!(
                " The run with {} INVALID: it measures the client too.",
                sessions(probe.value, "is", "is")
            );
        }
        text
    }

    /// All probes, by load.
    pub fn table(&self) -> TextTable {
        let limits = self.plan.slas.iter().map(ToString::to_string);
        let columns = ["sessions".to_owned(), "holds".to_owned()].into_iter().chain(limits);
        let table = TextTable::new(
            "Loads that were probed.",
            columns.chain([self.plan.objective.clone(), "verdict".to_owned()]),
        );
        let mut probes: Vec<&Probe> = self.probes.iter().collect();
        probes.sort_by_key(|probe| probe.value);
        probes.into_iter().fold(table, |table, probe| {
            let number =
                |figure: &Option<f64>| figure.map_or("-".to_owned(), |figure| format!("{figure:.2}"));
            let head = [probe.value.to_string(), if probe.holds { "yes" } else { "no" }.to_owned()];
            table.row(
                head.into_iter()
                    .chain(probe.figures.iter().chain([&probe.objective]).map(number))
                    .chain([probe.verdict.to_string()]),
            )
        })
    }

    /// `search_history.json`
    pub fn json(&self) -> Value {
        let SearchPlan { recipe, slas, objective, range: (low, high), most_probes } = &self.plan;
        let values = |probe: &Probe| json!({ PATH: probe.value });
        let objectives = |probe: &Probe| probe.objective.map(|objective| vec![objective]);
        let iterations = self.probes.iter().enumerate().map(|(index, probe)| {
            json!({
                "iteration_idx": index,
                "variation_values": values(probe),
                "objective_values": objectives(probe),
                "feasible": probe.holds,
                "non_monotonic_warning": probe.contradicts,
            })
        });
        let scored = || self.probes.iter().enumerate().filter(|(_, probe)| probe.objective.is_some());
        // What held once and failed later is not among them.
        let held = self.bracket.held();
        let kept = |probe: &Probe| probe.holds && held.is_some_and(|held| probe.value <= held);
        let feasible = scored().filter(|(_, probe)| kept(probe)).count();
        let best = scored()
            .filter(|(_, probe)| kept(probe) || feasible == 0)
            .max_by(|a, b| a.1.objective.unwrap_or(0.0).total_cmp(&b.1.objective.unwrap_or(0.0)));
        let best_trials = best.map(|(index, probe)| {
            json!([{
                "iteration_idx": index,
                "objective_values": objectives(probe),
                "variation_values": values(probe),
                "feasible": probe.holds,
                "feasible_count": feasible,
                "pareto_rank": 0,
            }])
        });
        let held = self.best().map(|index| {
            let probe = &self.probes[index];
            json!({ "value": probe.value, "iteration_idx": index, "objective_value": probe.objective })
        });
        let failed = self.worst().map(|index| {
            let probe = &self.probes[index];
            let breach = self.breach(probe).map(|(sla, observed)| {
                let mut breach = sla.json();
                breach["observed"] = json!(observed);
                breach
            });
            json!({ "value": probe.value, "iteration_idx": index, "first_breach": breach })
        });
        let boundary = (!self.probes.is_empty())
            .then(|| json!({ "swept_dim_path": PATH, "feasible_max": held, "infeasible_min": failed }));
        json!({
            "config": {
                "planner": "monotonic_sla",
                "objectives": [{ "metric": objective, "stat": "avg", "direction": "MAXIMIZE", "threshold": null }],
                "outcome_constraints": [],
                "max_iterations": most_probes,
                "n_initial_points": 1,
                "random_seed": null,
                "search_space": [{ "path": PATH, "lo": low, "hi": high, "kind": "int" }],
                "sla_filters": slas.iter().map(Sla::json).collect::<Vec<_>>(),
            },
            "iterations": iterations.collect::<Vec<_>>(),
            "best_trials": best_trials,
            "boundary_summary": boundary,
            "recipe": recipe,
            "convergence_reason": self.bracket.next().err().map(|end| match end {
                SearchEnd::Found => "monotonic_precision_reached",
                SearchEnd::NeverFailed => "monotonic_no_failure_in_range",
                SearchEnd::NeverHeld => "monotonic_no_pass_in_range",
                SearchEnd::OutOfProbes => "max_iterations",
            }),
        })
    }
}

/// So many sessions, and the verb that goes with them.
fn sessions(count: u32, singular: &str, plural: &str) -> String {
    if count == 1 { format!("1 session {singular}") } else { format!("{count} sessions {plural}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn search(range: (u32, u32), latency: impl Fn(u32) -> Option<f64>) -> Search {
        let mut search = Search::new(SearchPlan {
            recipe: "max-concurrency-under-sla".to_owned(),
            slas: vec![Sla::below("time_to_first_token", "p95", 500.0)],
            objective: "output_token_throughput".to_owned(),
            range,
            most_probes: 20,
        });
        while let Ok(value) = search.next() {
            search.tell(value, vec![latency(value)], Some(10.0 * f64::from(value)), Verdict::Valid);
        }
        search
    }

    #[test]
    fn the_answer_names_the_largest_load_and_what_breaks_above_it() {
        let found = search((1, 1000), |value| Some(21.0 * f64::from(value)));
        assert_eq!(
            found.answer(false),
            "At most 23 sessions hold time_to_first_token p95 < 500 (24 did not: time_to_first_token p95 was 504.00)."
        );
        let json = found.json();
        assert_eq!(json["convergence_reason"], "monotonic_precision_reached");
        let boundary = &json["boundary_summary"];
        assert_eq!(
            (&boundary["feasible_max"]["value"], &boundary["infeasible_min"]["value"]),
            (&23.into(), &24.into())
        );
        assert_eq!(boundary["infeasible_min"]["first_breach"]["observed"], 504.0);
        assert_eq!(json["best_trials"][0]["variation_values"]["phases.profiling.concurrency"], 23);
        assert_eq!(json["iterations"].as_array().unwrap().len(), found.probes().len());
        assert_eq!(found.probes()[found.best().unwrap()].value, 23);
        let table = found.table();
        let (columns, rows) = table.cells();
        assert_eq!((columns.len(), rows.len()), (5, found.probes().len()));
    }

    #[test]
    fn what_held_by_chance_is_not_the_best() {
        let mut runs = 0;
        let mut search = search((1, 1), |_| Some(1.0));
        search = Search::new(SearchPlan { range: (1, 16), ..search.plan().clone() });
        while let Ok(value) = search.next() {
            // 4 holds the first time only.
            runs += u32::from(value == 4);
            let latency = if value < 4 || value == 4 && runs == 1 { 1.0 } else { 900.0 };
            search.tell(value, vec![Some(latency)], Some(f64::from(value)), Verdict::Valid);
        }
        let json = search.json();
        assert_eq!(json["best_trials"][0]["variation_values"]["phases.profiling.concurrency"], 3);
        assert_eq!(json["boundary_summary"]["infeasible_min"]["value"], 4);
        assert!(search.answer(false).contains("contradicted each other"), "{}", search.answer(false));
    }

    #[test]
    fn a_knee_that_was_not_found_is_said() {
        let never = search((4, 64), |_| Some(900.0));
        assert!(never.answer(false).starts_with("No load holds"), "{}", never.answer(false));
        assert_eq!(never.json()["boundary_summary"]["feasible_max"], Value::Null);
        assert_eq!(never.json()["best_trials"][0]["feasible_count"], 0);
        let always = search((1, 64), |_| Some(1.0));
        assert!(always.answer(false).contains("above --concurrency-max 64"), "{}", always.answer(false));
        assert_eq!(always.json()["convergence_reason"], "monotonic_no_failure_in_range");
        let unmeasured = search((1, 64), |_| None);
        assert!(unmeasured.answer(false).contains("not measured"), "{}", unmeasured.answer(false));
        let mut short = Search::new(always.plan().clone());
        short.tell(1, vec![Some(1.0)], None, Verdict::Invalid);
        assert!(short.answer(true).starts_with("At least 1 session holds"), "{}", short.answer(true));
        assert!(short.answer(true).contains("The run with 1 session is INVALID"), "{}", short.answer(true));
        assert_eq!(short.json()["convergence_reason"], Value::Null);
    }
}
