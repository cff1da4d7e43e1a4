//! One integration binary: a module per question.

#[cfg(feature = "kubernetes")]
mod chart;
#[cfg(feature = "cli")]
mod cli;
mod docs;
#[cfg(feature = "kubernetes")]
mod examples;
