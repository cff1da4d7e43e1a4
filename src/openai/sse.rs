//! Server-sent events: an object each, comments while nothing happens, `[DONE]` at the end.

use std::{convert::Infallible, time::Duration};

use axum::response::{
    IntoResponse, Response,
    sse::{KeepAlive, Sse},
};
use futures::{Stream, StreamExt};
use serde_json::Value;

pub use axum::response::sse::Event;

/// A comment after this long shows that the stream lives.
const KEEP_ALIVE: Duration = Duration::from_secs(10);

/// An event with an object.
pub fn data(value: &Value) -> Event {
    Event::default().data(value.to_string())
}

/// The last event of an answer that is whole. A stream without it broke off.
pub fn done() -> Event {
    Event::default().data("[DONE]")
}

/// A response of events that become known several at a time.
pub fn respond(events: impl Stream<Item = Vec<Event>> + Send + 'static) -> Response {
    let single = events.flat_map(|events| futures::stream::iter(events.into_iter().map(Ok::<_, Infallible>)));
    Sse::new(single).keep_alive(KeepAlive::new().interval(KEEP_ALIVE)).into_response()
}
