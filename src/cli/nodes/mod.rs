//! `kubectl grid nodes`, `cordon`, `uncordon` and `drain`: the nodes of the grid, and how an admin takes one out and back in.

mod cordon;
mod drain;
mod list;

use kube::{
    ResourceExt,
    api::{Patch, PatchParams},
};
use serde_json::json;

use super::{CliError, FIELD_MANAGER, lookup, session::Session};
use crate::api::grid_node::GridNode;

pub use cordon::{CordonArgs, UncordonArgs, run as cordon, uncordon};
pub use drain::{DrainArgs, run as drain};
pub use list::{NodesArgs, cells, run};

/// Names as `kubectl get -o name` writes them.
fn full_name(name: &str) -> String {
    format!("gridnode.xdcgrid.io/{name}")
}

/// Keeps new work away from a node, or lets it in again. Writes nothing when it is so already; says whether it was.
async fn set_unschedulable(session: &Session, name: &str, wanted: bool) -> Result<(GridNode, Change), CliError> {
    let node = lookup::node(session, name).await?;
    if node.spec.unschedulable == wanted {
        return Ok((node, Change::Already));
    }
    let patch = json!({"spec": {"unschedulable": wanted}, "metadata": {"uid": node.uid()}});
    let parameters = PatchParams { field_manager: Some(FIELD_MANAGER.into()), ..PatchParams::default() };
    let patched = lookup::nodes(session).patch(name, &parameters, &Patch::Merge(&patch)).await;
    let patched = patched.map_err(|error| CliError::from_kube(error, "GridNode", name, None))?;
    Ok((patched, Change::Made))
}

/// What a write did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Change {
    Made,
    Already,
}
