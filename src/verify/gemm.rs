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
    #[error("the matrices of the compute challenge are too large: at most {MAX_ELEMENTS} elements each and {MAX_ROUNDS} rounds")]
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
    /// About 100 ms of one core: 4 rounds of 0.5·10⁹ multiply-adds.
    pub const CPU: GemmParams = GemmParams { m: 512, n: 512, k: 2048, rounds: 4 };

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
        Some(Place { round: round as usize, leaf: leaf as usize, row: leaf / self.blocks(), block: leaf % self.blocks() })
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

/// Does the work. `matmul(a, b, m, k, n)` multiplies row-major matrices; it may return anything but the product on failure.
/// Check `params` against the node's own limit first.
pub fn prove(
    params: GemmParams,
    seed_a: &Hash,
    seed_b: &Hash,
    matmul: &dyn Fn(&[f32], &[f32], usize, usize, usize) -> Vec<f32>,
) -> Result<GemmProof, GemmError> {
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
