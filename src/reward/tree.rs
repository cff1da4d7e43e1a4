//! The Merkle tree over everybody's cumulative earnings. Equal to OpenZeppelin's `StandardMerkleTree` with the leaf types
//! `uint256 chainId, address contract, address node, uint256 cumulative`, so wallets and scripts can check it with stock tools.

use alloy::primitives::{B256, keccak256};

use super::packed::pack_leaves;
use crate::api::ids::{NodeAddress, Wei};

/// The most leaves of a tree: a bound on memory, 112 bytes a leaf. What one report can carry is less (`packed`).
pub const MAX_TREE_LEAVES: usize = 1 << 20;

/// What a leaf is bound to, so that it is worth nothing on another chain or to another contract.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TreeDomain {
    pub chain_id: u64,
    pub contract: NodeAddress,
}

/// Everything a node ever earned, paid out or not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RewardLeaf {
    pub node: NodeAddress,
    pub cumulative: Wei,
}

impl RewardLeaf {
    /// keccak256(keccak256(abi.encode(chainId, contract, node, cumulative))). Hashed twice, so that no inner node of a tree
    /// can be passed off as a leaf.
    pub fn hash(&self, domain: TreeDomain) -> B256 {
        LeafHasher::new(domain).hash(self)
    }
}

/// `abi.encode(chainId, contract, node, cumulative)`: four words, of which the first two are the same for a whole tree.
struct LeafHasher([[u8; 32]; 4]);

impl LeafHasher {
    fn new(domain: TreeDomain) -> Self {
        let mut words = [[0; 32]; 4];
        let [chain, contract, ..] = &mut words;
        set_end(chain, domain.chain_id.to_be_bytes());
        set_end(contract, domain.contract.0);
        LeafHasher(words)
    }

    fn hash(&mut self, leaf: &RewardLeaf) -> B256 {
        let [_, _, node, cumulative] = &mut self.0;
        set_end(node, leaf.node.0);
        set_end(cumulative, leaf.cumulative.0.to_be_bytes());
        keccak256(keccak256(self.0.as_flattened()))
    }
}

fn set_end<const N: usize>(word: &mut [u8; 32], bytes: [u8; N]) {
    if let Some(end) = word.last_chunk_mut() {
        *end = bytes;
    }
}

/// What `claim(node, cumulative, proof)` wants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RewardProof {
    pub node: NodeAddress,
    pub cumulative: Wei,
    /// Sibling hashes from the leaf to the root.
    pub siblings: Vec<B256>,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TreeError {
    #[error("node {0} has two leaves")]
    DuplicateNode(NodeAddress),
    #[error("there are more nodes with earnings than the {MAX_TREE_LEAVES} that a tree holds")]
    TooManyLeaves,
    #[error("the sum of all earnings does not fit in 128 bits")]
    TotalOverflow,
}

/// An immutable tree. The same set of leaves gives the same bytes, whatever order it came in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RewardTree {
    domain: TreeDomain,
    /// By ascending node.
    leaves: Vec<RewardLeaf>,
    total: Wei,
    /// Node i has the children 2i+1 and 2i+2; the leaves fill the end, the smallest hash last.
    hashes: Vec<B256>,
}

impl RewardTree {
    /// Leaves of amount zero are left out: there is nothing to claim.
    pub fn build(domain: TreeDomain, leaves: impl IntoIterator<Item = RewardLeaf>) -> Result<Self, TreeError> {
        let earned = leaves.into_iter().filter(|leaf| leaf.cumulative.0 > 0);
        let mut leaves: Vec<RewardLeaf> = earned.take(MAX_TREE_LEAVES + 1).collect();
        if leaves.len() > MAX_TREE_LEAVES {
            return Err(TreeError::TooManyLeaves);
        }
        if !leaves.is_sorted_by_key(|leaf| leaf.node) {
            leaves.sort_unstable_by_key(|leaf| leaf.node);
        }
        if let Some([twice, _]) = leaves.windows(2).find(|pair| matches!(pair, [a, b] if a.node == b.node)) {
            return Err(TreeError::DuplicateNode(twice.node));
        }
        let total = leaves.iter().try_fold(0u128, |sum, leaf| sum.checked_add(leaf.cumulative.0));
        let total = Wei(total.ok_or(TreeError::TotalOverflow)?);
        let mut hasher = LeafHasher::new(domain);
        let hashes = heap(leaves.iter().map(|leaf| hasher.hash(leaf)).collect());
        Ok(RewardTree { domain, leaves, total, hashes })
    }

    /// Zero for a tree without leaves, which is also the contract's root before the first report.
    pub fn root(&self) -> B256 {
        self.hashes.first().copied().unwrap_or_default()
    }

    /// Σ cumulative.
    pub fn total(&self) -> Wei {
        self.total
    }

    pub fn domain(&self) -> TreeDomain {
        self.domain
    }

    /// By ascending node.
    pub fn leaves(&self) -> impl ExactSizeIterator<Item = RewardLeaf> + '_ {
        self.leaves.iter().copied()
    }

    /// The calldata form of all leaves; its keccak256 is the report's data hash.
    pub fn packed(&self) -> Vec<u8> {
        pack_leaves(&self.leaves)
    }

    /// What a node ever earned; zero for one without a leaf.
    pub fn cumulative(&self, node: NodeAddress) -> Wei {
        self.leaf(node).map_or(Wei(0), |leaf| leaf.cumulative)
    }

    /// `None` for a node without earnings.
    pub fn proof(&self, node: NodeAddress) -> Option<RewardProof> {
        let leaf = self.leaf(node)?;
        let hash = leaf.hash(self.domain);
        // n leaves make 2n − 1 hashes, the last n of them the leaves' in descending order.
        let inner = self.hashes.len() / 2;
        let at = self.hashes.get(inner..)?.binary_search_by(|found| hash.cmp(found)).ok()?;
        let mut index = inner + at;
        let mut siblings = Vec::new();
        while index > 0 {
            let sibling = if index % 2 == 1 { index + 1 } else { index - 1 };
            siblings.push(*self.hashes.get(sibling)?);
            index = (index - 1) / 2;
        }
        Some(RewardProof { node, cumulative: leaf.cumulative, siblings })
    }

    fn leaf(&self, node: NodeAddress) -> Option<&RewardLeaf> {
        let index = self.leaves.binary_search_by_key(&node, |leaf| leaf.node).ok()?;
        self.leaves.get(index)
    }
}

/// What the contract does with a proof.
pub fn verify_proof(domain: TreeDomain, root: B256, proof: &RewardProof) -> bool {
    let leaf = RewardLeaf { node: proof.node, cumulative: proof.cumulative }.hash(domain);
    proof.siblings.iter().fold(leaf, |hash, sibling| parent(&hash, sibling)) == root
}

fn heap(mut leaves: Vec<B256>) -> Vec<B256> {
    leaves.sort_unstable_by(|a, b| b.cmp(a));
    let Some(inner) = leaves.len().checked_sub(1) else { return leaves };
    let mut hashes = Vec::with_capacity(inner + leaves.len());
    hashes.resize(inner, B256::ZERO);
    hashes.append(&mut leaves);
    // From the end: both children of a node are there before it.
    for index in (0..inner).rev() {
        let (above, below) = hashes.split_at_mut(index + 1);
        if let (Some(slot), Some([left, right, ..])) = (above.last_mut(), below.get(index..)) {
            *slot = parent(left, right);
        }
    }
    hashes
}

/// The pair is hashed in sorted order, so a proof needs no directions.
fn parent(a: &B256, b: &B256) -> B256 {
    let (low, high) = if a <= b { (a, b) } else { (b, a) };
    keccak256([low.0, high.0].as_flattened())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn domain() -> TreeDomain {
        TreeDomain { chain_id: 51, contract: "0x951857744785e80e2de051c32ee7b25f9c458c42".parse().unwrap() }
    }

    fn leaf(id: u16, amount: u128) -> RewardLeaf {
        let mut node = [0; 20];
        node[18..].copy_from_slice(&id.to_be_bytes());
        RewardLeaf { node: NodeAddress(node), cumulative: Wei(amount) }
    }

    #[test]
    fn a_single_leaf_is_its_own_root() {
        let leaf =
            RewardLeaf { node: "0xf39fd6e51aad88f6f4ce6ab8827279cfffb92266".parse().unwrap(), cumulative: Wei(5) };
        let tree = RewardTree::build(domain(), [leaf]).unwrap();
        // From @openzeppelin/merkle-tree 1.0.8.
        assert_eq!(tree.root().to_string(), "0x222f71a7bb79fc48cf76fc36abd98c49b4b397c4bd2e3ab8a405f8e5fa4837f7");
        assert!(tree.proof(leaf.node).unwrap().siblings.is_empty());
    }

    #[test]
    fn a_tree_without_earnings_has_no_root_and_no_proofs() {
        let tree = RewardTree::build(domain(), [leaf(1, 0)]).unwrap();
        assert_eq!((tree.root(), tree.total(), tree.packed()), (B256::ZERO, Wei(0), vec![]));
        assert_eq!(tree.proof(leaf(1, 0).node), None);
    }

    #[test]
    fn what_cannot_be_reported_is_refused() {
        let twice = [leaf(1, 1), leaf(1, 2)];
        assert_eq!(RewardTree::build(domain(), twice), Err(TreeError::DuplicateNode(leaf(1, 0).node)));
        let huge = [leaf(1, u128::MAX), leaf(2, 1)];
        assert_eq!(RewardTree::build(domain(), huge), Err(TreeError::TotalOverflow));
        let many = std::iter::repeat_n(leaf(1, 1), MAX_TREE_LEAVES + 1);
        assert_eq!(RewardTree::build(domain(), many), Err(TreeError::TooManyLeaves));
    }

    proptest! {
        #[test]
        fn every_proof_holds_and_no_other_amount_does(amounts in prop::collection::vec(1..u128::MAX / 100, 1..70)) {
            let leaves: Vec<_> = amounts.iter().zip(0u16..).map(|(amount, id)| leaf(id, *amount)).collect();
            let tree = RewardTree::build(domain(), leaves.clone()).unwrap();
            let reversed = RewardTree::build(domain(), leaves.iter().rev().copied()).unwrap();
            prop_assert_eq!(&tree, &reversed);
            prop_assert_eq!(tree.total().0, amounts.iter().sum::<u128>());
            for leaf in leaves {
                let mut proof = tree.proof(leaf.node).unwrap();
                prop_assert!(verify_proof(domain(), tree.root(), &proof));
                prop_assert_eq!(tree.cumulative(leaf.node), leaf.cumulative);
                let elsewhere = TreeDomain { chain_id: 50, ..domain() };
                prop_assert!(!verify_proof(elsewhere, tree.root(), &proof));
                proof.cumulative.0 += 1;
                prop_assert!(!verify_proof(domain(), tree.root(), &proof));
            }
        }
    }
}
