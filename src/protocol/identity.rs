//! The node key: one secp256k1 key is the libp2p identity, the chain address and the signer of receipts.

use std::{fmt, path::Path};

use alloy::{
    primitives::{B256, Signature},
    signers::{SignerSync, k256::ecdsa::SigningKey, local::PrivateKeySigner},
};

use crate::api::ids::{GridPeerId, NodeAddress};

/// A 65-byte recoverable signature: r ‖ s ‖ v, with v 27 or 28.
pub type SignatureBytes = [u8; 65];

#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    #[error("cannot read the key file {path}: {source}")]
    Read { path: String, source: std::io::Error },
    #[error("{path} does not hold a secp256k1 key (64 hexadecimal digits, optionally with 0x)")]
    Format { path: String },
    #[error("this key cannot sign: {0}")]
    Sign(String),
}

/// A node's secret key. Never printed.
#[derive(Clone)]
pub struct NodeKey {
    signer: PrivateKeySigner,
}

impl fmt::Debug for NodeKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "NodeKey({})", self.address())
    }
}

impl NodeKey {
    /// A new key from the operating system's randomness.
    pub fn generate() -> Self {
        NodeKey { signer: PrivateKeySigner::random() }
    }

    /// From 32 secret bytes; `None` when they are no valid scalar.
    pub fn from_bytes(secret: &[u8]) -> Option<Self> {
        let key = SigningKey::from_slice(secret).ok()?;
        Some(NodeKey { signer: PrivateKeySigner::from_signing_key(key) })
    }

    /// From 64 hexadecimal digits, with or without `0x`, surrounding white space ignored.
    pub fn from_hex(text: &str) -> Option<Self> {
        let digits = text.trim();
        Self::from_bytes(&hex::decode(digits.strip_prefix("0x").unwrap_or(digits)).ok()?)
    }

    /// Reads a key file as `from_hex` does.
    pub fn read(path: &Path) -> Result<Self, KeyError> {
        let shown = || path.display().to_string();
        let text = std::fs::read_to_string(path).map_err(|source| KeyError::Read { path: shown(), source })?;
        Self::from_hex(&text).ok_or_else(|| KeyError::Format { path: shown() })
    }

    /// The 32 secret bytes, for the libp2p keypair and for storing the key.
    pub fn secret_bytes(&self) -> [u8; 32] {
        self.signer.to_bytes().0
    }

    pub fn peer_id(&self) -> GridPeerId {
        let point = self.signer.credential().verifying_key().to_encoded_point(true);
        let mut compressed = [0; 33];
        compressed.copy_from_slice(point.as_bytes());
        GridPeerId::from_public_key(compressed)
    }

    pub fn address(&self) -> NodeAddress {
        self.signer.address().into()
    }

    /// Signs an EIP-712 hash.
    pub fn sign_hash(&self, hash: B256) -> Result<SignatureBytes, KeyError> {
        let signature = self.signer.sign_hash_sync(&hash).map_err(|error| KeyError::Sign(error.to_string()))?;
        Ok(signature.as_bytes())
    }
}

/// Who signed `hash`; `None` for bytes that are no signature.
pub fn recover(hash: B256, signature: &[u8]) -> Option<NodeAddress> {
    let signature = Signature::from_raw(signature).ok()?;
    // One signature per message: the high-s twin of a valid signature is refused, as the contract does.
    if signature.normalize_s().is_some() {
        return None;
    }
    signature.recover_address_from_prehash(&hash).ok().map(NodeAddress::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signature_recovers_to_the_address_of_the_peer_id() {
        let key = NodeKey::generate();
        let hash = B256::repeat_byte(3);
        let signature = key.sign_hash(hash).unwrap();
        assert_eq!(recover(hash, &signature), Some(key.address()));
        assert_eq!(key.peer_id().address().unwrap(), key.address());
        assert_ne!(recover(B256::repeat_byte(4), &signature), Some(key.address()));
        assert_eq!(recover(hash, &signature[..64]), None);
    }

    #[test]
    fn a_key_is_never_printed() {
        let key = NodeKey::from_bytes(&[1; 32]).unwrap();
        assert!(!format!("{key:?}").contains("0101"));
    }
}
