//! The vocabulary as the grammar crate reads it.

use std::sync::Arc;

use llguidance::ParserFactory;
use llguidance::api::ParserLimits;
use llguidance::toktrie::{ApproximateTokEnv, TokEnv, TokRxInfo, TokTrie};

use super::{FormError, sentence};
use crate::text::Tokenizer;

/// No word is longer: the trie has a bound, and what comes near it is filler of blanks or rules.
const MAX_WORD_BYTES: usize = 256;
/// The crate takes words that begin with this byte for names of control tokens. No text does: it is no UTF-8.
const MARK: u8 = TokTrie::SPECIAL_TOKEN_MARKER;

/// What one form may cost. The crate counts work and not time, so the same answer meets the same bound everywhere.
fn limits() -> ParserLimits {
    ParserLimits {
        // Some 20 MB of states and as much of rules, at most.
        max_lexer_states: 20_000,
        max_grammar_size: 100_000,
        // Some tens of milliseconds for a step that has to look at everything.
        step_lexer_fuel: 200_000,
        step_max_items: 50_000,
        // Otherwise errors repeat the text.
        verbose_errors: false,
        ..ParserLimits::default()
    }
}

/// All tokens with a text, and those that end an answer. Costs time in proportion to the vocabulary.
pub(super) fn of(tokenizer: &Tokenizer) -> Result<ParserFactory, FormError> {
    let ends: Vec<u32> = tokenizer.ends().collect();
    let first = *ends.first().ok_or(FormError::NoEnd)?;
    let words: Vec<Vec<u8>> = (0..tokenizer.vocab_size() as u32)
        .map(|token| match tokenizer.bytes(token) {
            // Also where a file gives it a text.
            _ if tokenizer.is_end(token) => Vec::new(),
            [MARK, ..] => Vec::new(),
            bytes if bytes.len() > MAX_WORD_BYTES => Vec::new(),
            bytes => bytes.to_vec(),
        })
        .collect();
    let trie = TokTrie::from(&TokRxInfo::new(words.len() as u32, first), &words).with_eos_tokens(&ends);
    // It never forces the model's own way of cutting a text into tokens: that would make masks depend on the tokenizer's
    // algorithm, and every auditor would have to have the same one.
    let vocabulary: TokEnv = Arc::new(ApproximateTokEnv::new(trie));
    let mut factory = ParserFactory::new_simple(&vocabulary).map_err(|error| {
        tracing::error!(error = %sentence(&format!("{error:#}")), "the vocabulary cannot be used for forms");
        FormError::Compiler
    })?;
    *factory.limits_mut() = limits();
    factory.quiet();
    Ok(factory)
}
