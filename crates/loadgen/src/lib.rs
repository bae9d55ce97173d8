//! Sends a Plan and times every event.
//!
//! [`run`] carries out a [`Plan`](workload::Plan) against one or several [`Targets`] and hands a
//! [`Record`](report::Record) for each request to a sink. One thread draws the plan in order and writes request
//! bodies ahead of their time; one or more threads send and receive, each with its own poll and its own
//! connections; one thread feeds the sink. So the same plan gives the same requests in the same order for any
//! number of threads.
//!
//! The schedule is absolute: nothing is dropped when late, and every record says how late it was. Times are taken
//! when a read returns, before anything is parsed. The sender measures itself too: its [`RunSummary`] says how far
//! it was in the way of the figures.
//!
//! HTTP/1.1, over TLS where a target's URL says so. A reused connection that turns out to be dead before any answer
//! is replaced once; other retries only where [`Retries`] asks for them.

mod admission;
mod answer;
mod aside;
mod chooser;
mod chunked;
mod clock;
mod connection;
mod control;
mod ending;
mod error;
mod exchange;
mod inbox;
mod measure;
mod options;
mod pages;
mod phase;
mod planner;
mod pool;
mod request_head;
mod response;
mod routed;
mod run;
mod session;
mod slots;
mod stolen;
mod summary;
mod target;
mod timers;
mod traffic;
mod wire;
mod worker;

pub use answer::{AnswerText, Bodies};
pub use aside::{Ask, AskPath, Reply, Stop};
pub use chooser::{Choice, Features, Guard, RoundRobin, RouteKey, UrlChooser};
pub use clock::Start;
pub use control::{Control, Progress};
pub use error::Error;
pub use options::{BeforePhase, ChunkRule, CountPrompt, Options, Render, Retries, Reuse};
pub use pages::Pages;
pub use routed::Routed;
pub use run::run;
pub use summary::{ClientSummary, PhaseSummary, RunEnd, RunSummary, ThreadRole, ThreadSummary};
pub use target::{Target, TargetError, Targets};
pub use tls::{ClientSettings, Identity, TlsError};
