//! Long answers of the internal API, line by line: the change stream and the results of a job.

use std::{sync::Arc, time::Duration};

use axum::{
    body::{Body, Bytes},
    extract::{Path, State},
    http::header,
    response::{IntoResponse, Response},
};
use futures::Stream;
use tokio::time::timeout;

use super::error::ApiFailure;
use crate::{
    gateway::{Gateway, GatewayError},
    protocol::internal::ResultLine,
    store::LedgerError,
};

/// An empty line after this long shows that the stream lives.
const KEEP_ALIVE: Duration = Duration::from_secs(10);
/// Changes within this time are told at once: a running job changes with every answer.
const GATHER: Duration = Duration::from_millis(100);
const CHANGES: u32 = 500;
const RESULTS: u32 = 200;

/// `GET …/changes?after=REV`. A revision from the future belongs to another ledger: the reader lists everything again.
pub(super) fn follow(gateway: Arc<Gateway>, after: u64) -> Result<Response, ApiFailure> {
    let newest = *gateway.revisions().borrow();
    if after > newest {
        let message =
            format!("revision {after} is newer than this ledger's {newest}: list everything and follow from there");
        return Err(ApiFailure::new(axum::http::StatusCode::GONE, "RevisionUnknown", message));
    }
    let stopping = gateway.stopping();
    let lines = futures::stream::unfold(Some((gateway, after)), |state| async move {
        let (gateway, after) = state?;
        match next_changes(&gateway, after).await {
            Ok((lines, after)) => Some((Ok(lines), Some((gateway, after)))),
            Err(error) => Some((Err(error), None)),
        }
    });
    Ok(ndjson(futures::StreamExt::take_until(lines, stopping)))
}

async fn next_changes(gateway: &Gateway, after: u64) -> Result<(Bytes, u64), LedgerError> {
    let mut revisions = gateway.revisions();
    if timeout(KEEP_ALIVE, revisions.wait_for(|revision| *revision > after)).await.is_err() {
        return Ok((Bytes::from_static(b"\n"), after));
    }
    tokio::time::sleep(GATHER).await;
    let changes = gateway.changes(after, CHANGES).await?;
    let mut lines = Vec::new();
    let last = changes.last().map_or(after, |change| change.revision);
    for change in changes {
        write_line(&mut lines, &change);
    }
    Ok((lines.into(), last))
}

/// `GET …/jobs/{uid}/results`: what is finished so far, in input order.
pub(super) async fn results(
    State(gateway): State<Arc<Gateway>>,
    Path(uid): Path<String>,
) -> Result<Response, ApiFailure> {
    let first = gateway.job_results(&uid, None, RESULTS).await?;
    let pages = futures::stream::unfold(Some((gateway, uid, first)), |state| async move {
        let (gateway, uid, page) = state?;
        let last = page.last()?.index;
        let mut lines = Vec::new();
        page.iter().for_each(|line| write_line(&mut lines, line));
        match gateway.job_results(&uid, Some(last), RESULTS).await {
            Ok(next) => Some((Ok(Bytes::from(lines)), Some((gateway, uid, next)))),
            Err(error) => Some((Err(error), None)),
        }
    });
    Ok(ndjson(pages))
}

fn write_line(lines: &mut Vec<u8>, value: &impl serde::Serialize) {
    // Writing these plain structs to memory cannot fail.
    if serde_json::to_writer(&mut *lines, value).is_ok() {
        lines.push(b'\n');
    }
}

fn ndjson<E>(lines: impl Stream<Item = Result<Bytes, E>> + Send + 'static) -> Response
where
    E: Into<Box<dyn std::error::Error + Send + Sync>> + 'static,
{
    ([(header::CONTENT_TYPE, "application/x-ndjson")], Body::from_stream(lines)).into_response()
}

impl Gateway {
    async fn job_results(&self, uid: &str, after: Option<u32>, limit: u32) -> Result<Vec<ResultLine>, GatewayError> {
        if after.is_none() {
            self.known_job(uid).await?;
        }
        Ok(self.ledger.results(uid, after, limit).await?.into_iter().map(|row| row.0).collect())
    }
}
