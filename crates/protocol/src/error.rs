//! Error bodies: written in OpenAI's shape, read in every shape that engines and proxies use.

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// An error answer in OpenAI's shape, `{"error": {"message", "type", "param", "code"}}`.
#[derive(Clone, Debug, Serialize)]
pub struct ErrorBody {
    error: Detail,
}

#[derive(Clone, Debug, Serialize)]
struct Detail {
    message: String,
    #[serde(rename = "type")]
    kind: String,
    param: Option<String>,
    code: Value,
}

impl ErrorBody {
    /// An error of type `kind`. `code` is what a program tells errors apart by: a word, a number or nothing.
    pub fn new(kind: &str, code: impl Into<Value>, message: impl Into<String>) -> Self {
        let error = Detail { message: message.into(), kind: kind.to_owned(), param: None, code: code.into() };
        Self { error }
    }

    /// Names the request member at fault.
    #[must_use]
    pub fn with_param(mut self, param: &str) -> Self {
        self.error.param = Some(param.to_owned());
        self
    }

    /// The body.
    pub fn to_json(&self) -> Vec<u8> {
        serde_json::to_vec(self).unwrap_or_default()
    }
}

/// The error shapes in use: OpenAI's and vLLM's `{"error": {"message"}}`, older vLLM's
/// `{"object": "error", "message"}`, FastAPI's `{"detail"}` and KubeAI's `{"error": "text"}`.
#[derive(Deserialize)]
struct AnyError {
    error: Option<Value>,
    message: Option<Value>,
    detail: Option<Value>,
}

/// The message of an error body, if it is one.
pub fn error_message(body: &[u8]) -> Option<String> {
    let AnyError { error, message, detail } = serde_json::from_slice(body).ok()?;
    [error, message, detail].into_iter().flatten().find_map(|value| text_of(&value))
}

/// The text in an error value: a string, the message of an object, or the messages of a list.
fn text_of(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Object(members) => ["message", "msg", "error", "detail"]
            .iter()
            .find_map(|name| members.get(*name)?.as_str())
            .map(str::to_owned),
        Value::Array(values) => {
            let texts: Vec<_> = values.iter().filter_map(text_of).collect();
            (!texts.is_empty()).then(|| texts.join("; "))
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(body: &str) -> Option<String> {
        error_message(body.as_bytes())
    }

    #[test]
    fn written_in_openais_shape_and_read_back() {
        let body = ErrorBody::new("invalid_request_error", "model_not_found", "no \"x\"")
            .with_param("model")
            .to_json();
        assert_eq!(
            String::from_utf8_lossy(&body),
            r#"{"error":{"message":"no \"x\"","type":"invalid_request_error","param":"model","code":"model_not_found"}}"#
        );
        assert_eq!(error_message(&body).as_deref(), Some("no \"x\""));
        let vllm = ErrorBody::new("NotFoundError", 404, "m").to_json();
        let vllm = String::from_utf8_lossy(&vllm);
        assert_eq!(vllm, r#"{"error":{"message":"m","type":"NotFoundError","param":null,"code":404}}"#);
    }

    #[test]
    fn read_in_every_shape() {
        let says = |text: &str| Some(text.to_owned());
        assert_eq!(message(r#"{"object":"error","message":"too long","code":400}"#), says("too long"));
        assert_eq!(message(r#"{"error":"no such model"}"#), says("no such model"));
        assert_eq!(message(r#"{"type":"error","error":{"type":"t","message":"busy"}}"#), says("busy"));
        assert_eq!(message(r#"{"detail":"Not Found"}"#), says("Not Found"));
        let list = r#"{"detail":[{"loc":["body","model"],"msg":"Field required"},{"msg":"Bad"}]}"#;
        assert_eq!(message(list), says("Field required; Bad"));
        assert_eq!(message(r#"{"error":null,"message":"m"}"#), says("m"));
        for other in ["", "{}", "null", "text", r#"{"error":{}}"#, r#"{"choices":[]}"#, "{\"error\":\"cut"] {
            assert_eq!(message(other), None, "{other}");
        }
        assert_eq!(message(&format!(r#"{{"error":{}"#, "[".repeat(10_000))), None);
    }
}
