//! One request at one worker: offer, lease, stream, receipt. Whatever happens, the request is afterwards done, failed or back
//! in the queue.

use std::{
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use tokio::{sync::watch, time::timeout};

use super::{
    Gateway, Link, WorkerError,
    backlogs::estimated_tokens,
    flights::{Flight, Stop},
    online::OnlineEvent,
    reasons::{FORM_REFUSED, cause, is_about_the_request, known_reason},
    receipts::{Answer, Violation},
    start::{prompt_bytes, start},
};
use crate::{
    protocol::{
        internal::Endpoint,
        logprobs,
        vector::Vector,
        wire::{
            self, Cancel, Finished, InferCommand, InferEvent, Offer, Refused, Token, infer_command, infer_event,
            offer_reply,
        },
    },
    schedule::Class,
    store::{After, Ending, LedgerError, QueueChange, RequestKind, Requeued, Work},
};

/// Longest time that a worker may ask to be left alone.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// Pause after a refusal that named none, and after an offer that did not get through.
const SHORT_PAUSE: Duration = Duration::from_millis(500);
/// Text of one token.
const MAX_TOKEN_TEXT: usize = 4096;

/// How a worker lost a request.
#[derive(Debug)]
pub(super) struct Lost {
    reason: String,
    message: String,
    then: After,
    /// The worker is not to blame and may get it again.
    blameless: bool,
}

impl Lost {
    fn cancelled() -> Self {
        let (reason, message) = ("Cancelled".to_owned(), "nobody wants the answer any more".to_owned());
        Lost { reason, message, then: After::Fail, blameless: true }
    }

    fn excluded() -> Self {
        let (reason, message) = ("WorkerExcluded".to_owned(), "the worker may no longer serve".to_owned());
        Lost { reason, message, then: After::Free, blameless: false }
    }

    pub(super) fn invalid_receipt(violation: &Violation) -> Self {
        let reason = "InvalidReceipt".to_owned();
        Lost { reason, message: violation.to_string(), then: After::CountTry, blameless: false }
    }

    /// The gateway itself is in trouble: neither the worker nor the request is to blame.
    pub(super) fn ours(error: impl std::fmt::Display) -> Self {
        tracing::error!("a receipt could not be logged: {error}");
        let (reason, message) = ("GatewayFailed".to_owned(), "the gateway could not log the receipt".to_owned());
        Lost { reason, message, then: After::Free, blameless: true }
    }

    fn violation(message: impl Into<String>) -> Self {
        WorkerError::Malformed(message.into()).into()
    }
}

impl From<WorkerError> for Lost {
    fn from(error: WorkerError) -> Self {
        Lost {
            reason: error.reason().to_owned(),
            message: error.to_string().chars().take(300).collect(),
            then: After::CountTry,
            blameless: false,
        }
    }
}

impl Gateway {
    /// Takes one claimed request through.
    pub(super) async fn fly(self: Arc<Self>, flight: Flight, queued_ms: u64) {
        let tokens = match self.try_fly(&flight, queued_ms).await {
            Ok(tokens) => tokens,
            Err(error) => {
                self.ledger_failed("taking a request through", &error);
                // The ledger is in trouble: do not spin.
                tokio::time::sleep(SHORT_PAUSE).await;
                0
            }
        };
        self.flights.release(&flight.request);
        self.backlogs.lock().queue.finished(&flight.request, tokens);
        // Until now it was left alone, whatever the ledger said.
        self.ledger.look_again([QueueChange::Request(flight.request)]);
        self.request_is_over(&flight.request).await;
        self.dispatch.notify_one();
    }

    /// The tokens that its owner got for it.
    async fn try_fly(self: &Arc<Self>, flight: &Flight, queued_ms: u64) -> Result<u64, LedgerError> {
        let Some(work) = self.ledger.work(&flight.request).await? else {
            let message = "the text of the request was deleted";
            self.ledger.fail_queued_request(&flight.request, "Deleted", message, self.clock.now_ms()).await?;
            return Ok(0);
        };
        // It was closed between the plan and the claim, and its operator may have heard that nothing runs there.
        if work.kind != RequestKind::Canary && self.is_closed(&flight.peer) {
            return Ok(0);
        }
        let Some(lease_id) = self.offer(flight, &work).await? else { return Ok(0) };
        let now_ms = self.clock.now_ms();
        match self.ledger.lease(&flight.request, flight.attempt, &flight.peer, now_ms).await {
            // Cancelled or answered in between; the worker's hold runs out by itself.
            Err(LedgerError::Stale { .. }) => return Ok(0),
            other => other?,
        }
        if let Some(class) = class(work.kind) {
            let waited = now_ms.saturating_sub(queued_ms) as f64 / 1000.0;
            self.metrics.queue_wait.with_label_values(&[class.as_str()]).observe(waited);
        }
        self.metrics.leases.inc();
        let outcome = self.stream(flight, &work, lease_id).await;
        self.metrics.leases.dec();
        match outcome {
            Ok(()) => Ok(estimated_tokens(prompt_bytes(&work)) + u64::from(flight.made.load(Ordering::Relaxed))),
            Err(lost) => {
                self.lose(flight, lost).await?;
                Ok(0)
            }
        }
    }

    /// Offers the request; the lease id when it was accepted.
    async fn offer(&self, flight: &Flight, work: &Work) -> Result<Option<Vec<u8>>, LedgerError> {
        let Some(workers) = self.workers() else { return Ok(None) };
        let offer = Offer {
            request_id: flight.request.0.to_vec(),
            attempt: flight.attempt,
            model: work.model.0.to_vec(),
            prompt_bytes: prompt_bytes(work),
            max_tokens: work.line.max_tokens,
        };
        let sent = Instant::now();
        let refused = match workers.offer(&flight.peer, offer).await {
            Ok(reply) => match reply.kind {
                Some(offer_reply::Kind::Accept(accept)) if accept.lease_id.len() == 16 => {
                    self.metrics.dispatch.observe(sent.elapsed().as_secs_f64());
                    self.metrics.offers.with_label_values(&["accepted", ""]).inc();
                    return Ok(Some(accept.lease_id));
                }
                Some(offer_reply::Kind::Reject(refused)) => refused,
                _ => refusal("ProtocolViolation", "the answer to the offer cannot be read"),
            },
            Err(WorkerError::Refused(refused)) => refused,
            Err(error) => {
                self.metrics.offers.with_label_values(&["failed", error.reason()]).inc();
                self.pause(flight, SHORT_PAUSE);
                return Ok(None);
            }
        };
        self.refused(flight, &refused).await?;
        Ok(None)
    }

    /// A worker may refuse without penalty. For a reason that lies in the request it will always refuse: then the request
    /// fails, since every worker has the same rules.
    async fn refused(&self, flight: &Flight, refused: &Refused) -> Result<(), LedgerError> {
        let reason = known_reason(&refused.reason);
        self.metrics.offers.with_label_values(&["rejected", reason]).inc();
        if is_about_the_request(reason) {
            let message: String = refused.message.chars().take(300).collect();
            return self.ledger.fail_queued_request(&flight.request, reason, &message, self.clock.now_ms()).await;
        }
        let asked = Duration::from_millis(refused.retry_after_ms);
        self.pause(flight, if asked.is_zero() { SHORT_PAUSE * 4 } else { asked.min(LONGEST_PAUSE) });
        Ok(())
    }

    fn pause(&self, flight: &Flight, pause: Duration) {
        let pause_ms = u64::try_from(pause.as_millis()).unwrap_or(u64::MAX);
        self.peers.pause(&flight.peer, self.clock.now_ms().saturating_add(pause_ms));
    }

    async fn stream(self: &Arc<Self>, flight: &Flight, work: &Work, lease_id: Vec<u8>) -> Result<(), Lost> {
        let workers = self.workers().ok_or(WorkerError::NotConnected)?;
        let mut link = workers.infer(&flight.peer).await?;
        // A client that was already told part of the answer gets the rest of the same answer.
        let delivered = self.online.delivered(&flight.request);
        let start = start(work, flight.attempt, lease_id, delivered.ids.clone());
        link.sink.send(&command(infer_command::Kind::Start(start))).await?;
        if !self.online.tell(&flight.request, OnlineEvent::Leased).await {
            return Err(Lost::cancelled());
        }
        let prefix = delivered.ids.len();
        let mut answer = Answer { prefix, output: delivered.ids, text: delivered.text, ..Answer::default() };
        let finished = self.receive(flight, work, &mut link, &mut answer).await;
        let finished = match finished {
            Err(lost) => {
                // It should not go on working for nothing; if it cannot be told, it notices the reset.
                let _ = link.sink.send(&command(infer_command::Kind::Cancel(Cancel {}))).await;
                let _ = link.sink.close().await;
                return Err(lost);
            }
            Ok(finished) => finished,
        };
        let ack = self.take_receipt(flight, work, &answer, &finished).await?;
        let _ = link.sink.send(&command(infer_command::Kind::Ack(ack))).await;
        let _ = link.sink.close().await;
        Ok(())
    }

    /// Reads the stream up to `Finished`.
    async fn receive(
        &self,
        flight: &Flight,
        work: &Work,
        link: &mut Link<InferCommand, InferEvent>,
        answer: &mut Answer,
    ) -> Result<Finished, Lost> {
        let mut stop = flight.stop.subscribe();
        let leased = Instant::now();
        let mut last_token = leased;
        loop {
            let event = tokio::select! {
                why = stopped(&mut stop) => return Err(match why {
                    Stop::Cancelled => Lost::cancelled(),
                    Stop::WorkerExcluded => Lost::excluded(),
                }),
                event = timeout(self.settings.heartbeat_limit, link.source.next()) => event,
            };
            let event = event.map_err(|_| WorkerError::Silent)??;
            let closed = || WorkerError::Broken("the worker closed the stream before its receipt".into());
            match event.ok_or_else(closed)?.kind {
                Some(infer_event::Kind::Token(token)) => {
                    if answer.output.len() == answer.prefix {
                        self.metrics.first_token.observe(leased.elapsed().as_secs_f64());
                    }
                    last_token = Instant::now();
                    self.take_token(flight, work, answer, token).await?;
                }
                Some(infer_event::Kind::Vector(vector)) => {
                    last_token = Instant::now();
                    take_vector(work, answer, &vector)?;
                    if !self.online.tell(&flight.request, OnlineEvent::Progress).await {
                        return Err(Lost::cancelled());
                    }
                }
                Some(infer_event::Kind::Finished(finished)) => return Ok(finished),
                Some(infer_event::Kind::Error(refused)) => return Err(failed(refused, answer)),
                // Heartbeats, and events of a newer protocol, show that it lives.
                Some(infer_event::Kind::Heartbeat(_)) | None => {}
            }
            if last_token.elapsed() > self.settings.stall {
                return Err(Lost {
                    reason: "Stalled".into(),
                    message: format!("no token for {} s", self.settings.stall.as_secs()),
                    then: After::CountTry,
                    blameless: false,
                });
            }
        }
    }

    async fn take_token(&self, flight: &Flight, work: &Work, answer: &mut Answer, token: Token) -> Result<(), Lost> {
        let index = answer.output.len();
        if work.endpoint == Endpoint::Embeddings {
            return Err(Lost::violation("a token came where a vector was due"));
        }
        if token.index as usize != index || index >= work.line.max_tokens as usize {
            return Err(Lost::violation(format!("token {} came where {index} was due", token.index)));
        }
        if token.text.len() > MAX_TOKEN_TEXT {
            return Err(Lost::violation("the text of one token is longer than any token's"));
        }
        logprobs::check(token.logprobs.as_ref(), work.line.top_logprobs).map_err(Lost::violation)?;
        let shown = token.logprobs.as_ref().and_then(logprobs::shown);
        answer.logprobs.tokens.extend(token.logprobs);
        answer.output.push(token.id);
        answer.text.push_str(&token.text);
        flight.made.fetch_add(1, Ordering::Relaxed);
        if !self.online.deliver(&flight.request, token.id, token.text, shown).await {
            return Err(Lost::cancelled());
        }
        Ok(())
    }

    async fn lose(&self, flight: &Flight, lost: Lost) -> Result<(), LedgerError> {
        self.metrics.redispatches.with_label_values(&[cause(&lost.reason)]).inc();
        tracing::info!(request = %flight.request, peer = %flight.peer, attempt = flight.attempt, reason = lost.reason,
                       "lease lost: {}", lost.message);
        let ending = Ending {
            reason: lost.reason,
            message: lost.message,
            then: lost.then,
            avoid: (!lost.blameless).then(|| flight.peer.clone()),
            exclude: false,
        };
        match self.ledger.end_lease(&flight.request, flight.attempt, &ending, self.clock.now_ms()).await {
            Ok(Requeued::Queued | Requeued::Failed) | Err(LedgerError::Stale { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }
}

/// Vectors come in the order of the inputs, all of the same length.
fn take_vector(work: &Work, answer: &mut Answer, wire: &wire::Vector) -> Result<(), Lost> {
    let index = answer.vectors.len();
    if wire.index as usize != index || index >= work.line.inputs.len() {
        return Err(Lost::violation(format!("vector {} came where {index} was due", wire.index)));
    }
    let vector = Vector::from_bytes(&wire.values).ok_or_else(|| Lost::violation("a vector cannot be read"))?;
    if answer.vectors.first().is_some_and(|first| first.dimensions() != vector.dimensions()) {
        return Err(Lost::violation("two vectors have different lengths"));
    }
    answer.vectors.push(vector);
    Ok(())
}

/// Canaries are the gateway's own and belong to none.
fn class(kind: RequestKind) -> Option<Class> {
    match kind {
        RequestKind::Online => Some(Class::Interactive),
        RequestKind::Job => Some(Class::Batch),
        RequestKind::Canary => None,
    }
}

/// What a worker reports as its failure.
fn failed(refused: Refused, answer: &Answer) -> Lost {
    let reason = known_reason(&refused.reason);
    // It lies in the request and nothing was said yet, or no text in its form can follow on what was: nobody else would do better.
    let begun = !answer.output.is_empty() || !answer.vectors.is_empty();
    let hopeless = is_about_the_request(reason) && (reason == FORM_REFUSED || !begun);
    Lost {
        reason: if hopeless { reason.to_owned() } else { "WorkerFailed".to_owned() },
        message: refused.message.chars().take(300).collect(),
        then: if hopeless { After::Fail } else { After::CountTry },
        blameless: hopeless,
    }
}

async fn stopped(stop: &mut watch::Receiver<Option<Stop>>) -> Stop {
    match stop.wait_for(Option::is_some).await.map(|why| *why) {
        Ok(Some(why)) => why,
        // The flight holds the sender as long as this runs.
        _ => std::future::pending().await,
    }
}

fn command(kind: infer_command::Kind) -> InferCommand {
    InferCommand { kind: Some(kind) }
}

fn refusal(reason: &str, message: &str) -> Refused {
    Refused { reason: reason.into(), message: message.into(), retry_after_ms: 0 }
}
