//! `api`, `server` and `tokenizer`: whom requests go to, and how they are written.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::schema::{section, words};

words! {
    /// The operation that is asked for.
    ApiType {
        /// `/v1/completions`.
        Completion = "completion",
        /// `/v1/chat/completions`.
        Chat = "chat",
        /// `/v1/messages`.
        AnthropicMessages = "anthropic_messages",
    }
}

words! {
    /// The form of an answer.
    ResponseFormatType {
        /// By a schema.
        JsonSchema = "json_schema",
        /// Any JSON object.
        JsonObject = "json_object",
    }
}

words! {
    /// The server's software: decides which of its metrics are asked for.
    ServerType {
        /// vLLM.
        Vllm = "vllm",
        /// SGLang.
        Sglang = "sglang",
        /// Text Generation Inference.
        Tgi = "tgi",
        /// No server: a simulated engine is started for the run.
        Mock = "mock",
    }
}

section! {
    /// How requests are written.
    Api {
        /// Operation: `/v1/completions`, `/v1/chat/completions` or `/v1/messages`.
        r#type: ApiType = ApiType::Completion;
        /// Ask for server-sent events. Without them there is no time to first token, per token or between tokens.
        streaming: bool = false;
        /// Extra headers.
        headers: Option<BTreeMap<String, String>> = None;
        /// Unit of the values in the SLO headers: s, ms or us (null: ms).
        slo_unit: Option<String> = None;
        /// The header whose value is the request's limit for the time to first token (null: `x-slo-ttft-<unit>`).
        slo_ttft_header: Option<String> = None;
        /// The header whose value is the request's limit for the time per output token (null: `x-slo-tpot-<unit>`).
        slo_tpot_header: Option<String> = None;
        /// Form of the answers, sent as OpenAI's `response_format`.
        response_format: Option<ResponseFormat> = None;
        /// The header that carries a session's name.
        session_id_header_key: Option<String> = None;
        /// The header whose value the server chooses and the session repeats.
        session_token_header_key: Option<String> = None;
    }
}

section! {
    /// The form of answers.
    ResponseFormat {
        /// By a schema, or any JSON object.
        r#type: ResponseFormatType = ResponseFormatType::JsonSchema;
        /// Name of the schema.
        name: String = "structured_output".to_owned();
        /// The schema.
        json_schema: Option<Value> = None;
    }
}

section! {
    /// The server under load.
    Server {
        /// Software of the server.
        r#type: ServerType = ServerType::Vllm;
        /// Model to ask for (null: the first that the server lists).
        model_name: Option<String> = None;
        /// Where it is; `/v1` at the end may be left out. Required, but for `mock`.
        base_url: String = String::new();
        /// Ask the server to go on after the end-of-sequence token.
        ignore_eos: bool = true;
        /// Sent as a bearer token, or as `x-api-key` with `anthropic_messages`.
        api_key: Option<String> = None;
        /// Client certificate (PEM), shown to an `https` server that asks for one.
        cert_path: Option<String> = None;
        /// Key of the client certificate (PEM); one is not given without the other.
        key_path: Option<String> = None;
    }
}

section! {
    /// Counts tokens.
    TokenizerConfig {
        /// A `tokenizer.json`, a tiktoken file, or a folder with one of them. A name on a hub is not fetched: lengths
        /// are then estimated at four bytes a token.
        pretrained_model_name_or_path: Option<String> = None;
        /// Has no effect: code of models is never run.
        trust_remote_code: Option<bool> = None;
        /// Has no effect: nothing is fetched.
        token: Option<String> = None;
        /// Has no effect: nothing is fetched.
        load_timeout: Option<f64> = Some(300.0);
    }
}

impl Api {
    /// The limits for the times to first token and per output token that headers state, in seconds.
    pub fn header_objectives(&self) -> [Option<f64>; 2] {
        let unit = self.slo_unit.as_deref().unwrap_or("ms");
        let factor = match unit {
            "s" => 1.0,
            "us" => 1e-6,
            _ => 1e-3,
        };
        [(&self.slo_ttft_header, "ttft"), (&self.slo_tpot_header, "tpot")].map(|(header, what)| {
            let name = header.clone().unwrap_or_else(|| format!("x-slo-{what}-{unit}"));
            let mut headers = self.headers.iter().flatten();
            let (_, value) = headers.find(|(given, _)| given.eq_ignore_ascii_case(&name))?;
            Some(value.parse::<f64>().ok()? * factor)
        })
    }
}

impl ResponseFormat {
    /// The value of `response_format` in a body.
    pub fn body(&self) -> Value {
        let mut body = Map::from_iter([("type".to_owned(), Value::from(self.r#type.word()))]);
        if self.r#type == ResponseFormatType::JsonSchema {
            let schema = self.json_schema.clone().unwrap_or_else(|| Value::Object(Map::new()));
            body.insert("json_schema".to_owned(), serde_json::json!({"name": self.name, "schema": schema}));
        }
        Value::Object(body)
    }
}
