//! Values of flags that several subcommands take.

use simulate::{kubeai, scenario::Traffic};

pub(super) use crate::commands::engine_profile::read as profile;

pub(super) fn traffic(text: &str) -> Result<Traffic, String> {
    match text.split_once(':') {
        None if text == "kubeai" => Ok(Traffic::Kubeai(kubeai::REQUESTS)),
        Some(("prompts", path)) => Ok(Traffic::Prompts(path.into())),
        Some(("sessions", path)) => Ok(Traffic::Sessions(path.into())),
        _ => Err(format!("`{text}` is no workload: give kubeai, prompts:FILE or sessions:FILE")),
    }
}
