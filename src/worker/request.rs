//! Parses what a gateway asks, once, at the edge: fixed lengths, bounds, and a sentence for whatever is wrong. Pure.

use super::leases::{LeaseId, Terms, rejected};
use crate::{
    api::ids::{GridPeerId, ModelDigest, RequestId},
    inference::{ChatMessage, MAX_TEXTS},
    protocol::{
        internal::{MAX_CHAT_TEMPLATE, MAX_INPUTS},
        logprobs::MAX_TOP_LOGPROBS,
        wire::{self, Refused},
    },
    verify::sampler::{SamplerParams, asked_hash},
};

/// Most answer tokens of one request.
const MAX_TOKENS: u32 = 1 << 17;
/// Most stop strings, and bytes of each.
const MAX_STOPS: usize = 16;
const MAX_STOP_BYTES: usize = 256;

/// What is to be computed, whoever computes it: the worker that answers or the node that audits.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Question {
    pub request: RequestId,
    pub attempt: u32,
    pub model: ModelDigest,
    pub prompt: PromptText,
    /// Answer tokens that the client has already.
    pub prefix: Vec<u32>,
    pub max_tokens: u32,
    pub sampling: SamplerParams,
    /// Log-probabilities with so many alternatives.
    pub top_logprobs: Option<u32>,
    pub stop: Vec<String>,
    /// Requests of one group may share what is computed for the beginning of their prompts.
    pub prefix_group: Option<[u8; 32]>,
    pub client_nonce: [u8; 32],
    pub beacon: [u8; 32],
}

#[derive(Debug, Clone, PartialEq)]
pub(super) enum PromptText {
    Chat {
        messages: Vec<ChatMessage>,
        /// In place of the model's own.
        template: Option<String>,
    },
    Completion(String),
    Embedding(Vec<String>),
}

/// Reads an offer: under which terms a slot is held.
pub(super) fn offer(gateway: &GridPeerId, offer: &wire::Offer) -> Result<Terms, Refused> {
    Ok(Terms {
        gateway: gateway.clone(),
        request: RequestId(fixed("request_id", &offer.request_id)?),
        attempt: offer.attempt,
        model: ModelDigest(fixed("model", &offer.model)?),
        max_tokens: bounded_tokens(offer.max_tokens)?,
    })
}

/// Reads the lease under which a stream starts.
pub(super) fn lease(start: &wire::Start) -> Result<LeaseId, Refused> {
    fixed("lease_id", &start.lease_id)
}

/// Reads what is to be computed.
pub(super) fn question(start: wire::Start) -> Result<Question, Refused> {
    let sampling = start.sampling.ok_or_else(|| malformed("sampling is missing"))?;
    let max_tokens = bounded_tokens(start.max_tokens)?;
    if start.prefix.len() >= max_tokens as usize {
        return Err(malformed("the prefix leaves no token to make"));
    }
    if start.stop.len() > MAX_STOPS || start.stop.iter().any(|stop| stop.is_empty() || stop.len() > MAX_STOP_BYTES) {
        return Err(malformed("at most 16 stop strings of 1 to 256 bytes each"));
    }
    if start.top_logprobs.is_some_and(|top| top > MAX_TOP_LOGPROBS) {
        return Err(malformed(format!("top_logprobs must be 0 to {MAX_TOP_LOGPROBS}")));
    }
    Ok(Question {
        request: RequestId(fixed("request_id", &start.request_id)?),
        attempt: start.attempt,
        model: ModelDigest(fixed("model", &start.model)?),
        prompt: prompt(start.messages, start.chat_template, start.prompt, start.inputs)?,
        prefix: start.prefix,
        max_tokens,
        sampling: sampler(&sampling)?,
        top_logprobs: start.top_logprobs,
        stop: start.stop,
        prefix_group: group(&start.prefix_group)?,
        client_nonce: fixed("client_nonce", &start.client_nonce)?,
        beacon: fixed("beacon", &start.beacon)?,
    })
}

impl Question {
    /// What its receipt and its audit say was asked for.
    pub(super) fn sampler_hash(&self) -> [u8; 32] {
        asked_hash(&self.sampling, self.top_logprobs)
    }

    pub(super) fn terms(&self, gateway: &GridPeerId) -> Terms {
        Terms {
            gateway: gateway.clone(),
            request: self.request,
            attempt: self.attempt,
            model: self.model,
            max_tokens: self.max_tokens,
        }
    }
}

fn prompt(
    messages: Vec<wire::ChatMessage>,
    template: String,
    prompt: String,
    inputs: Vec<String>,
) -> Result<PromptText, Refused> {
    if template.len() > MAX_CHAT_TEMPLATE {
        return Err(malformed(format!("a chat template has at most {MAX_CHAT_TEMPLATE} bytes")));
    }
    if messages.is_empty() && !template.is_empty() {
        return Err(malformed("a chat template is for messages, and there are none"));
    }
    if !inputs.is_empty() {
        return embedding(&messages, &prompt, inputs);
    }
    match (messages.is_empty(), prompt.is_empty()) {
        (true, _) => Ok(PromptText::Completion(prompt)),
        (false, true) => {
            let message = |message: wire::ChatMessage| ChatMessage { role: message.role, content: message.content };
            let template = Some(template).filter(|template| !template.is_empty());
            Ok(PromptText::Chat { messages: messages.into_iter().map(message).collect(), template })
        }
        (false, false) => Err(malformed("either messages or a prompt, not both")),
    }
}

// What the protocol lets ask for is what the encoder takes.
const _: () = assert!(MAX_INPUTS == MAX_TEXTS);

fn embedding(messages: &[wire::ChatMessage], prompt: &str, inputs: Vec<String>) -> Result<PromptText, Refused> {
    if !messages.is_empty() || !prompt.is_empty() {
        return Err(malformed("an embedding has inputs only, no messages and no prompt"));
    }
    if inputs.len() > MAX_INPUTS || inputs.iter().any(String::is_empty) {
        return Err(malformed(format!("an embedding has 1 to {MAX_INPUTS} inputs, none of them empty")));
    }
    Ok(PromptText::Embedding(inputs))
}

fn sampler(sampling: &wire::Sampling) -> Result<SamplerParams, Refused> {
    SamplerParams::try_from(sampling).map_err(|error| malformed(error.to_string()))
}

fn group(bytes: &[u8]) -> Result<Option<[u8; 32]>, Refused> {
    if bytes.is_empty() { Ok(None) } else { fixed("prefix_group", bytes).map(Some) }
}

fn bounded_tokens(max_tokens: u32) -> Result<u32, Refused> {
    if (1..=MAX_TOKENS).contains(&max_tokens) {
        return Ok(max_tokens);
    }
    Err(malformed(format!("max_tokens must be 1 to {MAX_TOKENS}, not {max_tokens}")))
}

fn fixed<const N: usize>(field: &str, bytes: &[u8]) -> Result<[u8; N], Refused> {
    bytes.try_into().map_err(|_| malformed(format!("{field} has {} bytes instead of {N}", bytes.len())))
}

fn malformed(message: impl Into<String>) -> Refused {
    rejected("MalformedRequest", message, std::time::Duration::ZERO)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn start(prompt: &str) -> wire::Start {
        wire::Start {
            lease_id: vec![1; 16],
            request_id: vec![2; 32],
            attempt: 1,
            model: vec![3; 32],
            prompt: prompt.into(),
            max_tokens: 8,
            sampling: Some(wire::Sampling { top_p: 1.0, ..Default::default() }),
            client_nonce: vec![4; 32],
            beacon: vec![5; 32],
            ..Default::default()
        }
    }

    fn reason(start: wire::Start) -> String {
        question(start).unwrap_err().message
    }

    #[test]
    fn a_well_formed_start_is_read_and_anything_else_says_what_is_wrong() {
        assert!(question(start("hello")).is_ok());
        assert!(reason(wire::Start { request_id: vec![1; 31], ..start("x") }).contains("request_id has 31 bytes"));
        assert!(reason(wire::Start { sampling: None, ..start("x") }).contains("sampling is missing"));
        assert!(reason(wire::Start { max_tokens: 0, ..start("x") }).contains("max_tokens"));
        assert!(reason(wire::Start { prefix: vec![1; 8], max_tokens: 8, ..start("x") }).contains("prefix"));
        assert!(reason(wire::Start { stop: vec![String::new()], ..start("x") }).contains("stop"));
        assert!(reason(wire::Start { top_logprobs: Some(21), ..start("x") }).contains("top_logprobs"));
        let both = vec![wire::ChatMessage { role: "user".into(), content: "x".into() }];
        assert!(reason(wire::Start { messages: both, ..start("x") }).contains("not both"));
        assert!(reason(wire::Start { chat_template: "x".into(), ..start("x") }).contains("for messages"));
        assert!(reason(wire::Start { chat_template: "x".repeat(16385), ..start("x") }).contains("16384 bytes"));
        let inputs = |inputs: &[&str]| inputs.iter().map(|text| text.to_string()).collect::<Vec<_>>();
        assert!(question(wire::Start { inputs: inputs(&["a", "b"]), ..start("") }).is_ok());
        assert!(reason(wire::Start { inputs: inputs(&["a"]), ..start("x") }).contains("inputs only"));
        assert!(reason(wire::Start { inputs: inputs(&["a", ""]), ..start("") }).contains("empty"));
        assert!(reason(wire::Start { inputs: inputs(&["a"; 257]), ..start("") }).contains("256"));
        assert!(reason(wire::Start { prefix_group: vec![1; 31], ..start("x") }).contains("prefix_group"));
        assert_eq!(
            question(wire::Start { prefix_group: vec![7; 32], ..start("x") }).unwrap().prefix_group,
            Some([7; 32])
        );
        let plain = question(start("x")).unwrap();
        let told = question(wire::Start { top_logprobs: Some(0), ..start("x") }).unwrap();
        assert_eq!((plain.top_logprobs, told.top_logprobs), (None, Some(0)));
        assert_ne!(plain.sampler_hash(), told.sampler_hash());
        for (temperature, top_p) in [(f32::NAN, 1.0), (-1.0, 1.0), (1.0, 0.0), (1.0, f32::NAN)] {
            let sampling = Some(wire::Sampling { temperature, top_p, ..Default::default() });
            assert!(question(wire::Start { sampling, ..start("x") }).is_err());
        }
    }
}
