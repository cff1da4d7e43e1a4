//! What decides about a sequence's tokens beside its logits: parameters, seed, and what they must know of the tokens before.

use xdc_grid_exact::sampler::{Candidate, Draw, MAX_CANDIDATES, SamplerError, SamplerParams, TokenCounts, highest};

pub(super) struct Chooser {
    params: SamplerParams,
    seed: [u8; 32],
    /// Where penalties ask for them.
    counts: Option<TokenCounts>,
}

impl Chooser {
    /// Ready for the first output token after `prompt`.
    pub fn new(params: SamplerParams, seed: [u8; 32], prompt: &[u32]) -> Self {
        let counts = params.counts_tokens().then(|| TokenCounts::of_prompt(prompt));
        Self { params, seed, counts }
    }

    /// Whether it must be told every token, in order.
    pub fn remembers(&self) -> bool {
        self.counts.is_some()
    }

    /// Whether a draw changes the logits.
    pub fn changes_logits(&self) -> bool {
        self.params.changes_logits()
    }

    /// Takes note of an output token.
    pub fn push(&mut self, token: u32) {
        if let Some(counts) = &mut self.counts {
            counts.push(token);
        }
    }

    /// Draws at an output position; `candidates` are the highest of `logits`, which biases and penalties are applied to.
    pub fn draw(&self, candidates: &[Candidate], logits: &mut [f32], position: u32) -> Result<Draw, SamplerError> {
        if !self.changes_logits() {
            return Draw::new(candidates, &self.params, &self.seed, position);
        }
        let none = TokenCounts::default();
        self.params.adjust(logits, self.counts.as_ref().unwrap_or(&none));
        Draw::new(&highest(logits, MAX_CANDIDATES)?, &self.params, &self.seed, position)
    }
}
