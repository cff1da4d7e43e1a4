//! The Kubernetes controllers, a folder per kind: dereference, validate, build, apply, status.

pub mod backoff;
pub mod changes;
pub mod config;
pub mod context;
pub mod error;
pub mod gateway;
pub mod inference_job;
pub mod lease;
pub mod metrics;
pub mod runner;
pub mod write;
