//! The API server over plain HTTPS: a request or two do not need a Kubernetes client. What the pod's token opens is up to the roles
//! of its ServiceAccount.

use std::{path::PathBuf, time::Duration};

use backon::ExponentialBuilder;
use futures::StreamExt;
use reqwest::{Certificate, Client, Method, RequestBuilder, Response, StatusCode};
use serde::Deserialize;

use super::{BatchOptions, mailbox::MailboxError};

/// A ConfigMap of 1 MiB as JSON, with every quote escaped.
const MAX_BODY: usize = 4 << 20;
const TIMEOUT: Duration = Duration::from_secs(30);

/// ConfigMaps of the job's namespace.
pub(super) struct ApiServer {
    http: Client,
    config_maps: String,
    token_file: PathBuf,
}

impl ApiServer {
    pub(super) fn open(options: &BatchOptions) -> Result<Self, MailboxError> {
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
        Ok(ApiServer {
            http,
            config_maps: format!("{server}/api/v1/namespaces/{}/configmaps", options.namespace),
            token_file: options.credentials_dir.join("token"),
        })
    }

    /// A request for the ConfigMaps, or with `path` for one of them.
    pub(super) async fn request(&self, method: Method, path: &str) -> Result<RequestBuilder, MailboxError> {
        let disk = |source| MailboxError::Disk { path: self.token_file.display().to_string(), source };
        let token = tokio::fs::read_to_string(&self.token_file).await.map_err(disk)?;
        Ok(self.http.request(method, format!("{}{path}", self.config_maps)).bearer_auth(token.trim()))
    }

    /// The body of the answer; `what` is asked about.
    pub(super) async fn send(&self, request: RequestBuilder, what: &str) -> Result<Vec<u8>, MailboxError> {
        let response = request.send().await.map_err(|error| MailboxError::Unreachable(describe(&error)))?;
        let status = response.status();
        let body = bounded(response).await?;
        if status.is_success() {
            return Ok(body);
        }
        let text = format!("{status}: {}", message_of(&body));
        Err(match status {
            StatusCode::NOT_FOUND => MailboxError::Missing(what.to_owned()),
            StatusCode::CONFLICT => MailboxError::Conflict(text),
            _ if status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS => MailboxError::Unreachable(text),
            // A token that has just expired is another one at the next try.
            StatusCode::UNAUTHORIZED => MailboxError::Unreachable(text),
            _ => MailboxError::Refused(text),
        })
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
pub(super) fn patience() -> ExponentialBuilder {
    ExponentialBuilder::default()
        .with_min_delay(Duration::from_millis(250))
        .with_max_delay(Duration::from_secs(15))
        .with_max_times(13)
        .with_jitter()
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
