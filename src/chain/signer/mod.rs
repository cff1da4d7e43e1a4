//! Who signs: a key in this process, or one that never leaves another program. A signer is asked for a signature over bytes and
//! not over their hash, since remote signers hash for themselves. One key per role; the outbox never asks which kind it has.

pub mod digest;
pub mod local;
pub mod named;
pub mod remote;

use std::fmt;

use alloy::primitives::{Signature, keccak256};
use futures::future::BoxFuture;

use super::error::ChainError;
use crate::api::ids::NodeAddress;

pub use digest::{DigestSigner, KmsSigner, RawSignature};
pub use local::{ChainKey, KeyError};
pub use named::{NamedSigner, RemoteSignerArgs, SignerArgs};
pub use remote::{Pem, RemoteSigner, RemoteSignerOptions, SignerTls};

pub type SignFuture<'a> = BoxFuture<'a, Result<Signature, ChainError>>;

/// An account that can sign. Its signatures have a low s and recover to its address: implementations check what they are handed.
pub trait Signer: Send + Sync + fmt::Debug {
    fn address(&self) -> NodeAddress;

    /// Signs keccak256 of `payload`: an unsigned transaction, or the EIP-712 encoding of a statement.
    fn sign<'a>(&'a self, payload: &'a [u8]) -> SignFuture<'a>;
}

/// Takes a signature only in the form that the chain takes: of this account, over this payload, with a low s (EIP-2).
fn checked(signature: Signature, payload: &[u8], account: NodeAddress) -> Result<Signature, ChainError> {
    let signature = signature.normalized_s();
    let signer = signature
        .recover_address_from_prehash(&keccak256(payload))
        .map_err(|error| ChainError::Signing(format!("the signature is none: {error}")))?;
    if NodeAddress::from(signer) == account {
        return Ok(signature);
    }
    let message = format!("the signer signed as {}, not as {account}", NodeAddress::from(signer));
    Err(ChainError::Signing(message))
}
