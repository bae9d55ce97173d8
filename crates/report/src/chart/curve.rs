//! Points joined by lines: one quantity against another.

use super::{
    Draw, Drawing, FONT, HALF, LETTER, MAX_SERIES,
    frame::{Frame, HEIGHT},
    left_out,
    scale::Scale,
    shortened, svg, text,
};

/// Height of a row of text in a file, and the space around everything.
const ROW: f64 = 20.0;
const MARGIN: f64 = 16.0;
/// Letters of a line's name that have room in a row.
const NAME_LETTERS: usize = ((HALF - 34.0) / LETTER) as usize;

/// A chart of points, each line in the order of its first coordinate. Both axes begin at zero.
#[derive(Clone, Debug, Default)]
pub struct CurveChart {
    title: String,
    unit: String,
    x_label: String,
    lines: Vec<Line>,
}

/// A name and points.
type Line = (String, Vec<(f64, f64)>);

impl CurveChart {
    /// An empty chart; `unit` is that of the second coordinate and stands beside the title.
    pub fn new(title: impl Into<String>, unit: impl Into<String>, x_label: impl Into<String>) -> Self {
        Self { title: title.into(), unit: unit.into(), x_label: x_label.into(), lines: Vec::new() }
    }

    /// Adds a line; points that are not finite, or negative, are left out. Without a point the line is nowhere to be
    /// seen, and the next one still has a colour of its own.
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

    /// Lines with points, with their colours; those beyond the cap are left out.
    fn shown(&self) -> impl Iterator<Item = (usize, &Line)> {
        let coloured = self.lines.iter().enumerate().map(|(place, line)| (place % MAX_SERIES, line));
        coloured.filter(|(_, (_, points))| !points.is_empty()).take(MAX_SERIES)
    }
}

/// Charts under each other as a file of its own, each with its title, a row for each line, and what is left out. The
/// colours are those of pages by day.
pub fn curve_file(charts: &[CurveChart]) -> String {
    let (mut body, mut y) = (String::new(), 0.0);
    for chart in charts {
        let drawing = chart.draw();
        let unit = if chart.unit.is_empty() { String::new() } else { format!(" ({})", chart.unit) };
        y += ROW;
        body += &text(0.0, y, "title", &format!("{}{unit}", chart.title));
        for (index, (name, _)) in chart.shown().filter(|(_, (name, _))| !name.is_empty()) {
            y += ROW;
            body += &format!("<path d=\"M2 {:.1}h24\" class=\"line l{index}\"/>", y - FONT * 0.36);
            body += &text(34.0, y, "key", &shortened(name, NAME_LETTERS));
        }
        y += ROW / 2.0;
        body += &format!("<g transform=\"translate(0 {y:.1})\">{}</g>", inner(&drawing.svg));
        y += HEIGHT;
        if !drawing.note.is_empty() {
            y += ROW;
            body += &text(0.0, y, "note", &drawing.note);
        }
        y += ROW;
    }
    let (width, height) = (HALF + 2.0 * MARGIN, y + 2.0 * MARGIN);
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"-{MARGIN:.0} -{MARGIN:.0} {width:.0} {height:.0}\">\
         <style>text {{ font-family: system-ui, sans-serif; }}\n{}.title {{ font-weight: 600; }}</style>\
         <rect x=\"-{MARGIN:.0}\" y=\"-{MARGIN:.0}\" width=\"{width:.0}\" height=\"{height:.0}\" fill=\"#ffffff\"/>\
         {body}</svg>\n",
        by_day(include_str!("chart.css"))
    )
}

/// What is between the tags of an `svg` element.
fn inner(svg: &str) -> &str {
    let body = svg.trim_end().trim_end_matches("</svg>");
    body.split_once('>').map_or("", |(_, body)| body)
}

/// A style sheet with the palette's colours in their places: not every viewer of SVG knows variables.
fn by_day(style: &str) -> String {
    let day = include_str!("../palette.css").split('}').next().unwrap_or_default();
    let colours = day.split(['{', ';']).filter_map(|rule| rule.split_once(':'));
    colours.fold(style.to_owned(), |style, (name, colour)| {
        style.replace(&format!("var({})", name.trim()), colour.trim())
    })
}

impl Draw for CurveChart {
    fn draw(&self) -> Drawing {
        let all = || self.lines.iter().flat_map(|(_, points)| points);
        let up = Scale::linear(all().map(|point| point.1).fold(0.0, f64::max), 4.0);
        let span = all().map(|point| point.0).fold(0.0, f64::max);
        let mut frame = Frame::new(HALF, up, span, &self.x_label);
        for (index, (_, points)) in self.shown() {
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
        let with_points = self.lines.iter().filter(|(_, points)| !points.is_empty()).count();
        Drawing {
            title: self.title.clone(),
            unit: self.unit.clone(),
            note: left_out(with_points, self.shown().count(), "lines are not shown"),
            legend: self.shown().map(|(index, (name, _))| (format!("f{index}"), name.clone())).collect(),
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
        assert!(CurveChart::new("", "", "").line("a", []).is_empty());
    }

    #[test]
    fn a_line_without_points_has_no_entry_and_the_others_keep_their_colours() {
        let chart = CurveChart::new("T", "ms", "rate").line("none", []).line("some", [(1.0, 2.0)]);
        assert_eq!(chart.draw().legend, [("f1".to_owned(), "some".to_owned())]);
        assert!(chart.draw().svg.contains("line l1") && !chart.draw().svg.contains("line l0"));
        let empty = (0..MAX_SERIES).fold(CurveChart::default(), |chart, _| chart.line("none", []));
        let drawing = empty.line("late", [(1.0, 2.0)]).draw();
        assert_eq!((drawing.legend[0].1.as_str(), drawing.note.as_str()), ("late", ""));
        assert!(drawing.svg.contains("line l0"), "there are no other colours");
    }

    #[test]
    fn a_file_has_a_key_for_each_line_and_says_what_is_left_out() {
        let many = (0..MAX_SERIES + 2).fold(CurveChart::new("First", "ms", "rate"), |chart, run| {
            chart.line(format!("run {run}"), [(1.0, 2.0)])
        });
        let long = CurveChart::new("Second", "", "rate").line("x".repeat(200), [(1.0, 2.0)]);
        let file = curve_file(&[many, long]);
        assert!(file.starts_with("<svg xmlns") && file.trim_end().ends_with("</svg>"));
        assert_eq!(
            (file.matches("<svg").count(), file.matches("class=\"key\"").count()),
            (1, MAX_SERIES + 1)
        );
        for part in [">First (ms)<", ">Second<", ">run 7<", "2 more lines are not shown.", "line l7"] {
            assert!(file.contains(part), "{part}");
        }
        assert!(!file.contains("var(") && file.contains(".l0 { stroke: #0072b2; }"), "{file}");
        let longest = file
            .split("<text")
            .filter_map(|text| Some(text.split_once('>')?.1.split('<').next()?.len()))
            .max();
        assert!(longest.is_some_and(|letters| letters as f64 * LETTER < HALF), "{longest:?}");
    }
}
