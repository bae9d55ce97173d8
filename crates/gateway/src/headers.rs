//! Which fields belong to one hop, and which go on to the next (RFC 9110, 7.6.1).
//!
//! Everything else passes untouched: values to the byte, repeated fields apart and in their order.

use http::{
    HeaderMap, HeaderName, HeaderValue,
    header::{
        AUTHORIZATION, CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, HOST, PROXY_AUTHENTICATE,
        PROXY_AUTHORIZATION, TE, TRANSFER_ENCODING, UPGRADE,
    },
};

/// Fields that a `Connection` line cannot take away: without them a message would mean something else.
const ESSENTIAL: [HeaderName; 4] = [HOST, CONTENT_LENGTH, CONTENT_TYPE, AUTHORIZATION];

/// Whether a field is about this connection only, whatever `Connection` says.
pub(crate) fn is_hop_by_hop(name: &HeaderName) -> bool {
    [CONNECTION, TRANSFER_ENCODING, UPGRADE, TE, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION].contains(name)
        || matches!(name.as_str(), "keep-alive" | "proxy-connection")
}

/// Removes every end-to-end field that one of the `Connection` values names; those of the hop are taken out where
/// a head is written.
pub(crate) fn remove_nominated(headers: &mut HeaderMap, connection: &[HeaderValue]) {
    for name in connection.iter().flat_map(tokens) {
        if name.eq_ignore_ascii_case(b"close") || name.eq_ignore_ascii_case(b"keep-alive") {
            continue;
        }
        if let Ok(name) = HeaderName::from_bytes(name)
            && !ESSENTIAL.contains(&name)
            && !is_hop_by_hop(&name)
        {
            headers.remove(name);
        }
    }
}

/// Whether a comma-separated value has `token` among its elements, in any case.
pub(crate) fn has_token(value: &HeaderValue, token: &str) -> bool {
    tokens(value).any(|element| element.eq_ignore_ascii_case(token.as_bytes()))
}

fn tokens(value: &HeaderValue) -> impl Iterator<Item = &[u8]> {
    value.as_bytes().split(|&byte| byte == b',').map(<[u8]>::trim_ascii)
}
