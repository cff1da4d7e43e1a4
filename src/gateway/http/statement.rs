//! The statement of a closed epoch (`protocol::statement`): what a stranger needs to do the reporter's sum again. Written while it is
//! read, a page of receipts at a time, so that an epoch of any size takes the same memory.

use std::{io::Write, sync::Arc};

use axum::{
    body::{Body, Bytes},
    extract::{Path, State},
    http::header,
    response::{IntoResponse, Response},
};
use zstd::stream::write::Encoder;

use super::error::ApiFailure;
use crate::{
    gateway::{Gateway, GatewayError},
    protocol::statement::CountedReceipt,
    store::SettledReceipt,
};

/// Receipts that are read at once.
const PAGE: u32 = 500;
const LEVEL: i32 = 3;

type Written = Encoder<'static, Vec<u8>>;

/// `GET …/epochs/{epoch}/statement`.
pub(super) async fn statement(
    State(gateway): State<Arc<Gateway>>,
    Path(epoch): Path<u64>,
) -> Result<Response, ApiFailure> {
    let totals = gateway.totals_of_closed(epoch).await?;
    let mut out = Encoder::new(Vec::new(), LEVEL).map_err(writing)?;
    out.write_all(&totals).and_then(|()| out.write_all(b"\n")).map_err(writing)?;
    let pages = futures::stream::unfold(Some((gateway, out, None)), move |state| async move {
        let (gateway, out, after) = state?;
        match next_page(&gateway, epoch, out, after).await {
            Ok((bytes, Some((out, last)))) => Some((Ok(bytes), Some((gateway, out, Some(last))))),
            Ok((bytes, None)) => Some((Ok(bytes), None)),
            Err(error) => Some((Err(error), None)),
        }
    });
    Ok(([(header::CONTENT_TYPE, "application/zstd")], Body::from_stream(pages)).into_response())
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

impl Gateway {
    /// The totals of an epoch, the very bytes that it was closed with.
    async fn totals_of_closed(&self, epoch: u64) -> Result<Vec<u8>, GatewayError> {
        let closed = self.ledger.closed_epoch(epoch).await?;
        closed.map(|closed| closed.totals).ok_or_else(|| GatewayError::NotFound {
            reason: "EpochNotClosed",
            message: format!("epoch {epoch} is not closed: its statement is there once the operator closed it"),
        })
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
