//! One integration binary: a module per question.

#[cfg(feature = "chain")]
mod chain;
#[cfg(feature = "chain")]
mod chain_anvil;
#[cfg(feature = "chain")]
mod chain_gas;
mod reward_tree;
mod grid;
