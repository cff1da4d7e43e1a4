//! Newtypes made once at the edge. Inside the system nobody sees a raw string or a bare number whose unit must be guessed.

use std::{fmt, str::FromStr};

use alloy::primitives::{Address, keccak256};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Why a string is not the identifier it should be. The text is fit for a condition message.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{value:?} is not {expected}")]
pub struct ParseIdError {
    pub expected: &'static str,
    pub value: String,
}

fn refuse<T>(expected: &'static str, value: &str) -> Result<T, ParseIdError> {
    // A hostile value may be megabytes long; the message is for a person.
    Err(ParseIdError { expected, value: value.chars().take(80).collect() })
}

/// Serialises through `Display` and `FromStr`.
macro_rules! string_serde {
    ($name:ty) => {
        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }
        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
            }
        }
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }
    };
}

/// An amount of native XDC in wei (10⁻¹⁸ XDC). The whole supply (about 3.8·10²⁸ wei) fits in 128 bits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Wei(pub u128);

impl Wei {
    /// One XDC.
    pub const XDC: Wei = Wei(1_000_000_000_000_000_000);

    /// XDC with four decimals, rounded down, for people.
    pub fn to_xdc(self) -> String {
        format!("{}.{:04}", self.0 / Self::XDC.0, self.0 % Self::XDC.0 / 100_000_000_000_000)
    }
}

impl fmt::Display for Wei {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for Wei {
    type Err = ParseIdError;

    fn from_str(text: &str) -> Result<Self, ParseIdError> {
        const EXPECTED: &str = "an amount in wei (decimal digits only)";
        if text.is_empty() || text.len() > 39 || !text.bytes().all(|byte| byte.is_ascii_digit()) {
            return refuse(EXPECTED, text);
        }
        text.parse().map(Wei).or_else(|_| refuse(EXPECTED, text))
    }
}

string_serde!(Wei);

/// An account on the chain: 20 bytes. Reads `0x…` and `xdc…`, writes lower-case `0x…` (XDC nodes accept it everywhere).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeAddress(pub [u8; 20]);

impl From<Address> for NodeAddress {
    fn from(address: Address) -> Self {
        NodeAddress(address.into_array())
    }
}

impl From<NodeAddress> for Address {
    fn from(address: NodeAddress) -> Self {
        Address::from(address.0)
    }
}

impl fmt::Display for NodeAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "0x{}", hex::encode(self.0))
    }
}

impl FromStr for NodeAddress {
    type Err = ParseIdError;

    fn from_str(text: &str) -> Result<Self, ParseIdError> {
        const EXPECTED: &str = "an address (0x or xdc, then 40 hexadecimal digits)";
        let mut bytes = [0; 20];
        let digits = text.strip_prefix("0x").or_else(|| text.strip_prefix("xdc"));
        match digits.map(|digits| hex::decode_to_slice(digits, &mut bytes)) {
            Some(Ok(())) => Ok(NodeAddress(bytes)),
            _ => refuse(EXPECTED, text),
        }
    }
}

string_serde!(NodeAddress);

/// 32 bytes written as 64 lower-case hexadecimal digits.
macro_rules! hex32 {
    ($(#[$doc:meta])* $name:ident, $expected:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub [u8; 32]);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&hex::encode(self.0))
            }
        }

        impl FromStr for $name {
            type Err = ParseIdError;

            fn from_str(text: &str) -> Result<Self, ParseIdError> {
                let mut bytes = [0; 32];
                match hex::decode_to_slice(text, &mut bytes) {
                    Ok(()) => Ok($name(bytes)),
                    Err(_) => refuse($expected, text),
                }
            }
        }

        string_serde!($name);
    };
}

hex32!(
    /// sha256 of a model file. Names are for people; everything inside goes by this digest.
    ModelDigest,
    "a sha256 digest (64 hexadecimal digits)"
);
hex32!(
    /// Identifies one inference request for its whole life: BLAKE3(job UID ‖ 0 ‖ custom_id), or random for an online request.
    RequestId,
    "a request id (64 hexadecimal digits)"
);

impl RequestId {
    /// The id of a batch line. Derived, so that submitting a job again finds the same requests.
    pub fn of_job_line(job_uid: &str, custom_id: &str) -> Self {
        let mut hasher = blake3::Hasher::new_derive_key("xdc-grid request id v1");
        hasher.update(job_uid.as_bytes()).update(&[0]).update(custom_id.as_bytes());
        RequestId(*hasher.finalize().as_bytes())
    }
}

/// Id of a paid job in GridJobEscrow: keccak256(payer ‖ salt), `0x` and 64 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EscrowId(pub [u8; 32]);

impl fmt::Display for EscrowId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "0x{}", hex::encode(self.0))
    }
}

impl FromStr for EscrowId {
    type Err = ParseIdError;

    fn from_str(text: &str) -> Result<Self, ParseIdError> {
        let mut bytes = [0; 32];
        match text.strip_prefix("0x").map(|digits| hex::decode_to_slice(digits, &mut bytes)) {
            Some(Ok(())) => Ok(EscrowId(bytes)),
            _ => refuse("an escrow id (0x, then 64 hexadecimal digits)", text),
        }
    }
}

string_serde!(EscrowId);

/// Number of an epoch: ⌊(t − genesis) / length⌋, genesis and length from the contract.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct EpochNumber(pub u64);

impl EpochNumber {
    /// The epoch that `unix_seconds` falls into; `None` before genesis or for an epoch of no length.
    pub fn at(unix_seconds: u64, genesis: u64, epoch_seconds: u64) -> Option<Self> {
        unix_seconds.checked_sub(genesis)?.checked_div(epoch_seconds).map(EpochNumber)
    }
}

impl fmt::Display for EpochNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A libp2p peer whose key is secp256k1, in its usual text form (`16Uiu2HA…`). The compressed public key is inlined in the
/// id (identity multihash), so the chain address follows from the peer id alone.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GridPeerId {
    text: String,
    public_key: [u8; 33],
}

/// Identity multihash of the protobuf `{Type: secp256k1 (2), Data: 33 bytes}` (libp2p peer-id specification).
const PEER_ID_PREFIX: [u8; 6] = [0x00, 0x25, 0x08, 0x02, 0x12, 0x21];

impl GridPeerId {
    /// From a compressed secp256k1 public key.
    pub fn from_public_key(public_key: [u8; 33]) -> Self {
        let bytes: Vec<u8> = PEER_ID_PREFIX.iter().chain(&public_key).copied().collect();
        GridPeerId { text: bs58::encode(bytes).into_string(), public_key }
    }

    pub fn as_str(&self) -> &str {
        &self.text
    }

    pub fn public_key(&self) -> &[u8; 33] {
        &self.public_key
    }

    /// The chain address of the same key: last 20 bytes of keccak256 over the uncompressed point.
    pub fn address(&self) -> Result<NodeAddress, ParseIdError> {
        let key = alloy::signers::k256::ecdsa::VerifyingKey::from_sec1_bytes(&self.public_key)
            .or_else(|_| refuse("a peer id with a valid secp256k1 key", &self.text))?;
        let point = key.to_encoded_point(false);
        let digest = keccak256(point.as_bytes().get(1..).unwrap_or_default());
        let mut address = [0; 20];
        address.copy_from_slice(digest.get(12..).unwrap_or(&[0; 20]));
        Ok(NodeAddress(address))
    }
}

impl fmt::Display for GridPeerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl FromStr for GridPeerId {
    type Err = ParseIdError;

    fn from_str(text: &str) -> Result<Self, ParseIdError> {
        const EXPECTED: &str = "a peer id of a secp256k1 key (16Uiu2HA…)";
        if text.len() > 64 {
            return refuse(EXPECTED, text);
        }
        let bytes = bs58::decode(text).into_vec().or_else(|_| refuse(EXPECTED, text))?;
        match bytes.strip_prefix(&PEER_ID_PREFIX).map(<[u8; 33]>::try_from) {
            Some(Ok(public_key)) => Ok(GridPeerId { text: text.to_owned(), public_key }),
            _ => refuse(EXPECTED, text),
        }
    }
}

string_serde!(GridPeerId);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_read_in_both_spellings_and_written_with_0x() {
        let spelled: NodeAddress = "xdc951857744785e80e2de051c32ee7b25f9c458c42".parse().unwrap();
        assert_eq!(spelled.to_string(), "0x951857744785e80e2de051c32ee7b25f9c458c42");
        assert_eq!("0x951857744785e80E2DE051C32ee7b25f9c458c42".parse::<NodeAddress>().unwrap(), spelled);
        assert!("951857744785e80e2de051c32ee7b25f9c458c42".parse::<NodeAddress>().is_err());
    }

    #[test]
    fn wei_refuses_signs_and_overflow() {
        assert_eq!("1000000000000000000".parse::<Wei>().unwrap(), Wei::XDC);
        for bad in ["", "-1", "+1", "1e18", "1.0", "999999999999999999999999999999999999999"] {
            assert!(bad.parse::<Wei>().is_err(), "{bad}");
        }
        assert_eq!(Wei(1_500_000_000_000_000_000).to_xdc(), "1.5000");
    }

    #[test]
    fn a_peer_id_and_the_chain_address_are_the_same_key() {
        // Anvil's first well-known account.
        let secret = hex::decode("ac0974bec39a17e36ba4a6b4d238ff944bacb478cbed5efcae784d7bf4f2ff80").unwrap();
        let key = alloy::signers::k256::ecdsa::SigningKey::from_slice(&secret).unwrap();
        let public: [u8; 33] = key.verifying_key().to_encoded_point(true).as_bytes().try_into().unwrap();
        let peer = GridPeerId::from_public_key(public);
        assert!(peer.as_str().starts_with("16Uiu2HA"), "{peer}");
        assert_eq!(peer.address().unwrap().to_string(), "0xf39fd6e51aad88f6f4ce6ab8827279cfffb92266");
        assert_eq!(peer.as_str().parse::<GridPeerId>().unwrap(), peer);
    }

    #[test]
    fn epochs_count_from_genesis() {
        assert_eq!(EpochNumber::at(99, 100, 60), None);
        assert_eq!(EpochNumber::at(159, 100, 60), Some(EpochNumber(0)));
        assert_eq!(EpochNumber::at(160, 100, 60), Some(EpochNumber(1)));
    }
}
