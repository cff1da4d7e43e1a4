//! IO: what the chain says about a network. Never fails: an absent chain is something to report.

use crate::{
    api::{grid_network::GridNetwork, ids::NodeAddress},
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
}

pub async fn dereference(network: &GridNetwork, context: &Context) -> Refs {
    let chain = facts(network, context).await;
    let reporter = match &chain {
        // The key cannot be judged while the contract cannot be asked.
        Err(problem) => Err(problem.clone()),
        Ok(_) => reporter(network, context).await,
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

async fn reporter(network: &GridNetwork, context: &Context) -> Result<Reporter, ChainProblem> {
    let Session { chain, key, .. } =
        context.chains.session(network, &context.client, &context.config.namespace).await?;
    let address = key.address();
    let has_role = chain.is_reporter(address).await.map_err(|error| ChainProblem::from(&error))?;
    Ok(Reporter { address, has_role })
}
