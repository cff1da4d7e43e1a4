//! Binary Merkle tree over BLAKE3. Leaves and nodes hash under different keys, so neither can pass for the other; an odd node
//! is promoted unchanged. The shape follows from the number of leaves, so a path has exactly one right length.

/// A BLAKE3 hash.
pub type Hash = [u8; 32];

const LEAF: &str = "xdc-grid merkle leaf v1";
const NODE: &str = "xdc-grid merkle node v1";
const EMPTY: &str = "xdc-grid merkle empty v1";

/// Root over `leaves`; of no leaves a fixed hash that is no leaf's and no node's.
pub fn root(leaves: &[Hash]) -> Hash {
    Tree::new(leaves).root()
}

/// Sibling hashes from the leaf up; `None` beyond the last leaf.
pub fn path(leaves: &[Hash], index: usize) -> Option<Vec<Hash>> {
    Tree::new(leaves).path(index)
}

/// Whether `leaf` is number `index` of the `n_leaves` under `root`. Costs at most 64 hashes whatever the input.
pub fn verify(root: &Hash, leaf: &Hash, index: usize, n_leaves: usize, path: &[Hash]) -> bool {
    if index >= n_leaves {
        return false;
    }
    let (mut position, mut width) = (index, n_leaves);
    let mut siblings = path.iter();
    let mut hash = hash_leaf(leaf);
    while width > 1 {
        // The last node of an odd level has no sibling and moves up as it is.
        if position ^ 1 < width {
            let Some(sibling) = siblings.next() else { return false };
            hash = if position & 1 == 0 { hash_node(&hash, sibling) } else { hash_node(sibling, &hash) };
        }
        position /= 2;
        width = width.div_ceil(2);
    }
    siblings.next().is_none() && hash == *root
}

/// All levels of a tree, for whoever opens more than one leaf.
#[derive(Debug, Clone)]
pub struct Tree {
    /// From the hashed leaves up to the level of one node; empty for no leaves.
    levels: Vec<Vec<Hash>>,
}

impl Tree {
    pub fn new(leaves: &[Hash]) -> Self {
        let mut levels = Vec::new();
        let mut level: Vec<Hash> = leaves.iter().map(hash_leaf).collect();
        while level.len() > 1 {
            let next = level.chunks(2).map(parent).collect();
            levels.push(std::mem::replace(&mut level, next));
        }
        levels.push(level);
        Tree { levels }
    }

    pub fn root(&self) -> Hash {
        self.levels.last().and_then(|top| top.first()).copied().unwrap_or_else(|| blake3::derive_key(EMPTY, &[]))
    }

    /// As [`path`].
    pub fn path(&self, index: usize) -> Option<Vec<Hash>> {
        self.levels.first().filter(|leaves| index < leaves.len())?;
        let climb = self.levels.iter().enumerate();
        Some(climb.filter_map(|(height, level)| level.get((index >> height) ^ 1).copied()).collect())
    }
}

fn parent(pair: &[Hash]) -> Hash {
    match pair {
        [left, right] => hash_node(left, right),
        [odd] => *odd,
        _ => blake3::derive_key(EMPTY, &[]),
    }
}

fn hash_leaf(leaf: &Hash) -> Hash {
    blake3::derive_key(LEAF, leaf)
}

fn hash_node(left: &Hash, right: &Hash) -> Hash {
    *blake3::Hasher::new_derive_key(NODE).update(left).update(right).finalize().as_bytes()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn leaves(n: usize) -> Vec<Hash> {
        (0..n).map(|i| *blake3::hash(&i.to_le_bytes()).as_bytes()).collect()
    }

    #[test]
    fn trees_of_different_sizes_have_different_roots() {
        let roots: std::collections::BTreeSet<Hash> = (0..40).map(|n| root(&leaves(n))).collect();
        assert_eq!(roots.len(), 40);
    }

    #[test]
    fn a_node_cannot_be_presented_as_a_leaf() {
        let leaves = leaves(4);
        let node = hash_node(&hash_leaf(&leaves[0]), &hash_leaf(&leaves[1]));
        assert_ne!(root(&leaves), root(&[node, hash_node(&hash_leaf(&leaves[2]), &hash_leaf(&leaves[3]))]));
    }

    #[test]
    fn beyond_the_last_leaf_there_is_no_path() {
        assert_eq!(path(&[], 0), None);
        assert_eq!(path(&leaves(3), 3), None);
        assert!(!verify(&root(&[]), &[0; 32], 0, 0, &[]));
    }

    proptest! {
        #[test]
        fn every_leaf_opens_and_only_at_its_place(n in 1usize..70, pick in any::<usize>(), other in any::<usize>()) {
            let leaves = leaves(n);
            let (index, other) = (pick % n, other % n);
            let (root, path) = (root(&leaves), path(&leaves, index).unwrap());
            prop_assert!(verify(&root, &leaves[index], index, n, &path));
            prop_assert_eq!(verify(&root, &leaves[index], other, n, &path), other == index);
            prop_assert_eq!(verify(&root, &leaves[other], index, n, &path), other == index);
        }

        #[test]
        fn a_changed_path_proves_nothing(n in 2usize..70, pick in any::<usize>(), bit in 0usize..256) {
            let leaves = leaves(n);
            let index = pick % n;
            let root = root(&leaves);
            let good = path(&leaves, index).unwrap();
            let mut flipped = good.clone();
            flipped[pick % good.len()][bit / 8] ^= 1 << (bit % 8);
            prop_assert!(!verify(&root, &leaves[index], index, n, &flipped));
            prop_assert!(!verify(&root, &leaves[index], index, n, &good[1..]));
            let mut longer = good;
            longer.push([0; 32]);
            prop_assert!(!verify(&root, &leaves[index], index, n, &longer));
        }
    }
}
