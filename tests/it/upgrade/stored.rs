//! Objects in the API server: those of the version before this one, from files, and some that only this one knows.

use std::path::PathBuf;

use alloy::primitives::keccak256;
use k8s_openapi::{
    ByteString,
    api::core::v1::{ConfigMap, Secret},
};
use kube::{
    Api, Client, ResourceExt,
    api::{ApiResource, DeleteParams, DynamicObject, ListParams, Patch, PatchParams},
    core::GroupVersionKind,
};
use serde::Deserialize;
use serde_json::{Value, json};
use xdc_grid::{
    api::ids::{NodeAddress, Wei},
    protocol::identity::NodeKey,
    reward::{RewardLeaf, RewardTree, TreeDomain, compress_leaves},
};

use super::TEAM;
use crate::support::world::{NETWORK, SYSTEM, create_in};

/// The kinds in the order in which objects of them are made, and their files.
const FILES: [&str; 6] =
    ["gridnetworks", "gridmodels", "gridnodes", "gridnodepools", "inferencejobs", "contributionreports"];

/// What stands for the words in the files.
pub struct Words(Vec<(&'static str, String)>);

impl Default for Words {
    fn default() -> Self {
        Words::new(&NodeKey::from_bytes(&[7; 32]).unwrap(), &leaves())
    }
}

impl Words {
    fn new(key: &NodeKey, leaves: &RewardTree) -> Self {
        let now = jiff::Timestamp::from_second(jiff::Timestamp::now().as_second()).unwrap();
        let record = std::fs::read(folder().join("outbox-record.json")).unwrap();
        let packed = ByteString(zstd::bulk::compress(&record, 3).unwrap());
        let hash = keccak256(leaves.packed());
        Words(vec![
            ("$NOW", now.to_string()),
            ("$PEER", key.peer_id().to_string()),
            ("$RECORD", serde_json::to_value(packed).unwrap().as_str().unwrap().to_owned()),
            ("$ROOT", leaves.root().to_string()),
            ("$HASH", hash.to_string()),
            ("$LEAVES", leaves_name(leaves)),
        ])
    }
}

/// The leaves of the planned report: one node's 5 XDC.
fn leaves() -> RewardTree {
    let contract = "0x00000000000000000000000000000000000000aa".parse().unwrap();
    let domain = TreeDomain { chain_id: 51, contract };
    let leaf = RewardLeaf { node: NodeAddress([0xdd; 20]), cumulative: Wei(5 * Wei::XDC.0) };
    RewardTree::build(domain, [leaf]).unwrap()
}

fn leaves_name(leaves: &RewardTree) -> String {
    format!("{NETWORK}-0-{}", hex::encode(&keccak256(leaves.packed())[..6]))
}

fn folder() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/upgrade/previous"))
}

/// The objects of the files.
pub fn objects(words: &Words) -> Vec<Value> {
    let mut found = Vec::new();
    for file in FILES {
        let path = folder().join("objects").join(format!("{file}.yaml"));
        let mut text = std::fs::read_to_string(&path).unwrap();
        for (word, value) in &words.0 {
            text = text.replace(word, value);
        }
        for document in serde_yaml::Deserializer::from_str(&text) {
            found.push(Value::deserialize(document).unwrap_or_else(|error| panic!("{}: {error}", path.display())));
        }
    }
    found
}

/// An object, as it was when it was stored.
pub struct Stored {
    api: Api<DynamicObject>,
    pub was: Value,
    /// JSON pointers to what the previous version's schemas do not know.
    pub only_today: Vec<&'static str>,
}

/// Where an object is.
pub fn api_of(client: &Client, object: &Value) -> Api<DynamicObject> {
    let kind = object["kind"].as_str().unwrap();
    let resource = ApiResource::from_gvk(&GroupVersionKind::gvk("xdcgrid.io", "v1alpha1", kind));
    match object["metadata"]["namespace"].as_str() {
        Some(namespace) => Api::namespaced_with(client.clone(), namespace, &resource),
        None => Api::all_with(client.clone(), &resource),
    }
}

/// Makes the files' objects as the previous version did, with all that belongs to them, and reads them back.
pub async fn store(client: &Client, key: &NodeKey) -> Vec<Stored> {
    let leaves = leaves();
    let map = json!({
        "metadata": {"name": leaves_name(&leaves)}, "immutable": true,
        "binaryData": {"leaves.zst": ByteString(compress_leaves(&leaves.packed()).unwrap())},
    });
    create_in::<ConfigMap>(client, SYSTEM, map).await;
    let secret = json!({
        "metadata": {"name": "worker-worker-cpu-key"}, "immutable": true,
        "stringData": {"node.key": hex::encode(key.secret_bytes())},
    });
    create_in::<Secret>(client, SYSTEM, secret).await;
    create_in::<ConfigMap>(client, TEAM, json!({"metadata": {"name": "prompts"}, "data": {"p": "one\ntwo"}})).await;
    let mut stored = Vec::new();
    for object in objects(&Words::new(key, &leaves)) {
        stored.push(store_one(client, object, Vec::new()).await);
    }
    stored
}

/// An object and its status, as a user and the operator write them.
async fn store_one(client: &Client, object: Value, only_today: Vec<&'static str>) -> Stored {
    let api = api_of(client, &object);
    let name = object["metadata"]["name"].as_str().unwrap().to_owned();
    let kind = object["kind"].as_str().unwrap().to_lowercase();
    let (mut user, mut operator) = (object.clone(), object.clone());
    user.as_object_mut().unwrap().remove("status");
    operator.as_object_mut().unwrap().remove("spec");
    let by_user = PatchParams::apply("it-user").validation_strict();
    let made = api.patch(&name, &by_user, &Patch::Apply(&user)).await;
    let mut made = made.unwrap_or_else(|error| panic!("{kind} {name}: {error}"));
    if object.get("status").is_some() {
        let by_operator = PatchParams::apply(&format!("xdc-grid-{kind}")).validation_strict();
        let made_status = api.patch_status(&name, &by_operator, &Patch::Apply(&operator)).await;
        made = made_status.unwrap_or_else(|error| panic!("status of {kind} {name}: {error}"));
    }
    let was = serde_json::to_value(made).unwrap();
    let not_taken = lost(&object, &was);
    assert!(not_taken.is_empty(), "{kind} {name} was stored without {not_taken:?}");
    Stored { api, was, only_today }
}

/// Objects with fields and values that the previous schemas do not have.
pub async fn store_what_only_today_knows(client: &Client) -> Vec<Stored> {
    let model = json!({
        "apiVersion": "xdcgrid.io/v1alpha1", "kind": "GridModel", "metadata": {"name": "encoder"},
        "spec": {"source": {"url": "http://models/encoder.tar"}, "sha256": "ab".repeat(32), "format": "Safetensors"},
    });
    let s3 = |key: &str| json!({"s3": {"uri": format!("s3://bucket/{key}"), "secretRef": {"name": "bucket"}}});
    let job = json!({
        "apiVersion": "xdcgrid.io/v1alpha1", "kind": "InferenceJob", "metadata": {"name": "newer", "namespace": TEAM},
        "spec": {
            "workload": {
                "modelRef": {"name": "encoder"}, "endpoint": "/v1/embeddings", "shardSize": 50,
                "input": s3("input.jsonl"), "output": s3("answers/"),
            },
            "placement": {"target": "Local", "local": {"resources": {"cpu": 2, "memory": "4Gi"}}},
            "verification": {"mode": "Full"}, "managedBy": "example.com/somebody", "startDeadlineSeconds": 60,
        },
        "status": {
            "phase": "Complete", "inputSha256": "ab".repeat(32),
            "output": {
                "place": "s3://bucket/answers/", "s3": "s3://bucket/answers/manifest.json", "bytes": 10, "parts": 1,
                "resultsSha256": "ab".repeat(32), "errorsSha256": "cd".repeat(32), "manifestSha256": "ef".repeat(32),
            },
        },
    });
    let only_today = vec![
        "/spec/workload/shardSize",
        "/spec/workload/input/s3",
        "/spec/workload/output/s3",
        "/spec/placement/local",
        "/spec/verification/mode",
        "/spec/managedBy",
        "/spec/startDeadlineSeconds",
        "/status/inputSha256",
        "/status/output/place",
        "/status/output/manifestSha256",
    ];
    vec![store_one(client, model, Vec::new()).await, store_one(client, job, only_today).await]
}

impl Stored {
    pub fn kind(&self) -> &str {
        self.was["kind"].as_str().unwrap()
    }

    fn object_name(&self) -> &str {
        self.was["metadata"]["name"].as_str().unwrap()
    }

    /// Kind and name.
    pub fn name(&self) -> String {
        format!("{} {}", self.kind(), self.object_name())
    }

    pub async fn read(&self) -> Value {
        let found = self.api.get(self.object_name()).await.unwrap_or_else(|error| panic!("{}: {error}", self.name()));
        serde_json::to_value(found).unwrap()
    }

    pub async fn is_listed(&self) -> bool {
        let all = self.api.list(&ListParams::default()).await.unwrap().items;
        all.iter().any(|object| object.name_any() == self.object_name())
    }

    /// A merge patch, as `kubectl patch --type=merge` sends it.
    pub async fn change(&self, patch: &Value) -> Result<(), String> {
        let changed = self.api.patch(self.object_name(), &PatchParams::default(), &Patch::Merge(patch)).await;
        changed.map(drop).map_err(|error| error.to_string())
    }

    /// Writes a condition, as an operator of the previous version does.
    pub async fn write_status(&self) -> Result<(), String> {
        let condition = json!({
            "type": "Looked", "status": "True", "reason": "Looked", "message": "", "lastTransitionTime": "2026-11-27T18:00:00Z",
        });
        let patch = json!({"status": {"conditions": [condition]}});
        let written = self.api.patch_status(self.object_name(), &PatchParams::default(), &Patch::Merge(&patch)).await;
        written.map(drop).map_err(|error| error.to_string())
    }

    /// A new object with the same spec; nothing is stored.
    pub async fn create_another(&self, name: &str) -> Result<(), String> {
        let mut another = json!({
            "apiVersion": self.was["apiVersion"], "kind": self.was["kind"], "metadata": {"name": name}, "spec": self.was["spec"],
        });
        if let Some(namespace) = self.was["metadata"].get("namespace") {
            another["metadata"]["namespace"] = namespace.clone();
        }
        let trial = PatchParams::apply("it-user").dry_run();
        self.api.patch(name, &trial, &Patch::Apply(&another)).await.map(drop).map_err(|error| error.to_string())
    }

    /// Deletes it, with finalizers that nobody is here to take off.
    pub async fn delete(&self) {
        if !self.read().await["metadata"]["finalizers"].is_null() {
            self.change(&json!({"metadata": {"finalizers": null}})).await.unwrap();
        }
        let deleted = self.api.delete(self.object_name(), &DeleteParams::default()).await;
        deleted.unwrap_or_else(|error| panic!("{} cannot be deleted: {error}", self.name()));
        assert!(self.api.get_opt(self.object_name()).await.unwrap().is_none(), "{} is still there", self.name());
    }
}

/// Pointers to fields of `before` that `after` does not have, or has with another value; what the API server itself writes is
/// not compared.
pub fn lost(before: &Value, after: &Value) -> Vec<String> {
    let mut found = Vec::new();
    compare("", before, after, &mut found);
    found
}

fn compare(path: &str, before: &Value, after: &Value, found: &mut Vec<String>) {
    match (before, after) {
        (Value::Object(fields), Value::Object(kept)) => {
            for (name, value) in fields {
                let path = format!("{path}/{name}");
                match kept.get(name) {
                    _ if path == "/metadata" => {}
                    Some(kept) => compare(&path, value, kept, found),
                    None => found.push(path),
                }
            }
        }
        (Value::Array(entries), Value::Array(kept)) if entries.len() == kept.len() => {
            for (index, (entry, kept)) in entries.iter().zip(kept).enumerate() {
                compare(&format!("{path}/{index}"), entry, kept, found);
            }
        }
        _ if before == after => {}
        _ => found.push(path.to_owned()),
    }
}
