//! The answers of one request while they are made: events of all of them in the order in which they come, within the request's time.

use std::{collections::BTreeMap, sync::Arc, time::Instant};

use futures::{
    StreamExt,
    stream::{BoxStream, SelectAll, once},
};
use tokio::{sync::mpsc::Receiver, time::sleep_until};
use tokio_stream::wrappers::ReceiverStream;

use super::ask::form_refused;
use super::service::{Flight, Service, stopping};
use crate::{
    inference::{FinishReason, GenerateEvent, TokenLogprobs},
    openai::{OpenAiError, Parsed, TokenLogprob, Usage},
    protocol::logprobs::shown,
    worker::{AnswerEngine, logprobs::told},
};

/// What happens to one of the answers.
pub(super) enum Heard {
    Token { choice: u32, text: String, logprob: Option<TokenLogprob> },
    Ended { choice: u32, finish_reason: &'static str },
}

/// Events of all answers. Dropping it cancels what is not finished.
pub(super) struct Answers {
    events: SelectAll<BoxStream<'static, (u32, Option<GenerateEvent>)>>,
    /// When the last token of each unfinished answer came.
    open: BTreeMap<u32, Option<Instant>>,
    engine: Arc<dyn AnswerEngine>,
    service: Arc<Service>,
    began: Instant,
    deadline: Instant,
    usage: Usage,
    first_token: bool,
    /// Ended by itself, well or not; else the client left.
    over: bool,
    _flight: Flight,
}

impl Answers {
    /// `began`: when the request came. `deadline`: when it must be over.
    pub(super) fn new(
        service: Arc<Service>,
        engine: Arc<dyn AnswerEngine>,
        flight: Flight,
        (began, deadline): (Instant, Instant),
        receivers: Vec<Receiver<GenerateEvent>>,
        prompt_tokens: u32,
    ) -> Self {
        service.metrics.prompt_tokens.inc_by(prompt_tokens.into());
        service.metrics.prompt_length.observe(prompt_tokens.into());
        let numbered = (0..).zip(receivers);
        let streams = numbered.map(|(choice, receiver)| {
            let events = ReceiverStream::new(receiver).map(move |event| (choice, Some(event)));
            events.chain(once(std::future::ready((choice, None)))).boxed()
        });
        let events: SelectAll<_> = streams.collect();
        let open = (0..events.len() as u32).map(|choice| (choice, None)).collect();
        let usage = Usage { prompt_tokens, completion_tokens: 0, cached_tokens: Some(0) };
        Answers {
            events,
            open,
            engine,
            service,
            began,
            deadline,
            usage,
            first_token: true,
            over: false,
            _flight: flight,
        }
    }

    pub(super) fn service(&self) -> &Service {
        &self.service
    }

    /// Tokens so far.
    pub(super) fn usage(&self) -> Usage {
        self.usage
    }

    /// What happens next; `None` after the last answer has ended. After an error there is nothing more.
    pub(super) async fn next(&mut self) -> Parsed<Option<Heard>> {
        let heard = self.listen().await;
        self.over |= heard.is_err();
        heard
    }

    async fn listen(&mut self) -> Parsed<Option<Heard>> {
        while !self.open.is_empty() {
            let event = tokio::select! {
                event = self.events.next() => event,
                () = sleep_until(self.deadline.into()) => return Err(self.too_late()),
                () = self.service.stop.cancelled() => return Err(stopping()),
            };
            match event {
                Some((choice, Some(event))) => {
                    if let Some(heard) = self.take(choice, event)? {
                        return Ok(Some(heard));
                    }
                }
                // The engine's end of a channel that has said all.
                Some((choice, None)) if !self.open.contains_key(&choice) => {}
                Some((_, None)) | None => return Err(broken("the engine ended without an answer")),
            }
        }
        Ok(None)
    }

    fn take(&mut self, choice: u32, event: GenerateEvent) -> Parsed<Option<Heard>> {
        match event {
            GenerateEvent::Token { id, text, logprobs, .. } => {
                self.time_token(choice);
                let logprob = logprobs.and_then(|logprobs| self.logprob(id, &logprobs));
                Ok(Some(Heard::Token { choice, text, logprob }))
            }
            GenerateEvent::Done { finish, output_tokens, cached_tokens, .. } => {
                self.usage.completion_tokens = self.usage.completion_tokens.saturating_add(output_tokens);
                // The answers share a prompt: what the first of them computed is no gain of this request.
                let cached = self.usage.cached_tokens.filter(|_| choice > 0).unwrap_or(cached_tokens);
                self.usage.cached_tokens = Some(cached);
                let finish_reason = match finish {
                    FinishReason::Stop => "stop",
                    FinishReason::Length => "length",
                    FinishReason::Cancelled => return Err(broken("the engine cancelled the answer")),
                };
                self.end(choice, finish_reason, output_tokens);
                Ok(Some(Heard::Ended { choice, finish_reason }))
            }
            GenerateEvent::DeadlineExceeded => Err(self.too_late()),
            GenerateEvent::Failed(message) => Err(broken(&message)),
            GenerateEvent::Refused(error) => Err(form_refused(&error)),
        }
    }

    fn time_token(&mut self, choice: u32) {
        let (now, metrics) = (Instant::now(), &self.service.metrics);
        metrics.generation_tokens.inc();
        if std::mem::take(&mut self.first_token) {
            metrics.first_token.observe(seconds(self.began, now));
        }
        if let Some(Some(before)) = self.open.insert(choice, Some(now)) {
            metrics.between_tokens.observe(seconds(before, now));
        }
    }

    fn end(&mut self, choice: u32, finish_reason: &str, tokens: u32) {
        self.open.remove(&choice);
        let metrics = &self.service.metrics;
        metrics.successes.with_label_values(&[finish_reason]).inc();
        metrics.answer_length.observe(tokens.into());
        if self.open.is_empty() {
            self.over = true;
            metrics.latency.observe(seconds(self.began, Instant::now()));
        }
    }

    /// Control tokens, which have no bytes, are no part of the text and not told.
    fn logprob(&self, id: u32, logprobs: &TokenLogprobs) -> Option<TokenLogprob> {
        shown(&told(self.engine.as_ref(), id, logprobs))
    }

    fn too_late(&self) -> OpenAiError {
        let seconds = self.service.limits.request_time.as_secs();
        OpenAiError::too_slow(format!("the answer was not there within {seconds} s; ask for fewer tokens, or later"))
    }
}

impl Drop for Answers {
    fn drop(&mut self) {
        if !self.over {
            self.service.metrics.cancelled.inc();
        }
    }
}

fn seconds(from: Instant, to: Instant) -> f64 {
    to.saturating_duration_since(from).as_secs_f64()
}

fn broken(message: &str) -> OpenAiError {
    // Of the engine, never of the text.
    tracing::error!("an answer failed: {message}");
    OpenAiError::internal()
}
