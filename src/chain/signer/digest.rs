//! Keys in a key management service: it signs a digest and returns two numbers, of which the second may be the high one, and never
//! says which of two public keys made them. The rest is found out here.

use std::fmt;

use alloy::primitives::{B256, Signature, U256, keccak256};
use futures::future::BoxFuture;

use super::{SignFuture, Signer};
use crate::{api::ids::NodeAddress, chain::error::ChainError};

/// r and s of an ECDSA signature over secp256k1, as a service returns them: s may be above half of the curve's order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RawSignature {
    pub r: U256,
    pub s: U256,
}

/// A service that holds a secp256k1 key.
pub trait DigestSigner: Send + Sync + fmt::Debug {
    /// The account of the key, known from its public half.
    fn address(&self) -> NodeAddress;

    /// Signs 32 bytes as they are.
    fn sign_digest(&self, digest: B256) -> BoxFuture<'_, Result<RawSignature, ChainError>>;
}

/// A [`DigestSigner`] as a [`Signer`].
#[derive(Debug)]
pub struct KmsSigner<D>(pub D);

impl<D: DigestSigner> Signer for KmsSigner<D> {
    fn address(&self) -> NodeAddress {
        self.0.address()
    }

    fn sign<'a>(&'a self, payload: &'a [u8]) -> SignFuture<'a> {
        Box::pin(async move {
            let digest = keccak256(payload);
            let raw = self.0.sign_digest(digest).await?;
            recoverable(raw, digest, self.0.address())
        })
    }
}

/// The one form of a signature that the chain takes: s in the lower half of the curve's order (EIP-2, without which anybody could
/// make a second valid transaction hash of it), and the recovery bit with which it names `account`.
pub fn recoverable(raw: RawSignature, digest: B256, account: NodeAddress) -> Result<Signature, ChainError> {
    // Flipping s flips the bit as well; both bits are tried after it.
    let low = Signature::new(raw.r, raw.s, false).normalized_s();
    [false, true]
        .into_iter()
        .map(|parity| Signature::new(low.r(), low.s(), parity))
        .find(|signature| {
            signature.recover_address_from_prehash(&digest).is_ok_and(|found| NodeAddress::from(found) == account)
        })
        .ok_or_else(|| ChainError::Signing(format!("the key service did not sign as {account}")))
}

#[cfg(test)]
mod tests {
    use futures::executor::block_on;
    use proptest::prelude::*;

    use super::*;
    use crate::chain::ChainKey;

    /// The order of secp256k1.
    const ORDER: U256 =
        U256::from_limbs([0xbfd2_5e8c_d036_4141, 0xbaae_dce6_af48_a03b, 0xffff_ffff_ffff_fffe, 0xffff_ffff_ffff_ffff]);

    /// Signs with a real key and returns the high s, as every second signature of a real service has it.
    #[derive(Debug)]
    struct HighSided(ChainKey);

    impl DigestSigner for HighSided {
        fn address(&self) -> NodeAddress {
            self.0.address()
        }

        fn sign_digest(&self, digest: B256) -> BoxFuture<'_, Result<RawSignature, ChainError>> {
            let signed = self.0.sign_digest(digest).map(|low| RawSignature { r: low.r(), s: ORDER - low.s() });
            Box::pin(async move { signed })
        }
    }

    proptest! {
        #[test]
        fn a_high_s_becomes_the_low_one_and_names_the_account(seed in 1u8..255, payload in prop::collection::vec(any::<u8>(), 0..80)) {
            let key = ChainKey::from_bytes(&[seed; 32]).unwrap();
            let signed = block_on(KmsSigner(HighSided(key.clone())).sign(&payload)).unwrap();
            prop_assert!(signed.s() <= ORDER >> 1);
            prop_assert_eq!(signed, block_on(Signer::sign(&key, &payload)).unwrap(), "the same as the key itself makes");
        }
    }

    #[test]
    fn a_signature_of_another_key_or_of_other_bytes_is_refused() {
        let (key, other) = (ChainKey::from_bytes(&[1; 32]).unwrap(), ChainKey::from_bytes(&[2; 32]).unwrap());
        let signed = key.sign_digest(B256::repeat_byte(1)).unwrap();
        let raw = RawSignature { r: signed.r(), s: signed.s() };
        assert!(recoverable(raw, B256::repeat_byte(1), key.address()).is_ok());
        assert!(recoverable(raw, B256::repeat_byte(1), other.address()).is_err());
        assert!(recoverable(raw, B256::repeat_byte(2), key.address()).is_err());
        let nonsense = RawSignature { r: U256::ZERO, s: U256::MAX };
        assert!(recoverable(nonsense, B256::ZERO, key.address()).is_err());
    }
}
