//! Over HTTP: several connections until the file is there, each from where the last one stopped.

use std::time::Duration;

use reqwest::{
    Client, Response, StatusCode,
    header::{self, HeaderValue},
};

use super::{FetchError, FetchLimits, Partial, registry::Door};
use crate::api::ids::ModelDigest;

const CONNECT: Duration = Duration::from_secs(10);
const REDIRECTS: usize = 5;

/// How one try ended, if not well.
pub(super) enum Broken {
    /// Another try may help.
    Retry(String),
    Final(FetchError),
}

impl From<FetchError> for Broken {
    fn from(error: FetchError) -> Self {
        Broken::Final(error)
    }
}

/// Brings `partial` to its end, whatever its digest then is. `registry`: where the URL is one of its blobs.
pub(super) async fn fetch(
    url: String,
    registry: Option<Door<'_>>,
    from: &str,
    digest: &ModelDigest,
    partial: &mut Partial,
) -> Result<(), FetchError> {
    let limits = partial.limits;
    let unreachable = |message: String| FetchError::Unreachable { from: from.to_owned(), message };
    let client = Client::builder()
        .connect_timeout(CONNECT)
        .read_timeout(limits.idle)
        .redirect(reqwest::redirect::Policy::limited(REDIRECTS))
        .build()
        .map_err(|error| unreachable(describe(error)))?;
    let mut source = Source { client, url, from, registry, authorization: None };
    let mut pause = limits.pause;
    for left in (0..limits.tries.max(1)).rev() {
        match source.continue_into(partial).await {
            Ok(()) => return Ok(()),
            Err(Broken::Final(error)) => return Err(error),
            Err(Broken::Retry(message)) if left == 0 => return Err(unreachable(message)),
            Err(Broken::Retry(message)) => {
                tracing::info!(%digest, bytes = partial.bytes(), "fetching goes on after: {message}");
                tokio::time::sleep(pause).await;
                pause = FetchLimits::next_pause(pause);
            }
        }
    }
    Err(unreachable("no try was allowed".into()))
}

struct Source<'a> {
    client: Client,
    url: String,
    from: &'a str,
    /// Of a registry, which says itself how it wants to be asked.
    registry: Option<Door<'a>>,
    authorization: Option<HeaderValue>,
}

impl Source<'_> {
    async fn continue_into(&mut self, partial: &mut Partial) -> Result<(), Broken> {
        let mut response = self.get(partial.bytes()).await?;
        self.accept(&response, partial).await?;
        let announced = partial.bytes().saturating_add(response.content_length().unwrap_or(0));
        partial.check(announced, self.from)?;
        while let Some(chunk) = response.chunk().await.map_err(|error| Broken::Retry(describe(error)))? {
            partial.append(&chunk, self.from).await?;
        }
        if response.content_length().is_some() && partial.bytes() < announced {
            return Err(Broken::Retry(format!("the source closed after {} of {announced} bytes", partial.bytes())));
        }
        Ok(())
    }

    /// Asks; once more, where a registry first wants to know who asks. Its tokens are short-lived, so any later try may have to do that again.
    async fn get(&mut self, offset: u64) -> Result<Response, Broken> {
        let response = self.send(offset).await?;
        match &self.registry {
            Some(door) if response.status() == StatusCode::UNAUTHORIZED => {
                self.authorization = Some(door.authorize(&self.client, response.headers(), self.from).await?);
                self.send(offset).await
            }
            _ => Ok(response),
        }
    }

    async fn send(&self, offset: u64) -> Result<Response, Broken> {
        let mut request = self.client.get(&self.url);
        if offset > 0 {
            request = request.header(header::RANGE, format!("bytes={offset}-"));
        }
        if let Some(authorization) = &self.authorization {
            // Not sent on to another host that a registry redirects to.
            request = request.header(header::AUTHORIZATION, authorization.clone());
        }
        request.send().await.map_err(|error| Broken::Retry(describe(error)))
    }

    /// Reads the status line: goes on, starts over, tries again or gives up.
    async fn accept(&self, response: &Response, partial: &mut Partial) -> Result<(), Broken> {
        let status = response.status();
        let from = self.from.to_owned();
        match status {
            StatusCode::PARTIAL_CONTENT if continues_at(response, partial.bytes()) => Ok(()),
            // No ranges here, or another one than asked for: from the start.
            StatusCode::OK => Ok(partial.restart().await.map_err(FetchError::from)?),
            StatusCode::PARTIAL_CONTENT | StatusCode::RANGE_NOT_SATISFIABLE => {
                partial.restart().await.map_err(FetchError::from)?;
                Err(Broken::Retry("the source does not continue where the last try stopped".into()))
            }
            _ if status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS => {
                Err(Broken::Retry(format!("the source answers {status}")))
            }
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                Err(FetchError::Forbidden { from, message: format!("the source answers {status}") }.into())
            }
            StatusCode::NOT_FOUND if self.registry.is_some() => {
                let message = "the repository has no layer with the model's sha256 (404 Not Found)".into();
                Err(FetchError::Unreachable { from, message }.into())
            }
            _ => Err(FetchError::Unreachable { from, message: format!("the source answers {status}") }.into()),
        }
    }
}

fn continues_at(response: &Response, bytes: u64) -> bool {
    let range = response.headers().get(header::CONTENT_RANGE).and_then(|range| range.to_str().ok());
    range.is_some_and(|range| range.starts_with(&format!("bytes {bytes}-")))
}

/// An error with its causes: reqwest's own text names only the outermost. Without its URL, which may carry a credential.
pub(super) fn describe(error: reqwest::Error) -> String {
    let error = error.without_url();
    let causes = std::iter::successors(std::error::Error::source(&error), |cause| cause.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}
