//! What every kernel makes of one fixed input, by digest: the same on every instruction set, on every processor.
//!
//! A digest changes only with the name of the arithmetic, [`KERNEL_PROFILE`] or [`DENSE_PROFILE`].

use super::*;
use crate::noise::Noise;
use crate::pool::ThreadPool;

/// A half precision number from 2^-7 to 2^-5, with the sign bit given.
fn half(noise: &mut Noise, sign: u16) -> u16 {
    sign | (0x2000 + (noise.bits() % 0x800) as u16)
}

fn digest(bytes: impl Iterator<Item = [u8; 4]>) -> String {
    let bytes: Vec<u8> = bytes.flatten().collect();
    blake3::hash(&bytes).to_hex()[..16].to_owned()
}

fn digest_of(values: &[f32]) -> String {
    assert!(values.iter().all(|x| x.is_finite()), "a digest of numbers only: the bits of others are not defined");
    digest(values.iter().map(|x| x.to_le_bytes()))
}

/// The result of a kernel that fills `count` elements.
fn filled(count: usize, kernel: impl FnOnce(&mut [f32])) -> String {
    let mut out = vec![0.0; count];
    kernel(&mut out);
    digest_of(&out)
}

#[inline(always)]
fn powers_generic<V: Lanes>(x: &[f32], out: &mut [f32]) {
    for (x, out) in x.chunks_exact(8).zip(out.chunks_exact_mut(8)) {
        V::load(x).exp().store(out);
    }
}

fn powers(simd: Simd, x: &[f32], out: &mut [f32]) {
    dispatch!(simd, powers_generic(x: &[f32], out: &mut [f32]))
}

/// e^x from beyond one end of its range to beyond the other.
fn exp(simd: Simd) -> String {
    let x: Vec<f32> = (-8_000..8_000).map(|i| i as f32 / 79.0).collect();
    filled(x.len(), |out| powers(simd, &x, out))
}

fn norms(simd: Simd) -> String {
    let mut noise = Noise::new(1);
    let (x, weight, bias) = (noise.floats(576, 3.0), noise.floats(576, 2.0), noise.floats(576, 1.0));
    filled(2 * 576, |out| {
        let (root_mean_square, layer) = out.split_at_mut(576);
        rms_norm(simd, &x, &weight, 1e-5, root_mean_square);
        layer_norm(simd, &x, &weight, &bias, 1e-12, layer);
    })
}

fn activations(simd: Simd) -> String {
    let mut noise = Noise::new(2);
    let (gate, up) = (noise.floats(1_024, 30.0), noise.floats(1_024, 4.0));
    filled(3 * 1_024, |out| {
        let (swish, rest) = out.split_at_mut(1_024);
        let (tanh, erf) = rest.split_at_mut(1_024);
        swiglu(simd, &gate, &up, swish);
        geglu(simd, &gate, &up, tanh);
        gelu(simd, &up, erf);
    })
}

fn sum_of_exponentials(simd: Simd) -> String {
    let logits = Noise::new(3).floats(3_003, 20.0);
    let bits = log_sum_exp(simd, &logits).to_bits();
    digest([bits as u32, (bits >> 32) as u32].into_iter().map(u32::to_le_bytes))
}

fn rotations() -> String {
    let mut noise = Noise::new(4);
    let (x, cos, sin) = (noise.floats(128, 5.0), noise.floats(64, 1.0), noise.floats(64, 1.0));
    let (mut pairs, mut halves) = (x.clone(), x);
    rotate_pairs(&mut pairs, &cos, &sin);
    rotate_halves(&mut halves, &cos, &sin);
    digest_of(&[pairs, halves].concat())
}

fn half_precision() -> String {
    let mut noise = Noise::new(5);
    // Of all sizes, from those that vanish to those that overflow.
    let mut wide = || {
        let exponent = 100 + noise.bits() % 44;
        f32::from_bits(exponent << 23 | noise.bits() & 0x807f_ffff)
    };
    digest((0..4_096).map(|_| f16_to_f32(f32_to_f16(wide())).to_le_bytes()))
}

fn q8_tile(noise: &mut Noise) -> Q8Tile {
    let mut tile = Q8Tile::ZERO;
    for output in 0..COLUMNS {
        match output % 4 {
            // The largest sums, and weights that are rounded here.
            0 => tile.set(output, half(noise, 0), &[-127; BLOCK]),
            1 => tile.quantize(output, &std::array::from_fn(|_| noise.float(0.5))),
            _ => tile.set(output, half(noise, 0), &std::array::from_fn(|_| noise.byte() as i8)),
        }
    }
    tile
}

fn q4_tile(noise: &mut Noise) -> Q4Tile {
    let mut tile = Q4Tile::ZERO;
    for output in 0..COLUMNS {
        let q = std::array::from_fn(|_| if output % 4 == 0 { 15 } else { noise.byte() >> 4 });
        tile.set(output, half(noise, 0), half(noise, 0x8000), &q);
    }
    tile
}

/// Two columns of five blocks, for every number of rows up to 19.
fn products(simd: Simd, tiles: &Tiles) -> String {
    let (pool, inputs, mut noise) = (ThreadPool::new(1).unwrap(), 5 * BLOCK, Noise::new(7));
    let mut all = Vec::new();
    for rows in 1..=19 {
        let mut x = noise.floats(rows * inputs, 4.0);
        // Activations of one sign and full scale, a block of zeros, and one that is nearly all zeros.
        x[..BLOCK].fill(if rows % 2 == 0 { -3.0 } else { 3.0 });
        x[BLOCK..2 * BLOCK].fill(0.0);
        x[2 * BLOCK..3 * BLOCK - 1].fill(1e-6);
        let x = Activations::quantize(simd, &pool, &x, inputs);
        (0..2).for_each(|column| matmul_column(simd, tiles, column, &x, |_, y| all.extend_from_slice(y)));
    }
    digest_of(&all)
}

fn q8_products(simd: Simd) -> String {
    let mut noise = Noise::new(8);
    products(simd, &Tiles::Q8((0..10).map(|_| q8_tile(&mut noise)).collect()))
}

fn q4_products(simd: Simd) -> String {
    let mut noise = Noise::new(9);
    products(simd, &Tiles::Q4((0..10).map(|_| q4_tile(&mut noise)).collect()))
}

fn dense_products(simd: Simd) -> String {
    let mut noise = Noise::new(10);
    let (inputs, rows) = (72, 11);
    let matrix = DenseMatrix::new(inputs, &[(noise.floats(16 * inputs, 0.3), noise.floats(16, 1.0))]);
    let x = noise.floats(rows * inputs, 2.0);
    filled(rows * COLUMNS, |out| matrix.column(simd, 0, &x, out))
}

/// Keys and values in one piece of memory.
struct Flat<'a> {
    keys: Stored<'a>,
    values: Stored<'a>,
    /// Elements of a block.
    length: usize,
}

impl Blocks for Flat<'_> {
    fn keys(&self, block: usize) -> Stored<'_> {
        self.keys.slice(block * self.length..(block + 1) * self.length)
    }

    fn values(&self, block: usize) -> Stored<'_> {
        self.values.slice(block * self.length..(block + 1) * self.length)
    }
}

/// How numbers are stored; halves go where the second argument says.
type Storing = for<'a> fn(&'a [f32], &'a mut Vec<u16>) -> Stored<'a>;

fn attention(simd: Simd, stored: Storing) -> String {
    let mut noise = Noise::new(11);
    let (group, block_len) = (3, 8);
    let mut all = Vec::new();
    for (head_dim, first, positions) in [(64, 0, 1), (64, 0, 45), (40, 5, 21), (8, 17, 48)] {
        let size = 6 * block_len * head_dim;
        let (keys, values) = (noise.floats(size, 1.0), noise.floats(size, 2.0));
        let (mut key_halves, mut value_halves) = (Vec::new(), Vec::new());
        let (keys, values) = (stored(&keys, &mut key_halves), stored(&values, &mut value_halves));
        let kv = Flat { keys, values, length: block_len * head_dim };
        let q = noise.floats(group * head_dim, 3.0);
        let scale = 1.0 / (head_dim as f32).sqrt();
        let mut out = vec![0.0; group * head_dim];
        attend(simd, AttentionShape { head_dim, group, block_len, first, positions, scale }, &q, &kv, &mut out);
        all.extend(out);
    }
    digest_of(&all)
}

fn in_single_precision<'a>(numbers: &'a [f32], _: &'a mut Vec<u16>) -> Stored<'a> {
    Stored::F32(numbers)
}

fn in_half_precision<'a>(numbers: &'a [f32], halves: &'a mut Vec<u16>) -> Stored<'a> {
    halves.extend(numbers.iter().map(|x| f32_to_f16(*x)));
    Stored::F16(halves)
}

/// The digests on every machine; worked out on x86 with plain Rust.
const DIGESTS: [(&str, &str); 11] = [
    ("exp", "b952fda67b98664f"),
    ("norms", "ffc346a840a46513"),
    ("activations", "c453cca25c87811c"),
    ("sum of exponentials", "aa3b9aea5874dca0"),
    ("rotations", "342526d3d389c9e4"),
    ("half precision", "53ceeffb4bb4ee21"),
    ("q8 products", "cb43ce7e8e019148"),
    ("q4 products", "b0526b0dda262c15"),
    ("dense products", "24f0796aca39c8e0"),
    ("attention", "fbdde2c2ff10da87"),
    ("attention to halves", "79c7a0f111c102db"),
];

#[test]
fn every_instance_on_every_processor_gives_the_committed_bits() {
    for simd in Simd::available() {
        let found = [
            ("exp", exp(simd)),
            ("norms", norms(simd)),
            ("activations", activations(simd)),
            ("sum of exponentials", sum_of_exponentials(simd)),
            ("rotations", rotations()),
            ("half precision", half_precision()),
            ("q8 products", q8_products(simd)),
            ("q4 products", q4_products(simd)),
            ("dense products", dense_products(simd)),
            ("attention", attention(simd, in_single_precision)),
            ("attention to halves", attention(simd, in_half_precision)),
        ];
        assert_eq!(found.each_ref().map(|(name, digest)| (*name, digest.as_str())), DIGESTS, "{simd:?}");
    }
}

#[inline(always)]
fn operations_generic<V: Lanes>(a: &[f32], b: &[f32], out: &mut [f32]) {
    let (a, b) = (V::load(a), V::load(b));
    let whole = [V::splat(a.sum()), V::splat(b.largest())];
    let results = [a.add(b), a.sub(b), a.mul(b), a.div(b), a.max(b), a.min(b)].into_iter().chain(whole);
    for (result, out) in results.zip(out.chunks_exact_mut(8)) {
        result.store(out);
    }
}

/// What all operations make of `a` and `b`; one NaN is as good as another.
fn operations(simd: Simd, a: &[f32], b: &[f32]) -> Vec<u32> {
    let mut results = vec![0.0; 64];
    let out = &mut results[..];
    dispatch!(simd, operations_generic(a: &[f32], b: &[f32], out: &mut [f32]));
    results.into_iter().map(|x| if x.is_nan() { f32::NAN.to_bits() } else { x.to_bits() }).collect()
}

/// Zeros of both signs, what is not a number, and the ends of the range, each with each.
#[test]
fn lanes_treat_odd_numbers_alike_on_all_instances() {
    const ODD: [f32; 11] =
        [0.0, -0.0, 1.0, -1.5, f32::NAN, f32::INFINITY, f32::NEG_INFINITY, f32::MAX, f32::MIN_POSITIVE, 1e-45, -3e-40];
    // Eleven turns bring each place of `a` together with each number.
    let turned = |turn: usize| -> [f32; 8] { std::array::from_fn(|i| ODD[(i + turn) % ODD.len()]) };
    for (a, b) in (0..ODD.len()).flat_map(|turn| [(turned(0), turned(turn)), (turned(turn), turned(3))]) {
        let portable = operations(Simd::Portable, &a, &b);
        for simd in Simd::available() {
            assert_eq!(portable, operations(simd, &a, &b), "{simd:?}: {a:?} with {b:?}");
        }
    }
}

/// So that `make check-arm`, which names them in `GRID_INSTANCES`, tests what it means to test.
#[test]
fn the_instances_that_a_caller_expects_are_available() {
    let found = format!("{:?}", Simd::available());
    assert_eq!(std::env::var("GRID_INSTANCES").unwrap_or_else(|_| found.clone()), found);
}
