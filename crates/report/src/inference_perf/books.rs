//! What is counted of the requests of a run: in all, by stage, by adapter, by session. Memory is bounded, but for
//! sessions of several requests.

use std::{collections::BTreeMap, sync::Arc};

use super::{Collector, SessionCollector, Settings};
use crate::{Record, Recorder, RunShape};

/// Everything that is counted of a run's requests.
#[derive(Debug)]
pub struct Books {
    pub(super) settings: Arc<Settings>,
    /// All requests.
    pub total: Collector,
    /// By the number of the stage.
    pub stages: Vec<Collector>,
    /// By name.
    pub adapters: BTreeMap<String, AdapterBooks>,
    /// Where sessions are reported.
    pub sessions: Option<SessionCollector>,
    /// For the verdict and the page.
    pub recorder: Recorder,
}

/// What is counted of an adapter's requests.
#[derive(Debug)]
pub struct AdapterBooks {
    /// All of them.
    pub total: Collector,
    /// By the number of the stage.
    pub stages: Vec<Collector>,
}

impl Books {
    /// Empty, for a run of this shape.
    pub fn new(settings: Settings, shape: &RunShape, adapters: &[String], has_sessions: bool) -> Self {
        let settings = Arc::new(settings);
        let collector = || Collector::new(Arc::clone(&settings));
        let stages = || shape.phases.iter().map(|_| collector()).collect();
        let adapter = |name: &String| (name.clone(), AdapterBooks { total: collector(), stages: stages() });
        Self {
            total: collector(),
            stages: stages(),
            adapters: adapters.iter().map(adapter).collect(),
            sessions: has_sessions.then(|| SessionCollector::new(Arc::clone(&settings))),
            recorder: Recorder::new(shape.clone(), Vec::new()),
            settings,
        }
    }

    /// Counts a request.
    pub fn push(&mut self, record: &Record) {
        let stage = usize::from(record.phase);
        self.total.push(record);
        if let Some(stage) = self.stages.get_mut(stage) {
            stage.push(record);
        }
        if let Some(adapter) = self.adapters.get_mut(&*record.model) {
            adapter.total.push(record);
            if let Some(stage) = adapter.stages.get_mut(stage) {
                stage.push(record);
            }
        }
        if let Some(sessions) = &mut self.sessions {
            sessions.push(record);
        }
        self.recorder.push(record);
    }

    /// What decides over the figures.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Whether a model is one of the adapters.
    pub fn is_adapter(&self, model: &str) -> bool {
        self.adapters.contains_key(model)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{PhaseShape, sample::request};

    #[test]
    fn a_request_is_counted_wherever_it_belongs() {
        let shape = RunShape { phases: vec![PhaseShape::default(); 2], targets: Vec::new() };
        let mut books = Books::new(Settings::default(), &shape, &["a".to_owned(), "b".to_owned()], true);
        for (number, model) in (0_u16..).zip(["a", "b", "a", "base"]) {
            let mut record = request(0, 10, 1, 2);
            (record.model, record.phase) = (model.into(), number % 2);
            books.push(&record);
        }
        let counts = |stages: &[Collector]| stages.iter().map(Collector::count).collect::<Vec<_>>();
        assert_eq!((books.total.count(), counts(&books.stages)), (4, vec![2, 2]));
        let adapter = |name: &str| (books.adapters[name].total.count(), counts(&books.adapters[name].stages));
        assert_eq!((adapter("a"), adapter("b")), ((2, vec![2, 0]), (1, vec![0, 1])));
        assert!(books.is_adapter("a") && !books.is_adapter("base"));
        assert_eq!(books.sessions.unwrap().entries().len(), 1, "all of session 0");
    }
}
