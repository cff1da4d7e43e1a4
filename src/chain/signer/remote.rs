//! A key in another program, asked over HTTP in the way of Web3Signer (`GET /api/v1/eth1/publicKeys`, `POST
//! /api/v1/eth1/sign/{identifier}`): over TLS with a certificate of our own where one is given, and without TLS only on this
//! machine. Nothing that comes back is believed before it recovers to the account.

use std::{fmt, net::IpAddr, time::Duration};

use alloy::primitives::{Bytes, Signature, keccak256};
use serde_json::json;

use super::{SignFuture, Signer, checked};
use crate::{api::ids::NodeAddress, chain::error::ChainError};

const TIMEOUT: Duration = Duration::from_secs(10);
/// A list of some hundred keys, or a signature.
const MAX_ANSWER: usize = 64 << 10;
/// Characters of a cause that an error repeats.
const MAX_CAUSE: usize = 300;

/// Where the signer is and who it is to sign as.
#[derive(Clone)]
pub struct RemoteSignerOptions {
    /// `https://signer.example:9000`; without a path.
    pub url: String,
    /// The account whose key it holds.
    pub address: NodeAddress,
    pub tls: SignerTls,
}

/// A PEM file, and what errors call it: the option or the key of a Secret that named it.
#[derive(Clone)]
pub struct Pem {
    pub named: String,
    pub content: Vec<u8>,
}

/// What TLS with a signer needs beside the machine's own authorities.
#[derive(Clone, Default)]
pub struct SignerTls {
    /// Our certificate, for mutual TLS, with those between it and its authority. Only together with `key`.
    pub certificate: Option<Pem>,
    /// The key of `certificate`.
    pub key: Option<Pem>,
    /// The authorities that may have signed the signer's certificate, in place of the machine's.
    pub authority: Option<Pem>,
}

impl SignerTls {
    /// The same for the same contents: a signer is to be made anew when it changes.
    pub fn digest(&self) -> blake3::Hash {
        let mut hasher = blake3::Hasher::new();
        for part in [&self.certificate, &self.key, &self.authority] {
            let content = part.as_ref().map(|pem| pem.content.as_slice());
            hasher.update(&content.map_or(u64::MAX, |content| content.len() as u64).to_le_bytes());
            hasher.update(content.unwrap_or_default());
        }
        hasher.finalize()
    }
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
        let (base, host) = checked_url(&options.url)?;
        let http = client(&options.tls)?;
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
        let mut response = request.send().await.map_err(|error| failed(cause(error)))?;
        if !response.status().is_success() {
            return Err(failed(format!("HTTP status {}", response.status())));
        }
        let mut body = Vec::new();
        while let Some(piece) = response.chunk().await.map_err(|error| failed(cause(error)))? {
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

fn invalid(detail: impl Into<String>) -> ChainError {
    ChainError::InvalidSigner { detail: detail.into() }
}

/// The URL and its host. Whoever can read or change what goes over a network without TLS can have anything signed.
fn checked_url(url: &str) -> Result<(reqwest::Url, String), ChainError> {
    let url: reqwest::Url = url.parse().map_err(|_| invalid("its url is none"))?;
    let Some(host) = url.host_str().map(str::to_owned) else { return Err(invalid("its url names no host")) };
    match url.scheme() {
        "https" => Ok((url, host)),
        "http" if is_this_machine(&host) => Ok((url, host)),
        "http" => Err(invalid(format!(
            "plain http to {host} lets anybody on the way have transactions signed: name it with https://, \
             or reach it at 127.0.0.1 through a tunnel or a sidecar"
        ))),
        _ => Err(invalid("its url must begin with https://, or with http:// for one on this machine")),
    }
}

fn is_this_machine(host: &str) -> bool {
    let address = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || address.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

fn client(tls: &SignerTls) -> Result<reqwest::Client, ChainError> {
    let mut builder = reqwest::Client::builder().timeout(TIMEOUT).redirect(reqwest::redirect::Policy::none());
    match (&tls.certificate, &tls.key) {
        (Some(certificate), Some(key)) => builder = builder.identity(identity(certificate, key)?),
        (None, None) => {}
        (Some(alone), None) => return Err(invalid(format!("{} needs the key that belongs to it", alone.named))),
        (None, Some(alone)) => {
            return Err(invalid(format!("{} needs the certificate that belongs to it", alone.named)));
        }
    }
    if let Some(Pem { named, content }) = &tls.authority {
        let none = || invalid(format!("{named} has no PEM certificate (-----BEGIN CERTIFICATE-----)"));
        let authorities = reqwest::Certificate::from_pem_bundle(content).map_err(|_| none())?;
        if authorities.is_empty() {
            return Err(none());
        }
        builder = builder.tls_certs_only(authorities);
    }
    builder.build().map_err(|error| invalid(format!("TLS with it cannot be set up: {}", cause(error))))
}

/// Both files in one, as the library wants them.
fn identity(certificate: &Pem, key: &Pem) -> Result<reqwest::Identity, ChainError> {
    let both = [&certificate.content[..], b"\n", &key.content].concat();
    reqwest::Identity::from_pem(&both).map_err(|_| {
        let (certificate, key) = (&certificate.named, &key.named);
        invalid(format!("{certificate} and {key} are no certificate and no key in PEM that belong together"))
    })
}

/// What happened below; the outermost error only says that the request failed.
fn cause(error: reqwest::Error) -> String {
    let error = error.without_url();
    let mut cause: &dyn std::error::Error = &error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    let text = cause.to_string();
    if text.contains("://") { "the request failed".to_owned() } else { text.chars().take(MAX_CAUSE).collect() }
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

    #[test]
    fn plain_http_is_for_this_machine_alone_and_the_refusal_says_what_to_do() {
        for url in
            ["http://127.0.0.1:9000", "http://localhost:9000", "http://[::1]:9000", "https://signer.example:9000"]
        {
            assert!(checked_url(url).is_ok(), "{url}");
        }
        for url in
            ["http://signer.example:9000", "http://10.0.0.7:9000", "http://localhost.example", "http://[fe80::1]"]
        {
            let refused = checked_url(url).unwrap_err();
            assert!(refused.to_string().contains("https://") && !refused.is_transient(), "{refused}");
        }
        assert!(checked_url("ftp://127.0.0.1").unwrap_err().to_string().contains("must begin with https://"));
    }

    #[test]
    fn a_file_that_is_not_what_it_should_be_is_named() {
        crate::telemetry::install_crypto_provider();
        let pem = |named: &str| Some(Pem { named: named.to_owned(), content: b"nonsense".to_vec() });
        let said = |tls: SignerTls| client(&tls).unwrap_err().to_string();
        let alone = said(SignerTls { certificate: pem("tls.crt"), ..SignerTls::default() });
        assert!(alone.contains("tls.crt needs the key"), "{alone}");
        let alone = said(SignerTls { key: pem("tls.key"), ..SignerTls::default() });
        assert!(alone.contains("tls.key needs the certificate"), "{alone}");
        let both = said(SignerTls { certificate: pem("tls.crt"), key: pem("tls.key"), ..SignerTls::default() });
        assert!(both.contains("tls.crt and tls.key"), "{both}");
        let authority = said(SignerTls { authority: pem("ca.crt"), ..SignerTls::default() });
        assert!(authority.contains("ca.crt has no PEM certificate"), "{authority}");
    }

    #[test]
    fn other_contents_have_another_digest_wherever_one_ends_and_the_next_begins() {
        let pem = |content: &[u8]| Some(Pem { named: "a file".to_owned(), content: content.to_vec() });
        let of = |certificate, key| SignerTls { certificate, key, authority: None }.digest();
        assert_eq!(of(pem(b"a"), None), of(pem(b"a"), None));
        assert_ne!(of(pem(b"ab"), pem(b"c")), of(pem(b"a"), pem(b"bc")));
        assert_ne!(of(pem(b""), None), of(None, None));
    }
}
