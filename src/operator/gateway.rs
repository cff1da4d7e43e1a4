//! Client of the gateway's internal API (`protocol::internal`). Every call has a timeout and every answer a size limit: the
//! gateway faces the internet, so what it says is read with care.

use std::{path::PathBuf, time::Duration};

use bytes::Bytes;
use futures::{Stream, StreamExt, TryStreamExt};
use reqwest::{Body, Method, RequestBuilder, Response, StatusCode};
use serde::{Serialize, de::DeserializeOwned};

use crate::{
    api::{
        conditions::Finding,
        ids::{EpochNumber, EscrowId, GridPeerId, ModelDigest},
        reasons::Reason,
    },
    protocol::internal::{
        ApiError, Change, EpochTotals, FileKept, GatewayInfo, JobControl, JobPage, JobReport, JobSpec, Member,
        ModelOrder, ModelReport, NetworkConfig, NodeReport, OpenPayment, SettledPayment, WholeJob,
    },
};

/// The largest JSON answer that is read: an epoch with 1 800 nodes takes about 1 MB.
const MAX_ANSWER: usize = 16 << 20;
/// The longest line of the change stream.
const MAX_CHANGE: usize = 4 << 10;
const TIMEOUT: Duration = Duration::from_secs(20);
/// A part of results has a few megabytes.
const FILE_TIMEOUT: Duration = Duration::from_secs(60);
/// The gateway writes an empty line every 10 s; three missing ones mean that it is gone.
const CHANGES_SILENCE: Duration = Duration::from_secs(35);

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GatewayError {
    /// Nobody answered, or the answer broke off. Nothing is known.
    #[error("the gateway does not answer: {0}")]
    Unavailable(String),
    /// It answered no.
    #[error("{message} ({reason})")]
    Refused { status: u16, reason: String, message: String },
    /// It answered something that is not its API.
    #[error("the gateway's answer cannot be read: {0}")]
    Malformed(String),
}

impl GatewayError {
    /// As a condition: nothing is known, or the gateway said no.
    pub fn finding(&self) -> Finding {
        match self {
            GatewayError::Refused { .. } => Finding::no(Reason::GatewayRefused, self.to_string()),
            GatewayError::Unavailable(_) | GatewayError::Malformed(_) => {
                Finding::unknown(Reason::GatewayUnavailable, self.to_string())
            }
        }
    }
}

/// Outcome of closing an epoch.
#[derive(Debug, Clone, PartialEq)]
pub enum Close {
    Closed {
        totals: EpochTotals,
        /// BLAKE3 of the totals as they were answered: the digest of the epoch's published statement.
        statement: [u8; 32],
    },
    /// Audits are still owed, or the epoch's grace is not over.
    NotYet(String),
}

/// Cheap to clone.
#[derive(Clone)]
pub struct GatewayClient {
    http: reqwest::Client,
    base: String,
    token_file: Option<PathBuf>,
}

impl GatewayClient {
    pub fn new(base: &str, token_file: Option<PathBuf>) -> Result<Self, reqwest::Error> {
        let http = reqwest::Client::builder()
            .connect_timeout(Duration::from_secs(5))
            // A redirect would carry the token to another host.
            .redirect(reqwest::redirect::Policy::none())
            .build()?;
        Ok(GatewayClient { http, base: base.trim_end_matches('/').to_owned(), token_file })
    }

    pub async fn info(&self) -> Result<GatewayInfo, GatewayError> {
        self.json(self.request(Method::GET, "info").await?).await
    }

    pub async fn put_network(&self, network: &NetworkConfig) -> Result<GatewayInfo, GatewayError> {
        self.json(self.request(Method::PUT, "network").await?.json(network)).await
    }

    pub async fn put_member(&self, member: &Member) -> Result<(), GatewayError> {
        let path = format!("members/{}", member.peer_id);
        self.done(self.request(Method::PUT, &path).await?.json(member)).await
    }

    pub async fn delete_member(&self, peer: &GridPeerId) -> Result<(), GatewayError> {
        self.deleted(self.request(Method::DELETE, &format!("members/{peer}")).await?).await
    }

    /// `None` for a peer that is no member.
    pub async fn node(&self, peer: &GridPeerId) -> Result<Option<NodeReport>, GatewayError> {
        found(self.json(self.request(Method::GET, &format!("nodes/{peer}")).await?).await)
    }

    pub async fn put_model(&self, order: &ModelOrder) -> Result<ModelReport, GatewayError> {
        let path = format!("models/{}", order.source.digest);
        self.json(self.request(Method::PUT, &path).await?.json(order)).await
    }

    /// `None` for a model that the gateway does not know.
    pub async fn model(&self, digest: &ModelDigest) -> Result<Option<ModelReport>, GatewayError> {
        found(self.json(self.request(Method::GET, &format!("models/{digest}")).await?).await)
    }

    pub async fn delete_model(&self, digest: &ModelDigest) -> Result<(), GatewayError> {
        self.deleted(self.request(Method::DELETE, &format!("models/{digest}")).await?).await
    }

    /// A small job with all of its input. An older gateway refuses the method (405).
    pub async fn take_job(&self, uid: &str, job: &WholeJob) -> Result<JobReport, GatewayError> {
        self.json(self.request(Method::POST, &format!("jobs/{uid}")).await?.json(job)).await
    }

    pub async fn put_job(&self, uid: &str, job: &JobSpec) -> Result<JobReport, GatewayError> {
        self.json(self.request(Method::PUT, &format!("jobs/{uid}")).await?.json(job)).await
    }

    /// Streams NDJSON of `InputLine`. An error of `lines` breaks the request off, and the gateway keeps nothing of it.
    pub async fn put_input<S, E>(&self, uid: &str, lines: S) -> Result<JobReport, GatewayError>
    where
        S: Stream<Item = Result<Bytes, E>> + Send + 'static,
        E: Into<Box<dyn std::error::Error + Send + Sync>> + 'static,
    {
        let request = self.request(Method::PUT, &format!("jobs/{uid}/input")).await?;
        let request = request
            .header(reqwest::header::CONTENT_TYPE, "application/x-ndjson")
            .body(Body::wrap_stream(lines))
            // 200 MB may take a while.
            .timeout(Duration::from_secs(600));
        self.json(request).await
    }

    pub async fn patch_job(&self, uid: &str, control: &JobControl) -> Result<JobReport, GatewayError> {
        self.json(self.request(Method::PATCH, &format!("jobs/{uid}")).await?.json(control)).await
    }

    /// `None` for a job that the gateway does not know.
    pub async fn job(&self, uid: &str) -> Result<Option<JobReport>, GatewayError> {
        found(self.json(self.request(Method::GET, &format!("jobs/{uid}")).await?).await)
    }

    /// A page of the jobs that it keeps; the first one after an empty uid. Pages lead on, or the answer is refused.
    pub async fn jobs(&self, after: &str) -> Result<JobPage, GatewayError> {
        let page: JobPage = self.json(self.request(Method::GET, &format!("jobs?after={after}")).await?).await?;
        let plain = |uid: &str| uid.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
        match &page.next {
            Some(next) if next.as_str() <= after || !plain(next) => {
                Err(GatewayError::Malformed(format!("after job {after:?} it goes on with {next:?}")))
            }
            _ => Ok(page),
        }
    }

    /// NDJSON of `ResultLine`.
    pub async fn results(
        &self,
        uid: &str,
    ) -> Result<impl Stream<Item = Result<Bytes, GatewayError>> + Send + use<>, GatewayError> {
        let request = self.request(Method::GET, &format!("jobs/{uid}/results")).await?;
        let response = checked(send(request.timeout(Duration::from_secs(600))).await?).await?;
        Ok(response.bytes_stream().map_err(|error| GatewayError::Unavailable(cause(&error))))
    }

    /// Keeps a file of a job's results in the gateway's store. The same again changes nothing.
    pub async fn put_file(&self, uid: &str, name: &str, bytes: Bytes) -> Result<FileKept, GatewayError> {
        let request = self.request(Method::PUT, &format!("jobs/{uid}/files/{name}")).await?;
        self.json(request.timeout(FILE_TIMEOUT).body(bytes)).await
    }

    /// Bytes of a file in the store; `None` when it is not there.
    pub async fn file_size(&self, uid: &str, name: &str) -> Result<Option<u64>, GatewayError> {
        let request = self.request(Method::HEAD, &format!("jobs/{uid}/files/{name}")).await?;
        let response = send(request).await?;
        if response.status() == StatusCode::NOT_FOUND {
            return Ok(None);
        }
        let length = checked(response).await?.headers().get(reqwest::header::CONTENT_LENGTH).cloned();
        let length = length.and_then(|length| length.to_str().ok()?.parse().ok());
        length.map(Some).ok_or_else(|| GatewayError::Malformed("a file without a length".into()))
    }

    /// A small file in the store; `None` when it is not there.
    pub async fn file(&self, uid: &str, name: &str, max: usize) -> Result<Option<Vec<u8>>, GatewayError> {
        let request = self.request(Method::GET, &format!("jobs/{uid}/files/{name}")).await?;
        match checked(send(request.timeout(FILE_TIMEOUT)).await?).await {
            Ok(response) => bounded(response, max).await.map(Some),
            Err(GatewayError::Refused { status: 404, .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    pub async fn delete_job(&self, uid: &str) -> Result<(), GatewayError> {
        self.deleted(self.request(Method::DELETE, &format!("jobs/{uid}")).await?).await
    }

    /// Paid jobs that are over and not settled, the oldest first; not all of many.
    pub async fn open_payments(&self) -> Result<Vec<OpenPayment>, GatewayError> {
        self.json(self.request(Method::GET, "payments").await?).await
    }

    /// Tells what the chain says about an escrow, for good.
    pub async fn settle_payment(&self, escrow: &EscrowId, settled: &SettledPayment) -> Result<(), GatewayError> {
        self.done(self.request(Method::PUT, &format!("payments/{escrow}")).await?.json(settled)).await
    }

    /// Closing is idempotent: the same epoch always gives the same totals.
    pub async fn close_epoch(&self, epoch: EpochNumber) -> Result<Close, GatewayError> {
        let request = self.request(Method::POST, &format!("epochs/{epoch}/close")).await?;
        match self.body(request).await {
            Ok(body) => {
                let totals =
                    serde_json::from_slice(&body).map_err(|error| GatewayError::Malformed(error.to_string()))?;
                // Of the bytes and not of what was read from them: a newer gateway may say more than this program knows.
                Ok(Close::Closed { totals, statement: *blake3::hash(&body).as_bytes() })
            }
            Err(GatewayError::Refused { status: 425, message, .. }) => Ok(Close::NotYet(message)),
            Err(error) => Err(error),
        }
    }

    /// Changes after `revision`, until the stream breaks or falls silent.
    pub async fn changes(
        &self,
        revision: u64,
    ) -> Result<impl Stream<Item = Result<Change, GatewayError>> + Send + use<>, GatewayError> {
        let request = self.stream_request(Method::GET, &format!("changes?after={revision}")).await?;
        let response = checked(send(request).await?).await?;
        let bytes = response.bytes_stream().map_err(|error| std::io::Error::other(cause(&error)));
        let reader = tokio_util::io::StreamReader::new(bytes);
        let lines =
            tokio_util::codec::FramedRead::new(reader, tokio_util::codec::LinesCodec::new_with_max_length(MAX_CHANGE));
        let lines = tokio_stream::StreamExt::timeout(lines, CHANGES_SILENCE);
        Ok(lines.map(read_change).filter_map(|change| std::future::ready(change.transpose())))
    }

    async fn request(&self, method: Method, path: &str) -> Result<RequestBuilder, GatewayError> {
        Ok(self.stream_request(method, path).await?.timeout(TIMEOUT))
    }

    async fn stream_request(&self, method: Method, path: &str) -> Result<RequestBuilder, GatewayError> {
        let request = self.http.request(method, format!("{}/internal/v1/{path}", self.base));
        let Some(file) = &self.token_file else { return Ok(request) };
        let token = tokio::fs::read_to_string(file).await.map_err(|error| {
            GatewayError::Unavailable(format!("the token file {} cannot be read: {error}", file.display()))
        })?;
        Ok(request.bearer_auth(token.trim()))
    }

    async fn json<T: DeserializeOwned>(&self, request: RequestBuilder) -> Result<T, GatewayError> {
        let body = self.body(request).await?;
        serde_json::from_slice(&body).map_err(|error| GatewayError::Malformed(error.to_string()))
    }

    async fn body(&self, request: RequestBuilder) -> Result<Vec<u8>, GatewayError> {
        bounded(checked(send(request).await?).await?, MAX_ANSWER).await
    }

    async fn done(&self, request: RequestBuilder) -> Result<(), GatewayError> {
        checked(send(request).await?).await.map(drop)
    }

    async fn deleted(&self, request: RequestBuilder) -> Result<(), GatewayError> {
        match self.done(request).await {
            Err(GatewayError::Refused { status: 404, .. }) => Ok(()),
            outcome => outcome,
        }
    }
}

/// Writes a value as one line of NDJSON.
pub fn ndjson(value: &impl Serialize) -> Result<Bytes, serde_json::Error> {
    let mut line = serde_json::to_vec(value)?;
    line.push(b'\n');
    Ok(line.into())
}

async fn send(request: RequestBuilder) -> Result<Response, GatewayError> {
    request.send().await.map_err(|error| GatewayError::Unavailable(cause(&error)))
}

/// The innermost cause: "connection refused" says more than "error sending request".
fn cause(error: &dyn std::error::Error) -> String {
    let mut innermost = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    innermost.to_string()
}

async fn checked(response: Response) -> Result<Response, GatewayError> {
    let status = response.status();
    if status.is_success() {
        return Ok(response);
    }
    let body = bounded(response, 64 << 10).await?;
    // Something in between (a proxy, a starting pod) does not speak the API; nothing is known about the gateway then.
    match serde_json::from_slice::<ApiError>(&body) {
        Ok(error) if status != StatusCode::SERVICE_UNAVAILABLE => {
            Err(GatewayError::Refused { status: status.as_u16(), reason: error.reason, message: error.message })
        }
        Ok(error) => Err(GatewayError::Unavailable(error.message)),
        Err(_) if status.is_server_error() => Err(GatewayError::Unavailable(format!("HTTP {status}"))),
        Err(_) => Err(GatewayError::Refused {
            status: status.as_u16(),
            reason: "GatewayRefused".into(),
            message: format!("HTTP {status}"),
        }),
    }
}

async fn bounded(response: Response, limit: usize) -> Result<Vec<u8>, GatewayError> {
    let mut body = Vec::new();
    let mut stream = response.bytes_stream();
    while let Some(chunk) = stream.next().await {
        let chunk = chunk.map_err(|error| GatewayError::Unavailable(cause(&error)))?;
        if body.len() + chunk.len() > limit {
            return Err(GatewayError::Malformed(format!("more than {limit} bytes")));
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}

fn found<T>(outcome: Result<T, GatewayError>) -> Result<Option<T>, GatewayError> {
    match outcome {
        Err(GatewayError::Refused { status: 404, .. }) => Ok(None),
        outcome => outcome.map(Some),
    }
}

type Line = Result<Result<String, tokio_util::codec::LinesCodecError>, tokio_stream::Elapsed>;

fn read_change(line: Line) -> Result<Option<Change>, GatewayError> {
    let line = line
        .map_err(|_| GatewayError::Unavailable("the change stream fell silent".into()))?
        .map_err(|error| GatewayError::Unavailable(format!("the change stream broke: {error}")))?;
    if line.trim().is_empty() {
        return Ok(None);
    }
    serde_json::from_str(&line).map(Some).map_err(|error| GatewayError::Malformed(error.to_string()))
}
