//! One integration binary: a module per question.

// Everything here is a test, also the parts that clippy does not see as one.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[cfg(feature = "inference")]
mod accelerator;
#[cfg(feature = "inference")]
mod accelerator_kernels;
#[cfg(feature = "operator")]
mod audit_epoch;
#[cfg(feature = "operator")]
mod cel;
#[cfg(feature = "chain")]
mod chain;
#[cfg(feature = "chain")]
mod chain_anvil;
#[cfg(all(feature = "chain", feature = "http"))]
mod chain_faults;
#[cfg(feature = "chain")]
mod chain_gas;
#[cfg(feature = "chain")]
mod chain_history;
#[cfg(feature = "chain")]
mod chain_members;
#[cfg(all(feature = "chain", feature = "http"))]
mod chain_signers;
#[cfg(feature = "kubernetes")]
mod chart;
#[cfg(feature = "cli")]
mod cli;
#[cfg(feature = "operator")]
mod crds;
#[cfg(all(feature = "devnet", feature = "operator"))]
mod devnet;
mod docs;
#[cfg(feature = "inference")]
mod encoder;
#[cfg(feature = "inference")]
mod engine;
#[cfg(feature = "inference")]
mod engine_exact;
#[cfg(feature = "inference")]
mod engine_files;
#[cfg(feature = "inference")]
mod engine_forms;
#[cfg(feature = "inference")]
mod engine_oracle;
#[cfg(feature = "inference")]
mod engine_safetensors;
#[cfg(feature = "inference")]
mod engine_schedule;
#[cfg(feature = "inference")]
#[cfg(feature = "kubernetes")]
mod examples;
#[cfg(feature = "operator")]
mod faults;
#[cfg(feature = "gateway")]
mod gateway;
mod grid;
mod layers;
#[cfg(feature = "operator")]
mod operator_buckets;
#[cfg(feature = "operator")]
mod operator_epochs;
#[cfg(feature = "operator")]
mod operator_flat;
#[cfg(feature = "operator")]
mod operator_frame;
#[cfg(feature = "operator")]
mod operator_gone;
#[cfg(feature = "operator")]
mod operator_grid;
#[cfg(feature = "operator")]
mod operator_jobs;
#[cfg(all(feature = "operator", feature = "worker"))]
mod operator_local;
#[cfg(feature = "operator")]
mod operator_memory;
#[cfg(all(feature = "operator", feature = "worker"))]
mod operator_models;
#[cfg(feature = "operator")]
mod operator_nodes;
#[cfg(feature = "operator")]
mod operator_payments;
mod operator_pools;
#[cfg(all(feature = "operator", feature = "worker"))]
mod operator_queue;
#[cfg(feature = "operator")]
mod operator_tenants;
#[cfg(all(feature = "operator", feature = "register"))]
mod owner_commands;
mod reward_docs;
#[cfg(feature = "chain")]
mod reward_tree;
#[cfg(feature = "worker")]
mod serve;
#[cfg(feature = "gateway")]
mod store;
#[cfg(feature = "operator")]
mod support;
#[cfg(feature = "operator")]
mod upgrade;
mod worker;
