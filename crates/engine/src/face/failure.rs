//! Why a request gets no answer of the kind that it asked for, and what it gets instead.

use hyper::{
    Response, StatusCode,
    header::{self, HeaderValue},
};
use protocol::ErrorBody;

use super::{
    feed::{Broken, Payload},
    messages,
    pages::json_response,
};

/// Why a request gets no answer of the kind it asked for.
#[derive(Debug)]
pub(crate) enum Failure {
    /// An error answer.
    Status { status: StatusCode, kind: &'static str, message: String, param: Option<&'static str> },
    /// No answer: the connection is broken.
    Broken,
}

impl Failure {
    pub(crate) fn bad_request(message: impl Into<String>) -> Self {
        Self::with(StatusCode::BAD_REQUEST, "BadRequestError", message.into())
    }

    pub(crate) fn no_model(model: &str) -> Self {
        Self::not_found(format!("The model `{model}` does not exist.")).with_param("model")
    }

    pub(crate) fn not_found(message: String) -> Self {
        Self::with(StatusCode::NOT_FOUND, "NotFoundError", message)
    }

    pub(crate) fn unavailable(message: &str) -> Self {
        Self::with(StatusCode::SERVICE_UNAVAILABLE, "ServiceUnavailableError", message.to_owned())
    }

    /// The engine has died, as it was told to.
    pub(crate) fn died() -> Self {
        let message = "EngineCore encountered an issue.".to_owned();
        Self::with(StatusCode::INTERNAL_SERVER_ERROR, "InternalServerError", message)
    }

    pub(crate) fn with(status: StatusCode, kind: &'static str, message: String) -> Self {
        Self::Status { status, kind, message, param: None }
    }

    /// Names the request member at fault.
    pub(crate) fn with_param(mut self, name: &'static str) -> Self {
        if let Self::Status { param, .. } = &mut self {
            *param = Some(name);
        }
        self
    }

    /// The error answer, in Anthropic's shape or in OpenAI's.
    pub(crate) fn into_response(self, anthropic: bool) -> Result<Response<Payload>, Broken> {
        let Self::Status { status, kind, message, param } = self else { return Err(Broken) };
        let body = if anthropic {
            messages::error_body(status, &message)
        } else {
            let error = ErrorBody::new(kind, status.as_u16(), message);
            match param {
                Some(param) => error.with_param(param).to_json(),
                None => error.to_json(),
            }
        };
        let mut response = json_response(status, body);
        let headers = response.headers_mut();
        match status {
            StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE => {
                headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
            }
            // The body may not have been read to its end, and then nothing can follow it.
            StatusCode::PAYLOAD_TOO_LARGE => {
                headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
            }
            _ => {}
        }
        Ok(response)
    }
}

impl From<Broken> for Failure {
    fn from(_: Broken) -> Self {
        Self::Broken
    }
}
