//! The parameters of a draw: their ranges, what they do to logits, and the hash that a receipt carries.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};

use super::{MAX_CANDIDATES, SamplerError};

/// Most logit biases of one request.
pub const MAX_LOGIT_BIASES: usize = 1024;
/// The longest JSON Schema, in bytes.
pub const MAX_SCHEMA_BYTES: usize = 64 << 10;

const PARAMS_CONTEXT: &str = "xdc-grid 2026-11 sampler params v1";

/// Which token follows from logits and the tokens before it. Name the fields that matter and take the others from
/// [`GREEDY`](Self::GREEDY), whose values mean "off".
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct SamplerParams {
    /// 0 to 100; 0 is greedy.
    pub temperature: f32,
    /// Above 0, at most 1; 1 keeps all candidates.
    pub top_p: f32,
    /// 0, or anything from 64 on, keeps 64 candidates.
    pub top_k: u32,
    /// 0 to 1. Drops candidates less than so many times as likely as the first; 0 keeps all.
    pub min_p: f32,
    /// 0.1 to 10. Divides positive and multiplies negative logits of all tokens of prompt and answer; 1 is off.
    pub repetition_penalty: f32,
    /// -2 to 2. Taken from the logits of all tokens of the answer; 0 is off.
    pub presence_penalty: f32,
    /// -2 to 2. Taken from a token's logit once for each time that it is in the answer; 0 is off.
    pub frequency_penalty: f32,
    /// Added to logits: at most [`MAX_LOGIT_BIASES`], in the order of ids, each id once.
    pub logit_bias: Vec<LogitBias>,
    /// The form that the text must have.
    pub form: TextForm,
}

/// What is added to the logit of one token.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct LogitBias {
    pub id: u32,
    /// -100 to 100. As with OpenAI, -100 in effect bans a token and 100 in effect forces it.
    pub bias: f32,
}

/// The form that a text must have (OpenAI's `response_format`).
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum TextForm {
    #[default]
    Free,
    /// Any JSON object.
    JsonObject,
    /// JSON that fits this JSON Schema, itself given as JSON text of at most [`MAX_SCHEMA_BYTES`].
    JsonSchema(String),
}

impl Default for SamplerParams {
    fn default() -> Self {
        Self::GREEDY
    }
}

impl SamplerParams {
    /// Always the most likely token, with nothing changed.
    pub const GREEDY: Self = Self::new(0.0, 1.0, 0);

    /// What the first version had, with everything else off.
    pub const fn new(temperature: f32, top_p: f32, top_k: u32) -> Self {
        Self {
            temperature,
            top_p,
            top_k,
            min_p: 0.0,
            repetition_penalty: 1.0,
            presence_penalty: 0.0,
            frequency_penalty: 0.0,
            logit_bias: Vec::new(),
            form: TextForm::Free,
        }
    }

    /// Checks the ranges.
    pub fn validate(&self) -> Result<(), SamplerError> {
        if !(0.0..=100.0).contains(&self.temperature) {
            return Err(SamplerError::Temperature(self.temperature));
        }
        if !(self.top_p > 0.0 && self.top_p <= 1.0) {
            return Err(SamplerError::TopP(self.top_p));
        }
        let ranges = [
            ("min_p", self.min_p, 0.0, 1.0),
            ("repetition_penalty", self.repetition_penalty, 0.1, 10.0),
            ("presence_penalty", self.presence_penalty, -2.0, 2.0),
            ("frequency_penalty", self.frequency_penalty, -2.0, 2.0),
        ];
        for (field, value, low, high) in ranges {
            if !(low..=high).contains(&value) {
                return Err(SamplerError::Range { field, value, low, high });
            }
        }
        self.validate_bias()?;
        match &self.form {
            TextForm::JsonSchema(schema) if schema.len() > MAX_SCHEMA_BYTES => Err(SamplerError::Schema(schema.len())),
            _ => Ok(()),
        }
    }

    fn validate_bias(&self) -> Result<(), SamplerError> {
        let bias = &self.logit_bias;
        if bias.len() > MAX_LOGIT_BIASES {
            return Err(SamplerError::TooManyBiases(bias.len()));
        }
        if bias.windows(2).any(|pair| matches!(pair, [a, b] if a.id >= b.id)) {
            return Err(SamplerError::UnsortedBiases);
        }
        match bias.iter().find(|entry| !(-100.0..=100.0).contains(&entry.bias)) {
            Some(entry) => {
                Err(SamplerError::Range { field: "logit_bias", value: entry.bias, low: -100.0, high: 100.0 })
            }
            None => Ok(()),
        }
    }

    /// The hash that a receipt carries. Parameters that act alike have the same hash, and those that only use what the
    /// first version had keep theirs.
    pub fn hash(&self) -> [u8; 32] {
        let greedy = self.temperature == 0.0;
        let (temperature, top_p, candidates, min_p) = match greedy {
            true => (0.0, 1.0, 0, 0.0),
            false => (self.temperature, self.top_p, self.candidates() as u32, self.min_p),
        };
        let mut hasher = blake3::Hasher::new_derive_key(PARAMS_CONTEXT);
        hasher.update(&temperature.to_le_bytes()).update(&top_p.to_le_bytes()).update(&candidates.to_le_bytes());
        if min_p != 0.0 || self.changes_logits() || self.form != TextForm::Free {
            self.hash_more(&mut hasher, min_p);
        }
        *hasher.finalize().as_bytes()
    }

    fn hash_more(&self, hasher: &mut blake3::Hasher, min_p: f32) {
        for value in [min_p, self.repetition_penalty, self.presence_penalty, self.frequency_penalty] {
            // Both zeros act alike.
            hasher.update(&(value + 0.0).to_le_bytes());
        }
        let bias = || self.logit_bias.iter().filter(|entry| entry.bias != 0.0);
        hasher.update(&(bias().count() as u32).to_le_bytes());
        for entry in bias() {
            hasher.update(&entry.id.to_le_bytes()).update(&entry.bias.to_le_bytes());
        }
        let (kind, schema) = match &self.form {
            TextForm::Free => (0u8, ""),
            TextForm::JsonObject => (1, ""),
            TextForm::JsonSchema(schema) => (2, schema.as_str()),
        };
        hasher.update(&[kind]).update(schema.as_bytes());
    }

    pub(super) fn candidates(&self) -> usize {
        match self.top_k as usize {
            0 => MAX_CANDIDATES,
            k => k.min(MAX_CANDIDATES),
        }
    }

    /// Whether the tokens before a draw matter to it.
    pub fn counts_tokens(&self) -> bool {
        self.repetition_penalty != 1.0 || self.presence_penalty != 0.0 || self.frequency_penalty != 0.0
    }

    /// Whether [`adjust`](Self::adjust) may change anything.
    pub fn changes_logits(&self) -> bool {
        self.counts_tokens() || self.logit_bias.iter().any(|entry| entry.bias != 0.0)
    }

    /// Step 1 of the [specification](super): biases and penalties, on the row itself. Costs as much as there are biases
    /// and different tokens in `counts`, and does not depend on the size of the vocabulary.
    pub fn adjust(&self, logits: &mut [f32], counts: &TokenCounts) {
        for LogitBias { id, bias } in &self.logit_bias {
            if let Some(logit) = logits.get_mut(*id as usize) {
                *logit += bias;
            }
        }
        if !self.counts_tokens() {
            return;
        }
        // Tokens do not influence one another, so the order of the map does not matter.
        for (id, in_answer) in &counts.0 {
            if let Some(logit) = logits.get_mut(*id as usize) {
                *logit = self.penalized(*logit, *in_answer);
            }
        }
    }

    fn penalized(&self, logit: f32, in_answer: u32) -> f32 {
        let logit = if logit > 0.0 { logit / self.repetition_penalty } else { logit * self.repetition_penalty };
        match in_answer {
            0 => logit,
            count => logit - self.frequency_penalty * count as f32 - self.presence_penalty,
        }
    }
}

/// The tokens before a draw: for each that was in the prompt or the answer, how often it is in the answer.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TokenCounts(HashMap<u32, u32>);

impl TokenCounts {
    /// The counts before the first token of an answer.
    pub fn of_prompt(prompt: &[u32]) -> Self {
        Self(prompt.iter().map(|id| (*id, 0)).collect())
    }

    /// Counts a token of the answer.
    pub fn push(&mut self, id: u32) {
        *self.0.entry(id).or_default() += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sampler::sample;
    use proptest::prelude::*;

    const WARM: SamplerParams = SamplerParams::new(1.0, 0.5, 0);

    #[test]
    fn parameters_out_of_range_are_refused_by_name() {
        let bias = |entries: &[(u32, f32)]| SamplerParams {
            logit_bias: entries.iter().map(|(id, bias)| LogitBias { id: *id, bias: *bias }).collect(),
            ..WARM
        };
        let refused = [
            (SamplerParams { temperature: -1.0, ..WARM }, "temperature"),
            (SamplerParams { temperature: f32::NAN, ..WARM }, "temperature"),
            (SamplerParams { temperature: 101.0, ..WARM }, "temperature"),
            (SamplerParams { top_p: 0.0, ..WARM }, "top_p"),
            (SamplerParams { top_p: 1.1, ..WARM }, "top_p"),
            (SamplerParams { top_p: f32::NAN, ..WARM }, "top_p"),
            (SamplerParams { min_p: 1.5, ..WARM }, "min_p"),
            (SamplerParams { repetition_penalty: 0.0, ..WARM }, "repetition_penalty"),
            (SamplerParams { repetition_penalty: f32::NAN, ..WARM }, "repetition_penalty"),
            (SamplerParams { presence_penalty: -3.0, ..WARM }, "presence_penalty"),
            (SamplerParams { frequency_penalty: f32::INFINITY, ..WARM }, "frequency_penalty"),
            (bias(&[(1, 101.0)]), "logit_bias"),
            (bias(&[(2, 1.0), (1, 1.0)]), "logit_bias"),
            (bias(&[(1, 1.0), (1, 1.0)]), "logit_bias"),
            (bias(&vec![(0, 0.0); 1_025]), "logit_bias"),
            (SamplerParams { form: TextForm::JsonSchema("x".repeat(65_537)), ..WARM }, "schema"),
        ];
        for (params, field) in refused {
            let message = params.validate().unwrap_err().to_string();
            assert!(message.contains(field), "{field}: {message}");
        }
        assert_eq!(bias(&[(1, -100.0), (7, 100.0)]).validate(), Ok(()));
    }

    #[test]
    fn hashes_tell_parameters_apart_only_where_they_act_differently() {
        let greedy = SamplerParams::GREEDY;
        let same = [
            (SamplerParams { temperature: -0.0, top_p: 0.5, top_k: 3, min_p: 0.1, ..greedy.clone() }, greedy.clone()),
            (SamplerParams { top_k: 64, ..WARM }, WARM),
            (SamplerParams { frequency_penalty: -0.0, ..WARM }, WARM),
            (SamplerParams { logit_bias: vec![LogitBias { id: 4, bias: 0.0 }], ..WARM }, WARM),
        ];
        for (a, b) in same {
            assert_eq!(a.hash(), b.hash(), "{a:?} {b:?}");
        }
        let different = [
            greedy.clone(),
            WARM,
            SamplerParams { top_k: 3, ..WARM },
            SamplerParams { top_k: 4, ..WARM },
            SamplerParams { min_p: 0.1, ..WARM },
            SamplerParams { repetition_penalty: 1.1, ..WARM },
            SamplerParams { presence_penalty: 0.1, ..WARM },
            SamplerParams { frequency_penalty: 0.1, ..WARM },
            SamplerParams { frequency_penalty: 0.1, ..greedy.clone() },
            SamplerParams { logit_bias: vec![LogitBias { id: 4, bias: 1.0 }], ..WARM },
            SamplerParams { logit_bias: vec![LogitBias { id: 5, bias: 1.0 }], ..WARM },
            SamplerParams { form: TextForm::JsonObject, ..WARM },
            SamplerParams { form: TextForm::JsonSchema("{}".into()), ..WARM },
        ];
        let hashes: std::collections::BTreeSet<_> = different.iter().map(SamplerParams::hash).collect();
        assert_eq!(hashes.len(), different.len());
    }

    #[test]
    fn penalties_and_biases_change_logits_as_specified() {
        let mut counts = TokenCounts::of_prompt(&[0, 1]);
        [1, 2, 2].into_iter().for_each(|id| counts.push(id));
        let params = SamplerParams {
            repetition_penalty: 2.0,
            presence_penalty: 0.5,
            frequency_penalty: 0.25,
            logit_bias: vec![
                LogitBias { id: 2, bias: 1.0 },
                LogitBias { id: 3, bias: -7.0 },
                LogitBias { id: 9, bias: 1.0 },
            ],
            ..WARM
        };
        let mut logits = [4.0, -4.0, 3.0, 1.0, 2.0];
        params.adjust(&mut logits, &counts);
        assert_eq!(logits, [2.0, -8.0 - 0.75, 2.0 - 1.0, -6.0, 2.0]);
        assert!(params.counts_tokens() && params.changes_logits() && !WARM.changes_logits());
    }

    #[test]
    fn a_repeated_token_gives_way_and_a_biased_one_wins() {
        let logits = [1.0, 3.0, 2.9];
        let mut counts = TokenCounts::default();
        counts.push(1);
        let choose = |params: SamplerParams| {
            let mut logits = logits;
            params.adjust(&mut logits, &counts);
            sample(&logits, &params, &[0; 32], 1).unwrap()
        };
        assert_eq!(choose(SamplerParams::GREEDY), 1);
        assert_eq!(choose(SamplerParams { frequency_penalty: 0.2, ..SamplerParams::GREEDY }), 2);
        assert_eq!(choose(SamplerParams { repetition_penalty: 1.1, ..SamplerParams::GREEDY }), 2);
        let bias = vec![LogitBias { id: 0, bias: 100.0 }];
        assert_eq!(choose(SamplerParams { logit_bias: bias, ..SamplerParams::GREEDY }), 0);
    }

    proptest! {
        #[test]
        fn counting_on_is_counting_anew(prompt in prop::collection::vec(0u32..40, 0..30), answer in prop::collection::vec(0u32..40, 0..30)) {
            let mut on = TokenCounts::of_prompt(&prompt);
            for (index, id) in answer.iter().enumerate() {
                let mut anew = TokenCounts::of_prompt(&prompt);
                answer[..index].iter().for_each(|id| anew.push(*id));
                prop_assert_eq!(&on, &anew);
                on.push(*id);
            }
        }
    }
}
