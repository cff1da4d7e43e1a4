//! Who signs for a network's reporter: a key or an encrypted keystore from a Secret, or a remote signer. Opening a keystore takes a
//! second and asking a remote signer for its keys a round trip, so what was made is kept until its source changes.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use k8s_openapi::{ByteString, api::core::v1::Secret};
use kube::{Api, Client};

use super::chains::ChainProblem;
use crate::{
    api::{
        conditions::Finding,
        grid_network::{ChainSpec, RemoteSignerSpec},
        reasons::Reason,
        refs::SecretKeyRef,
    },
    chain::{
        ChainError, ChainKey, KeyError, Signer,
        signer::{Pem, RemoteSigner, RemoteSignerOptions, SignerTls, local::is_keystore},
    },
};

/// Key of a Secret that holds the password of the keystore beside it.
const PASSWORD: &str = "password";

/// More than networks in a cluster; what is older is made again.
const MAX_KEPT: usize = 16;

/// A signer, and the hash of what it was made of.
type Made = (blake3::Hash, Arc<dyn Signer>);

/// Signers by where they are from.
#[derive(Default)]
pub struct Signers {
    made: Mutex<HashMap<String, Made>>,
}

impl Signers {
    /// The signer that a network names.
    pub async fn of(
        &self,
        chain: &ChainSpec,
        client: &Client,
        namespace: &str,
    ) -> Result<Arc<dyn Signer>, ChainProblem> {
        match (&chain.reporter_secret_ref, &chain.remote_signer) {
            (Some(at), None) => self.local(at, client, namespace).await,
            (None, Some(remote)) => self.remote(remote, client, namespace).await,
            _ => Err(ChainProblem::no(
                Reason::ReporterSecretMissing,
                "exactly one of spec.chain.reporterSecretRef and spec.chain.remoteSigner must be set",
            )),
        }
    }

    /// The signer whose key or keystore a Secret holds.
    pub async fn local(
        &self,
        at: &SecretKeyRef,
        client: &Client,
        namespace: &str,
    ) -> Result<Arc<dyn Signer>, ChainProblem> {
        let SecretKeyRef { name, key } = at;
        let mut data = secret(name, client, namespace).await?.unwrap_or_default();
        let missing = || {
            let message = format!(
                "there is no Secret {namespace}/{name} with the key {key:?}; it must hold the reporter's private key"
            );
            ChainProblem::no(Reason::ReporterSecretMissing, message)
        };
        let content = data.remove(key).ok_or_else(missing)?.0;
        let password = data.remove(PASSWORD).map(|password| password.0);
        let source = format!("Secret {namespace}/{name}, key {key:?}");
        let hash = hash([&content, password.as_deref().unwrap_or_default()]);
        if let Some(known) = self.known(&source, hash) {
            return Ok(known);
        }
        let named = source.clone();
        // A keystore costs a second of computing.
        let opened = tokio::task::spawn_blocking(move || open(&content, password.as_deref(), &named)).await;
        let key = opened
            .unwrap_or_else(|_| Err(KeyError::Locked { source_name: source.clone() }))
            .map_err(|error| ChainProblem::from(&ChainError::from(error)))?;
        Ok(self.keep(source, hash, Arc::new(key)))
    }

    async fn remote(
        &self,
        spec: &RemoteSignerSpec,
        client: &Client,
        namespace: &str,
    ) -> Result<Arc<dyn Signer>, ChainProblem> {
        let tls = match &spec.tls_secret_name {
            Some(name) => {
                let found = secret(name, client, namespace).await?.ok_or_else(|| {
                    let message = format!("there is no Secret {namespace}/{name} with tls.crt, tls.key and ca.crt");
                    ChainProblem::no(Reason::SignerInvalid, message)
                })?;
                tls_of(found, &format!("Secret {namespace}/{name}"))
            }
            None => SignerTls::default(),
        };
        let hash = tls.digest();
        let source = format!("{} {}", spec.url, spec.address);
        if let Some(known) = self.known(&source, hash) {
            return Ok(known);
        }
        let address = spec.address.parse().map_err(|error| {
            ChainProblem::no(Reason::SignerInvalid, format!("spec.chain.remoteSigner.address: {error}"))
        })?;
        let options = RemoteSignerOptions { url: spec.url.clone(), address, tls };
        let signer = RemoteSigner::connect(&options).await.map_err(|error| ChainProblem::from(&error))?;
        Ok(self.keep(source, hash, Arc::new(signer)))
    }

    fn known(&self, source: &str, hash: blake3::Hash) -> Option<Arc<dyn Signer>> {
        let made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        made.get(source).filter(|(of, _)| *of == hash).map(|(_, signer)| signer.clone())
    }

    fn keep(&self, source: String, hash: blake3::Hash, signer: Arc<dyn Signer>) -> Arc<dyn Signer> {
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        if made.len() >= MAX_KEPT {
            made.clear();
        }
        made.insert(source, (hash, signer.clone()));
        signer
    }
}

/// The files of a Secret of the type kubernetes.io/tls, as far as they are there.
fn tls_of(mut data: Data, source: &str) -> SignerTls {
    let mut part = |key: &str| {
        let content = data.remove(key)?.0;
        Some(Pem { named: format!("{key} of {source}"), content })
    };
    SignerTls { certificate: part("tls.crt"), key: part("tls.key"), authority: part("ca.crt") }
}

fn open(content: &[u8], password: Option<&[u8]>, source: &str) -> Result<ChainKey, KeyError> {
    if !is_keystore(content) {
        return ChainKey::parse(content, source);
    }
    let missing = || KeyError::PasswordMissing {
        source_name: source.to_owned(),
        cure: format!("write it into the same Secret under the key {PASSWORD:?}"),
    };
    ChainKey::decrypt(content, password.ok_or_else(missing)?, source)
}

fn hash(parts: [&[u8]; 2]) -> blake3::Hash {
    let mut hasher = blake3::Hasher::new();
    for part in parts {
        hasher.update(&(part.len() as u64).to_le_bytes()).update(part);
    }
    hasher.finalize()
}

type Data = std::collections::BTreeMap<String, ByteString>;

async fn secret(name: &str, client: &Client, namespace: &str) -> Result<Option<Data>, ChainProblem> {
    let secrets: Api<Secret> = Api::namespaced(client.clone(), namespace);
    let found = secrets.get_opt(name).await.map_err(|error| ChainProblem {
        finding: Finding::unknown(
            Reason::ReporterSecretMissing,
            format!("Secret {namespace}/{name} cannot be read: {error}"),
        ),
    })?;
    Ok(found.map(|secret| secret.data.unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: &[u8] = b"ac0974bec39a17e36ba4a6b4d238ff944bacb478cbed5efcae784d7bf4f2ff80";

    #[test]
    fn a_plain_key_needs_no_password_and_a_keystore_says_where_its_own_belongs() {
        assert!(open(SECRET, None, "Secret a/b").is_ok());
        let error = open(b"{\"crypto\": {}}", None, "Secret a/b").unwrap_err().to_string();
        assert!(error.contains("Secret a/b") && error.contains("\"password\""), "{error}");
    }

    #[test]
    fn what_was_made_is_kept_until_its_source_changes() {
        let signers = Signers::default();
        let key = open(SECRET, None, "a").unwrap();
        let (first, second) = (hash([b"one", b""]), hash([b"two", b""]));
        signers.keep("a".into(), first, Arc::new(key));
        assert!(signers.known("a", first).is_some());
        assert!(signers.known("a", second).is_none());
        assert_ne!(hash([b"ab", b""]), hash([b"a", b"b"]));
    }
}
