//! Answers of the OpenAI API: whole, or as server-sent events.

use axum::response::Response;
use serde_json::Value;

use super::openai::Waiting;
use crate::{
    gateway::online::OnlineEvent,
    openai::{
        Choice, OpenAiError, Piece, Shape, TokenLogprob, Usage,
        sse::{self, Event},
    },
};

fn usage(prompt_tokens: u32, completion_tokens: u32) -> Usage {
    Usage { prompt_tokens, completion_tokens, cached_tokens: None }
}

/// Whether a client asked for log-probabilities.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Logprobs {
    Told,
    NotTold,
}

impl Logprobs {
    pub(super) fn of(asked: Option<u32>) -> Self {
        if asked.is_some() { Logprobs::Told } else { Logprobs::NotTold }
    }

    fn list(self) -> Option<Vec<TokenLogprob>> {
        (self == Logprobs::Told).then(Vec::new)
    }
}

/// The whole answer as one object.
pub(super) async fn collect(mut waiting: Waiting, shape: Shape, logprobs: Logprobs) -> Result<Value, OpenAiError> {
    let mut choice = Choice { logprobs: logprobs.list(), ..Choice::default() };
    loop {
        match waiting.next().await? {
            OnlineEvent::Token { text, logprob } => {
                choice.text.push_str(&text);
                if let Some(list) = &mut choice.logprobs {
                    list.extend(logprob);
                }
            }
            OnlineEvent::Finished { finish_reason, prompt_tokens, output_tokens } => {
                choice.finish_reason = finish_reason;
                return Ok(shape.whole(&[choice], usage(prompt_tokens, output_tokens)));
            }
            OnlineEvent::Leased | OnlineEvent::Progress | OnlineEvent::Embedded { .. } | OnlineEvent::Failed { .. } => {
            }
        }
    }
}

/// The answer as it is made. A failure after the first byte can only be an event of its own.
pub(super) fn stream(waiting: Waiting, shape: Shape, logprobs: Logprobs) -> Response {
    let state = Some(Streaming { waiting, shape, logprobs, first: true, characters: 0 });
    sse::respond(futures::stream::unfold(state, |state| async move {
        let (events, state) = state?.step().await;
        Some((events, state))
    }))
}

struct Streaming {
    waiting: Waiting,
    shape: Shape,
    logprobs: Logprobs,
    first: bool,
    /// Of the answer so far.
    characters: usize,
}

impl Streaming {
    /// The next events, and the state to go on with; none after the end.
    async fn step(mut self) -> (Vec<Event>, Option<Self>) {
        loop {
            match self.waiting.next().await {
                Ok(OnlineEvent::Token { text, logprob }) => {
                    let event = self.piece(&text, logprob);
                    return (vec![event], Some(self));
                }
                Ok(OnlineEvent::Finished { finish_reason, prompt_tokens, output_tokens }) => {
                    let last = Piece { first: self.first, finish_reason: Some(&finish_reason), ..Piece::default() };
                    let usage = self.shape.usage_piece(usage(prompt_tokens, output_tokens));
                    let objects = [Some(self.shape.piece(&last)), usage];
                    let events = objects.iter().flatten().map(sse::data).chain([sse::done()]);
                    return (events.collect(), None);
                }
                Ok(
                    OnlineEvent::Leased
                    | OnlineEvent::Progress
                    | OnlineEvent::Embedded { .. }
                    | OnlineEvent::Failed { .. },
                ) => {}
                Err(error) => return (vec![sse::data(&error.envelope())], None),
            }
        }
    }

    fn piece(&mut self, text: &str, logprob: Option<TokenLogprob>) -> Event {
        let logprobs = (self.logprobs == Logprobs::Told).then(|| logprob.into_iter().collect::<Vec<_>>());
        let piece = Piece {
            first: std::mem::take(&mut self.first),
            text: Some(text),
            logprobs: logprobs.as_deref(),
            offset: self.characters,
            ..Piece::default()
        };
        self.characters += text.chars().count();
        sse::data(&self.shape.piece(&piece))
    }
}
