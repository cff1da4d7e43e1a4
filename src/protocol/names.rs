//! The network id, and the protocol and topic names derived from it.

use std::fmt;

use alloy::{
    primitives::{U256, keccak256},
    sol_types::Eip712Domain,
};
use serde::{Deserialize, Serialize};

use crate::api::ids::NodeAddress;

/// Which grid this is. Two grids differ in chain, contract or salt, and then share no protocol name and no signature domain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NetworkId {
    pub chain_id: u64,
    pub contract: NodeAddress,
    #[serde(default)]
    pub salt: String,
}

impl NetworkId {
    /// The short form used in protocol names: the first 8 hexadecimal digits of keccak256(chain id ‖ contract ‖ salt).
    pub fn net(&self) -> Net {
        let mut bytes = U256::from(self.chain_id).to_be_bytes::<32>().to_vec();
        bytes.extend_from_slice(&self.contract.0);
        bytes.extend_from_slice(self.salt.as_bytes());
        Net(hex::encode(&keccak256(bytes).0[..4]))
    }

    /// EIP-712 domain of everything that a node or gateway signs on this grid.
    pub fn domain(&self) -> Eip712Domain {
        Eip712Domain::new(
            Some("xdc-grid".into()),
            Some("1".into()),
            Some(U256::from(self.chain_id)),
            Some(self.contract.into()),
            None,
        )
    }
}

/// Short network id, the `NET` of `/xdc-grid/NET/auth/1.0.0`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Net(String);

impl fmt::Display for Net {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The protocols of the grid. `docs/` and foreign peers rely on these names: a change of meaning is a new version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// Request-response: mutual binding of both peer ids, nonces, network and role. Once per connection, dialer first.
    Auth,
    /// Request-response, gateway to worker: what a member is to serve.
    Assign,
    /// Request-response, gateway to worker: offer of one inference request.
    Job,
    /// Stream, gateway to worker: one inference under a lease.
    Infer,
    /// Stream, gateway to a Verify node: replay of one answer.
    Audit,
    /// Request-response, gateway to worker: compute and storage challenges.
    Challenge,
    /// Stream, either way: bytes of a model blob.
    Blob,
    /// Request-response, gateway to worker: hardware, models and load right now.
    Info,
    Kad,
}

impl Protocol {
    /// The part of the name that says what it is for; also the `protocol` label of metrics.
    pub fn part(self) -> &'static str {
        match self {
            Protocol::Auth => "auth",
            Protocol::Assign => "assign",
            Protocol::Job => "job",
            Protocol::Infer => "infer",
            Protocol::Audit => "audit",
            Protocol::Challenge => "challenge",
            Protocol::Blob => "blob",
            Protocol::Info => "info",
            Protocol::Kad => "kad",
        }
    }

    pub fn name(self, net: &Net) -> String {
        format!("/xdc-grid/{net}/{}/1.0.0", self.part())
    }
}

/// The `NET` of a protocol name; `None` for a name that is not of any xdc-grid network.
pub fn net_of(protocol_name: &str) -> Option<&str> {
    protocol_name.strip_prefix("/xdc-grid/")?.split_once('/').map(|(net, _)| net)
}

/// Gossip topic of signed, expiring adverts.
pub fn adverts_topic(net: &Net) -> String {
    format!("xdc-grid/{net}/adverts/1")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_protocol_name_tells_its_network() {
        let net = NetworkId { chain_id: 51, contract: NodeAddress([7; 20]), salt: String::new() }.net();
        assert_eq!(net_of(&Protocol::Auth.name(&net)), Some(net.to_string().as_str()));
        assert_eq!(net_of("/ipfs/ping/1.0.0"), None);
    }

    #[test]
    fn another_chain_contract_or_salt_is_another_network() {
        let base = NetworkId { chain_id: 51, contract: NodeAddress([7; 20]), salt: String::new() };
        let nets = [
            base.net(),
            NetworkId { chain_id: 50, ..base.clone() }.net(),
            NetworkId { contract: NodeAddress([8; 20]), ..base.clone() }.net(),
            NetworkId { salt: "x".into(), ..base }.net(),
        ];
        for (i, a) in nets.iter().enumerate() {
            assert!(nets.iter().skip(i + 1).all(|b| a != b));
        }
    }
}
