//! A real OCI registry (distribution) for a test, and what pushes to it.

use std::{
    io::{BufRead, BufReader},
    path::PathBuf,
    process::{Child, Command, Stdio},
};

use base64::prelude::{BASE64_STANDARD, Engine};
use reqwest::{
    Client, RequestBuilder, Response, StatusCode, Url,
    header::{AUTHORIZATION, CONTENT_TYPE, LOCATION, WWW_AUTHENTICATE},
};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tempfile::TempDir;

/// May pull and push everything; nobody else may push where [`Auth`] asks who it is.
pub const USER: &str = "tester";
pub const PASSWORD: &str = "secret";

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Auth {
    /// Anybody pulls and pushes.
    None,
    /// HTTP Basic, also to pull.
    Basic,
    /// Bearer tokens of a token server, which gives anybody those to pull from repositories below `public/`.
    Token,
}

/// Killed when dropped, and what was pushed is gone with it.
pub struct Registry {
    /// Host and port.
    pub address: String,
    auth: Auth,
    /// Holds its standard input, at whose end it ends by itself: it does not outlive this process, however that comes.
    process: Child,
    _folder: TempDir,
}

impl Registry {
    pub async fn start(auth: Auth) -> Registry {
        xdc_grid::telemetry::install_crypto_provider();
        tokio::task::spawn_blocking(move || start(auth)).await.expect("the registry starts")
    }

    /// An artifact of these layers, with an empty configuration.
    pub async fn push(&self, repository: &str, tag: &str, layers: &[&[u8]]) {
        let client = Client::new();
        let authorization = match self.auth {
            Auth::None => None,
            Auth::Basic => Some(format!("Basic {}", BASE64_STANDARD.encode(format!("{USER}:{PASSWORD}")))),
            Auth::Token => Some(format!("Bearer {}", self.token(&client, repository).await)),
        };
        let push = Push { client, authorization, url: format!("http://{}/v2/{repository}", self.address) };
        let mut descriptors = Vec::new();
        for layer in layers {
            descriptors.push(push.blob("application/octet-stream", layer).await);
        }
        let config = push.blob("application/vnd.oci.empty.v1+json", b"{}").await;
        let manifest = json!({
            "schemaVersion": 2, "mediaType": MANIFEST, "artifactType": "application/vnd.test",
            "config": config, "layers": descriptors,
        });
        push.manifest(tag, &manifest).await;
    }

    /// A token to pull from and push to the repository, of the token server that the registry's challenge names.
    async fn token(&self, client: &Client, repository: &str) -> String {
        let challenge = client.get(format!("http://{}/v2/", self.address)).send().await.unwrap();
        let challenge = challenge.headers()[WWW_AUTHENTICATE].to_str().unwrap().to_owned();
        let realm = challenge.strip_prefix("Bearer realm=\"").and_then(|rest| rest.split('"').next());
        let realm = realm.unwrap_or_else(|| panic!("no challenge that names a token server: {challenge}"));
        let scope = format!("repository:{repository}:pull,push");
        let url = Url::parse_with_params(realm, [("service", "registry"), ("scope", scope.as_str())]).unwrap();
        let answer = client.get(url).basic_auth(USER, Some(PASSWORD)).send().await.unwrap();
        let answer: Value = answer.json().await.unwrap();
        answer["token"].as_str().unwrap().to_owned()
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn start(auth: Auth) -> Registry {
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("log");
    let auth_name = match auth {
        Auth::None => "none",
        Auth::Basic => "basic",
        Auth::Token => "token",
    };
    let mut process = Command::new(program())
        .args(["--listen", "127.0.0.1:0", "--auth", auth_name, "--user", USER, "--password", PASSWORD])
        // Where it keeps everything: killed, it leaves that to be removed with the folder.
        .env("TMPDIR", folder.path())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(std::fs::File::create(&log).unwrap())
        .spawn()
        .expect("the registry is installed by `make tools`");
    let mut line = String::new();
    BufReader::new(process.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let Some(address) = line.trim_end().strip_prefix("listening on ") else {
        panic!("the registry does not start: {line}{}", std::fs::read_to_string(&log).unwrap_or_default());
    };
    Registry { address: address.to_owned(), auth, process, _folder: folder }
}

fn program() -> PathBuf {
    let cache = std::env::var_os("XDC_GRID_CACHE").map(PathBuf::from);
    let cache = cache.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cache/xdc-grid")));
    cache.map(|cache| cache.join("bin/registry")).filter(|path| path.exists()).unwrap_or_else(|| "registry".into())
}

/// A push to one repository.
struct Push {
    client: Client,
    /// The header that lets it.
    authorization: Option<String>,
    /// Of the repository.
    url: String,
}

impl Push {
    /// Uploads a blob in one piece; its descriptor.
    async fn blob(&self, media_type: &str, bytes: &[u8]) -> Value {
        let digest = format!("sha256:{}", hex::encode(Sha256::digest(bytes)));
        let begun = self.send(self.client.post(format!("{}/blobs/uploads/", self.url)), StatusCode::ACCEPTED).await;
        let mut place = begun.url().join(begun.headers()[LOCATION].to_str().unwrap()).unwrap();
        place.query_pairs_mut().append_pair("digest", &digest);
        let upload = self.client.put(place).header(CONTENT_TYPE, "application/octet-stream").body(bytes.to_vec());
        self.send(upload, StatusCode::CREATED).await;
        json!({"mediaType": media_type, "digest": digest, "size": bytes.len()})
    }

    async fn manifest(&self, tag: &str, manifest: &Value) {
        let upload = self.client.put(format!("{}/manifests/{tag}", self.url));
        self.send(upload.header(CONTENT_TYPE, MANIFEST).body(manifest.to_string()), StatusCode::CREATED).await;
    }

    /// The answer, which must have that status.
    async fn send(&self, mut request: RequestBuilder, expected: StatusCode) -> Response {
        if let Some(authorization) = &self.authorization {
            request = request.header(AUTHORIZATION, authorization.as_str());
        }
        let answer = request.send().await.unwrap();
        let status = answer.status();
        if status != expected {
            let text = answer.text().await.unwrap_or_default();
            panic!("{} answers {status}: {text}", self.url);
        }
        answer
    }
}
