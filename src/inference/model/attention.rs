//! The attention of one layer for all rows of a forward.

use candle_core::{Device, Tensor};

use super::rope::Rotation;
use super::{ForwardError, Layer, Model, Segment};
use crate::config::ModelConfig;
use crate::kernels::{AttentionShape, attend, rms_norm};
use crate::kv::{BLOCK_TOKENS, KvCache};
use crate::pool::Disjoint;

/// The rotations of a forward.
pub(super) struct Rotations {
    pub(super) global: Rotation,
    pub(super) local: Option<Rotation>,
}

/// Whether a fifth of the threads' time is spent waiting for the last of so many equal items.
fn is_uneven(items: usize, threads: usize) -> bool {
    5 * items < 4 * items.next_multiple_of(threads)
}

/// One layer's attention.
pub(super) struct Attention<'a> {
    pub(super) model: &'a Model,
    pub(super) index: usize,
    pub(super) rotations: &'a Rotations,
}

impl Attention<'_> {
    /// Stores the rows' keys and values, then attends; `qkv` is `rows × (heads + 2 · kv heads) · head_dim`.
    pub(super) fn run(&self, qkv: &Tensor, batch: &mut [Segment]) -> Result<Tensor, ForwardError> {
        let (storage, layout) = qkv.storage_and_layout();
        let candle_core::Storage::Cpu(storage) = &*storage else {
            return Err(candle_core::Error::Msg("exact attention runs on the CPU only".into()).into());
        };
        let qkv = &storage.as_slice::<f32>()?[layout.start_offset()..];
        let ModelConfig { n_heads, n_kv_heads, head_dim, .. } = self.model.config;
        let q_width = n_heads * head_dim;
        let width = q_width + 2 * n_kv_heads * head_dim;
        let places = self.store(qkv, batch);
        let caches: Vec<&KvCache> = batch.iter().map(|segment| &*segment.kv).collect();
        let mut out = vec![0f32; places.len() * q_width];
        let out_places = Disjoint::new(&mut out);
        let pool = &self.model.compute.pool;
        // Heads that share keys and values are computed together, unless threads would wait for one another. Either way each
        // head's sums are its own.
        let shared = n_heads / n_kv_heads;
        let group = if is_uneven(places.len() * n_kv_heads, pool.threads()) { 1 } else { shared };
        let groups = n_heads / group;
        let window = self.layer().window.unwrap_or(usize::MAX);
        pool.run(places.len() * groups, |item| {
            // Late rows attend to more positions: start with them, so that no thread is left with a long one.
            let (row, head) = (places.len() - 1 - item / groups, item % groups * group);
            let (index, position) = places[row];
            let at = head * head_dim;
            let q = self.heads(row, &qkv[row * width + at..][..group * head_dim], self.layer().query_norm.as_deref());
            let shape = AttentionShape {
                head_dim,
                group,
                block_len: BLOCK_TOKENS,
                first: (position + 1).saturating_sub(window),
                positions: position + 1,
                scale: self.model.attention_scale,
            };
            // SAFETY: each pair of row and head is computed once.
            let out = unsafe { out_places.slice(row * q_width + at, group * head_dim) };
            attend(self.model.compute.simd, shape, &q, &caches[index].head(self.index, head / shared), out);
        });
        Ok(Tensor::from_vec(out, (places.len(), q_width), &Device::Cpu)?)
    }

    /// Writes the rows' keys and values into the caches; returns segment and position of each row.
    fn store(&self, qkv: &[f32], batch: &mut [Segment]) -> Vec<(usize, usize)> {
        let ModelConfig { n_heads, n_kv_heads, head_dim, .. } = self.model.config;
        let (q_width, kv_width) = (n_heads * head_dim, n_kv_heads * head_dim);
        let mut places = Vec::new();
        let mut rows = qkv.chunks_exact(q_width + 2 * kv_width).enumerate();
        for (index, segment) in batch.iter_mut().enumerate() {
            for (offset, (row, x)) in (0..segment.tokens.len()).zip(rows.by_ref()) {
                let (keys, values) = x[q_width..].split_at(kv_width);
                let keys = self.heads(row, keys, self.layer().key_norm.as_deref());
                segment.kv.write(self.index, segment.start + offset, &keys, values);
                places.push((index, segment.start + offset));
            }
        }
        places
    }

    /// Copies of the heads in `x`, normalized where the model does that, and rotated.
    fn heads(&self, row: usize, x: &[f32], norm: Option<&[f32]>) -> Vec<f32> {
        let ModelConfig { head_dim, rms_eps, .. } = self.model.config;
        let mut heads = x.to_vec();
        for (x, head) in x.chunks_exact(head_dim).zip(heads.chunks_exact_mut(head_dim)) {
            if let Some(weight) = norm {
                rms_norm(self.model.compute.simd, x, weight, rms_eps, head);
            }
            self.rotation().apply(row, head);
        }
        heads
    }

    fn layer(&self) -> &Layer {
        &self.model.layers[self.index]
    }

    fn rotation(&self) -> &Rotation {
        match (&self.rotations.local, self.layer().window) {
            (Some(local), Some(_)) => local,
            _ => &self.rotations.global,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::is_uneven;

    #[test]
    fn items_are_uneven_when_some_threads_have_nothing_to_do_for_long() {
        assert!(is_uneven(1, 2) && is_uneven(3, 2) && is_uneven(9, 8));
        assert!(!is_uneven(1, 1) && !is_uneven(3, 1) && !is_uneven(4, 2) && !is_uneven(5, 2) && !is_uneven(31, 8));
    }
}
