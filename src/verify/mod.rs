//! Verification of compute, inference and storage: sampler, traces, Merkle trees, exact GEMM, storage proofs, audits and
//! evidence. Pure: randomness and time come in as arguments.

pub mod sampler;
pub mod trace;
