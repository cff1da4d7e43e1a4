//! `/tokenize`, `/detokenize` and `/v1/models`: what a client may want to know before it asks.

use std::sync::Arc;

use axum::{
    Json,
    extract::{Path, Request, State, rejection::PathRejection},
};
use serde_json::{Value, json};

use super::{ask, service::Service};
use crate::{
    inference::ModelInfo,
    openai::{DetokenizeRequest, OpenAiError, Parsed, TokenizeRequest, Tools, read_body},
};

type Shared = State<Arc<Service>>;

pub(super) async fn models(State(service): Shared) -> Parsed<Json<Value>> {
    let (engine, _flight) = service.counted(service.admit())?;
    Ok(Json(json!({"object": "list", "data": [describe(&service, engine.info())]})))
}

pub(super) async fn model(State(service): Shared, id: Result<Path<String>, PathRejection>) -> Parsed<Json<Value>> {
    let (engine, _flight) = service.counted(service.admit())?;
    // A name that is not UTF-8 is nobody's.
    let id = id.map_or_else(|_| String::new(), |Path(id)| id);
    service.counted(service.check_model(&id))?;
    Ok(Json(describe(&service, engine.info())))
}

fn describe(service: &Service, info: &ModelInfo) -> Value {
    json!({
        "id": service.model,
        "object": "model",
        "created": service.created,
        "owned_by": "xdc-grid",
        "max_model_len": info.context_length,
    })
}

pub(super) async fn tokenize(State(service): Shared, request: Request) -> Parsed<Json<Value>> {
    service.counted(tokens(&service, request).await)
}

async fn tokens(service: &Service, request: Request) -> Parsed<Json<Value>> {
    let (engine, _flight) = service.admit()?;
    let body = read_body(request, service.limits.body_time).await?;
    let TokenizeRequest { model, prompt } = TokenizeRequest::parse(&body)?;
    service.check_model(model.as_deref().unwrap_or(&service.model))?;
    let tokens = ask::tokens_of(&engine, prompt, Tools::default()).await?;
    let context = engine.info().context_length;
    Ok(Json(json!({"count": tokens.len(), "max_model_len": context, "tokens": tokens})))
}

pub(super) async fn detokenize(State(service): Shared, request: Request) -> Parsed<Json<Value>> {
    service.counted(text(&service, request).await)
}

async fn text(service: &Service, request: Request) -> Parsed<Json<Value>> {
    let (engine, _flight) = service.admit()?;
    let body = read_body(request, service.limits.body_time).await?;
    let DetokenizeRequest { model, tokens } = DetokenizeRequest::parse(&body)?;
    service.check_model(model.as_deref().unwrap_or(&service.model))?;
    let vocab_size = engine.info().vocab_size;
    if let Some(token) = tokens.iter().find(|token| **token >= vocab_size) {
        let message = format!("tokens: {token} is not in the vocabulary of {vocab_size}");
        return Err(OpenAiError::invalid("tokens", message));
    }
    let bytes: Vec<u8> = tokens.iter().flat_map(|token| engine.token_bytes(*token)).collect();
    Ok(Json(json!({ "prompt": String::from_utf8_lossy(&bytes) })))
}
