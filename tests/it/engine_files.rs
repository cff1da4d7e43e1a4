//! What hostile or damaged model files do: they are refused with a sentence, or they work, and nothing else.

use std::io::Cursor;

use candle_core::quantized::{GgmlDType, QTensor, gguf_file};
use candle_core::{Device, Tensor};
use proptest::prelude::*;
use xdc_grid::inference::gguf::Header;
use xdc_grid::inference::text::Tokenizer;
use xdc_grid::inference::{Engine, EngineConfig, GenerateEvent, GenerateRequest, LoadError, ReplayRequest};

use crate::engine::model_path;

/// A llama model of two small layers with the type of its linear weights, and metadata that differ from the plain ones.
pub fn tiny_model(dtype: GgmlDType, changes: &[(&str, gguf_file::Value)]) -> Vec<u8> {
    tiny_model_of("llama", dtype, changes)
}

/// A model of a family, with the tensors that this family has.
pub fn tiny_model_of(family: &str, dtype: GgmlDType, changes: &[(&str, gguf_file::Value)]) -> Vec<u8> {
    choosy_model_of(family, dtype, changes, 1.0)
}

/// The same with queries and keys that are so many times as large: attention differs more from token to token.
pub fn choosy_model_of(family: &str, dtype: GgmlDType, changes: &[(&str, gguf_file::Value)], choosy: f32) -> Vec<u8> {
    use gguf_file::Value::{Array, F32, I32, String, U32};
    let (width, heads, ff, vocab) = (256, 8, 512, 256);
    let mut metadata = std::collections::BTreeMap::new();
    let mut set = |key: &str, value| metadata.insert(key.to_owned(), value);
    set("general.architecture", String(family.into()));
    for (key, value) in
        [("block_count", 2), ("context_length", 128), ("embedding_length", width), ("feed_forward_length", ff)]
    {
        set(&format!("{family}.{key}"), U32(value));
    }
    set(&format!("{family}.attention.head_count"), U32(heads));
    set(&format!("{family}.attention.head_count_kv"), U32(heads / 2));
    set(&format!("{family}.attention.layer_norm_rms_epsilon"), F32(1e-5));
    set("tokenizer.ggml.model", String("gpt2".into()));
    set("tokenizer.ggml.pre", String("gpt-2".into()));
    // Printable characters and one merge: candle would write an empty list as one of numbers.
    let character = |i: u32| char::from_u32(if i < 94 { 33 + i } else { 0x400 + i }).unwrap().to_string();
    let token = |i| String(if i == vocab - 1 { "!\"".into() } else { character(i) });
    set("tokenizer.ggml.tokens", Array((0..vocab).map(token).collect()));
    set("tokenizer.ggml.token_type", Array((0..vocab).map(|_| I32(1)).collect()));
    set("tokenizer.ggml.merges", Array(vec![String("! \"".into())]));
    set("tokenizer.chat_template", String("{% for m in messages %}{{ m.content }}{% endfor %}".into()));
    for (key, value) in changes {
        set(key, value.clone());
    }
    let wave = |rows: u32, columns: u32, seed: usize, size: f32| {
        let value = |i| size * (((i * 31 + seed * 17) % 199) as f32 / 1990.0 - 0.05);
        let values: Vec<f32> = (0..(rows * columns) as usize).map(value).collect();
        Tensor::from_vec(values, (rows as usize, columns as usize), &Device::Cpu).unwrap()
    };
    let linear = |rows, columns, seed, size| QTensor::quantize(&wave(rows, columns, seed, size), dtype).unwrap();
    let all = |n: u32, value: f32| {
        QTensor::quantize(&Tensor::full(value, n as usize, &Device::Cpu).unwrap(), GgmlDType::F32).unwrap()
    };
    let is_chooser = |name: &str| name.starts_with("attn_q") || name.starts_with("attn_k");
    let size_of = |name: &str| if is_chooser(name) { choosy } else { 1.0 };
    let mut tensors = vec![
        ("token_embd.weight".to_owned(), linear(vocab, width, 1, 1.0)),
        ("output_norm.weight".to_owned(), all(width, 1.0)),
    ];
    for layer in 0..2 {
        let shapes = [
            ("attn_q", width, width),
            ("attn_k", width / 2, width),
            ("attn_v", width / 2, width),
            ("attn_output", width, width),
            ("ffn_gate", ff, width),
            ("ffn_up", ff, width),
            ("ffn_down", width, ff),
        ];
        for (seed, (name, rows, columns)) in shapes.into_iter().enumerate() {
            let matrix = linear(rows, columns, seed + 10 * layer, size_of(name));
            tensors.push((format!("blk.{layer}.{name}.weight"), matrix));
        }
        let mut vectors = vec![("attn_norm.weight", width), ("ffn_norm.weight", width)];
        match family {
            "qwen2" => vectors.extend([("attn_q.bias", width), ("attn_k.bias", width / 2), ("attn_v.bias", width / 2)]),
            "qwen3" => vectors.extend([("attn_q_norm.weight", width / heads), ("attn_k_norm.weight", width / heads)]),
            "gemma3" => vectors.extend([
                ("attn_q_norm.weight", width / heads),
                ("attn_k_norm.weight", width / heads),
                ("post_attention_norm.weight", width),
                ("post_ffw_norm.weight", width),
            ]),
            _ => {}
        }
        tensors.extend(vectors.into_iter().map(|(name, n)| (format!("blk.{layer}.{name}"), all(n, size_of(name)))));
    }
    let metadata: Vec<(&str, &gguf_file::Value)> = metadata.iter().map(|(key, value)| (key.as_str(), value)).collect();
    let tensors: Vec<(&str, &QTensor)> = tensors.iter().map(|(name, tensor)| (name.as_str(), tensor)).collect();
    let mut file = Cursor::new(Vec::new());
    gguf_file::write(&mut file, &metadata, &tensors).unwrap();
    file.into_inner()
}

fn load(bytes: &[u8]) -> Result<Engine, LoadError> {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), bytes).unwrap();
    Engine::load(file.path(), EngineConfig { threads: 1, kv_budget_bytes: 16 << 20, ..EngineConfig::default() })
}

fn request() -> GenerateRequest {
    GenerateRequest { prompt: vec![1, 2, 3], max_tokens: 6, ..GenerateRequest::default() }
}

/// The answer's tokens, or the message of the failure.
async fn answer(engine: &Engine) -> Result<Vec<u32>, String> {
    run(engine, request()).await.map(|(tokens, _)| tokens)
}

/// The answer's tokens and the root of its trace.
async fn run(engine: &Engine, request: GenerateRequest) -> Result<(Vec<u32>, [u8; 32]), String> {
    let mut events = engine.generate(request).await.map_err(|error| error.to_string())?;
    while let Some(event) = events.recv().await {
        match event {
            GenerateEvent::Token { .. } => {}
            GenerateEvent::Done { output_ids, trace_root, .. } => return Ok((output_ids, trace_root)),
            GenerateEvent::Failed(message) => return Err(message),
            GenerateEvent::Refused(error) => panic!("no form was asked for: {error}"),
            GenerateEvent::DeadlineExceeded => panic!("no deadline was set"),
        }
    }
    panic!("the stream ended without Done or Failed")
}

#[tokio::test]
async fn all_quantization_types_are_read() {
    use GgmlDType::{BF16, F16, F32, Q2K, Q3K, Q4_0, Q4_1, Q4K, Q5_0, Q5_1, Q5K, Q6K, Q8_0};
    for dtype in [F32, F16, BF16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q2K, Q3K, Q4K, Q5K, Q6K] {
        let engine = load(&tiny_model(dtype, &[])).unwrap_or_else(|error| panic!("{dtype:?}: {error}"));
        assert_eq!(answer(&engine).await.unwrap().len(), 6, "{dtype:?}");
    }
}

/// Every family, with what its metadata may ask for: an answer step by step is the same as its replay in one forward.
#[tokio::test]
async fn all_families_answer_and_replay_to_the_bit() {
    use gguf_file::Value::{F32, String, U32};
    let yarn = [
        ("qwen2.rope.scaling.type", String("yarn".into())),
        ("qwen2.rope.scaling.factor", F32(4.0)),
        ("qwen2.rope.scaling.original_context_length", U32(32)),
    ];
    let models = [
        tiny_model_of("llama", GgmlDType::Q4_0, &[("llama.attention.sliding_window", U32(5))]),
        tiny_model_of("qwen2", GgmlDType::Q4K, &yarn),
        tiny_model_of("qwen3", GgmlDType::F16, &[("qwen3.rope.scaling.type", String("linear".into()))]),
        tiny_model_of(
            "gemma3",
            GgmlDType::Q5_0,
            &[("gemma3.attention.sliding_window", U32(5)), ("gemma3.attention.sliding_window_pattern", U32(2))],
        ),
    ];
    let mut roots = std::collections::BTreeSet::new();
    for model in models {
        let engine = load(&model).unwrap();
        let prompt: Vec<u32> = (0..40).map(|i| i * 37 % 256).collect();
        let asked = GenerateRequest { prompt: prompt.clone(), max_tokens: 50, ..request() };
        let (output, root) = run(&engine, asked).await.unwrap();
        let (sampling, seed) = (request().sampling, [0; 32]);
        let outcome =
            engine.replay(ReplayRequest { top_logprobs: None, prompt, output, sampling, seed }).await.unwrap();
        assert_eq!((outcome.first_mismatch, outcome.trace_root), (None, root), "{}", engine.info().architecture);
        roots.insert(root);
    }
    assert_eq!(roots.len(), 4, "two families compute the same");
}

#[test]
fn models_that_would_be_computed_wrongly_are_refused_by_name() {
    use gguf_file::Value::{String, U32};
    let refused = |key: &str, value: gguf_file::Value| {
        load(&tiny_model(GgmlDType::Q8_0, &[(key, value)])).err().unwrap().to_string()
    };
    assert!(refused("general.architecture", String("mamba".into())).contains("mamba"));
    assert!(refused("tokenizer.ggml.pre", String("klingon".into())).contains("klingon"));
    assert!(refused("tokenizer.ggml.model", String("t5".into())).contains("t5"));
    assert!(refused("tokenizer.ggml.model", String("llama".into())).contains("tokenizer.ggml.scores"));
    assert!(refused("llama.expert_count", U32(8)).contains("mixture of experts"));
    assert!(refused("llama.rope.scaling.type", String("longrope".into())).contains("longrope"));
    assert!(refused("llama.attention.head_count", U32(0)).contains("head_count"));
    assert!(refused("llama.attention.head_count", U32(u32::MAX)).contains("head_count"));
    assert!(refused("llama.embedding_length", U32(512)).contains("shape"));
    assert!(refused("llama.block_count", U32(3)).contains("blk.2"));
    assert!(refused("general.alignment", U32(0)).contains("alignment"));
    assert!(refused("tokenizer.chat_template", String("{% for %}".into())).contains("template"));
    let biased = tiny_model_of("qwen2", GgmlDType::Q8_0, &[("general.architecture", String("qwen3".into()))]);
    assert!(load(&biased).err().unwrap().to_string().contains("qwen3."));
    let extra = tiny_model_of("gemma3", GgmlDType::Q8_0, &[]);
    let renamed = replace(&extra, b"blk.1.post_ffw_norm.weight", b"blk.1.post_ffw_gnome.weigh");
    assert!(load(&renamed).err().unwrap().to_string().contains("post_ffw_gnome"));
    assert!(load(b"PK\x03\x04 not a model").err().unwrap().to_string().contains("GGUF"));
    assert!(load(b"").err().is_some());
}

/// Qwen's files have `</s>` among the words that merges make: a text there, and a control token in the files of others.
#[test]
fn the_name_of_an_end_is_a_word_where_merges_make_it() {
    use gguf_file::Value::{Array, String};
    let words = ["</s>", "</", "s>", "<|im_end|>"];
    let name =
        |i: u32| words.get(i as usize).map_or_else(|| char::from_u32(33 + i).unwrap().to_string(), |w| (*w).into());
    let tokens = ("tokenizer.ggml.tokens", Array((0..256).map(|i| String(name(i))).collect()));
    let merges = Array(["< /", "s >", "</ s>"].map(|merge| String(merge.into())).to_vec());
    let bytes = tiny_model_of("qwen2", GgmlDType::Q8_0, &[tokens, ("tokenizer.ggml.merges", merges)]);
    let tokenizer = Tokenizer::from_header(&Header::parse(bytes.as_slice(), bytes.len() as u64).unwrap(), 64).unwrap();
    let written: Vec<u8> =
        tokenizer.encode("</s>").unwrap().iter().flat_map(|token| tokenizer.bytes(*token)).copied().collect();
    assert_eq!((written.as_slice(), tokenizer.bytes(0)), (b"</s>".as_slice(), b"</s>".as_slice()));
    assert!(!tokenizer.is_end(0) && tokenizer.is_end(3));
    assert!(!tokenizer.encode("<|im_end|>").unwrap().contains(&3));
}

fn replace(bytes: &[u8], from: &[u8], to: &[u8]) -> Vec<u8> {
    let at = bytes.windows(from.len()).position(|part| part == from).unwrap();
    [&bytes[..at], to, &bytes[at + from.len()..]].concat()
}

#[test]
fn a_template_without_end_is_stopped() {
    use xdc_grid::inference::ChatMessage;
    let endless = "{% for a in range(9999) %}{% for b in range(9999) %}{{ a }}{% endfor %}{% endfor %}";
    let engine =
        load(&tiny_model(GgmlDType::Q8_0, &[("tokenizer.chat_template", gguf_file::Value::String(endless.into()))]))
            .unwrap();
    let message = ChatMessage { role: "user".into(), content: "hi".into() };
    assert!(engine.render_chat(&[message]).unwrap_err().to_string().contains("template"));
}

#[test]
fn a_truncated_file_is_refused_wherever_it_ends() {
    let whole = tiny_model(GgmlDType::Q4_1, &[]);
    let header_ends = (0..9_000).step_by(7);
    for end in header_ends.chain([whole.len() / 2, whole.len() - 64]) {
        assert!(load(&whole[..end]).is_err(), "{end} of {} bytes", whole.len());
    }
    let real = std::fs::read(model_path()).unwrap();
    for end in [10, 1_000, 500_000, 1_500_000, 3_000_000, real.len() - 1] {
        assert!(Header::parse(&real[..end], end as u64).is_err());
    }
    assert!(Header::parse(real.as_slice(), real.len() as u64).is_ok());
}

#[test]
fn counts_that_the_file_cannot_hold_are_refused_before_anything_is_allocated() {
    let head =
        |tensors: u64, keys: u64| [b"GGUF\x03\0\0\0".as_slice(), &tensors.to_le_bytes(), &keys.to_le_bytes()].concat();
    for (tensors, keys) in [(u64::MAX, 0), (0, u64::MAX), (1 << 15, 0), (0, 1 << 11), (1, 0)] {
        let bytes = head(tensors, keys);
        assert!(Header::parse(bytes.as_slice(), bytes.len() as u64).is_err());
    }
    let string = |length: u64| [head(0, 1), length.to_le_bytes().to_vec(), vec![b'x'; 64]].concat();
    for length in [65, 1 << 20, u64::MAX] {
        let bytes = string(length);
        assert!(Header::parse(bytes.as_slice(), bytes.len() as u64).is_err());
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, ..ProptestConfig::default() })]

    #[test]
    fn a_file_with_flipped_bits_is_refused_or_works(flips in prop::collection::vec((0usize..9_000, 0u8..8), 1..4)) {
        let mut bytes = tiny_model(GgmlDType::Q4_0, &[]);
        for (at, bit) in flips {
            bytes[at] ^= 1 << bit;
        }
        if let Ok(engine) = load(&bytes) {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            // Either outcome is fine; a panic or a stream without an end is not.
            let _ = runtime.block_on(answer(&engine));
        }
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        let mut file = b"GGUF\x03\0\0\0".to_vec();
        file.extend(bytes);
        let _ = Header::parse(file.as_slice(), file.len() as u64);
    }
}
