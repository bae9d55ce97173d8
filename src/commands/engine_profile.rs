//! Engine profiles by name or from a file, for every command that takes one.

use anyhow::Context;
use engine::Profile;

/// The built-in profile of this name, or the one in the JSON file at this path.
pub(crate) fn read(name: &str) -> anyhow::Result<Profile> {
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
