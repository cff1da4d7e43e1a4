//! Log-probabilities with the bytes of their tokens: who is told has no vocabulary.

use super::AnswerEngine;
use crate::{
    inference::{self, TokenLogprobs},
    protocol::{
        logprobs::MAX_TOP_LOGPROBS,
        wire::{self, TopLogprob},
    },
};

// What the protocol lets ask for is what the engine tells.
const _: () = assert!(MAX_TOP_LOGPROBS == inference::MAX_TOP_LOGPROBS);

/// What is told of one token.
pub(super) fn told(engine: &dyn AnswerEngine, id: u32, logprobs: &TokenLogprobs) -> wire::TokenLogprobs {
    let top = |(id, logprob): &(u32, f32)| TopLogprob { bytes: engine.token_bytes(*id), logprob: *logprob };
    wire::TokenLogprobs {
        bytes: engine.token_bytes(id),
        logprob: logprobs.logprob,
        top: logprobs.top.iter().map(top).collect(),
    }
}
