//! Log-probabilities with the bytes of their tokens: who is told has no vocabulary.

use super::AnswerEngine;
use crate::{
    inference::TokenLogprobs,
    protocol::wire::{self, TopLogprob},
};

/// What is told of one token.
pub(super) fn told(engine: &dyn AnswerEngine, id: u32, logprobs: &TokenLogprobs) -> wire::TokenLogprobs {
    let top = |(id, logprob): &(u32, f32)| TopLogprob { bytes: engine.token_bytes(*id), logprob: *logprob };
    wire::TokenLogprobs {
        bytes: engine.token_bytes(id),
        logprob: logprobs.logprob,
        top: logprobs.top.iter().map(top).collect(),
    }
}
