//! `POST /v1/embeddings`: a request to its list of vectors.

use std::sync::Arc;

use axum::{
    Json,
    response::{IntoResponse, Response},
};

use super::openai;
use crate::{
    gateway::{Gateway, online::OnlineEvent},
    openai::{EmbeddingRequest, OpenAiError},
    protocol::{
        embeddings::EmbeddingList,
        internal::{Endpoint, InputLine},
    },
};

pub(super) async fn answer(gateway: &Arc<Gateway>, body: &[u8]) -> Result<Response, OpenAiError> {
    let EmbeddingRequest { model, inputs, encoding } = EmbeddingRequest::parse(body)?;
    let model = openai::served(gateway, &model, Endpoint::Embeddings).await?;
    let line = InputLine::embedding(0, "online".into(), inputs, encoding);
    let mut waiting = openai::leased(gateway, Endpoint::Embeddings, &model, line).await?;
    loop {
        if let OnlineEvent::Embedded { vectors, prompt_tokens } = waiting.next().await? {
            return Ok(Json(EmbeddingList::new(&model.source.name, &vectors, encoding, prompt_tokens)).into_response());
        }
    }
}
