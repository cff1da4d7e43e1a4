//! One integration binary: a module per question.

#[cfg(feature = "kubernetes")]
mod chart;
#[cfg(feature = "cli")]
mod cli;
mod docs;
#[cfg(feature = "kubernetes")]
mod examples;
#[cfg(feature = "chain")]
mod chain;
#[cfg(feature = "chain")]
mod chain_anvil;
#[cfg(feature = "chain")]
mod chain_gas;
mod reward_tree;
mod grid;
