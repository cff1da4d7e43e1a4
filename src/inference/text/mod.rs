//! Text in and out of tokens: the tokenizer that a GGUF file describes, its chat template, and the way back, token by token.

mod bpe;
mod chat;
mod detokenizer;
mod names;
mod spm;
mod stop;
mod tokenizer;
mod tools;
mod vocabulary;

pub(crate) use bpe::{LLAMA_WORDS, QWEN_WORDS};
pub(crate) use chat::Replacement;
pub use chat::{ChatMessage, ChatTemplate};
pub use detokenizer::Detokenizer;
pub use stop::StopStrings;
pub use tokenizer::{Tokenizer, TokenizerError};
pub(crate) use vocabulary::{CONTROL, NORMAL, UNUSED, USER_DEFINED};

/// Why a prompt cannot be turned into tokens.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum PromptError {
    #[error("the model has no chat template; use completions instead of chat")]
    NoTemplate,
    #[error("the role \"{0}\" is not known; use system, user, assistant or tool")]
    Role(String),
    #[error("there are no messages")]
    NoMessages,
    #[error("the prompt has {bytes} bytes, more than the {limit} that could ever fit into the context")]
    TooLong { bytes: usize, limit: usize },
    #[error("the model's chat template failed: {0}")]
    Template(String),
    #[error("the text cannot be turned into tokens: {0}")]
    Encode(String),
}
