//! Many questions about one state in one request, where the chain has a Multicall3; one by one where it has none. The usual address
//! is not the one on XDC's main network.

use alloy::{
    primitives::{Bytes, address},
    providers::bindings::IMulticall3::{Call3, aggregate3Call},
    sol_types::SolCall,
};
use futures::future::try_join_all;

use super::{
    client::ChainClient,
    error::ChainError,
    rpc::{At, CallRequest},
};
use crate::api::ids::{NodeAddress, Wei};

/// Questions in one request: far from a node's limit of gas for a call.
const AT_ONCE: usize = 200;
/// Single questions that are on their way at the same time.
const IN_PARALLEL: usize = 8;

/// Where Multicall3 is, by chain id (viem's lists; on XDC the address is its own).
pub fn multicall_address(chain_id: u64) -> Option<NodeAddress> {
    match chain_id {
        50 => Some(address!("0x0B1795ccA8E4eC4df02346a082df54D437F8D9aF").into()),
        51 => Some(address!("0xcA11bde05977b3631167028862bE2a173976CA11").into()),
        _ => None,
    }
}

impl ChainClient {
    /// Calls a view with each of `calls`, all about the final state `at`; the answers are in their order.
    pub async fn views<C: SolCall + Clone>(&self, calls: &[C], at: At) -> Result<Vec<C::Return>, ChainError> {
        if let Some(multicall) = self.multicall().await? {
            match self.aggregated(multicall, calls, at).await {
                Ok(answers) => return Ok(answers),
                // No Multicall3, or one of the calls alone is refused: then that one shall say so.
                Err(ChainError::Refused(_) | ChainError::NotTheContract { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        let mut answers = Vec::with_capacity(calls.len());
        for some in calls.chunks(IN_PARALLEL) {
            answers.extend(try_join_all(some.iter().map(|call| self.view(call.clone(), at))).await?);
        }
        Ok(answers)
    }

    /// A private chain of the same id may not have it.
    async fn multicall(&self) -> Result<Option<NodeAddress>, ChainError> {
        let Some(known) = multicall_address(self.chain_id()) else { return Ok(None) };
        let code = self.rpc().code(known).await?;
        Ok((!code.is_empty()).then_some(known))
    }

    async fn aggregated<C: SolCall>(
        &self,
        multicall: NodeAddress,
        calls: &[C],
        at: At,
    ) -> Result<Vec<C::Return>, ChainError> {
        let unreadable = || ChainError::NotTheContract { contract: self.contract(), method: C::SIGNATURE };
        let mut answers = Vec::with_capacity(calls.len());
        for some in calls.chunks(AT_ONCE) {
            let calls = some.iter().map(|call| Call3 {
                target: self.contract().into(),
                allowFailure: false,
                callData: Bytes::from(call.abi_encode()),
            });
            let request = CallRequest {
                from: NodeAddress([0; 20]),
                to: Some(multicall),
                value: Wei(0),
                data: Bytes::from(aggregate3Call { calls: calls.collect() }.abi_encode()),
            };
            let answer = self.rpc().agreed().call(&request, at).await?;
            let results = aggregate3Call::abi_decode_returns(&answer).map_err(|_| unreadable())?;
            for result in results {
                answers.push(C::abi_decode_returns(&result.returnData).map_err(|_| unreadable())?);
            }
        }
        Ok(answers)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn xdc_has_an_address_of_its_own_and_other_chains_have_none() {
        assert_eq!(multicall_address(50).unwrap().to_string(), "0x0b1795cca8e4ec4df02346a082df54d437f8d9af");
        assert_ne!(multicall_address(50), multicall_address(51));
        assert_eq!(multicall_address(1337), None);
    }
}
