//! One integration binary: a module per question.

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
