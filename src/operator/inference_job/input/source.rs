//! Where the bytes of an input come from. An input is read twice: once to count and check it, once to send it on. So nothing
//! runs before the whole input is known to be right, and a 200 MB input takes no memory.

use bytes::Bytes;
use futures::{Stream, StreamExt, TryStreamExt, stream::BoxStream};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::Api;
use sha2::{Digest, Sha256};

use super::{
    lines::{LineSplitter, TooLarge},
    parse::{LineParser, Rejection, Rules},
};
use crate::{
    api::reasons::Reason,
    operator::{
        bucket::{Access, BucketError, Location},
        dial::{cause, refusal},
        error::is_forbidden,
        gateway::ndjson,
    },
    protocol::internal::InputLine,
};

/// Exactly one place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    Inline(String),
    ConfigMap { name: String, key: String },
    Url { url: String, sha256: [u8; 32] },
    Bucket { location: Location, sha256: Option<[u8; 32]> },
}

/// Why an input cannot be used. The text is fit for a condition.
#[derive(Debug, thiserror::Error)]
pub enum InputError {
    #[error("{message}")]
    Refused { reason: Reason, message: String },
    #[error(transparent)]
    TooLarge(#[from] TooLarge),
    #[error("API server: {0}")]
    Kube(Box<kube::Error>),
}

impl From<BucketError> for InputError {
    fn from(error: BucketError) -> Self {
        match error {
            BucketError::Kube(error) => InputError::Kube(error),
            error => InputError::refused(error.input_reason(), error.to_string()),
        }
    }
}

impl InputError {
    fn refused(reason: Reason, message: impl Into<String>) -> Self {
        InputError::Refused { reason, message: message.into() }
    }

    pub fn reason(&self) -> Reason {
        match self {
            InputError::Refused { reason, .. } => *reason,
            InputError::TooLarge(_) => Reason::InputTooLarge,
            InputError::Kube(_) => Reason::InputUnreachable,
        }
    }

    /// Whether the input can become usable without a new job: the ConfigMap may appear, the server may come back, an admin may
    /// grant what was refused.
    pub fn may_heal(&self) -> bool {
        matches!(
            self.reason(),
            Reason::InputNotFound
                | Reason::InputUnreachable
                | Reason::InputForbidden
                | Reason::SecretNotFound
                | Reason::SecretForbidden
                | Reason::AddressRefused
                | Reason::Forbidden
        )
    }
}

/// What a whole input amounts to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Survey {
    pub usable: u32,
    pub rejections: Vec<Rejection>,
    /// sha256 of all bytes.
    pub sha256: [u8; 32],
}

/// Rejections that are kept word by word; more than this is no batch but a wrong file.
const MAX_REJECTIONS: usize = 2_000;

/// Reads the whole input once.
pub async fn survey(source: &Source, rules: &Rules, reader: &Reader) -> Result<Survey, InputError> {
    let mut survey = Survey { usable: 0, rejections: Vec::new(), sha256: [0; 32] };
    let mut requests = std::pin::pin!(reader.requests(source, rules).await?);
    while let Some(item) = requests.next().await {
        match item? {
            Item::Request(_) => survey.usable += 1,
            Item::Rejection(rejection) => survey.rejections.push(rejection),
            Item::End(sha256) => survey.sha256 = sha256,
        }
        if survey.rejections.len() > MAX_REJECTIONS {
            let first = survey.rejections.first().map(|rejection| rejection.message.clone()).unwrap_or_default();
            let message = format!("more than {MAX_REJECTIONS} lines are no usable requests, the first: {first}");
            return Err(InputError::refused(Reason::InvalidInput, message));
        }
    }
    if survey.usable == 0 && survey.rejections.is_empty() {
        return Err(InputError::refused(Reason::InvalidInput, "the input has no request in it"));
    }
    Ok(survey)
}

/// The usable requests as NDJSON, for the gateway. Fails when the input is not the one that was surveyed.
pub async fn replay(
    source: &Source,
    rules: &Rules,
    reader: &Reader,
    surveyed: [u8; 32],
) -> Result<impl Stream<Item = Result<Bytes, InputError>> + Send + 'static, InputError> {
    let requests = reader.requests(source, rules).await?;
    Ok(requests.filter_map(move |item| {
        std::future::ready(match item {
            Ok(Item::Request(request)) => {
                Some(ndjson(&request).map_err(|error| InputError::refused(Reason::InvalidInput, error.to_string())))
            }
            Ok(Item::Rejection(_)) => None,
            Ok(Item::End(sha256)) if sha256 == surveyed => None,
            Ok(Item::End(_)) => {
                let message = "the input changed while it was read";
                Some(Err(InputError::refused(Reason::InputUnreachable, message)))
            }
            Err(error) => Some(Err(error)),
        })
    }))
}

/// An element of the stream of requests.
#[derive(Debug)]
enum Item {
    Request(InputLine),
    Rejection(Rejection),
    /// The input is over; sha256 of its bytes.
    End([u8; 32]),
}

/// Opens sources. ConfigMaps and Secrets are read in the job's namespace only.
pub struct Reader {
    pub config_maps: Api<ConfigMap>,
    pub namespace: String,
    pub access: Access,
}

type Chunks = BoxStream<'static, Result<Bytes, InputError>>;

impl Reader {
    async fn requests(
        &self,
        source: &Source,
        rules: &Rules,
    ) -> Result<impl Stream<Item = Result<Item, InputError>> + Send + use<>, InputError> {
        let expected = match source {
            Source::Url { sha256, .. } => Some(*sha256),
            Source::Bucket { sha256, .. } => *sha256,
            Source::Inline(_) | Source::ConfigMap { .. } => None,
        };
        let chunks = self.open(source).await?;
        let parse = Parse {
            splitter: LineSplitter::default(),
            parser: LineParser::new(rules.clone()),
            hasher: Sha256::new(),
            expected,
        };
        // One more element than chunks: the end, where the last line and the digest are decided.
        let ends = chunks.map_ok(Some).chain(futures::stream::once(std::future::ready(Ok(None))));
        Ok(ends
            .scan(Some(parse), |parse, chunk| std::future::ready(Some(step(parse, chunk))))
            .map(futures::stream::iter)
            .flatten())
    }

    async fn open(&self, source: &Source) -> Result<Chunks, InputError> {
        match source {
            Source::Inline(text) => Ok(whole(text.clone().into_bytes())),
            Source::ConfigMap { name, key } => self.config_map(name, key).await.map(whole),
            Source::Url { url, .. } => self.fetch(url).await,
            Source::Bucket { location, .. } => {
                Ok(self.access.open(location).await?.stream().await?.map_err(InputError::from).boxed())
            }
        }
    }

    async fn fetch(&self, url: &str) -> Result<Chunks, InputError> {
        let denied = self.access.denied();
        let parsed: reqwest::Url =
            url.parse().map_err(|error| InputError::refused(Reason::InvalidInput, format!("{url:?}: {error}")))?;
        denied
            .check_url(&parsed)
            .map_err(|refused| InputError::refused(Reason::AddressRefused, refused.to_string()))?;
        let client = denied.client().map_err(unreachable)?;
        let response = client.get(parsed).send().await.and_then(reqwest::Response::error_for_status);
        Ok(response.map_err(unreachable)?.bytes_stream().map_err(unreachable).boxed())
    }

    async fn config_map(&self, name: &str, key: &str) -> Result<Vec<u8>, InputError> {
        let namespace = &self.namespace;
        let missing = |what: String| InputError::refused(Reason::InputNotFound, what);
        let found = self.config_maps.get_opt(name).await.map_err(|error| {
            if is_forbidden(&error) {
                let message = format!("the operator may not read ConfigMaps in namespace {namespace}: {error}");
                return InputError::refused(Reason::Forbidden, message);
            }
            InputError::Kube(Box::new(error))
        })?;
        let found = found.ok_or_else(|| missing(format!("there is no ConfigMap {name:?} in namespace {namespace}")))?;
        let text = found.data.and_then(|mut data| data.remove(key)).map(String::into_bytes);
        let bytes = text.or_else(|| found.binary_data.and_then(|mut data| data.remove(key)).map(|bytes| bytes.0));
        bytes.ok_or_else(|| missing(format!("ConfigMap {name:?} in namespace {namespace} has no key {key:?}")))
    }
}

fn unreachable(error: reqwest::Error) -> InputError {
    if let Some(refused) = refusal(&error) {
        return InputError::refused(Reason::AddressRefused, refused.to_string());
    }
    match error.status() {
        Some(status) => InputError::refused(Reason::InputUnreachable, format!("the URL answers HTTP {status}")),
        None => InputError::refused(Reason::InputUnreachable, format!("the URL cannot be fetched: {}", cause(&error))),
    }
}

fn whole(bytes: Vec<u8>) -> Chunks {
    futures::stream::once(std::future::ready(Ok(Bytes::from(bytes)))).boxed()
}

/// State of reading one input; gone after its end or first error.
struct Parse {
    splitter: LineSplitter,
    parser: LineParser,
    hasher: Sha256,
    expected: Option<[u8; 32]>,
}

fn step(state: &mut Option<Parse>, chunk: Result<Option<Bytes>, InputError>) -> Vec<Result<Item, InputError>> {
    let outcome = match (state.as_mut(), chunk) {
        (None, _) => return Vec::new(),
        (Some(_), Err(error)) => Err(error),
        (Some(parse), Ok(Some(chunk))) => parse.chunk(&chunk),
        (Some(_), Ok(None)) => match state.take() {
            Some(parse) => parse.end(),
            None => return Vec::new(),
        },
    };
    match outcome {
        Ok(items) => items.into_iter().map(Ok).collect(),
        Err(error) => {
            *state = None;
            vec![Err(error)]
        }
    }
}

impl Parse {
    fn chunk(&mut self, chunk: &[u8]) -> Result<Vec<Item>, InputError> {
        self.hasher.update(chunk);
        Ok(self.splitter.push(chunk)?.into_iter().map(|line| item(&mut self.parser, line)).collect())
    }

    fn end(mut self) -> Result<Vec<Item>, InputError> {
        let sha256: [u8; 32] = self.hasher.finalize().into();
        if let Some(expected) = self.expected.filter(|expected| *expected != sha256) {
            let message = format!("sha256 of the input is {}, not {}", hex::encode(sha256), hex::encode(expected));
            return Err(InputError::refused(Reason::InputDigestMismatch, message));
        }
        let last = self.splitter.finish()?.map(|line| item(&mut self.parser, line));
        Ok(last.into_iter().chain([Item::End(sha256)]).collect())
    }
}

fn item(parser: &mut LineParser, line: super::lines::Line) -> Item {
    match parser.parse(line) {
        Ok(request) => Item::Request(request),
        Err(rejection) => Item::Rejection(rejection),
    }
}
