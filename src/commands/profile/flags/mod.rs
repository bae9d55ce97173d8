//! The flags: names, aliases, units and defaults of AIPerf 0.13, then our own. `docs/profile.md` lists where a
//! default differs, and why.

mod endpoint;
mod input;
mod load;
mod output;
mod runs;
mod search;
mod values;

pub(crate) use endpoint::{EndpointFlags, EndpointType, WaitMode};
pub(crate) use input::{Bust, InputFlags, RangeRatio};
pub(crate) use load::{ArrivalPattern, Grace, LoadFlags};
pub(crate) use output::{ExportLevel, MetricsFormat, OutputFlags, OwnFlags, SloList, Ui};
pub(crate) use runs::{RunsFlags, SweepMode, SweepType};
pub(crate) use search::{Recipe, SearchFlags};
pub(crate) use values::{header, range_ratio};
