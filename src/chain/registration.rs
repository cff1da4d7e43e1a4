//! Nodes on the contract: consent of the node key, registration with a stake, exit, and what the contract holds.

use alloy::{
    primitives::{Address, B256, Bytes, U256},
    sol_types::{Eip712Domain, SolCall, SolStruct, eip712_domain},
};
use serde::{Deserialize, Serialize};

use super::{
    bindings::{GridComputingRewards as contract, IGridComputingRewards::Node, NodeBinding},
    client::ChainClient,
    error::ChainError,
    outbox::{Intent, IntentKind, TxCall},
    rpc::At,
    signer::ChainKey,
};
use crate::api::ids::{NodeAddress, Wei};

/// What a node key agrees to. Everything is covered by its signature, so nobody can register the node for another owner, send
/// its earnings elsewhere, or use the consent twice, late, on another chain or with another contract.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NodeConsent {
    pub node: NodeAddress,
    /// Where claims are paid.
    pub payout: NodeAddress,
    /// Who sends the transaction, pays the stake and gets it back.
    pub owner: NodeAddress,
    /// [`ChainClient::binding_nonce`] of the node.
    pub nonce: u64,
    /// Unix seconds after which the consent is void.
    pub deadline: u64,
}

impl NodeConsent {
    /// The EIP-712 digest that the contract checks.
    pub fn digest(&self, chain_id: u64, contract: NodeAddress) -> B256 {
        let binding = NodeBinding {
            node: self.node.into(),
            payout: self.payout.into(),
            owner: self.owner.into(),
            nonce: U256::from(self.nonce),
            deadline: U256::from(self.deadline),
        };
        binding.eip712_signing_hash(&domain(chain_id, contract))
    }

    /// Signs with the node's key; fails when the key is another node's. 65 bytes: r, s, v.
    pub fn sign(&self, node_key: &ChainKey, chain_id: u64, contract: NodeAddress) -> Result<[u8; 65], ChainError> {
        if node_key.address() != self.node {
            return Err(ChainError::Signing(format!(
                "the key of node {} is needed, this is {}",
                self.node,
                node_key.address()
            )));
        }
        Ok(node_key.sign_digest(self.digest(chain_id, contract))?.as_bytes())
    }
}

fn domain(chain_id: u64, contract: NodeAddress) -> Eip712Domain {
    eip712_domain! {
        name: "GridComputingRewards",
        version: "1",
        chain_id: chain_id,
        verifying_contract: Address::from(contract),
    }
}

/// What a node registers with: measured values, not wishes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NodeCapability {
    /// In the unit of the network's compute challenge.
    pub computing_power: u64,
    /// Proven GiB.
    pub storage_gib: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum RegistrationStatus {
    Registered,
    Exiting,
}

/// A node as the contract knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeRegistration {
    pub owner: NodeAddress,
    pub payout: NodeAddress,
    pub stake: Wei,
    pub computing_power: u64,
    pub storage_gib: u64,
    /// Unix seconds.
    pub registered_at: u64,
    /// Unix seconds from which the stake can be taken back; none unless exiting.
    pub exit_at: Option<u64>,
    pub status: RegistrationStatus,
    /// Number of the registration on the contract, from 1.
    pub index: u32,
    /// Part of the stake under an open slash case.
    pub frozen: Wei,
}

impl NodeRegistration {
    fn read(node: Node) -> Option<Self> {
        let status = match node.status {
            1 => RegistrationStatus::Registered,
            2 => RegistrationStatus::Exiting,
            _ => return None,
        };
        Some(NodeRegistration {
            owner: node.owner.into(),
            payout: node.payout.into(),
            stake: Wei(node.stake.to()),
            computing_power: node.computingPower,
            storage_gib: node.storageCapacity,
            registered_at: node.registeredAt.to(),
            exit_at: Some(node.exitAt.to()).filter(|at| *at > 0),
            status,
            index: node.index,
            frozen: Wei(node.frozen.to()),
        })
    }
}

/// Another payout address that a node's owner has asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PayoutRequest {
    pub payout: NodeAddress,
    /// Unix seconds from which it can be applied.
    pub applicable_at: u64,
}

impl ChainClient {
    /// `None` when the node is not registered.
    pub async fn node(&self, node: NodeAddress, at: At) -> Result<Option<NodeRegistration>, ChainError> {
        Ok(NodeRegistration::read(self.view(contract::nodesCall { node: node.into() }, at).await?))
    }

    /// Several nodes in the block with the hash `at`, in their order.
    pub async fn nodes(&self, nodes: &[NodeAddress], at: B256) -> Result<Vec<Option<NodeRegistration>>, ChainError> {
        let calls: Vec<_> = nodes.iter().map(|node| contract::nodesCall { node: (*node).into() }).collect();
        Ok(self.views(&calls, At::Hash(at)).await?.into_iter().map(NodeRegistration::read).collect())
    }

    /// `None` when no change of the payout address is asked for.
    pub async fn payout_request(&self, node: NodeAddress, at: At) -> Result<Option<PayoutRequest>, ChainError> {
        let raw = self.view(contract::payoutRequestCall { node: node.into() }, at).await?;
        let applicable_at: u64 = raw.applicableAt.saturating_to();
        Ok((applicable_at > 0).then(|| PayoutRequest { payout: raw.payout.into(), applicable_at }))
    }

    /// Asks for another payout address. The owner signs; it applies two days later, with [`ChainClient::apply_payout_intent`]. Asking
    /// again starts anew.
    pub fn request_payout_intent(&self, node: NodeAddress, payout: NodeAddress) -> Intent {
        let key = format!("payout/{node}/{payout}");
        let call = contract::requestPayoutCall { node: node.into(), payout: payout.into() };
        self.intent(IntentKind::RequestPayout, key, Wei(0), call)
    }

    /// Applies what was asked for. Anybody may sign.
    pub fn apply_payout_intent(&self, node: NodeAddress, payout: NodeAddress) -> Intent {
        let key = format!("paid/{node}/{payout}");
        self.intent(IntentKind::ApplyPayout, key, Wei(0), contract::applyPayoutCall { node: node.into() })
    }

    /// The nonce for the node's next [`NodeConsent`].
    pub async fn binding_nonce(&self, node: NodeAddress) -> Result<u64, ChainError> {
        let nonce = self.view(contract::bindingNonceCall { node: node.into() }, At::Latest).await?;
        Ok(nonce.saturating_to())
    }

    /// Sums of what registered nodes brought: (computing power, GiB).
    pub async fn total_capability(&self) -> Result<(u128, u128), ChainError> {
        let power = self.view(contract::totalComputingPowerCall {}, At::Latest).await?;
        let storage = self.view(contract::totalStorageCall {}, At::Latest).await?;
        Ok((power.saturating_to(), storage.saturating_to()))
    }

    /// Registers a node for its owner, who signs the transaction and sends the stake with it.
    pub fn register_intent(
        &self,
        consent: &NodeConsent,
        signature: [u8; 65],
        capability: NodeCapability,
        stake: Wei,
    ) -> Intent {
        let call = contract::registerNodeForCall {
            node: consent.node.into(),
            payout: consent.payout.into(),
            computingPower: U256::from(capability.computing_power),
            storageCapacity: U256::from(capability.storage_gib),
            deadline: U256::from(consent.deadline),
            signature: Bytes::from(signature),
        };
        // The consent's nonce counts registrations, so a node that comes back after an exit gets a key of its own.
        let key = format!("register/{}/{}", consent.node, consent.nonce);
        self.intent(IntentKind::RegisterNode, key, stake, call)
    }

    /// Starts a node's exit, or takes its stake back once the unbonding time is over. The owner signs the transaction.
    pub fn unregister_intent(&self, node: NodeAddress, registration: &NodeRegistration) -> Intent {
        let step = match registration.status {
            RegistrationStatus::Registered => "exit",
            RegistrationStatus::Exiting => "withdraw",
        };
        let key = format!("{step}/{node}/{}", registration.registered_at);
        self.intent(IntentKind::UnregisterNode, key, Wei(0), contract::unregisterNodeForCall { node: node.into() })
    }

    pub(super) fn intent(&self, kind: IntentKind, key: String, value: Wei, call: impl SolCall) -> Intent {
        let call = TxCall { to: Some(self.contract()), value, data: Bytes::from(call.abi_encode()) };
        Intent { kind, key, call }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn consent(node: &ChainKey) -> NodeConsent {
        let (payout, owner) = (NodeAddress([2; 20]), NodeAddress([3; 20]));
        NodeConsent { node: node.address(), payout, owner, nonce: 0, deadline: 1_000 }
    }

    #[test]
    fn a_consent_is_bound_to_every_field_and_to_the_contract() {
        let key = ChainKey::from_bytes(&[1; 32]).unwrap();
        let contract = NodeAddress([4; 20]);
        let plain = consent(&key);
        let digest = plain.digest(51, contract);
        let others = [
            NodeConsent { payout: NodeAddress([9; 20]), ..plain }.digest(51, contract),
            NodeConsent { owner: NodeAddress([9; 20]), ..plain }.digest(51, contract),
            NodeConsent { nonce: 1, ..plain }.digest(51, contract),
            NodeConsent { deadline: 1, ..plain }.digest(51, contract),
            plain.digest(50, contract),
            plain.digest(51, NodeAddress([9; 20])),
        ];
        assert!(others.iter().all(|other| *other != digest));
        let signature = alloy::primitives::Signature::try_from(&plain.sign(&key, 51, contract).unwrap()[..]).unwrap();
        let signer = signature.recover_address_from_prehash(&digest).unwrap();
        assert_eq!(NodeAddress::from(signer), key.address());
    }

    #[test]
    fn only_the_nodes_own_key_signs_its_consent() {
        let (key, other) = (ChainKey::from_bytes(&[1; 32]).unwrap(), ChainKey::from_bytes(&[2; 32]).unwrap());
        assert!(consent(&key).sign(&other, 51, NodeAddress([4; 20])).is_err());
    }
}
