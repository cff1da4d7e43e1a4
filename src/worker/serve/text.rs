//! `/v1/chat/completions` and `/v1/completions`: whole, or as server-sent events.

use std::{collections::BTreeMap, sync::Arc, time::Instant};

use axum::{
    Json,
    extract::{Request, State},
    response::{IntoResponse, Response},
};
use serde_json::Value;

use super::{
    answers::{Answers, Heard},
    ask,
    service::Service,
};
use crate::{
    openai::{
        Call, Choice, OpenAiError, Parsed, Piece, Shape, TextRequest, TokenLogprob, Tools, read_body,
        sse::{self, Event},
    },
    protocol::internal::Endpoint,
    worker::advert::now_ms,
};

pub(super) async fn chat(State(service): State<Arc<Service>>, request: Request) -> Parsed<Response> {
    service.clone().counted(answer(service, Endpoint::ChatCompletions, request).await)
}

pub(super) async fn complete(State(service): State<Arc<Service>>, request: Request) -> Parsed<Response> {
    service.clone().counted(answer(service, Endpoint::Completions, request).await)
}

async fn answer(service: Arc<Service>, endpoint: Endpoint, request: Request) -> Parsed<Response> {
    let began = Instant::now();
    let deadline = began + service.limits.request_time;
    let (engine, flight) = service.admit()?;
    let body = read_body(request, service.limits.body_time).await?;
    let request = TextRequest::parse(&body, endpoint, &service.offer(engine.as_ref()))?;
    service.check_model(&request.model)?;
    if engine.is_encoder() {
        let message = format!("the model {} makes embeddings only: use /v1/embeddings", service.model);
        return Err(OpenAiError::invalid("model", message));
    }
    let prompt = ask::tokens_of(&engine, request.prompt.clone(), request.tools.clone()).await?;
    let prompt_tokens = u32::try_from(prompt.len()).unwrap_or(u32::MAX);
    let receivers = ask::start(engine.as_ref(), &request, prompt, &service.limits, deadline).await?;
    let id = hex::encode(rand::random::<[u8; 12]>());
    let shape = Shape::new(endpoint, &service.model, &id, request.include_usage, now_ms() / 1000);
    let answers = Answers::new(service, engine, flight, (began, deadline), receivers, prompt_tokens);
    let making = Making { answers, shape, tools: request.tools, wants_logprobs: request.top_logprobs.is_some() };
    match request.stream {
        true => Ok(making.stream()),
        false => Ok(Json(making.collect().await?).into_response()),
    }
}

/// A response in the making.
struct Making {
    answers: Answers,
    shape: Shape,
    tools: Tools,
    wants_logprobs: bool,
}

impl Making {
    /// All answers as one object.
    async fn collect(mut self) -> Parsed<Value> {
        let mut choices: BTreeMap<u32, Choice> = BTreeMap::new();
        while let Some(heard) = self.answers.next().await? {
            match heard {
                Heard::Token { choice: index, text, logprob } => {
                    let choice = choices.entry(index).or_default();
                    choice.text.push_str(&text);
                    choice.logprobs.get_or_insert_default().extend(logprob);
                }
                Heard::Ended { choice: index, finish_reason } => {
                    let choice = choices.entry(index).or_default();
                    choice.index = index;
                    choice.finish_reason = finish_reason.to_owned();
                    if !self.wants_logprobs {
                        choice.logprobs = None;
                    }
                    self.tools.move_calls(choice);
                }
            }
        }
        let choices: Vec<Choice> = choices.into_values().collect();
        Ok(self.shape.whole(&choices, self.answers.usage()))
    }

    /// The answers as they are made. A failure after the first byte can only be an event of its own.
    fn stream(self) -> Response {
        let state = Some((self, BTreeMap::new()));
        sse::respond(futures::stream::unfold(state, |state| async move {
            let (mut making, mut told) = state?;
            let (events, goes_on) = making.step(&mut told).await;
            Some((events, goes_on.then_some((making, told))))
        }))
    }

    /// The next events, and whether more follow.
    async fn step(&mut self, told: &mut BTreeMap<u32, Told>) -> (Vec<Event>, bool) {
        loop {
            let heard = self.answers.next().await;
            match self.answers.service().counted(heard) {
                Ok(Some(Heard::Token { choice, text, logprob })) => {
                    let told = told.entry(choice).or_default();
                    if !self.tools.is_empty() {
                        // Whether it is a call is known at its end.
                        told.held.push_str(&text);
                    } else if !text.is_empty() || logprob.is_some() {
                        return (vec![self.piece(told, choice, &text, logprob)], true);
                    }
                }
                Ok(Some(Heard::Ended { choice, finish_reason })) => {
                    let told = told.entry(choice).or_default();
                    return (vec![self.last_piece(told, choice, finish_reason)], true);
                }
                Ok(None) => {
                    let usage = self.shape.usage_piece(self.answers.usage());
                    return (usage.iter().map(sse::data).chain([sse::done()]).collect(), false);
                }
                Err(error) => return (vec![sse::data(&error.envelope())], false),
            }
        }
    }

    fn piece(&self, told: &mut Told, index: u32, text: &str, logprob: Option<TokenLogprob>) -> Event {
        let logprobs: Vec<TokenLogprob> = logprob.into_iter().collect();
        let event = sse::data(&self.shape.piece(&Piece {
            index,
            first: !std::mem::replace(&mut told.begun, true),
            text: Some(text),
            logprobs: self.wants_logprobs.then_some(logprobs.as_slice()),
            offset: told.characters,
            ..Piece::default()
        }));
        told.characters += text.chars().count();
        event
    }

    fn last_piece(&self, told: &mut Told, index: u32, finish_reason: &str) -> Event {
        let mut choice = Choice { finish_reason: finish_reason.into(), ..Choice::default() };
        choice.text = std::mem::take(&mut told.held);
        self.tools.move_calls(&mut choice);
        sse::data(&self.shape.piece(&Piece {
            index,
            first: !std::mem::replace(&mut told.begun, true),
            text: (!choice.text.is_empty()).then_some(choice.text.as_str()),
            calls: &choice.calls,
            finish_reason: Some(&choice.finish_reason),
            offset: told.characters,
            ..Piece::default()
        }))
    }
}

/// What a client knows of one answer.
#[derive(Default)]
struct Told {
    begun: bool,
    characters: usize,
    /// Text that may turn out to be a call.
    held: String,
}

impl Tools {
    /// Makes calls of the text that is one.
    fn move_calls(&self, choice: &mut Choice) {
        if self.is_empty() {
            return;
        }
        let (text, calls) = self.calls_in(&choice.text);
        if calls.is_empty() {
            return;
        }
        let call = |call: crate::openai::ToolCall| Call {
            id: format!("call_{}", hex::encode(rand::random::<[u8; 12]>())),
            name: call.name,
            arguments: call.arguments.to_string(),
        };
        choice.text = text;
        choice.calls = calls.into_iter().map(call).collect();
        choice.finish_reason = "tool_calls".into();
    }
}
