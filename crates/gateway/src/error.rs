//! Why a request did not get a whole answer from a replica: one list, used as the log field, the metric label
//! and the `code` of OpenAI-shaped error bodies.

use bytes::Bytes;
use http::{
    HeaderValue, Response, StatusCode,
    header::{ALLOW, CONTENT_TYPE, RETRY_AFTER},
};
use protocol::ErrorBody;

/// Seconds after which a client may try again when nothing is available now.
const RETRY_AFTER_SECONDS: HeaderValue = HeaderValue::from_static("1");

macro_rules! reasons {
    ($($(#[doc = $doc:literal])+ $name:ident $label:literal $status:literal)+) => {
        /// Why a request did not get a whole answer from a replica.
        #[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
        pub enum Reason {
            $($(#[doc = $doc])+ $name,)+
        }

        impl Reason {
            /// All of them, in the order of the enum.
            pub const ALL: &[Self] = &[$(Self::$name),+];

            /// Log field, metric label and error code.
            pub const fn label(self) -> &'static str {
                match self {
                    $(Self::$name => $label,)+
                }
            }

            /// What it means, in a sentence.
            pub const fn meaning(self) -> &'static str {
                match self {
                    $(Self::$name => concat!($($doc),+).trim_ascii(),)+
                }
            }

            /// The status that is answered, or logged where no answer can be given any more.
            pub const fn status(self) -> u16 {
                match self {
                    $(Self::$name => $status,)+
                }
            }
        }
    };
}

reasons! {
    /// Malformed: framing, Host, fields.
    BadRequest "bad_request" 400
    /// The body's chunked coding is broken, or the connection ended inside the body.
    BodyBroken "body_broken" 400
    /// CONNECT and TRACE are not for a gateway.
    MethodNotAllowed "method_not_allowed" 405
    /// The head did not arrive in time.
    HeaderTimeout "header_timeout" 408
    /// The body stopped arriving.
    BodyTimeout "body_timeout" 408
    /// The body exceeds the limit.
    BodyTooLarge "body_too_large" 413
    /// The request line alone exceeds the limit.
    TargetTooLong "target_too_long" 414
    /// An `Expect` that is not `100-continue`.
    ExpectationFailed "expectation_failed" 417
    /// The request line or the fields exceed the limits in bytes or number.
    HeadTooLarge "head_too_large" 431
    /// A transfer coding beside `chunked`.
    CodingNotSupported "coding_not_supported" 501
    /// The client went away before the end.
    ClientGone "client_gone" 499
    /// The client stopped reading its answer.
    ClientStalled "client_stalled" 499
    /// No replica has the adapter that the request names.
    NoAdapter "no_adapter" 404
    /// The pool is empty, or no replica in it is healthy.
    NoReplica "no_replica" 503
    /// Too many request bytes are held in memory.
    BufferFull "buffer_full" 503
    /// This process has no file descriptor left for a connection to a replica.
    NoDescriptor "no_descriptor" 503
    /// No replica that could serve the request accepts connections.
    ConnectFailed "connect_failed" 503
    /// Connecting took too long, at every replica that was tried.
    ConnectTimeout "connect_timeout" 504
    /// The replica closed the connection before an answer.
    UpstreamClosed "upstream_closed" 502
    /// The replica's answer is not HTTP.
    UpstreamInvalid "upstream_invalid" 502
    /// The head of the replica's answer exceeds the limits in bytes or number of fields.
    UpstreamHeadTooLarge "upstream_head_too_large" 502
    /// No answer began in time.
    UpstreamTimeout "upstream_timeout" 504
    /// The answer broke off.
    UpstreamBroken "upstream_broken" 502
    /// The answer stopped arriving.
    UpstreamIdle "upstream_idle" 504
    /// The drain time ended before the answer did.
    Aborted "aborted" 503
    /// A fault of evenload itself.
    Internal "internal" 500
}

/// A request that is answered with an error.
#[derive(Debug)]
pub(crate) struct Refusal {
    pub(crate) reason: Reason,
    pub(crate) message: String,
}

// === impl Reason ===

impl Reason {
    /// The answer that a client gets. `message` says what is wrong and what to do.
    pub(crate) fn response(self, message: impl Into<String>) -> Response<Bytes> {
        let status = StatusCode::from_u16(self.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let kind = if status.is_client_error() { "invalid_request_error" } else { "server_error" };
        let body = ErrorBody::new(kind, self.label(), message).to_json();
        let mut response = Response::new(Bytes::from(body));
        *response.status_mut() = status;
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if status == StatusCode::SERVICE_UNAVAILABLE {
            headers.insert(RETRY_AFTER, RETRY_AFTER_SECONDS);
        }
        if self == Self::MethodNotAllowed {
            headers.insert(ALLOW, HeaderValue::from_static("GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"));
        }
        response
    }
}

// === impl Refusal ===

impl Refusal {
    pub(crate) fn new(reason: Reason, message: impl Into<String>) -> Self {
        Self { reason, message: message.into() }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_reason_has_its_own_label_and_a_status() {
        let labels: BTreeSet<_> = Reason::ALL.iter().map(|reason| reason.label()).collect();
        assert_eq!(labels.len(), Reason::ALL.len());
        for reason in Reason::ALL {
            assert!((400..600).contains(&reason.status()), "{reason:?}");
        }
    }

    #[test]
    fn answers_have_openai_shape() {
        let response = Reason::NoReplica.response("no replica is healthy");
        assert_eq!(response.status(), 503);
        assert_eq!(response.headers()["retry-after"], "1");
        let body: serde_json::Value = serde_json::from_slice(response.body()).unwrap();
        assert_eq!(body["error"]["code"], "no_replica");
        assert_eq!(body["error"]["message"], "no replica is healthy");
    }
}
