//! Does the engine agree with llama.cpp (the prebuilt libraries of an npm package, driven by `tests/interop/llama`)?

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, OnceLock};

use candle_core::quantized::gguf_file;
use xdc_grid::inference::gguf::Header;
use xdc_grid::inference::kernels::{Simd, log_sum_exp};
use xdc_grid::inference::kv::{KvBudget, KvCache};
use xdc_grid::inference::model::{Model, Segment};
use xdc_grid::inference::pool::ThreadPool;
use xdc_grid::inference::text::Tokenizer;
use xdc_grid::inference::{Compute, GenerateEvent, GenerateRequest};

use crate::engine::{engine, model_path};

/// The compiled oracle and the folder with llama.cpp's libraries.
fn oracle() -> &'static (PathBuf, PathBuf) {
    static ORACLE: OnceLock<(PathBuf, PathBuf)> = OnceLock::new();
    ORACLE.get_or_init(|| {
        let default = || PathBuf::from(std::env::var_os("HOME").unwrap()).join(".cache/xdc-grid/llama");
        let libs = std::env::var_os("XDC_GRID_LLAMA_LIBS").map_or_else(default, PathBuf::from);
        assert!(
            libs.join("libllama.v0.5.0.so").is_file(),
            "llama.cpp's libraries are missing in {}: run `make tools` (it calls tests/interop/llama/fetch.sh)",
            libs.display()
        );
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/interop/llama/oracle.c");
        let program = Path::new(env!("CARGO_TARGET_TMPDIR")).join("llama-oracle");
        let compiled = Command::new("cc").args(["-O2", "-o"]).arg(&program).arg(source).args(["-ldl", "-lm"]).status();
        assert!(compiled.expect("a C compiler named cc").success());
        (program, libs)
    })
}

pub fn ask(model: &Path, what: &[&str], input: &[u8]) -> String {
    let (program, libs) = oracle();
    let mut child = Command::new(program)
        .arg(libs)
        .arg(model)
        .args(what)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let input = input.to_vec();
    // Both ends are pipes: write beside reading, or long inputs and outputs would block each other.
    let writer = std::thread::spawn(move || stdin.write_all(&input));
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap().unwrap();
    assert!(output.status.success(), "the oracle failed at {what:?}");
    String::from_utf8(output.stdout).unwrap()
}

fn numbers(tokens: &[u32]) -> Vec<u8> {
    tokens.iter().map(u32::to_string).collect::<Vec<_>>().join(" ").into_bytes()
}

const TEXT: &str = "The lighthouse at the end of the peninsula was built in 1857, after three ships had been lost on the \
rocks in a single winter. For more than a century its keepers lived there with their families, growing vegetables behind \
the stone wall and waiting for the supply boat that came once a month, weather permitting. In the archive of the harbour \
office you can still read their daily notes: the direction of the wind, the height of the waves, the number of ships that \
passed, and now and then a sentence about a birthday or an illness. The last keeper left in 1974, when an electric lamp and \
a small computer took over. Today the building is a museum. Visitors climb the 142 steps to the gallery, look at the great \
lens that once turned on a bath of mercury, and see, on a clear evening, the mountains on the other side of the bay. The \
light itself still works; sailors say that they trust it more than the little arrows on their screens.";

#[test]
fn perplexity_and_top_tokens_are_those_of_llama_cpp() {
    let tokens = engine().tokenize(TEXT).unwrap();
    assert!((190..230).contains(&tokens.len()), "{} tokens", tokens.len());
    let simd = Simd::detect();
    let compute = Compute { pool: Arc::new(ThreadPool::new(2).unwrap()), simd };
    let model = Model::load(&model_path(), compute, None).unwrap().0;
    let mut kv = KvCache::reserve(&model.config, model.n_layers(), 256, &KvBudget::new(1 << 30)).unwrap();
    let segment = Segment { kv: &mut kv, start: 0, tokens: &tokens, wanted: tokens.len() };
    let output = model.forward(&mut [segment]).unwrap();

    let (mut ours, mut theirs, mut agreed) = (0.0, 0.0, 0);
    let scores = ask(&model_path(), &["score"], &numbers(&tokens));
    for (row, line) in scores.lines().enumerate() {
        let (best, logprob) = line.split_once(' ').unwrap();
        let logits = output.logits(row);
        let top = (0..logits.len()).rev().max_by(|a, b| logits[*a].total_cmp(&logits[*b])).unwrap();
        agreed += usize::from(best.parse::<usize>().unwrap() == top);
        if let Some(next) = tokens.get(row + 1) {
            theirs += logprob.parse::<f64>().unwrap();
            ours += f64::from(logits[*next as usize]) - log_sum_exp(simd, logits);
        }
    }
    let count = (tokens.len() - 1) as f64;
    let (ours, theirs) = ((-ours / count).exp(), (-theirs / count).exp());
    let agreement = agreed as f64 / tokens.len() as f64;
    eprintln!("perplexity {ours:.4}, llama.cpp {theirs:.4}; top token equal for {:.1} %", 100.0 * agreement);
    assert!((ours / theirs - 1.0).abs() < 0.015, "perplexity {ours} but llama.cpp has {theirs}");
    assert!(agreement >= 0.93, "only {agreement} of the top tokens are equal");
}

/// The first tokens only: both round activations to 8 bits, but not alike, so close calls soon go different ways.
#[tokio::test]
async fn greedy_answers_begin_like_those_of_llama_cpp() {
    for prompt in ["The capital of France is", "Once upon a time, there was", "def fibonacci(n):\n", "1, 2, 3, 4,"] {
        let tokens = engine().tokenize(prompt).unwrap();
        let theirs = ask(&model_path(), &["greedy", "5"], &numbers(&tokens));
        let theirs: Vec<u32> = theirs.split_whitespace().map(|token| token.parse().unwrap()).collect();
        let request = GenerateRequest { prompt: tokens, max_tokens: 5, ..GenerateRequest::default() };
        let mut events = engine().generate(request).await.unwrap();
        let mut ours = Vec::new();
        while let Some(event) = events.recv().await {
            if let GenerateEvent::Token { id, .. } = event {
                ours.push(id);
            }
        }
        assert_eq!(ours, theirs, "after {prompt:?}");
    }
}

/// Strings that tokenizers stumble over, and arbitrary mixtures of them.
fn strings() -> Vec<String> {
    let pieces = [
        " ",
        "  ",
        "     ",
        "\t",
        "\t\t",
        "\n",
        "\n\n",
        "\n \n",
        "\r\n",
        " \n",
        "a",
        "the",
        " the",
        "The",
        "don't",
        "I'll",
        "WE'RE",
        "it's",
        "'",
        "\"",
        "1",
        "12",
        "123456",
        " 3.14",
        "1,000,000",
        "٣",
        "½",
        "²",
        "Ⅷ",
        "é",
        "naïve",
        "über",
        "ß",
        "Ærø",
        "中文",
        "日本語",
        "한국어",
        "עברית",
        "العربية",
        "ไทย",
        "हिन्दी",
        "🦀",
        "👩‍👩‍👧",
        "🇫🇷",
        "❤️",
        "\u{200b}",
        "\u{a0}",
        "\u{3000}",
        "\u{feff}",
        "e\u{301}",
        "<|im_end|>",
        "<|im_start|>user\n",
        "<|endoftext|>",
        "<|",
        "|>",
        "[INST]",
        "</s>",
        "<s>",
        "fn main() {}",
        "x_y",
        "a->b",
        "!=",
        "...",
        "!!!",
        "—",
        "“q”",
        "$5",
        "100%",
        "C++",
        "#",
        "@user",
        "https://a.b/c?d=e",
        "\u{1}",
        "\u{4}",
        "\u{7f}",
        "\u{10ffff}",
        "\u{40000}",
        "_",
        "__init__",
        "    return x",
        "-",
        "--",
        "\u{2028}",
        "ﬁ",
        "ǅ",
        "İ",
        "ſ",
    ];
    let mut state = 42u64;
    let mut next = |below: usize| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize % below
    };
    let mixed = (0..1_200).map(|_| (0..=next(9)).map(|_| pieces[next(pieces.len())]).collect::<String>());
    let mut strings: Vec<String> = mixed.collect();
    let any = |next: &mut dyn FnMut(usize) -> usize| char::from_u32(1 + next(0x2_ffff) as u32).unwrap_or('x');
    strings.extend((0..300).map(|_| (0..12).map(|_| any(&mut next)).collect::<String>()));
    strings.extend(pieces.iter().map(|piece| (*piece).to_owned()));
    strings.push(TEXT.to_owned());
    strings
}

/// A file with the test model's vocabulary, another pre-tokenizer and no tensors.
fn vocabulary_with(pre_tokenizer: &str) -> PathBuf {
    let mut file = std::fs::File::open(model_path()).unwrap();
    let mut metadata = gguf_file::Content::read(&mut file).unwrap().metadata;
    metadata.insert("tokenizer.ggml.pre".into(), gguf_file::Value::String(pre_tokenizer.into()));
    let metadata: Vec<(&str, &gguf_file::Value)> = metadata.iter().map(|(key, value)| (key.as_str(), value)).collect();
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("vocabulary-{pre_tokenizer}.gguf"));
    gguf_file::write(&mut std::fs::File::create(&path).unwrap(), &metadata, &[]).unwrap();
    path
}

#[test]
fn every_text_has_the_tokens_that_llama_cpp_gives_it() {
    let strings = strings();
    let input: Vec<u8> = strings.iter().flat_map(|s| s.bytes().chain([0])).collect();
    for pre_tokenizer in ["smollm", "gpt-2", "llama-bpe", "qwen2"] {
        let path = vocabulary_with(pre_tokenizer);
        let theirs = ask(&path, &["vocab"], &input);
        let bytes = std::fs::read(&path).unwrap();
        let header = Header::parse(bytes.as_slice(), bytes.len() as u64).unwrap();
        let tokenizer = Tokenizer::from_header(&header, 8192).unwrap();
        let mut count = 0;
        let mut wrong = Vec::new();
        for (text, line) in strings.iter().zip(theirs.lines()) {
            let theirs: Vec<u32> = line.split_whitespace().map(|token| token.parse().unwrap()).collect();
            let ours = tokenizer.encode(text).unwrap();
            if ours != theirs {
                wrong.push((text, ours, theirs));
            }
            count += 1;
        }
        assert_eq!(count, strings.len());
        assert!(
            wrong.is_empty(),
            "{pre_tokenizer}: {} of {count} differ, among them {:?}",
            wrong.len(),
            &wrong[..wrong.len().min(5)]
        );
    }
}
