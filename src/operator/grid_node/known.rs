//! Pure: what the operator keeps of a node between two looks: its name, and what its triggers go by. A look reads the node anew anyway.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::Deserialize;

use crate::{
    api::{grid_node::GridNode, refs::NameRef},
    operator::runner,
};

/// A node as it is known between two looks.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(from = "Facts")]
pub struct KnownNode {
    metadata: ObjectMeta,
    /// Name of its GridNetwork.
    pub network: String,
    /// Names of its GridModels.
    pub models: Box<[String]>,
    /// By which it is known before and after its first status.
    pub peer_id: Option<String>,
}

/// The fields of a GridNode that are looked at; all others are passed over while it is read.
#[derive(Deserialize)]
struct Facts {
    metadata: ObjectMeta,
    spec: Spec,
    #[serde(default)]
    status: Option<Status>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Spec {
    network_ref: NameRef,
    #[serde(default)]
    models: Vec<String>,
    #[serde(default, rename = "peerID")]
    peer_id: Option<String>,
}

#[derive(Deserialize)]
struct Status {
    #[serde(default, rename = "peerID")]
    peer_id: Option<String>,
}

impl From<Facts> for KnownNode {
    fn from(Facts { metadata, spec, status }: Facts) -> Self {
        KnownNode {
            metadata: runner::named(metadata),
            network: spec.network_ref.name,
            models: spec.models.into(),
            peer_id: spec.peer_id.or(status.and_then(|status| status.peer_id)),
        }
    }
}

runner::stands_for!(KnownNode, GridNode);

#[cfg(test)]
mod tests {
    use kube::ResourceExt;
    use serde_json::{Value, json};

    use super::*;

    fn known(spec_peer: Option<&str>, status: Value) -> KnownNode {
        let metadata = json!({"name": "n", "uid": "u", "labels": {"a": "b"}, "annotations": {"c": "d"}});
        let spec = json!({
            "networkRef": {"name": "main"}, "mode": "External", "peerID": spec_peer, "models": ["m"],
            "availability": {"windows": []}, "drain": {"deadlineSeconds": 9},
        });
        serde_json::from_value(json!({"metadata": metadata, "spec": spec, "status": status})).unwrap()
    }

    #[test]
    fn a_node_is_known_by_its_name_and_by_what_its_triggers_go_by() {
        let node = known(None, json!({"conditions": [], "columns": {"gpu": "none"}}));
        assert_eq!((node.network.as_str(), node.models.join(","), &node.peer_id), ("main", "m".into(), &None));
        assert_eq!((node.name_any().as_str(), node.uid().as_deref()), ("n", Some("u")));
        assert!(node.labels().is_empty() && node.annotations().is_empty());
    }

    #[test]
    fn a_node_is_known_by_the_peer_of_its_spec_and_else_by_that_of_its_status() {
        let status = json!({"peerID": "of-status"});
        assert_eq!(known(Some("of-spec"), status.clone()).peer_id.as_deref(), Some("of-spec"));
        assert_eq!(known(None, status).peer_id.as_deref(), Some("of-status"));
    }
}
