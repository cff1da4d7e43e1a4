//! The internet-facing process: it takes work from the operator and from OpenAI clients, leases it to workers over the grid,
//! checks and countersigns what comes back, audits and challenges, and adds up epochs. It uses the ledger and the blob store,
//! the grid and the pure rooms (verify, schedule, reward, protocol); it holds neither a Kubernetes token nor a chain key, and
//! never logs a prompt or an answer.

mod audits;
mod backlogs;
mod blobs;
mod challenges;
mod clock;
mod config;
mod core;
mod dispatcher;
mod epochs;
mod events;
mod flights;
pub mod http;
mod jobs;
mod judges;
mod lease;
mod members;
mod metrics;
mod models;
mod nodes;
mod online;
mod peers;
mod probation;
mod reasons;
mod receipts;
mod run;
mod standing;
mod start;
mod waiting;
mod workers;

pub use clock::Clock;
pub use config::{Command, FsckOptions, KeyOptions, LimitOptions, Options, RunOptions, Settings};
pub use core::{Gateway, GatewayError};
pub use run::{execute, serve_http, start_tasks};
pub use workers::{FrameSink, FrameSource, GridWorkers, Link, WorkerError, Workers};
