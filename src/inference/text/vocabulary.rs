//! Token names with their types, as a GGUF file lists them, and the bytes that tokens stand for.

use std::collections::HashMap;

use super::tokenizer::TokenizerError;
use crate::gguf::{GgufError, Header};
use crate::strings::Strings;

/// GGUF's token types. Types that are not listed stand for no text.
pub(crate) const NORMAL: i32 = 1;
pub(super) const UNKNOWN: i32 = 2;
pub(crate) const CONTROL: i32 = 3;
pub(crate) const USER_DEFINED: i32 = 4;
pub(crate) const UNUSED: i32 = 5;
pub(super) const BYTE: i32 = 6;

/// Tokens that end an answer or a turn wherever they occur. Some files list them as text (Gemma's `</s>`) though nothing makes them of text; nobody
/// may write one by writing its name, and llama.cpp overrides such types as well.
const ENDS: [&str; 8] =
    ["</s>", "<|eot_id|>", "<|eom_id|>", "<|im_end|>", "<|end|>", "<|endoftext|>", "<end_of_turn>", "<EOT>"];

/// What SentencePiece writes for a space.
pub(super) const SPACE: char = '▁';

/// Token names with their types.
pub(super) struct Vocabulary<'a> {
    pub(super) tokens: &'a Strings,
    pub(super) types: Vec<i32>,
}

impl<'a> Vocabulary<'a> {
    pub(super) fn from_header(header: &'a Header) -> Result<Self, TokenizerError> {
        let tokens = header.strings("tokenizer.ggml.tokens")?;
        let tokens = tokens.ok_or_else(|| GgufError::MissingKey("tokenizer.ggml.tokens".into()))?;
        let mut types = match header.ints("tokenizer.ggml.token_type")? {
            Some(types) if types.len() != tokens.len() => {
                return Err(TokenizerError::Damaged("there are not as many token types as tokens".into()));
            }
            Some(types) => types.to_vec(),
            None => vec![NORMAL; tokens.len()],
        };
        let merges = header.strings("tokenizer.ggml.merges")?;
        for (name, kind) in tokens.iter().zip(&mut types) {
            if ENDS.contains(&name) && !(*kind == NORMAL && is_word(name, merges)) {
                *kind = CONTROL;
            }
        }
        Ok(Self { tokens, types })
    }

    /// Number, name and type of each token.
    pub(super) fn iter(&self) -> impl Iterator<Item = (u32, &str, i32)> {
        self.tokens.iter().zip(&self.types).zip(0u32..).map(|((name, kind), id)| (id, name, *kind))
    }

    /// Tokens of a type that have a name.
    pub(super) fn of_type(&self, wanted: i32) -> Vec<(String, u32)> {
        let found = self.iter().filter(|(_, name, kind)| *kind == wanted && !name.is_empty());
        found.map(|(id, name, _)| (name.to_owned(), id)).collect()
    }
}

/// Whether merges of byte-level BPE make a token, which is then a piece of text like any other: Qwen's vocabularies have `</s>` among their words, as HTML
/// has it.
fn is_word(name: &str, merges: Option<&Strings>) -> bool {
    let makes = |merge: &str| merge.split_once(' ').is_some_and(|(a, b)| name.strip_prefix(a) == Some(b));
    merges.is_some_and(|merges| merges.iter().any(makes))
}

/// The byte that a token like `<0x0A>` names.
pub(super) fn named_byte(name: &str) -> Option<u8> {
    let digits = name.strip_prefix("<0x")?.strip_suffix('>')?;
    (digits.len() == 2).then(|| u8::from_str_radix(digits, 16).ok()).flatten()
}

/// The bytes of all tokens in one buffer.
pub(super) struct Pieces {
    bytes: Vec<u8>,
    /// Where each token begins, and the end of the last.
    starts: Vec<u32>,
}

impl Pieces {
    /// Pieces of a vocabulary whose normal tokens are spelled in GPT-2's printable characters.
    pub(super) fn byte_level(vocabulary: &Vocabulary) -> Self {
        let byte_of = byte_of_character();
        Self::new(vocabulary, |name, kind, bytes| match kind {
            NORMAL => {
                for c in name.chars() {
                    match byte_of.get(&c) {
                        Some(byte) => bytes.push(*byte),
                        None => bytes.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
                    }
                }
            }
            USER_DEFINED => bytes.extend_from_slice(name.as_bytes()),
            _ => {}
        })
    }

    /// Pieces of a SentencePiece vocabulary.
    pub(super) fn sentence_piece(vocabulary: &Vocabulary) -> Self {
        Self::new(vocabulary, |name, kind, bytes| match kind {
            NORMAL | USER_DEFINED => bytes.extend_from_slice(name.replace(SPACE, " ").as_bytes()),
            BYTE => bytes.extend(named_byte(name)),
            _ => {}
        })
    }

    fn new(vocabulary: &Vocabulary, mut spell: impl FnMut(&str, i32, &mut Vec<u8>)) -> Self {
        let (mut bytes, mut starts) = (Vec::new(), vec![0]);
        for (_, name, kind) in vocabulary.iter() {
            spell(name, kind, &mut bytes);
            starts.push(bytes.len() as u32);
        }
        Self { bytes, starts }
    }

    /// The bytes of a token; none for control tokens and for numbers outside of the vocabulary.
    pub(super) fn get(&self, token: u32) -> &[u8] {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_merges_make_is_text_even_by_the_name_of_an_end() {
        let merges: Strings = ["< /", "</ s>", "s >"].into_iter().collect();
        assert!(is_word("</s>", Some(&merges)) && is_word("s>", Some(&merges)));
        assert!(!is_word("<|im_end|>", Some(&merges)) && !is_word("</s>", None));
    }

    #[test]
    fn pieces_are_spelled_by_type() {
        let tokens: Strings = ["<0x0A>", "▁the", "<bos>", "  ", "<0xZZ>"].into_iter().collect();
        let vocabulary = Vocabulary { tokens: &tokens, types: vec![BYTE, NORMAL, CONTROL, USER_DEFINED, BYTE] };
        let pieces = Pieces::sentence_piece(&vocabulary);
        let all: Vec<&[u8]> = (0..6).map(|token| pieces.get(token)).collect();
        assert_eq!(all, [b"\n".as_slice(), b" the", b"", b"  ", b"", b""]);
        assert_eq!(named_byte("<0xfg>"), None);
    }
}
