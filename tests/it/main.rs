//! One integration binary: a module per question.

// Clippy's switch for tests does not reach the helper functions of an integration test.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[cfg(feature = "inference")]
mod engine;
#[cfg(feature = "inference")]
mod engine_exact;
#[cfg(feature = "inference")]
mod engine_files;
#[cfg(feature = "inference")]
mod engine_oracle;
#[cfg(feature = "inference")]
mod engine_speed;
