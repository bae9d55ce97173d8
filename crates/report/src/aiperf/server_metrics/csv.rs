//! `server_metrics_export.csv`: a block for each kind of series, and one of the labels of `_info` series.

use protocol::FamilyKind;

use super::{COUNTER_STATISTICS, ServerMetrics, unit};
use crate::{
    FamilyFigures, Figures,
    aiperf::{csv::block, json::AIPERF_VERSION},
};

const CSV_SCHEMA_VERSION: &str = "1.0";

/// One row of the CSV file.
struct CsvRow {
    endpoint: String,
    family: usize,
    labels: Vec<(String, String)>,
    figures: Figures,
}

impl ServerMetrics<'_> {
    /// `server_metrics_export.csv`
    pub fn csv(&self) -> String {
        let mut text = format!(
            "# evenload server metrics (CSV), as AIPerf's\n# aiperf_version: {AIPERF_VERSION}\n# schema_version: \
             {CSV_SCHEMA_VERSION}\n# benchmark_id: {}\n#\n",
            self.run.id
        );
        let (mut families, mut rows) = (Vec::<FamilyFigures>::new(), Vec::new());
        for (name, page) in self.names.iter().zip(self.pages) {
            for mut family in page.families(self.measured.0, self.measured.1) {
                let series = std::mem::take(&mut family.series);
                // A name may mean another kind of thing on another page.
                let is_known = |known: &FamilyFigures| known.name == family.name && known.kind == family.kind;
                let place = families.iter().position(is_known).unwrap_or_else(|| {
                    families.push(family);
                    families.len() - 1
                });
                let endpoint = name.split("://").last().unwrap_or(name).to_owned();
                let row =
                    |(labels, figures)| CsvRow { endpoint: endpoint.clone(), family: place, labels, figures };
                rows.extend(series.into_iter().map(row));
            }
        }
        rows.sort_by(|a, b| {
            (&families[a.family].name, &a.endpoint, &a.labels).cmp(&(
                &families[b.family].name,
                &b.endpoint,
                &b.labels,
            ))
        });
        let is_info = |row: &CsvRow| families[row.family].name.ends_with("_info");
        let kinds = [FamilyKind::Gauge, FamilyKind::Counter, FamilyKind::Histogram, FamilyKind::Unknown];
        let mut blocks: Vec<String> = Vec::new();
        for kind in kinds {
            let of_kind = |row: &&CsvRow| families[row.family].kind == kind && !is_info(row);
            let rows: Vec<&CsvRow> = rows.iter().filter(of_kind).collect();
            if !rows.is_empty() {
                blocks.push(csv_block(kind, &families, &rows));
            }
        }
        let infos: Vec<&CsvRow> = rows.iter().filter(|row| is_info(row)).collect();
        if !infos.is_empty() {
            blocks.push(info_block(&families, &infos));
        }
        text += &blocks.join("\r\n");
        text
    }
}

/// Columns: endpoint, kind, name, unit; statistics; labels; help; and buckets of histograms.
fn csv_block(kind: FamilyKind, families: &[FamilyFigures], rows: &[&CsvRow]) -> String {
    let statistics: Vec<String> = rows.first().map(|row| row.figures.named()).unwrap_or_default();
    let mut labels: Vec<&str> =
        rows.iter().flat_map(|row| row.labels.iter().map(|(name, _)| name.as_str())).collect();
    labels.sort_unstable();
    labels.dedup();
    block(|writer| {
        let mut head = vec!["Endpoint", "Type", "Metric", "Unit"];
        head.extend(statistics.iter().map(String::as_str));
        head.extend(&labels);
        head.push("Description");
        head.extend((kind == FamilyKind::Histogram).then_some("buckets"));
        writer.write_record(head)?;
        for row in rows {
            let family = &families[row.family];
            let mut fields = vec![row.endpoint.clone(), kind.name().to_owned(), family.name.clone()];
            fields.push(unit(&family.name, &family.help).unwrap_or_default().to_owned());
            fields.extend(row.figures.fields());
            let label = |name: &&str| row.labels.iter().find(|(own, _)| own == name);
            fields.extend(
                labels.iter().map(|name| label(name).map_or_else(String::new, |(_, value)| value.clone())),
            );
            fields.push(family.help.clone());
            if let Figures::Histogram(observed) = &row.figures {
                let buckets =
                    observed.buckets.iter().map(|(bound, count)| format!("{bound}={:.0}", count.round()));
                fields.push(buckets.collect::<Vec<_>>().join(";"));
            }
            writer.write_record(fields)?;
        }
        Ok(())
    })
}

/// A row for each label of series that only have labels to say.
fn info_block(families: &[FamilyFigures], rows: &[&CsvRow]) -> String {
    block(|writer| {
        writer.write_record(["Endpoint", "Metric", "Key", "Value", "Description"])?;
        for row in rows {
            let family = &families[row.family];
            for (label, value) in &row.labels {
                writer.write_record([&row.endpoint, &family.name, label, value, &family.help])?;
            }
        }
        Ok(())
    })
}

// === impl Figures ===

impl Figures {
    /// The names of the statistics, in the order of the CSV.
    fn named(&self) -> Vec<String> {
        match self {
            Self::Gauge(gauge) => gauge.statistics().map(|(name, _)| name).collect(),
            Self::Counter(_) => COUNTER_STATISTICS.map(ToOwned::to_owned).to_vec(),
            Self::Histogram(observed) => observed.statistics().map(|(name, _)| name).collect(),
        }
    }

    /// Their values as the CSV writes them.
    fn fields(&self) -> Vec<String> {
        let number = |value: Option<f64>| value.map_or_else(String::new, |value| format!("{value:.4}"));
        match self {
            Self::Gauge(gauge) => gauge.statistics().map(|(_, value)| number(Some(value))).collect(),
            Self::Counter(growth) => growth.statistics().map(number).to_vec(),
            Self::Histogram(observed) => {
                let field = |(name, value): (String, Option<f64>)| match (name.as_str(), value) {
                    ("count", Some(count)) => format!("{:.0}", count.round()),
                    (_, value) => number(value),
                };
                observed.statistics().map(field).collect()
            }
        }
    }
}
