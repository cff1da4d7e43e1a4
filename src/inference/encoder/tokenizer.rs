//! Texts to tokens by the tokenizer that the model was published with (WordPiece, for BERT).

use crate::text::{PromptError, TokenizerError};

/// The longest token of a vocabulary, in bytes; together with the context it bounds a text.
const MAX_BYTES_PER_TOKEN: usize = 64;

pub(super) struct WordPieces {
    tokenizer: tokenizers::Tokenizer,
    max_bytes: usize,
}

impl WordPieces {
    /// `file`: a `tokenizer.json`. Its own padding and truncation are switched off: texts are computed at their length, and
    /// one that is too long is refused rather than cut, so that nobody pays for a vector of half a text.
    pub fn new(file: &[u8], max_tokens: usize, vocab_size: usize) -> Result<Self, TokenizerError> {
        let mut tokenizer = tokenizers::Tokenizer::from_bytes(file).map_err(build)?;
        tokenizer.with_padding(None);
        tokenizer.with_truncation(None).map_err(build)?;
        let tokens = tokenizer.get_vocab_size(true);
        if tokens > vocab_size {
            let message = format!("it has {tokens} tokens and the model {vocab_size}");
            return Err(TokenizerError::Damaged(message));
        }
        Ok(Self { tokenizer, max_bytes: max_tokens.saturating_mul(MAX_BYTES_PER_TOKEN) })
    }

    pub fn encode(&self, text: &str) -> Result<Vec<u32>, PromptError> {
        if text.len() > self.max_bytes {
            return Err(PromptError::TooLong { bytes: text.len(), limit: self.max_bytes });
        }
        let encoding = self.tokenizer.encode_fast(text, true).map_err(|e| PromptError::Encode(e.to_string()))?;
        Ok(encoding.get_ids().to_vec())
    }
}

fn build(error: tokenizers::Error) -> TokenizerError {
    TokenizerError::Build(error.to_string())
}
