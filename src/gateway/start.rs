//! What a worker is told about a request, and what of it both receipts and audits know by heart.

use crate::{
    protocol::{
        internal::Message,
        wire::{ChatMessage, Start},
    },
    store::Work,
};

/// What a worker is told to do; an audit repeats it.
pub(super) fn start(work: &Work, attempt: u32, lease_id: Vec<u8>, prefix: Vec<u32>) -> Start {
    let line = &work.line;
    let message = |message: &Message| ChatMessage { role: message.role.clone(), content: message.content.clone() };
    Start {
        lease_id,
        request_id: work.request.0.to_vec(),
        attempt,
        model: work.model.0.to_vec(),
        messages: line.messages.iter().map(message).collect(),
        prompt: line.prompt.clone(),
        prefix,
        max_tokens: line.max_tokens,
        sampling: Some(line.sampling()),
        stop: line.stop.clone(),
        client_nonce: client_nonce(line.seed).to_vec(),
        beacon: work.beacon.to_vec(),
        inputs: line.inputs.clone(),
        prefix_group: prefix_group(work),
        top_logprobs: line.top_logprobs,
        chat_template: if line.messages.is_empty() { String::new() } else { work.chat_template.clone() },
    }
}

/// The lines of a job may share what is computed for the beginning of their prompts; nobody else shares anything, so that
/// the time of an answer tells nothing about what others have asked.
fn prefix_group(work: &Work) -> Vec<u8> {
    let hash = |job: &String| blake3::derive_key("xdc-grid 2026-11 prefix group of a job v1", job.as_bytes()).to_vec();
    work.job.as_ref().map(hash).unwrap_or_default()
}

/// The client's part of the sampling seed, as 32 bytes.
pub(super) fn client_nonce(seed: u64) -> [u8; 32] {
    let mut nonce = [0; 32];
    nonce[..8].copy_from_slice(&seed.to_le_bytes());
    nonce
}

pub(super) fn prompt_bytes(work: &Work) -> u32 {
    let messages = work.line.messages.iter().map(|message| message.role.len() + message.content.len());
    let inputs = work.line.inputs.iter().map(String::len);
    u32::try_from(messages.chain(inputs).sum::<usize>() + work.line.prompt.len()).unwrap_or(u32::MAX)
}
