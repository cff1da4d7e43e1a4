//! Small types that several kinds use: references by name, quantities, the record of one chain transaction.

use k8s_openapi::{ByteString, apimachinery::pkg::api::resource::Quantity};
use kube::KubeSchema;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

/// Refers to a cluster-scoped object of this group by name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct NameRef {
    /// Name of the object.
    #[schemars(length(min = 1, max = 253), regex(pattern = r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$"))]
    pub name: String,
}

/// One key of a Secret in the operator's namespace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SecretKeyRef {
    /// Name of the Secret, in the namespace of the operator.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// Key in the Secret's data.
    #[serde(default = "private_key")]
    #[schemars(length(min = 1, max = 253))]
    pub key: String,
}

fn private_key() -> String {
    "privateKey".into()
}

/// One key of a ConfigMap in the job's namespace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ConfigMapKeyRef {
    /// Name of the ConfigMap, in the job's namespace, for example `prompts`.
    #[schemars(length(min = 1, max = 253), regex(pattern = r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$"))]
    pub name: String,
    /// Key in the ConfigMap's data, for example `input.jsonl`.
    #[schemars(length(min = 1, max = 253))]
    pub key: String,
}

/// A ConfigMap in the job's namespace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ConfigMapRef {
    /// Name of the ConfigMap, for example `hello-results`.
    #[schemars(length(min = 1, max = 253), regex(pattern = r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$"))]
    pub name: String,
}

/// A Secret in the job's own namespace with the credentials of a bucket.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct BucketSecretRef {
    /// Name of a Secret in the job's namespace with the keys `AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY` and, where there is
    /// one, `AWS_SESSION_TOKEN`. For example `bucket`.
    #[schemars(length(min = 1, max = 253), regex(pattern = r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$"))]
    pub name: String,
}

/// A place in an S3 bucket.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct S3Ref {
    /// Bucket and key, for example `s3://prompts/2026/input.jsonl`; for an output the folder, for example `s3://answers/today/`.
    #[schemars(length(max = 1024), regex(pattern = r"^s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9](/[^\s?#]*)?$"))]
    pub uri: String,
    /// Where the S3 API is, for example `http://seaweedfs.storage.svc:8333`; absent means Amazon's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 512), regex(pattern = r"^https?://[^\s/?#@]+/?$"))]
    pub endpoint: Option<String>,
    /// Region that requests are signed for, for example `eu-central-1`.
    #[serde(default = "region")]
    #[schemars(length(min = 1, max = 63), regex(pattern = "^[a-z0-9-]+$"))]
    pub region: String,
    /// Credentials; absent means that the bucket is open to everybody.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_ref: Option<BucketSecretRef>,
}

pub(super) fn region() -> String {
    "us-east-1".into()
}

/// A Kubernetes quantity, a number or a string, as in `cpu: 2` or `memory: 1Gi`.
pub(super) fn quantity(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "x-kubernetes-int-or-string": true,
        "maxLength": 20,
        "pattern": r"^[0-9]+(\.[0-9]{1,6})?(m|k|M|G|T|Ki|Mi|Gi|Ti)?$",
    })
}

/// Node labels: at most 16.
pub(super) fn labels(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "object",
        "maxProperties": 16,
        "additionalProperties": {"type": "string", "maxLength": 63},
    })
}

/// Labels with sound values: at most 16. Keys are checked where they are used; a schema cannot say how a key looks.
pub(super) fn label_values(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "object",
        "maxProperties": 16,
        "additionalProperties": {
            "type": "string",
            "maxLength": 63,
            "pattern": r"^(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?$",
        },
    })
}

/// Annotations: at most 16, together less than 16 KiB.
pub(super) fn annotation_values(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "object",
        "maxProperties": 16,
        "additionalProperties": {"type": "string", "maxLength": 1024},
    })
}

/// Whether `key` can be the key of a label or an annotation: an optional DNS prefix of at most 253 characters, and a name of at
/// most 63.
pub fn is_qualified_name(key: &str) -> bool {
    let (prefix, name) = match key.split_once('/') {
        Some((prefix, name)) => (Some(prefix), name),
        None => (None, key),
    };
    let bounded = |part: &str, max: usize, inner: fn(u8) -> bool| {
        let ends = |byte: Option<u8>| byte.is_some_and(|byte| byte.is_ascii_alphanumeric());
        part.len() <= max && part.bytes().all(inner) && ends(part.bytes().next()) && ends(part.bytes().last())
    };
    let in_prefix = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'-' | b'.');
    let in_name = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    bounded(name, 63, in_name) && prefix.is_none_or(|prefix| bounded(prefix, 253, in_prefix))
}

/// Bytes in a quantity such as `10Gi`; `None` for a number that is no quantity or does not fit.
pub fn quantity_bytes(quantity: &Quantity) -> Option<u64> {
    let text = quantity.0.as_str();
    let split = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, suffix) = text.split_at(split);
    let scale: f64 = match suffix {
        "" => 1.0,
        "m" => 1e-3,
        "k" => 1e3,
        "M" => 1e6,
        "G" => 1e9,
        "T" => 1e12,
        "Ki" => 1024.0,
        "Mi" => 1_048_576.0,
        "Gi" => 1_073_741_824.0,
        "Ti" => 1_099_511_627_776.0,
        _ => return None,
    };
    let bytes = number.parse::<f64>().ok()? * scale;
    (bytes < 9e15).then_some(bytes as u64)
}

/// How far a transaction of the operator is. Each step is written down before the next one is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub enum TransactionState {
    /// Decided, not yet signed.
    Planned,
    /// Signed: nonce and bytes are fixed, and these bytes are the only ones ever sent for it.
    Signed,
    /// Accepted by an endpoint.
    Sent,
    /// In a block that may still be reorganised.
    Included,
    /// In a block that the chain calls final.
    Finalized,
    /// Reverted, or its nonce went to another transaction.
    Failed,
}

/// One chain transaction: what a person wants to see of it, and the outbox record that a restart goes on from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct TransactionStatus {
    /// How far it is.
    pub state: TransactionState,
    /// Nonce of the signing account.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nonce: Option<i64>,
    /// Hash of the transaction that was mined, else of the last one that was signed.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 66))]
    pub transaction_hash: Option<String>,
    /// Block that holds it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub block_number: Option<i64>,
    /// Gas that it used.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gas_used: Option<i64>,
    /// What its gas cost, in wei.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 40))]
    pub fee_wei: Option<String>,
    /// Why it failed, in words.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1024))]
    pub message: Option<String>,
    /// The record with the signed bytes: JSON, zstd, base64. After a restart the same bytes are sent again, never others.
    #[schemars(schema_with = "packed_record")]
    pub record: ByteString,
}

fn packed_record(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "string", "maxLength": 400_000})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_of_labels_are_told_from_other_text() {
        for good in ["team", "example.com/team", "a_B.c-9"] {
            assert!(is_qualified_name(good), "{good}");
        }
        for bad in ["", "/a", "a/", "-a", "a b", "Example.com/a", "a/b/c", &"x".repeat(64)] {
            assert!(!is_qualified_name(bad), "{bad}");
        }
    }

    #[test]
    fn quantities_become_bytes() {
        for (text, bytes) in [("10Gi", 10 << 30), ("1.5Ki", 1536), ("7", 7), ("2M", 2_000_000)] {
            assert_eq!(quantity_bytes(&Quantity(text.into())), Some(bytes), "{text}");
        }
        for bad in ["", "Gi", "1Zi", "99999999999Ti"] {
            assert_eq!(quantity_bytes(&Quantity(bad.into())), None, "{bad}");
        }
    }
}
