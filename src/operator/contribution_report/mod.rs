//! ContributionReport: closes epochs, writes down what they amount to (`planning`, `build`), and takes each report to the chain
//! (`decide`, `advance`). Talks to the API server, the gateway and the chain.

pub mod advance;
pub mod build;
mod crash;
pub mod decide;
pub mod leaves;
pub mod planning;

use std::sync::Arc;

use futures::StreamExt;
use kube::{Api, ResourceExt, runtime::controller::Action};
use tokio_util::sync::CancellationToken;

use super::{
    context::Context,
    error::Error,
    runner::{self, Guarded},
};
use crate::{
    api::{contribution_report::ContributionReport, grid_network::GridNetwork},
    protocol::internal::ChangeKind,
};

/// Field manager of this controller.
pub const MANAGER: &str = "xdc-grid-contributionreport";

pub async fn run(context: Arc<Context>, stop: CancellationToken) {
    let reports: Api<Guarded<ContributionReport>> = Api::all(context.client.clone());
    let networks: Api<Guarded<GridNetwork>> = Api::all(context.client.clone());
    let epochs = runner::controller(networks, &context);
    let store = epochs.store();
    let changes = context.changes.subscribe(ChangeKind::Epoch).flat_map(move |_| {
        futures::stream::iter(runner::select(&store, |_: &GridNetwork| true))
    });
    let advancing = runner::run(runner::controller(reports, &context), context.clone(), stop.clone(), reconcile_report);
    let planning = runner::run(epochs.reconcile_on(changes), context, stop, reconcile_network);
    tokio::join!(advancing, planning);
}

async fn reconcile_network(network: Arc<GridNetwork>, context: Arc<Context>) -> Result<Action, Error> {
    planning::plan_next(&network, &context).await
}

async fn reconcile_report(report: Arc<ContributionReport>, context: Arc<Context>) -> Result<Action, Error> {
    let api: Api<ContributionReport> = Api::all(context.client.clone());
    // What is signed hangs on the status, so it must be the newest one and not a cached one.
    match api.get_opt(&report.name_any()).await? {
        Some(report) => advance::advance(&report, &context).await,
        None => Ok(Action::await_change()),
    }
}
