//! How well a profile fits: its figures beside the measured ones.

use serde::Serialize;

use super::{evidence::MeasuredRequest, replayed::Times};

/// One figure.
#[derive(Clone, Copy, Debug)]
pub(super) struct Figure {
    pub(super) name: &'static str,
    pub(super) measured: f64,
    pub(super) model: f64,
}

/// A figure, by the model and as it was measured.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Compared {
    /// Which one, with its unit.
    pub figure: &'static str,
    /// As it was measured; the mean over the rows of a table.
    pub measured: f64,
    /// By the model.
    pub model: f64,
    /// The mean of the absolute differences, as shares of what was measured. Of a log there is one difference.
    pub error: f64,
}

/// Model against measurement.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Judgement {
    /// Requests of a log, or rows of a table.
    pub requests: usize,
    /// The figures.
    pub figures: Vec<Compared>,
    /// Half of the requests are off by less, in time to first token, as a share; of a log.
    pub median_ttft_error: Option<f64>,
    /// The same for the time to the last token.
    pub median_e2e_error: Option<f64>,
    squared: f64,
}

/// Collects requests of a log.
#[derive(Debug, Default)]
pub(super) struct Figures {
    requests: usize,
    with_ttft: usize,
    with_tpot: usize,
    /// Sums, measured and by the model.
    ttft: [f64; 2],
    tpot: [f64; 2],
    e2e: [f64; 2],
    first_s: Option<f64>,
    last: [f64; 2],
    ttft_errors: Vec<f64>,
    e2e_errors: Vec<f64>,
}

impl Figures {
    pub(super) fn add(&mut self, request: &MeasuredRequest, times: Times) {
        let e2e = [request.e2e_s, times.last_s - times.submitted_s];
        self.requests += 1;
        add(&mut self.e2e, e2e);
        self.e2e_errors.push((e2e[1] / e2e[0] - 1.0).abs());
        self.first_s = Some(self.first_s.map_or(request.at_s, |first| first.min(request.at_s)));
        self.last = [self.last[0].max(request.at_s + request.e2e_s), self.last[1].max(times.last_s)];
        let Some(measured) = request.ttft_s else { return };
        let ttft = [measured, times.first_s - times.submitted_s];
        self.with_ttft += 1;
        add(&mut self.ttft, ttft);
        self.ttft_errors.push((ttft[1] / ttft[0] - 1.0).abs());
        if request.output_tokens > 1 {
            let between = f64::from(request.output_tokens - 1);
            self.with_tpot += 1;
            add(&mut self.tpot, [(e2e[0] - ttft[0]) / between, (e2e[1] - ttft[1]) / between]);
        }
    }

    pub(super) fn judgement(mut self) -> Judgement {
        let first = self.first_s.unwrap_or_default();
        let figures = [
            ("duration s", self.last.map(|last| last - first), 1),
            ("mean TTFT ms", self.ttft.map(|sum| sum * 1e3), self.with_ttft),
            ("mean TPOT ms", self.tpot.map(|sum| sum * 1e3), self.with_tpot),
            ("mean E2E ms", self.e2e.map(|sum| sum * 1e3), self.requests),
        ];
        let figures = figures.into_iter().filter(|(_, _, count)| *count > 0 && self.requests > 0);
        let rows: Vec<Vec<Figure>> = figures
            .map(|(name, [measured, model], count)| {
                vec![Figure { name, measured: measured / count as f64, model: model / count as f64 }]
            })
            .collect();
        Judgement {
            requests: self.requests,
            median_ttft_error: median(&mut self.ttft_errors),
            median_e2e_error: median(&mut self.e2e_errors),
            ..Judgement::of_rows(&rows)
        }
    }
}

impl Judgement {
    /// Of the rows of a table.
    pub(super) fn of_rows(rows: &[Vec<Figure>]) -> Self {
        let mut names: Vec<&'static str> = Vec::new();
        let all: Vec<Figure> = rows.iter().flatten().copied().collect();
        for figure in &all {
            if !names.contains(&figure.name) {
                names.push(figure.name);
            }
        }
        let compared = |name: &'static str| {
            let same: Vec<&Figure> = all.iter().filter(|figure| figure.name == name).collect();
            let mean = |value: &dyn Fn(&Figure) -> f64| {
                same.iter().map(|figure| value(figure)).sum::<f64>() / same.len() as f64
            };
            Compared {
                figure: name,
                measured: mean(&|figure| figure.measured),
                model: mean(&|figure| figure.model),
                error: mean(&|figure| (figure.model / figure.measured - 1.0).abs()),
            }
        };
        let squared = all.iter().map(|figure| (figure.model / figure.measured).ln().powi(2)).sum::<f64>();
        Self {
            requests: rows.len(),
            figures: names.into_iter().map(compared).collect(),
            squared: squared / all.len().max(1) as f64,
            ..Self::default()
        }
    }

    /// Mean squared logarithm of model over measurement.
    pub(super) fn mean_squared(&self) -> f64 {
        self.squared
    }

    /// The largest error of a figure; one that is no number is larger than any.
    pub fn worst(&self) -> f64 {
        let errors = self.figures.iter().map(|compared| compared.error);
        errors.map(|error| if error.is_nan() { f64::INFINITY } else { error }).fold(0.0, f64::max)
    }
}

fn add(sums: &mut [f64; 2], values: [f64; 2]) {
    sums.iter_mut().zip(values).for_each(|(sum, value)| *sum += value);
}

fn median(errors: &mut [f64]) -> Option<f64> {
    errors.sort_by(f64::total_cmp);
    errors.get(errors.len() / 2).copied()
}
