//! IO: what the chain says about a network. Never fails: an absent chain is something to report.

use kube::{Api, ResourceExt};

use crate::{
    api::{
        contribution_report::ContributionReport,
        grid_network::GridNetwork,
        ids::{EpochNumber, NodeAddress, Wei},
    },
    chain::{At, ChainError, ContractParameters, rewards::EpochState},
    operator::{
        chains::{ChainProblem, Session},
        context::Context,
    },
};

/// What was found.
pub struct Refs {
    pub chain: Result<ChainFacts, ChainProblem>,
    pub reporter: Result<Reporter, ChainProblem>,
}

/// One reading of the contract.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ChainFacts {
    pub parameters: ContractParameters,
    pub epochs: EpochState,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Reporter {
    pub address: NodeAddress,
    /// May submit epochs.
    pub has_role: bool,
    pub balance: Wei,
    /// What its last report cost in fees, submission and activation; `None` before the first.
    pub last_fee: Option<Wei>,
}

pub async fn dereference(network: &GridNetwork, context: &Context) -> Refs {
    let chain = facts(network, context).await;
    let reporter = match &chain {
        // The key cannot be judged while the contract cannot be asked.
        Err(problem) => Err(problem.clone()),
        Ok(facts) => reporter(network, facts.epochs.last_epoch(), context).await,
    };
    Refs { chain, reporter }
}

async fn facts(network: &GridNetwork, context: &Context) -> Result<ChainFacts, ChainProblem> {
    let client = context.chains.client(network).await?;
    let read = async {
        Ok::<_, ChainError>(ChainFacts {
            parameters: client.parameters().await?,
            epochs: client.epoch_state(At::Latest).await?,
        })
    };
    read.await.map_err(|error| ChainProblem::from(&error))
}

async fn reporter(
    network: &GridNetwork,
    last: Option<EpochNumber>,
    context: &Context,
) -> Result<Reporter, ChainProblem> {
    let Session { chain, key, .. } =
        context.chains.session(network, &context.client, &context.config.namespace).await?;
    let address = key.address();
    let has_role = chain.is_reporter(address).await.map_err(|error| ChainProblem::from(&error))?;
    let balance = chain.rpc().balance(address).await.map_err(|error| ChainProblem::from(&error))?;
    let last_fee = match last {
        Some(epoch) => fee_of(&format!("{}-{epoch}", network.name_any()), context).await,
        None => None,
    };
    Ok(Reporter { address, has_role, balance, last_fee })
}

/// Fees of a report by its name. An API server that does not answer leaves it unknown: the alert has an estimate for that.
async fn fee_of(report: &str, context: &Context) -> Option<Wei> {
    let reports: Api<ContributionReport> = Api::all(context.client.clone());
    let status = reports.get_opt(report).await.ok()??.status?;
    let fee = |of: Option<crate::api::refs::TransactionStatus>| of?.fee_wei?.parse::<Wei>().ok();
    let submitted = fee(status.submit)?;
    Some(Wei(submitted.0.saturating_add(fee(status.activate).unwrap_or_default().0)))
}
