//! How likely the tokens of an answer were, by the model's own distribution: from the worker to the client and into results.

use base64::{Engine, prelude::BASE64_STANDARD};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::wire;

/// Most alternatives that are told with a token, as with OpenAI.
pub const MAX_TOP_LOGPROBS: u32 = 20;
/// Bytes of one token.
const MAX_TOKEN_BYTES: usize = 4096;

/// A token that was chosen, and what else could have been.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TokenLogprob {
    pub token: TokenText,
    /// Natural logarithm of its probability.
    pub logprob: f32,
    /// The most likely tokens, from high to low.
    pub top: Vec<(TokenText, f32)>,
}

/// The bytes of one token. It may be part of a character only. JSON between our own programs has it as base64.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenText(pub Vec<u8>);

impl Serialize for TokenText {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&BASE64_STANDARD.encode(&self.0))
    }
}

impl<'de> Deserialize<'de> for TokenText {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        BASE64_STANDARD.decode(text).map(TokenText).map_err(serde::de::Error::custom)
    }
}

/// Reads what a worker tells of a token; `asked`: how many alternatives it was asked for. The error says what is wrong.
pub fn check(told: Option<&wire::TokenLogprobs>, asked: Option<u32>) -> Result<(), &'static str> {
    let (told, asked) = match (told, asked) {
        (None, None) => return Ok(()),
        (None, Some(_)) => return Err("a token came without the log-probabilities that were asked for"),
        (Some(_), None) => return Err("a token came with log-probabilities that nobody asked for"),
        (Some(told), Some(asked)) => (told, asked),
    };
    if told.top.len() > asked as usize {
        return Err("a token came with more alternatives than were asked for");
    }
    let mut bytes = told.top.iter().map(|top| top.bytes.len()).chain([told.bytes.len()]);
    if bytes.any(|length| length > MAX_TOKEN_BYTES) {
        return Err("a token among the log-probabilities is longer than any token");
    }
    // Rounding may lift the logarithm of a certain token a little above 0.
    let sound = |logprob: f32| logprob.is_finite() && logprob < 0.01;
    if !sound(told.logprob) || !told.top.iter().all(|top| sound(top.logprob)) {
        return Err("a log-probability is no finite number of at most 0");
    }
    match told.top.is_sorted_by(|a, b| a.logprob >= b.logprob) {
        true => Ok(()),
        false => Err("the alternatives are not in the order of their probability"),
    }
}

/// What of it a client is told: nothing of control tokens, which have no bytes and are no part of the text.
pub fn shown(told: &wire::TokenLogprobs) -> Option<TokenLogprob> {
    let top = told.top.iter().map(|top| (TokenText(top.bytes.clone()), top.logprob)).collect();
    let token = TokenText(told.bytes.clone());
    (!token.0.is_empty()).then_some(TokenLogprob { token, logprob: told.logprob, top })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(logprobs: &[f32]) -> wire::TokenLogprobs {
        let top = logprobs.iter().map(|logprob| wire::TopLogprob { bytes: vec![0xc3], logprob: *logprob });
        wire::TokenLogprobs { bytes: b"x".to_vec(), logprob: -0.5, top: top.collect() }
    }

    #[test]
    fn what_was_not_asked_for_or_cannot_be_is_refused() {
        assert_eq!(check(None, None), Ok(()));
        assert_eq!(check(Some(&told(&[-0.5, -1.0])), Some(2)), Ok(()));
        for (told, asked) in [
            (None, Some(0)),
            (Some(told(&[])), None),
            (Some(told(&[-0.5, -1.0])), Some(1)),
            (Some(told(&[-1.0, -0.5])), Some(2)),
            (Some(told(&[f32::NAN])), Some(2)),
            (Some(told(&[0.5])), Some(2)),
            (Some(wire::TokenLogprobs { bytes: vec![0; 5000], ..told(&[]) }), Some(2)),
        ] {
            assert!(check(told.as_ref(), asked).is_err(), "{told:?} {asked:?}");
        }
    }

    #[test]
    fn a_control_token_is_not_shown_and_bytes_survive_json() {
        assert_eq!(shown(&wire::TokenLogprobs { bytes: Vec::new(), ..told(&[]) }), None);
        let shown = shown(&told(&[-0.5])).unwrap();
        let json = serde_json::to_string(&shown).unwrap();
        assert_eq!(serde_json::from_str::<TokenLogprob>(&json).unwrap(), shown);
    }
}
