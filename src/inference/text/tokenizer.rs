//! The tokenizer that a GGUF file describes: byte-level BPE or SentencePiece.
//!
//! Text of users never yields control tokens: those are not part of the vocabulary that text is looked up in, and only the
//! chat template's own text is searched for them.

use std::collections::BTreeSet;

use super::PromptError;
use super::bpe::{ByteLevelBpe, PRE_TOKENIZERS, Rules};
use super::names::{Names, Part};
use super::spm::SentencePiece;
use super::vocabulary::{CONTROL, Pieces, USER_DEFINED, Vocabulary};
use crate::gguf::{GgufError, Header};

/// The longest token of a vocabulary, in bytes; together with the context it bounds a prompt.
const MAX_BYTES_PER_TOKEN: usize = 64;

/// Control tokens that end an answer, beside the ones that the metadata names.
const END_TOKENS: [&str; 8] =
    ["<|im_end|>", "<|endoftext|>", "<|eot_id|>", "<|end_of_text|>", "<|eom_id|>", "<|end|>", "<end_of_turn>", "</s>"];

/// Why a tokenizer cannot be built.
#[derive(Debug, thiserror::Error)]
pub enum TokenizerError {
    #[error(transparent)]
    Gguf(#[from] GgufError),
    #[error(
        "the tokenizer type \"{0}\" is not supported; this engine reads \"gpt2\" (byte-level BPE) and \"llama\" (SentencePiece) vocabularies"
    )]
    Model(String),
    #[error("the pre-tokenizer \"{0}\" is not supported; known are {known}", known = PRE_TOKENIZERS.join(", "))]
    PreTokenizer(String),
    #[error("the tokenizer's metadata is damaged: {0}")]
    Damaged(String),
    #[error("the tokenizer cannot be built: {0}")]
    Build(String),
}

/// Turns text into tokens and tokens into bytes.
pub struct Tokenizer {
    algorithm: Algorithm,
    pieces: Pieces,
    control: Names,
    /// Plain text that is always one token.
    user_defined: Names,
    /// Put in front of every text, where the model wants it.
    bos: Option<u32>,
    bos_text: String,
    eos_text: String,
    end: BTreeSet<u32>,
    vocab_size: usize,
    max_bytes: usize,
}

enum Algorithm {
    Bpe(Box<ByteLevelBpe>),
    SentencePiece(SentencePiece),
}

impl Algorithm {
    /// The algorithm, the bytes of its tokens, and whether texts begin with the beginning-of-text token by default.
    fn from_header(header: &Header, vocabulary: &Vocabulary) -> Result<(Self, Pieces, bool), TokenizerError> {
        match header.string("tokenizer.ggml.model")?.unwrap_or_default() {
            "gpt2" => {
                let rules = Rules::named(header.string("tokenizer.ggml.pre")?.unwrap_or("default"))?;
                let adds_bos = rules.adds_bos;
                let bpe = ByteLevelBpe::new(header, vocabulary, rules)?;
                Ok((Self::Bpe(Box::new(bpe)), Pieces::byte_level(vocabulary), adds_bos))
            }
            "llama" => {
                let pieces = Pieces::sentence_piece(vocabulary);
                Ok((Self::SentencePiece(SentencePiece::new(header, vocabulary)?), pieces, true))
            }
            other => Err(TokenizerError::Model(other.to_owned())),
        }
    }
}

impl Tokenizer {
    /// Builds the tokenizer that the header describes; texts are bounded by what `context_length` tokens could hold.
    pub fn from_header(header: &Header, context_length: usize) -> Result<Self, TokenizerError> {
        let vocabulary = Vocabulary::from_header(header)?;
        let (algorithm, pieces, adds_bos) = Algorithm::from_header(header, &vocabulary)?;
        let id = |key: &str| -> Result<Option<u32>, TokenizerError> {
            let id = header.uint(key)?.and_then(|id| u32::try_from(id).ok());
            Ok(id.filter(|id| (*id as usize) < vocabulary.tokens.len()))
        };
        let (bos, eos) = (id("tokenizer.ggml.bos_token_id")?, id("tokenizer.ggml.eos_token_id")?);
        let text =
            |id: Option<u32>| id.and_then(|id| vocabulary.tokens.get(id as usize)).unwrap_or_default().to_owned();
        let named_ends = [eos, id("tokenizer.ggml.eot_token_id")?, id("tokenizer.ggml.eom_token_id")?];
        let control = vocabulary.of_type(CONTROL);
        let known_ends = control.iter().filter(|(name, _)| END_TOKENS.contains(&name.as_str())).map(|(_, id)| *id);
        let add_bos = header.bool("tokenizer.ggml.add_bos_token")?.unwrap_or(adds_bos);
        Ok(Self {
            end: named_ends.into_iter().flatten().chain(known_ends).collect(),
            algorithm,
            pieces,
            user_defined: Names::new(vocabulary.of_type(USER_DEFINED)),
            bos_text: text(bos),
            eos_text: text(eos),
            bos: bos.filter(|_| add_bos),
            vocab_size: vocabulary.tokens.len(),
            max_bytes: context_length.saturating_mul(MAX_BYTES_PER_TOKEN),
            control: Names::new(control),
        })
    }

    /// Tokens of a user's text, with the beginning-of-text token where the model wants one.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>, PromptError> {
        let mut tokens: Vec<u32> = self.bos.into_iter().collect();
        self.encode_plain(text, true, &mut tokens)?;
        Ok(tokens)
    }

    /// Tokens of a rendered template, in which control tokens stand by name. `guard` is dropped from the text: whoever
    /// rendered the template put it inside of names that came from users.
    pub fn encode_template(&self, text: &str, guard: char) -> Result<Vec<u32>, PromptError> {
        let mut tokens: Vec<u32> = self.bos.into_iter().filter(|_| !text.starts_with(&self.bos_text)).collect();
        for part in self.control.split(text) {
            match part {
                Part::Token(id) => tokens.push(id),
                // A text part stands at the start or after a control token.
                Part::Text(text) => self.encode_plain(&text.replace(guard, ""), true, &mut tokens)?,
            }
        }
        Ok(tokens)
    }

    fn encode_plain(&self, text: &str, mut after_special: bool, tokens: &mut Vec<u32>) -> Result<(), PromptError> {
        if text.len() > self.max_bytes {
            return Err(PromptError::TooLong { bytes: text.len(), limit: self.max_bytes });
        }
        for part in self.user_defined.split(text) {
            match (part, &self.algorithm) {
                (Part::Token(id), _) => tokens.push(id),
                (Part::Text(text), Algorithm::Bpe(bpe)) => bpe.encode(text, tokens)?,
                (Part::Text(text), Algorithm::SentencePiece(model)) => model.encode(text, after_special, tokens),
            }
            after_special = matches!(part, Part::Token(_));
        }
        Ok(())
    }

    /// The bytes that a token stands for; none for control tokens.
    pub fn bytes(&self, token: u32) -> &[u8] {
        self.pieces.get(token)
    }

    /// Whether a token ends the answer.
    pub fn is_end(&self, token: u32) -> bool {
        self.end.contains(&token)
    }

    /// The tokens that end an answer, in order.
    pub(crate) fn ends(&self) -> impl Iterator<Item = u32> + '_ {
        self.end.iter().copied()
    }

    /// The names of control tokens that occur in a text.
    pub(super) fn control_names_in(&self, text: &str) -> Vec<&str> {
        self.control.names_in(text)
    }

    pub fn bos_text(&self) -> &str {
        &self.bos_text
    }

    pub fn eos_text(&self) -> &str {
        &self.eos_text
    }

    pub fn vocab_size(&self) -> usize {
        self.vocab_size
    }

    /// The longest text, in bytes, that is looked at.
    pub fn max_bytes(&self) -> usize {
        self.max_bytes
    }
}
