//! IO: makes, changes and removes nodes.

use futures::{StreamExt, TryStreamExt, stream};
use kube::{
    Api, ResourceExt,
    api::{DeleteParams, Preconditions},
};

use super::{
    MANAGER,
    build::PoolResources,
    choose::{Candidate, to_remove},
    dereference::{Refs, is_ready},
};
use crate::{
    api::{grid_node::GridNode, ids::GridPeerId},
    operator::{
        context::Context,
        error::{Error, is_not_found},
        gateway::GatewayError,
        write,
    },
};

/// Calls to the gateway at once.
const ASK_AT_ONCE: usize = 16;

/// What came of it.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Applied {
    pub added: usize,
    pub removed: usize,
    /// Why none was removed although there are too many.
    pub held_back: Option<GatewayError>,
}

pub async fn apply(wanted: PoolResources, refs: &Refs, context: &Context) -> Result<Applied, Error> {
    // Without `..`: whoever adds a resource has to say here what becomes of it.
    let PoolResources { kept, added, surplus } = wanted;
    let api: Api<GridNode> = Api::all(context.client.clone());
    let mut applied = Applied { added: added.len(), ..Applied::default() };
    if surplus > 0 {
        match candidates(refs, context).await {
            Ok(candidates) => {
                for node in to_remove(&candidates, surplus) {
                    delete(node, context).await?;
                    applied.removed += 1;
                }
            }
            // A gateway that is away cannot say who is idle, and nothing is so urgent that work is thrown away for it.
            Err(error) => applied.held_back = Some(error),
        }
    }
    for node in kept {
        let found = refs.live().find(|found| found.name_any() == node.name_any());
        write::apply_over(&api, MANAGER, node, found).await?;
    }
    for node in added {
        write::apply_over(&api, MANAGER, node, None).await?;
    }
    Ok(applied)
}

async fn candidates<'a>(refs: &'a Refs, context: &Context) -> Result<Vec<Candidate<'a>>, GatewayError> {
    let asked: Vec<_> = refs.live().map(|node| candidate(node, context)).collect();
    stream::iter(asked).buffered(ASK_AT_ONCE).try_collect().await
}

async fn candidate<'a>(node: &'a GridNode, context: &Context) -> Result<Candidate<'a>, GatewayError> {
    Ok(Candidate { node, idle: is_idle(node, context).await?, ready: is_ready(node) })
}

/// A node that the gateway does not know has no work.
async fn is_idle(node: &GridNode, context: &Context) -> Result<bool, GatewayError> {
    let peer = node.status.as_ref().and_then(|status| status.peer_id.as_deref());
    let Some(peer) = peer.and_then(|peer| peer.parse::<GridPeerId>().ok()) else { return Ok(true) };
    Ok(context.gateway.node(&peer).await?.is_none_or(|report| report.running == 0))
}

/// The node that was looked at and no other of its name.
pub async fn delete(node: &GridNode, context: &Context) -> Result<(), Error> {
    let api: Api<GridNode> = Api::all(context.client.clone());
    let this_one = Preconditions { uid: node.uid(), ..Preconditions::default() };
    match api.delete(&node.name_any(), &DeleteParams::default().preconditions(this_one)).await {
        Ok(_) => Ok(()),
        Err(error) if is_not_found(&error) => Ok(()),
        Err(kube::Error::Api(status)) if status.code == 409 => Ok(()),
        Err(error) => Err(error.into()),
    }
}
