//! A fleet in virtual time: the `workload` plan, the `routing` router and the `engine` scheduler, the very code
//! that the balancer and the simulated servers run, driven by an event queue instead of sockets and timers.
//!
//! One run is a function of its settings and seed. Thousands of replicas and millions of requests take seconds,
//! because nothing waits. What is not modelled: the network beyond a fixed delay, and the balancer's own work.

mod client;
mod faults;
pub mod fit;
mod fleet;
pub mod insight;
pub mod kubeai;
mod means;
mod prompt;
mod queue;
pub mod replay;
mod run;
pub mod scenario;
mod sessions;
mod simulation;
mod traffic;

pub use client::ClientModel;
pub use faults::{Fault, FaultKind, InvalidFault};
pub use fleet::{FleetSettings, Learned, ReplicaFigures, Scrape};
pub use means::Means;
pub use prompt::PromptHashes;
pub use run::{Error, Figures, Settings, run};
pub use traffic::{Pace, Traffic};
