//! Charts as SVG, drawn for pages of [`html`](crate::html): no script, colours from the page's style sheet.
//!
//! What the reader needs is in the picture: every bar carries its value, every axis its unit. Colours are those of
//! Okabe and Ito, which people with any of the common colour blindnesses tell apart; the fifth and later lines
//! are dashed as well. Text widths are estimated generously, because no font is at hand to measure with.
//!
//! Caps: [`MAX_SERIES`] lines or bars a group, [`MAX_ROWS`] groups or rows, [`MAX_POINTS`] points a line (longer
//! ones are averaged). What is left out is said under the chart.

mod bars;
mod curve;
mod frame;
mod heat;
mod lines;
mod scale;

pub use bars::BarChart;
pub use curve::{CurveChart, curve_file};
pub use heat::HeatChart;
pub use lines::LineChart;
use scale::Scale;

/// Lines in a chart, or bars in a group.
pub const MAX_SERIES: usize = 8;
/// Groups of bars, or rows of a heat map.
pub const MAX_ROWS: usize = 64;
/// Points of a line, or columns of a heat map.
pub const MAX_POINTS: usize = 240;

/// Width of a chart that stands beside another, and of one that stands alone, in the units of its view box.
const HALF: f64 = 520.0;
const WIDE: f64 = 1064.0;
/// Font size of labels, and the width of a letter that is taken for granted.
const FONT: f64 = 12.0;
const LETTER: f64 = 7.0;

/// A finished chart.
#[derive(Clone, Debug)]
pub(crate) struct Drawing {
    pub(crate) title: String,
    pub(crate) unit: String,
    pub(crate) note: String,
    /// Style class and text of each entry.
    pub(crate) legend: Vec<(String, String)>,
    pub(crate) wide: bool,
    pub(crate) svg: String,
}

/// A chart that a page can show.
pub(crate) trait Draw {
    fn draw(&self) -> Drawing;
}

/// Opens an `svg` element that says in words what it shows.
fn svg(width: f64, height: f64, title: &str, body: &str) -> String {
    let title = escape(title);
    format!("<svg viewBox=\"0 0 {width:.0} {height:.0}\" role=\"img\" aria-label=\"{title}\">{body}</svg>\n")
}

fn text(x: f64, y: f64, class: &str, content: &str) -> String {
    format!("<text x=\"{x:.1}\" y=\"{y:.1}\" class=\"{class}\">{}</text>", escape(content))
}

fn width_of(label: &str) -> f64 {
    label.chars().count() as f64 * LETTER
}

/// `label`, cut to `letters` with an ellipsis.
fn shortened(label: &str, letters: usize) -> String {
    if label.chars().count() <= letters {
        return label.to_owned();
    }
    label.chars().take(letters.saturating_sub(1)).chain(['\u{2026}']).collect()
}

/// A time axis from zero to `span` along `length` units, with as many ticks as have room for their labels.
fn time_axis(span: f64, label: &str, left: f64, length: f64, y: f64) -> (Scale, String) {
    let fits = |scale: &Scale| {
        let ticks = scale.ticks();
        let end = |(place, label): &(f64, String)| place * length + width_of(label) / 2.0;
        let start = |tick: &(f64, String)| end(tick) - width_of(&tick.1);
        ticks.windows(2).all(|pair| end(&pair[0]) + 12.0 <= start(&pair[1]))
            && ticks.last().is_none_or(|tick| end(tick) <= length + 14.0)
    };
    let most = (length / 90.0).floor().max(1.0) as u32;
    let scales = (1..=most).rev().map(|ticks| Scale::exact(span, f64::from(ticks)));
    let scale = scales.clone().find(fits).unwrap_or_else(|| Scale::exact(span, 0.5));
    let mut body = format!("<path d=\"M{left:.1} {y:.1}h{length:.1}\" class=\"axis\"/>");
    for (place, label) in scale.ticks() {
        let x = left + place * length;
        body += &format!("<path d=\"M{x:.1} {y:.1}v4\" class=\"axis\"/>");
        body += &text(x, y + 18.0, "tick middle", &label);
    }
    body += &text(left + length, y + 35.0, "tick end", label);
    (scale, body)
}

/// How many of `count` things are not shown, in words.
fn left_out(count: usize, cap: usize, what: &str) -> String {
    count
        .checked_sub(cap)
        .filter(|&more| more > 0)
        .map_or_else(String::new, |more| format!("{more} more {what}."))
}

/// Text made safe for HTML and SVG, in elements and in quoted attributes.
pub(crate) fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '&' => escaped += "&amp;",
            '<' => escaped += "&lt;",
            '>' => escaped += "&gt;",
            '"' => escaped += "&quot;",
            '\'' => escaped += "&#39;",
            control if control.is_control() && control != '\n' => escaped.push('\u{fffd}'),
            other => escaped.push(other),
        }
    }
    escaped
}

/// Averages runs of neighbours until at most `cap` values are left; a run without a value stays without.
fn thinned(values: &[Option<f64>], cap: usize) -> Vec<Option<f64>> {
    let run = values.len().div_ceil(cap.max(1)).max(1);
    values
        .chunks(run)
        .map(|chunk| {
            let known: Vec<f64> = chunk.iter().flatten().copied().filter(|value| value.is_finite()).collect();
            (!known.is_empty()).then(|| known.iter().sum::<f64>() / known.len() as f64)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The boxes that the texts of a drawing take up, by its own estimate of a letter's width.
    fn boxes(svg: &str) -> Vec<(f64, f64, f64, f64, String)> {
        let attribute = |element: &str, name: &str| -> String {
            let rest = element.split(&format!("{name}=\"")).nth(1).expect("the attribute is there");
            rest.split('"').next().expect("it ends").to_owned()
        };
        svg.split("<text ")
            .skip(1)
            .map(|element| {
                let content =
                    element.split('>').nth(1).expect("it has text").trim_end_matches("</text").to_owned();
                let letters = content.replace("&amp;", "&").replace("&lt;", "<").chars().count();
                let (x, y): (f64, f64) =
                    (attribute(element, "x").parse().unwrap(), attribute(element, "y").parse().unwrap());
                let width = letters as f64 * LETTER;
                let class = attribute(element, "class");
                let left = if class.contains("end") {
                    x - width
                } else if class.contains("middle") {
                    x - width / 2.0
                } else {
                    x
                };
                (left, left + width, y - FONT * 0.8, y + FONT * 0.2, content)
            })
            .collect()
    }

    fn assert_legible(drawing: &Drawing) {
        let width = if drawing.wide { WIDE } else { HALF };
        let boxes = boxes(&drawing.svg);
        for (index, a) in boxes.iter().enumerate() {
            assert!(a.0 >= -20.0 && a.1 <= width + 20.0, "{:?} leaves the picture: {a:?}", drawing.title);
            for b in &boxes[index + 1..] {
                let apart = a.1 <= b.0 || b.1 <= a.0 || a.3 <= b.2 || b.3 <= a.2;
                assert!(apart, "{a:?} lies on {b:?} in {:?}", drawing.title);
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn no_label_lies_on_another(
            groups in prop::collection::vec(("[a-z&<]{0,40}", prop::collection::vec(prop::option::of(0.0_f64..1e9), 0..5)), 0..70),
            lines in prop::collection::vec(prop::collection::vec(prop::option::of(-7_i32..10), 0..600), 0..10),
            step in 1e-4_f64..1e4,
            wide in any::<bool>(),
        ) {
            let mut bars = BarChart::new("bars", "ms");
            for (label, values) in &groups {
                bars = bars.group(label.clone(), values.clone());
            }
            assert_legible(&bars.draw());
            for logarithmic in [false, true] {
                let mut chart = LineChart::new("lines", "s", "seconds since the start");
                for (index, powers) in lines.iter().enumerate() {
                    let values: Vec<_> = powers.iter().map(|power| power.map(|power| 10_f64.powi(power))).collect();
                    chart = chart.line(index.to_string(), step, values);
                }
                chart = if logarithmic { chart.logarithmic() } else { chart };
                assert_legible(&if wide { chart.wide() } else { chart }.draw());
            }
            let mut heat = HeatChart::new("heat", "requests", "seconds", step);
            for (index, (label, _)) in groups.iter().enumerate() {
                heat = heat.row(label.clone(), lines.get(index).into_iter().flatten().map(|v| f64::from(v.unwrap_or(0))));
            }
            assert_legible(&heat.draw());
        }
    }

    #[test]
    fn bars_are_as_long_as_their_values() {
        let drawing =
            BarChart::new("t", "").group("a", [Some(100.0), Some(50.0)]).group("b", [None, Some(0.0)]).draw();
        let lengths: Vec<f64> = drawing
            .svg
            .split(" width=\"")
            .skip(1)
            .map(|rest| rest.split('"').next().unwrap().parse().unwrap())
            .collect();
        assert_eq!(lengths.len(), 3, "an unknown value has no bar");
        assert!((lengths[0] / lengths[1] - 2.0).abs() < 0.01 && lengths[2] < 2.0, "{lengths:?}");
        assert!(
            drawing.svg.contains(">100<") && drawing.svg.contains(">50.0<") && drawing.svg.contains(">0<")
        );
    }

    #[test]
    fn a_gap_in_a_line_stays_a_gap() {
        let values = [Some(1.0), Some(2.0), None, Some(3.0), None, Some(1.0), Some(1.0)];
        let svg = LineChart::new("t", "", "").line("a", 1.0, values).draw().svg;
        let path = svg.split("<path d=\"").find(|path| path.contains("line l0")).unwrap();
        let path = path.split('"').next().unwrap();
        assert_eq!(
            (path.matches('M').count(), path.matches('L').count(), path.matches("h0").count()),
            (3, 2, 1)
        );
    }

    #[test]
    fn what_is_beyond_the_caps_is_said() {
        let many =
            (0..100).fold(BarChart::new("t", ""), |chart, index| chart.group(index.to_string(), [Some(1.0)]));
        assert_eq!(many.draw().note, "36 more groups are not shown.");
        let lines = (0..9).fold(LineChart::new("t", "", ""), |chart, index| {
            chart.line(index.to_string(), 1.0, vec![Some(1.0); 10_000])
        });
        let drawing = lines.draw();
        assert_eq!(drawing.note, "1 more lines are not shown.");
        assert!(drawing.svg.len() < 40_000, "{}", drawing.svg.len());
        assert_eq!(drawing.legend.len(), MAX_SERIES);
    }
}
