use proptest::prelude::*;

use super::writer::Writer;
use super::*;
use crate::allocation::peak;
use crate::architecture::Architecture;
use crate::config::ModelConfig;
use crate::memory;
use crate::text::Tokenizer;

const SIZES: [(&str, u32); 9] = [
    ("gemma3.embedding_length", 64),
    ("gemma3.attention.head_count", 2),
    ("gemma3.attention.head_count_kv", 1),
    ("gemma3.attention.key_length", 32),
    ("gemma3.attention.sliding_window", 8),
    ("gemma3.block_count", 1),
    ("gemma3.feed_forward_length", 64),
    ("gemma3.context_length", 64),
    ("general.alignment", 32),
];

const TOKENS: [&str; 6] = ["<unk>", "<bos>", "<0x0A>", "▁", "a", "▁a"];

/// A small file with every kind of metadata and a tensor of each of several types. `model` is the tokenizer's type.
fn file(model: &str) -> Vec<u8> {
    let mut file = Writer(b"GGUF".to_vec());
    let tensors: [(&str, u32, &[usize], usize); 4] = [
        ("token_embd.weight", 8, &[64, 6], 0),
        ("output_norm.weight", 0, &[64], 416),
        ("blk.0.attn_q.weight", 6, &[64, 64], 672),
        ("blk.0.ffn_down.weight", 1, &[64, 64], 3488),
    ];
    file.u32(3).u64(tensors.len() as u64).u64(SIZES.len() as u64 + 12);
    file.name("general.architecture", "gemma3");
    for (key, value) in SIZES {
        file.size(key, value);
    }
    file.float("gemma3.attention.layer_norm_rms_epsilon", 1e-6);
    file.text("gemma3.rope.freq_base").u32(12).u64(1e6f64.to_bits());
    file.text("tokenizer.ggml.add_bos_token").u32(7).0.push(1);
    file.text("tokenizer.ggml.bos_token_id").u32(10).u64(1);
    file.name("tokenizer.ggml.model", model);
    file.name("tokenizer.ggml.pre", "gpt-2");
    file.list("tokenizer.ggml.tokens", 8, TOKENS.len());
    for token in TOKENS {
        file.text(token);
    }
    file.list("tokenizer.ggml.scores", 6, TOKENS.len());
    for score in 0..TOKENS.len() {
        file.u32((-(score as f32)).to_bits());
    }
    file.list("tokenizer.ggml.token_type", 5, TOKENS.len());
    for kind in [2, 3, 6, 1, 1, 1] {
        file.u32(kind);
    }
    file.list("tokenizer.ggml.merges", 8, 1).text("▁ a");
    file.list("general.flags", 7, 3).0.extend([0, 1, 0]);
    for (name, kind, dims, offset) in tensors {
        file.tensor(name, kind, dims, offset);
    }
    let header = file.0.len().next_multiple_of(32);
    file.0.resize(header + 3488 + 2 * 64 * 64, 7);
    file.0
}

fn parse(bytes: &[u8]) -> Result<Header, GgufError> {
    Header::parse(bytes, bytes.len() as u64)
}

#[test]
fn the_file_of_these_tests_is_a_model_until_it_is_damaged() {
    let header = parse(&file("llama")).unwrap();
    let config = ModelConfig::from_header(&header).unwrap();
    Architecture::from_header(&header, &config).unwrap();
    assert_eq!(Tokenizer::from_header(&header, 64).unwrap().encode("a a").unwrap(), [1, 5, 5]);
    assert_eq!(header.floats("tokenizer.ggml.scores").unwrap().unwrap()[5], -5.0);
    assert_eq!(header.metadata["general.flags"], Value::Skipped);
    let gpt2 = parse(&file("gpt2")).unwrap();
    assert_eq!(Tokenizer::from_header(&gpt2, 64).unwrap().encode("a").unwrap(), [1, 4]);
}

/// One way to damage a file; places are parts of 65 536 of its length.
#[derive(Debug, Clone)]
enum Damage {
    Flip(u16, u8),
    /// A length, a count or an offset becomes a number that is hard to get right.
    Number(u16, usize),
    Cut(u16),
    Remove(u16, u16),
    Repeat(u16, u16),
}

const NUMBERS: [u64; 12] =
    [0, 1, 0x7f, 0xffff, 0x7fff_ffff, 0xffff_ffff, 1 << 32, 1 << 40, (1 << 61) - 1, 1 << 61, i64::MAX as u64, u64::MAX];

fn damage() -> impl Strategy<Value = Damage> {
    prop_oneof![
        4 => (any::<u16>(), 0..8u8).prop_map(|(at, bit)| Damage::Flip(at, bit)),
        6 => (any::<u16>(), 0..NUMBERS.len()).prop_map(|(at, number)| Damage::Number(at, number)),
        1 => any::<u16>().prop_map(Damage::Cut),
        1 => (any::<u16>(), 1..64u16).prop_map(|(at, length)| Damage::Remove(at, length)),
        1 => (any::<u16>(), 1..64u16).prop_map(|(at, length)| Damage::Repeat(at, length)),
    ]
}

impl Damage {
    /// Damages the first `within` bytes.
    fn apply(&self, bytes: &mut Vec<u8>, within: usize) {
        let place = |at: u16| usize::from(at) * within.min(bytes.len()) / 65_536;
        match *self {
            Self::Flip(at, bit) => {
                let at = place(at);
                if let Some(byte) = bytes.get_mut(at) {
                    *byte ^= 1 << bit;
                }
            }
            Self::Number(at, number) => {
                let at = place(at);
                bytes.iter_mut().skip(at).zip(NUMBERS[number].to_le_bytes()).for_each(|(byte, new)| *byte = new);
            }
            Self::Cut(at) => {
                let at = place(at);
                bytes.truncate(at);
            }
            Self::Remove(at, length) => {
                let at = place(at);
                bytes.drain(at..(at + usize::from(length)).min(bytes.len()));
            }
            Self::Repeat(at, length) => {
                let at = place(at);
                let end = (at + usize::from(length)).min(bytes.len());
                let again = bytes[at..end].to_vec();
                bytes.splice(at..at, again);
            }
        }
    }
}

/// Everything that is read from a header before weights are.
fn read(header: &Header) -> Result<(), Box<dyn std::error::Error>> {
    let config = ModelConfig::from_header(header)?;
    Architecture::from_header(header, &config)?;
    memory::check(header, config.vocab_size, Some(1 << 20))?;
    Tokenizer::from_header(header, config.context_length)?.encode("a  a\nb")?;
    Ok(())
}

/// `GRID_FUZZ_CASES=10000000` asks for more; `make nightly` does.
fn cases() -> u32 {
    std::env::var("GRID_FUZZ_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(6_000)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), ..ProptestConfig::default() })]

    #[test]
    fn a_damaged_file_neither_panics_nor_allocates_more_than_a_few_times_its_size(
        damages in prop::collection::vec(damage(), 1..4),
        model in prop_oneof![Just("llama"), Just("gpt2")],
    ) {
        let mut bytes = file(model);
        let within = bytes.len() - 3488 - 2 * 64 * 64;
        damages.iter().for_each(|damage| damage.apply(&mut bytes, within));
        let (header, peak) = peak(|| parse(&bytes));
        prop_assert!(peak <= 4 * bytes.len() + (64 << 10), "{} bytes for a file of {}", peak, bytes.len());
        if let Ok(header) = header {
            for (name, tensor) in &header.tensors {
                prop_assert!(tensor.offset + tensor.bytes <= bytes.len() as u64, "{} lies outside of the file", name);
            }
            // It is refused or it works; either is fine.
            let _ = read(&header);
        }
    }
}
