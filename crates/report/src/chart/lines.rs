//! Lines over time.

use super::{
    Draw, Drawing, FONT, HALF, MAX_POINTS, MAX_SERIES, WIDE, left_out, scale::Scale, svg, text, thinned,
    time_axis, width_of,
};

const HEIGHT: f64 = 260.0;
const TOP: f64 = 10.0;
const BOTTOM: f64 = 40.0;

/// A line chart: values at equal steps from zero.
#[derive(Clone, Debug, Default)]
pub struct LineChart {
    title: String,
    unit: String,
    x_label: String,
    note: String,
    lines: Vec<Line>,
    logarithmic: bool,
    wide: bool,
}

#[derive(Clone, Debug)]
struct Line {
    name: String,
    step: f64,
    values: Vec<Option<f64>>,
}

impl LineChart {
    /// An empty chart; `unit` is that of the values and stands beside the title.
    pub fn new(title: impl Into<String>, unit: impl Into<String>, x_label: impl Into<String>) -> Self {
        Self { title: title.into(), unit: unit.into(), x_label: x_label.into(), ..Self::default() }
    }

    /// Adds a line: one value for each interval of length `step`, drawn at its middle. Unknown values are gaps.
    #[must_use]
    pub fn line(
        mut self,
        name: impl Into<String>,
        step: f64,
        values: impl IntoIterator<Item = Option<f64>>,
    ) -> Self {
        self.lines.push(Line { name: name.into(), step, values: values.into_iter().collect() });
        self
    }

    /// Powers of ten upwards, for values that differ by orders of magnitude. Zeros are drawn at the lower edge.
    #[must_use]
    pub fn logarithmic(mut self) -> Self {
        self.logarithmic = true;
        self
    }

    /// A remark under the chart.
    #[must_use]
    pub fn note(mut self, note: impl Into<String>) -> Self {
        self.note = note.into();
        self
    }

    /// Takes the whole width of the page.
    #[must_use]
    pub fn wide(mut self) -> Self {
        self.wide = true;
        self
    }

    fn scale(&self) -> Scale {
        let values = || self.lines.iter().flat_map(|line| thinned(&line.values, MAX_POINTS)).flatten();
        let max = values().fold(0.0, f64::max);
        if self.logarithmic {
            Scale::logarithmic(values().filter(|value| *value > 0.0).fold(max, f64::min), max)
        } else {
            Scale::linear(max, 4.0)
        }
    }
}

impl Draw for LineChart {
    fn draw(&self) -> Drawing {
        let width = if self.wide { WIDE } else { HALF };
        let up = self.scale();
        let span = self.lines.iter().map(|line| line.step * line.values.len() as f64).fold(0.0, f64::max);
        let left = up.ticks().iter().map(|(_, label)| width_of(label)).fold(0.0, f64::max) + 8.0;
        let (length, depth) = (width - left - 14.0, HEIGHT - TOP - BOTTOM);
        let y = |place: f64| TOP + (1.0 - place) * depth;
        let mut body = String::new();
        for (place, label) in up.ticks() {
            let y = y(place);
            body += &format!("<path d=\"M{left:.1} {y:.1}h{length:.1}\" class=\"grid\"/>");
            body += &text(left - 8.0, y + FONT * 0.36, "tick end", &label);
        }
        let (along, axis) = time_axis(span, &self.x_label, left, length, y(0.0));
        body += &axis;
        for (index, line) in self.lines.iter().take(MAX_SERIES).enumerate() {
            let values = thinned(&line.values, MAX_POINTS);
            let step = line.step * line.values.len() as f64 / values.len().max(1) as f64;
            let (mut path, mut pen) = (String::new(), 'M');
            for (point, value) in values.iter().enumerate() {
                let Some(value) = value else {
                    pen = 'M';
                    continue;
                };
                let x = left + along.place((point as f64 + 0.5) * step) * length;
                path += &format!("{pen}{x:.1} {:.1}", y(up.place(*value)));
                // A point between two gaps still leaves a dot, by the round cap of a line to itself.
                let alone = pen == 'M' && values.get(point + 1).is_none_or(Option::is_none);
                path += if alone { "h0" } else { "" };
                pen = 'L';
            }
            body += &format!("<path d=\"{path}\" class=\"line l{index}\"/>");
        }
        let legend = self.lines.iter().take(MAX_SERIES).enumerate();
        let more = left_out(self.lines.len(), MAX_SERIES, "lines are not shown");
        Drawing {
            title: self.title.clone(),
            unit: self.unit.clone(),
            note: format!("{} {more}", self.note).trim().to_owned(),
            legend: legend.map(|(index, line)| (format!("f{index}"), line.name.clone())).collect(),
            wide: self.wide,
            svg: svg(width, HEIGHT, &self.title, &body),
        }
    }
}
