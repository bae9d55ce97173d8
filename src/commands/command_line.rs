//! The command that this process was started with, for its files: who reads them can run it again.

use workload::{HIDDEN, is_secret_header};

use super::profile::header;

/// The command that this process was started with, as a shell takes it. Keys are hidden; what is not UTF-8 is shown with
/// replacement characters.
pub(crate) fn command_line() -> String {
    let quoted = |word: String| {
        let plain = word.chars().all(|letter| letter.is_alphanumeric() || "-_./:=,+@%".contains(letter));
        if plain && !word.is_empty() { word } else { format!("'{}'", word.replace('\'', r"'\''")) }
    };
    let words = std::env::args_os().skip(1).map(|word| word.to_string_lossy().into_owned());
    let words = redacted(words).map(quoted);
    std::iter::once("evenload".to_owned()).chain(words).collect::<Vec<_>>().join(" ")
}

/// Without keys: the value of `--api-key`, and those of headers that carry one.
fn redacted(words: impl Iterator<Item = String>) -> impl Iterator<Item = String> {
    let mut flag = String::new();
    words.map(move |word| {
        match std::mem::replace(&mut flag, word.clone()).as_str() {
            "--api-key" => return HIDDEN.to_owned(),
            "-H" | "--header" => return header_without_secret(&word),
            _ => {}
        }
        if word.starts_with("--api-key=") {
            return format!("--api-key={HIDDEN}");
        }
        for flag in ["--header=", "-H=", "-H"] {
            if let Some(header) = word.strip_prefix(flag) {
                return format!("{flag}{}", header_without_secret(header));
            }
        }
        word
    })
}

/// A header as the flag takes it; one that cannot be read is not shown at all.
fn header_without_secret(text: &str) -> String {
    match header(text) {
        _ if text.is_empty() => String::new(),
        Ok(headers) if headers.iter().any(|(name, _)| is_secret_header(name)) => {
            let shown = headers.iter().map(|(name, value)| match is_secret_header(name) {
                true => format!("{name}:{HIDDEN}"),
                false => format!("{name}:{value}"),
            });
            shown.collect::<Vec<_>>().join(", ")
        }
        Ok(_) => text.to_owned(),
        Err(_) => HIDDEN.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_not_repeated() {
        for (words, shown) in [
            ("--api-key k1 --url a", "--api-key *** --url a"),
            ("--api-key=k1", "--api-key=***"),
            ("-H Authorization:k1 -H X-A:b", "-H Authorization:*** -H X-A:b"),
            ("-HX-API-Key:k1 -H=cookie:k1", "-HX-API-Key:*** -H=cookie:***"),
            ("--header=proxy-authorization:k1", "--header=proxy-authorization:***"),
            (r#"--header {"Api-Key":"k1","b":"c"}"#, "--header Api-Key:***, b:c"),
            ("--header k1", "--header ***"),
        ] {
            let said = redacted(words.split(' ').map(ToOwned::to_owned)).collect::<Vec<_>>().join(" ");
            assert_eq!(said, shown);
        }
    }
}
