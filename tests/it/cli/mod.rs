//! `kubectl grid` against an API server that answers from a table, and a real chain.

mod anvil;
mod fake;
mod results;
mod rewards;
mod selftest;
