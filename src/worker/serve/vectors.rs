//! `/v1/embeddings`.

use std::{sync::Arc, time::Instant};

use axum::{
    Json,
    extract::{Request, State},
    response::{IntoResponse, Response},
};

use super::{
    ask::not_admitted,
    service::{Service, stopping},
};
use crate::{
    inference::Vectors,
    openai::{EmbeddingRequest, OpenAiError, Parsed, read_body},
    protocol::{embeddings::EmbeddingList, vector::Vector},
    worker::AnswerEngine,
};

pub(super) async fn embed(State(service): State<Arc<Service>>, request: Request) -> Parsed<Response> {
    service.counted(answer(&service, request).await)
}

async fn answer(service: &Service, request: Request) -> Parsed<Response> {
    let began = Instant::now();
    let deadline = began + service.limits.request_time;
    let (engine, _flight) = service.admit()?;
    let body = read_body(request, service.limits.body_time).await?;
    let EmbeddingRequest { model, inputs, encoding } = EmbeddingRequest::parse(&body)?;
    service.check_model(&model)?;
    if !engine.is_encoder() {
        return Err(OpenAiError::invalid("model", format!("the model {model} makes no embeddings")));
    }
    let ids = tokens_of(engine.clone(), inputs).await?;
    let (count, tokens) = (ids.len(), ids.iter().map(Vec::len).sum::<usize>());
    let tokens = u32::try_from(tokens).unwrap_or(u32::MAX);
    let vectors = engine.embed(ids).map_err(not_admitted)?;
    service.metrics.prompt_tokens.inc_by(tokens.into());
    let vectors = tokio::select! {
        vectors = all(vectors, count) => vectors?,
        () = tokio::time::sleep_until(deadline.into()) => {
            let seconds = service.limits.request_time.as_secs();
            return Err(OpenAiError::too_slow(format!("the vectors were not there within {seconds} s")));
        }
        () = service.stop.cancelled() => return Err(stopping()),
    };
    service.metrics.latency.observe(began.elapsed().as_secs_f64());
    Ok(Json(EmbeddingList::new(&service.model, &vectors, encoding, tokens)).into_response())
}

async fn tokens_of(engine: Arc<dyn AnswerEngine>, inputs: Vec<String>) -> Parsed<Vec<Vec<u32>>> {
    let ids = tokio::task::spawn_blocking(move || {
        let ids = inputs.iter().map(|text| engine.tokenize(text));
        ids.collect::<Result<Vec<_>, _>>().map_err(|error| OpenAiError::invalid("input", error.to_string()))
    });
    ids.await.map_err(|error| broken(&error.to_string()))?
}

async fn all(mut vectors: Vectors, count: usize) -> Parsed<Vec<Vector>> {
    let mut found = Vec::with_capacity(count);
    while found.len() < count {
        let values = match vectors.recv().await {
            Some(values) => values.map_err(|message| broken(&message))?,
            None => return Err(broken("the engine ended without an answer")),
        };
        found.push(Vector::new(values).ok_or_else(|| broken("the engine gave no sound vector"))?);
    }
    Ok(found)
}

fn broken(message: &str) -> OpenAiError {
    tracing::error!("an embedding failed: {message}");
    OpenAiError::internal()
}
