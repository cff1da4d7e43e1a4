//! A key in another program, asked over HTTP in the way of Web3Signer (`GET /api/v1/eth1/publicKeys`, `POST
//! /api/v1/eth1/sign/{identifier}`): over TLS with a certificate of our own where one is given. Nothing that comes back is believed
//! before it recovers to the account.

use std::{fmt, time::Duration};

use alloy::primitives::{Bytes, Signature, keccak256};
use serde_json::json;

use super::{SignFuture, Signer, checked};
use crate::{api::ids::NodeAddress, chain::error::ChainError};

const TIMEOUT: Duration = Duration::from_secs(10);
/// A list of some hundred keys, or a signature.
const MAX_ANSWER: usize = 64 << 10;

/// Where the signer is and who it is to sign as.
#[derive(Clone)]
pub struct RemoteSignerOptions {
    /// `https://signer.example:9000`; without a path.
    pub url: String,
    /// The account whose key it holds.
    pub address: NodeAddress,
    /// Our certificate and its key, PEM, for mutual TLS.
    pub client_identity: Option<Vec<u8>>,
    /// The certificate authority of the signer, PEM; absent means the machine's.
    pub authority: Option<Vec<u8>>,
}

/// One key of a remote signer.
pub struct RemoteSigner {
    http: reqwest::Client,
    endpoint: reqwest::Url,
    host: String,
    address: NodeAddress,
}

impl RemoteSigner {
    /// Finds the key of `options.address` among those of the signer; fails when it has none or does not answer.
    pub async fn connect(options: &RemoteSignerOptions) -> Result<Self, ChainError> {
        let invalid = |what: &str| ChainError::InvalidSigner { detail: what.to_owned() };
        let base: reqwest::Url = options.url.parse().map_err(|_| invalid("its url is none"))?;
        let (true, Some(host)) = (matches!(base.scheme(), "http" | "https"), base.host_str().map(str::to_owned)) else {
            return Err(invalid("its url must begin with http:// or https://"));
        };
        let http = client(options)?;
        let join = |path: &str| base.join(path).map_err(|_| invalid("its url cannot be extended"));
        let keys = RemoteSigner { http, endpoint: join("/api/v1/eth1/publicKeys")?, host, address: options.address };
        let answer = keys.fetch(keys.http.get(keys.endpoint.clone())).await?;
        let known: Vec<Bytes> = serde_json::from_slice(&answer)
            .map_err(|_| invalid("its list of public keys is none: is it a Web3Signer in eth1 mode?"))?;
        let key = known.iter().find(|key| account_of(key) == Some(options.address)).ok_or_else(|| {
            ChainError::InvalidSigner { detail: format!("it has {} keys and none of {}", known.len(), options.address) }
        })?;
        Ok(RemoteSigner { endpoint: join(&format!("/api/v1/eth1/sign/{key}"))?, ..keys })
    }

    /// The body of a successful answer, as far as it is allowed to be long.
    async fn fetch(&self, request: reqwest::RequestBuilder) -> Result<Vec<u8>, ChainError> {
        let failed = |detail: String| ChainError::SignerUnavailable { host: self.host.clone(), detail };
        let mut response = request.send().await.map_err(|error| failed(error.without_url().to_string()))?;
        if !response.status().is_success() {
            return Err(failed(format!("HTTP status {}", response.status())));
        }
        let mut body = Vec::new();
        while let Some(piece) = response.chunk().await.map_err(|error| failed(error.without_url().to_string()))? {
            body.extend_from_slice(&piece);
            if body.len() > MAX_ANSWER {
                return Err(failed("its answer is too long".to_owned()));
            }
        }
        Ok(body)
    }

    async fn request(&self, payload: &[u8]) -> Result<Signature, ChainError> {
        let body = json!({"data": Bytes::copy_from_slice(payload)});
        let answer = self.fetch(self.http.post(self.endpoint.clone()).json(&body)).await?;
        let text = String::from_utf8_lossy(&answer);
        // Web3Signer answers with plain text; others quote it.
        let digits = text.trim().trim_matches('"');
        let bytes: Bytes =
            digits.parse().map_err(|_| ChainError::Signing("the remote signer's answer is no signature".to_owned()))?;
        let signature = Signature::try_from(&bytes[..])
            .map_err(|error| ChainError::Signing(format!("the remote signer's answer is no signature: {error}")))?;
        checked(signature, payload, self.address)
    }
}

/// The account of a public key: 64 bytes, or 65 with the 0x04 in front.
fn account_of(key: &[u8]) -> Option<NodeAddress> {
    let point = match key {
        [4, point @ ..] if point.len() == 64 => point,
        point if point.len() == 64 => point,
        _ => return None,
    };
    keccak256(point).last_chunk::<20>().copied().map(NodeAddress)
}

fn client(options: &RemoteSignerOptions) -> Result<reqwest::Client, ChainError> {
    let invalid = |what: &str| ChainError::InvalidSigner { detail: what.to_owned() };
    let mut builder = reqwest::Client::builder().timeout(TIMEOUT).redirect(reqwest::redirect::Policy::none());
    if let Some(pem) = &options.client_identity {
        let identity = reqwest::Identity::from_pem(pem)
            .map_err(|_| invalid("our certificate for it is no PEM with a certificate and a key"))?;
        builder = builder.identity(identity);
    }
    if let Some(pem) = &options.authority {
        let authorities =
            reqwest::Certificate::from_pem_bundle(pem).map_err(|_| invalid("its authority is no PEM certificate"))?;
        builder = builder.tls_certs_only(authorities);
    }
    builder.build().map_err(|error| invalid(&error.without_url().to_string()))
}

impl Signer for RemoteSigner {
    fn address(&self) -> NodeAddress {
        self.address
    }

    fn sign<'a>(&'a self, payload: &'a [u8]) -> SignFuture<'a> {
        Box::pin(self.request(payload))
    }
}

impl fmt::Debug for RemoteSigner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RemoteSigner({} at {})", self.address, self.host)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chain::ChainKey;

    #[test]
    fn a_public_key_names_its_account_in_both_forms() {
        let key = ChainKey::from_bytes(&[7; 32]).unwrap();
        let point = key.public_key();
        assert_eq!(account_of(&point), Some(key.address()));
        assert_eq!(account_of(&[&[4], &point[..]].concat()), Some(key.address()));
        assert_eq!(account_of(&point[1..]), None);
    }
}
