//! One integration binary: a module per question.

#[cfg(feature = "kubernetes")]
mod chart;
#[cfg(feature = "cli")]
mod cli;
