//! Byte-level BPE (tokenizer type "gpt2"), built with Hugging Face `tokenizers`.

use tokenizers::models::bpe::{BPE, Vocab};
use tokenizers::pre_tokenizers::PreTokenizerWrapper;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::digits::Digits;
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::tokenizer::SplitDelimiterBehavior;

use super::PromptError;
use super::tokenizer::TokenizerError;
use super::vocabulary::{NORMAL, USER_DEFINED, Vocabulary};
use crate::gguf::{GgufError, Header};

/// The pre-tokenizers that [`Rules::named`] knows.
pub(super) const PRE_TOKENIZERS: [&str; 10] = [
    "smollm",
    "starcoder",
    "gpt-2",
    "phi-2",
    "llama-bpe",
    "llama3",
    "llama-v3",
    "qwen2",
    "deepseek-r1-qwen",
    "stablelm2",
];

/// How Llama 3 cuts text into words.
pub(crate) const LLAMA_WORDS: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
/// How Qwen 2 and later do.
pub(crate) const QWEN_WORDS: &str =
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// How a named pre-tokenizer cuts text into words. The expressions are those of the models' own `tokenizer.json`.
pub(super) struct Rules {
    pre_tokenizer: Vec<PreTokenizerWrapper>,
    ignore_merges: bool,
    /// Whether texts begin with the beginning-of-text token where the file does not say.
    pub(super) adds_bos: bool,
}

impl Rules {
    /// The rules that llama.cpp has under that name.
    pub(super) fn named(name: &str) -> Result<Self, TokenizerError> {
        let gpt2 = || PreTokenizerWrapper::ByteLevel(ByteLevel::new(false, true, true));
        let plain = |pre_tokenizer| Self { pre_tokenizer, ignore_merges: false, adds_bos: false };
        match name {
            "smollm" | "starcoder" => Ok(plain(vec![PreTokenizerWrapper::Digits(Digits::new(true)), gpt2()])),
            "gpt-2" | "phi-2" => Ok(plain(vec![gpt2()])),
            "llama-bpe" | "llama3" | "llama-v3" => {
                Ok(Self { ignore_merges: true, adds_bos: true, ..plain(split(LLAMA_WORDS)?) })
            }
            "qwen2" | "deepseek-r1-qwen" | "stablelm2" => Ok(plain(split(QWEN_WORDS)?)),
            other => Err(TokenizerError::PreTokenizer(other.to_owned())),
        }
    }
}

fn split(expression: &str) -> Result<Vec<PreTokenizerWrapper>, TokenizerError> {
    let pattern = SplitPattern::Regex(expression.to_owned());
    let split = Split::new(pattern, SplitDelimiterBehavior::Isolated, false)
        .map_err(|e| TokenizerError::Build(e.to_string()))?;
    Ok(vec![PreTokenizerWrapper::Split(split), PreTokenizerWrapper::ByteLevel(ByteLevel::new(false, true, false))])
}

/// A byte-level BPE vocabulary.
pub(super) struct ByteLevelBpe {
    bpe: tokenizers::Tokenizer,
    vocab_size: usize,
}

impl ByteLevelBpe {
    pub(super) fn new(header: &Header, vocabulary: &Vocabulary, rules: Rules) -> Result<Self, TokenizerError> {
        /// A noncharacter, so that no text can spell it.
        const UNKNOWN: &str = "\u{fdd0}unknown";
        let merges = header.strings("tokenizer.ggml.merges")?;
        let merges = merges.ok_or_else(|| GgufError::MissingKey("tokenizer.ggml.merges".into()))?;
        let pair = |merge: &str| {
            let (a, b) =
                merge.split_once(' ').ok_or_else(|| TokenizerError::Damaged(format!("bad merge \"{merge}\"")))?;
            Ok((a.to_owned(), b.to_owned()))
        };
        let merges = merges.iter().map(pair).collect::<Result<Vec<_>, TokenizerError>>()?;
        let text = vocabulary.iter().filter(|(_, _, kind)| matches!(*kind, NORMAL | USER_DEFINED));
        let mut vocab: Vocab = text.map(|(id, name, _)| (name.to_owned(), id)).collect();
        vocab.insert(UNKNOWN.to_owned(), vocabulary.tokens.len() as u32);
        let bpe = BPE::builder()
            .vocab_and_merges(vocab, merges)
            .unk_token(UNKNOWN.to_owned())
            .ignore_merges(rules.ignore_merges)
            .build()
            .map_err(|error| TokenizerError::Build(error.to_string()))?;
        let mut tokenizer = tokenizers::Tokenizer::new(bpe);
        tokenizer.with_pre_tokenizer(Some(Sequence::new(rules.pre_tokenizer)));
        Ok(Self { bpe: tokenizer, vocab_size: vocabulary.tokens.len() })
    }

    /// Adds the tokens of a text.
    pub(super) fn encode(&self, text: &str, tokens: &mut Vec<u32>) -> Result<(), PromptError> {
        let encoding = self.bpe.encode_fast(text, false).map_err(|error| PromptError::Encode(error.to_string()))?;
        // The unknown token, one past the vocabulary, stands for bytes that the model has no token for.
        tokens.extend(encoding.get_ids().iter().filter(|id| (**id as usize) < self.vocab_size));
        Ok(())
    }
}
