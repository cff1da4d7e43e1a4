//! xdc-grid: a community grid for GPT-style inference, run from Kubernetes and paid on the XDC Network for what was
//! measured and verified.
//!
//! Modules are layers, listed here from the pure ones to the ones that do IO; `tests/it/layers.rs` enforces the direction.
//! `ARCHITECTURE.md` names each room, what it may touch and what it never does.

pub mod api;
#[cfg(feature = "chain")]
pub mod chain;
#[cfg(feature = "kubernetes")]
pub mod cli;
#[cfg(feature = "devnet")]
pub mod devnet;
#[cfg(any(feature = "gateway", feature = "worker"))]
pub mod download;
#[cfg(feature = "gateway")]
pub mod gateway;
#[cfg(feature = "grid")]
pub mod grid;
#[cfg(any(feature = "gateway", feature = "worker"))]
pub mod http;
#[cfg(feature = "inference")]
pub use xdc_grid_inference as inference;
#[cfg(any(feature = "gateway", feature = "operator", feature = "worker"))]
pub mod openai;
#[cfg(feature = "operator")]
pub mod operator;
pub mod protocol;
pub mod reward;
pub mod schedule;
#[cfg(feature = "gateway")]
pub mod store;
pub mod telemetry;
pub mod verify;
#[cfg(feature = "worker")]
pub mod worker;
