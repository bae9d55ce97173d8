//! What a run sends: the data of the configuration, as requests or sessions by their number.

use std::{path::Path, sync::Arc};

use protocol::Endpoint;
use rand::RngExt;

use super::{
    AdapterShare, ApiType, Config, DataType, LoadType, files,
    prompts::{self, Shared, random_of},
    recorded,
    talks::{Replay, Talks},
    trace::Rows,
    weka,
};
use crate::{Error, Request, RequestTemplate, Tokenizer, Turn};

/// Output length where the data does not state one.
const DEFAULT_OUTPUT_TOKENS: u32 = 30;

/// Prompts whose lengths are compared with what was asked for.
const SAMPLE: u64 = 4;
/// They are other lengths if they miss by more than one part in so many.
const OTHER: u64 = 50;

/// Makes request `number`.
pub(super) type Make = Arc<dyn Fn(u64) -> Request + Send + Sync>;

/// What a run sends.
#[derive(Clone)]
pub(super) enum Source {
    /// Single requests.
    Requests(Make),
    /// Sessions of several turns.
    Talks(Talks),
}

/// What a run sends, with the adapters that are asked for.
#[derive(Clone)]
pub(super) struct Traffic {
    pub(super) source: Source,
    adapters: Arc<[(Arc<str>, f64)]>,
    seed: u64,
}

/// The data of a configuration.
pub(super) struct Loaded {
    pub(super) traffic: Traffic,
    /// Rows of the trace that gives the lengths, if there is one.
    pub(super) rows: Option<u64>,
    pub(super) notes: Vec<String>,
}

impl Source {
    /// What to say if prompts have other lengths by the tokenizer than the data asks for: those made of words, which
    /// are a token each by the common rule only.
    pub(super) fn other_lengths(&self, counter: &Tokenizer) -> Option<String> {
        let sample: Vec<Request> = match self {
            Self::Requests(make) => (0..SAMPLE).map(|number| make(number)).collect(),
            Self::Talks(Talks::Recorded(_)) => return None,
            Self::Talks(talks) => {
                let slots = 0..talks.slots().min(SAMPLE);
                slots.flat_map(|slot| talks.session(0, slot, 1)).map(|turn| turn.request).collect()
            }
        };
        let (mut asked, mut counted) = (0_u64, 0_u64);
        for request in &sample {
            asked += u64::from(request.input_tokens?);
            counted += u64::from(counter.count(&request.text(&[]), false).ok()?);
        }
        (asked.abs_diff(counted) * OTHER > asked).then(|| {
            format!(
                "the prompts of this data are {:.2} times as long by the tokenizer as asked for: they are made of words \
                 of four bytes, whatever the tokenizer. Reports have the lengths by the tokenizer; to get those asked \
                 for, divide them by it, or use data.type synthetic, which is cut to length",
                counted as f64 / asked as f64
            )
        })
    }
}

impl Traffic {
    /// Reads what the configuration names. `limit` is the number of requests that are needed at most.
    pub(super) fn load(
        config: &Config,
        model: &str,
        tokenizer: Tokenizer,
        limit: usize,
    ) -> Result<Loaded, Error> {
        let mut template = RequestTemplate::new(endpoint(config), model);
        template.stream = config.api.streaming;
        let (data, seed) = (&config.data, config.seed());
        let (mut rows, mut notes) = (None, Vec::new());
        let source = match data.r#type {
            DataType::Mock => Source::Requests(prompts::mock(template)),
            DataType::Random => match &data.trace {
                None => Source::Requests(prompts::random_words(data, template, seed)?),
                Some(trace) => {
                    let trace = Rows::load(trace, &template, 1.0)?;
                    rows = Some(trace.rows.len() as u64);
                    notes = trace.notes;
                    let requests: Vec<_> = trace.rows.into_iter().map(|row| row.what).collect();
                    Source::Requests(Arc::new(move |number| {
                        requests[(number % requests.len() as u64) as usize].request(&template, number)
                    }))
                }
            },
            DataType::Synthetic => {
                Source::Requests(prompts::slices(data, template, Arc::new(tokenizer), seed)?)
            }
            DataType::ShareGpt
            | DataType::CnnDailymail
            | DataType::InfinityInstruct
            | DataType::BillsumConversations => {
                let (make, said) = files::requests(data, &template, &tokenizer, limit)?;
                notes.extend(said);
                Source::Requests(make)
            }
            DataType::SharedPrefix => {
                let given = data.shared_prefix.clone().unwrap_or_default();
                let shared = Shared::new(&given, template, seed)?;
                if given.enable_multi_turn_chat {
                    Source::Talks(Talks::Users(Box::new(shared)))
                } else {
                    if (shared.prompts() as usize) < limit && limit < usize::MAX {
                        notes.push(format!(
                            "data.shared_prefix has {} different prompts for {limit} requests: from then on they \
                             repeat, and caches hold them whole",
                            shared.prompts()
                        ));
                    }
                    Source::Requests(Arc::new(move |number| shared.request(number % shared.prompts(), 0)))
                }
            }
            DataType::ConversationReplay => {
                let given = data.conversation_replay.clone().unwrap_or_default();
                let replay = Replay::new(&given, template)?;
                notes.extend(replay.note());
                Source::Talks(Talks::Conversations(Arc::new(replay)))
            }
            DataType::OtelTraceReplay | DataType::WekaTraceReplay => {
                let recorded = match (&data.otel_trace_replay, &data.weka_trace_replay) {
                    (Some(given), _) => recorded::load(given, &template)?,
                    (_, given) => weka::load(&given.clone().unwrap_or_default(), &template, seed)?,
                };
                notes.extend_from_slice(recorded.notes());
                Source::Talks(Talks::Recorded(Arc::new(recorded)))
            }
            DataType::VisionArena | DataType::SyntheticAgentic => {
                return Err(Error::Setting(format!("data.type: {}: not implemented", data.r#type.word())));
            }
        };
        if config.load.r#type == LoadType::TraceSessionReplay
            && !matches!(source, Source::Talks(Talks::Conversations(_) | Talks::Recorded(_)))
        {
            let problem = "load.type trace_session_replay needs sessions that end: data.type conversation_replay, \
                           otel_trace_replay or weka_trace_replay";
            return Err(Error::Setting(problem.to_owned()));
        }
        for (key, given) in [
            ("data.input_distribution", &data.input_distribution),
            ("data.output_distribution", &data.output_distribution),
        ] {
            notes.extend(given.as_ref().and_then(|given| given.cut_off(key)));
        }
        let adapters = config.load.lora_traffic_split.iter().flatten();
        let adapters = adapters.map(|AdapterShare { name, split }| (name.as_str().into(), *split)).collect();
        Ok(Loaded { traffic: Self { source, adapters, seed }, rows, notes })
    }

    /// Asks for the adapter of session `number`, the same for all its turns, and for a length where there is none.
    pub(super) fn finish(&self, mut turns: Vec<Turn>, number: u64) -> Vec<Turn> {
        let adapter = self.adapter(number);
        for turn in &mut turns {
            turn.request.output_tokens.get_or_insert(DEFAULT_OUTPUT_TOKENS);
            if let Some(adapter) = &adapter {
                turn.request.model = Arc::clone(adapter);
            }
        }
        turns
    }

    fn adapter(&self, number: u64) -> Option<Arc<str>> {
        let (last, _) = self.adapters.last()?;
        let total: f64 = self.adapters.iter().map(|(_, share)| share).sum();
        let mut left = random_of(self.seed, "adapters", number).random::<f64>() * total;
        let chosen = self.adapters.iter().find(|(_, share)| {
            left -= share;
            left < 0.0
        });
        Some(Arc::clone(chosen.map_or(last, |(name, _)| name)))
    }
}

fn endpoint(config: &Config) -> Endpoint {
    match config.api.r#type {
        ApiType::Completion => Endpoint::Completions,
        ApiType::Chat => Endpoint::ChatCompletions,
        ApiType::AnthropicMessages => Endpoint::Messages,
    }
}

/// The tokenizer that the configuration names, if it is a local file; and what the user should know.
pub(super) fn tokenizer(config: &Config) -> Result<(Tokenizer, Option<String>), Error> {
    let name = config.tokenizer.as_ref().and_then(|given| given.pretrained_model_name_or_path.as_ref());
    match name {
        None => Ok((Tokenizer::estimate(), None)),
        Some(name) if Path::new(name).exists() => Ok((Tokenizer::load(Path::new(name))?, None)),
        Some(name) => {
            let note = format!(
                "tokenizer {name} is not a local file, and nothing is fetched: lengths that the server does not \
                 state are estimated at four bytes a token"
            );
            Ok((Tokenizer::estimate(), Some(note)))
        }
    }
}
