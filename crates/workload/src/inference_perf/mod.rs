//! inference-perf's configuration file, and the workloads that it describes.

mod config;

pub use config::*;
