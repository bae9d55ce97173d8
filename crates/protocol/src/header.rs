//! What a header of a request may be.

/// Headers that say how the message is framed; only what writes the message sets them.
const FRAMING: [&str; 4] = ["content-length", "transfer-encoding", "connection", "expect"];

/// Why a header cannot be sent: it would break the message, or put another one into it.
pub fn header_problem(name: &str, value: &str) -> Option<&'static str> {
    let token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    if name.is_empty() || !name.bytes().all(token) {
        return Some("a header name holds letters, digits and !#$%&'*+-.^_`|~ only");
    }
    if FRAMING.iter().any(|framing| name.eq_ignore_ascii_case(framing)) {
        return Some("this header frames the message and cannot be set");
    }
    let control = |byte: u8| byte != b'\t' && (byte < b' ' || byte == 0x7f);
    value.bytes().any(control).then_some("a header value holds no control characters")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_is_a_token_and_a_line() {
        assert_eq!(header_problem("x-slo-ttft-ms", "2\t000 ms \u{e4}"), None);
        for (name, value) in
            [("A\r\nB", "x"), ("", "x"), ("a b", "x"), ("A", "x\r\nB: y"), ("Content-Length", "3")]
        {
            assert!(header_problem(name, value).is_some(), "{name:?}: {value:?}");
        }
    }
}
