//! From a parsed request to what the engine is asked, and its refusals in words of HTTP.

use std::{sync::Arc, time::Instant};

use tokio::sync::mpsc::Receiver;

use super::options::Limits;
use crate::{
    inference::{AdmissionError, ChatMessage, FormError, GenerateEvent, GenerateRequest, PromptError, Tenant},
    openai::{Message, OpenAiError, Parsed, Prompt, TextRequest, Tools},
    verify::sampler,
    worker::AnswerEngine,
};

/// The tokens of a prompt. Long ones take a while, so another thread does it.
pub(super) async fn tokens_of(engine: &Arc<dyn AnswerEngine>, prompt: Prompt, tools: Tools) -> Parsed<Vec<u32>> {
    let engine = engine.clone();
    let tokens = tokio::task::spawn_blocking(move || match prompt {
        Prompt::Text(text) => engine.tokenize(&text).map_err(|error| unusable("prompt", &error)),
        Prompt::Chat(messages) => rendered(engine.as_ref(), messages, &tools),
    });
    tokens.await.map_err(|error| {
        tracing::error!(%error, "tokenizing failed");
        OpenAiError::internal()
    })?
}

fn rendered(engine: &dyn AnswerEngine, messages: Vec<Message>, tools: &Tools) -> Parsed<Vec<u32>> {
    let speaks_of_tools = !tools.is_empty() || messages.iter().any(|message| !message.tool_calls.is_empty());
    let tokens = if speaks_of_tools {
        engine.render_tools(&messages, &tools.definitions)
    } else {
        let plain = |message: Message| ChatMessage { role: message.role, content: message.content };
        engine.render_chat(&messages.into_iter().map(plain).collect::<Vec<_>>())
    };
    tokens.map_err(|error| unusable("messages", &error))
}

fn unusable(field: &str, error: &PromptError) -> OpenAiError {
    OpenAiError::invalid(field, error.to_string())
}

/// Starts all answers, or none.
pub(super) async fn start(
    engine: &dyn AnswerEngine,
    request: &TextRequest,
    prompt: Vec<u32>,
    limits: &Limits,
    deadline: Instant,
) -> Parsed<Vec<Receiver<GenerateEvent>>> {
    let room = engine.info().context_length.saturating_sub(u32::try_from(prompt.len()).unwrap_or(u32::MAX));
    if let Some(entry) = request.sampling.logit_bias.iter().find(|entry| entry.id >= engine.info().vocab_size) {
        let message = format!("logit_bias: {} is no token of a vocabulary of {}", entry.id, engine.info().vocab_size);
        return Err(OpenAiError::invalid("logit_bias", message));
    }
    let seed = request.seed.unwrap_or_else(rand::random);
    let asked = GenerateRequest {
        prompt,
        max_tokens: request.max_tokens.unwrap_or_else(|| unasked(limits, room)),
        sampling: request.sampling.clone(),
        stop: request.stop.clone(),
        top_logprobs: request.top_logprobs,
        // Whoever is let in is one tenant, unless the caller tells its users apart.
        tenant: Some(Tenant::of(request.user.as_deref().unwrap_or_default().as_bytes())),
        deadline: Some(deadline),
        ..GenerateRequest::default()
    };
    let mut receivers = Vec::new();
    for choice in 0..request.choices {
        let asked = GenerateRequest { seed: seed_of(seed, choice), ..asked.clone() };
        receivers.push(engine.generate(asked).await.map_err(not_admitted)?);
    }
    Ok(receivers)
}

/// The length of an answer whose request names none. 1 where there is no room: the engine then says what does not fit.
fn unasked(limits: &Limits, room: u32) -> u32 {
    limits.default_tokens.min(limits.max_tokens.unwrap_or(u32::MAX)).min(room).max(1)
}

/// The same seed gives the same answers, and each answer of a request another one.
fn seed_of(seed: u64, choice: u32) -> [u8; 32] {
    let (mut number, mut nonce) = ([0; 32], [0; 32]);
    number[..4].copy_from_slice(&choice.to_le_bytes());
    nonce[..8].copy_from_slice(&seed.to_le_bytes());
    sampler::seed(&number, &nonce, &[0; 32], &[0; 32])
}

pub(super) fn not_admitted(error: AdmissionError) -> OpenAiError {
    let message = error.to_string();
    match error {
        AdmissionError::Busy { retry_after } => OpenAiError::busy(&message, retry_after.as_secs()),
        AdmissionError::Context { .. } => OpenAiError::bad_request(Some("context_length_exceeded"), message),
        AdmissionError::Memory { .. } => OpenAiError::bad_request(Some("memory_exceeded"), message),
        AdmissionError::Invalid(_) => OpenAiError::bad_request(None, message),
        AdmissionError::Form(error) => form_refused(&error),
        AdmissionError::Stopped => OpenAiError::unavailable("engine_stopped", message),
    }
}

/// The form that is asked for is one that the text cannot have.
pub(super) fn form_refused(error: &FormError) -> OpenAiError {
    OpenAiError::invalid("response_format", error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_answer_of_every_seed_draws_its_own_noise() {
        let seeds: std::collections::BTreeSet<_> =
            (0..4).flat_map(|seed| (0..4).map(move |choice| seed_of(seed, choice))).collect();
        assert_eq!(seeds.len(), 16);
        assert_eq!(seed_of(7, 1), seed_of(7, 1));
    }

    #[test]
    fn refusals_are_told_apart() {
        let busy = not_admitted(AdmissionError::Busy { retry_after: std::time::Duration::from_secs(9) });
        assert_eq!((busy.status.as_u16(), busy.retry_after), (429, Some(9)));
        let context = not_admitted(AdmissionError::Context { prompt: 9, output: 9, context: 10 });
        assert_eq!((context.status.as_u16(), context.body.code.as_deref()), (400, Some("context_length_exceeded")));
        assert_eq!(not_admitted(AdmissionError::Stopped).status.as_u16(), 503);
        let form = not_admitted(AdmissionError::Form(FormError::NoEnd));
        assert_eq!((form.status.as_u16(), form.body.param.as_deref()), (400, Some("response_format")));
    }
}
