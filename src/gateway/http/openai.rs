//! The OpenAI API in front of the same dispatch that jobs go through.

use std::{sync::Arc, time::Duration};

use axum::{
    Json, Router,
    extract::{DefaultBodyLimit, Path, Request, State},
    middleware,
    response::{IntoResponse, Response},
    routing::{get, post},
};
use futures::{FutureExt, future::select_all};
use serde_json::{Value, json};
use tokio::time::timeout;

use super::{
    files, openai_embeddings,
    openai_stream::{self, Logprobs},
    statement,
};
use crate::{
    api::ids::RequestId,
    gateway::{
        Gateway,
        online::OnlineEvent,
        reasons::{FORM_REFUSED, is_about_the_request},
    },
    openai::{Defaults, Offer, OpenAiError, Shape, TextRequest, Tokens, check_key, read_body},
    protocol::{
        fields::RequestFields,
        internal::{Endpoint, InputLine, ModelState},
    },
    store::{ModelRecord, NewRequest, RequestKind, request_fields},
};

/// Largest request: an infer frame carries it.
const MAX_BODY: usize = 900 << 10;
/// Time that a body gets to arrive.
const BODY_TIME: Duration = Duration::from_secs(60);
/// Workers that one online request may fail on.
const ATTEMPTS: u32 = 3;
/// Most answers to one request: each is a request of its own to the workers.
const MAX_CHOICES: u32 = 8;

/// The routes below `/v1`, the files of jobs, and published statements. Without tokens whoever reaches the first is served; files have
/// keys of their own, and statements are for everybody or for nobody.
pub fn router(gateway: Arc<Gateway>, tokens: Option<Tokens>) -> Router {
    let routes = Router::new()
        .route("/chat/completions", post(chat))
        .route("/completions", post(complete))
        .route("/embeddings", post(embed))
        .route("/models", get(models))
        .route("/models/{id}", get(model))
        .fallback(async || OpenAiError::not_found())
        .method_not_allowed_fallback(async || OpenAiError::method_not_allowed())
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .layer(middleware::from_fn_with_state(tokens, check_key))
        .with_state(gateway.clone());
    Router::new().nest("/v1", routes).merge(files::public(gateway.clone())).merge(statement::public(gateway))
}

async fn chat(State(gateway): State<Arc<Gateway>>, request: Request) -> Response {
    answer(gateway, Endpoint::ChatCompletions, request).await
}

async fn complete(State(gateway): State<Arc<Gateway>>, request: Request) -> Response {
    answer(gateway, Endpoint::Completions, request).await
}

async fn embed(State(gateway): State<Arc<Gateway>>, request: Request) -> Response {
    answer(gateway, Endpoint::Embeddings, request).await
}

async fn answer(gateway: Arc<Gateway>, endpoint: Endpoint, request: Request) -> Response {
    let outcome = try_answer(&gateway, endpoint, request).await;
    let response = outcome.unwrap_or_else(OpenAiError::into_response);
    gateway.metrics.http_requests.with_label_values(&["openai", response.status().as_str()]).inc();
    response
}

async fn try_answer(gateway: &Arc<Gateway>, endpoint: Endpoint, request: Request) -> Result<Response, OpenAiError> {
    let body = read_body(request, BODY_TIME).await?;
    if endpoint == Endpoint::Embeddings {
        return openai_embeddings::answer(gateway, &body).await;
    }
    let request = TextRequest::parse(&body, endpoint, &offer(gateway))?;
    let model = served(gateway, &request.model, endpoint).await?;
    let (stream, include_usage, choices) = (request.stream, request.include_usage, request.choices);
    let line = request.into_line(0, "online".into());
    known(gateway, &model, request_fields(&line, &model.source.chat_template))?;
    let logprobs = Logprobs::of(line.top_logprobs);
    let waiting = all_leased(gateway, endpoint, &model, &line, choices).await?;
    let id = hex::encode(rand::random::<[u8; 12]>());
    let shape = Shape::new(endpoint, &model.source.name, &id, include_usage, gateway.clock.now_ms() / 1000);
    match stream {
        true => Ok(openai_stream::stream(waiting, shape, logprobs)),
        false => Ok(Json(openai_stream::collect(waiting, shape, logprobs).await?).into_response()),
    }
}

/// What is taken. A request that names no limit gets the longest answer, one without a seed any.
fn offer(gateway: &Gateway) -> Offer {
    let most_tokens = gateway.settings.max_tokens;
    let defaults = Defaults { max_tokens: Some(most_tokens), seed: Some(rand::random()), ..Defaults::OPENAI };
    Offer { most_choices: MAX_CHOICES, ..Offer::of_the_grid(most_tokens, defaults) }
}

/// Somebody who serves the model must know every field that the request uses.
fn known(gateway: &Gateway, model: &ModelRecord, fields: RequestFields) -> Result<(), OpenAiError> {
    let servers = gateway.servers(&model.source.digest);
    let working = servers.iter().filter(|worker| worker.schedulable && !worker.quarantined);
    let missing = working.map(|worker| fields.missing_in(worker.knows)).min_by_key(|missing| missing.iter().count());
    match missing {
        Some(missing) if !missing.is_empty() => {
            let name = &model.source.name;
            let message = format!(
                "no worker that serves the model {name} knows {missing} yet: their software is older, or another than that of \
                 whoever would check the answer"
            );
            Err(OpenAiError::unavailable("field_unknown", message))
        }
        _ => Ok(()),
    }
}

/// The model that a request names, if it answers such requests and somebody serves it now.
pub(super) async fn served(gateway: &Gateway, name: &str, endpoint: Endpoint) -> Result<ModelRecord, OpenAiError> {
    let model = find(gateway, name).await?;
    let name = &model.source.name;
    if !model.source.format.serves(endpoint) {
        let does = if endpoint == Endpoint::Embeddings { "makes no embeddings" } else { "makes embeddings only" };
        return Err(OpenAiError::invalid("model", format!("the model {name} {does}")));
    }
    if !gateway.servers(&model.source.digest).iter().any(|worker| worker.schedulable && !worker.quarantined) {
        return Err(OpenAiError::unavailable("no_worker", format!("no worker serves the model {name} at the moment")));
    }
    Ok(model)
}

/// Queues a request and waits until a worker took it.
pub(super) async fn leased(
    gateway: &Arc<Gateway>,
    endpoint: Endpoint,
    model: &ModelRecord,
    line: InputLine,
) -> Result<Waiting, OpenAiError> {
    let mut waiting = submit(gateway, endpoint, model, line).await?;
    waiting.leased().await?;
    Ok(waiting)
}

/// The same for several answers to one request, which differ by the noise that their ids give. Whoever is taken first may begin; where
/// there are fewer places than answers, the others follow.
async fn all_leased(
    gateway: &Arc<Gateway>,
    endpoint: Endpoint,
    model: &ModelRecord,
    line: &InputLine,
    choices: u32,
) -> Result<Vec<Waiting>, OpenAiError> {
    let mut all = Vec::new();
    for _ in 0..choices.max(1) {
        all.push(submit(gateway, endpoint, model, line.clone()).await?);
    }
    // A worker that waits for its reader keeps its place: waiting for all of them could be for ever.
    let (first, _, _) = select_all(all.iter_mut().map(|waiting| waiting.leased().boxed())).await;
    first.map(|()| all)
}

async fn find(gateway: &Gateway, name: &str) -> Result<ModelRecord, OpenAiError> {
    let models = ready(gateway).await?;
    let found = models.into_iter().find(|model| model.source.name == name || model.source.digest.to_string() == name);
    found.ok_or_else(|| OpenAiError::model_not_found(name))
}

async fn ready(gateway: &Gateway) -> Result<Vec<ModelRecord>, OpenAiError> {
    let models = gateway.ledger.models().await.map_err(|error| {
        gateway.ledger_failed("reading the models", &error);
        OpenAiError::internal()
    })?;
    Ok(models.into_iter().filter(|model| model.state == ModelState::Ready).collect())
}

async fn models(State(gateway): State<Arc<Gateway>>) -> Result<Json<Value>, OpenAiError> {
    let data: Vec<Value> = ready(&gateway).await?.iter().map(describe).collect();
    Ok(Json(json!({"object": "list", "data": data})))
}

async fn model(State(gateway): State<Arc<Gateway>>, Path(id): Path<String>) -> Result<Json<Value>, OpenAiError> {
    Ok(Json(describe(&find(&gateway, &id).await?)))
}

fn describe(model: &ModelRecord) -> Value {
    json!({"id": model.source.name, "object": "model", "created": 0, "owned_by": "xdc-grid"})
}

fn busy(wait: Duration) -> OpenAiError {
    OpenAiError::busy("all workers are busy; try again in a moment", wait.as_secs())
}

/// A failure with its reason code.
fn failed(reason: &str, message: impl Into<String>) -> OpenAiError {
    let code = if reason == "ContextExceeded" { "context_length_exceeded" } else { reason };
    if !is_about_the_request(reason) {
        return OpenAiError::bad_gateway(code, message);
    }
    let mut error = OpenAiError::bad_request(Some(code), message);
    error.body.param = (reason == FORM_REFUSED).then(|| "response_format".to_owned());
    error
}

/// A request under way. Dropping it before its end cancels it: the client is gone.
pub(super) struct Waiting {
    gateway: Arc<Gateway>,
    id: RequestId,
    events: tokio::sync::mpsc::Receiver<OnlineEvent>,
    over: bool,
}

async fn submit(
    gateway: &Arc<Gateway>,
    endpoint: Endpoint,
    model: &ModelRecord,
    line: InputLine,
) -> Result<Waiting, OpenAiError> {
    let id = RequestId(rand::random());
    let events = gateway.online.add(id).ok_or_else(|| busy(gateway.settings.online_wait))?;
    // From here on a return without an answer cleans up.
    let waiting = Waiting { gateway: gateway.clone(), id, events, over: false };
    let request = NewRequest {
        id,
        kind: RequestKind::Online,
        owner: "online".into(),
        job: None,
        model: model.source.digest,
        endpoint,
        line,
        beacon: rand::random(),
        sample_percent: None,
        max_attempts: ATTEMPTS,
        pinned: None,
        queued_ms: gateway.clock.now_ms(),
        chat_template: model.source.chat_template.clone(),
    };
    gateway.ledger.add_request(&request).await.map_err(|error| {
        gateway.ledger_failed("queueing an online request", &error);
        OpenAiError::internal()
    })?;
    gateway.dispatch.notify_one();
    Ok(waiting)
}

impl Waiting {
    /// Waits until a worker took it.
    async fn leased(&mut self) -> Result<(), OpenAiError> {
        let wait = self.gateway.settings.online_wait;
        match timeout(wait, self.events.recv()).await {
            Err(_) => Err(busy(wait)),
            Ok(Some(OnlineEvent::Failed { reason, message })) => {
                self.over = true;
                Err(failed(&reason, message))
            }
            Ok(Some(_)) => Ok(()),
            Ok(None) => Err(OpenAiError::internal()),
        }
    }

    /// The next event; a failure is the last one.
    pub(super) async fn next(&mut self) -> Result<OnlineEvent, OpenAiError> {
        // A worker that died gives the request back to the queue: its next one has as long again.
        match timeout(self.gateway.settings.stall, self.events.recv()).await {
            Err(_) => Err(failed("Stalled", "no worker went on with the answer in time")),
            Ok(None) => Err(OpenAiError::internal()),
            Ok(Some(OnlineEvent::Failed { reason, message })) => {
                self.over = true;
                Err(failed(&reason, message))
            }
            Ok(Some(event)) => {
                self.over |= matches!(event, OnlineEvent::Finished { .. } | OnlineEvent::Embedded { .. });
                Ok(event)
            }
        }
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.gateway.online.remove(&self.id);
        if !self.over {
            let (gateway, id) = (self.gateway.clone(), self.id);
            self.gateway.spawn(async move { gateway.cancel_online(&id).await });
        }
    }
}

impl Gateway {
    /// Nobody waits for the answer any more.
    async fn cancel_online(&self, request: &RequestId) {
        let message = "the client went away";
        let failed = self.ledger.fail_queued_request(request, "Cancelled", message, self.clock.now_ms()).await;
        if let Err(error) = failed {
            self.ledger_failed("cancelling an online request", &error);
        }
        self.flights.cancel_request(request);
    }
}
