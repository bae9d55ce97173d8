//! The frame of charts that draw lines: both axes with their labels, and where a point lies between them.

use super::{FONT, scale::Scale, text, time_axis, width_of};

pub(super) const HEIGHT: f64 = 260.0;
const TOP: f64 = 10.0;
const BOTTOM: f64 = 40.0;

/// Axes that are drawn already.
pub(super) struct Frame {
    up: Scale,
    along: Scale,
    left: f64,
    length: f64,
    /// The grid and the axes, to draw on.
    pub(super) body: String,
}

impl Frame {
    /// A frame of this width; the first coordinate goes from 0 to `span`.
    pub(super) fn new(width: f64, up: Scale, span: f64, x_label: &str) -> Self {
        let left = up.ticks().iter().map(|(_, label)| width_of(label)).fold(0.0, f64::max) + 8.0;
        let length = width - left - 14.0;
        let mut body = String::new();
        for (place, label) in up.ticks() {
            let y = height(place);
            body += &format!("<path d=\"M{left:.1} {y:.1}h{length:.1}\" class=\"grid\"/>");
            body += &text(left - 8.0, y + FONT * 0.36, "tick end", &label);
        }
        let (along, axis) = time_axis(span, x_label, left, length, height(0.0));
        body += &axis;
        Self { up, along, left, length, body }
    }

    /// Where a value of the first coordinate lies.
    pub(super) fn x(&self, value: f64) -> f64 {
        self.left + self.along.place(value) * self.length
    }

    /// Where a value of the second coordinate lies.
    pub(super) fn y(&self, value: f64) -> f64 {
        height(self.up.place(value))
    }
}

/// Where a place on the second axis lies, which goes from 0 at its foot to 1.
fn height(place: f64) -> f64 {
    TOP + (1.0 - place) * (HEIGHT - TOP - BOTTOM)
}
