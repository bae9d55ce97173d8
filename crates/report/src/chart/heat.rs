//! A heat map: rows over time, the darker the more. Shows at a glance whether a fleet is evenly loaded.

use super::{
    Draw, Drawing, FONT, HALF, MAX_POINTS, MAX_ROWS, WIDE, escape, left_out, shortened, svg, text, thinned,
    time_axis, width_of,
};
use crate::format::thousands;

const BOTTOM: f64 = 40.0;
const LABEL_LETTERS: usize = 22;
/// Shades between nothing and the most.
const SHADES: f64 = 20.0;

/// A heat map with one row a replica.
#[derive(Clone, Debug, Default)]
pub struct HeatChart {
    title: String,
    unit: String,
    x_label: String,
    step: f64,
    rows: Vec<(String, Vec<f64>)>,
    most: Option<f64>,
    wide: bool,
}

impl HeatChart {
    /// An empty map whose columns are `step` apart.
    pub fn new(
        title: impl Into<String>,
        unit: impl Into<String>,
        x_label: impl Into<String>,
        step: f64,
    ) -> Self {
        Self { title: title.into(), unit: unit.into(), x_label: x_label.into(), step, ..Self::default() }
    }

    /// Adds a row.
    #[must_use]
    pub fn row(mut self, label: impl Into<String>, values: impl IntoIterator<Item = f64>) -> Self {
        self.rows.push((label.into(), values.into_iter().collect()));
        self
    }

    /// The value of the darkest shade, so that several maps can be compared; the largest value where not set.
    #[must_use]
    pub fn darkest(mut self, most: f64) -> Self {
        self.most = Some(most);
        self
    }

    /// Takes the whole width of the page.
    #[must_use]
    pub fn wide(mut self) -> Self {
        self.wide = true;
        self
    }
}

impl Draw for HeatChart {
    fn draw(&self) -> Drawing {
        let width = if self.wide { WIDE } else { HALF };
        let columns = if self.wide { MAX_POINTS } else { MAX_POINTS / 2 };
        let rows = &self.rows[..self.rows.len().min(MAX_ROWS)];
        let label = |name: &str| shortened(name, LABEL_LETTERS);
        let left = rows.iter().map(|(name, _)| width_of(&label(name))).fold(0.0, f64::max) + 8.0;
        let longest = rows.iter().map(|(_, values)| values.len()).max().unwrap_or(0);
        let run = longest.div_ceil(columns).max(1);
        let cell = (width - left - 2.0) / longest.div_ceil(run).max(1) as f64;
        let thick = if rows.len() > 24 { 14.0 } else { 18.0 };
        let largest = rows.iter().flat_map(|(_, values)| values).copied().fold(0.0, f64::max);
        let most = self.most.unwrap_or(largest).max(f64::MIN_POSITIVE);
        let mut body = String::new();
        for (index, (name, values)) in rows.iter().enumerate() {
            let y = index as f64 * thick;
            body += &format!("<g><title>{}</title>", escape(name));
            body += &text(left - 8.0, y + thick / 2.0 + FONT * 0.36, "tick end", &label(name));
            body += "</g>";
            let padded: Vec<Option<f64>> =
                values.iter().copied().map(Some).chain(std::iter::repeat(None)).take(longest).collect();
            let shade = |value: f64| (value / most * SHADES).ceil().clamp(0.0, SHADES) as u32;
            let shades: Vec<u32> = thinned(&padded, longest.div_ceil(run))
                .into_iter()
                .map(|value| value.map_or(0, shade))
                .collect();
            let mut column = 0;
            for same in shades.chunk_by(|a, b| a == b) {
                if same[0] > 0 {
                    let (x, wide) = (left + column as f64 * cell, same.len() as f64 * cell + 0.3);
                    body += &format!(
                        "<rect x=\"{x:.1}\" y=\"{:.1}\" width=\"{wide:.1}\" height=\"{:.1}\" class=\"heat\" \
                         fill-opacity=\"{:.2}\"/>",
                        y + 1.0,
                        thick - 2.0,
                        f64::from(same[0]) / SHADES,
                    );
                }
                column += same.len();
            }
        }
        let bottom = rows.len() as f64 * thick;
        let length = width - left - 2.0;
        let span = self.step * longest as f64;
        body += &time_axis(span, &self.x_label, left, length, bottom).1;
        Drawing {
            title: self.title.clone(),
            unit: self.unit.clone(),
            note: left_out(self.rows.len(), MAX_ROWS, "rows are not shown"),
            legend: vec![(
                "heat-scale".to_owned(),
                format!("0 to {}", thousands(most, usize::from(most.fract() != 0.0))),
            )],
            wide: self.wide,
            svg: svg(width, bottom + BOTTOM, &self.title, &body),
        }
    }
}
