//! The trace of an embedding: one leaf per vector, so that a single one can be opened later. The gateway computes the root over
//! the vectors that it was sent and holds the receipt to it; an audit computes them again and compares roots.

use super::merkle::{self, Hash};
use crate::protocol::vector::Vector;

/// Root over the vectors in the order of their inputs.
pub fn root(vectors: &[Vector]) -> Hash {
    let leaves: Vec<Hash> = vectors.iter().enumerate().map(|(index, vector)| leaf(index as u64, vector)).collect();
    merkle::root(&leaves)
}

fn leaf(index: u64, vector: &Vector) -> Hash {
    let mut hasher = blake3::Hasher::new_derive_key("xdc-grid embedding leaf v1");
    hasher.update(&index.to_le_bytes()).update(&vector.to_bytes());
    *hasher.finalize().as_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vector(values: &[f32]) -> Vector {
        Vector::new(values.to_vec()).unwrap()
    }

    #[test]
    fn the_smallest_change_and_the_order_show_in_the_root() {
        let vectors = [vector(&[0.25, -0.5]), vector(&[0.125, 1.0])];
        let swapped = [vectors[1].clone(), vectors[0].clone()];
        let nudged = [vector(&[f32::from_bits(0.25f32.to_bits() + 1), -0.5]), vectors[1].clone()];
        assert_eq!(root(&vectors), root(&vectors.clone()));
        assert_ne!(root(&vectors), root(&swapped));
        assert_ne!(root(&vectors), root(&nudged));
        assert_ne!(root(&vectors), root(&vectors[..1]));
    }
}
