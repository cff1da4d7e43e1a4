//! Signed statements of the grid: the receipt of one answer, its countersignature, and the auth transcript.
//!
//! All are EIP-712 hashes over fields, never over serialised bytes, so the contract and any wallet can check them with
//! `ecrecover`.

use alloy::{
    primitives::{B256, keccak256},
    sol,
    sol_types::{SolStruct, SolValue},
};

use super::{
    identity::{KeyError, NodeKey, SignatureBytes, recover},
    names::NetworkId,
    vector::Vector,
    wire,
};
use crate::api::ids::NodeAddress;

sol! {
    /// What a worker states about one answer. Hashes and counts only: no text.
    #[derive(Debug, PartialEq, Eq)]
    struct Receipt {
        bytes32 requestId;
        uint32 attempt;
        /// sha256 of the model file.
        bytes32 model;
        /// BLAKE3 over the prompt's token ids (u32 little-endian); of an embedding, `hash_inputs`.
        bytes32 promptHash;
        /// BLAKE3 over the answer's token ids (u32 little-endian); of an embedding, `hash_vectors`.
        bytes32 outputHash;
        uint32 promptTokens;
        /// 0 for an embedding, and only there.
        uint32 outputTokens;
        /// Canonical hash of the sampling parameters.
        bytes32 sampler;
        bytes32 seed;
        /// Merkle root over the per-token trace leaves; of an embedding, over its vectors (`verify::embedding`).
        bytes32 traceRoot;
        /// Unix milliseconds, the worker's clock: information only, never decides anything.
        uint64 startedAt;
        uint64 finishedAt;
    }

    /// The gateway's signature over a receipt that it accepted, and in which epoch.
    #[derive(Debug, PartialEq, Eq)]
    struct Acceptance {
        bytes32 receipt;
        uint64 epoch;
    }

    /// Both ends of a connection sign this once, each with its own role: a signature can neither be replayed on another
    /// connection, nor on another grid, nor relayed to a third peer.
    #[derive(Debug, PartialEq, Eq)]
    struct Auth {
        /// `NET`: the signature domain knows chain and contract, but not the salt.
        string network;
        string signer;
        string dialer;
        string listener;
        bytes32 dialerNonce;
        bytes32 listenerNonce;
        string role;
        uint32 version;
    }
}

/// Signs any of the structs above for a network.
pub fn sign(message: &impl SolStruct, network: &NetworkId, key: &NodeKey) -> Result<SignatureBytes, KeyError> {
    key.sign_hash(signing_hash(message, network))
}

/// Who signed it; `None` for bytes that are no signature.
pub fn signer_of(message: &impl SolStruct, network: &NetworkId, signature: &[u8]) -> Option<NodeAddress> {
    recover(signing_hash(message, network), signature)
}

/// The EIP-712 hash that is signed.
pub fn signing_hash(message: &impl SolStruct, network: &NetworkId) -> B256 {
    message.eip712_signing_hash(&network.domain())
}

/// BLAKE3 over token ids, each as four little-endian bytes.
pub fn hash_tokens(ids: &[u32]) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new_derive_key("xdc-grid token ids v1");
    for id in ids {
        hasher.update(&id.to_le_bytes());
    }
    *hasher.finalize().as_bytes()
}

/// BLAKE3 over the token ids of several texts, each with its length before it.
pub fn hash_inputs(inputs: &[Vec<u32>]) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new_derive_key("xdc-grid embedding inputs v1");
    for ids in inputs {
        hasher.update(&(ids.len() as u64).to_le_bytes());
        for id in ids {
            hasher.update(&id.to_le_bytes());
        }
    }
    *hasher.finalize().as_bytes()
}

/// BLAKE3 over the bytes of several vectors, each with its number of elements before it.
pub fn hash_vectors(vectors: &[Vector]) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new_derive_key("xdc-grid embedding vectors v1");
    for vector in vectors {
        hasher.update(&(vector.dimensions() as u64).to_le_bytes());
        hasher.update(&vector.to_bytes());
    }
    *hasher.finalize().as_bytes()
}

impl Receipt {
    /// Identity of a receipt's content, whatever the network: what the ledger and audit selection key on.
    pub fn content_hash(&self) -> B256 {
        keccak256(self.abi_encode())
    }

    pub fn to_wire(&self, signature: &SignatureBytes) -> wire::Receipt {
        wire::Receipt {
            request_id: self.requestId.to_vec(),
            attempt: self.attempt,
            model: self.model.to_vec(),
            prompt_hash: self.promptHash.to_vec(),
            output_hash: self.outputHash.to_vec(),
            prompt_tokens: self.promptTokens,
            output_tokens: self.outputTokens,
            sampler: self.sampler.to_vec(),
            seed: self.seed.to_vec(),
            trace_root: self.traceRoot.to_vec(),
            started_at_ms: self.startedAt,
            finished_at_ms: self.finishedAt,
            signature: signature.to_vec(),
        }
    }

    /// `None` when a field does not have its fixed length.
    pub fn from_wire(receipt: &wire::Receipt) -> Option<Self> {
        let hash = |bytes: &[u8]| <[u8; 32]>::try_from(bytes).ok().map(B256::from);
        Some(Receipt {
            requestId: hash(&receipt.request_id)?,
            attempt: receipt.attempt,
            model: hash(&receipt.model)?,
            promptHash: hash(&receipt.prompt_hash)?,
            outputHash: hash(&receipt.output_hash)?,
            promptTokens: receipt.prompt_tokens,
            outputTokens: receipt.output_tokens,
            sampler: hash(&receipt.sampler)?,
            seed: hash(&receipt.seed)?,
            traceRoot: hash(&receipt.trace_root)?,
            startedAt: receipt.started_at_ms,
            finishedAt: receipt.finished_at_ms,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn receipt() -> Receipt {
        Receipt {
            requestId: B256::repeat_byte(1),
            attempt: 1,
            model: B256::repeat_byte(2),
            promptHash: hash_tokens(&[1, 2]).into(),
            outputHash: hash_tokens(&[3]).into(),
            promptTokens: 2,
            outputTokens: 1,
            sampler: B256::repeat_byte(4),
            seed: B256::repeat_byte(5),
            traceRoot: B256::repeat_byte(6),
            startedAt: 7,
            finishedAt: 8,
        }
    }

    fn network() -> NetworkId {
        NetworkId { chain_id: 51, contract: NodeAddress([9; 20]), salt: String::new() }
    }

    #[test]
    fn a_receipt_survives_the_wire_and_names_its_signer() {
        let key = NodeKey::generate();
        let signature = sign(&receipt(), &network(), &key).unwrap();
        let wire = receipt().to_wire(&signature);
        let back = Receipt::from_wire(&wire).unwrap();
        assert_eq!(back, receipt());
        assert_eq!(signer_of(&back, &network(), &wire.signature), Some(key.address()));
    }

    #[test]
    fn a_receipt_of_one_network_is_worth_nothing_on_another() {
        let key = NodeKey::generate();
        let signature = sign(&receipt(), &network(), &key).unwrap();
        let other = NetworkId { chain_id: 50, ..network() };
        assert_ne!(signer_of(&receipt(), &other, &signature), Some(key.address()));
    }

    #[test]
    fn texts_and_vectors_that_are_cut_elsewhere_hash_differently() {
        assert_ne!(hash_inputs(&[vec![1, 2], vec![3]]), hash_inputs(&[vec![1], vec![2, 3]]));
        assert_ne!(hash_inputs(&[vec![1, 2]]), hash_tokens(&[1, 2]));
        let vector = |values: &[f32]| Vector::new(values.to_vec()).unwrap();
        let (one, two) = (vec![vector(&[1.0, 2.0]), vector(&[3.0])], vec![vector(&[1.0]), vector(&[2.0, 3.0])]);
        assert_ne!(hash_vectors(&one), hash_vectors(&two));
    }

    #[test]
    fn a_short_field_is_no_receipt() {
        let mut wire = receipt().to_wire(&[0; 65]);
        wire.seed.pop();
        assert_eq!(Receipt::from_wire(&wire), None);
    }
}
