//! The simulated inference engine: a pure scheduler core and an HTTP face over it.
//!
//! [`Scheduler`] is vLLM's step loop with continuous batching, paged KV memory and a prefix cache, on a model of
//! the hardware with a handful of numbers, the [`Profile`]. It reads no clock: the simulator drives it in
//! virtual time, the HTTP face in real time.

mod face;
mod pool;
mod profile;
mod scheduler;
mod sequence;

pub use face::{Adapter, Config, FixedTimes, Fleet, InvalidConfig, KvEvents, ServeError, serve};
pub use profile::{InvalidProfile, Profile};
pub use scheduler::{CacheChange, Counters, Event, Rejected, Scheduler, Snapshot, Step, Submission};
