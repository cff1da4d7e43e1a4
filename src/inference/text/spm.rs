//! SentencePiece's BPE as GGUF files describe it (tokenizer type "llama"): characters are joined pair by pair, the pair that
//! makes the token with the highest score first, and what is no token in the end is spelled in bytes.

use std::cmp::Ordering;
use std::collections::BinaryHeap;

use super::tokenizer::TokenizerError;
use super::vocabulary::{BYTE, CONTROL, SPACE, UNKNOWN, Vocabulary, named_byte};
use crate::gguf::{GgufError, Header};
use crate::strings::Strings;

/// No neighbour.
const NONE: usize = usize::MAX;

/// A SentencePiece vocabulary.
pub(super) struct SentencePiece {
    tokens: Strings,
    /// Tokens that text can become, in the order of their names. Control tokens are not among them.
    by_name: Vec<u32>,
    scores: Vec<f32>,
    /// The token of each byte.
    bytes: Vec<Option<u32>>,
    unknown: Option<u32>,
    /// Whether a text begins as if a space stood before it.
    space_prefix: bool,
}

/// A character, or several that were joined: a piece of the text with its neighbours.
#[derive(Clone, Copy)]
struct Symbol {
    start: usize,
    /// 0 once it was joined to its left neighbour.
    length: usize,
    previous: usize,
    next: usize,
}

/// Two neighbours that would make a token.
struct Pair {
    score: f32,
    left: usize,
    right: usize,
    /// Bytes of both; where they have changed since, the pair is out of date.
    length: usize,
}

impl Ord for Pair {
    /// The higher score is greater, and of equals the one more to the left.
    fn cmp(&self, other: &Self) -> Ordering {
        self.score.total_cmp(&other.score).then(other.left.cmp(&self.left))
    }
}

impl PartialOrd for Pair {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Pair {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Pair {}

impl SentencePiece {
    pub(super) fn new(header: &Header, vocabulary: &Vocabulary) -> Result<Self, TokenizerError> {
        let scores = header.floats("tokenizer.ggml.scores")?;
        let scores = scores.ok_or_else(|| GgufError::MissingKey("tokenizer.ggml.scores".into()))?;
        if scores.len() != vocabulary.tokens.len() {
            return Err(TokenizerError::Damaged("there are not as many scores as tokens".into()));
        }
        let text = vocabulary.iter().filter(|(_, name, kind)| !matches!(*kind, CONTROL | UNKNOWN) && !name.is_empty());
        let mut by_name: Vec<(&str, u32)> = text.map(|(id, name, _)| (name, id)).collect();
        by_name.sort_unstable();
        let mut bytes = vec![None; 256];
        for (id, name, _) in vocabulary.iter().filter(|(_, _, kind)| *kind == BYTE) {
            if let Some(byte) = named_byte(name) {
                bytes[usize::from(byte)] = Some(id);
            }
        }
        Ok(Self {
            tokens: vocabulary.tokens.clone(),
            by_name: by_name.into_iter().map(|(_, id)| id).collect(),
            scores: scores.to_vec(),
            bytes,
            unknown: vocabulary.iter().find(|(_, _, kind)| *kind == UNKNOWN).map(|(id, ..)| id),
            space_prefix: header.bool("tokenizer.ggml.add_space_prefix")?.unwrap_or(true),
        })
    }

    /// Adds the tokens of a text. `after_special`: it stands at the start or after a token that is known by name.
    pub(super) fn encode(&self, text: &str, after_special: bool, tokens: &mut Vec<u32>) {
        let prefix = if after_special && self.space_prefix { " " } else { "" };
        let text = format!("{prefix}{text}").replace(' ', SPACE.encode_utf8(&mut [0; 4]));
        let symbols = self.join(&text);
        let mut at = if symbols.is_empty() { NONE } else { 0 };
        while let Some(symbol) = symbols.get(at) {
            self.spell(&text[symbol.start..symbol.start + symbol.length], tokens);
            at = symbol.next;
        }
    }

    /// Joins characters until no two neighbours make a token.
    fn join(&self, text: &str) -> Vec<Symbol> {
        let count = text.chars().count();
        let symbol = |(index, (start, c)): (usize, (usize, char))| Symbol {
            start,
            length: c.len_utf8(),
            previous: index.checked_sub(1).unwrap_or(NONE),
            next: if index + 1 < count { index + 1 } else { NONE },
        };
        let mut symbols: Vec<Symbol> = text.char_indices().enumerate().map(symbol).collect();
        let mut pairs: BinaryHeap<Pair> =
            (1..count).filter_map(|right| self.pair(text, &symbols, right - 1, right)).collect();
        while let Some(Pair { left, right, length, .. }) = pairs.pop() {
            let (a, b) = (symbols[left], symbols[right]);
            if a.length == 0 || b.length == 0 || a.length + b.length != length {
                continue;
            }
            symbols[left] = Symbol { length, next: b.next, ..a };
            symbols[right].length = 0;
            if let Some(next) = symbols.get_mut(b.next) {
                next.previous = left;
            }
            pairs.extend(self.pair(text, &symbols, a.previous, left));
            pairs.extend(self.pair(text, &symbols, left, b.next));
        }
        symbols
    }

    fn pair(&self, text: &str, symbols: &[Symbol], left: usize, right: usize) -> Option<Pair> {
        let (a, b) = (symbols.get(left)?, symbols.get(right)?);
        let token = self.find(&text[a.start..b.start + b.length])?;
        Some(Pair { score: self.scores[token as usize], left, right, length: a.length + b.length })
    }

    /// The token of that name; where several have it, the last one.
    fn find(&self, name: &str) -> Option<u32> {
        let of = |id: u32| self.tokens.get(id as usize).unwrap_or_default();
        let after = self.by_name.partition_point(|id| of(*id) <= name);
        self.by_name.get(after.checked_sub(1)?).copied().filter(|id| of(*id) == name)
    }

    fn spell(&self, piece: &str, tokens: &mut Vec<u32>) {
        match self.find(piece) {
            Some(token) => tokens.push(token),
            None => tokens.extend(piece.bytes().filter_map(|byte| self.bytes[usize::from(byte)].or(self.unknown))),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::gguf::Value;
    use crate::text::vocabulary::NORMAL;

    /// Tokens with scores: `(name, score, type)`.
    fn model(tokens: &[(&str, f32, i32)], space_prefix: bool) -> SentencePiece {
        let mut metadata = BTreeMap::new();
        let mut set = |key: &str, value| metadata.insert(format!("tokenizer.ggml.{key}"), value);
        set("tokens", Value::Strings(tokens.iter().map(|(name, ..)| *name).collect()));
        set("scores", Value::Floats(tokens.iter().map(|(_, score, _)| *score).collect()));
        set("token_type", Value::Ints(tokens.iter().map(|(_, _, kind)| *kind).collect()));
        set("add_space_prefix", Value::Bool(space_prefix));
        let header = Header { metadata, ..Header::default() };
        SentencePiece::new(&header, &Vocabulary::from_header(&header).unwrap()).unwrap()
    }

    fn tokens(model: &SentencePiece, text: &str, after_special: bool) -> Vec<u32> {
        let mut tokens = Vec::new();
        model.encode(text, after_special, &mut tokens);
        tokens
    }

    const TOKENS: [(&str, f32, i32); 10] = [
        ("<unk>", 0.0, UNKNOWN),
        ("a", -10.0, NORMAL),
        ("b", -11.0, NORMAL),
        ("ab", -2.0, NORMAL),
        ("ba", -1.0, NORMAL),
        ("▁", -3.0, NORMAL),
        ("▁a", -4.0, NORMAL),
        ("<0xC3>", 0.0, BYTE),
        ("<0xA9>", 0.0, BYTE),
        ("aa", 0.0, CONTROL),
    ];

    #[test]
    fn the_pair_with_the_best_score_is_joined_first_and_of_equals_the_left_one() {
        let model = model(&TOKENS, false);
        assert_eq!(tokens(&model, "aba", true), [1, 4]);
        assert_eq!(tokens(&model, "baba", true), [4, 4]);
        assert_eq!(tokens(&model, "bab", true), [4, 2]);
        assert_eq!(tokens(&model, "", true), [0u32; 0]);
    }

    #[test]
    fn a_space_is_put_before_text_after_the_start_only() {
        let prefixed = model(&TOKENS, true);
        assert_eq!(tokens(&prefixed, "a", true), [6]);
        assert_eq!(tokens(&prefixed, "a", false), [1]);
        assert_eq!(tokens(&model(&TOKENS, false), " a", true), [6]);
    }

    #[test]
    fn what_is_no_token_is_spelled_in_bytes_and_control_tokens_are_never_made() {
        let model = model(&TOKENS, false);
        assert_eq!(tokens(&model, "é", true), [7, 8]);
        assert_eq!(tokens(&model, "x", true), [0]);
        assert_eq!(tokens(&model, "aa", true), [1, 1]);
    }
}
