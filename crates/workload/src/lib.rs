//! What is sent and when: datasets, traces, synthetic prompts, sessions and arrival processes, made into a
//! [`Plan`] before the run, from one seed.
//!
//! A plan is the same for the load generators and the simulator. Nothing here sends, waits or reads a clock.

mod arrival;
mod block_sessions;
mod body;
mod dataset;
mod date_time;
mod error;
pub mod inference_perf;
mod kubeai_seed;
mod lengths;
mod lines;
mod mix;
mod phases;
mod plan;
mod python_random;
mod random;
mod rate;
mod sampling;
mod script_arrivals;
mod script_prompts;
mod secrets;
mod seed_prompt;
mod sharegpt;
mod synthetic;
mod template;
mod text_prompts;
mod tokenizer;
mod users;
mod words;

pub use arrival::{Arrivals, Pattern};
pub use block_sessions::BlockSessions;
pub use body::{BodyOptions, MaxTokensField, write_body};
pub use dataset::{Dataset, DatasetKind, Entry, Rewrite, Schedule};
pub use error::{Error, Place};
pub use kubeai_seed::{kubeai_seed, kubeai_seed_requests};
pub use lengths::{Length, SequenceLengths};
pub use mix::{CacheBust, ModelChoice, assign_models, batch_texts, bust_cache, cancel_some};
pub use phases::single_turns;
pub use plan::{
    Arrival, Limits, MAX_SECONDS, Message, Phase, PhaseKind, Plan, Prompt, Request, Seen, Session, Turn,
};
pub use python_random::PythonRandom;
pub use rate::Rate;
pub use sampling::{Sampling, sample};
pub use script_arrivals::{ScriptRate, script_arrivals};
pub use script_prompts::{PoemPrompts, RandomPrompts, poem_prompts, random_prompts};
pub use secrets::{HIDDEN, is_secret_header};
pub use seed_prompt::{SeedPrompt, read_seed_prompts, seed_sessions};
pub use sharegpt::{
    Conversation, Conversations, Cut, Said, ShareGptRule, ShareGptSettings, read_sharegpt, sharegpt_sessions,
};
pub use synthetic::{Delay, Synthetic};
pub use template::RequestTemplate;
pub use text_prompts::{TextPrompt, TextPrompts};
pub use tokenizer::{TokenSource, Tokenizer};
pub use users::user_arrivals;
pub use words::{MAX_PROMPT_TOKENS, render_blocks};
