//! The contract on a chain, checked before it is used.

use std::sync::Arc;

use alloy::{
    primitives::{B256, Bytes, keccak256},
    sol_types::SolCall,
};

use super::{
    bindings::GridComputingRewards as contract,
    error::ChainError,
    http::HttpEndpoints,
    rpc::{At, BlockRef, CallRequest, ChainRpc},
};
use crate::{
    api::ids::{EpochNumber, NodeAddress, Wei},
    reward::TreeDomain,
};

/// A handle to one contract through any [`ChainRpc`]. Cheap to clone.
#[derive(Clone)]
pub struct ChainClient {
    rpc: Arc<dyn ChainRpc>,
    chain_id: u64,
    contract: NodeAddress,
}

/// The contract's rules. Genesis and the length of an epoch never change; the admin can change the others from the next epoch on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ContractParameters {
    /// Unix seconds at which epoch 0 began.
    pub genesis: u64,
    pub epoch_seconds: u64,
    /// Seconds between the report of an epoch and its activation.
    pub challenge_window: u64,
    /// Seconds between the request to exit and the return of the stake.
    pub unbonding: u64,
    pub min_stake: Wei,
    /// The most that one epoch may allocate.
    pub max_epoch_increase: Wei,
}

impl ContractParameters {
    /// The epoch at a moment in unix seconds; `None` before genesis.
    pub fn epoch_at(&self, unix_seconds: u64) -> Option<EpochNumber> {
        EpochNumber::at(unix_seconds, self.genesis, self.epoch_seconds)
    }

    /// Unix seconds at which an epoch is over.
    pub fn epoch_end(&self, epoch: EpochNumber) -> u64 {
        self.genesis.saturating_add(epoch.0.saturating_add(1).saturating_mul(self.epoch_seconds))
    }
}

impl ChainClient {
    /// Connects over HTTP and checks chain id and contract code.
    pub async fn connect<S: AsRef<str>>(
        endpoints: &[S],
        chain_id: u64,
        contract: NodeAddress,
    ) -> Result<Self, ChainError> {
        ChainClient::checked(Arc::new(HttpEndpoints::new(endpoints, chain_id)?), chain_id, contract).await
    }

    /// Checks chain id and contract code over any RPC.
    pub async fn checked(rpc: Arc<dyn ChainRpc>, chain_id: u64, contract: NodeAddress) -> Result<Self, ChainError> {
        let found = rpc.chain_id().await?;
        if found != chain_id {
            return Err(ChainError::WrongChainId { endpoint: "the endpoint".to_owned(), expected: chain_id, found });
        }
        if rpc.code(contract).await?.is_empty() {
            return Err(ChainError::NoContractCode { contract, chain_id });
        }
        let client = ChainClient { rpc, chain_id, contract };
        // Any other contract fails here rather than with the first transaction.
        client.view(contract::epochStateCall {}, At::Latest).await?;
        Ok(client)
    }

    pub fn rpc(&self) -> &dyn ChainRpc {
        self.rpc.as_ref()
    }

    pub fn shared_rpc(&self) -> Arc<dyn ChainRpc> {
        Arc::clone(&self.rpc)
    }

    /// The same chain, with another contract of the grid in its place.
    pub(super) fn at_address(&self, contract: NodeAddress) -> Self {
        ChainClient { contract, ..self.clone() }
    }

    pub fn chain_id(&self) -> u64 {
        self.chain_id
    }

    pub fn contract(&self) -> NodeAddress {
        self.contract
    }

    /// What leaves of this contract's reward trees are bound to.
    pub fn tree_domain(&self) -> TreeDomain {
        TreeDomain { chain_id: self.chain_id, contract: self.contract }
    }

    pub async fn head(&self) -> Result<BlockRef, ChainError> {
        self.rpc.block(At::Latest).await
    }

    /// Calls a view of the contract. At the head whoever answers first is believed; a final state is one that two endpoints agree on,
    /// where there are two.
    pub async fn view<C: SolCall>(&self, call: C, at: At) -> Result<C::Return, ChainError> {
        match at {
            At::Latest => self.ask(self.rpc(), call, at).await,
            // By hash: "final" may be another block a moment later, or at another endpoint.
            At::Finalized => {
                let block = self.rpc.agreed().block(At::Finalized).await?;
                self.ask(self.rpc.agreed(), call, At::Hash(block.hash)).await
            }
            At::Number(_) | At::Hash(_) => self.ask(self.rpc.agreed(), call, at).await,
        }
    }

    async fn ask<C: SolCall>(&self, rpc: &dyn ChainRpc, call: C, at: At) -> Result<C::Return, ChainError> {
        let not_the_contract = || ChainError::NotTheContract { contract: self.contract, method: C::SIGNATURE };
        let request = CallRequest {
            from: NodeAddress([0; 20]),
            to: Some(self.contract),
            value: Wei(0),
            data: Bytes::from(call.abi_encode()),
        };
        let answer = match rpc.call(&request, at).await {
            // A contract that lacks the function reverts without data.
            Err(ChainError::Refused(refusal)) if refusal.name == "Reverted" => return Err(not_the_contract()),
            other => other?,
        };
        C::abi_decode_returns(&answer).map_err(|_| not_the_contract())
    }

    /// keccak256 of the code at the contract's address.
    pub async fn code_hash(&self) -> Result<B256, ChainError> {
        Ok(keccak256(self.rpc.code(self.contract).await?))
    }

    /// Fails when the contract's code is not the one that an admin has pinned.
    pub async fn check_code(&self, expected: B256) -> Result<(), ChainError> {
        let found = self.code_hash().await?;
        if found == expected {
            return Ok(());
        }
        Err(ChainError::WrongCode { contract: self.contract, expected, found })
    }

    pub async fn parameters(&self) -> Result<ContractParameters, ChainError> {
        let at = At::Latest;
        Ok(ContractParameters {
            genesis: self.view(contract::genesisCall {}, at).await?,
            epoch_seconds: self.view(contract::epochSecondsCall {}, at).await?,
            challenge_window: self.view(contract::challengeWindowCall {}, at).await?,
            unbonding: self.view(contract::unbondingCall {}, at).await?,
            min_stake: Wei(self.view(contract::minStakeCall {}, at).await?.saturating_to()),
            max_epoch_increase: Wei(self.view(contract::maxEpochIncreaseCall {}, at).await?),
        })
    }
}
