//! A real S3 server (SeaweedFS) for all tests of this binary, and a way to it that can be cut.

use std::{
    collections::BTreeSet,
    net::{SocketAddr, TcpListener},
    path::PathBuf,
    process::{Command, Stdio},
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures::TryStreamExt;
use object_store::{
    ObjectStore, ObjectStoreExt, PutPayload,
    aws::{AmazonS3, AmazonS3Builder},
    path::Path,
};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{io::copy_bidirectional, net::TcpStream};

use super::PATIENCE;

/// May do everything.
pub const OWNER: (&str, &str) = ("owner", "owner-secret");
/// May read only.
pub const READER: (&str, &str) = ("reader", "reader-secret");
/// Nobody has this secret.
pub const STRANGER: (&str, &str) = ("owner", "guessed");

pub struct S3 {
    pub endpoint: String,
    port: u16,
    _folder: TempDir,
}

/// The server, started by whoever comes first and gone with this process.
pub async fn s3() -> &'static S3 {
    static SERVER: OnceLock<S3> = OnceLock::new();
    tokio::task::spawn_blocking(|| SERVER.get_or_init(start)).await.expect("the S3 server starts")
}

fn program() -> PathBuf {
    let cache = std::env::var_os("XDC_GRID_CACHE").map(PathBuf::from);
    let cache = cache.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cache/xdc-grid")));
    cache.map(|cache| cache.join("bin/weed")).filter(|path| path.exists()).unwrap_or_else(|| "weed".into())
}

/// Ports for its four servers, each of which by convention takes another one 10 000 above. All are below those that the kernel gives out by
/// itself, so nobody comes upon them before it has started.
fn free_ports() -> [u16; 4] {
    let free = |port: u16| TcpListener::bind(("127.0.0.1", port)).is_ok();
    let mut found = BTreeSet::new();
    for _ in 0..1000 {
        let port = rand::random_range(10_000..20_000_u16);
        if free(port) && free(port + 10_000) {
            found.insert(port);
        }
        if found.len() == 4 {
            break;
        }
    }
    let found: Vec<u16> = found.into_iter().collect();
    found.try_into().expect("four free ports")
}

fn start() -> S3 {
    let folder = tempfile::tempdir().unwrap();
    let identity = |(key, secret): (&str, &str), actions: &[&str]| json!({"name": key, "credentials": [{"accessKey": key, "secretKey": secret}], "actions": actions});
    let users = json!({"identities": [
        identity(OWNER, &["Admin", "Read", "Write", "List", "Tagging"]), identity(READER, &["Read", "List"]),
    ]});
    let config = folder.path().join("s3.json");
    std::fs::write(&config, users.to_string()).unwrap();
    let [master, volume, filer, port] = free_ports();
    let mut arguments: Vec<String> = [
        "server",
        "-ip=127.0.0.1",
        "-ip.bind=127.0.0.1",
        "-master.telemetry=false",
        "-filer",
        "-s3",
        "-volume.max=1000",
    ]
    .map(str::to_owned)
    .into();
    arguments.extend([
        format!("-dir={}", folder.path().display()),
        format!("-master.port={master}"),
        // Every bucket takes several volumes, which are as large as what is in them.
        "-master.volumeSizeLimitMB=128".to_owned(),
        format!("-volume.port={volume}"),
        format!("-filer.port={filer}"),
        format!("-s3.port={port}"),
        "-s3.port.iceberg=0".to_owned(),
        "-s3.port.lance=0".to_owned(),
        format!("-s3.config={}", config.display()),
    ]);
    let log = std::fs::File::create(folder.path().join("log")).unwrap();
    // A thread that lasts as long as this process: the server ends with the thread that started it, however that comes.
    std::thread::spawn(move || {
        let mut server = Command::new("setpriv");
        server.args(["--pdeathsig", "KILL", "--"]).arg(program()).args(arguments);
        let mut child = server
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("util-linux and SeaweedFS are installed by `make tools`");
        child.wait()
    });
    let deadline = Instant::now() + PATIENCE;
    while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
        let log = || std::fs::read_to_string(folder.path().join("log")).unwrap_or_default();
        assert!(Instant::now() < deadline, "the S3 server does not answer:\n{}", log());
        std::thread::sleep(Duration::from_millis(100));
    }
    S3 { endpoint: format!("http://127.0.0.1:{port}"), port, _folder: folder }
}

/// Data of a Secret with credentials.
pub fn credentials((id, secret): (&str, &str)) -> Value {
    json!({"AWS_ACCESS_KEY_ID": id, "AWS_SECRET_ACCESS_KEY": secret})
}

impl S3 {
    /// A bucket as its owner sees it; made by the first write.
    pub fn bucket(&self, name: &str) -> Bucket {
        let store = AmazonS3Builder::new()
            .with_bucket_name(name)
            .with_endpoint(&self.endpoint)
            .with_allow_http(true)
            .with_access_key_id(OWNER.0)
            .with_secret_access_key(OWNER.1)
            .build()
            .unwrap();
        Bucket { store: Arc::new(store) }
    }

    /// Another way to the server, which can be cut.
    pub async fn gate(&self) -> Gate {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let (open, server) = (Arc::new(AtomicBool::new(true)), SocketAddr::from(([127, 0, 0, 1], self.port)));
        let gate = Gate { endpoint, open: open.clone() };
        tokio::spawn(async move {
            while let Ok((mut client, _)) = listener.accept().await {
                if !open.load(Ordering::Relaxed) {
                    continue;
                }
                let open = open.clone();
                tokio::spawn(async move {
                    let mut server = TcpStream::connect(server).await?;
                    let cut = async {
                        while open.load(Ordering::Relaxed) {
                            tokio::time::sleep(Duration::from_millis(20)).await;
                        }
                    };
                    tokio::select! {
                        outcome = copy_bidirectional(&mut client, &mut server) => outcome.map(drop),
                        () = cut => Ok(()),
                    }
                });
            }
        });
        gate
    }
}

/// A way that can be cut: new connections are closed at once, and those that there are.
pub struct Gate {
    pub endpoint: String,
    open: Arc<AtomicBool>,
}

impl Gate {
    pub fn set_open(&self, open: bool) {
        self.open.store(open, Ordering::Relaxed);
    }
}

#[derive(Clone)]
pub struct Bucket {
    store: Arc<AmazonS3>,
}

impl Bucket {
    pub async fn put(&self, key: &str, text: impl Into<Bytes>) {
        self.store.put(&Path::from(key), PutPayload::from_bytes(text.into())).await.unwrap();
    }

    pub async fn text(&self, key: &str) -> Option<String> {
        let found = match self.store.get(&Path::from(key)).await {
            Ok(found) => found,
            Err(object_store::Error::NotFound { .. }) => return None,
            Err(error) => panic!("{key}: {error}"),
        };
        Some(String::from_utf8(found.bytes().await.unwrap().into()).unwrap())
    }

    /// Names of the objects in a folder and when each was last written, sorted.
    pub async fn list(&self, folder: &str) -> Vec<(String, String)> {
        let found: Vec<_> = self.store.list(Some(&Path::from(folder))).try_collect().await.unwrap();
        let mut names: Vec<_> = found
            .into_iter()
            .map(|found| (found.location.filename().unwrap().to_owned(), found.last_modified.to_string()))
            .collect();
        names.sort();
        names
    }
}
