//! Compute challenge: products of integer-valued matrices, committed to first and spot-checked after (verification.md §2.3, C1).
//!
//! Entries are uniform in −7…7 and Σ|a·b| stays below 2²⁴, so every float kernel that accumulates in f32 gives the same exact
//! integers and one wrong value is proof. B belongs to the epoch, A to one challenge of one node, hence an old product is
//! worthless. Round r > 0 multiplies A with its columns permuted by the Merkle root of round r − 1: rounds cannot be
//! parallelised or prepared. The verifier keeps s_J = B[:,J]·r_J mod 2⁶¹−1 for a secret r_J per column block J (Freivalds)
//! and checks a row tile in O(k): a wrong tile passes with a probability of 2⁻⁶¹, a share δ of wrong tiles escapes n opened
//! ones with (1−δ)ⁿ.

use super::{
    merkle::{self, Hash, Tree},
    stream::Stream,
};

/// Columns of a tile: a leaf is a piece of one row.
pub const TILE_COLUMNS: u32 = 256;
/// Tiles that a verifier opens: 5 % wrong tiles are noticed with 96 %, 10 % with 99.9 %.
pub const TILES_PER_CHALLENGE: usize = 64;
/// Most tiles that a prover opens in one reply (the frame is 1 MiB).
pub const MAX_OPENED: usize = 256;
/// Most rounds of one challenge.
pub const MAX_ROUNDS: u32 = 64;
/// Most elements of a matrix, and of all products together: 1 GiB as f32.
const MAX_ELEMENTS: u64 = 1 << 28;
/// Largest |entry|.
const LARGEST: i32 = 7;
/// f32 holds every integer below this.
const EXACT: u64 = 1 << 24;
/// The Mersenne prime 2⁶¹ − 1.
const PRIME: u64 = (1 << 61) - 1;

/// Shape of a challenge: C (m × n) = A (m × k) · B (k × n), `rounds` times.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GemmParams {
    pub m: u32,
    pub n: u32,
    pub k: u32,
    pub rounds: u32,
}

/// Why a challenge is refused or cannot be answered.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GemmError {
    #[error("a compute challenge needs m, k and rounds of at least 1, and n a multiple of {TILE_COLUMNS}")]
    Shape,
    #[error("k = {k} is too large for exact results: 49·k must stay below 2^24")]
    NotExactlyRepresentable { k: u32 },
    #[error("a compute challenge of {asked} multiply-adds is more than the {allowed} that this node accepts")]
    TooMuchWork { asked: u64, allowed: u64 },
    #[error(
        "the matrices of the compute challenge are too large: at most {MAX_ELEMENTS} elements each and {MAX_ROUNDS} rounds"
    )]
    TooLarge,
    #[error("the matrix product failed or has the wrong size")]
    NoProduct,
    #[error("the matrix product is not made of exact integers: reduced-precision kernels must be off")]
    Inexact,
    #[error("{asked} tiles asked for, at most {MAX_OPENED} are opened")]
    TooManyTiles { asked: usize },
    #[error("there is no tile {index}; the challenge has {n_tiles}")]
    NoSuchTile { index: u32, n_tiles: u32 },
}

/// What is wrong with an answer. Each is final: the arithmetic is exact.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GemmMismatch {
    #[error("the commitment has {given} roots, the challenge {rounds} rounds")]
    Roots { given: usize, rounds: u32 },
    #[error("the opened tiles are not those that were asked for, in that order")]
    OtherTiles,
    #[error("tile {index} is not {TILE_COLUMNS} values that such a product can have")]
    Malformed { index: u32 },
    #[error("tile {index} is not the one that was committed to")]
    NotCommitted { index: u32 },
    #[error("tile {index} is not the product of the two matrices")]
    WrongProduct { index: u32 },
}

impl GemmParams {
    /// About 120 ms of one core at 2.5 GHz with candle's f32 kernels: 2 rounds of 0.5·10⁹ multiply-adds.
    pub const CPU: GemmParams = GemmParams { m: 512, n: 512, k: 2048, rounds: 2 };

    /// Multiply-adds of all rounds.
    pub fn ops(&self) -> u64 {
        [self.m, self.n, self.k, self.rounds].iter().fold(1, |ops: u64, factor| ops.saturating_mul(u64::from(*factor)))
    }

    /// Whether the challenge is exact, fits in memory and costs no more than `max_ops` multiply-adds.
    pub fn validate(&self, max_ops: u64) -> Result<(), GemmError> {
        let GemmParams { m, n, k, rounds } = *self;
        if m == 0 || k == 0 || rounds == 0 || n == 0 || n % TILE_COLUMNS != 0 {
            return Err(GemmError::Shape);
        }
        if u64::from(k) * (LARGEST * LARGEST) as u64 >= EXACT {
            return Err(GemmError::NotExactlyRepresentable { k });
        }
        let elements = |rows: u32, columns: u32| u64::from(rows) * u64::from(columns);
        let products = elements(m, n).saturating_mul(u64::from(rounds));
        if rounds > MAX_ROUNDS || [elements(m, k), elements(k, n), products].iter().any(|size| *size > MAX_ELEMENTS) {
            return Err(GemmError::TooLarge);
        }
        if self.ops() > max_ops {
            return Err(GemmError::TooMuchWork { asked: self.ops(), allowed: max_ops });
        }
        Ok(())
    }

    /// Tiles of all rounds: tile = (round · m + row) · blocks + block.
    pub fn n_tiles(&self) -> u32 {
        self.rounds.saturating_mul(self.tiles_per_round())
    }

    fn blocks(&self) -> u32 {
        self.n / TILE_COLUMNS
    }

    fn tiles_per_round(&self) -> u32 {
        self.m.saturating_mul(self.blocks())
    }

    fn place(&self, tile: u32) -> Option<Place> {
        let round = tile.checked_div(self.tiles_per_round()).filter(|round| *round < self.rounds)?;
        let leaf = tile % self.tiles_per_round();
        Some(Place {
            round: round as usize,
            leaf: leaf as usize,
            row: leaf / self.blocks(),
            block: leaf % self.blocks(),
        })
    }
}

/// Where a tile lies.
struct Place {
    round: usize,
    /// Number within the round.
    leaf: usize,
    row: u32,
    block: u32,
}

/// One opened tile: [`TILE_COLUMNS`] values and the path to the root of its round.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tile {
    pub index: u32,
    pub values: Vec<i32>,
    pub path: Vec<Hash>,
}

/// The prover's side: all products and their trees, kept until tiles are asked for.
pub struct GemmProof {
    params: GemmParams,
    rounds: Vec<(Vec<i32>, Tree)>,
}

/// `matmul(a, b, m, k, n)`: the product of two row-major matrices, m × k and k × n. On failure it returns anything else.
pub type Matmul<'a> = dyn Fn(&[f32], &[f32], usize, usize, usize) -> Vec<f32> + 'a;

/// Does the work.
/// Check `params` against the node's own limit first.
pub fn prove(params: GemmParams, seed_a: &Hash, seed_b: &Hash, matmul: &Matmul<'_>) -> Result<GemmProof, GemmError> {
    params.validate(u64::MAX)?;
    let (m, n, k) = (params.m as usize, params.n as usize, params.k as usize);
    let a: Vec<f32> = (0..params.m).flat_map(|row| entries(A, seed_a, row, k)).map(f32::from).collect();
    let b: Vec<f32> = (0..params.k).flat_map(|row| entries(B, seed_b, row, n)).map(f32::from).collect();
    let mut rounds: Vec<(Vec<i32>, Tree)> = Vec::new();
    for _ in 0..params.rounds {
        let product = match rounds.last() {
            None => matmul(&a, &b, m, k, n),
            Some((_, previous)) => matmul(&permuted(&a, &permutation(&previous.root(), k), k), &b, m, k, n),
        };
        rounds.push(commit(product, m * n)?);
    }
    Ok(GemmProof { params, rounds })
}

impl GemmProof {
    /// The commitment: one root per round.
    pub fn roots(&self) -> Vec<Hash> {
        self.rounds.iter().map(|(_, tree)| tree.root()).collect()
    }

    pub fn open(&self, tiles: &[u32]) -> Result<Vec<Tile>, GemmError> {
        if tiles.len() > MAX_OPENED {
            return Err(GemmError::TooManyTiles { asked: tiles.len() });
        }
        let missing = |index| GemmError::NoSuchTile { index, n_tiles: self.params.n_tiles() };
        tiles.iter().map(|index| self.open_one(*index).ok_or_else(|| missing(*index))).collect()
    }

    fn open_one(&self, index: u32) -> Option<Tile> {
        let place = self.params.place(index)?;
        let (product, tree) = self.rounds.get(place.round)?;
        let values = product.chunks(TILE_COLUMNS as usize).nth(place.leaf)?.to_vec();
        Some(Tile { index, values, path: tree.path(place.leaf)? })
    }
}

/// The verifier's side for one B, good for every node until the epoch's secret is known.
pub struct GemmVerifier {
    params: GemmParams,
    projections: Vec<Projection>,
}

/// One column block J, modulo 2⁶¹−1: the secret r_J and s_J = B[:,J] · r_J (k numbers).
struct Projection {
    r: Vec<u64>,
    s: Vec<u64>,
}

impl GemmVerifier {
    /// Costs n·k multiplications once. Nobody who answers challenges may learn `secret`.
    pub fn new(params: GemmParams, seed_b: &Hash, secret: &Hash) -> Result<Self, GemmError> {
        params.validate(u64::MAX)?;
        let mut stream = Stream::new("xdc-grid gemm projection v1", &[secret, seed_b]);
        let mut fresh = || Projection {
            r: (0..TILE_COLUMNS).map(|_| stream.below(PRIME)).collect(),
            s: Vec::with_capacity(params.k as usize),
        };
        let mut projections: Vec<Projection> = (0..params.blocks()).map(|_| fresh()).collect();
        for row in 0..params.k {
            let row = entries(B, seed_b, row, params.n as usize);
            for (Projection { r, s }, row) in projections.iter_mut().zip(row.chunks(TILE_COLUMNS as usize)) {
                s.push(dot(row.iter().map(|entry| i32::from(*entry)), r));
            }
        }
        Ok(GemmVerifier { params, projections })
    }

    /// `count` different tiles, ascending. `randomness` must be fresh and drawn after the commitment arrived.
    pub fn choose_tiles(&self, randomness: &Hash, count: usize) -> Vec<u32> {
        let n_tiles = u64::from(self.params.n_tiles());
        let tiles = super::distinct_below("xdc-grid gemm tiles v1", randomness, n_tiles, count.min(MAX_OPENED));
        tiles.into_iter().map(|tile| tile as u32).collect()
    }

    /// Checks the opened tiles against the commitment (`roots`) and the matrices.
    pub fn check(&self, seed_a: &Hash, roots: &[Hash], asked: &[u32], tiles: &[Tile]) -> Result<(), GemmMismatch> {
        if roots.len() != self.params.rounds as usize {
            return Err(GemmMismatch::Roots { given: roots.len(), rounds: self.params.rounds });
        }
        if !asked.iter().eq(tiles.iter().map(|tile| &tile.index)) {
            return Err(GemmMismatch::OtherTiles);
        }
        let k = self.params.k as usize;
        // Round 0 takes the columns as they are, round r in the order that root r − 1 gives.
        let first = (0..self.params.k).collect();
        let later = roots.iter().take(roots.len() - 1).map(|root| permutation(root, k));
        let permutations: Vec<Vec<u32>> = std::iter::once(first).chain(later).collect();
        tiles.iter().try_for_each(|tile| self.check_tile(seed_a, roots, &permutations, tile))
    }

    fn check_tile(
        &self,
        seed_a: &Hash,
        roots: &[Hash],
        permutations: &[Vec<u32>],
        tile: &Tile,
    ) -> Result<(), GemmMismatch> {
        let index = tile.index;
        let place = self.params.place(index).ok_or(GemmMismatch::OtherTiles)?;
        let possible = |value: &i32| u64::from(value.unsigned_abs()) < EXACT;
        if tile.values.len() != TILE_COLUMNS as usize || !tile.values.iter().all(possible) {
            return Err(GemmMismatch::Malformed { index });
        }
        let root = roots.get(place.round).ok_or(GemmMismatch::OtherTiles)?;
        let leaves = self.params.tiles_per_round() as usize;
        if !merkle::verify(root, &leaf(&tile.values), place.leaf, leaves, &tile.path) {
            return Err(GemmMismatch::NotCommitted { index });
        }
        self.check_product(seed_a, permutations, &place, tile)
    }

    /// Freivalds: tile · r_J = Σⱼ A[row, π(j)] · s_J[j]. The left side needs r_J, which follows from the secret.
    fn check_product(
        &self,
        seed_a: &Hash,
        permutations: &[Vec<u32>],
        place: &Place,
        tile: &Tile,
    ) -> Result<(), GemmMismatch> {
        let wrong = GemmMismatch::WrongProduct { index: tile.index };
        let block = self.projections.get(place.block as usize).ok_or(wrong.clone())?;
        let columns = permutations.get(place.round).ok_or(wrong.clone())?;
        let a = entries(A, seed_a, place.row, self.params.k as usize);
        let row = columns.iter().filter_map(|column| a.get(*column as usize)).map(|entry| i32::from(*entry));
        let left = dot(tile.values.iter().copied(), &block.r);
        if left == dot(row, &block.s) { Ok(()) } else { Err(wrong) }
    }
}

const A: &str = "xdc-grid gemm matrix A v1";
const B: &str = "xdc-grid gemm matrix B v1";

/// Row `row` of a matrix. Every row is a stream of its own, so that a verifier makes only the rows it needs.
fn entries(context: &str, seed: &Hash, row: u32, columns: usize) -> Vec<i8> {
    let mut stream = Stream::new(context, &[seed, blake3::hash(&row.to_le_bytes()).as_bytes()]);
    let mut entries = Vec::with_capacity(columns + 1);
    while entries.len() < columns {
        // Two half-bytes; the sixteenth value is dropped, for the other fifteen to be equally likely.
        let byte = stream.byte();
        let halves = [byte & 15, byte >> 4].into_iter().filter(|half| *half < 15);
        entries.extend(halves.map(|half| half as i8 - LARGEST as i8));
    }
    entries.truncate(columns);
    entries
}

/// The order of A's columns after a round with this root: position j holds column π(j).
fn permutation(root: &Hash, k: usize) -> Vec<u32> {
    let mut stream = Stream::new("xdc-grid gemm permutation v1", &[root]);
    let mut columns: Vec<u32> = (0..k as u32).collect();
    for last in (1..k).rev() {
        columns.swap(last, stream.below(last as u64 + 1) as usize);
    }
    columns
}

fn permuted(a: &[f32], columns: &[u32], k: usize) -> Vec<f32> {
    a.chunks(k).flat_map(|row| columns.iter().filter_map(|column| row.get(*column as usize).copied())).collect()
}

/// The product as integers, and the tree over its tiles.
fn commit(product: Vec<f32>, elements: usize) -> Result<(Vec<i32>, Tree), GemmError> {
    if product.len() != elements {
        return Err(GemmError::NoProduct);
    }
    let exact = |value: &f32| value.fract() == 0.0 && value.abs() < EXACT as f32;
    if !product.iter().all(exact) {
        return Err(GemmError::Inexact);
    }
    let values: Vec<i32> = product.into_iter().map(|value| value as i32).collect();
    let leaves: Vec<Hash> = values.chunks(TILE_COLUMNS as usize).map(leaf).collect();
    Ok((values, Tree::new(&leaves)))
}

fn leaf(values: &[i32]) -> Hash {
    let mut hasher = blake3::Hasher::new_derive_key("xdc-grid gemm tile v1");
    for value in values {
        hasher.update(&value.to_le_bytes());
    }
    *hasher.finalize().as_bytes()
}

/// Σ value · weight mod 2⁶¹−1. Values are below 2²⁴ and there are fewer than 2¹⁹ of them, so i128 does not overflow.
fn dot(values: impl Iterator<Item = i32>, weights: &[u64]) -> u64 {
    let sum: i128 = values.zip(weights).map(|(value, weight)| i128::from(value) * i128::from(*weight)).sum();
    sum.rem_euclid(i128::from(PRIME)) as u64
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use proptest::prelude::*;

    use super::*;

    const SMALL: GemmParams = GemmParams { m: 8, n: 512, k: 64, rounds: 3 };
    const SEED_A: Hash = [1; 32];
    const SEED_B: Hash = [2; 32];
    const SECRET: Hash = [3; 32];

    fn product(a: &[f32], b: &[f32], m: usize, k: usize, n: usize) -> Vec<f32> {
        let mut c = vec![0.0; m * n];
        for row in 0..m {
            for inner in 0..k {
                let factor = a[row * k + inner];
                for (sum, value) in c[row * n..][..n].iter_mut().zip(&b[inner * n..][..n]) {
                    *sum += factor * value;
                }
            }
        }
        c
    }

    fn all_tiles() -> Vec<u32> {
        (0..SMALL.n_tiles()).collect()
    }

    fn verifier() -> GemmVerifier {
        GemmVerifier::new(SMALL, &SEED_B, &SECRET).unwrap()
    }

    /// The verdict on every tile of a proof, one by one.
    fn failures(proof: &GemmProof, seed_a: &Hash) -> Vec<GemmMismatch> {
        let (verifier, roots) = (verifier(), proof.roots());
        let check = |tile| verifier.check(seed_a, &roots, &[tile], &proof.open(&[tile]).unwrap()).err();
        all_tiles().into_iter().filter_map(check).collect()
    }

    #[test]
    fn an_honest_answer_passes_on_every_tile() {
        let proof = prove(SMALL, &SEED_A, &SEED_B, &product).unwrap();
        let asked = all_tiles();
        assert_eq!(asked.len(), 48);
        assert_eq!(verifier().check(&SEED_A, &proof.roots(), &asked, &proof.open(&asked).unwrap()), Ok(()));
    }

    #[test]
    fn a_permuted_round_is_another_product_than_the_first() {
        let roots = prove(SMALL, &SEED_A, &SEED_B, &product).unwrap().roots();
        assert!(roots[0] != roots[1] && roots[1] != roots[2]);
    }

    #[test]
    fn every_skipped_tile_is_wrong_and_a_quarter_of_them_is_noticed_by_the_sample() {
        // B4: the last two rows of every round are left out.
        let lazy = |a: &[f32], b: &[f32], m: usize, k: usize, n: usize| {
            let mut c = product(&a[..(m - 2) * k], b, m - 2, k, n);
            c.resize(m * n, 0.0);
            c
        };
        let proof = prove(SMALL, &SEED_A, &SEED_B, &lazy).unwrap();
        assert_eq!(failures(&proof, &SEED_A).len(), 2 * 2 * 3);
        let asked = verifier().choose_tiles(&[9; 32], 32);
        let result = verifier().check(&SEED_A, &proof.roots(), &asked, &proof.open(&asked).unwrap());
        assert!(matches!(result, Err(GemmMismatch::WrongProduct { .. })), "{result:?}");
    }

    #[test]
    fn a_low_rank_approximation_is_wrong_on_every_tile_that_it_changes() {
        // B5: only half of the inner dimension is multiplied, scaled up and rounded: near in float terms.
        let low_rank = |a: &[f32], b: &[f32], m: usize, k: usize, n: usize| {
            let half: Vec<f32> = a.chunks(k).flat_map(|row| row[..k / 2].to_vec()).collect();
            product(&half, &b[..k / 2 * n], m, k / 2, n).into_iter().map(|value| 2.0 * value).collect()
        };
        let proof = prove(SMALL, &SEED_A, &SEED_B, &low_rank).unwrap();
        assert_eq!(failures(&proof, &SEED_A).len(), 48);
    }

    #[test]
    fn one_value_off_by_one_is_caught() {
        let sloppy = |a: &[f32], b: &[f32], m: usize, k: usize, n: usize| {
            let mut c = product(a, b, m, k, n);
            c[n + 300] += 1.0;
            c
        };
        let proof = prove(SMALL, &SEED_A, &SEED_B, &sloppy).unwrap();
        let wrong: Vec<GemmMismatch> = [3, 19, 35].map(|index| GemmMismatch::WrongProduct { index }).into();
        assert_eq!(failures(&proof, &SEED_A), wrong);
    }

    #[test]
    fn repeating_the_first_round_instead_of_permuting_is_caught() {
        let first: Cell<Option<Vec<f32>>> = Cell::new(None);
        let cached = |a: &[f32], b: &[f32], m: usize, k: usize, n: usize| {
            let c = first.take().unwrap_or_else(|| product(a, b, m, k, n));
            first.set(Some(c.clone()));
            c
        };
        let proof = prove(SMALL, &SEED_A, &SEED_B, &cached).unwrap();
        assert_eq!(failures(&proof, &SEED_A).len(), 32);
    }

    #[test]
    fn an_answer_to_an_old_challenge_is_worthless() {
        // B6.
        let proof = prove(SMALL, &SEED_A, &SEED_B, &product).unwrap();
        assert_eq!(failures(&proof, &[7; 32]).len(), 48);
    }

    #[test]
    fn tiles_that_were_not_committed_to_are_refused() {
        let honest = prove(SMALL, &SEED_A, &SEED_B, &product).unwrap();
        let lazy = |_: &[f32], _: &[f32], m: usize, _: usize, n: usize| vec![0.0; m * n];
        let committed = prove(SMALL, &SEED_A, &SEED_B, &lazy).unwrap().roots();
        let opened = honest.open(&[5]).unwrap();
        let result = verifier().check(&SEED_A, &committed, &[5], &opened);
        assert_eq!(result, Err(GemmMismatch::NotCommitted { index: 5 }));
    }

    #[test]
    fn other_tiles_than_asked_and_malformed_ones_are_refused() {
        let (verifier, proof) = (verifier(), prove(SMALL, &SEED_A, &SEED_B, &product).unwrap());
        let roots = proof.roots();
        let check = |asked: &[u32], tiles: &[Tile]| verifier.check(&SEED_A, &roots, asked, tiles);
        let opened = proof.open(&[5, 6]).unwrap();
        assert_eq!(check(&[5, 7], &opened), Err(GemmMismatch::OtherTiles));
        assert_eq!(check(&[5], &opened), Err(GemmMismatch::OtherTiles));
        assert_eq!(
            check(&[4_000_000_000], &[Tile { index: 4_000_000_000, ..opened[0].clone() }]),
            Err(GemmMismatch::OtherTiles)
        );
        let short = Tile { values: vec![0; 255], ..opened[0].clone() };
        assert_eq!(check(&[5], &[short]), Err(GemmMismatch::Malformed { index: 5 }));
        let huge = Tile { values: vec![i32::MIN; 256], ..opened[0].clone() };
        assert_eq!(check(&[5], &[huge]), Err(GemmMismatch::Malformed { index: 5 }));
        let result = verifier.check(&SEED_A, &roots[..2], &[5], &opened[..1]);
        assert_eq!(result, Err(GemmMismatch::Roots { given: 2, rounds: 3 }));
    }

    #[test]
    fn whoever_knows_the_secret_can_forge_so_it_must_stay_secret() {
        // B7. With small weights a forger sees which changes cancel: two equal weights, one value up and one down.
        let proof = prove(SMALL, &SEED_A, &SEED_B, &product).unwrap();
        let (place, identity) = (SMALL.place(0).unwrap(), vec![(0..SMALL.k).collect::<Vec<u32>>()]);
        let mut leaked = verifier();
        leaked.projections[0].r[1] = leaked.projections[0].r[0];
        let mut s = Vec::new();
        for row in 0..SMALL.k {
            let row = entries(B, &SEED_B, row, 256);
            s.push(dot(row.iter().map(|entry| i32::from(*entry)), &leaked.projections[0].r));
        }
        leaked.projections[0].s = s;
        let mut forged = proof.open(&[0]).unwrap().remove(0);
        forged.values[0] += 1;
        forged.values[1] -= 1;
        assert_eq!(leaked.check_product(&SEED_A, &identity, &place, &forged), Ok(()));
        let caught = verifier().check_product(&SEED_A, &identity, &place, &forged);
        assert_eq!(caught, Err(GemmMismatch::WrongProduct { index: 0 }));
    }

    #[test]
    fn inexact_or_missing_products_are_the_provers_error() {
        let prove_with =
            |value: f32, len: usize| prove(SMALL, &SEED_A, &SEED_B, &move |_, _, _, _, _| vec![value; len]).err();
        assert_eq!(prove_with(0.5, 8 * 512), Some(GemmError::Inexact));
        assert_eq!(prove_with(f32::NAN, 8 * 512), Some(GemmError::Inexact));
        assert_eq!(prove_with(16_777_216.0, 8 * 512), Some(GemmError::Inexact));
        assert_eq!(prove_with(1.0, 0), Some(GemmError::NoProduct));
    }

    #[test]
    fn hostile_parameters_are_refused_before_any_work() {
        let with = |m, n, k, rounds| GemmParams { m, n, k, rounds }.validate(1 << 40);
        assert_eq!(GemmParams::CPU.validate(GemmParams::CPU.ops()), Ok(()));
        assert_eq!(with(0, 256, 1, 1), Err(GemmError::Shape));
        assert_eq!(with(1, 255, 1, 1), Err(GemmError::Shape));
        assert_eq!(with(1, 256, 342_393, 1), Err(GemmError::NotExactlyRepresentable { k: 342_393 }));
        assert_eq!(with(1, 256, 342_392, 1), Ok(()));
        assert_eq!(with(u32::MAX, u32::MAX - 255, 100_000, u32::MAX), Err(GemmError::TooLarge));
        assert_eq!(with(4096, 4096, 4096, 64), Err(GemmError::TooLarge));
        let work = GemmParams::CPU.validate(1000);
        assert_eq!(work, Err(GemmError::TooMuchWork { asked: 1_073_741_824, allowed: 1000 }));
    }

    #[test]
    fn a_prover_opens_a_bounded_number_of_existing_tiles() {
        let proof = prove(SMALL, &SEED_A, &SEED_B, &product).unwrap();
        assert_eq!(proof.open(&[48]).err(), Some(GemmError::NoSuchTile { index: 48, n_tiles: 48 }));
        assert_eq!(proof.open(&[0; 257]).err(), Some(GemmError::TooManyTiles { asked: 257 }));
    }

    #[test]
    fn entries_are_small_and_of_all_fifteen_values_about_equally_many() {
        let row = entries(A, &SEED_A, 0, 15_000);
        let mut counts = [0; 15];
        for entry in &row {
            counts[(i32::from(*entry) + LARGEST) as usize] += 1;
        }
        // Standard deviation 31.
        assert!(counts.iter().all(|count| (850..1150).contains(count)), "{counts:?}");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]

        #[test]
        fn any_shape_verifies_and_any_changed_value_does_not(
            m in 1u32..6, blocks in 1u32..4, k in 1u32..40, rounds in 1u32..4, pick in any::<u32>(), change in 1i32..100
        ) {
            let params = GemmParams { m, n: blocks * TILE_COLUMNS, k, rounds };
            let proof = prove(params, &SEED_A, &SEED_B, &product).unwrap();
            let verifier = GemmVerifier::new(params, &SEED_B, &SECRET).unwrap();
            let index = pick % params.n_tiles();
            prop_assert_eq!(verifier.check(&SEED_A, &proof.roots(), &[index], &proof.open(&[index]).unwrap()), Ok(()));
            // The same tile changed before the commitment, so that only the product is wrong.
            let place = params.place(index).unwrap();
            let round = Cell::new(0);
            let changed = |a: &[f32], b: &[f32], m: usize, k: usize, n: usize| {
                let mut c = product(a, b, m, k, n);
                if round.replace(round.get() + 1) == place.round {
                    c[place.leaf * 256 + pick as usize % 256] += change as f32;
                }
                c
            };
            let proof = prove(params, &SEED_A, &SEED_B, &changed).unwrap();
            let result = verifier.check(&SEED_A, &proof.roots(), &[index], &proof.open(&[index]).unwrap());
            prop_assert_eq!(result, Err(GemmMismatch::WrongProduct { index }));
        }
    }
}
