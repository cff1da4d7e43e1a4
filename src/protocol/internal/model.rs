//! A model, as the operator tells the gateway and hears of it.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::Endpoint;
use crate::api::ids::ModelDigest;

/// Where a model comes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ModelSource {
    pub digest: ModelDigest,
    pub name: String,
    /// A [`crate::protocol::place::ModelPlace`], open to everybody or not. Without credentials: it is kept.
    pub url: String,
    /// Tokens; 0 = what the file says.
    pub context_length: u32,
    /// What the file is. Not written for GGUF, so that sources of before formats were told stay the same bytes.
    #[serde(default, skip_serializing_if = "ModelFormat::is_gguf")]
    pub format: ModelFormat,
    /// Units per output token; 0 = by the size of the file (`gateway::models`).
    pub cost_per_token: u64,
    /// Storage nodes that must hold it.
    pub replicas: u32,
    /// Jinja template of chats, at most [`super::MAX_CHAT_TEMPLATE`] bytes; empty, and not written: the file's own.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub chat_template: String,
}

/// A [`ModelSource`], and how to read it where the place is not open to everybody.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ModelOrder {
    #[serde(flatten)]
    pub source: ModelSource,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub access: Option<SourceAccess>,
}

impl From<ModelSource> for ModelOrder {
    fn from(source: ModelSource) -> Self {
        ModelOrder { source, access: None }
    }
}

/// What opens a place. Held in memory only, and never printed.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub enum SourceAccess {
    /// A URL that gives the file for some hours, in place of the source's own.
    SignedUrl(String),
    /// For a registry.
    Login { username: String, password: String },
}

impl fmt::Debug for SourceAccess {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            SourceAccess::SignedUrl(_) => "SignedUrl(…)",
            SourceAccess::Login { .. } => "Login(…)",
        })
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum ModelState {
    Fetching,
    Ready,
    Failed,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ModelReport {
    pub digest: ModelDigest,
    pub state: ModelState,
    /// For `Failed`: `ModelDigestMismatch`, `ModelUnreachable`, `ModelTooLarge`, …
    #[serde(default)]
    pub reason: String,
    #[serde(default)]
    pub message: String,
    pub bytes: u64,
    pub fetched_bytes: u64,
    /// Workers that can serve it now.
    pub serving: u32,
    /// Storage nodes that proved to hold it.
    pub copies: u32,
    /// Opens the file on the public port, at [`model_file_path`]. An older gateway has none.
    #[serde(default)]
    pub read_key: String,
}

/// Where the gateway's public port gives the file of a model, to whoever has its read key.
pub fn model_file_path(digest: &ModelDigest, read_key: &str) -> String {
    format!("/grid/v1/models/{digest}/file?key={read_key}")
}

/// What a model file is, and with it which endpoints it can serve.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum ModelFormat {
    /// A decoder: writes text.
    #[default]
    #[serde(rename = "GGUF")]
    Gguf,
    /// An encoder as a tar of Safetensors, configuration and tokenizer: makes embeddings.
    Safetensors,
    /// A decoder as such a tar.
    SafetensorsDecoder,
}

impl ModelFormat {
    /// Whether a model of this format answers requests of an endpoint.
    pub fn serves(self, endpoint: Endpoint) -> bool {
        (self == ModelFormat::Safetensors) == (endpoint == Endpoint::Embeddings)
    }

    fn is_gguf(&self) -> bool {
        *self == ModelFormat::Gguf
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEPT: &str = r#"{"digest":"0101010101010101010101010101010101010101010101010101010101010101","name":"m","url":"https://host/m","contextLength":0,"costPerToken":0,"replicas":1}"#;

    #[test]
    fn an_order_without_access_is_its_source() {
        let order: ModelOrder = serde_json::from_str(KEPT).unwrap();
        assert_eq!(order.source, serde_json::from_str(KEPT).unwrap());
        assert_eq!(serde_json::to_string(&order).unwrap(), KEPT);
    }

    #[test]
    fn an_order_carries_access_and_nothing_else() {
        let with = |more: &str| serde_json::from_str::<ModelOrder>(&KEPT.replace("\"replicas\"", more));
        let order = with(r#""access":{"login":{"username":"u","password":"p"}},"replicas""#).unwrap();
        assert_eq!(order.access, Some(SourceAccess::Login { username: "u".into(), password: "p".into() }));
        assert!(format!("{order:?}").contains("Login(…)"));
        assert!(with(r#""surprise":1,"replicas""#).is_err());
        assert!(
            serde_json::from_str::<ModelSource>(&KEPT.replace("\"replicas\"", r#""access":null,"replicas""#)).is_err()
        );
    }
}
