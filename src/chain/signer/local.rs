//! A secp256k1 key in this process: signs transactions, and consents of nodes. Never printed, never logged, never serialised, and
//! wiped from memory when it is dropped, with every buffer that it came through.

use std::{fmt, io::Read, os::fd::AsRawFd, path::Path};

use alloy::{
    primitives::{B256, Signature, keccak256},
    // The curve's own crate hands out the crate with which it wipes its keys.
    signers::{SignerSync, k256::elliptic_curve::zeroize::Zeroizing, local::PrivateKeySigner},
};

use super::{SignFuture, Signer};
use crate::{api::ids::NodeAddress, chain::error::ChainError};

/// An encrypted keystore has about 500 bytes; nothing that is not a key needs to be read further.
const MAX_FILE_BYTES: u64 = 16 << 10;

/// Says where the key was looked for and what form it has, and nothing of its content.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    #[error("cannot read the key file {path}: {detail}")]
    Unreadable { path: String, detail: String },
    #[error(
        "{source_name} does not hold a private key: expected 64 hexadecimal digits, with or without 0x, or an encrypted keystore (JSON)"
    )]
    Malformed { source_name: String },
    #[error("{source_name} is an encrypted keystore and needs a password: {cure}")]
    PasswordMissing { source_name: String, cure: String },
    #[error("{source_name} cannot be decrypted: the password is another one, or the keystore is damaged")]
    Locked { source_name: String },
}

/// The secret scalar is wiped when the last clone is dropped.
#[derive(Clone)]
pub struct ChainKey {
    signer: PrivateKeySigner,
}

impl ChainKey {
    /// Reads 64 hexadecimal digits (with or without `0x`, space around them allowed) from a file, or an encrypted keystore whose
    /// password is the first line of the file beside it, named like it with `.password` at its end.
    pub fn from_file(path: &Path) -> Result<Self, KeyError> {
        let name = path.display().to_string();
        let content = read(path)?;
        if !is_keystore(&content) {
            return ChainKey::parse(&content, &name);
        }
        let mut beside = path.as_os_str().to_owned();
        beside.push(".password");
        let beside = Path::new(&beside);
        if !beside.exists() {
            let cure = format!("write it into {}", beside.display());
            return Err(KeyError::PasswordMissing { source_name: name, cure });
        }
        ChainKey::decrypt(&content, &read(beside)?, &name)
    }

    /// From the content of a Secret's key: 64 hexadecimal digits. `source_name` says in errors where it came from.
    pub fn parse(content: &[u8], source_name: &str) -> Result<Self, KeyError> {
        let malformed = || KeyError::Malformed { source_name: source_name.to_owned() };
        let digits = content.trim_ascii();
        let digits = digits.strip_prefix(b"0x").unwrap_or(digits);
        let mut secret = Zeroizing::new([0; 32]);
        hex::decode_to_slice(digits, &mut secret[..]).map_err(|_| malformed())?;
        ChainKey::from_bytes(&secret).map_err(|_| malformed())
    }

    /// From an encrypted keystore (Web3 Secret Storage) and its password; white space around the password is no part of it. Takes
    /// a second and, for the usual scrypt parameters, 256 MiB.
    pub fn decrypt(keystore: &[u8], password: &[u8], source_name: &str) -> Result<Self, KeyError> {
        let malformed = || KeyError::Malformed { source_name: source_name.to_owned() };
        if keystore.len() as u64 > MAX_FILE_BYTES {
            return Err(malformed());
        }
        // The library reads files only, and a pod has none to write to. The keystore fits into the buffer of a pipe.
        let (reader, mut writer) = std::io::pipe().map_err(|_| malformed())?;
        std::io::Write::write_all(&mut writer, keystore).map_err(|_| malformed())?;
        drop(writer);
        let path = format!("/proc/self/fd/{}", reader.as_raw_fd());
        PrivateKeySigner::decrypt_keystore(path, password.trim_ascii())
            .map(|signer| ChainKey { signer })
            .map_err(|_| KeyError::Locked { source_name: source_name.to_owned() })
    }

    /// From the 32 bytes of the secret scalar, big-endian. Fails for zero and for numbers above the curve's order.
    pub fn from_bytes(secret: &[u8; 32]) -> Result<Self, KeyError> {
        PrivateKeySigner::from_slice(secret)
            .map(|signer| ChainKey { signer })
            .map_err(|_| KeyError::Malformed { source_name: "the given secret".to_owned() })
    }

    pub fn address(&self) -> NodeAddress {
        self.signer.address().into()
    }

    /// The public half, 64 bytes, as remote signers name their keys.
    pub fn public_key(&self) -> [u8; 64] {
        self.signer.public_key().0
    }

    /// Deterministic (RFC 6979): the same digest always gives the same signature.
    pub fn sign_digest(&self, digest: B256) -> Result<Signature, ChainError> {
        self.signer.sign_hash_sync(&digest).map_err(|error| ChainError::Signing(error.to_string()))
    }
}

impl Signer for ChainKey {
    fn address(&self) -> NodeAddress {
        ChainKey::address(self)
    }

    fn sign<'a>(&'a self, payload: &'a [u8]) -> SignFuture<'a> {
        let signed = self.sign_digest(keccak256(payload));
        Box::pin(async move { signed })
    }
}

/// Whether the content of a key file is an encrypted keystore.
pub fn is_keystore(content: &[u8]) -> bool {
    content.trim_ascii_start().first() == Some(&b'{')
}

fn read(path: &Path) -> Result<Zeroizing<Vec<u8>>, KeyError> {
    let unreadable =
        |error: std::io::Error| KeyError::Unreadable { path: path.display().to_string(), detail: error.to_string() };
    let file = std::fs::File::open(path).map_err(unreadable)?;
    // With its whole size from the start: a buffer that grows leaves copies behind.
    let mut content = Zeroizing::new(Vec::with_capacity(MAX_FILE_BYTES as usize + 1));
    file.take(MAX_FILE_BYTES).read_to_end(&mut content).map_err(unreadable)?;
    Ok(content)
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

    /// As wallets write it.
    fn keystore(folder: &Path) -> std::path::PathBuf {
        let key = ChainKey::parse(SECRET.as_bytes(), "test").unwrap();
        let mut random = alloy::signers::k256::elliptic_curve::rand_core::OsRng;
        let secret = key.signer.credential().to_bytes();
        PrivateKeySigner::encrypt_keystore(folder, &mut random, secret, "open sesame", Some("wallet")).unwrap();
        folder.join("wallet")
    }

    #[test]
    fn an_encrypted_keystore_opens_with_its_password_and_with_no_other() {
        let folder = tempfile::tempdir().unwrap();
        let path = keystore(folder.path());
        let content = std::fs::read(&path).unwrap();
        assert!(is_keystore(&content) && !is_keystore(SECRET.as_bytes()));
        let key = ChainKey::decrypt(&content, b"open sesame\n", "wallet").unwrap();
        assert_eq!(key.address().to_string(), "0xf39fd6e51aad88f6f4ce6ab8827279cfffb92266");
        let locked = ChainKey::decrypt(&content, b"open", "wallet").unwrap_err();
        assert_eq!(locked, KeyError::Locked { source_name: "wallet".into() });
        let missing = ChainKey::from_file(&path).unwrap_err().to_string();
        assert!(missing.contains("wallet.password"), "{missing}");
        std::fs::write(folder.path().join("wallet.password"), "open sesame\n").unwrap();
        assert_eq!(ChainKey::from_file(&path).unwrap().address(), key.address());
    }

    #[test]
    fn a_missing_file_is_named() {
        let error = ChainKey::from_file(Path::new("/nowhere/key")).unwrap_err().to_string();
        assert!(error.contains("/nowhere/key"), "{error}");
    }
}
