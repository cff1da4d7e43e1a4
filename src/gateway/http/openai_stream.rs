//! Answers of the OpenAI API: whole, or as server-sent events.

use std::{convert::Infallible, time::Duration};

use axum::response::{
    IntoResponse, Response,
    sse::{Event, KeepAlive, Sse},
};
use futures::Stream;
use serde_json::{Value, json};

use super::{openai::Waiting, openai_error::OpenAiError};
use crate::{gateway::online::OnlineEvent, protocol::internal::Endpoint};

/// What stays the same in every object of one answer.
#[derive(Debug, Clone)]
pub(super) struct Shape {
    endpoint: Endpoint,
    model: String,
    include_usage: bool,
    created: u64,
}

impl Shape {
    /// `created`: unix seconds.
    pub(super) fn new(endpoint: Endpoint, model: &str, include_usage: bool, created: u64) -> Self {
        Shape { endpoint, model: model.to_owned(), include_usage, created }
    }

    fn object(&self, id: &str, chunk: bool, choices: Value) -> Value {
        let (prefix, object) = match (self.endpoint, chunk) {
            (Endpoint::ChatCompletions, true) => ("chatcmpl", "chat.completion.chunk"),
            (Endpoint::ChatCompletions, false) => ("chatcmpl", "chat.completion"),
            // Embeddings have an answer of their own (`openai_embeddings`) and never come here.
            (Endpoint::Completions | Endpoint::Embeddings, _) => ("cmpl", "text_completion"),
        };
        json!({
            "id": format!("{prefix}-{id}"),
            "object": object,
            "created": self.created,
            "model": self.model,
            "choices": choices,
        })
    }

    fn whole(&self, id: &str, text: &str, finish_reason: &str, usage: Value) -> Value {
        let choice = match self.endpoint {
            Endpoint::ChatCompletions => {
                let message = json!({"role": "assistant", "content": text, "refusal": null});
                json!({"index": 0, "message": message, "logprobs": null, "finish_reason": finish_reason})
            }
            Endpoint::Completions | Endpoint::Embeddings => {
                json!({"index": 0, "text": text, "logprobs": null, "finish_reason": finish_reason})
            }
        };
        let mut object = self.object(id, false, json!([choice]));
        object["usage"] = usage;
        object
    }

    fn piece(&self, id: &str, first: bool, text: Option<&str>, finish_reason: Option<&str>) -> Value {
        let choice = match self.endpoint {
            Endpoint::ChatCompletions => {
                let mut delta = json!({});
                if first {
                    delta["role"] = json!("assistant");
                }
                if let Some(text) = text {
                    delta["content"] = json!(text);
                }
                json!({"index": 0, "delta": delta, "logprobs": null, "finish_reason": finish_reason})
            }
            Endpoint::Completions | Endpoint::Embeddings => {
                json!({"index": 0, "text": text.unwrap_or(""), "logprobs": null, "finish_reason": finish_reason})
            }
        };
        let mut object = self.object(id, true, json!([choice]));
        if self.include_usage {
            object["usage"] = Value::Null;
        }
        object
    }
}

fn usage(prompt_tokens: u32, output_tokens: u32) -> Value {
    let total = u64::from(prompt_tokens) + u64::from(output_tokens);
    json!({"prompt_tokens": prompt_tokens, "completion_tokens": output_tokens, "total_tokens": total})
}

fn id(waiting: &Waiting) -> String {
    hex::encode(waiting.id.0.get(..12).unwrap_or_default())
}

/// The whole answer as one object.
pub(super) async fn collect(mut waiting: Waiting, shape: Shape) -> Result<Value, OpenAiError> {
    let mut text = String::new();
    loop {
        match waiting.next().await? {
            OnlineEvent::Token { text: piece } => text.push_str(&piece),
            OnlineEvent::Finished { finish_reason, prompt_tokens, output_tokens } => {
                return Ok(shape.whole(&id(&waiting), &text, &finish_reason, usage(prompt_tokens, output_tokens)));
            }
            OnlineEvent::Leased | OnlineEvent::Progress | OnlineEvent::Embedded { .. } | OnlineEvent::Failed { .. } => {
            }
        }
    }
}

/// The answer as it is made. A failure after the first byte can only be an event of its own.
pub(super) fn stream(waiting: Waiting, shape: Shape) -> Response {
    let state = Some(Streaming { id: id(&waiting), waiting, shape, first: true });
    let events = futures::stream::unfold(state, |state| async move {
        let (objects, state) = state?.step().await;
        Some((objects, state))
    });
    let events = futures::StreamExt::flat_map(events, |objects| futures::stream::iter(objects.into_iter().map(Ok)));
    into_response(events)
}

fn into_response(events: impl Stream<Item = Result<Event, Infallible>> + Send + 'static) -> Response {
    Sse::new(events).keep_alive(KeepAlive::new().interval(Duration::from_secs(10))).into_response()
}

struct Streaming {
    id: String,
    waiting: Waiting,
    shape: Shape,
    first: bool,
}

impl Streaming {
    /// The next events, and the state to go on with; none after the end.
    async fn step(mut self) -> (Vec<Event>, Option<Self>) {
        loop {
            match self.waiting.next().await {
                Ok(OnlineEvent::Token { text }) => {
                    let first = std::mem::take(&mut self.first);
                    let event = data(&self.shape.piece(&self.id, first, Some(&text), None));
                    return (vec![event], Some(self));
                }
                Ok(OnlineEvent::Finished { finish_reason, prompt_tokens, output_tokens }) => {
                    let mut events = vec![data(&self.shape.piece(&self.id, self.first, None, Some(&finish_reason)))];
                    if self.shape.include_usage {
                        let mut last = self.shape.object(&self.id, true, json!([]));
                        last["usage"] = usage(prompt_tokens, output_tokens);
                        events.push(data(&last));
                    }
                    events.push(Event::default().data("[DONE]"));
                    return (events, None);
                }
                Ok(
                    OnlineEvent::Leased
                    | OnlineEvent::Progress
                    | OnlineEvent::Embedded { .. }
                    | OnlineEvent::Failed { .. },
                ) => {}
                Err(error) => return (vec![data(&json!(error.envelope()))], None),
            }
        }
    }
}

fn data(value: &Value) -> Event {
    Event::default().data(value.to_string())
}
