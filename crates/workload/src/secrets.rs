//! What is never repeated, neither on a terminal nor in a file: keys, and the values of headers that carry one.

/// What stands in the place of a secret.
pub const HIDDEN: &str = "***";

/// Names that are secret, and endings of such names.
const NAMES: [&str; 2] = ["authorization", "cookie"];
const ENDINGS: [&str; 5] = ["-authorization", "-key", "apikey", "-token", "-secret"];

/// Whether the value of a header gives access to something: `Authorization`, `X-API-Key`, `Cookie`, `X-Auth-Token`.
pub fn is_secret_header(name: &str) -> bool {
    let name = name.trim().to_ascii_lowercase();
    NAMES.contains(&name.as_str()) || ENDINGS.iter().any(|ending| name.ends_with(ending))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_that_carry_keys_are_known_by_their_names() {
        let secret = [
            "Authorization",
            "proxy-authorization",
            "x-api-key",
            "api-key",
            "Cookie",
            "X-Auth-Token",
            "ApiKey",
        ];
        assert!(secret.iter().all(|name| is_secret_header(name)));
        assert!(!["X-Request-ID", "User-Agent", "x-slo-ttft-ms"].iter().any(|name| is_secret_header(name)));
    }
}
