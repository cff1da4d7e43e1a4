//! Whether a loaded model computes the same, however its tokens are cut.

use xdc_grid_exact::profile::is_exact;

use crate::LoadError;
use crate::model::Decoder;
use crate::model::probe::{apart, logits, prompt};

#[cfg(test)]
mod small_models;

/// More rows than the eight up to which candle's CUDA kernels multiply row by row, so that both ways of multiplying are compared.
const TOKENS: usize = 12;

/// How far apart logits may be where the arithmetic is not exact: the root of their mean square difference, as a part of their spread.
/// Rounding stays far below it, and logits that have nothing to do with one another are at 1.4.
const APART: f64 = 0.25;

/// Computes a fixed prompt as one prefill and token by token. The logits must be the same to the bit, or near where the arithmetic is not
/// exact. Returns their hash, in the prefill.
pub(super) fn self_test(model: &dyn Decoder) -> Result<[u8; 32], LoadError> {
    let exact = is_exact(&model.kernel_profile());
    let tokens = prompt(model.config().vocab_size, if exact { 6 } else { TOKENS });
    let prefill = logits(model, &tokens, tokens.len())?;
    let stepwise = logits(model, &tokens, 1)?;
    let same = prefill.iter().map(|x| x.to_bits()).eq(stepwise.iter().map(|x| x.to_bits()));
    if exact && !same {
        return Err(LoadError::SelfTest);
    }
    let apart = apart(&prefill, &stepwise);
    // A NaN is not near.
    let near = apart <= APART;
    if !exact && !near {
        return Err(LoadError::DeviceSelfTest { apart });
    }
    let mut hasher = blake3::Hasher::new();
    prefill.iter().for_each(|logit| {
        hasher.update(&logit.to_le_bytes());
    });
    Ok(*hasher.finalize().as_bytes())
}
