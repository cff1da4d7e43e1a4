//! One text on its way through its form.

use llguidance::Matcher;

use super::{FormError, sentence};
use xdc_grid_exact::sampler::TokenMask;

/// Where a text is in its form. Before each token it is [prepared](Self::prepare), after it it is [told](Self::push) the
/// token.
pub(crate) struct FormState {
    matcher: Matcher,
    stage: Stage,
    allowed: TokenMask,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// It may go on.
    Open,
    /// It has the form, and nothing may follow.
    Complete,
    /// A token came that was not allowed. Nothing can be said of those after it.
    Left,
}

impl FormState {
    /// At the beginning of a text.
    pub(super) fn new(matcher: Matcher) -> Self {
        Self { matcher, stage: Stage::Open, allowed: TokenMask::default() }
    }

    /// Another text at the same place; the two share nothing, so that neither's bounds depend on the other.
    pub(super) fn another(&self) -> Self {
        Self { matcher: self.matcher.deep_clone(), stage: self.stage, allowed: self.allowed.clone() }
    }

    /// Finds out which tokens may come next.
    pub fn prepare(&mut self) -> Result<(), FormError> {
        if self.stage != Stage::Left {
            let allowed = self.matcher.compute_mask_or_eos().map_err(too_complex)?;
            self.allowed = TokenMask::from_words(allowed.into());
        }
        Ok(())
    }

    /// The tokens that may come next; `None` once the text has left the form.
    pub fn allowed(&self) -> Option<&TokenMask> {
        (self.stage != Stage::Left).then_some(&self.allowed)
    }

    /// Takes note of the token that came.
    pub fn push(&mut self, token: u32) -> Result<(), FormError> {
        if self.stage == Stage::Left || !self.allowed.allows(token) {
            self.stage = Stage::Left;
            return Ok(());
        }
        if self.stage == Stage::Open {
            self.matcher.consume_token(token).map_err(too_complex)?;
            if self.matcher.is_stopped() {
                self.stage = Stage::Complete;
            }
        }
        Ok(())
    }

    /// Whether the text has the form and can only end.
    pub fn is_complete(&self) -> bool {
        self.stage == Stage::Complete
    }
}

/// The error type is anyhow's, which this room does not name.
fn too_complex(error: impl std::fmt::Display) -> FormError {
    FormError::TooComplex(sentence(&error.to_string()))
}
