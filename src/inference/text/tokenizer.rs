//! A byte-level BPE tokenizer built from GGUF metadata with Hugging Face `tokenizers`.
//!
//! Text of users never yields control tokens: those are not part of the BPE's vocabulary, and only the chat template's own
//! text is searched for them.

use std::collections::{BTreeSet, HashMap};

use tokenizers::models::bpe::{BPE, Vocab};
use tokenizers::pre_tokenizers::PreTokenizerWrapper;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::digits::Digits;
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::tokenizer::SplitDelimiterBehavior;

use super::PromptError;
use crate::inference::gguf::{GgufError, Header};

/// The longest token of a vocabulary, in bytes; together with the context it bounds a prompt.
const MAX_BYTES_PER_TOKEN: usize = 64;
/// GGUF token types.
const NORMAL: i32 = 1;
const CONTROL: i32 = 3;
const USER_DEFINED: i32 = 4;

/// Control tokens that end an answer, beside the ones that the metadata names.
const END_TOKENS: [&str; 7] =
    ["<|im_end|>", "<|endoftext|>", "<|eot_id|>", "<|end_of_text|>", "<|eom_id|>", "<|end|>", "</s>"];

/// Why a tokenizer cannot be built.
#[derive(Debug, thiserror::Error)]
pub enum TokenizerError {
    #[error(transparent)]
    Gguf(#[from] GgufError),
    #[error("the tokenizer type \"{0}\" is not supported; this engine reads \"gpt2\" (byte-level BPE) vocabularies")]
    Model(String),
    #[error("the pre-tokenizer \"{0}\" is not supported; known are smollm, gpt-2, llama-bpe and qwen2")]
    PreTokenizer(String),
    #[error("the tokenizer's metadata is damaged: {0}")]
    Damaged(String),
    #[error("the tokenizer cannot be built: {0}")]
    Build(String),
}

/// Turns text into tokens and tokens into bytes.
pub struct Tokenizer {
    bpe: tokenizers::Tokenizer,
    pieces: Pieces,
    /// Control tokens by name, longest first.
    control: Vec<(String, u32)>,
    /// Plain text that is always one token, longest first.
    user_defined: Vec<(String, u32)>,
    /// Put in front of every text, where the model wants it.
    bos: Option<u32>,
    bos_text: String,
    eos_text: String,
    end: BTreeSet<u32>,
    vocab_size: usize,
    max_bytes: usize,
}

impl Tokenizer {
    /// Builds the tokenizer that the header describes; texts are bounded by what `context_length` tokens could hold.
    pub fn from_header(header: &Header, context_length: usize) -> Result<Self, TokenizerError> {
        let model = header.string("tokenizer.ggml.model")?.unwrap_or_default();
        if model != "gpt2" {
            return Err(TokenizerError::Model(model.to_owned()));
        }
        let rules = Rules::named(header.string("tokenizer.ggml.pre")?.unwrap_or("default"))?;
        let vocabulary = Vocabulary::from_header(header)?;
        let id = |key: &str| -> Result<Option<u32>, TokenizerError> {
            let id = header.uint(key)?.and_then(|id| u32::try_from(id).ok());
            Ok(id.filter(|id| (*id as usize) < vocabulary.tokens.len()))
        };
        let (bos, eos) = (id("tokenizer.ggml.bos_token_id")?, id("tokenizer.ggml.eos_token_id")?);
        let text = |id: Option<u32>| id.map(|id| vocabulary.tokens[id as usize].clone()).unwrap_or_default();
        let named_ends = [eos, id("tokenizer.ggml.eot_token_id")?, id("tokenizer.ggml.eom_token_id")?];
        let control = vocabulary.of_type(CONTROL);
        let known_ends = control.iter().filter(|(name, _)| END_TOKENS.contains(&name.as_str())).map(|(_, id)| *id);
        let add_bos = header.bool("tokenizer.ggml.add_bos_token")?.unwrap_or(rules.adds_bos);
        Ok(Self {
            end: named_ends.into_iter().flatten().chain(known_ends).collect(),
            bpe: vocabulary.bpe(header, &rules)?,
            pieces: Pieces::new(&vocabulary),
            user_defined: vocabulary.of_type(USER_DEFINED),
            bos_text: text(bos),
            eos_text: text(eos),
            bos: bos.filter(|_| add_bos),
            vocab_size: vocabulary.tokens.len(),
            max_bytes: context_length.saturating_mul(MAX_BYTES_PER_TOKEN),
            control,
        })
    }

    /// Tokens of a user's text, with the beginning-of-text token where the model wants one.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>, PromptError> {
        let mut tokens: Vec<u32> = self.bos.into_iter().collect();
        self.encode_plain(text, &mut tokens)?;
        Ok(tokens)
    }

    /// Tokens of a rendered template, in which control tokens stand by name. `guard` is dropped from the text: whoever
    /// rendered the template put it inside of names that came from users.
    pub fn encode_template(&self, text: &str, guard: char) -> Result<Vec<u32>, PromptError> {
        let mut tokens: Vec<u32> = self.bos.into_iter().filter(|_| !text.starts_with(&self.bos_text)).collect();
        for part in split_at(text, &self.control) {
            match part {
                Part::Token(id) => tokens.push(id),
                Part::Text(text) => self.encode_plain(&text.replace(guard, ""), &mut tokens)?,
            }
        }
        Ok(tokens)
    }

    fn encode_plain(&self, text: &str, tokens: &mut Vec<u32>) -> Result<(), PromptError> {
        if text.len() > self.max_bytes {
            return Err(PromptError::TooLong { bytes: text.len(), limit: self.max_bytes });
        }
        for part in split_at(text, &self.user_defined) {
            match part {
                Part::Token(id) => tokens.push(id),
                Part::Text(text) => {
                    let encoding = self.bpe.encode_fast(text, false).map_err(|e| PromptError::Encode(e.to_string()))?;
                    // The unknown token, one past the vocabulary, stands for bytes that the model has no token for.
                    tokens.extend(encoding.get_ids().iter().filter(|id| (**id as usize) < self.vocab_size));
                }
            }
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

    /// The names of the control tokens.
    pub fn control_names(&self) -> impl Iterator<Item = &str> {
        self.control.iter().map(|(name, _)| name.as_str())
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

enum Part<'a> {
    Text(&'a str),
    Token(u32),
}

/// Cuts `text` at the names; where several begin at the same place the longest (first in the list) wins.
fn split_at<'a>(text: &'a str, names: &[(String, u32)]) -> Vec<Part<'a>> {
    let mut parts = Vec::new();
    let (mut from, mut at) = (0, 0);
    while at < text.len() {
        let rest = &text[at..];
        match names.iter().find(|(name, _)| rest.starts_with(name.as_str())) {
            Some((name, id)) => {
                if from < at {
                    parts.push(Part::Text(&text[from..at]));
                }
                parts.push(Part::Token(*id));
                at += name.len();
                from = at;
            }
            None => at += rest.chars().next().map_or(1, char::len_utf8),
        }
    }
    if from < text.len() {
        parts.push(Part::Text(&text[from..]));
    }
    parts
}

/// How a named pre-tokenizer cuts text into words. The expressions are those of the models' own `tokenizer.json`.
struct Rules {
    pre_tokenizer: Vec<PreTokenizerWrapper>,
    ignore_merges: bool,
    adds_bos: bool,
}

impl Rules {
    fn named(name: &str) -> Result<Self, TokenizerError> {
        const LLAMA: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
        const QWEN: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
        let gpt2 = || PreTokenizerWrapper::ByteLevel(ByteLevel::new(false, true, true));
        let plain = |pre_tokenizer| Self { pre_tokenizer, ignore_merges: false, adds_bos: false };
        match name {
            "smollm" => Ok(plain(vec![PreTokenizerWrapper::Digits(Digits::new(true)), gpt2()])),
            "gpt-2" => Ok(plain(vec![gpt2()])),
            "llama-bpe" => Ok(Self { ignore_merges: true, adds_bos: true, ..plain(split(LLAMA)?) }),
            "qwen2" => Ok(plain(split(QWEN)?)),
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

/// Token names with their types.
struct Vocabulary<'a> {
    tokens: &'a [String],
    types: Vec<i32>,
}

impl<'a> Vocabulary<'a> {
    fn from_header(header: &'a Header) -> Result<Self, TokenizerError> {
        let tokens = header.strings("tokenizer.ggml.tokens")?;
        let tokens = tokens.ok_or_else(|| GgufError::MissingKey("tokenizer.ggml.tokens".into()))?;
        let types = match header.ints("tokenizer.ggml.token_type")? {
            Some(types) if types.len() != tokens.len() => {
                return Err(TokenizerError::Damaged("there are not as many token types as tokens".into()));
            }
            Some(types) => types.to_vec(),
            None => vec![NORMAL; tokens.len()],
        };
        Ok(Self { tokens, types })
    }

    /// Tokens of a type with a name, longest first.
    fn of_type(&self, wanted: i32) -> Vec<(String, u32)> {
        let all = self.tokens.iter().zip(&self.types).enumerate();
        let mut found: Vec<(String, u32)> = all
            .filter(|(_, (name, kind))| **kind == wanted && !name.is_empty())
            .map(|(id, (name, _))| (name.clone(), id as u32))
            .collect();
        found.sort_by_key(|(name, _)| std::cmp::Reverse(name.len()));
        found
    }

    fn bpe(&self, header: &Header, rules: &Rules) -> Result<tokenizers::Tokenizer, TokenizerError> {
        /// A noncharacter, so that no text can spell it.
        const UNKNOWN: &str = "\u{fdd0}unknown";
        let merges = header.strings("tokenizer.ggml.merges")?;
        let merges = merges.ok_or_else(|| GgufError::MissingKey("tokenizer.ggml.merges".into()))?;
        let pair = |merge: &String| {
            let (a, b) =
                merge.split_once(' ').ok_or_else(|| TokenizerError::Damaged(format!("bad merge \"{merge}\"")))?;
            Ok((a.to_owned(), b.to_owned()))
        };
        let merges = merges.iter().map(pair).collect::<Result<Vec<_>, TokenizerError>>()?;
        let all = self.tokens.iter().zip(&self.types).enumerate();
        let mut vocab: Vocab = all
            .filter(|(_, (_, kind))| matches!(**kind, NORMAL | USER_DEFINED))
            .map(|(id, (name, _))| (name.clone(), id as u32))
            .collect();
        vocab.insert(UNKNOWN.to_owned(), self.tokens.len() as u32);
        let bpe = BPE::builder()
            .vocab_and_merges(vocab, merges)
            .unk_token(UNKNOWN.to_owned())
            .ignore_merges(rules.ignore_merges)
            .build()
            .map_err(|error| TokenizerError::Build(error.to_string()))?;
        let mut tokenizer = tokenizers::Tokenizer::new(bpe);
        tokenizer.with_pre_tokenizer(Some(Sequence::new(rules.pre_tokenizer.clone())));
        Ok(tokenizer)
    }
}

/// The bytes of all tokens in one buffer.
struct Pieces {
    bytes: Vec<u8>,
    /// Where each token begins, and the end of the last.
    starts: Vec<u32>,
}

impl Pieces {
    fn new(vocabulary: &Vocabulary) -> Self {
        let byte_of = byte_of_character();
        let (mut bytes, mut starts) = (Vec::new(), vec![0]);
        for (name, kind) in vocabulary.tokens.iter().zip(&vocabulary.types) {
            match *kind {
                NORMAL => bytes.extend(name.chars().flat_map(|c| match byte_of.get(&c) {
                    Some(byte) => vec![*byte],
                    None => c.to_string().into_bytes(),
                })),
                USER_DEFINED => bytes.extend_from_slice(name.as_bytes()),
                _ => {}
            }
            starts.push(bytes.len() as u32);
        }
        Self { bytes, starts }
    }

    fn get(&self, token: u32) -> &[u8] {
        let at = token as usize;
        match (self.starts.get(at), self.starts.get(at + 1)) {
            (Some(start), Some(end)) => &self.bytes[*start as usize..*end as usize],
            _ => &[],
        }
    }
}

/// The bytes that GPT-2's printable characters stand for.
fn byte_of_character() -> HashMap<char, u8> {
    let mut next = 256;
    let character = |byte: u8| match byte {
        b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff => char::from(byte),
        _ => {
            next += 1;
            char::from_u32(next - 1).unwrap_or(char::REPLACEMENT_CHARACTER)
        }
    };
    (0..=255u8).map(character).zip(0..=255).collect()
}
