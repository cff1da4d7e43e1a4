//! Receipts: what is checked before the gateway countersigns, and what it then writes down.

use std::sync::Arc;

use alloy::primitives::B256;
use prost::Message;

use super::{Gateway, WorkerError, flights::Flight, lease, online::OnlineEvent, start};
use crate::{
    api::ids::NodeAddress,
    protocol::{
        internal::{Endpoint, NodeMode},
        names::NetworkId,
        receipt::{Acceptance, Receipt, hash_tokens, hash_vectors, sign, signer_of},
        vector::Vector,
        wire::{self, Ack, AnswerLogprobs, Finished},
    },
    store::{AuditOrder, LedgerError, LoggedReceipt, RequestKind, Standing, Work},
    verify::{audit, embedding, sampler},
};

/// Tokens that a chat template adds per message and once, at most.
const TEMPLATE_TOKENS: u32 = 64;

/// An answer as the gateway itself saw it stream by.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Answer {
    /// How many of the tokens the client had from an earlier worker.
    pub prefix: usize,
    /// Token ids, those of an earlier worker first.
    pub output: Vec<u32>,
    /// Text of all of them.
    pub text: String,
    /// Of an embedding: a vector an input, and no tokens.
    pub vectors: Vec<Vector>,
    /// Of each token after the prefix, where the request asked for them.
    pub logprobs: AnswerLogprobs,
}

impl Answer {
    /// Tokens, or the bits of all vectors one after the other: what the ledger keeps as the answer's output.
    fn output(&self) -> Vec<u32> {
        if self.vectors.is_empty() {
            return self.output.clone();
        }
        self.vectors.iter().flat_map(|vector| vector.values().iter().map(|value| value.to_bits())).collect()
    }
}

/// What is wrong with a receipt.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the receipt {0}")]
pub struct Violation(pub String);

/// What a receipt must say.
#[derive(Debug, Clone, PartialEq)]
pub struct Expected<'a> {
    pub network: &'a NetworkId,
    pub signer: NodeAddress,
    pub work: &'a Work,
    pub attempt: u32,
    pub answer: &'a Answer,
}

/// Checks everything about a receipt that needs no model: who signed it, and that it speaks of this request and of the
/// tokens that were streamed. Prompt hash, prompt tokens and trace can only be judged by an audit.
pub fn check(finished: &Finished, expected: &Expected<'_>) -> Result<Receipt, Violation> {
    let violation = |what: &str| Violation(what.to_owned());
    let wire = finished.receipt.as_ref().ok_or_else(|| violation("is missing"))?;
    let receipt = Receipt::from_wire(wire).ok_or_else(|| violation("has a field of the wrong length"))?;
    let (work, answer) = (expected.work, expected.answer);
    let tokens = u32::try_from(answer.output.len()).unwrap_or(u32::MAX);
    let seed = sampler::seed(&work.request.0, &start::client_nonce(work.line.seed), &work.beacon, &work.model.0);
    let templates = u32::try_from(work.line.messages.len() + work.line.inputs.len() + 1).unwrap_or(u32::MAX);
    let most_prompt_tokens = start::prompt_bytes(work).saturating_add(TEMPLATE_TOKENS.saturating_mul(templates));
    let checks = [
        (receipt.requestId.0 == work.request.0, "is for another request"),
        (receipt.attempt == expected.attempt, "is for another attempt"),
        (receipt.model.0 == work.model.0, "names another model"),
        (receipt.outputTokens == tokens, "counts other tokens than were streamed"),
        (receipt.outputHash.0 == output_hash(work, answer), "hashes another output than was streamed"),
        (traces_its_vectors(&receipt, work, answer), "has another trace than the vectors that were streamed"),
        (answer.vectors.len() == work.line.inputs.len(), "comes with another number of vectors than were asked for"),
        (receipt.promptTokens > 0, "counts no prompt token"),
        (receipt.promptTokens <= most_prompt_tokens, "counts more prompt tokens than the prompt has bytes"),
        (Some(receipt.sampler.0) == sampler_hash(work), "names other sampling parameters than were asked for"),
        (receipt.seed.0 == seed, "names another seed than the request implies"),
        (finishes_rightly(finished, work, answer), "ends for a reason that does not fit the answer"),
        (
            signer_of(&receipt, expected.network, &wire.signature) == Some(expected.signer),
            "is not signed by the worker that answered",
        ),
    ];
    match checks.into_iter().find(|(holds, _)| !holds) {
        Some((_, what)) => Err(violation(what)),
        None => Ok(receipt),
    }
}

fn output_hash(work: &Work, answer: &Answer) -> [u8; 32] {
    match work.endpoint {
        Endpoint::Embeddings => hash_vectors(&answer.vectors),
        Endpoint::ChatCompletions | Endpoint::Completions => hash_tokens(&answer.output),
    }
}

/// The trace of an embedding is over what everybody can see; that of an answer in tokens only an audit can judge.
fn traces_its_vectors(receipt: &Receipt, work: &Work, answer: &Answer) -> bool {
    work.endpoint != Endpoint::Embeddings || receipt.traceRoot.0 == embedding::root(&answer.vectors)
}

/// `None` for parameters out of range, which no worker takes.
fn sampler_hash(work: &Work) -> Option<[u8; 32]> {
    let params = sampler::SamplerParams::try_from(&work.line.sampling()).ok()?;
    Some(sampler::asked_hash(&params, work.line.top_logprobs))
}

/// `length` means the limit was reached; anything that stops before is `stop`.
fn finishes_rightly(finished: &Finished, work: &Work, answer: &Answer) -> bool {
    let full = work.endpoint != Endpoint::Embeddings && answer.output.len() >= work.line.max_tokens as usize;
    match finished.finish_reason.as_str() {
        "length" => full,
        "stop" => true,
        _ => false,
    }
}

impl Gateway {
    /// Checks, countersigns and logs a receipt; the acknowledgement for the worker.
    pub(super) async fn take_receipt(
        self: &Arc<Self>,
        flight: &Flight,
        work: &Work,
        answer: &Answer,
        finished: &Finished,
    ) -> Result<Ack, lease::Lost> {
        let network = self.network_config().ok_or(WorkerError::NotConnected)?;
        let member = self.members.get(&flight.peer).ok_or(WorkerError::NotConnected)?;
        let expected =
            Expected { network: &network.network, signer: member.address, work, attempt: flight.attempt, answer };
        let receipt = check(finished, &expected).map_err(|violation| {
            self.metrics.receipts.with_label_values(&["invalid"]).inc();
            lease::Lost::invalid_receipt(&violation)
        })?;
        let accepted_ms = self.clock.now_ms();
        let epoch = self.epoch_at(accepted_ms).0;
        let hash = receipt.content_hash();
        let ack = self.countersign(hash, epoch, &network.network).map_err(lease::Lost::ours)?;
        let logged = self
            .logged(flight, work, answer, finished, &receipt, epoch, accepted_ms, &ack)
            .await
            .map_err(lease::Lost::ours)?;
        let standing = self.ledger.log_receipt(&logged).await.map_err(lease::Lost::ours)?;
        let accepted = standing == Standing::Accepted;
        self.metrics.receipts.with_label_values(&[if accepted { "accepted" } else { "superseded" }]).inc();
        if accepted && logged.audit.is_some() {
            self.audit.notify_one();
        }
        if accepted {
            let event = match work.endpoint {
                Endpoint::Embeddings => {
                    OnlineEvent::Embedded { vectors: answer.vectors.clone(), prompt_tokens: receipt.promptTokens }
                }
                Endpoint::ChatCompletions | Endpoint::Completions => OnlineEvent::Finished {
                    finish_reason: finished.finish_reason.clone(),
                    prompt_tokens: receipt.promptTokens,
                    output_tokens: receipt.outputTokens,
                },
            };
            // The answer is complete and logged; a client that left no longer matters.
            let _ = self.online.tell(&flight.request, event).await;
        }
        Ok(ack)
    }

    fn countersign(
        &self,
        receipt: B256,
        epoch: u64,
        network: &NetworkId,
    ) -> Result<Ack, crate::protocol::identity::KeyError> {
        let signature = sign(&Acceptance { receipt, epoch }, network, &self.key)?;
        Ok(Ack { epoch, signature: signature.to_vec() })
    }

    #[allow(clippy::too_many_arguments)]
    async fn logged(
        &self,
        flight: &Flight,
        work: &Work,
        answer: &Answer,
        finished: &Finished,
        receipt: &Receipt,
        epoch: u64,
        accepted_ms: u64,
        ack: &Ack,
    ) -> Result<LoggedReceipt, LedgerError> {
        let hash = receipt.content_hash().0;
        let (encoded, address) =
            (finished.receipt.as_ref().map(wire::Receipt::encode_to_vec), self.members.get(&flight.peer));
        let member = address.ok_or(LedgerError::Unknown { what: "member", key: flight.peer.to_string() })?;
        let standing = self.standings.get(&flight.peer);
        let view = self.peers.get(&flight.peer);
        let served = view.statement.as_ref().and_then(|statement| statement.models.get(&work.model));
        let cost_per_token = self.ledger.model(&work.model).await?.map_or(0, |model| model.cost_per_token);
        let payable = work.kind != RequestKind::Canary
            && member.member.registered
            && standing.capability.verified
            && !standing.quarantined();
        let audit = self
            .is_audited(flight, work, &hash, epoch)
            .await?
            .then(|| AuditOrder { deadline_ms: accepted_ms.saturating_add(millis(self.settings.audit_timeout)) });
        Ok(LoggedReceipt {
            hash,
            request: flight.request,
            attempt: flight.attempt,
            peer: flight.peer.clone(),
            address: member.address,
            model: work.model,
            prompt_tokens: receipt.promptTokens,
            output_tokens: receipt.outputTokens,
            cost_per_token,
            epoch,
            accepted_ms,
            payable,
            kernel_profile: served.map(|served| served.kernel_profile.clone()).unwrap_or_default(),
            encoded: encoded.unwrap_or_default(),
            countersignature: ack.signature.clone(),
            finish_reason: finished.finish_reason.clone(),
            text: answer.text.clone(),
            output: answer.output(),
            prefix: answer.output.get(..answer.prefix).unwrap_or_default().to_vec(),
            logprobs: answer.logprobs.encode_to_vec(),
            audit,
        })
    }

    /// Selection under the epoch's secret. Everything of a node that is not paid yet or still on probation is audited: that is
    /// how it earns trust.
    async fn is_audited(&self, flight: &Flight, work: &Work, hash: &[u8; 32], epoch: u64) -> Result<bool, LedgerError> {
        let Some(network) = self.network_config() else { return Ok(false) };
        let Some(member) = self.members.get(&flight.peer).map(|record| record.member) else { return Ok(false) };
        let standing = self.standings.get(&flight.peer);
        let floor = work.sample_percent.unwrap_or(network.sample_percent);
        let unproven = work.kind == RequestKind::Canary
            || (member.mode == NodeMode::External && !(member.registered && standing.capability.verified));
        let percent = match unproven {
            true => 100,
            false => audit::sample_percent(standing.evidence.passed, standing.evidence().log10_e(), floor),
        };
        let secret = self.ledger.epoch_secret(epoch, rand::random()).await?;
        Ok(audit::selected(&secret, hash, percent))
    }
}

pub(super) fn millis(duration: std::time::Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
