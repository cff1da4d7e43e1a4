//! A secp256k1 key: signs transactions, and consents of nodes. Never printed, never logged, never serialised.

use std::{fmt, io::Read, path::Path};

use alloy::{
    primitives::{B256, Signature},
    signers::{SignerSync, local::PrivateKeySigner},
};

use super::error::ChainError;
use crate::api::ids::NodeAddress;

/// A hex key with spaces around it fits; nothing that is not a key needs to be read further.
const MAX_FILE_BYTES: u64 = 256;

/// Says where the key was looked for and what form it has, and nothing of its content.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    #[error("cannot read the key file {path}: {detail}")]
    Unreadable { path: String, detail: String },
    #[error("{source_name} does not hold a private key: expected 64 hexadecimal digits, with or without 0x")]
    Malformed { source_name: String },
}

#[derive(Clone)]
pub struct ChainKey {
    signer: PrivateKeySigner,
}

impl ChainKey {
    /// Reads 64 hexadecimal digits (with or without `0x`, space around them allowed) from a file.
    pub fn from_file(path: &Path) -> Result<Self, KeyError> {
        let name = path.display().to_string();
        let unreadable = |error: std::io::Error| KeyError::Unreadable { path: name.clone(), detail: error.to_string() };
        let file = std::fs::File::open(path).map_err(unreadable)?;
        let mut text = Vec::new();
        file.take(MAX_FILE_BYTES).read_to_end(&mut text).map_err(unreadable)?;
        ChainKey::parse(&text, &name)
    }

    /// From the content of a Secret's key, in the form of [`ChainKey::from_file`]. `source_name` says in errors where it came from.
    pub fn parse(content: &[u8], source_name: &str) -> Result<Self, KeyError> {
        let malformed = || KeyError::Malformed { source_name: source_name.to_owned() };
        let digits = content.trim_ascii();
        let digits = digits.strip_prefix(b"0x").unwrap_or(digits);
        let mut secret = [0; 32];
        hex::decode_to_slice(digits, &mut secret).map_err(|_| malformed())?;
        ChainKey::from_bytes(&secret).map_err(|_| malformed())
    }

    /// From the 32 bytes of the secret scalar, big-endian. Fails for zero and for numbers above the curve's order.
    pub fn from_bytes(secret: &[u8; 32]) -> Result<Self, KeyError> {
        PrivateKeySigner::from_bytes(&B256::from(*secret))
            .map(|signer| ChainKey { signer })
            .map_err(|_| KeyError::Malformed { source_name: "the given secret".to_owned() })
    }

    pub fn address(&self) -> NodeAddress {
        self.signer.address().into()
    }

    /// Deterministic (RFC 6979): the same digest always gives the same signature.
    pub fn sign(&self, digest: B256) -> Result<Signature, ChainError> {
        self.signer.sign_hash_sync(&digest).map_err(|error| ChainError::Signing(error.to_string()))
    }
}

impl fmt::Debug for ChainKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ChainKey({})", self.address())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: &str = "ac0974bec39a17e36ba4a6b4d238ff944bacb478cbed5efcae784d7bf4f2ff80";

    #[test]
    fn a_key_is_read_from_a_file_with_or_without_0x() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        for text in [SECRET.to_owned(), format!("0x{SECRET}\n")] {
            std::fs::write(&path, text).unwrap();
            let key = ChainKey::from_file(&path).unwrap();
            assert_eq!(key.address().to_string(), "0xf39fd6e51aad88f6f4ce6ab8827279cfffb92266");
        }
    }

    #[test]
    fn neither_debug_nor_an_error_shows_the_key() {
        let key = ChainKey::parse(SECRET.as_bytes(), "test").unwrap();
        assert_eq!(format!("{key:?}"), "ChainKey(0xf39fd6e51aad88f6f4ce6ab8827279cfffb92266)");
        let truncated = ChainKey::parse(&SECRET.as_bytes()[..63], "secret/reporter").unwrap_err().to_string();
        assert!(truncated.contains("secret/reporter") && !truncated.contains("ac09"), "{truncated}");
        assert!(ChainKey::from_bytes(&[0; 32]).is_err());
        assert!(ChainKey::from_bytes(&[255; 32]).is_err());
    }

    #[test]
    fn a_missing_file_is_named() {
        let error = ChainKey::from_file(Path::new("/nowhere/key")).unwrap_err().to_string();
        assert!(error.contains("/nowhere/key"), "{error}");
    }
}
