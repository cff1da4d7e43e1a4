//! From verified work to wei: units, fees, allocation by largest remainder, and the reward tree that the contract checks. Pure: it
//! is told what was verified and how much there is to share, and never asks anybody. Who is eligible is decided before. What it
//! promises, with formulas and an example, is in `docs/rewards.md`.

pub mod allocation;
pub mod changes;
pub mod epoch;
pub mod fees;
pub mod packed;
mod remainder;
pub mod replay;
pub mod tree;
pub mod units;

pub use allocation::{Allocation, AllocationError, NodeAmounts, NodeContribution, RewardSplit, allocate};
pub use changes::{
    LeafChange, PackedChanges, Recipe, apply_changes, changes_between, pack_changes, pack_recipe, unpack_changes,
    unpack_recipe,
};
pub use epoch::{EpochInputs, SettleError, SettledEpoch, budgets_of, settle};
pub use fees::{FeeBps, PaidJob, PaidWork, share_fees};
pub use packed::{
    MAX_LEAVES, MAX_PACKED, MAX_STORED, PackedError, PackedForm, PackedReport, checked_leaves, compress_leaves,
    decompress_leaves, form_of, pack_leaves, unpack_leaves, unpack_report,
};
pub use replay::LeavesBack;
pub use tree::{MAX_TREE_LEAVES, RewardLeaf, RewardProof, RewardTree, TreeDomain, TreeError, verify_proof};
pub use units::{ComputeUnits, TokenCost};
