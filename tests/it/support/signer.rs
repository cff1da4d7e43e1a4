//! A signer that keys are left with, as the operator and `vote-epoch` ask one: Web3Signer's eth1 mode, on request over TLS to clients
//! that show a certificate of its authority.

use std::{
    io,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
};

use alloy::primitives::{Bytes, keccak256};
use axum::{
    Json, Router,
    extract::{Path as UrlPath, State},
    http::StatusCode,
    routing::{get, post},
};
use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, KeyPair};
use rustls::{
    RootCertStore, ServerConfig,
    pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer},
    server::WebPkiClientVerifier,
};
use serde_json::Value;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use xdc_grid::chain::ChainKey;

use crate::chain_anvil::key;

/// Holds keys, and hashes what it is handed before it signs.
pub struct SigningServer {
    pub keys: Mutex<Vec<ChainKey>>,
    /// Signs with another key than the one that was asked for.
    pub swapped: Mutex<bool>,
    /// Signatures that were given out.
    pub signed: Mutex<u64>,
}

impl SigningServer {
    fn new(keys: &[&ChainKey]) -> (Arc<Self>, Router) {
        let keys = Mutex::new(keys.iter().map(|key| (*key).clone()).collect());
        let server = Arc::new(SigningServer { keys, swapped: Mutex::new(false), signed: Mutex::new(0) });
        let app = Router::new()
            .route("/api/v1/eth1/publicKeys", get(public_keys))
            .route("/api/v1/eth1/sign/{identifier}", post(sign))
            .with_state(server.clone());
        (server, app)
    }

    /// Without TLS. Returns its URL, too.
    pub async fn start(keys: &[&ChainKey]) -> (Arc<Self>, String) {
        let (server, app) = SigningServer::new(keys);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async move { axum::serve(listener, app).await });
        (server, url)
    }

    /// With a certificate of `authority`, for clients that have one of it as well.
    pub async fn start_tls(keys: &[&ChainKey], authority: &Authority) -> (Arc<Self>, String) {
        let (server, app) = SigningServer::new(keys);
        let listener = TlsListener {
            tcp: TcpListener::bind("127.0.0.1:0").await.unwrap(),
            tls: TlsAcceptor::from(Arc::new(authority.server())),
        };
        let url = format!("https://{}", listener.tcp.local_addr().unwrap());
        tokio::spawn(async move { axum::serve(listener, app).await });
        (server, url)
    }

    pub fn signed(&self) -> u64 {
        *self.signed.lock().unwrap()
    }
}

fn identifier(key: &ChainKey) -> String {
    Bytes::from(key.public_key().to_vec()).to_string()
}

async fn public_keys(State(server): State<Arc<SigningServer>>) -> Json<Vec<String>> {
    Json(server.keys.lock().unwrap().iter().map(identifier).collect())
}

async fn sign(
    State(server): State<Arc<SigningServer>>,
    UrlPath(asked): UrlPath<String>,
    Json(body): Json<Value>,
) -> Result<String, StatusCode> {
    let data: Bytes = serde_json::from_value(body["data"].clone()).map_err(|_| StatusCode::BAD_REQUEST)?;
    let keys = server.keys.lock().unwrap();
    let found = keys.iter().find(|key| identifier(key) == asked).ok_or(StatusCode::NOT_FOUND)?;
    let signer = if *server.swapped.lock().unwrap() { key(77) } else { found.clone() };
    *server.signed.lock().unwrap() += 1;
    Ok(Bytes::from(signer.sign_digest(keccak256(data)).unwrap().as_bytes().to_vec()).to_string())
}

// ------------------------------------------------------------------------------------------------ TLS

/// A private certificate authority.
pub struct Authority {
    certificate: rcgen::Certificate,
    key: KeyPair,
}

/// A certificate and its key, PEM.
pub struct Identity {
    pub certificate: String,
    pub key: String,
}

impl Authority {
    pub fn new() -> Self {
        xdc_grid::telemetry::install_crypto_provider();
        let mut params = CertificateParams::new(Vec::<String>::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        Authority { certificate: params.self_signed(&key).unwrap(), key }
    }

    pub fn pem(&self) -> String {
        self.certificate.pem()
    }

    /// What a client shows.
    pub fn client(&self) -> Identity {
        let (certificate, key) = self.issue("operator", ExtendedKeyUsagePurpose::ClientAuth);
        Identity { certificate: certificate.pem(), key: key.serialize_pem() }
    }

    /// Writes `ca.pem`, `client.pem` and `client.key` into a folder: a new client certificate each time.
    pub fn write_client(&self, folder: &Path) -> [PathBuf; 3] {
        let Identity { certificate, key } = self.client();
        [("ca.pem", self.pem()), ("client.pem", certificate), ("client.key", key)].map(|(name, content)| {
            let path = folder.join(name);
            std::fs::write(&path, content).unwrap();
            path
        })
    }

    fn issue(&self, name: &str, purpose: ExtendedKeyUsagePurpose) -> (rcgen::Certificate, KeyPair) {
        let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        params.extended_key_usages = vec![purpose];
        let key = KeyPair::generate().unwrap();
        (params.signed_by(&key, &self.certificate, &self.key).unwrap(), key)
    }

    fn server(&self) -> ServerConfig {
        let mut roots = RootCertStore::empty();
        roots.add(self.certificate.der().clone()).unwrap();
        let verifier = WebPkiClientVerifier::builder(Arc::new(roots)).build().unwrap();
        let (certificate, key) = self.issue("127.0.0.1", ExtendedKeyUsagePurpose::ServerAuth);
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let config = ServerConfig::builder().with_client_cert_verifier(verifier);
        config.with_single_cert(vec![certificate.der().clone()], key).unwrap()
    }
}

struct TlsListener {
    tcp: TcpListener,
    tls: TlsAcceptor,
}

impl axum::serve::Listener for TlsListener {
    type Io = TlsStream<TcpStream>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        loop {
            let (stream, peer) = self.tcp.accept().await.unwrap();
            // Whoever shows no certificate, or one of another authority, gets no further.
            if let Ok(stream) = self.tls.accept(stream).await {
                return (stream, peer);
            }
        }
    }

    fn local_addr(&self) -> io::Result<Self::Addr> {
        self.tcp.local_addr()
    }
}
