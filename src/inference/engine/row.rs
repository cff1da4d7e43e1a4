//! What is made of one row of logits: the token that the seed demands and the leaf of the trace.

use crate::inference::kernels::{self, Simd};
use crate::verify::sampler::{Draw, MAX_CANDIDATES, SamplerError, SamplerParams, highest};
use crate::verify::trace::{Hash, Step, TOP};

/// The question: which token follows, or how good is the one that is said to follow?
pub(super) struct Question<'a> {
    pub logits: &'a [f32],
    pub hidden: &'a [f32],
    pub sampling: SamplerParams,
    pub seed: [u8; 32],
    /// Output position of the token.
    pub position: u32,
    /// The token that is fixed already.
    pub claimed: Option<u32>,
}

/// The answer.
pub(super) struct Row {
    /// The token that the seed demands.
    pub demanded: u32,
    /// The token of the trace: the claimed one, else the demanded one.
    pub token: u32,
    /// How far the token is behind the demanded one.
    pub margin: f32,
    pub leaf: Hash,
}

impl Question<'_> {
    pub fn answer(&self, simd: Simd) -> Result<Row, SamplerError> {
        let candidates = highest(self.logits, MAX_CANDIDATES)?;
        let draw = Draw::new(&candidates, &self.sampling, &self.seed, self.position)?;
        let demanded = draw.token().ok_or(SamplerError::NotFinite)?;
        let token = self.claimed.unwrap_or(demanded);
        let total = kernels::log_sum_exp(simd, self.logits);
        let logprob = |logit: f32| f64::from(logit) - total;
        let top: Vec<(u32, f64)> = candidates.iter().take(TOP).map(|c| (c.id, logprob(c.logit))).collect();
        let step = Step { position: self.position, token, hidden: self.hidden, top: &top };
        Ok(Row { demanded, token, margin: draw.margin(token), leaf: step.leaf() })
    }
}
