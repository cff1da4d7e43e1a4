//! The worker process: serves inference over the grid, re-computes answers when it is a Verify node, answers compute and
//! storage challenges, keeps model blobs, tells its health. It may use the grid, the engine and the verification rules;
//! it reads its own key and data folder and never the ledger, the chain (but for `owner`) or Kubernetes.

mod advert;
mod assignment;
mod audit;
pub mod batch;
pub mod bench;
mod challenges;
mod claims;
mod device;
mod embedding;
mod engine;
mod fetch;
mod give;
mod hardware;
mod hooks;
mod leases;
mod logprobs;
mod metrics;
mod models;
mod options;
#[cfg(feature = "register")]
pub mod owner;
mod relay;
mod request;
mod run;
mod self_test;
pub mod serve;
mod serving;
mod source;

pub use device::{DeviceChoice, DeviceError};
pub use engine::{AnswerEngine, EngineProvider, EngineSettings, LocalEngines};
pub use hooks::{AnswerWith, WorkerHooks};
pub use options::{KeygenOptions, Quantity, WorkerOptions};
pub use run::{Worker, WorkerError, run};
pub use source::{ModelOptions, SourceError};

/// What this program calls itself on the grid.
pub const SOFTWARE: &str = concat!("grid-worker/", env!("CARGO_PKG_VERSION"));
