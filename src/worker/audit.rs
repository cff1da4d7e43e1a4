//! Audits: re-computes another worker's answer in one pass and reports what it found. The gateway compares and decides.

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::{Semaphore, mpsc},
    time::{Instant, interval_at},
};
use tracing::debug;

use super::{
    embedding,
    engine::{AnswerEngine, engine_failed, not_replayed},
    leases::rejected,
    logprobs::told,
    models::Models,
    relay::HEARTBEAT,
    request::{self, PromptText, Question},
    serving::{prompt_tokens, seed},
};
use crate::{
    api::ids::GridPeerId,
    grid::{AuditServer, FrameError, FrameSender},
    inference::{ReplayRequest, TokenLogprobs},
    protocol::{
        internal::NodeRole,
        receipt::hash_tokens,
        wire::{AuditEvent, Heartbeat, Refused, Replay, audit_event::Kind},
    },
    verify,
};

/// Audits computed at once: one prefill fills the machine.
const AT_ONCE: usize = 1;

/// What every audit needs.
#[derive(Clone)]
pub(super) struct Auditing {
    models: Models,
    places: Arc<Semaphore>,
}

impl Auditing {
    pub(super) fn new(models: Models) -> Self {
        Auditing { models, places: Arc::new(Semaphore::new(AT_ONCE)) }
    }

    /// Takes streams, for ever. How many wait is bounded by the grid's limits.
    pub(super) async fn run(self, mut streams: mpsc::Receiver<(GridPeerId, AuditServer)>) {
        while let Some((gateway, stream)) = streams.recv().await {
            let auditing = self.clone();
            tokio::spawn(async move {
                if let Err(error) = auditing.serve(stream).await {
                    debug!(%gateway, %error, "an audit stream broke");
                }
            });
        }
    }

    async fn serve(&self, stream: AuditServer) -> Result<(), FrameError> {
        let (mut sender, mut receiver) = stream.split();
        let Some(request) = receiver.next().await? else { return Ok(()) };
        let outcome = match request.start.map(request::question) {
            Some(Ok(question)) => self.replay(question, request.output, &mut sender).await?,
            Some(Err(refused)) => Err(refused),
            None => Err(rejected("MalformedRequest", "there is nothing to audit", Duration::ZERO)),
        };
        let kind = outcome.map_or_else(Kind::Error, Kind::Replay);
        sender.send(&AuditEvent { kind: Some(kind) }).await?;
        sender.close().await
    }

    /// Sends heartbeats while it waits for its turn and computes.
    async fn replay(
        &self,
        question: Question,
        output: Vec<u32>,
        sender: &mut FrameSender<AuditEvent>,
    ) -> Result<Result<Replay, Refused>, FrameError> {
        let tokens = u32::try_from(output.len()).unwrap_or(u32::MAX);
        let work = self.compute(question, output);
        tokio::pin!(work);
        let mut heartbeat = interval_at(Instant::now() + HEARTBEAT, HEARTBEAT);
        loop {
            tokio::select! {
                outcome = &mut work => return Ok(outcome),
                _ = heartbeat.tick() => {
                    sender.send(&AuditEvent { kind: Some(Kind::Heartbeat(Heartbeat { tokens })) }).await?;
                }
            }
        }
    }

    async fn compute(&self, question: Question, output: Vec<u32>) -> Result<Replay, Refused> {
        if !self.models.plays(NodeRole::Verify) {
            return Err(rejected("NotVerify", "this node does not audit", Duration::ZERO));
        }
        let ready = self.models.ready(&question.model);
        let ready = ready.ok_or_else(|| {
            rejected("ModelNotReady", format!("model {} is not ready here", question.model), Duration::from_secs(2))
        })?;
        let _place = self.places.acquire().await.map_err(|error| engine_failed(error.to_string()))?;
        let (seed, sampler) = (seed(&question), question.sampler_hash());
        if let PromptText::Embedding(texts) = &question.prompt {
            let again = embedding::embed(ready.engine.as_ref(), texts).await?;
            return Ok(Replay {
                prompt_hash: again.prompt_hash.to_vec(),
                prompt_tokens: again.prompt_tokens,
                trace_root: again.trace_root.to_vec(),
                kernel_profile: ready.served.kernel_profile,
                sampler: sampler.to_vec(),
                seed: seed.to_vec(),
                ..Replay::default()
            });
        }
        let prompt = prompt_tokens(ready.engine.as_ref(), &question)?;
        let (prompt_hash, prompt_tokens) = (hash_tokens(&prompt), u32::try_from(prompt.len()).unwrap_or(u32::MAX));
        let (tokens, top_logprobs) = (output.clone(), question.top_logprobs);
        let request = ReplayRequest { prompt, output, sampling: question.sampling, seed, top_logprobs };
        let found = ready.engine.replay(request).await.map_err(|error| not_replayed(&error))?;
        Ok(Replay {
            prompt_hash: prompt_hash.to_vec(),
            prompt_tokens,
            trace_root: found.trace_root.to_vec(),
            first_mismatch: found.first_mismatch.map_or(0, |index| index.saturating_add(1)),
            max_margin: found.max_margin,
            mean_margin: found.mean_margin,
            kernel_profile: ready.served.kernel_profile,
            sampler: sampler.to_vec(),
            seed: seed.to_vec(),
            logprobs_hash: match top_logprobs {
                // Of what the client had from another worker this one told nothing.
                Some(_) => told_hash(ready.engine.as_ref(), &tokens, &found.logprobs, question.prefix.len()),
                None => Vec::new(),
            },
        })
    }
}

/// What an honest worker told of the tokens from `first` on.
fn told_hash(engine: &dyn AnswerEngine, output: &[u32], found: &[TokenLogprobs], first: usize) -> Vec<u8> {
    let own = output.iter().zip(found).skip(first);
    let told: Vec<_> = own.map(|(id, logprobs)| told(engine, *id, logprobs)).collect();
    verify::told::hash(&told).to_vec()
}
