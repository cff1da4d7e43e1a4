//! What crosses a process boundary: wire messages, protocol names, node identity, receipts, and the internal API between
//! operator and gateway, the shards of Local jobs, and the published statement of an epoch. Pure; the only rooms that may depend on a message layout are the ones that send or read it.

pub mod embeddings;
pub mod fields;
pub mod identity;
pub mod internal;
pub mod logprobs;
pub mod names;
pub mod place;
pub mod receipt;
pub mod shard;
pub mod statement;
pub mod vector;
pub mod wire;
