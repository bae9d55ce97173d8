//! Policies side by side, and beside what was published: the table at the end of the demo.

use comfy_table::{Cell, CellAlignment, ContentArrangement, LineStyle, Table, TableStyle};

use crate::{
    PolicyFigures,
    format::{human, times},
};

/// A policy's figures, and those that were published for it.
#[derive(Clone, Debug)]
pub struct Compared {
    /// What was measured here.
    pub measured: PolicyFigures,
    /// What the page says, where it says anything of this policy and setting.
    pub published: Option<PolicyFigures>,
}

/// The rows of the table: the name for people, and the name in files.
const FIGURES: [(&str, &str); 13] = [
    ("Throughput (tokens/s)", "total_tokens_per_s"),
    ("Duration (s)", "duration_s"),
    ("Mean TTFT (ms)", "ttft_ms.mean"),
    ("Median TTFT (ms)", "ttft_ms.median"),
    ("P99 TTFT (ms)", "ttft_ms.p99"),
    ("Mean TPOT (ms)", "tpot_ms.mean"),
    ("Median TPOT (ms)", "tpot_ms.median"),
    ("P99 TPOT (ms)", "tpot_ms.p99"),
    ("Mean ITL (ms)", "itl_ms.mean"),
    ("Median ITL (ms)", "itl_ms.median"),
    ("P99 ITL (ms)", "itl_ms.p99"),
    ("Prefix cache hits", "prefix_hit_ratio"),
    ("P99 schedule lag (ms)", "schedule_lag_ms.p99"),
];

/// Like `UTF8_HORIZONTAL_ONLY`, without lines between rows: here rows come in pairs.
const STYLE: TableStyle = TableStyle::new()
    .top_border(LineStyle::none().fill('─').junction('─'))
    .header_separator(LineStyle::none().fill('─').junction('─'))
    .bottom_border(LineStyle::none().fill('─').junction('─'));

/// The table for a terminal: one column a policy, and for each figure a row with what was measured, and a row with
/// what was published and the ratio of ours to it. The last rows set the throughput and the mean TTFT in relation
/// to the first policy.
pub fn comparison_table(policies: &[Compared]) -> String {
    let mut table = Table::new();
    table.load_style(STYLE).set_content_arrangement(ContentArrangement::Disabled);
    let right = |text: String| Cell::new(text).set_alignment(CellAlignment::Right);
    let names = policies.iter().map(|policy| right(policy.measured.policy.clone()));
    table.set_header(std::iter::once(Cell::new("")).chain(names));
    for (label, cells) in comparison_rows(policies) {
        table.add_row(std::iter::once(Cell::new(label)).chain(cells.into_iter().map(right)));
    }
    table.to_string() + "\n"
}

/// The rows of the table: label, and one cell a policy.
pub(crate) fn comparison_rows(policies: &[Compared]) -> Vec<(String, Vec<String>)> {
    let cells = |cell: &dyn Fn(&Compared) -> Option<String>| -> Option<Vec<String>> {
        let cells: Vec<_> = policies.iter().map(cell).collect();
        let any = cells.iter().any(Option::is_some);
        any.then(|| cells.into_iter().map(Option::unwrap_or_default).collect())
    };
    let mut rows = Vec::new();
    for (label, name) in FIGURES {
        if let Some(ours) = cells(&|policy| measured(policy, name)) {
            rows.push((label.to_owned(), ours));
            rows.extend(
                cells(&|policy| published(policy, name)).map(|row| ("  published, ratio".to_owned(), row)),
            );
        }
    }
    if let [first, _, ..] = policies {
        let against = |name: &str, policy: &Compared| {
            let ratio = figure(&policy.measured, name)? / figure(&first.measured, name)?;
            ratio.is_finite().then_some(ratio)
        };
        let base = &first.measured.policy;
        let throughput = cells(&|policy| against("total_tokens_per_s", policy).map(times));
        rows.extend(throughput.map(|row| (format!("Throughput against {base}"), row)));
        let ttft = cells(&|policy| against("ttft_ms.mean", policy).map(|ratio| times(1.0 / ratio)));
        rows.extend(ttft.map(|row| (format!("Mean TTFT better than {base}"), row)));
    }
    rows
}

/// Absent where nothing was answered.
fn figure(figures: &PolicyFigures, name: &str) -> Option<f64> {
    let (_, value) = figures.named().into_iter().find(|(known, _)| *known == name)?;
    value.is_finite().then_some(value)
}

fn measured(policy: &Compared, name: &str) -> Option<String> {
    figure(&policy.measured, name).map(|value| print(name, value))
}

fn published(policy: &Compared, name: &str) -> Option<String> {
    let theirs = figure(policy.published.as_ref()?, name)?;
    let ratio = figure(&policy.measured, name)? / theirs;
    Some(format!("{}  {}", print(name, theirs), times(ratio)))
}

fn print(name: &str, value: f64) -> String {
    if name == "prefix_hit_ratio" { format!("{:.1} %", value * 100.0) } else { human(value) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        Recorder, RunShape, published_figures,
        sample::{ms, request},
    };

    fn compared(policy: &str, speed: f64) -> Compared {
        let published = published_figures(policy, 800);
        let mut measured = published.clone().unwrap();
        measured.total_tokens_per_s *= speed;
        measured.ttft_ms.mean /= speed;
        measured.prefix_hit_ratio = Some(0.8125);
        Compared { measured, published }
    }

    #[test]
    fn the_table_shows_ours_beside_theirs() {
        let text = comparison_table(&[compared("random", 1.0), compared("prefix_hash", 1.1)]);
        let lines: Vec<Vec<&str>> = text.lines().map(|line| line.split_whitespace().collect()).collect();
        let has = |words: &str| lines.iter().any(|line| line.join(" ") == words);
        assert!(has("random prefix_hash"), "{text}");
        assert!(has("Throughput (tokens/s) 45,410 76,349"), "{text}");
        assert!(has("published, ratio 45,410 1.00x 69,408 1.10x"), "{text}");
        assert!(has("Prefix cache hits 81.2 % 81.2 %"), "{text}");
        assert!(has("Throughput against random 1.00x 1.68x"), "{text}");
        assert!(has("Mean TTFT better than random 1.00x 5.18x"), "{text}");
        assert!(!text.contains("schedule lag"), "not known of either");
        assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
    }

    #[test]
    fn figures_of_a_sped_up_run_are_those_of_the_real_system() {
        let mut recorder = Recorder::new(RunShape::default(), Vec::new());
        (0..10).for_each(|index| {
            let mut record = request(index * 10, 20, 5, 3);
            record.scheduled = record.scheduled.saturating_sub(ms(1));
            recorder.push(&record);
        });
        let figures = PolicyFigures::new("random", &recorder.report().total, 10.0);
        assert_eq!((figures.duration_s, figures.ttft_ms.mean, figures.itl_ms.p99), (1.2, 200.0, 50.0));
        assert_eq!(figures.total_tokens_per_s, 1030.0 / 1.2);
        assert_eq!(figures.schedule_lag_ms.unwrap().median, 10.0);
        let json = serde_json::to_value(&figures).unwrap();
        assert_eq!(json["ttft_ms"]["mean"], 200.0);
        assert_eq!(json["prefix_hit_ratio"], serde_json::Value::Null);
        let slower = PolicyFigures { duration_s: 3.6, prefix_hit_ratio: Some(0.5), ..figures.clone() };
        let means = PolicyFigures::means(&[figures.clone(), slower]).unwrap();
        assert_eq!((means.duration_s, means.ttft_ms.mean, means.requests), (2.4, 200.0, figures.requests));
        assert_eq!((means.prefix_hit_ratio, means.schedule_lag_ms.unwrap().median), (None, 10.0));
        let back: PolicyFigures = serde_json::from_value(json).unwrap();
        assert_eq!(back, figures);
    }
}
