//! The Kubernetes controllers, a folder per kind: dereference, validate, build, apply, status.

pub mod backoff;
pub mod chains;
pub mod changes;
pub mod config;
pub mod context;
pub mod contribution_report;
pub mod dial;
pub mod error;
pub mod events;
pub mod finalizers;
pub mod gateway;
pub mod grid_model;
pub mod grid_network;
pub mod grid_node;
pub mod grid_node_pool;
pub mod inference_job;
pub mod lease;
pub mod metrics;
pub mod pods;
pub mod run;
pub mod runner;
pub mod settlement;
pub mod signers;
pub mod units;
pub mod watches;
pub mod write;
