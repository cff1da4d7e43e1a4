//! Does the encoder give the vectors of all-MiniLM-L6-v2, the same bits every time, and refuse what it cannot do?

use std::path::PathBuf;
use std::sync::OnceLock;

use xdc_grid::inference::{AdmissionError, Encoder, EngineConfig, LoadedModel, MAX_TEXTS, load};

/// all-MiniLM-L6-v2 as a bundle.
pub fn encoder_path() -> PathBuf {
    let default =
        || PathBuf::from(std::env::var_os("HOME").unwrap()).join(".cache/xdc-grid/models/all-minilm-l6-v2.tar");
    let path = std::env::var_os("XDC_GRID_TEST_ENCODER").map_or_else(default, PathBuf::from);
    assert!(
        path.is_file(),
        "the test encoder {} is missing: run `tests/tools/install encoder`, or set XDC_GRID_TEST_ENCODER to it",
        path.display()
    );
    path
}

fn config() -> EngineConfig {
    EngineConfig { threads: 2, max_sequences: 4, max_queue: 64, ..EngineConfig::default() }
}

fn encoder() -> &'static Encoder {
    static ENCODER: OnceLock<Encoder> = OnceLock::new();
    ENCODER.get_or_init(|| Encoder::load(&encoder_path(), config()).unwrap())
}

async fn embed(encoder: &Encoder, texts: &[&str]) -> Vec<Vec<f32>> {
    let texts: Vec<Vec<u32>> = texts.iter().map(|text| encoder.tokenize(text).unwrap()).collect();
    let count = texts.len();
    let mut receiver = encoder.embed(texts).unwrap();
    let mut vectors = Vec::new();
    while let Some(vector) = receiver.recv().await {
        vectors.push(vector.unwrap());
    }
    assert_eq!(vectors.len(), count);
    vectors
}

fn bits(vector: &[f32]) -> Vec<u32> {
    vector.iter().map(|x| x.to_bits()).collect()
}

/// Texts with their tokens and some elements of their vectors, as `tests/interop/encoder/reference.py` gives them: a second
/// implementation from the published definition, in double precision, that shares nothing with ours but the files.
struct Reference {
    text: String,
    ids: Vec<u32>,
    vector: Vec<f32>,
}

fn references() -> Vec<Reference> {
    let table = include_str!("../interop/encoder/reference.json");
    let rows: Vec<serde_json::Value> = serde_json::from_str(table).unwrap();
    let read = |row: serde_json::Value| Reference {
        text: row["text"].as_str().unwrap().into(),
        ids: serde_json::from_value(row["ids"].clone()).unwrap(),
        vector: serde_json::from_value(row["vector"].clone()).unwrap(),
    };
    rows.into_iter().map(read).collect()
}

#[tokio::test]
async fn vectors_are_those_of_a_second_implementation() {
    let references = references();
    assert!(references.len() >= 6);
    let mut worst = 0f32;
    for reference in &references {
        assert_eq!(encoder().tokenize(&reference.text).unwrap(), reference.ids, "{}", reference.text);
        let vector = &embed(encoder(), &[&reference.text]).await[0];
        assert_eq!((vector.len(), reference.vector.len()), (384, 384));
        for (index, (ours, theirs)) in vector.iter().zip(&reference.vector).enumerate() {
            worst = worst.max((ours - theirs).abs());
            assert!((ours - theirs).abs() < 1e-5, "{} [{index}]: {ours} and {theirs}", reference.text);
        }
        let length: f64 = vector.iter().map(|x| f64::from(*x).powi(2)).sum();
        assert!((length - 1.0).abs() < 1e-5);
    }
    println!("largest difference {worst:e}");
}

#[tokio::test]
async fn what_is_said_alike_is_near_and_what_is_not_is_far() {
    let texts = [
        "How do I reset my password?",
        "I forgot my login and want a new one.",
        "The soup needs more salt.",
        "Where can I change my credentials?",
    ];
    let vectors = embed(encoder(), &texts).await;
    let cosine = |a: usize, b: usize| vectors[a].iter().zip(&vectors[b]).map(|(x, y)| x * y).sum::<f32>();
    assert!(cosine(0, 1) > cosine(0, 2) + 0.2, "{} {}", cosine(0, 1), cosine(0, 2));
    assert!(cosine(0, 3) > cosine(2, 3) + 0.2, "{} {}", cosine(0, 3), cosine(2, 3));
}

#[tokio::test]
async fn a_vector_is_the_same_to_the_bit_alone_in_a_batch_and_on_any_number_of_threads() {
    let texts = ["a", "The quick brown fox jumps over the lazy dog.", "interest rates", &"grid ".repeat(30)];
    let together = embed(encoder(), &texts).await;
    let one = Encoder::load(&encoder_path(), EngineConfig { threads: 1, ..config() }).unwrap();
    let three = Encoder::load(&encoder_path(), EngineConfig { threads: 3, ..config() }).unwrap();
    for (text, vector) in texts.iter().zip(&together) {
        for encoder in [encoder(), &one, &three] {
            assert_eq!(bits(&embed(encoder, &[text]).await[0]), bits(vector), "{text}");
        }
    }
    assert_eq!(one.info().self_test, three.info().self_test);
}

#[tokio::test]
async fn a_model_with_a_layer_left_out_gives_other_vectors() {
    let five = Encoder::load(&encoder_path(), EngineConfig { layers: Some(5), ..config() }).unwrap();
    assert_ne!(five.info().self_test, encoder().info().self_test);
    let (whole, cut) = (embed(encoder(), &["a fox"]).await, embed(&five, &["a fox"]).await);
    assert_ne!(bits(&whole[0]), bits(&cut[0]));
}

#[tokio::test]
async fn many_texts_come_in_order_and_a_short_request_does_not_wait_for_all_of_them() {
    let long = encoder().tokenize("many words").unwrap();
    let short = encoder().tokenize("x").unwrap();
    let many: Vec<Vec<u32>> = (0..MAX_TEXTS).map(|i| if i % 2 == 0 { long.clone() } else { short.clone() }).collect();
    let mut slow = encoder().embed(many).unwrap();
    let mut count = 0;
    // Both are read at once, so that it does not matter when this thread has its turn.
    let mut asked = std::pin::pin!(embed(encoder(), &["x"]));
    let quick = loop {
        tokio::select! {
            biased;
            quick = &mut asked => break quick,
            vector = slow.recv() => {
                vector.expect("the short request waited for the long one").unwrap();
                count += 1;
            }
        }
    };
    assert!(count < MAX_TEXTS, "the short request waited for the long one");
    while let Some(vector) = slow.recv().await {
        if count % 2 == 1 {
            assert_eq!(bits(&vector.unwrap()), bits(&quick[0]));
        }
        count += 1;
    }
    assert_eq!(count, MAX_TEXTS);
}

#[tokio::test]
async fn requests_that_cannot_be_computed_are_refused_with_the_reason() {
    let encoder = encoder();
    assert_eq!((encoder.info().context_length, encoder.dimensions()), (256, 384));
    let fits = encoder.tokenize(&"grid ".repeat(254)).unwrap();
    assert_eq!(fits.len(), 256);
    assert!(encoder.embed(vec![fits]).is_ok());
    let long = encoder.tokenize(&"grid ".repeat(255)).unwrap();
    assert!(matches!(encoder.embed(vec![long]), Err(AdmissionError::Context { prompt: 257, context: 256, .. })));
    for texts in [vec![], vec![vec![]], vec![vec![1]; MAX_TEXTS + 1], vec![vec![30_522]]] {
        assert!(matches!(encoder.embed(texts), Err(AdmissionError::Invalid(_))));
    }
    assert!(encoder.tokenize(&"x".repeat(20_000)).unwrap_err().to_string().contains("20000 bytes"));
    // No text at all is two tokens, which is something to compute.
    assert_eq!(encoder.tokenize("").unwrap().len(), 2);
}

#[tokio::test]
async fn a_full_encoder_says_when_to_come_back() {
    let small = Encoder::load(&encoder_path(), EngineConfig { max_sequences: 1, max_queue: 0, ..config() }).unwrap();
    let text = small.tokenize("a text of some words").unwrap();
    // Seconds of work, whenever this thread has its turn again.
    let long = small.tokenize(&"grid ".repeat(250)).unwrap();
    let running = small.embed(vec![long; MAX_TEXTS]).unwrap();
    assert!(matches!(small.embed(vec![text.clone()]), Err(AdmissionError::Busy { .. })));
    drop(running);
    // Nobody listens: it stops after the group that it computes, and has room again.
    let again = async {
        loop {
            match small.embed(vec![text.clone()]) {
                Ok(mut vectors) => break vectors.recv().await,
                Err(_) => tokio::task::yield_now().await,
            }
        }
    };
    let vector = tokio::time::timeout(std::time::Duration::from_secs(180), again).await.unwrap();
    assert_eq!(vector.unwrap().unwrap().len(), 384);
}

#[test]
fn a_file_is_loaded_by_what_it_is() {
    assert!(matches!(load(&encoder_path(), config()).unwrap(), LoadedModel::Encoder(_)));
    let folder = tempfile::tempdir().unwrap();
    let noise = folder.path().join("noise");
    std::fs::write(&noise, vec![7; 4096]).unwrap();
    assert!(load(&noise, config()).is_err());
    assert!(load(&folder.path().join("absent"), config()).is_err());
    // An archive with everything but the weights' own bytes.
    let bundle = std::fs::read(encoder_path()).unwrap();
    for length in [600, 10_000, 1_000_000] {
        let cut = folder.path().join(format!("cut-{length}"));
        std::fs::write(&cut, &bundle[..length]).unwrap();
        assert!(load(&cut, config()).is_err(), "the first {length} bytes");
    }
}

/// Not a test of correctness: prints what `docs/benchmarks.md` quotes. Run with `--ignored --nocapture` and optimisation.
#[tokio::test]
#[ignore = "a measurement"]
async fn speed() {
    for threads in [1, 2] {
        let encoder = Encoder::load(&encoder_path(), EngineConfig { threads, ..config() }).unwrap();
        let mut rates = Vec::new();
        for _ in 0..7 {
            rates.push(encoder.benchmark().await.unwrap().prefill_tokens_per_second);
        }
        rates.sort_by(f64::total_cmp);
        println!("{threads} threads: median {:.0} tok/s, {:.0} to {:.0}", rates[3], rates[0], rates[6]);
    }
}
