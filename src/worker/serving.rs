//! Serving: an offer becomes a lease, a lease a stream, a stream an answer with a signed receipt.

use std::{sync::Arc, time::Duration};

use tokio::{sync::mpsc, time::timeout};
use tracing::{debug, info, warn};

use super::{
    advert::now_ms,
    claims::{Claim, Claims},
    embedding::{self, Embedded},
    engine::AnswerEngine,
    hooks::AnswerWith,
    leases::{HOLD, Leases, Slot, rejected},
    models::Models,
    relay::{Receiver, Sender, Stopped, admitted, relay, relay_vectors, send},
    request::{self, PromptText, Question},
};
use crate::{
    api::ids::GridPeerId,
    grid::InferServer,
    inference::{GenerateRequest, Tenant},
    protocol::{
        identity::NodeKey,
        internal::NodeRole,
        names::NetworkId,
        receipt::{self, Receipt, hash_tokens},
        wire::{
            Accept, Finished, InferCommand, Offer, OfferReply, Refused, Start, infer_command::Kind as Command,
            infer_event::Kind as Event, offer_reply,
        },
    },
    verify::sampler,
};

/// How long the gateway may take to countersign.
const ACK_WAIT: Duration = Duration::from_secs(10);
/// A gateway that cancels nothing says nothing: its silence is no fault. The sending side notices a dead one.
const COMMAND_WAIT: Duration = Duration::from_secs(24 * 3600);

/// What every stream needs.
#[derive(Clone)]
pub(super) struct Serving {
    pub models: Models,
    pub leases: Leases,
    pub claims: Claims,
    pub key: NodeKey,
    pub network: NetworkId,
    pub answer_with: Option<Arc<AnswerWith>>,
}

impl Serving {
    /// Accepts an offer if it can be served now.
    pub(super) fn offer(&self, gateway: &GridPeerId, offer: &Offer) -> OfferReply {
        let kind = self.accept(gateway, offer).map_or_else(offer_reply::Kind::Reject, offer_reply::Kind::Accept);
        OfferReply { kind: Some(kind) }
    }

    fn accept(&self, gateway: &GridPeerId, offer: &Offer) -> Result<Accept, Refused> {
        let terms = request::offer(gateway, offer)?;
        if !self.models.plays(NodeRole::Compute) {
            return Err(rejected("NotCompute", "this node does not serve inference", Duration::ZERO));
        }
        let ready = self.models.ready(&terms.model).ok_or_else(|| not_ready(&terms.model))?;
        if terms.max_tokens >= ready.served.context_length {
            let message = format!("the context holds {} tokens", ready.served.context_length);
            return Err(rejected("ContextExceeded", message, Duration::ZERO));
        }
        let lease_id: [u8; 16] = rand::random();
        self.leases.hold(lease_id, terms, std::time::Instant::now())?;
        let hold_ms = u64::try_from(HOLD.as_millis()).unwrap_or(u64::MAX);
        Ok(Accept { lease_id: lease_id.to_vec(), hold_ms, queued: ready.engine.queued() })
    }

    /// Takes streams, for ever. How many run is bounded by the slots, how many wait by the grid's limits.
    pub(super) async fn run(self, mut streams: mpsc::Receiver<(GridPeerId, InferServer)>) {
        while let Some((gateway, stream)) = streams.recv().await {
            let serving = self.clone();
            tokio::spawn(async move { serving.serve(gateway, stream).await });
        }
    }

    async fn serve(&self, gateway: GridPeerId, stream: InferServer) {
        let (mut sender, mut receiver) = stream.split();
        match self.answer(&gateway, &mut sender, &mut receiver).await {
            Ok((receipt, signature)) => self.keep_claim(&gateway, receipt, signature, &mut receiver).await,
            Err(Stopped::Refused(refused)) => {
                info!(%gateway, reason = refused.reason, message = refused.message, "refused a stream");
                // A broken stream cannot be told.
                let _ = send(&mut sender, Event::Error(refused)).await;
            }
            Err(Stopped::Abandoned(why)) => debug!(%gateway, why, "a stream ended early"),
        }
        let _ = sender.close().await;
    }

    /// From `Start` to a sent receipt.
    async fn answer(
        &self,
        gateway: &GridPeerId,
        sender: &mut Sender,
        receiver: &mut Receiver,
    ) -> Result<(Receipt, [u8; 65]), Stopped> {
        let Some(InferCommand { kind: Some(Command::Start(start)) }) = receiver.next().await? else {
            return Err(rejected("MalformedRequest", "the first frame must be Start", Duration::ZERO).into());
        };
        receiver.set_idle(COMMAND_WAIT);
        let (lease, shown) = (request::lease(&start)?, self.answer_with.is_some().then(|| start.clone()));
        let question = request::question(start)?;
        let slot = self.leases.start(&lease, &question.terms(gateway), std::time::Instant::now())?;
        let engine = self.engine(&question, shown.as_ref())?;
        if let PromptText::Embedding(texts) = &question.prompt {
            return self.embed(engine.as_ref(), &question, texts, slot, sender, receiver).await;
        }
        self.generate(engine.as_ref(), question, slot, sender, receiver).await
    }

    fn engine(&self, question: &Question, start: Option<&Start>) -> Result<Arc<dyn AnswerEngine>, Refused> {
        let ready = self.models.ready(&question.model).ok_or_else(|| not_ready(&question.model))?;
        Ok(match (&self.answer_with, start) {
            (Some(answer_with), Some(start)) => answer_with(start, ready.engine),
            _ => ready.engine,
        })
    }

    async fn generate(
        &self,
        engine: &dyn AnswerEngine,
        question: Question,
        slot: Slot,
        sender: &mut Sender,
        receiver: &mut Receiver,
    ) -> Result<(Receipt, [u8; 65]), Stopped> {
        let mut receipt = blank_receipt(&question);
        let prompt = prompt_tokens(engine, &question)?;
        receipt.promptHash = hash_tokens(&prompt).into();
        let request = GenerateRequest {
            prompt,
            prefix: question.prefix,
            max_tokens: question.max_tokens,
            sampling: question.sampling,
            seed: receipt.seed.0,
            stop: question.stop,
            top_logprobs: question.top_logprobs,
            tenant: question.prefix_group.map(|group| Tenant::of(&group)),
            ..GenerateRequest::default()
        };
        let events = admitted(engine, request, sender, receiver).await?;
        let answer = relay(engine, events, sender, receiver).await?;
        drop(slot);
        receipt.outputHash = hash_tokens(&answer.output).into();
        receipt.promptTokens = answer.prompt_tokens;
        receipt.outputTokens = u32::try_from(answer.output.len()).unwrap_or(u32::MAX);
        receipt.traceRoot = answer.trace_root.into();
        self.finish(receipt, answer.finish, sender).await
    }

    /// As `generate`, for vectors.
    async fn embed(
        &self,
        engine: &dyn AnswerEngine,
        question: &Question,
        texts: &[String],
        slot: Slot,
        sender: &mut Sender,
        receiver: &mut Receiver,
    ) -> Result<(Receipt, [u8; 65]), Stopped> {
        let mut receipt = blank_receipt(question);
        let (inputs, vectors) = embedding::start(engine, texts)?;
        let vectors = relay_vectors(vectors, inputs.count, sender, receiver).await?;
        drop(slot);
        let answer = Embedded::of(&inputs, &vectors);
        receipt.promptHash = answer.prompt_hash.into();
        receipt.outputHash = answer.output_hash.into();
        receipt.promptTokens = answer.prompt_tokens;
        receipt.traceRoot = answer.trace_root.into();
        self.finish(receipt, "stop", sender).await
    }

    /// Signs and sends the receipt.
    async fn finish(
        &self,
        mut receipt: Receipt,
        finish_reason: &'static str,
        sender: &mut Sender,
    ) -> Result<(Receipt, [u8; 65]), Stopped> {
        receipt.finishedAt = now_ms();
        let signature = receipt::sign(&receipt, &self.network, &self.key)
            .map_err(|error| rejected("SigningFailed", error.to_string(), Duration::ZERO))?;
        let finished = Finished { finish_reason: finish_reason.into(), receipt: Some(receipt.to_wire(&signature)) };
        send(sender, Event::Finished(finished)).await?;
        Ok((receipt, signature))
    }

    /// Waits for the countersignature and keeps both.
    async fn keep_claim(&self, gateway: &GridPeerId, receipt: Receipt, signature: [u8; 65], receiver: &mut Receiver) {
        let request = receipt.requestId;
        let command = timeout(ACK_WAIT, receiver.next()).await;
        let Ok(Ok(Some(InferCommand { kind: Some(Command::Ack(ack)) }))) = command else {
            warn!(%gateway, %request, "the gateway did not countersign a receipt");
            return;
        };
        let claim = Claim::new(&receipt, &signature, &ack, gateway, &self.network);
        let claims = self.claims.clone();
        let kept = match claim {
            Ok(claim) => tokio::task::spawn_blocking(move || claims.append(&claim).map_err(|error| error.to_string()))
                .await
                .unwrap_or_else(|panic| Err(panic.to_string())),
            Err(message) => Err(message),
        };
        if let Err(message) = kept {
            warn!(%gateway, %request, message, "a countersigned receipt was not kept");
        }
    }
}

/// A receipt that says what was asked and nothing yet about the answer.
fn blank_receipt(question: &Question) -> Receipt {
    Receipt {
        requestId: question.request.0.into(),
        attempt: question.attempt,
        model: question.model.0.into(),
        promptHash: Default::default(),
        outputHash: Default::default(),
        promptTokens: 0,
        outputTokens: 0,
        sampler: question.sampler_hash().into(),
        seed: seed(question).into(),
        traceRoot: Default::default(),
        startedAt: now_ms(),
        finishedAt: 0,
    }
}

pub(super) fn prompt_tokens(engine: &dyn AnswerEngine, question: &Question) -> Result<Vec<u32>, Refused> {
    let ids = match &question.prompt {
        PromptText::Chat { messages, template: None } => engine.render_chat(messages),
        PromptText::Chat { messages, template: Some(template) } => engine.render_chat_by(template, messages),
        PromptText::Completion(text) => engine.tokenize(text),
        PromptText::Embedding(_) => {
            return Err(rejected("MalformedRequest", "an embedding has no single prompt", Duration::ZERO));
        }
    };
    ids.map_err(|error| rejected("PromptRefused", error.to_string(), Duration::ZERO))
}

/// Nobody who runs the model chooses it.
pub(super) fn seed(question: &Question) -> [u8; 32] {
    sampler::seed(&question.request.0, &question.client_nonce, &question.beacon, &question.model.0)
}

fn not_ready(model: &crate::api::ids::ModelDigest) -> Refused {
    rejected("ModelNotReady", format!("model {model} cannot be served yet"), Duration::from_secs(2))
}
