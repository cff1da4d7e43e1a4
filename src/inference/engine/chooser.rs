//! What decides about a sequence's tokens beside its logits: parameters, seed, and what they must know of the tokens before.

use crate::FormError;
use crate::form::FormState;
use xdc_grid_exact::sampler::{
    Candidate, Draw, MAX_CANDIDATES, SamplerError, SamplerParams, TokenCounts, highest_allowed,
};

pub(super) struct Chooser {
    params: SamplerParams,
    seed: [u8; 32],
    /// Where penalties ask for them.
    counts: Option<TokenCounts>,
    /// Where the text must have a form.
    form: Option<FormState>,
}

impl Chooser {
    /// Ready for the first output token after `prompt`; `form` is at the beginning of the text.
    pub fn new(params: SamplerParams, seed: [u8; 32], prompt: &[u32], form: Option<FormState>) -> Self {
        let counts = params.counts_tokens().then(|| TokenCounts::of_prompt(prompt));
        Self { params, seed, counts, form }
    }

    /// Whether it must be told every token, in order.
    pub fn remembers(&self) -> bool {
        self.counts.is_some() || self.form.is_some()
    }

    /// Whether a draw changes the logits.
    pub fn changes_logits(&self) -> bool {
        self.params.changes_logits()
    }

    /// Before every draw of one that [remembers](Self::remembers); `claimed` is the token that is fixed already. A replay
    /// goes on behind a token that was not allowed, as the mismatch is what it is to find; an answer does not.
    pub fn prepare(&mut self, claimed: Option<u32>) -> Result<(), FormError> {
        let Some(form) = &mut self.form else { return Ok(()) };
        form.prepare()?;
        if form.allowed().is_none() && claimed.is_none() { Err(FormError::Left) } else { Ok(()) }
    }

    /// Takes note of an output token. Returns whether the text can only end now.
    pub fn push(&mut self, token: u32) -> Result<bool, FormError> {
        if let Some(counts) = &mut self.counts {
            counts.push(token);
        }
        let Some(form) = &mut self.form else { return Ok(false) };
        form.push(token)?;
        Ok(form.is_complete())
    }

    /// Draws at an output position; `candidates` are the highest of `logits`, which biases and penalties are applied to.
    /// The form's mask then decides who is a candidate, before top-k, top-p and min-p count them: see step 2 of the
    /// [sampler](xdc_grid_exact::sampler).
    pub fn draw(&self, candidates: &[Candidate], logits: &mut [f32], position: u32) -> Result<Draw, SamplerError> {
        let mask = self.form.as_ref().and_then(FormState::allowed);
        if !self.changes_logits() && mask.is_none() {
            return Draw::new(candidates, &self.params, &self.seed, position);
        }
        let none = TokenCounts::default();
        self.params.adjust(logits, self.counts.as_ref().unwrap_or(&none));
        Draw::new(&highest_allowed(logits, MAX_CANDIDATES, mask)?, &self.params, &self.seed, position)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::form::Forms;
    use crate::form::tests::{END, vocabulary};
    use xdc_grid_exact::sampler::{LogitBias, MARGIN_CAP, TextForm, highest};

    /// Logits of a model that likes what comes last in the vocabulary and never thinks of an end.
    fn logits(count: usize) -> Vec<f32> {
        (0..count).map(|token| if token as u32 == END { -1e9 } else { token as f32 }).collect()
    }

    async fn chooser(params: SamplerParams) -> (Chooser, std::sync::Arc<crate::text::Tokenizer>) {
        let words = vocabulary();
        let form = TextForm::JsonSchema(r#"{"enum": ["{\"12", "true"]}"#.into());
        let form = Forms::new(words.clone()).begin(None, &form).await.unwrap();
        (Chooser::new(params, [7; 32], &[], form), words)
    }

    fn draw(chooser: &mut Chooser, count: usize, position: u32) -> Draw {
        let mut logits = logits(count);
        let candidates = highest(&logits, MAX_CANDIDATES).unwrap();
        chooser.draw(&candidates, &mut logits, position).unwrap()
    }

    #[tokio::test]
    async fn every_draw_is_from_the_mask_however_the_model_and_its_user_push() {
        let bias = |id| LogitBias { id, bias: 100.0 };
        for params in [
            SamplerParams::GREEDY,
            SamplerParams { temperature: 1.0, top_k: 2, ..SamplerParams::GREEDY },
            SamplerParams { temperature: 2.0, top_p: 0.01, repetition_penalty: 3.0, ..SamplerParams::GREEDY },
            SamplerParams {
                temperature: 1.0,
                min_p: 1.0,
                logit_bias: vec![bias(40), bias(100)],
                ..SamplerParams::GREEDY
            },
        ] {
            let (mut chooser, words) = chooser(params).await;
            assert!(chooser.remembers());
            let mut text = Vec::new();
            for position in 0.. {
                chooser.prepare(None).unwrap();
                let token = draw(&mut chooser, words.vocab_size(), position).token().unwrap();
                text.extend_from_slice(words.bytes(token));
                if chooser.push(token).unwrap() {
                    break;
                }
            }
            let value: serde_json::Value = serde_json::from_slice(&text).unwrap();
            assert!(value == "{\"12" || value == "true", "{value}");
        }
    }

    #[tokio::test]
    async fn a_token_that_was_not_allowed_is_a_mismatch_and_ends_an_answer_but_no_replay() {
        let (mut chooser, words) = chooser(SamplerParams { temperature: 1.0, ..SamplerParams::GREEDY }).await;
        let forbidden = words.vocab_size() as u32 - 1;
        chooser.prepare(Some(forbidden)).unwrap();
        assert_eq!(draw(&mut chooser, words.vocab_size(), 0).margin(forbidden), MARGIN_CAP);
        assert_eq!(chooser.push(forbidden), Ok(false));
        assert_eq!(chooser.prepare(Some(5)), Ok(()));
        assert!(draw(&mut chooser, words.vocab_size(), 1).token().is_some());
        assert_eq!(chooser.prepare(None), Err(FormError::Left));
    }
}
