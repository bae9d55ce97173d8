//! The readings of one metrics page over time.
//!
//! A page is kept as a row of numbers, one column for each number of each series, so that a reading costs eight bytes
//! a number. When [`READINGS`] are kept, or their numbers fill the room, every second one is dropped and every second
//! further one is taken; those at the edges of what was watched stay.

use std::{collections::HashMap, time::Duration};

use protocol::{EngineMetrics, Family, FamilyKind, Reading, Series};

use crate::Distribution;

/// Readings kept of one page.
pub const READINGS: usize = 4096;
/// Numbers of a page that are kept; what a page has beyond them is left out, and said.
pub const COLUMNS: usize = 50_000;
/// Numbers kept of all readings of a page, unless told otherwise.
const ROOM: usize = 1 << 20;
/// The readings of one page. Times count from any moment of the caller's, and never fall.
#[derive(Clone, Debug)]
pub struct EngineSeries {
    room: usize,
    pub(crate) families: Vec<FamilyHead>,
    pub(crate) series: Vec<SeriesHead>,
    places: HashMap<(String, Vec<(String, String)>), usize>,
    columns: usize,
    pub(super) rows: Vec<Row>,
    /// Every so many readings one is taken; a power of two.
    stride_bits: u32,
    last: Vec<f64>,
    /// How often the page was read, and how often it had changed.
    pub fetches: Fetches,
    /// Readings that failed.
    pub failed: u64,
    /// What went wrong last.
    pub problem: Option<String>,
}

/// How a page was read.
#[derive(Clone, Debug, Default)]
pub struct Fetches {
    /// Readings.
    pub count: u64,
    /// Time of the first and of the last.
    pub span: Option<(Duration, Duration)>,
    /// From asking for the page to its last byte.
    pub latency: Distribution,
    /// Readings with other numbers than the one before.
    pub updates: u64,
    /// Time of the first and of the last of them.
    pub update_span: Option<(Duration, Duration)>,
    /// Times between them.
    pub update_gaps: Distribution,
}

/// A family, without its numbers.
#[derive(Clone, Debug)]
pub(crate) struct FamilyHead {
    pub(crate) name: String,
    pub(crate) kind: FamilyKind,
    pub(super) help: String,
}

/// A series, and where its numbers stand in a row: one, or sum, count and buckets.
#[derive(Clone, Debug)]
pub(crate) struct SeriesHead {
    pub(crate) family: usize,
    pub(crate) labels: Vec<(String, String)>,
    pub(crate) column: usize,
    pub(crate) bounds: Vec<String>,
}

/// One reading.
#[derive(Clone, Debug)]
pub(crate) struct Row {
    pub(crate) at: Duration,
    /// It stands at an edge of what was watched.
    pub(super) edge: bool,
    latency: Duration,
    pub(super) engine: EngineMetrics,
    values: Vec<f64>,
}

impl Default for EngineSeries {
    fn default() -> Self {
        Self::with_room(ROOM)
    }
}

// === impl EngineSeries ===

impl EngineSeries {
    /// Keeps at most so many numbers.
    pub fn with_room(room: usize) -> Self {
        Self {
            room,
            families: Vec::new(),
            series: Vec::new(),
            places: HashMap::new(),
            columns: 0,
            rows: Vec::new(),
            stride_bits: 0,
            last: Vec::new(),
            fetches: Fetches::default(),
            failed: 0,
            problem: None,
        }
    }

    /// Keeps a page that was asked for `latency` before `at`. Returns what an engine says on it; nothing if it holds
    /// no metrics at all.
    pub fn push(&mut self, at: Duration, latency: Duration, page: &[u8]) -> Option<EngineMetrics> {
        self.keep(at, latency, page, false)
    }

    /// Keeps a page from before or after what is watched; it stays, however many are kept.
    pub fn push_edge(&mut self, at: Duration, latency: Duration, page: &[u8]) -> Option<EngineMetrics> {
        self.keep(at, latency, page, true)
    }

    fn keep(&mut self, at: Duration, latency: Duration, page: &[u8], edge: bool) -> Option<EngineMetrics> {
        let families = protocol::families(page);
        if families.is_empty() {
            self.fail("no metrics are on it");
            return None;
        }
        let mut values = vec![f64::NAN; self.columns];
        for family in families {
            self.take(family, &mut values);
        }
        let changed = !same(&values, &self.last);
        self.fetches.note(at, latency, changed);
        let engine = EngineMetrics::read(page);
        if edge || (self.fetches.count - 1) & ((1 << self.stride_bits) - 1) == 0 {
            self.rows.push(Row { at, edge, latency, engine, values: values.clone() });
            self.thin_out();
        }
        self.last = values;
        Some(engine)
    }

    /// Notes a reading that failed.
    pub fn fail(&mut self, problem: impl Into<String>) {
        self.failed += 1;
        self.problem = Some(problem.into());
    }

    /// The readings kept: when, how long the page took, and what was on it.
    pub fn readings(&self) -> impl Iterator<Item = (Duration, Duration, Vec<Family>)> {
        self.rows.iter().map(|row| (row.at, row.latency, self.page(row)))
    }

    fn take(&mut self, family: Family, values: &mut Vec<f64>) {
        let Family { name, kind, help, series } = family;
        for Series { labels, reading } in series {
            let key = (name.clone(), labels);
            let place = match self.places.get(&key) {
                Some(place) => *place,
                None => match self.add(&key, kind, &help, &reading) {
                    Some(place) => place,
                    None => return,
                },
            };
            values.resize(self.columns, f64::NAN);
            let SeriesHead { column, bounds, .. } = &self.series[place];
            match reading {
                Reading::Number(value) => values[*column] = value,
                Reading::Histogram { sum, count, buckets } => {
                    (values[*column], values[column + 1]) = (sum, count);
                    for (place, (bound, value)) in buckets.into_iter().enumerate() {
                        // Bounds come in the same order every time, as a rule.
                        let same = bounds.get(place) == Some(&bound);
                        let place =
                            same.then_some(place).or_else(|| bounds.iter().position(|own| *own == bound));
                        if let Some(place) = place {
                            values[column + 2 + place] = value;
                        }
                    }
                }
            }
        }
    }

    /// Makes columns for a new series.
    fn add(
        &mut self,
        key: &(String, Vec<(String, String)>),
        kind: FamilyKind,
        help: &str,
        reading: &Reading,
    ) -> Option<usize> {
        let (width, bounds) = match reading {
            Reading::Number(_) => (1, Vec::new()),
            Reading::Histogram { buckets, .. } => {
                (2 + buckets.len(), buckets.iter().map(|(bound, _)| bound.clone()).collect())
            }
        };
        if self.columns + width > COLUMNS {
            self.problem = Some(format!("more than {COLUMNS} numbers are on it; the rest is left out"));
            return None;
        }
        let (name, labels) = key.clone();
        let family = self.families.iter().position(|family| family.name == name).unwrap_or_else(|| {
            self.families.push(FamilyHead { name, kind, help: help.to_owned() });
            self.families.len() - 1
        });
        self.series.push(SeriesHead { family, labels, column: self.columns, bounds });
        self.columns += width;
        self.places.insert(key.clone(), self.series.len() - 1);
        Some(self.series.len() - 1)
    }

    fn thin_out(&mut self) {
        let rows = self.rows.iter().filter(|row| !row.edge).count();
        if rows < READINGS && (rows * self.columns.max(1) <= self.room || rows < 4) {
            return;
        }
        let mut kept = false;
        self.rows.retain(|row| {
            kept ^= !row.edge;
            kept || row.edge
        });
        self.stride_bits += 1;
    }

    /// What was on the page.
    fn page(&self, row: &Row) -> Vec<Family> {
        let empty = |head: &FamilyHead| Family {
            name: head.name.clone(),
            kind: head.kind,
            help: head.help.clone(),
            series: Vec::new(),
        };
        let mut families: Vec<Family> = self.families.iter().map(empty).collect();
        for head in &self.series {
            let Some(first) = row.value(head.column) else { continue };
            let reading = match head.bounds.as_slice() {
                [] => Reading::Number(first),
                bounds => Reading::Histogram {
                    sum: first,
                    count: row.value(head.column + 1).unwrap_or_default(),
                    buckets: (bounds.iter().zip(head.column + 2..))
                        .filter_map(|(bound, column)| Some((bound.clone(), row.value(column)?)))
                        .collect(),
                },
            };
            families[head.family].series.push(Series { labels: head.labels.clone(), reading });
        }
        families.retain(|family| !family.series.is_empty());
        families
    }

    /// The readings at the edges of what was watched around a window: the last before it and the first after it. Where
    /// the reading after it failed, the last that was taken; nothing where that is no later one.
    pub(crate) fn edges(&self, start: Duration, end: Duration) -> Option<(&Row, &Row)> {
        let mut edges = self.rows.iter().filter(|row| row.edge);
        let before = edges.clone().rfind(|row| row.at <= start).or_else(|| edges.clone().next())?;
        let after = edges.find(|row| row.at >= end).or(self.rows.last())?;
        (before.at < after.at).then_some((before, after))
    }

    /// The times and values at which something is known.
    pub(crate) fn known(&self, value: impl Fn(&Row) -> Option<f64>) -> Vec<(Duration, f64)> {
        self.rows.iter().filter_map(|row| Some((row.at, value(row)?))).collect()
    }
}

// === impl Fetches ===

impl Fetches {
    fn note(&mut self, at: Duration, latency: Duration, changed: bool) {
        self.count += 1;
        self.latency.record_time(latency);
        self.span = Some((self.span.map_or(at, |span| span.0), at));
        if changed {
            self.updates += 1;
            if let Some((_, before)) = self.update_span {
                self.update_gaps.record_time(at.saturating_sub(before));
            }
            self.update_span = Some((self.update_span.map_or(at, |span| span.0), at));
        }
    }
}

// === impl Row ===

impl Row {
    pub(crate) fn value(&self, column: usize) -> Option<f64> {
        self.values.get(column).copied().filter(|value| value.is_finite())
    }
}

fn same(values: &[f64], before: &[f64]) -> bool {
    values.len() == before.len() && values.iter().zip(before).all(|(a, b)| a == b || a.is_nan() && b.is_nan())
}
