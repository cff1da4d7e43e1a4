//! What happens between two looks of the operator, so that no look ever sees it happen: events that it misses.

use k8s_openapi::api::apps::v1::StatefulSet;
use kube::{
    Api,
    api::{DeleteParams, Patch, PatchParams},
};
use serde_json::{Value, json};

use super::{
    life::Life,
    scene::{Kind, Scene},
};
use crate::support::world::SYSTEM;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unseen {
    /// Somebody edits what means nothing to the operator; writes with the old version are in conflict.
    Annotated,
    /// Somebody changes the spec and changes it back.
    ThereAndBack,
    /// The same, but the operator looks in between.
    SeenOnce,
    /// Somebody deletes the worker's StatefulSet.
    WorkerDeleted,
    /// The worker's pod ends and comes back.
    WorkerRestarted,
    /// The gateway goes on from an older state, without the node.
    GatewayForgot,
}

impl Unseen {
    /// What can happen to a kind.
    pub fn to(kind: Kind) -> &'static [Unseen] {
        use Unseen::*;
        match kind {
            Kind::Network | Kind::Model | Kind::Job => &[Annotated, ThereAndBack, SeenOnce],
            Kind::Node => &[Annotated, ThereAndBack, SeenOnce, WorkerDeleted, WorkerRestarted, GatewayForgot],
        }
    }
}

/// A change of the spec, and what undoes it.
fn change(kind: Kind) -> (Value, Value) {
    match kind {
        Kind::Network => (json!({"paused": true}), json!({"paused": false})),
        Kind::Model => (json!({"replicas": 1}), json!({"replicas": 0})),
        Kind::Node => (json!({"unschedulable": true}), json!({"unschedulable": false})),
        Kind::Job => (json!({"suspend": true}), json!({"suspend": false})),
    }
}

impl Scene {
    pub async fn happen(&self, unseen: Unseen, kind: Kind, name: &str, life: &Life) {
        let (there, back) = change(kind);
        match unseen {
            Unseen::Annotated => {
                let note = json!({"metadata": {"annotations": {"edited": "yes"}}});
                self.patch(kind, name, note).await;
            }
            Unseen::ThereAndBack | Unseen::SeenOnce => {
                self.patch(kind, name, json!({"spec": there})).await;
                if unseen == Unseen::SeenOnce {
                    Box::pin(life.look(kind, name, self)).await;
                }
                self.patch(kind, name, json!({"spec": back})).await;
            }
            Unseen::WorkerDeleted => {
                let _ = self.workers().delete(&format!("worker-{name}"), &DeleteParams::default()).await;
            }
            Unseen::WorkerRestarted => {
                let status = json!({"status": {"replicas": 1, "readyReplicas": 0}});
                let params = PatchParams::default();
                let _ = self.workers().patch_status(&format!("worker-{name}"), &params, &Patch::Merge(&status)).await;
            }
            Unseen::GatewayForgot => {
                let node = self.find(kind, name).await.unwrap_or_default();
                self.gateway.forget_member(node["status"]["peerID"].as_str().unwrap_or_default());
                // What the end of its change stream does.
                life.context.sent.clear();
            }
        }
    }

    fn workers(&self) -> Api<StatefulSet> {
        Api::namespaced(self.island.admin.clone(), SYSTEM)
    }
}
