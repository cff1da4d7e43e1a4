//! Shards as ConfigMaps, over plain HTTPS: two requests do not need a Kubernetes client. The pod's token may get and patch the
//! ConfigMaps of its own job and nothing else.

use std::{path::PathBuf, time::Duration};

use backon::{ExponentialBuilder, Retryable};
use futures::{FutureExt, StreamExt, future::BoxFuture};
use reqwest::{Certificate, Client, Method, RequestBuilder, Response, StatusCode, header};
use serde::Deserialize;
use serde_json::json;

use super::{
    BatchOptions,
    mailbox::{Found, Mailbox, MailboxError},
};
use crate::protocol::shard::{INPUT, PART, Part, RESULTS, config_map_name};

/// Owner of the fields that a pod writes.
const MANAGER: &str = "xdc-grid-batch";
/// A ConfigMap of 1 MiB as JSON, with every quote escaped.
const MAX_BODY: usize = 4 << 20;
const TIMEOUT: Duration = Duration::from_secs(30);

pub(super) struct ConfigMaps {
    http: Client,
    url: String,
    name: String,
    token_file: PathBuf,
}

/// The fields of a ConfigMap that are ours.
#[derive(Deserialize)]
struct ConfigMap {
    #[serde(default)]
    data: Data,
}

#[derive(Deserialize, Default)]
struct Data {
    #[serde(rename = "input.jsonl")]
    input: Option<String>,
    #[serde(rename = "results.jsonl")]
    results: Option<String>,
    #[serde(rename = "part.json")]
    part: Option<String>,
}

impl ConfigMaps {
    pub(super) fn open(options: &BatchOptions, prefix: &str) -> Result<Self, MailboxError> {
        let server = options.api_server.clone().map_or_else(in_cluster, Ok)?;
        let ca = options.credentials_dir.join("ca.crt");
        let pem = std::fs::read(&ca).map_err(|source| MailboxError::Disk { path: ca.display().to_string(), source })?;
        let unusable = |error: reqwest::Error| MailboxError::Unreachable(describe(&error));
        let http = Client::builder()
            .tls_certs_only(Certificate::from_pem_bundle(&pem).map_err(unusable)?)
            .connect_timeout(Duration::from_secs(10))
            .timeout(TIMEOUT)
            .redirect(reqwest::redirect::Policy::none())
            .build()
            .map_err(unusable)?;
        let name = config_map_name(prefix, options.index);
        Ok(ConfigMaps {
            http,
            url: format!("{server}/api/v1/namespaces/{}/configmaps/{name}", options.namespace),
            name,
            token_file: options.credentials_dir.join("token"),
        })
    }

    async fn request(&self, method: Method, query: &str) -> Result<RequestBuilder, MailboxError> {
        let disk = |source| MailboxError::Disk { path: self.token_file.display().to_string(), source };
        let token = tokio::fs::read_to_string(&self.token_file).await.map_err(disk)?;
        Ok(self.http.request(method, format!("{}{query}", self.url)).bearer_auth(token.trim()))
    }

    async fn get(&self) -> Result<Found, MailboxError> {
        let body = self.send(self.request(Method::GET, "").await?).await?;
        let unreadable = |message: String| MailboxError::Unreadable { what: self.what(), message };
        let found: ConfigMap = serde_json::from_slice(&body).map_err(|error| unreadable(error.to_string()))?;
        let Data { input, results, part } = found.data;
        Ok(Found {
            input: input.ok_or_else(|| unreadable(format!("it has no key {INPUT}")))?,
            results: results.unwrap_or_default(),
            // One that cannot be read is as good as none: the work is done again.
            part: part.and_then(|text| serde_json::from_str(&text).ok()),
        })
    }

    /// Server-side apply, which owns what it writes and nothing else.
    async fn apply(&self, part: &Part, results: &str) -> Result<(), MailboxError> {
        let unreadable =
            |error: serde_json::Error| MailboxError::Unreadable { what: PART.into(), message: error.to_string() };
        let body = json!({
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": self.name},
            "data": {RESULTS: results, PART: serde_json::to_string(part).map_err(unreadable)?},
        });
        let request = self.request(Method::PATCH, &format!("?fieldManager={MANAGER}&force=true")).await?;
        let request = request.header(header::CONTENT_TYPE, "application/apply-patch+yaml").body(body.to_string());
        self.send(request).await.map(drop)
    }

    async fn send(&self, request: RequestBuilder) -> Result<Vec<u8>, MailboxError> {
        let response = request.send().await.map_err(|error| MailboxError::Unreachable(describe(&error)))?;
        let status = response.status();
        let body = bounded(response).await?;
        if status.is_success() {
            return Ok(body);
        }
        let text = format!("{status}: {}", message_of(&body));
        Err(match status {
            StatusCode::NOT_FOUND => MailboxError::Missing(self.what()),
            _ if status.is_server_error()
                || status == StatusCode::TOO_MANY_REQUESTS
                || status == StatusCode::CONFLICT =>
            {
                MailboxError::Unreachable(text)
            }
            // A token that has just expired is another one at the next try.
            StatusCode::UNAUTHORIZED => MailboxError::Unreachable(text),
            _ => MailboxError::Refused(text),
        })
    }

    fn what(&self) -> String {
        format!("ConfigMap {}", self.name)
    }
}

/// The API server that Kubernetes names to every pod.
fn in_cluster() -> Result<String, MailboxError> {
    let variable =
        |name: &str| std::env::var(name).map_err(|_| MailboxError::Unreachable(format!("{name} is not set")));
    let (host, port) = (variable("KUBERNETES_SERVICE_HOST")?, variable("KUBERNETES_SERVICE_PORT")?);
    // An IPv6 address needs brackets.
    let host = if host.contains(':') { format!("[{host}]") } else { host };
    Ok(format!("https://{host}:{port}"))
}

/// About two minutes: an API server that restarts must not cost a shard its answers.
fn patience() -> ExponentialBuilder {
    ExponentialBuilder::default()
        .with_min_delay(Duration::from_millis(250))
        .with_max_delay(Duration::from_secs(15))
        .with_max_times(13)
        .with_jitter()
}

fn may_mend(error: &MailboxError) -> bool {
    matches!(error, MailboxError::Unreachable(_))
}

impl Mailbox for ConfigMaps {
    fn read(&self) -> BoxFuture<'_, Result<Found, MailboxError>> {
        let get = move || self.get();
        async move { get.retry(patience()).when(may_mend).await }.boxed()
    }

    fn write<'a>(&'a self, part: &'a Part, results: &'a str) -> BoxFuture<'a, Result<(), MailboxError>> {
        let apply = move || self.apply(part, results);
        async move { apply.retry(patience()).when(may_mend).await }.boxed()
    }
}

async fn bounded(response: Response) -> Result<Vec<u8>, MailboxError> {
    let mut body = Vec::new();
    let mut stream = response.bytes_stream();
    while let Some(chunk) = stream.next().await {
        let chunk = chunk.map_err(|error| MailboxError::Unreachable(describe(&error)))?;
        if body.len() + chunk.len() > MAX_BODY {
            return Err(MailboxError::Refused(format!("an answer of more than {MAX_BODY} bytes")));
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}

/// The sentence of a Kubernetes Status.
fn message_of(body: &[u8]) -> String {
    #[derive(Deserialize)]
    struct Status {
        message: String,
    }
    serde_json::from_slice::<Status>(body).map(|status| status.message).unwrap_or_default()
}

/// The innermost cause: "connection refused" says more than "error sending request".
fn describe(error: &reqwest::Error) -> String {
    let mut innermost: &dyn std::error::Error = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    innermost.to_string()
}
