//! What is sent to a simulated fleet, and when.

use std::{path::PathBuf, sync::Arc, time::Duration};

use protocol::Endpoint;
use rand::{SeedableRng, seq::SliceRandom};
use rand_chacha::ChaCha8Rng;
use workload::{
    Arrival, Arrivals, BlockSessions, Dataset, DatasetKind, MAX_PROMPT_TOKENS, Pattern, Phase, Rate,
    RequestTemplate, Sampling, Schedule, SeedPrompt, Synthetic, Turn, kubeai_seed, read_seed_prompts,
    seed_sessions,
};

use crate::Error;

/// What is sent.
#[derive(Clone, Debug)]
pub enum Traffic {
    /// The built-in workload of KubeAI's comparison, over and over.
    Kubeai,
    /// Every prompt of a file of counted prompts once, in an order shuffled by the seed.
    Prompts(PathBuf),
    /// The conversations of such a file, shuffled too: a turn is sent when the one before it has been answered.
    Sessions {
        /// The file.
        path: PathBuf,
        /// Tokens that every prompt starts with.
        preamble_tokens: u32,
    },
    /// A file of any kind that load generators take, in its order.
    File {
        /// The file.
        path: PathBuf,
        /// Its kind, where it is not told from its first row.
        kind: Option<DatasetKind>,
        /// Tokens in a block of the file's ids, where that is not the kind's usual number.
        block_tokens: Option<u32>,
    },
    /// What was read already.
    Dataset(Dataset),
    /// Made conversations, known by block ids.
    Conversations(BlockSessions),
    /// Made prompts of words.
    Words(Box<Synthetic>),
}

/// When sessions start.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Pace {
    /// As soon as there is room.
    AtOnce,
    /// At a rate.
    Rate {
        /// The law of the gaps.
        pattern: Pattern,
        /// Sessions a second.
        rate: f64,
    },
    /// At the file's own times, divided by this.
    OwnTimes {
        /// 2 is twice as fast.
        speed_up: f64,
    },
}

/// A workload in memory, or the means to make it.
#[derive(Clone, Debug)]
pub(crate) struct Source {
    what: What,
    template: RequestTemplate,
}

#[derive(Clone, Debug)]
enum What {
    Prompts { prompts: Arc<[SeedPrompt]>, shuffled: bool },
    Sessions(Arc<[Vec<Turn>]>),
    Dataset(Dataset),
    Conversations(BlockSessions),
    Words(Box<Synthetic>),
}

/// Sessions of made workloads, and requests of the built-in one, if nobody says how many.
const USUAL_SESSIONS: usize = crate::kubeai::REQUESTS;

impl Source {
    pub(crate) fn load(traffic: &Traffic) -> Result<Self, Error> {
        let template = RequestTemplate::new(Endpoint::Completions, "simulated");
        let what = match traffic {
            Traffic::Kubeai => What::Prompts { prompts: kubeai_seed().into(), shuffled: false },
            Traffic::Prompts(path) => {
                What::Prompts { prompts: read_seed_prompts(path)?.into(), shuffled: true }
            }
            Traffic::Sessions { path, preamble_tokens } => {
                let prompts = read_seed_prompts(path)?;
                What::Sessions(seed_sessions(&prompts, &template, *preamble_tokens).into())
            }
            Traffic::File { path, kind, block_tokens } => {
                let kind = kind.map_or_else(|| DatasetKind::detect(path), Ok)?;
                What::Dataset(Dataset::load(path, kind, &template, *block_tokens)?)
            }
            Traffic::Dataset(dataset) => What::Dataset(dataset.clone()),
            Traffic::Conversations(sessions) => What::Conversations(*sessions),
            Traffic::Words(synthetic) => What::Words(synthetic.clone()),
        };
        let turns: Box<dyn Iterator<Item = Option<u32>>> = match &what {
            What::Prompts { prompts, .. } => {
                Box::new(prompts.iter().map(|prompt| Some(prompt.output_tokens)))
            }
            What::Sessions(sessions) => {
                Box::new(sessions.iter().flatten().map(|turn| turn.request.output_tokens))
            }
            What::Dataset(dataset) => {
                let turns = dataset.entries.iter().flat_map(|entry| &entry.turns);
                Box::new(turns.map(|turn| turn.request.output_tokens))
            }
            What::Conversations(_) | What::Words(_) => Box::new(std::iter::empty()),
        };
        match turns.flatten().max() {
            Some(tokens) if tokens > MAX_PROMPT_TOKENS => Err(Error::Output { tokens }),
            _ => Ok(Self { what, template }),
        }
    }

    /// Whether a file brings times of its own.
    pub(crate) fn has_times(&self) -> bool {
        matches!(&self.what, What::Dataset(dataset) if dataset.has_times())
    }

    /// Sessions in the order in which they start: all that there are, or as many as are asked for.
    pub(crate) fn sessions(&self, count: Option<usize>, seed: u64) -> Result<Sessions, Error> {
        let shuffle = || ChaCha8Rng::seed_from_u64(seed);
        let many = count.unwrap_or(USUAL_SESSIONS);
        let template = self.template.clone();
        Ok(match &self.what {
            What::Prompts { prompts, shuffled } => {
                let mut order: Vec<usize> = (0..prompts.len()).collect();
                if *shuffled {
                    order.shuffle(&mut shuffle());
                }
                let many = if *shuffled { count.unwrap_or(order.len()) } else { many };
                let prompts = Arc::clone(prompts);
                let turn = move |place: usize| vec![Turn::from(prompts[place].request(&template))];
                Box::new(order.into_iter().cycle().take(many).map(turn))
            }
            What::Sessions(sessions) => {
                let mut order: Vec<usize> = (0..sessions.len()).collect();
                order.shuffle(&mut shuffle());
                let many = count.unwrap_or(order.len());
                let sessions = Arc::clone(sessions);
                Box::new(order.into_iter().cycle().take(many).map(move |place| sessions[place].clone()))
            }
            What::Dataset(dataset) => {
                let many = count.unwrap_or(dataset.entries.len());
                Box::new(dataset.clone().sample(Sampling::Sequential, seed).take(many))
            }
            What::Conversations(sessions) => Box::new(sessions.sessions(template, seed)?.take(many)),
            What::Words(words) => {
                let words = Synthetic::clone(words);
                Box::new(words.sessions(template, many, Sampling::Sequential, seed)?.take(many))
            }
        })
    }

    /// A phase of these sessions at this pace.
    pub(crate) fn phase(
        &self,
        name: &str,
        pace: Pace,
        concurrency: Option<u32>,
        count: Option<usize>,
        seed: u64,
    ) -> Result<Phase, Error> {
        let mut phase = match (pace, &self.what) {
            (Pace::OwnTimes { speed_up }, What::Dataset(dataset)) => {
                let schedule = Schedule { from_first: true, speed_up, ..Schedule::default() };
                let mut arrivals = dataset.clone().schedule(&schedule)?;
                if let Some(asked) = count {
                    if asked > arrivals.len() {
                        return Err(Error::FewTimes { asked, times: arrivals.len() });
                    }
                    arrivals.truncate(asked);
                }
                Phase::scheduled(name, arrivals)
            }
            (Pace::Rate { pattern, rate }, _) => {
                let times = Arrivals::new(pattern, Rate::constant(rate)?, seed)?;
                Phase::open_loop(name, times, self.sessions(count, seed)?)
            }
            (Pace::AtOnce | Pace::OwnTimes { .. }, _) => {
                let numbered = (0..).zip(self.sessions(count, seed)?);
                let arrival = |(id, turns)| Arrival {
                    at: Duration::ZERO,
                    session: workload::Session { id, turns, target: None },
                };
                let closed_loop = concurrency.is_some();
                Phase { closed_loop, ..Phase::scheduled(name, numbered.map(arrival)) }
            }
        };
        phase.limits.concurrency = concurrency;
        Ok(phase)
    }
}

type Sessions = Box<dyn Iterator<Item = Vec<Turn>> + Send>;

#[cfg(test)]
mod tests {
    use workload::{Entry, Prompt, Request};

    use super::*;

    #[test]
    fn a_file_is_sent_in_its_order() {
        let entry = |number: u32| {
            let prompt = Prompt::Text(number.to_string().into());
            let mut request = Request::new(Endpoint::Completions, "m", prompt);
            request.input_tokens = Some(number);
            Entry { at: None, turns: vec![Turn::from(request)] }
        };
        let dataset = Dataset { entries: (0..20).map(entry).collect() };
        let source = Source::load(&Traffic::Dataset(dataset)).unwrap();
        let sent = source.sessions(Some(25), 7).unwrap();
        let sent: Vec<u32> = sent.filter_map(|turns| turns[0].request.input_tokens).collect();
        assert_eq!(sent, (0..20).chain(0..5).collect::<Vec<_>>());
    }
}
