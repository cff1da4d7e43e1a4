//! The worker process against a minimal gateway, with real sockets: first with an engine that only repeats its prompt, then
//! with the real model.

mod batch;
mod cheat;
mod embeddings;
mod forms;
mod gateway;
mod kv_type;
mod models;
pub mod parrot;
mod real;
mod serving;
mod verification;
