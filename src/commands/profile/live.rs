//! What is shown while a run goes on: a bar on a terminal, lines elsewhere.

use std::{
    io::IsTerminal,
    time::{Duration, Instant},
};

use indicatif::{ProgressBar, ProgressStyle};
use loadgen::{Control, Progress};
use report::PhaseShape;

use super::{Arguments, flags::Ui, plan::Made};

/// The state of a run, shown.
#[derive(Debug)]
pub(super) struct Live {
    display: Display,
    phases: Vec<Shown>,
    phase: usize,
    phase_began: Instant,
    /// Requests that had ended before the phase.
    before: u64,
}

#[derive(Debug)]
enum Display {
    Bar(ProgressBar),
    Lines { interval: Duration, next: Instant },
    Nothing,
}

/// A phase, as it is shown.
#[derive(Debug)]
struct Shown {
    label: &'static str,
    expected: Option<u64>,
    duration: Option<Duration>,
}

impl Live {
    pub(super) fn new(arguments: &Arguments, made: &Made) -> Self {
        let output = &arguments.output;
        let now = Instant::now();
        let display = match output.ui_type {
            Ui::None => Display::Nothing,
            Ui::Simple if std::io::stderr().is_terminal() => Display::Bar(ProgressBar::no_length()),
            Ui::Simple => {
                Display::Lines { interval: output.stats_interval, next: now + output.stats_interval }
            }
        };
        let label = |shape: &PhaseShape| if shape.measured { "Profiling" } else { "Warmup" };
        let bounds = made.expected.iter().zip(&made.durations);
        let phases = made.shapes.iter().zip(bounds).map(|(shape, (&expected, &duration))| Shown {
            label: label(shape),
            expected,
            duration,
        });
        let mut live =
            Self { display, phases: phases.collect(), phase: usize::MAX, phase_began: now, before: 0 };
        live.enter(0, 0);
        live
    }

    /// Shows the state. Returns the phase if it has changed.
    pub(super) fn look(&mut self, control: &Control) -> Option<usize> {
        let seen = control.progress();
        let ended = seen.sent.saturating_sub(seen.in_flight);
        let changed = (usize::from(seen.phase) != self.phase).then(|| {
            self.enter(seen.phase.into(), ended);
            self.phase
        });
        let line = self.line(&seen, ended.saturating_sub(self.before));
        match &mut self.display {
            Display::Bar(bar) => {
                bar.set_position(ended.saturating_sub(self.before));
                bar.set_message(line);
            }
            Display::Lines { interval, next } if Instant::now() >= *next => {
                *next += *interval;
                let label = self.phases.get(self.phase).map_or("Profiling", |phase| phase.label);
                tracing::info!("{label}: {line}");
            }
            Display::Lines { .. } | Display::Nothing => {}
        }
        changed
    }

    /// Ends the display.
    pub(super) fn finish(self) {
        if let Display::Bar(bar) = self.display {
            bar.abandon();
        }
    }

    fn enter(&mut self, phase: usize, ended: u64) {
        (self.phase, self.before, self.phase_began) = (phase, ended, Instant::now());
        let (Some(shown), Display::Bar(bar)) = (self.phases.get(phase), &self.display) else { return };
        let template = match shown.expected {
            Some(expected) => {
                bar.set_length(expected);
                "{prefix}: {pos}/{len} |{bar:24}| {percent}% [{elapsed_precise}<{eta_precise}] {msg}"
            }
            None => "{prefix}: {pos} [{elapsed_precise}] {msg}",
        };
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style.progress_chars("█▌ "));
        }
        bar.set_prefix(shown.label);
        bar.reset_elapsed();
    }

    fn line(&self, seen: &Progress, ended: u64) -> String {
        let Some(shown) = self.phases.get(self.phase) else { return String::new() };
        let elapsed = self.phase_began.elapsed();
        let bar = matches!(self.display, Display::Bar(_));
        let mut line = match (shown.expected, shown.duration) {
            _ if bar => String::new(),
            (Some(expected), _) => format!("{ended}/{expected} requests, "),
            (None, Some(duration)) => {
                format!("{ended} requests, {:.0} of {:.0} s, ", elapsed.as_secs_f64(), duration.as_secs_f64())
            }
            (None, None) => format!("{ended} requests, "),
        };
        if let (true, None, Some(duration)) = (bar, shown.expected, shown.duration) {
            line += &format!("of {:.0} s, ", duration.as_secs_f64());
        }
        line += &format!("{} in flight, {} failed", seen.in_flight, seen.failed);
        let late = seen.worst_lag.as_secs_f64() * 1e3;
        if late >= 1.0 {
            line += &format!(", up to {late:.0} ms late");
        }
        line
    }
}
