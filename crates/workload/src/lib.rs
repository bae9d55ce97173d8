//! What is sent and when: datasets, traces, synthetic prompts, sessions and arrival processes, made into a
//! [`Plan`] before the run, from one seed.
//!
//! A plan is the same for the load generators and the simulator. Nothing here sends, waits or reads a clock.

mod plan;

pub use plan::{Arrival, Limits, Message, Phase, PhaseKind, Plan, Prompt, Request, Session, Turn};
