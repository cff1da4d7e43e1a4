//! Puts the operator together: admin endpoints, the lease, the change stream, and a controller per kind.

use std::sync::Arc;

use futures::future::BoxFuture;
use kube::{Api, Client, core::PartialObjectMeta};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::{
    chains::Chains, config::OperatorConfig, context::Context, contribution_report, grid_model, grid_network, grid_node,
    grid_node_pool, inference_job, lease::LeaseHolder, metrics::Metrics, runner, settlement, slash_cases,
};
use crate::{
    api::{
        contribution_report::ContributionReport, grid_model::GridModel, grid_network::GridNetwork, grid_node::GridNode,
        grid_node_pool::GridNodePool, inference_job::InferenceJob,
    },
    telemetry::{admin, readiness::Readiness},
};

/// Why the operator ended.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    #[error("cannot reach the API server: {0}")]
    Client(String),
    #[error("cannot start: {0}")]
    Start(String),
    #[error("cannot serve {0}: {1}")]
    Admin(std::net::SocketAddr, std::io::Error),
    /// Another process may write now; a restart makes this one a candidate again.
    #[error("the lease is lost; another operator may be writing")]
    LeaseLost,
    #[error("a controller ended unexpectedly")]
    ControllerEnded,
}

/// Runs until `stop` is cancelled or the lease is lost.
pub async fn run(config: OperatorConfig, stop: CancellationToken) -> Result<(), RunError> {
    let client = Client::try_default().await.map_err(|error| RunError::Client(error.to_string()))?;
    run_with(client, config, Chains::default(), stop).await
}

/// The same with a client and a chain of the caller's choice.
pub async fn run_with(
    client: Client,
    config: OperatorConfig,
    chains: Chains,
    stop: CancellationToken,
) -> Result<(), RunError> {
    let registry = prometheus::Registry::new();
    let metrics = Metrics::new(registry.clone()).map_err(|error| RunError::Start(error.to_string()))?;
    let readiness = Readiness::default();
    let context = Context::new(client.clone(), config.clone(), metrics, chains)
        .map_err(|error| RunError::Start(error.to_string()))?;
    let lease =
        LeaseHolder::new(client, &config.namespace, &config.lease_name, &config.identity, config.lease_duration());
    let address = config.http_address;
    let served = admin::serve(address, registry, readiness.clone());
    tokio::select! {
        outcome = served => outcome.map_err(|error| RunError::Admin(address, error)),
        outcome = lead(lease, context, readiness, stop) => outcome,
    }
}

/// Writes only while the lease is held. A process that waits for it is ready: a rollout must not wait for the old one to go.
async fn lead(
    lease: LeaseHolder,
    context: Arc<Context>,
    readiness: Readiness,
    stop: CancellationToken,
) -> Result<(), RunError> {
    tokio::select! {
        () = lease.acquire() => {}
        () = stop.cancelled() => return Ok(()),
    }
    tracing::info!(identity = context.config.identity, "holding the lease");
    context.metrics.leader.set(1);
    let outcome = tokio::select! {
        () = lease.hold() => Err(RunError::LeaseLost),
        outcome = controllers(context.clone(), readiness, stop) => outcome,
    };
    context.metrics.leader.set(0);
    if outcome.is_ok()
        && let Err(error) = lease.release().await
    {
        tracing::warn!(%error, "the lease could not be given back; it expires by itself");
    }
    outcome
}

/// All controllers, until `stop` is cancelled and each has finished what it was doing.
async fn controllers(context: Arc<Context>, readiness: Readiness, stop: CancellationToken) -> Result<(), RunError> {
    tokio::select! {
        () = wait_for_crds(&context, &readiness) => {}
        () = stop.cancelled() => return Ok(()),
    }
    tracing::info!("all kinds are served; starting the controllers");
    let running: [BoxFuture<'static, ()>; 8] = [
        Box::pin(grid_network::run(context.clone(), stop.clone())),
        Box::pin(grid_model::run(context.clone(), stop.clone())),
        Box::pin(grid_node::run(context.clone(), stop.clone())),
        Box::pin(grid_node_pool::run(context.clone(), stop.clone())),
        Box::pin(inference_job::run(context.clone(), stop.clone())),
        Box::pin(contribution_report::run(context.clone(), stop.clone())),
        Box::pin(settlement::run(context.clone(), stop.clone())),
        Box::pin(slash_cases::run(context.clone(), stop.clone())),
    ];
    // Dropping the set ends them all: without the lease nothing goes on, not even what is half done.
    let mut running: JoinSet<()> = running.into_iter().collect();
    let changes = context.changes.clone();
    tokio::select! {
        // One that ends alone has panicked; an operator without it would look healthy and not be.
        _ = running.join_next() => {}
        () = changes.follow(&context) => {}
    }
    if !stop.is_cancelled() {
        return Err(RunError::ControllerEnded);
    }
    while running.join_next().await.is_some() {}
    Ok(())
}

async fn wait_for_crds(context: &Context, readiness: &Readiness) {
    let client = &context.client;
    let (networks, nodes) = (
        Api::<PartialObjectMeta<GridNetwork>>::all(client.clone()),
        Api::<PartialObjectMeta<GridNode>>::all(client.clone()),
    );
    let (models, jobs) = (
        Api::<PartialObjectMeta<GridModel>>::all(client.clone()),
        Api::<PartialObjectMeta<InferenceJob>>::all(client.clone()),
    );
    let reports = Api::<PartialObjectMeta<ContributionReport>>::all(client.clone());
    let pools = Api::<PartialObjectMeta<GridNodePool>>::all(client.clone());
    tokio::join!(
        runner::wait_for_crd(&networks, context, readiness),
        runner::wait_for_crd(&nodes, context, readiness),
        runner::wait_for_crd(&pools, context, readiness),
        runner::wait_for_crd(&models, context, readiness),
        runner::wait_for_crd(&jobs, context, readiness),
        runner::wait_for_crd(&reports, context, readiness),
    );
}
