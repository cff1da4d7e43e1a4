//! IO: the chain, the reporter's key and what was written down about the network's epochs.

use std::collections::BTreeSet;

use alloy::primitives::B256;
use kube::{Api, ResourceExt, api::ListParams};

use super::{
    decide::ChainView,
    report::{Report, ReportError},
};
use crate::{
    api::{contribution_report::ContributionReport, grid_network::GridNetwork, ids::NodeAddress},
    chain::{At, ChainClient, ChainError, ContractParameters},
    operator::{context::Context, error::Error, runner::Guarded},
    protocol::internal::EpochTotals,
};

/// The reports of a network by ascending epoch. The API server is asked, not the watch: a report that was written a moment ago
/// must be seen.
pub async fn reports(network: &GridNetwork, context: &Context) -> Result<Result<Vec<Report>, ReportError>, Error> {
    let api: Api<Guarded<ContributionReport>> = Api::all(context.client.clone());
    let name = network.name_any();
    let prefix = format!("{name}-");
    let mut reports = Vec::new();
    for object in api.list(&ListParams::default()).await?.items {
        match object.0 {
            Ok(report) if report.spec.network_ref.name == name => match Report::read(report) {
                Ok(report) => reports.push(report),
                Err(error) => return Ok(Err(error)),
            },
            Ok(_) => {}
            // It may be one of ours: nothing is decided without it.
            Err(invalid) if invalid.metadata.name.as_ref().is_some_and(|found| epoch_of(found, &prefix)) => {
                let name = invalid.metadata.name.unwrap_or_default();
                return Ok(Err(ReportError { name, what: invalid.error }));
            }
            Err(_) => {}
        }
    }
    reports.sort_by_key(|report| report.epoch);
    Ok(Ok(reports))
}

fn epoch_of(name: &str, prefix: &str) -> bool {
    name.strip_prefix(prefix).is_some_and(|rest| !rest.is_empty() && rest.bytes().all(|byte| byte.is_ascii_digit()))
}

/// Final state first: whatever is read later is never older, as long as one endpoint answers.
pub async fn chain_view(chain: &ChainClient, context: &Context) -> Result<ChainView, ChainError> {
    let last = chain.rpc().agreed().block(At::Finalized).await?;
    let finalized = chain.epoch_state(At::Hash(last.hash)).await?;
    let latest = chain.epoch_state(At::Latest).await?;
    let time = chain.head().await?.timestamp;
    Ok(ChainView {
        parameters: parameters(chain, time, context).await?,
        final_block: last.number,
        final_hash: last.hash,
        finalized,
        latest,
        time,
    })
}

async fn parameters(chain: &ChainClient, time: u64, context: &Context) -> Result<ContractParameters, ChainError> {
    let (chain_id, contract) = (chain.chain_id(), chain.contract());
    if let Some(known) = context.earnings.parameters(chain_id, contract, time) {
        return Ok(known);
    }
    let parameters = chain.parameters().await?;
    context.earnings.set_parameters(chain_id, contract, time, parameters);
    Ok(parameters)
}

/// Which of the eligible nodes the contract holds a stake of in the final block with the hash `at`. A node that is leaving still counts: what it
/// did before is paid, and its stake still answers for it.
pub async fn registered(
    totals: &EpochTotals,
    chain: &ChainClient,
    at: B256,
) -> Result<BTreeSet<NodeAddress>, ChainError> {
    let eligible: Vec<NodeAddress> =
        totals.nodes.iter().filter(|node| node.eligible).map(|node| node.address).collect();
    let found = chain.nodes(&eligible, at).await?;
    let registered = eligible.iter().zip(found).filter_map(|(node, found)| found.map(|_| *node)).collect();
    Ok(registered)
}
