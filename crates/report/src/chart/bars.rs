//! Bars in groups, lying down, each with its value at its end: labels never meet.

use super::{
    Draw, Drawing, FONT, HALF, MAX_ROWS, MAX_SERIES, escape, left_out, scale::Scale, shortened, svg, text,
    width_of,
};
use crate::format::human;

const THICKNESS: f64 = 20.0;
const GAP: f64 = 3.0;
const GROUP_GAP: f64 = 16.0;
const LABEL_LETTERS: usize = 24;

/// A bar chart: groups, and in each group one bar a series.
#[derive(Clone, Debug, Default)]
pub struct BarChart {
    title: String,
    unit: String,
    series: Vec<String>,
    groups: Vec<(String, Vec<Option<f64>>)>,
    colour_by_group: bool,
}

impl BarChart {
    /// An empty chart; `unit` stands beside the title.
    pub fn new(title: impl Into<String>, unit: impl Into<String>) -> Self {
        Self { title: title.into(), unit: unit.into(), ..Self::default() }
    }

    /// Names the bars of each group, in their order. One unnamed series needs no legend.
    #[must_use]
    pub fn series<S: Into<String>>(mut self, names: impl IntoIterator<Item = S>) -> Self {
        self.series = names.into_iter().map(Into::into).collect();
        self
    }

    /// Adds a group; a value that is not known leaves its place empty.
    #[must_use]
    pub fn group(mut self, label: impl Into<String>, values: impl IntoIterator<Item = Option<f64>>) -> Self {
        self.groups.push((label.into(), values.into_iter().collect()));
        self
    }

    /// Gives each group a colour of its own; the first series is solid, the others are pale.
    #[must_use]
    pub fn colour_by_group(mut self) -> Self {
        self.colour_by_group = true;
        self
    }

    fn class(&self, group: usize, series: usize) -> String {
        match self.colour_by_group {
            true if series == 0 => format!("f{}", group % MAX_SERIES),
            true => format!("p{}", group % MAX_SERIES),
            false => format!("f{series}"),
        }
    }
}

impl Draw for BarChart {
    fn draw(&self) -> Drawing {
        let groups = &self.groups[..self.groups.len().min(MAX_ROWS)];
        let label = |name: &str| shortened(name, LABEL_LETTERS);
        let left = groups.iter().map(|(name, _)| width_of(&label(name))).fold(0.0, f64::max) + 10.0;
        let values =
            || groups.iter().flat_map(|(_, values)| values.iter().take(MAX_SERIES).flatten().copied());
        let right = values().map(|value| width_of(&human(value))).fold(0.0, f64::max) + 12.0;
        let length = (HALF - left - right).max(60.0);
        let scale = Scale::exact(values().fold(0.0, f64::max), 4.0);
        let (mut body, mut y) = (String::new(), 2.0);
        for (group, (name, values)) in groups.iter().enumerate() {
            let top = y;
            for (series, value) in values.iter().take(MAX_SERIES).enumerate() {
                if let Some(value) = value.filter(|value| value.is_finite()) {
                    let reach = (scale.place(value) * length).max(1.5);
                    let class = self.class(group, series);
                    body += &format!(
                        "<rect x=\"{left:.1}\" y=\"{y:.1}\" width=\"{reach:.1}\" height=\"{THICKNESS}\" rx=\"2\" \
                         class=\"{class}\"/>"
                    );
                    let middle = y + THICKNESS / 2.0 + FONT * 0.36;
                    body += &text(left + reach + 6.0, middle, "value", &human(value));
                }
                y += THICKNESS + GAP;
            }
            let middle = f64::midpoint(top, y - GAP) + FONT * 0.36;
            body += &format!("<g><title>{}</title>", escape(name));
            body += &text(left - 10.0, middle, "name end", &label(name));
            body += "</g>";
            y += GROUP_GAP;
        }
        let height = (y - GROUP_GAP + 2.0).max(THICKNESS);
        body += &format!("<path d=\"M{left:.1} 0V{height:.1}\" class=\"axis\"/>");
        let shades = |index: usize| if index == 0 { "f6".to_owned() } else { "p6".to_owned() };
        let legend = self.series.iter().take(MAX_SERIES).enumerate().map(|(index, name)| {
            (if self.colour_by_group { shades(index) } else { format!("f{index}") }, name.clone())
        });
        Drawing {
            title: self.title.clone(),
            unit: self.unit.clone(),
            note: left_out(self.groups.len(), MAX_ROWS, "groups are not shown"),
            legend: legend.collect(),
            wide: false,
            svg: svg(HALF, height, &self.title, &body),
        }
    }
}
