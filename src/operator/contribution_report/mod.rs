//! The epoch loop: asks the gateway to close an epoch that is over, writes down what it amounts to as a ContributionReport with
//! its leaves, brings it to the contract and makes it live. Talks to the API server, the gateway and the chain, and keeps nothing:
//! every step is decided from what is written down and what the contract says, so a crash anywhere repeats a step and never an
//! epoch. It is the only writer of ContributionReports.
//!
//! Three things keep an epoch from being reported twice: the report's name (one per network and epoch, and its spec never
//! changes), the record of its transaction (written down before the bytes leave), and the contract, which takes each epoch once.
//!
//! Where the contract wants several reporters to agree, a report is voted for first (`votes`); what is voted for is written down with
//! the vote, and only that is sent.

pub mod cache;
mod content;
pub mod decide;
pub mod dereference;
pub mod drive;
pub mod form;
pub mod leaves;
pub mod plan;
pub mod report;
mod round;
pub mod status;
pub mod votes;

use std::{sync::Arc, time::Duration};

use futures::StreamExt;
use kube::{
    Api, ResourceExt,
    runtime::{controller::Action, watcher},
};
use tokio_util::sync::CancellationToken;

use super::{
    chains,
    context::Context,
    error::Error,
    runner::{self, Guarded},
    watches,
};
use crate::{
    api::{
        conditions::{Finding, Truth},
        contribution_report::ContributionReport,
        grid_network::GridNetwork,
        reasons::Reason,
    },
    protocol::internal::ChangeKind,
};
use decide::Sending;
use report::Report;
use round::Round;

/// Field manager of this controller.
pub const MANAGER: &str = "xdc-grid-contributionreport";
/// While the gateway still owes audits. It also announces the change.
const CLOSE_AGAIN: Duration = Duration::from_secs(3);
/// While the chain, the gateway or a person is waited for.
const LOOK_AGAIN: Duration = Duration::from_secs(10);
/// The chain's clock and ours may differ; nothing sleeps longer than this.
const LONGEST: Duration = Duration::from_secs(60);

pub async fn run(context: Arc<Context>, stop: CancellationToken) {
    let networks: Api<Guarded<GridNetwork>> = Api::all(context.client.clone());
    let controller = runner::controller(networks, &context);
    let (by_change, by_report) = (controller.store(), controller.store());
    let changes = context
        .changes
        .subscribe(ChangeKind::Epoch)
        .flat_map(move |_| futures::stream::iter(runner::select(&by_change, |_: &GridNetwork| true)));
    let reports: Api<Guarded<ContributionReport>> = Api::all(context.client.clone());
    let controller = controller
        .watches_stream(watches::touched(reports, watcher::Config::default()), move |report| {
            let network = report.0.as_ref().ok().map(|report| report.spec.network_ref.name.clone());
            runner::select(&by_report, |found: &GridNetwork| {
                network.as_ref().is_none_or(|name| *name == found.name_any())
            })
        })
        .reconcile_on(changes);
    runner::run(controller, context, stop, reconcile).await;
}

/// What the network is told, and when to look again.
struct Outcome {
    finding: Finding,
    again: Duration,
}

pub async fn reconcile(network: Arc<GridNetwork>, context: Arc<Context>) -> Result<Action, Error> {
    if network.metadata.deletion_timestamp.is_some() {
        return Ok(Action::await_change());
    }
    let Outcome { finding, again } = match dereference::reports(&network, &context).await? {
        Ok(reports) => with_reports(&network, reports, &context).await?,
        Err(error) => Outcome { finding: Finding::no(Reason::InvalidObject, error.to_string()), again: LONGEST },
    };
    if finding.truth != Truth::True {
        tracing::debug!(network = network.name_any(), reason = finding.reason, message = finding.message, "reports");
    }
    status::update_network(&network, finding, &context).await?;
    Ok(Action::requeue(again))
}

async fn with_reports(network: &GridNetwork, reports: Vec<Report>, context: &Context) -> Result<Outcome, Error> {
    let namespace = &context.config.namespace;
    let session = match context.chains.session(network, &context.client, namespace).await {
        Ok(session) => session,
        Err(problem) => return away(&reports, problem.finding, context).await,
    };
    match dereference::chain_view(&session.chain, context).await {
        Ok(chain) => Round { network, session, chain, sending: sending(network), context }.run(reports).await,
        Err(error) => away(&reports, chains::finding(&error), context).await,
    }
}

fn sending(network: &GridNetwork) -> Sending {
    match (network.spec.rewards.dry_run, network.spec.paused) {
        (true, _) => Sending::DryRun,
        (false, true) => Sending::Paused,
        (false, false) => Sending::Allowed,
    }
}

/// Nothing can be said about the chain; nothing is lost either.
async fn away(reports: &[Report], finding: Finding, context: &Context) -> Result<Outcome, Error> {
    for report in reports {
        if report.is_active() || report.is_dry_run() {
            continue;
        }
        status::update(report, &status::away(report, &finding, (context.clock)()), context).await?;
    }
    Ok(Outcome { finding, again: LOOK_AGAIN })
}
