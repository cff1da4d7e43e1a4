//! What is made of rows of logits: the token that the seed demands, the leaf of the trace, and log-probabilities.

use super::TokenLogprobs;
use super::chooser::Chooser;
use crate::FormError;
use crate::kernels::{self, Simd};
use xdc_grid_exact::sampler::{MAX_CANDIDATES, SamplerError, highest};
use xdc_grid_exact::trace::{Hash, Step, TOP};

/// What became of one row.
pub(super) struct Row {
    /// The token that the seed demands.
    pub demanded: u32,
    /// The token of the trace: the claimed one, else the demanded one.
    pub token: u32,
    /// How far the token is behind the demanded one.
    pub margin: f32,
    pub leaf: Hash,
    pub logprobs: Option<Box<TokenLogprobs>>,
    /// Whether the text has the form that was asked for and nothing can follow.
    pub completes_form: bool,
}

/// Why no token follows.
#[derive(Debug, thiserror::Error)]
pub(super) enum RowError {
    #[error(transparent)]
    Sampler(#[from] SamplerError),
    #[error(transparent)]
    Form(#[from] FormError),
}

pub(super) type Answer = Result<Row, RowError>;

/// Consecutive rows of one sequence and the places for their answers.
pub(super) struct Rows<'a> {
    /// `rows × vocabulary`. Penalties are applied in place.
    pub logits: &'a mut [f32],
    /// `rows × width`.
    pub hidden: &'a [f32],
    pub answers: &'a mut [Option<Answer>],
}

impl<'a> Rows<'a> {
    /// Cuts the first `count` rows off.
    pub fn split_off(&mut self, count: usize) -> Rows<'a> {
        let rows = self.answers.len().max(1);
        let (vocab_size, width) = (self.logits.len() / rows, self.hidden.len() / rows);
        let (logits, logits_rest) = std::mem::take(&mut self.logits).split_at_mut(count * vocab_size);
        let (hidden, hidden_rest) = self.hidden.split_at(count * width);
        let (answers, answers_rest) = std::mem::take(&mut self.answers).split_at_mut(count);
        *self = Rows { logits: logits_rest, hidden: hidden_rest, answers: answers_rest };
        Rows { logits, hidden, answers }
    }
}

/// The question: which tokens follow, or how good are those that are said to follow?
pub(super) struct Question<'a> {
    pub rows: Rows<'a>,
    pub chooser: Access<'a>,
    /// Output position of the first row.
    pub position: u32,
    /// The tokens that are fixed already, from the first row on.
    pub claimed: &'a [u32],
    /// How many alternatives are to be told with a token.
    pub top_logprobs: Option<u32>,
}

/// How a question reaches what decides about its sequence.
pub(super) enum Access<'a> {
    /// The tokens before do not matter, so rows may be answered in any order.
    Shared(&'a Chooser),
    /// It takes note of every token, in order.
    Sole(&'a mut Chooser),
}

impl Access<'_> {
    fn prepare(&mut self, claimed: Option<u32>) -> Result<&Chooser, FormError> {
        match self {
            Access::Shared(chooser) => Ok(chooser),
            Access::Sole(chooser) => {
                chooser.prepare(claimed)?;
                Ok(chooser)
            }
        }
    }

    /// Notes the row's token.
    fn note(&mut self, row: Row) -> Answer {
        match self {
            Access::Shared(_) => Ok(row),
            Access::Sole(chooser) => Ok(Row { completes_form: chooser.push(row.token)?, ..row }),
        }
    }
}

impl Question<'_> {
    /// Answers all rows.
    pub fn answer(&mut self, simd: Simd) {
        let count = self.rows.answers.len().max(1);
        let (vocab_size, width) = (self.rows.logits.len() / count, self.rows.hidden.len() / count);
        let logits = self.rows.logits.chunks_exact_mut(vocab_size.max(1));
        let hidden = self.rows.hidden.chunks_exact(width.max(1));
        for (index, ((logits, hidden), place)) in logits.zip(hidden).zip(self.rows.answers.iter_mut()).enumerate() {
            let position = self.position + index as u32;
            let claimed = self.claimed.get(index).copied();
            let prepared = self.chooser.prepare(claimed).map_err(RowError::from);
            let answer =
                prepared.and_then(|chooser| one(simd, chooser, (logits, hidden), position, claimed, self.top_logprobs));
            *place = Some(answer.and_then(|row| self.chooser.note(row)));
        }
    }
}

/// Log-probabilities and the trace are those of the model's own distribution; the draw is from the adjusted one.
fn one(
    simd: Simd,
    chooser: &Chooser,
    (logits, hidden): (&mut [f32], &[f32]),
    position: u32,
    claimed: Option<u32>,
    top_logprobs: Option<u32>,
) -> Answer {
    let candidates = highest(logits, MAX_CANDIDATES)?;
    let total = kernels::log_sum_exp(simd, logits);
    let logprob = |logit: f32| f64::from(logit) - total;
    // Rare, so the copy does not matter: penalties change the row.
    let before = (top_logprobs.is_some() && chooser.changes_logits()).then(|| logits.to_vec());
    let draw = chooser.draw(&candidates, logits, position)?;
    let demanded = draw.token().ok_or(SamplerError::NotFinite)?;
    let token = claimed.unwrap_or(demanded);
    let top: Vec<(u32, f64)> = candidates.iter().take(TOP).map(|c| (c.id, logprob(c.logit))).collect();
    let leaf = Step { position, token, hidden, top: &top }.leaf();
    let logprobs = top_logprobs.map(|count| {
        let row = before.as_deref().unwrap_or(logits);
        let top = candidates.iter().take(count as usize).map(|c| (c.id, logprob(c.logit) as f32)).collect();
        let logit = row.get(token as usize).copied().unwrap_or(f32::NEG_INFINITY);
        Box::new(TokenLogprobs { logprob: logprob(logit) as f32, top })
    });
    Ok(Row { demanded, token, margin: draw.margin(token), leaf, logprobs, completes_form: false })
}
