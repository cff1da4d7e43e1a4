//! `kubectl grid`: its commands against an API server that answers from a table, and a real chain; the binary itself alone, and
//! against a real API server.

mod alone;
mod anvil;
mod binary;
#[cfg(feature = "operator")]
mod cluster;
mod fake;
mod reference;
mod results;
mod rewards;
mod selftest;
