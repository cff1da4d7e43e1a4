//! GridNodePool: as many GridNodes as its replicas say, made from its template. Talks to the API server, and asks the gateway
//! which nodes are idle before it removes any. Never removes a node otherwise than by deleting it, so each drains like any other.

pub mod apply;
pub mod build;
pub mod choose;
pub mod dereference;
pub mod status;
pub mod validate;

use std::{sync::Arc, time::Duration};

use kube::{
    Api, ResourceExt,
    core::PartialObjectMeta,
    runtime::{
        controller::Action,
        finalizer::{self, Event},
        reflector::ObjectRef,
        watcher,
    },
};
use tokio_util::sync::CancellationToken;

use super::{
    context::Context,
    error::Error,
    finalizers,
    grid_node::validate::POOL_LABEL,
    runner::{self, Guarded},
    watches,
};
use crate::api::{grid_node::GridNode, grid_node_pool::GridNodePool};

/// Field manager of this controller.
pub const MANAGER: &str = "xdc-grid-gridnodepool";
/// Its nodes are cluster-scoped and cannot be owned by a namespaced object; they go before it does.
const FINALIZER: &str = "xdcgrid.io/remove-nodes";

/// A gateway that comes back tells nodes first; a pool that waits for it looks itself.
const LOOK_AGAIN: Duration = Duration::from_secs(10);

pub async fn run(context: Arc<Context>, stop: CancellationToken) {
    let namespace = context.config.namespace.clone();
    let controller = runner::controller(Api::<Guarded<GridNodePool>>::all(context.client.clone()), &context);
    let ours = watcher::Config::default().labels(POOL_LABEL);
    // Metadata only: what else they say is read when their pool is looked at.
    let nodes = Api::<PartialObjectMeta<GridNode>>::all(context.client.clone());
    let controller = controller.watches_stream(watches::touched(nodes, ours), move |node| {
        node.labels().get(POOL_LABEL).map(|pool| ObjectRef::<Guarded<GridNodePool>>::new(pool).within(&namespace))
    });
    runner::run(controller, context, stop, reconcile).await;
}

async fn reconcile(pool: Arc<GridNodePool>, context: Arc<Context>) -> Result<Action, Error> {
    if pool.namespace().as_deref() != Some(context.config.namespace.as_str()) {
        // Somebody without a say over nodes may be able to write it; nothing is made for it.
        status::update(&pool, &status::elsewhere(&pool, &context), &context).await?;
        return Ok(Action::await_change());
    }
    let api: Api<GridNodePool> = Api::namespaced(context.client.clone(), &context.config.namespace);
    let Some(pool) = api.get_opt(&pool.name_any()).await? else { return Ok(Action::await_change()) };
    let outcome = finalizer::finalizer(&api, FINALIZER, Arc::new(pool), |event| async {
        match event {
            Event::Apply(pool) => reconcile_live(&pool, &context).await,
            Event::Cleanup(pool) => remove_all(&pool, &context).await,
        }
    });
    outcome.await.or_else(finalizers::unwrap)
}

async fn reconcile_live(pool: &GridNodePool, context: &Context) -> Result<Action, Error> {
    let refs = dereference::dereference(pool, context).await?;
    let wanted = build::build(pool, &refs);
    let outcome = match validate::validate(&wanted) {
        Ok(()) => Ok(apply::apply(wanted, &refs, context).await?),
        Err(finding) => Err(finding),
    };
    let status = status::of(pool, &refs, &outcome, (context.clock)());
    status::update(pool, &status, context).await?;
    let waits = outcome.is_ok_and(|applied| applied.held_back.is_some());
    Ok(if waits { Action::requeue(LOOK_AGAIN) } else { Action::await_change() })
}

/// The nodes drain by themselves; the pool does not wait for them.
async fn remove_all(pool: &GridNodePool, context: &Context) -> Result<Action, Error> {
    let refs = dereference::dereference(pool, context).await?;
    for node in refs.live() {
        apply::delete(node, context).await?;
    }
    Ok(Action::await_change())
}
