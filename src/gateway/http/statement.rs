//! The statement of a closed epoch (`protocol::statement`): what a stranger needs to do the reporter's sum again. Written while it is
//! read, a page of receipts at a time, so that an epoch of any size takes the same memory.
//!
//! The operator reads it through the internal API. Where the grid's admin publishes, anybody reads it on the public port, under its
//! digest, so that it can be kept by any cache and nobody can be shown another one.

use std::{io::Write, sync::Arc, time::Duration};

use axum::{
    Router,
    body::{Body, Bytes},
    extract::{Path, State},
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use futures::{Stream, StreamExt};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use zstd::stream::write::Encoder;

use super::error::ApiFailure;
use crate::{
    gateway::{Gateway, GatewayError},
    protocol::statement::{CountedReceipt, STATEMENTS},
    store::SettledReceipt,
};

/// Receipts that are read at once.
const PAGE: u32 = 500;
const LEVEL: i32 = 3;

type Written = Encoder<'static, Vec<u8>>;

/// Strangers who are answered at the same time.
const READERS: usize = 8;
/// How long one of them may take.
const LONGEST: Duration = Duration::from_secs(600);
const RETRY_AFTER: &str = "10";

/// `GET …/epochs/{epoch}/statement` of the internal API.
pub(super) async fn statement(
    State(gateway): State<Arc<Gateway>>,
    Path(epoch): Path<u64>,
) -> Result<Response, ApiFailure> {
    let totals = gateway.totals_of_closed(epoch).await?;
    Ok((zstd_type(), Body::from_stream(pages(gateway, epoch, &totals)?)).into_response())
}

/// For the public API.
pub(super) fn public(gateway: Arc<Gateway>) -> Router {
    let published = Published { gateway, readers: Arc::new(Semaphore::new(READERS)) };
    Router::new()
        .route(&format!("{STATEMENTS}/{{epoch}}"), get(named))
        .route(&format!("{STATEMENTS}/{{epoch}}/{{digest}}"), get(published_statement))
        .with_state(published)
}

#[derive(Clone)]
struct Published {
    gateway: Arc<Gateway>,
    readers: Arc<Semaphore>,
}

/// Leads to the statement under its digest.
async fn named(State(published): State<Published>, Path(epoch): Path<u64>) -> Result<Response, ApiFailure> {
    let digest = published.digest(epoch).await?;
    let headers = [
        (header::LOCATION, format!("{epoch}/{}", hex::encode(digest))),
        // Short: a gateway that lost its ledger closes the epoch anew.
        (header::CACHE_CONTROL, "public, max-age=60".to_owned()),
    ];
    Ok((StatusCode::TEMPORARY_REDIRECT, headers).into_response())
}

async fn published_statement(
    State(published): State<Published>,
    Path((epoch, wanted)): Path<(u64, String)>,
    headers: HeaderMap,
) -> Result<Response, ApiFailure> {
    let digest = hex::encode(published.digest(epoch).await?);
    if wanted.strip_prefix("0x").unwrap_or(&wanted).to_ascii_lowercase() != digest {
        let message = format!("the statement of epoch {epoch} has the digest {digest}, not the one that was asked for");
        return Err(ApiFailure::new(StatusCode::NOT_FOUND, "StatementUnknown", message));
    }
    // Weak: another version of zstd may press the same lines otherwise.
    let tag = format!("W/\"{digest}\"");
    let cached =
        [(header::ETAG, tag.clone()), (header::CACHE_CONTROL, "public, max-age=31536000, immutable".to_owned())];
    if headers.get(header::IF_NONE_MATCH).is_some_and(|known| known.as_bytes() == tag.as_bytes()) {
        return Ok((StatusCode::NOT_MODIFIED, cached).into_response());
    }
    let Ok(reader) = published.readers.clone().try_acquire_owned() else { return Ok(busy()) };
    let totals = published.gateway.totals_of_closed(epoch).await?;
    let pages = pages(published.gateway, epoch, &totals)?;
    Ok((zstd_type(), cached, Body::from_stream(in_time(pages, reader))).into_response())
}

fn busy() -> Response {
    let message = format!("{READERS} statements are being read already: try again in {RETRY_AFTER} s");
    let failure = ApiFailure::new(StatusCode::SERVICE_UNAVAILABLE, "Busy", message);
    ([(header::RETRY_AFTER, RETRY_AFTER)], failure).into_response()
}

fn zstd_type() -> [(header::HeaderName, HeaderValue); 1] {
    [(header::CONTENT_TYPE, HeaderValue::from_static("application/zstd"))]
}

impl Published {
    async fn digest(&self, epoch: u64) -> Result<[u8; 32], ApiFailure> {
        if !self.gateway.settings.publish_statements {
            let message = "this grid does not publish its statements: its admin can give you the file, or start the gateway with --publish-statements (gateway.publishStatements of the chart)";
            return Err(ApiFailure::new(StatusCode::NOT_FOUND, "StatementsNotPublished", message));
        }
        let digest = self.gateway.ledger.epoch_digest(epoch).await?;
        Ok(digest.ok_or_else(|| not_closed(epoch))?)
    }
}

/// What a slow reader is sent as long as it keeps to the time. It waits in a task of its own: a reader that has stopped reading must not
/// keep its place.
fn in_time(
    pages: impl Stream<Item = Result<Bytes, GatewayError>> + Send + 'static,
    reader: OwnedSemaphorePermit,
) -> impl Stream<Item = Result<Bytes, GatewayError>> + Send {
    let (send, receive) = mpsc::channel(1);
    tokio::spawn(async move {
        let _place = reader;
        let sending = async {
            let mut pages = std::pin::pin!(pages);
            while let Some(page) = pages.next().await {
                if send.send(Some(page)).await.is_err() {
                    return;
                }
            }
            let _ = send.send(None).await;
        };
        // On time out the channel ends without its end mark.
        let _ = tokio::time::timeout(LONGEST, sending).await;
    });
    futures::stream::unfold(Some(receive), |receive| async move {
        let mut receive = receive?;
        match receive.recv().await {
            Some(Some(page)) => Some((page, Some(receive))),
            Some(None) => None,
            None => {
                let source = std::io::Error::new(std::io::ErrorKind::TimedOut, "the reader took too long");
                Some((Err(GatewayError::Io { what: "sending the statement", source }), None))
            }
        }
    })
}

/// The whole statement, a page at a time.
fn pages(
    gateway: Arc<Gateway>,
    epoch: u64,
    totals: &[u8],
) -> Result<impl Stream<Item = Result<Bytes, GatewayError>> + Send + 'static, GatewayError> {
    let mut out = Encoder::new(Vec::new(), LEVEL).map_err(writing)?;
    out.write_all(totals).and_then(|()| out.write_all(b"\n")).map_err(writing)?;
    Ok(futures::stream::unfold(Some((gateway, out, None)), move |state| async move {
        let (gateway, out, after) = state?;
        match next_page(&gateway, epoch, out, after).await {
            Ok((bytes, Some((out, last)))) => Some((Ok(bytes), Some((gateway, out, Some(last))))),
            Ok((bytes, None)) => Some((Ok(bytes), None)),
            Err(error) => Some((Err(error), None)),
        }
    }))
}

type Page = (Bytes, Option<(Written, [u8; 32])>);

async fn next_page(
    gateway: &Gateway,
    epoch: u64,
    mut out: Written,
    after: Option<[u8; 32]>,
) -> Result<Page, GatewayError> {
    let receipts = gateway.settled_receipts(epoch, after, PAGE).await?;
    let Some(last) = receipts.last().map(|receipt| receipt.hash) else {
        return Ok((out.finish().map_err(writing)?.into(), None));
    };
    for receipt in receipts {
        serde_json::to_writer(&mut out, &counted(receipt)).map_err(|error| writing(error.into()))?;
        out.write_all(b"\n").map_err(writing)?;
    }
    out.flush().map_err(writing)?;
    Ok((std::mem::take(out.get_mut()).into(), Some((out, last))))
}

fn counted(receipt: SettledReceipt) -> CountedReceipt {
    CountedReceipt {
        receipt: receipt.encoded,
        epoch: receipt.epoch,
        countersignature: receipt.countersignature,
        prefix_tokens: receipt.prefix_tokens,
        cost_per_token: receipt.cost_per_token,
        escrow: receipt.escrow,
    }
}

fn writing(source: std::io::Error) -> GatewayError {
    GatewayError::Io { what: "writing the statement", source }
}

fn not_closed(epoch: u64) -> GatewayError {
    GatewayError::NotFound {
        reason: "EpochNotClosed",
        message: format!("epoch {epoch} is not closed: its statement is there once the operator closed it"),
    }
}

impl Gateway {
    /// The totals of an epoch, the very bytes that it was closed with.
    async fn totals_of_closed(&self, epoch: u64) -> Result<Vec<u8>, GatewayError> {
        let closed = self.ledger.closed_epoch(epoch).await?;
        closed.map(|closed| closed.totals).ok_or_else(|| not_closed(epoch))
    }

    async fn settled_receipts(
        &self,
        epoch: u64,
        after: Option<[u8; 32]>,
        limit: u32,
    ) -> Result<Vec<SettledReceipt>, GatewayError> {
        Ok(self.ledger.settled_receipts(epoch, after, limit).await?)
    }
}
