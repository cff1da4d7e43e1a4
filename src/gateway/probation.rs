//! Probation of External nodes: canary requests of the gateway's own, to this worker only and audited always, before anybody
//! else's work goes there.

use std::sync::Arc;

use super::{Gateway, standing::PROBATION_CANARIES};
use crate::{
    api::ids::{GridPeerId, ModelDigest, RequestId},
    protocol::{
        fields::RequestFields,
        internal::{Encoding, Endpoint, InputLine, Message, ModelFormat, ModelSource, NodeMode},
    },
    store::{LedgerError, NewRequest, RequestKind},
    verify::audit,
};

/// Looks like anybody's request. One per canary.
const PROMPTS: [&str; 2] = ["What is the capital of France?", "Name three primary colours."];
const MAX_TOKENS: u32 = 24;
/// Pause after a canary that proved nothing.
const AGAIN_MS: u64 = 30_000;

impl Gateway {
    /// Sends an External member the next canary it owes, one at a time.
    pub(super) async fn probe_external(self: &Arc<Self>, peer: &GridPeerId) -> Result<(), LedgerError> {
        let Some(record) = self.members.get(peer).filter(|record| record.member.mode == NodeMode::External) else {
            return Ok(());
        };
        let standing = self.standings.get(peer);
        if !standing.computes || standing.quarantined() || standing.canaries_passed >= PROBATION_CANARIES {
            return Ok(());
        }
        let now_ms = self.clock.now_ms();
        if let Some(last) = self.ledger.last_canary(peer).await? {
            let wait_ms = if last.passed { 0 } else { AGAIN_MS };
            if last.open || now_ms < last.queued_ms.saturating_add(wait_ms) {
                return Ok(());
            }
        }
        let Some(model) = self.canary_model(peer, &record.member.models) else { return Ok(()) };
        let prompt = PROMPTS.get(standing.canaries_passed as usize % PROMPTS.len()).copied().unwrap_or_default();
        let Some(record) = self.ledger.model(&model).await? else { return Ok(()) };
        self.ledger.add_request(&canary(peer, &record.source, prompt, now_ms)).await?;
        self.dispatch.notify_one();
        Ok(())
    }

    /// A model that the worker serves and that somebody can audit now: one who computes as it does, since the audit of any
    /// other decides nothing and a canary that proves nothing is asked again for ever.
    fn canary_model(&self, peer: &GridPeerId, assigned: &[ModelDigest]) -> Option<ModelDigest> {
        let profile = |peer: &GridPeerId, digest: &ModelDigest| {
            let view = self.peers.get(peer);
            let served = view.fresh(self.clock.now_ms())?.models.get(digest)?;
            // Canaries have no form.
            Some(audit::relevant(&served.kernel_profile, RequestFields::NONE).to_owned())
        };
        let auditable = |digest: &&ModelDigest| {
            let Some(own) = profile(peer, digest) else { return false };
            let verifiers = self.members.verifiers(digest);
            let mut profiles = verifiers.iter().filter_map(|verifier| profile(&verifier.member.peer_id, digest));
            profiles.any(|profile| audit::decidable(&own, &profile))
        };
        assigned.iter().find(auditable).copied()
    }
}

fn canary(peer: &GridPeerId, model: &ModelSource, prompt: &str, now_ms: u64) -> NewRequest {
    let (endpoint, line) = match model.format {
        ModelFormat::Safetensors => {
            let inputs = vec![prompt.to_owned()];
            (Endpoint::Embeddings, InputLine::embedding(0, "canary".into(), inputs, Encoding::Float))
        }
        ModelFormat::Gguf | ModelFormat::SafetensorsDecoder => (Endpoint::ChatCompletions, chat(prompt)),
    };
    NewRequest {
        id: RequestId(rand::random()),
        kind: RequestKind::Canary,
        owner: "canary".into(),
        job: None,
        model: model.digest,
        endpoint,
        line,
        beacon: rand::random(),
        sample_percent: Some(100),
        max_attempts: 2,
        pinned: Some(peer.clone()),
        queued_ms: now_ms,
        chat_template: model.chat_template.clone(),
    }
}

fn chat(prompt: &str) -> InputLine {
    InputLine {
        messages: vec![Message { role: "user".into(), content: prompt.into() }],
        max_tokens: MAX_TOKENS,
        temperature: 0.7,
        seed: rand::random(),
        ..InputLine::blank(0, "canary".into())
    }
}
