//! Points joined by lines: one quantity against another.

use super::{
    Draw, Drawing, HALF, MAX_SERIES,
    frame::{Frame, HEIGHT},
    left_out,
    scale::Scale,
    svg, text,
};

/// A chart of points, each line in the order of its first coordinate. Both axes begin at zero.
#[derive(Clone, Debug, Default)]
pub struct CurveChart {
    title: String,
    unit: String,
    x_label: String,
    lines: Vec<(String, Vec<(f64, f64)>)>,
}

impl CurveChart {
    /// An empty chart; `unit` is that of the second coordinate and stands beside the title.
    pub fn new(title: impl Into<String>, unit: impl Into<String>, x_label: impl Into<String>) -> Self {
        Self { title: title.into(), unit: unit.into(), x_label: x_label.into(), lines: Vec::new() }
    }

    /// Adds a line; points that are not finite, or negative, are left out.
    #[must_use]
    pub fn line(mut self, name: impl Into<String>, points: impl IntoIterator<Item = (f64, f64)>) -> Self {
        let sound = |(x, y): &(f64, f64)| x.is_finite() && y.is_finite() && *x >= 0.0 && *y >= 0.0;
        let mut points: Vec<(f64, f64)> = points.into_iter().filter(sound).collect();
        points.sort_by(|one, other| one.0.total_cmp(&other.0));
        self.lines.push((name.into(), points));
        self
    }

    /// Whether there is nothing to see.
    pub fn is_empty(&self) -> bool {
        self.lines.iter().all(|(_, points)| points.is_empty())
    }

    /// The chart as a file of its own.
    pub fn file(&self) -> String {
        let drawing = self.draw();
        let style = include_str!("curve.css");
        let legend: Vec<&str> = drawing.legend.iter().map(|(_, name)| name.as_str()).collect();
        let caption = format!(
            "{} ({}){}{}",
            self.title,
            self.unit,
            if legend.is_empty() { "" } else { ": " },
            legend.join(", ")
        );
        let head = text(HALF / 2.0, -14.0, "title middle", &caption);
        let opened = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 -34 {HALF:.0} {:.0}\"><style>{style}</style>{head}",
            HEIGHT + 34.0
        );
        let body = drawing.svg.trim_end().trim_end_matches("</svg>");
        let body = body.split_once('>').map_or("", |(_, body)| body);
        format!("{opened}{body}</svg>\n")
    }
}

impl Draw for CurveChart {
    fn draw(&self) -> Drawing {
        let all = || self.lines.iter().flat_map(|(_, points)| points);
        let up = Scale::linear(all().map(|point| point.1).fold(0.0, f64::max), 4.0);
        let span = all().map(|point| point.0).fold(0.0, f64::max);
        let mut frame = Frame::new(HALF, up, span, &self.x_label);
        for (index, (_, points)) in self.lines.iter().take(MAX_SERIES).enumerate() {
            let at = |(x, value): &(f64, f64)| (frame.x(*x), frame.y(*value));
            let mut path = String::new();
            for (place, point) in points.iter().map(at).enumerate() {
                let pen = if place == 0 { 'M' } else { 'L' };
                path += &format!("{pen}{:.1} {:.1}", point.0, point.1);
            }
            // A dot is a line to itself with round caps.
            let dots: String = points.iter().map(at).map(|(x, y)| format!("M{x:.1} {y:.1}h0")).collect();
            frame.body += &format!("<path d=\"{path}\" class=\"line l{index}\"/>");
            frame.body += &format!("<path d=\"{dots}\" class=\"line l{index}\" style=\"stroke-width:7\"/>");
        }
        let legend = self.lines.iter().take(MAX_SERIES).enumerate();
        Drawing {
            title: self.title.clone(),
            unit: self.unit.clone(),
            note: left_out(self.lines.len(), MAX_SERIES, "lines are not shown"),
            legend: legend.map(|(index, (name, _))| (format!("f{index}"), name.clone())).collect(),
            wide: false,
            svg: svg(HALF, HEIGHT, &self.title, &frame.body),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn points_are_joined_in_the_order_of_their_first_coordinate() {
        let chart = CurveChart::new("T", "ms", "rate").line("a", [(10.0, 2.0), (5.0, 1.0), (f64::NAN, 1.0)]);
        let svg = chart.draw().svg;
        let path = svg.split("class=\"line l0\"").next().unwrap().rsplit("d=\"").next().unwrap();
        let xs: Vec<f64> = path.split(['M', 'L']).filter_map(|p| p.split(' ').next()?.parse().ok()).collect();
        assert_eq!(xs.len(), 2);
        assert!(xs[0] < xs[1]);
        let file = chart.file();
        assert!(
            file.starts_with("<svg xmlns")
                && file.matches("<svg").count() == 1
                && file.trim_end().ends_with("</svg>")
        );
        assert!(CurveChart::new("", "", "").line("a", []).is_empty());
    }
}
