//! Causal attention of one row over one group of heads, in an order that depends on nothing but the row's position.

use std::ops::Range;

use super::lanes::Lanes;
use super::{Simd, dispatch};

/// The sizes that one call needs.
#[derive(Debug, Clone, Copy)]
pub struct AttentionShape {
    /// Elements of a head; a multiple of 8.
    pub head_dim: usize,
    /// Query heads that share the keys and values.
    pub group: usize,
    /// Positions that a block of keys or values holds.
    pub block_len: usize,
    /// The first position to attend to; later than 0 where the layer has a window.
    pub first: usize,
    /// One more than the last position to attend to, the row's own.
    pub positions: usize,
    /// Scores are multiplied by this: 1/√head_dim in most models.
    pub scale: f32,
}

/// The keys and values of one head of one sequence, in blocks of `block_len × head_dim`.
pub trait Blocks {
    fn keys(&self, block: usize) -> Stored<'_>;
    fn values(&self, block: usize) -> Stored<'_>;
}

/// Keys or values as they are stored.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Stored<'a> {
    F32(&'a [f32]),
    /// Half precision bits.
    F16(&'a [u16]),
}

impl<'a> Stored<'a> {
    /// The numbers in `range`.
    pub fn slice(self, range: Range<usize>) -> Self {
        match self {
            Self::F32(floats) => Self::F32(&floats[range]),
            Self::F16(halves) => Self::F16(&halves[range]),
        }
    }

    /// Single precision numbers, a multiple of 8: those that are stored, or in `wide` what they are exactly.
    #[inline(always)]
    fn widened<'b, V: Lanes>(self, wide: &'b mut Vec<f32>) -> &'b [f32]
    where
        'a: 'b,
    {
        match self {
            Self::F32(floats) => floats,
            Self::F16(halves) => {
                wide.resize(halves.len(), 0.0);
                for (halves, wide) in halves.chunks_exact(8).zip(wide.chunks_exact_mut(8)) {
                    V::load_half(halves).store(wide);
                }
                wide
            }
        }
    }
}

/// Attends from `group` query heads to the keys and values of one key-value head at the positions from `first` up to
/// `positions`; `q` and `out` are `group × head_dim`. Per head: scores = (q·k) · scale, softmax, then the weighted sum of the
/// values in the order of positions.
pub fn attend(simd: Simd, shape: AttentionShape, q: &[f32], kv: &dyn Blocks, out: &mut [f32]) {
    dispatch!(simd, attend_generic(shape: AttentionShape, q: &[f32], kv: &dyn Blocks, out: &mut [f32]))
}

#[inline(always)]
fn attend_generic<V: Lanes>(shape: AttentionShape, q: &[f32], kv: &dyn Blocks, out: &mut [f32]) {
    let AttentionShape { head_dim, group, block_len, first, positions, scale } = shape;
    let total = positions - first;
    let blocks = first / block_len..positions.div_ceil(block_len);
    // Rows of scores are padded to whole lanes; the padding is -infinity and never read by the weighted sum.
    let stride = total.next_multiple_of(8);
    let mut scores = vec![f32::NEG_INFINITY; group * stride];
    // Blocks are the outer loop, so that what has to be widened is widened once for all heads.
    let mut wide = Vec::new();
    for block in blocks.clone() {
        let (stored, at) = shape.within(block);
        let keys = kv.keys(block).slice(stored).widened::<V>(&mut wide);
        for (q, scores) in q.chunks_exact(head_dim).zip(scores.chunks_exact_mut(stride)) {
            score_block::<V>(q, keys, scale, &mut scores[at.clone()]);
        }
    }
    let mut sums = vec![0.0; group];
    for (sum, scores) in sums.iter_mut().zip(scores.chunks_exact_mut(stride)) {
        *sum = exponentials::<V>(scores, total);
    }
    out.fill(0.0);
    for block in blocks {
        let (stored, at) = shape.within(block);
        let values = kv.values(block).slice(stored).widened::<V>(&mut wide);
        for (weights, out) in scores.chunks_exact(stride).zip(out.chunks_exact_mut(head_dim)) {
            add_block::<V>(values, &weights[at.clone()], out);
        }
    }
    for (sum, out) in sums.into_iter().zip(out.chunks_exact_mut(head_dim)) {
        let factor = V::splat(1.0 / sum);
        for out in out.chunks_exact_mut(8) {
            V::load(out).mul(factor).store(out);
        }
    }
}

impl AttentionShape {
    /// What is attended to in a block: its numbers, counted from the block's start, and its positions, counted from the first one of all.
    fn within(&self, block: usize) -> (Range<usize>, Range<usize>) {
        let start = block * self.block_len;
        let (from, to) = (start.max(self.first), self.positions.min(start + self.block_len));
        ((from - start) * self.head_dim..(to - start) * self.head_dim, from - self.first..to - self.first)
    }
}

/// Four keys at a time, to hide the latency of the additions; each product is summed on its own, in order.
#[inline(always)]
fn score_block<V: Lanes>(q: &[f32], keys: &[f32], scale: f32, scores: &mut [f32]) {
    let head_dim = q.len();
    let fours = keys.chunks_exact(4 * head_dim);
    let rest = fours.remainder().chunks_exact(head_dim);
    let mut scores = scores.iter_mut();
    for four in fours {
        let (k0, k1) = four.split_at(2 * head_dim);
        let ((k0, k1), (k2, k3)) = (k0.split_at(head_dim), k1.split_at(head_dim));
        let mut sums = [V::zero(); 4];
        let keys = k0.chunks_exact(8).zip(k1.chunks_exact(8)).zip(k2.chunks_exact(8)).zip(k3.chunks_exact(8));
        for (q, (((k0, k1), k2), k3)) in q.chunks_exact(8).zip(keys) {
            let q = V::load(q);
            sums[0] = sums[0].add(q.mul(V::load(k0)));
            sums[1] = sums[1].add(q.mul(V::load(k1)));
            sums[2] = sums[2].add(q.mul(V::load(k2)));
            sums[3] = sums[3].add(q.mul(V::load(k3)));
        }
        for (sum, score) in sums.into_iter().zip(scores.by_ref()) {
            *score = sum.sum() * scale;
        }
    }
    for (key, score) in rest.zip(scores) {
        let products = q.chunks_exact(8).zip(key.chunks_exact(8));
        let sum = products.fold(V::zero(), |sum, (q, k)| sum.add(V::load(q).mul(V::load(k))));
        *score = sum.sum() * scale;
    }
}

/// Replaces scores by e^(score - largest) and returns their sum.
#[inline(always)]
fn exponentials<V: Lanes>(scores: &mut [f32], positions: usize) -> f32 {
    let largest = scores.chunks_exact(8).fold(V::splat(f32::NEG_INFINITY), |most, x| V::load(x).max(most)).largest();
    let shift = V::splat(largest);
    for scores in scores.chunks_exact_mut(8) {
        V::load(scores).sub(shift).exp().store(scores);
    }
    // The padding has become e^-87; it must not count.
    scores[positions..].fill(0.0);
    scores.chunks_exact(8).fold(V::zero(), |sum, x| sum.add(V::load(x))).sum()
}

/// Adds Σ weight · value over the positions of a block in order, 32 elements of the head at a time.
#[inline(always)]
fn add_block<V: Lanes>(values: &[f32], weights: &[f32], out: &mut [f32]) {
    let head_dim = out.len();
    for (part, out) in out.chunks_mut(32).enumerate() {
        let rows = values.chunks_exact(head_dim).zip(weights).map(|(row, weight)| (&row[part * 32..], *weight));
        if out.len() == 32 {
            accumulate::<V, 4>(rows, out);
        } else {
            for (lane, out) in out.chunks_exact_mut(8).enumerate() {
                accumulate::<V, 1>(rows.clone().map(|(row, weight)| (&row[lane * 8..], weight)), out);
            }
        }
    }
}

#[inline(always)]
fn accumulate<'a, V: Lanes, const N: usize>(rows: impl Iterator<Item = (&'a [f32], f32)>, out: &mut [f32]) {
    let mut sums = [V::zero(); N];
    for (sum, out) in sums.iter_mut().zip(out.chunks_exact(8)) {
        *sum = V::load(out);
    }
    for (row, weight) in rows {
        let weight = V::splat(weight);
        for (sum, row) in sums.iter_mut().zip(row.chunks_exact(8)) {
            *sum = sum.add(weight.mul(V::load(row)));
        }
    }
    for (sum, out) in sums.into_iter().zip(out.chunks_exact_mut(8)) {
        sum.store(out);
    }
}

#[cfg(test)]
mod tests {
    use super::super::{f16_to_f32, f32_to_f16};
    use super::*;

    struct Flat<'a> {
        k: Stored<'a>,
        v: Stored<'a>,
        block: usize,
    }

    impl Blocks for Flat<'_> {
        fn keys(&self, block: usize) -> Stored<'_> {
            self.k.slice(block * self.block..(block + 1) * self.block)
        }
        fn values(&self, block: usize) -> Stored<'_> {
            self.v.slice(block * self.block..(block + 1) * self.block)
        }
    }

    fn wave(n: usize, step: usize) -> Vec<f32> {
        (0..n).map(|i| (i * step % 211) as f32 / 100.0 - 1.0).collect()
    }

    #[test]
    fn instances_and_ways_of_storing_agree_to_the_bit_and_are_close_to_the_exact_result() {
        let block_len = 64;
        for (head_dim, group) in [(64, 3), (40, 1), (128, 4)] {
            let blocks = 3;
            let q = wave(group * head_dim, 13);
            // Numbers that half precision holds, so that both ways store the same.
            let halves =
                [29, 31].map(|step| wave(blocks * block_len * head_dim, step).into_iter().map(f32_to_f16).collect());
            let [k16, v16]: [Vec<u16>; 2] = halves;
            let [k, v] = [&k16, &v16].map(|halves| halves.iter().map(|half| f16_to_f32(*half)).collect::<Vec<f32>>());
            let kinds = [(Stored::F32(&k), Stored::F32(&v)), (Stored::F16(&k16), Stored::F16(&v16))];
            let seen =
                [0..1, 0..2, 0..7, 0..8, 0..9, 0..64, 0..65, 0..130, 1..2, 5..64, 63..65, 64..130, 90..130, 3..192];
            for Range { start: first, end: positions } in seen {
                let scale = 1.0 / (head_dim as f32).sqrt();
                let shape = AttentionShape { head_dim, group, block_len, first, positions, scale };
                let attended = |simd, (k, v)| {
                    let mut out = vec![0.0; group * head_dim];
                    attend(simd, shape, &q, &Flat { k, v, block: block_len * head_dim }, &mut out);
                    out
                };
                let reference = attended(Simd::Portable, kinds[0]);
                for simd in Simd::available() {
                    for kind in kinds {
                        let out = attended(simd, kind);
                        let same = reference.iter().zip(&out).all(|(a, b)| a.to_bits() == b.to_bits());
                        assert!(same, "{shape:?}, {simd:?}, half precision: {}", matches!(kind.0, Stored::F16(_)));
                    }
                }
                for (head, out) in reference.chunks_exact(head_dim).enumerate() {
                    let exact = exact(&q[head * head_dim..][..head_dim], &k, &v, first..positions);
                    assert!(out.iter().zip(exact).all(|(a, b)| (f64::from(*a) - b).abs() < 1e-5), "{shape:?}");
                }
            }
        }
    }

    fn exact(q: &[f32], k: &[f32], v: &[f32], seen: Range<usize>) -> Vec<f64> {
        let d = q.len();
        let dot = |p: usize| q.iter().zip(&k[p * d..]).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>();
        let weights: Vec<f64> = seen.clone().map(|p| (dot(p) / (d as f64).sqrt()).exp()).collect();
        let total: f64 = weights.iter().sum();
        let value = |i: usize| seen.clone().zip(&weights).map(|(p, w)| w / total * f64::from(v[p * d + i])).sum();
        (0..d).map(value).collect()
    }
}
