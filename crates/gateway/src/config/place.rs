//! Which key a place in a file belongs to, so that an error can name it.
//!
//! The reader of YAML knows line and column alone. The text before them has the key, in both styles of writing: keys
//! whose braces are still open, and above them those of lines that stand further left. It is for people to read: where
//! the text is unusual, a key may be missing.

/// The keys that lead to what begins at this place, a value or a key, as `limits.header_timeout_s`.
pub(super) fn key_of(text: &str, line: u64, column: u64) -> Option<String> {
    let (line, column) = (usize::try_from(line).ok()?, usize::try_from(column).ok()?);
    let whole = text.lines().nth(line.checked_sub(1)?)?;
    let place = whole.char_indices().nth(column.checked_sub(1)?).map_or(whole.len(), |(place, _)| place);
    let (mut last, rest) = whole.split_at(place);
    if key_before(last).is_none()
        && let Some(end) = rest.find(':')
        && rest[..end].chars().all(is_of_key)
        && rest[end + 1..].chars().next().is_none_or(char::is_whitespace)
    {
        last = &whole[..=place + end];
    }
    let mut keys = vec![key_before(last)?];
    let mut rest = last;
    while let Some(brace) = open_brace(rest) {
        rest = &rest[..brace];
        keys.extend(key_before(rest));
    }
    let mut indentation = indentation_of(last);
    let above: Vec<&str> = text.lines().take(line - 1).collect();
    for line in above.into_iter().rev() {
        if let Some(key) = key_before(line)
            && indentation_of(line) < indentation
        {
            indentation = indentation_of(line);
            keys.push(key);
        }
    }
    keys.reverse();
    Some(keys.join("."))
}

/// The key at the end of a piece of text.
fn key_before(text: &str) -> Option<&str> {
    let text = text.trim_end().strip_suffix(':')?;
    let start = text.rfind(|character| !is_of_key(character)).map_or(0, |before| before + 1);
    Some(&text[start..]).filter(|key| !key.is_empty())
}

fn is_of_key(character: char) -> bool {
    character.is_ascii_alphanumeric() || character == '_'
}

/// Where the last brace is that is not closed.
fn open_brace(text: &str) -> Option<usize> {
    let mut closed = 0_usize;
    for (place, character) in text.char_indices().rev() {
        match character {
            '}' => closed += 1,
            '{' if closed == 0 => return Some(place),
            '{' => closed -= 1,
            _ => {}
        }
    }
    None
}

/// How far to the right its first word stands; the dash of a list is further left than what is in it.
fn indentation_of(line: &str) -> usize {
    line.len() - line.trim_start_matches([' ', '-']).len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_found_in_both_styles() {
        for (text, key) in [
            ("drain_timeout_s: @", Some("drain_timeout_s")),
            (
                "replicas: []\nlimits:\n  # which: one\n  a: 1\n\n  header_timeout_s: @",
                Some("limits.header_timeout_s"),
            ),
            ("retry: {retries: @", Some("retry.retries")),
            ("retry: {a: {b: 1}, retries: @", Some("retry.retries")),
            (
                "policy:\n  prefix_hash:\n    load_factor_percent: @",
                Some("policy.prefix_hash.load_factor_percent"),
            ),
            (
                "policy:\n  prefix_hash: {load_factor_percent: @",
                Some("policy.prefix_hash.load_factor_percent"),
            ),
            ("replicas:\n- http://a\n- url: http://b\n  weight: @", Some("replicas.weight")),
            ("replicas:\n- {url: http://b, weight: @", Some("replicas.weight")),
            ("checks: {interval_s: 1}\nlimits:\n    a: @", Some("limits.a")),
            ("listen: @localhost: 1", Some("listen")),
            ("limits: {@max_header_bytes: 0}", Some("limits.max_header_bytes")),
            ("limits:\n  @max_header_bytes: 0", Some("limits.max_header_bytes")),
            ("limits:\n  @max_header_bytes:", Some("limits.max_header_bytes")),
            ("replicas:\n- @http://a", None),
            ("limits:\n  @", None),
            ("@", None),
        ] {
            let (before, rest) = text.split_once('@').unwrap();
            let line = before.matches('\n').count() + 1;
            let column = before.rsplit('\n').next().unwrap().chars().count() + 1;
            let found = key_of(&format!("{before}{rest}"), line as u64, column as u64);
            assert_eq!(found.as_deref(), key, "{text}");
        }
        assert_eq!(key_of("a: 1", 9, 9), None);
        assert_eq!(key_of("", 0, 0), None);
    }
}
