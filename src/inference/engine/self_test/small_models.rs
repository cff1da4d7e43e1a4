//! Whole models of two families, small and with weights that only look random: what the self-test finds of them is the same on every
//! processor. A digest changes only with [`KERNEL_PROFILE`](crate::kernels::KERNEL_PROFILE).

use std::sync::Arc;

use super::self_test;
use crate::gguf::writer::Writer;
use crate::kernels::{Simd, f32_to_f16};
use crate::model::Model;
use crate::noise::Noise;
use crate::pool::ThreadPool;
use crate::{Compute, KvType};

const WIDTH: usize = 256;
const HEAD: usize = 64;
const WORDS: usize = 48;
const LAYERS: usize = 2;

/// A type of tensors.
struct Kind {
    /// As GGML numbers it.
    number: u32,
    /// Elements and bytes of a block.
    elements: usize,
    bytes: usize,
    /// Where a block has half precision numbers.
    halves: &'static [usize],
}

const fn kind(number: u32, elements: usize, bytes: usize, halves: &'static [usize]) -> Kind {
    Kind { number, elements, bytes, halves }
}

const F32: Kind = kind(0, 1, 4, &[]);
const F16: Kind = kind(1, 1, 2, &[0]);
const Q4_0: Kind = kind(2, 32, 18, &[0]);
const Q4_1: Kind = kind(3, 32, 20, &[0, 2]);
const Q5_0: Kind = kind(6, 32, 22, &[0]);
const Q5_1: Kind = kind(7, 32, 24, &[0, 2]);
const Q8_0: Kind = kind(8, 32, 34, &[0]);
const Q4_K: Kind = kind(12, 256, 144, &[0, 2]);
const Q5_K: Kind = kind(13, 256, 176, &[0, 2]);
const Q6_K: Kind = kind(14, 256, 210, &[208]);

impl Kind {
    fn block(&self, noise: &mut Noise) -> Vec<u8> {
        if self.number == F32.number {
            return (1.0 + noise.float(0.5)).to_le_bytes().to_vec();
        }
        let mut block: Vec<u8> = (0..self.bytes).map(|_| noise.byte()).collect();
        // Scales and offsets; of F16 the weights themselves.
        let size = if self.number == F16.number { 0.1 } else { 0.002 };
        for at in self.halves {
            block[*at..at + 2].copy_from_slice(&f32_to_f16(noise.float(size)).to_le_bytes());
        }
        block
    }
}

struct Tensor {
    name: String,
    kind: Kind,
    dims: Vec<usize>,
}

fn matrix(name: impl Into<String>, kind: Kind, inputs: usize, outputs: usize) -> Tensor {
    Tensor { name: name.into(), kind, dims: vec![inputs, outputs] }
}

fn vector(name: impl Into<String>, length: usize) -> Tensor {
    Tensor { name: name.into(), kind: F32, dims: vec![length] }
}

fn layer(index: usize, [q, k, v, out, gate, up, down]: [Kind; 7]) -> Vec<Tensor> {
    let name = |part: &str| format!("blk.{index}.{part}.weight");
    vec![
        vector(name("attn_norm"), WIDTH),
        matrix(name("attn_q"), q, WIDTH, 4 * HEAD),
        matrix(name("attn_k"), k, WIDTH, 2 * HEAD),
        matrix(name("attn_v"), v, WIDTH, 2 * HEAD),
        matrix(name("attn_output"), out, 4 * HEAD, WIDTH),
        vector(name("ffn_norm"), WIDTH),
        matrix(name("ffn_gate"), gate, WIDTH, WIDTH),
        matrix(name("ffn_up"), up, WIDTH, WIDTH),
        matrix(name("ffn_down"), down, WIDTH, WIDTH),
    ]
}

/// Matrices of 4 and of 8 bits, kept as they are and rounded, and those that mix them.
fn tensors(family: &str) -> Vec<Tensor> {
    let mut tensors = vec![matrix("token_embd.weight", Q8_0, WIDTH, WORDS), vector("output_norm.weight", WIDTH)];
    tensors.extend(layer(0, [Q4_K, Q4_K, Q4_K, Q4_1, Q4_0, Q4_0, Q6_K]));
    tensors.extend(layer(1, [Q4_K, Q5_0, Q6_K, F16, Q5_1, Q8_0, Q5_K]));
    if family == "gemma3" {
        for index in 0..LAYERS {
            let of = |part: &str, length| vector(format!("blk.{index}.{part}.weight"), length);
            tensors.extend([of("attn_q_norm", HEAD), of("attn_k_norm", HEAD)]);
            tensors.extend([of("post_attention_norm", WIDTH), of("post_ffw_norm", WIDTH)]);
        }
    } else {
        tensors.push(matrix("output.weight", Q6_K, WIDTH, WORDS));
    }
    tensors
}

fn file(family: &str) -> Vec<u8> {
    let sizes = [
        ("embedding_length", WIDTH),
        ("feed_forward_length", WIDTH),
        ("block_count", LAYERS),
        ("attention.head_count", 4),
        ("attention.head_count_kv", 2),
        ("attention.key_length", HEAD),
        ("context_length", 64),
        // The first layer of gemma3 sees three tokens; a llama without the key sees all.
        ("attention.sliding_window", if family == "gemma3" { 3 } else { 0 }),
        ("attention.sliding_window_pattern", 2),
    ];
    let tensors = tensors(family);
    let mut file = Writer(b"GGUF".to_vec());
    file.u32(3).u64(tensors.len() as u64).u64(sizes.len() as u64 + 3);
    file.name("general.architecture", family);
    sizes.iter().for_each(|(key, value)| file.size(&format!("{family}.{key}"), *value as u32));
    file.float(&format!("{family}.attention.layer_norm_rms_epsilon"), 1e-5);
    file.list("tokenizer.ggml.tokens", 8, WORDS);
    (0..WORDS).for_each(|word| {
        file.text(&format!("w{word}"));
    });
    let (mut noise, mut data) = (Noise::new(23), Vec::new());
    for Tensor { name, kind, dims } in &tensors {
        file.tensor(name, kind.number, dims, data.len());
        let blocks = dims.iter().product::<usize>() / kind.elements;
        (0..blocks).for_each(|_| data.extend(kind.block(&mut noise)));
        data.resize(data.len().next_multiple_of(32), 0);
    }
    file.align();
    file.0.extend(data);
    file.0
}

fn digest(family: &str, kv_type: KvType, threads: usize, simd: Simd) -> String {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("small.gguf");
    std::fs::write(&path, file(family)).unwrap();
    let compute = Compute { pool: Arc::new(ThreadPool::new(threads).unwrap()), simd };
    let model = Model::load(&path, compute, None).unwrap().0.with_kv_type(kv_type);
    blake3::Hash::from_bytes(self_test(&model).unwrap()).to_hex()[..16].to_owned()
}

/// Worked out on x86 with plain Rust.
const DIGESTS: [(&str, KvType, &str); 4] = [
    ("llama", KvType::F32, "b314961a6335df7d"),
    ("llama", KvType::F16, "661f54abbc00e734"),
    ("gemma3", KvType::F32, "c83e54acf876edd4"),
    ("gemma3", KvType::F16, "9c6acd0284a9b601"),
];

#[test]
fn the_self_test_of_small_models_finds_the_committed_bits_on_every_processor() {
    for (simd, threads) in Simd::available().into_iter().zip([1, 2, 3]) {
        let found = DIGESTS.map(|(family, kv_type, _)| (family, kv_type, digest(family, kv_type, threads, simd)));
        let found = found.each_ref().map(|(family, kv_type, digest)| (*family, *kv_type, digest.as_str()));
        assert_eq!(found, DIGESTS, "{simd:?} on {threads} threads");
    }
}

/// SmolLM2-135M-Instruct in Q4_1, which `tests/tools/install model` fetches; `make check-arm` runs this.
#[test]
#[ignore = "needs the file in MODEL"]
fn the_self_test_of_a_published_model_finds_the_committed_bits_on_every_processor() {
    let path = std::path::PathBuf::from(std::env::var_os("MODEL").expect("a GGUF file in MODEL"));
    let compute = Compute { pool: Arc::new(ThreadPool::new(2).unwrap()), simd: Simd::detect() };
    let (model, _) = Model::load(&path, compute, None).unwrap();
    let digest = blake3::Hash::from_bytes(self_test(&model).unwrap()).to_hex();
    assert_eq!(digest[..16], *"66bbfc572746b767", "with {:?}", Simd::detect());
}
