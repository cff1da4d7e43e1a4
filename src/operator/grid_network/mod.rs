//! GridNetwork: checks the chain and the contract, configures the gateway, and says where it can be reached. Talks to the API
//! server, the chain (reading only) and the gateway.

pub mod apply;
pub mod dereference;
pub mod status;
pub mod validate;

use std::{sync::Arc, time::Duration};

use futures::StreamExt;
use kube::{Api, ResourceExt, runtime::controller::Action};
use tokio_util::sync::CancellationToken;

use super::{
    context::Context,
    error::Error,
    runner::{self, Guarded},
};
use crate::{api::grid_network::GridNetwork, protocol::internal::ChangeKind};

/// Field manager of this controller.
pub const MANAGER: &str = "xdc-grid-gridnetwork";
/// The chain tells nobody that it changed.
const LOOK_AGAIN: Duration = Duration::from_secs(10);

pub async fn run(context: Arc<Context>, stop: CancellationToken) {
    let networks: Api<Guarded<GridNetwork>> = Api::all(context.client.clone());
    let controller = runner::controller(networks, &context);
    let store = controller.store();
    // Only breaks of the stream matter: a network has no key of its own there.
    let changes = context
        .changes
        .subscribe(ChangeKind::Epoch)
        .flat_map(move |_| futures::stream::iter(runner::select(&store, |_: &GridNetwork| true)));
    runner::run(controller.reconcile_on(changes), context, stop, reconcile).await;
}

pub async fn reconcile(network: Arc<GridNetwork>, context: Arc<Context>) -> Result<Action, Error> {
    let refs = dereference::dereference(&network, &context).await;
    let validated = validate::validate(&network, &refs);
    if let Some(left) = validated.reports_left {
        context.metrics.funded_reports(&network.name_any(), left);
    }
    let applied = apply::apply(&validated, &context).await;
    let status = status::of(&network, &validated, &applied, (context.clock)());
    status::update(&network, &status, &context).await?;
    Ok(Action::requeue(LOOK_AGAIN))
}
