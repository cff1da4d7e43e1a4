//! Verification of compute, inference and storage: audits, evidence, and the traces that they compare. Pure: randomness and time
//! come in as arguments. What has to be the same to the bit everywhere is in [`xdc_grid_exact`] (`src/verify/exact`).

pub mod audit;
pub mod embedding;
pub mod evidence;
mod sampling;
pub mod told;

pub use xdc_grid_exact::{gemm, merkle, profile, sampler, storage, trace};
