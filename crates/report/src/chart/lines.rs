//! Lines over time.

use super::{
    Draw, Drawing, HALF, MAX_POINTS, MAX_SERIES, WIDE,
    frame::{Frame, HEIGHT},
    left_out,
    scale::Scale,
    svg, thinned,
};

/// A line chart: values at equal steps from zero.
#[derive(Clone, Debug, Default)]
pub struct LineChart {
    title: String,
    unit: String,
    x_label: String,
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
        let span = self.lines.iter().map(|line| line.step * line.values.len() as f64).fold(0.0, f64::max);
        let mut frame = Frame::new(width, self.scale(), span, &self.x_label);
        for (index, line) in self.lines.iter().take(MAX_SERIES).enumerate() {
            let values = thinned(&line.values, MAX_POINTS);
            let step = line.step * line.values.len() as f64 / values.len().max(1) as f64;
            let (mut path, mut pen) = (String::new(), 'M');
            for (point, value) in values.iter().enumerate() {
                let Some(value) = value else {
                    pen = 'M';
                    continue;
                };
                let x = frame.x((point as f64 + 0.5) * step);
                path += &format!("{pen}{x:.1} {:.1}", frame.y(*value));
                // A point between two gaps still leaves a dot, by the round cap of a line to itself.
                let alone = pen == 'M' && values.get(point + 1).is_none_or(Option::is_none);
                path += if alone { "h0" } else { "" };
                pen = 'L';
            }
            frame.body += &format!("<path d=\"{path}\" class=\"line l{index}\"/>");
        }
        let legend = self.lines.iter().take(MAX_SERIES).enumerate();
        Drawing {
            title: self.title.clone(),
            unit: self.unit.clone(),
            note: left_out(self.lines.len(), MAX_SERIES, "lines are not shown"),
            legend: legend.map(|(index, line)| (format!("f{index}"), line.name.clone())).collect(),
            wide: self.wide,
            svg: svg(width, HEIGHT, &self.title, &frame.body),
        }
    }
}
