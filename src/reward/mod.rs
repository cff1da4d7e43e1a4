//! From verified work to wei: units, allocation by largest remainder, and the reward tree that the contract checks. Pure: it
//! is told what was verified and how much there is to share, and never asks anybody. Who is eligible is decided before.

pub mod allocation;
pub mod packed;
pub mod tree;
pub mod units;

pub use allocation::{Allocation, AllocationError, NodeAmounts, NodeContribution, RewardSplit, allocate};
pub use packed::{
    MAX_LEAVES, PackedError, checked_leaves, compress_leaves, decompress_leaves, pack_leaves, unpack_leaves,
};
pub use tree::{RewardLeaf, RewardProof, RewardTree, TreeDomain, TreeError, verify_proof};
pub use units::{ComputeUnits, TokenCost};
