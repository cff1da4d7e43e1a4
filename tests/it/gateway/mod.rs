//! The gateway with scripted workers, or with real ones over libp2p; its HTTP APIs over real sockets.

mod audits;
mod embeddings;
mod epochs;
mod files;
mod forms;
mod harness;
mod internal_api;
mod jobs;
mod members;
#[cfg(feature = "operator")]
mod model_places;
mod models;
mod openai;
mod payments;
mod restart;
mod sampling;
mod scheduling;
mod templates;
mod workers;
