//! IO: the results of a job, line by line, from the gateway or from the shards of a Local job.

use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream::BoxStream};
use tokio_util::codec::{FramedRead, LinesCodec, LinesCodecError};

use super::{
    local::{
        self,
        results::{Totals, Unanswered},
    },
    output::Frame,
    validate::{Ending, Place},
};
use crate::{
    api::reasons::Reason,
    operator::{context::Context, error::Error, gateway::GatewayError, write::api_beside},
    protocol::internal::ResultLine,
};

/// The longest line of a result: an answer of 32 768 tokens takes far less.
const MAX_RESULT_LINE: usize = 4 << 20;

/// NDJSON of [`ResultLine`] in input order, from wherever they are.
pub async fn results(
    place: &Place,
    frame: &Frame,
    ending: &Ending,
    totals: &Totals,
    context: &Context,
) -> Result<BoxStream<'static, Result<Bytes, Error>>, Error> {
    let Place::Local(local) = place else {
        return Ok(context.gateway.results(&frame.uid).await?.map_err(Error::from).boxed());
    };
    let shards = local.seen.map_or(0, |seen| seen.shards);
    let maps = api_beside(context, &frame.namespace);
    let unanswered = match ending {
        Ending::Completed => Unanswered {
            reason: Reason::ShardFailed.as_str().into(),
            message: "its shard failed at every try; status.lastFailures says why".into(),
        },
        Ending::Stopped { reason, message } => Unanswered { reason: reason.as_str().into(), message: message.clone() },
    };
    let (name, uid) = (local.name.clone(), frame.uid.clone());
    if local.seen.is_some_and(|seen| seen.carried) {
        let jobs = api_beside(context, &frame.namespace);
        return Ok(local::carried::stream(jobs, maps, name, uid, unanswered, totals.clone()).boxed());
    }
    Ok(local::results::stream(maps, name, uid, shards, unanswered, totals.clone()).boxed())
}

/// Outcomes in input order.
pub type Results = BoxStream<'static, Result<ResultLine, Error>>;

/// One outcome a line.
pub fn lines(bytes: BoxStream<'static, Result<Bytes, Error>>) -> Results {
    // A reader of lines knows errors of input and output only: what broke the stream is kept beside it.
    let broken = Arc::new(Mutex::new(None));
    let keep = broken.clone();
    let bytes = bytes.map_err(move |error| {
        let text = error.to_string();
        *keep.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
        std::io::Error::other(text)
    });
    let reader = tokio_util::io::StreamReader::new(bytes);
    let lines = FramedRead::new(reader, LinesCodec::new_with_max_length(MAX_RESULT_LINE));
    let result = move |line: Result<String, LinesCodecError>| match line {
        Ok(line) if line.trim().is_empty() => None,
        Ok(line) => {
            Some(serde_json::from_str(&line).map_err(|error| GatewayError::Malformed(error.to_string()).into()))
        }
        Err(error) => {
            let cause: Option<Error> = broken.lock().unwrap_or_else(PoisonError::into_inner).take();
            Some(Err(cause.unwrap_or_else(|| GatewayError::Unavailable(error.to_string()).into())))
        }
    };
    lines.filter_map(move |line| std::future::ready(result(line))).boxed()
}
