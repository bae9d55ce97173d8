//! Values of flags that several subcommands take.

use anyhow::Context;
use engine::Profile;
use simulate::{kubeai, scenario::Traffic};

pub(super) fn traffic(text: &str) -> Result<Traffic, String> {
    match text.split_once(':') {
        None if text == "kubeai" => Ok(Traffic::Kubeai(kubeai::REQUESTS)),
        Some(("prompts", path)) => Ok(Traffic::Prompts(path.into())),
        Some(("sessions", path)) => Ok(Traffic::Sessions(path.into())),
        _ => Err(format!("`{text}` is no workload: give kubeai, prompts:FILE or sessions:FILE")),
    }
}

pub(super) fn profile(name: &str) -> anyhow::Result<Profile> {
    if let Some(profile) = Profile::built_in(name) {
        return Ok(profile);
    }
    let text = std::fs::read_to_string(name).with_context(|| {
        format!("`{name}` is neither a built-in profile ({}) nor a readable file", Profile::NAMES.join(", "))
    })?;
    let profile: Profile = serde_json::from_str(&text).with_context(|| format!("{name} is not a profile"))?;
    profile.check().with_context(|| format!("the profile in {name} cannot work"))?;
    Ok(profile)
}
