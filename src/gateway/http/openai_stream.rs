//! Answers of the OpenAI API: whole, or as server-sent events.

use std::collections::BTreeMap;

use axum::response::Response;
use futures::{
    StreamExt,
    future::try_join_all,
    stream::{BoxStream, SelectAll},
};
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

/// All answers as one object.
pub(super) async fn collect(waiting: Vec<Waiting>, shape: Shape, logprobs: Logprobs) -> Result<Value, OpenAiError> {
    // All at once: a worker whose answer nobody reads is slowed down. A failure drops the others, which cancels them.
    let answers = (0..).zip(waiting).map(|(index, waiting)| whole(waiting, index, logprobs));
    let answers = try_join_all(answers).await?;
    let usage = answers.iter().fold(Usage::default(), |sum, (_, usage)| added(sum, *usage));
    let choices: Vec<Choice> = answers.into_iter().map(|(choice, _)| choice).collect();
    Ok(shape.whole(&choices, usage))
}

async fn whole(mut waiting: Waiting, index: u32, logprobs: Logprobs) -> Result<(Choice, Usage), OpenAiError> {
    let mut choice = Choice { index, logprobs: logprobs.list(), ..Choice::default() };
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
                return Ok((choice, usage(prompt_tokens, output_tokens)));
            }
            OnlineEvent::Leased | OnlineEvent::Progress | OnlineEvent::Embedded { .. } | OnlineEvent::Failed { .. } => {
            }
        }
    }
}

/// The answers share their prompt.
fn added(sum: Usage, one: Usage) -> Usage {
    usage(sum.prompt_tokens.max(one.prompt_tokens), sum.completion_tokens.saturating_add(one.completion_tokens))
}

/// The answers as they are made. A failure after the first byte can only be an event of its own.
pub(super) fn stream(waiting: Vec<Waiting>, shape: Shape, logprobs: Logprobs) -> Response {
    let heard = (0..).zip(waiting).map(|(index, waiting)| heard(index, waiting)).collect();
    let state = Some(Streaming { heard, shape, logprobs, told: BTreeMap::new(), usage: Usage::default() });
    sse::respond(futures::stream::unfold(state, |state| async move {
        let (events, state) = state?.step().await;
        Some((events, state))
    }))
}

type Heard = (u32, Result<OnlineEvent, OpenAiError>);

/// What happens to one of the answers, up to its end.
fn heard(index: u32, waiting: Waiting) -> BoxStream<'static, Heard> {
    let events = futures::stream::unfold(Some(waiting), move |waiting| async move {
        let mut waiting = waiting?;
        let event = waiting.next().await;
        let is_last = matches!(event, Err(_) | Ok(OnlineEvent::Finished { .. }));
        Some(((index, event), (!is_last).then_some(waiting)))
    });
    events.boxed()
}

struct Streaming {
    heard: SelectAll<BoxStream<'static, Heard>>,
    shape: Shape,
    logprobs: Logprobs,
    /// By the number of the answer.
    told: BTreeMap<u32, Told>,
    usage: Usage,
}

/// What a client knows of one answer.
#[derive(Debug, Clone, Copy, Default)]
struct Told {
    begun: bool,
    characters: usize,
}

impl Streaming {
    /// The next events, and the state to go on with; none after the end.
    async fn step(mut self) -> (Vec<Event>, Option<Self>) {
        loop {
            match self.heard.next().await {
                Some((index, Ok(OnlineEvent::Token { text, logprob }))) => {
                    let event = self.piece(index, &text, logprob);
                    return (vec![event], Some(self));
                }
                Some((index, Ok(OnlineEvent::Finished { finish_reason, prompt_tokens, output_tokens }))) => {
                    self.usage = added(self.usage, usage(prompt_tokens, output_tokens));
                    let first = !self.told.entry(index).or_default().begun;
                    let last = Piece { index, first, finish_reason: Some(&finish_reason), ..Piece::default() };
                    let event = sse::data(&self.shape.piece(&last));
                    return (vec![event], Some(self));
                }
                Some((_, Ok(_))) => {}
                Some((_, Err(error))) => return (vec![sse::data(&error.envelope())], None),
                None => {
                    let usage = self.shape.usage_piece(self.usage);
                    return (usage.iter().map(sse::data).chain([sse::done()]).collect(), None);
                }
            }
        }
    }

    fn piece(&mut self, index: u32, text: &str, logprob: Option<TokenLogprob>) -> Event {
        let logprobs = (self.logprobs == Logprobs::Told).then(|| logprob.into_iter().collect::<Vec<_>>());
        let told = self.told.entry(index).or_default();
        let piece = Piece {
            index,
            first: !std::mem::replace(&mut told.begun, true),
            text: Some(text),
            logprobs: logprobs.as_deref(),
            offset: told.characters,
            ..Piece::default()
        };
        told.characters += text.chars().count();
        sse::data(&self.shape.piece(&piece))
    }
}
