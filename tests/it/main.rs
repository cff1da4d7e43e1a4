//! One integration binary: a module per question.

#[cfg(feature = "chain")]
mod chain;
#[cfg(feature = "chain")]
mod chain_anvil;
#[cfg(feature = "chain")]
mod chain_gas;
mod reward_tree;
#[cfg(feature = "gateway")]
mod gateway;
mod grid;
#[cfg(feature = "gateway")]
mod store;
