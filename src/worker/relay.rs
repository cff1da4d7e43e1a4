//! What goes over the stream of an answer until its receipt: tokens or vectors, and signs of life while there are none.

use std::time::Duration;

use tokio::{
    sync::mpsc,
    time::{Instant, Interval, MissedTickBehavior, interval_at},
};
use tracing::debug;

use super::{
    embedding,
    engine::{AnswerEngine, engine_failed, form_refused, not_admitted},
    leases::rejected,
    logprobs::told,
};
use crate::{
    grid::{FrameError, FrameReceiver, FrameSender},
    inference::{FinishReason, GenerateEvent, GenerateRequest, Vectors},
    protocol::{
        vector::Vector,
        wire::{
            self, Heartbeat, InferCommand, InferEvent, Refused, Token, infer_command::Kind as Command,
            infer_event::Kind as Event,
        },
    },
};

/// A sign of life at least this often.
pub(super) const HEARTBEAT: Duration = Duration::from_secs(1);

/// The two halves of a stream.
pub(super) type Sender = FrameSender<InferEvent>;
pub(super) type Receiver = FrameReceiver<InferCommand>;

/// Why a stream ended without a receipt.
pub(super) enum Stopped {
    /// To be told to the gateway.
    Refused(Refused),
    /// It cancelled, or is gone.
    Abandoned(&'static str),
}

impl From<Refused> for Stopped {
    fn from(refused: Refused) -> Self {
        Stopped::Refused(refused)
    }
}

impl From<FrameError> for Stopped {
    fn from(error: FrameError) -> Self {
        debug!(%error, "an infer stream broke");
        Stopped::Abandoned("broken")
    }
}

/// An answer as the engine finished it.
pub(super) struct Answer {
    pub finish: &'static str,
    pub prompt_tokens: u32,
    pub output: Vec<u32>,
    pub trace_root: [u8; 32],
}

/// Waits until the engine has taken a request: the form that the text must have may be long in compiling.
pub(super) async fn admitted(
    engine: &dyn AnswerEngine,
    request: GenerateRequest,
    sender: &mut Sender,
    receiver: &mut Receiver,
) -> Result<mpsc::Receiver<GenerateEvent>, Stopped> {
    let mut heartbeat = heartbeats();
    let mut events = engine.generate(request);
    loop {
        tokio::select! {
            biased;
            command = receiver.next() => return Err(interrupted(command?)),
            events = &mut events => return events.map_err(|error| not_admitted(&error).into()),
            _ = heartbeat.tick() => send(sender, Event::Heartbeat(Heartbeat { tokens: 0 })).await?,
        }
    }
}

/// Passes tokens on as they come, with heartbeats between them, and listens for `Cancel`.
pub(super) async fn relay(
    engine: &dyn AnswerEngine,
    mut events: mpsc::Receiver<GenerateEvent>,
    sender: &mut Sender,
    receiver: &mut Receiver,
) -> Result<Answer, Stopped> {
    let mut heartbeat = heartbeats();
    let mut tokens = 0;
    loop {
        tokio::select! {
            biased;
            // Returning drops the events, which stops the engine.
            command = receiver.next() => return Err(interrupted(command?)),
            event = events.recv() => match event {
                Some(GenerateEvent::Token { index, id, text, logprobs }) => {
                    tokens = index + 1;
                    let logprobs = logprobs.map(|logprobs| told(engine, id, &logprobs));
                    send(sender, Event::Token(Token { index, id, text, logprobs })).await?;
                    heartbeat.reset();
                }
                Some(GenerateEvent::Done { finish, prompt_tokens, output_ids, trace_root, .. }) => {
                    let finish = match finish {
                        FinishReason::Stop => "stop",
                        FinishReason::Length => "length",
                        FinishReason::Cancelled => return Err(Stopped::Abandoned("cancelled")),
                    };
                    return Ok(Answer { finish, prompt_tokens, output: output_ids, trace_root });
                }
                Some(GenerateEvent::Failed(message)) => return Err(engine_failed(message).into()),
                Some(GenerateEvent::Refused(error)) => return Err(form_refused(&error).into()),
                Some(GenerateEvent::DeadlineExceeded) => return Err(engine_failed("the answer took too long").into()),
                None => return Err(engine_failed("the engine ended without an answer").into()),
            },
            _ = heartbeat.tick() => send(sender, Event::Heartbeat(Heartbeat { tokens })).await?,
        }
    }
}

/// Passes vectors on as they come; as [`relay`].
pub(super) async fn relay_vectors(
    mut coming: Vectors,
    count: usize,
    sender: &mut Sender,
    receiver: &mut Receiver,
) -> Result<Vec<Vector>, Stopped> {
    let mut heartbeat = heartbeats();
    let mut vectors: Vec<Vector> = Vec::with_capacity(count);
    while vectors.len() < count {
        tokio::select! {
            biased;
            command = receiver.next() => return Err(interrupted(command?)),
            vector = embedding::next(&mut coming) => {
                let vector = vector?;
                let index = u32::try_from(vectors.len()).unwrap_or(u32::MAX);
                send(sender, Event::Vector(wire::Vector { index, values: vector.to_bytes() })).await?;
                vectors.push(vector);
                heartbeat.reset();
            }
            _ = heartbeat.tick() => {
                let tokens = u32::try_from(vectors.len()).unwrap_or(u32::MAX);
                send(sender, Event::Heartbeat(Heartbeat { tokens })).await?;
            }
        }
    }
    Ok(vectors)
}

fn heartbeats() -> Interval {
    let mut heartbeat = interval_at(Instant::now() + HEARTBEAT, HEARTBEAT);
    heartbeat.set_missed_tick_behavior(MissedTickBehavior::Delay);
    heartbeat
}

/// Why the gateway spoke while an answer was made.
fn interrupted(command: Option<InferCommand>) -> Stopped {
    match command {
        Some(InferCommand { kind: Some(Command::Cancel(_)) }) => {
            rejected("Cancelled", "cancelled by the gateway", Duration::ZERO).into()
        }
        _ => Stopped::Abandoned("closed by the gateway"),
    }
}

pub(super) async fn send(sender: &mut Sender, kind: Event) -> Result<(), FrameError> {
    sender.send(&InferEvent { kind: Some(kind) }).await
}
