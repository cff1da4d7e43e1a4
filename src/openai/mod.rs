//! The OpenAI API as the gateway, `grid-worker serve` and the lines of a batch speak it: what a request may say, the bodies of answers and
//! errors, server-sent events, API keys. Turns bytes into values and values into bytes; never knows who computes the answer, and keeps nothing.

mod answer;
mod body;
mod embeddings;
mod error;
mod fields;
mod keys;
mod line;
mod logprobs;
mod messages;
mod request;
pub mod sse;
mod tokens;
mod tool_calls;

pub use crate::protocol::logprobs::{TokenLogprob, TokenText};
pub use answer::{Call, Choice, Piece, Shape, Usage};
pub use body::read as read_body;
pub use embeddings::EmbeddingRequest;
pub use error::{ErrorBody, OpenAiError};
pub use keys::{Tokens, check_key};
pub use logprobs::of_answer as logprobs_of_answer;
pub use messages::{Message, ToolCall, ToolUse, Tools};
pub use request::{Defaults, Offer, Prompt, TextRequest, form_of_schema};
pub use tokens::{DetokenizeRequest, TokenizeRequest};

/// A request that could be read, or what to answer instead.
pub type Parsed<T> = Result<T, OpenAiError>;
