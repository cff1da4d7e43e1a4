//! What masks cost: a measurement of `tests/bench/run.py masks`, not a test. It needs a model's vocabulary, in `MODEL`.

use std::path::PathBuf;
use std::time::Instant;

use serde_json::{Value, json};

use super::*;
use crate::allocation::{kept, peak};
use crate::gguf::GgufFile;

/// In both forms.
const ANSWER: &str = r#"{"name": "The quick brown fox \"jumps\" over the lazy dog, again and again.", "short": "a lazy dog in the sun", "n": 12345, "list": ["red", "green", "red", "red"]}"#;
/// Answers: each begins with nothing that another has found out.
const ANSWERS: usize = 3;

fn schema() -> TextForm {
    let properties = json!({
        "name": {"type": "string"},
        "short": {"type": "string", "maxLength": 40},
        "n": {"type": "integer"},
        "list": {"type": "array", "items": {"enum": ["red", "green"]}},
    });
    let required = ["name", "short", "n", "list"];
    let schema =
        json!({"type": "object", "properties": properties, "required": required, "additionalProperties": false});
    TextForm::JsonSchema(schema.to_string())
}

fn milliseconds(since: Instant) -> f64 {
    since.elapsed().as_secs_f64() * 1e3
}

#[test]
#[ignore = "a measurement"]
fn cost_of_masks() {
    let file = GgufFile::open(&PathBuf::from(std::env::var_os("MODEL").expect("a GGUF file in MODEL"))).unwrap();
    let tokenizer = Arc::new(Tokenizer::from_header(&file.header, 8192).unwrap());
    let inner = Forms::new(tokenizer.clone()).inner;
    let began = Instant::now();
    let ((_, kept_bytes), peak_bytes) = peak(|| kept(|| inner.words().is_ok()));
    let made_ms = milliseconds(began);
    let forms = [("json_object", TextForm::JsonObject), ("json_schema", schema())];
    let forms: Vec<Value> = forms.iter().map(|(name, form)| cost(&inner, name, form)).collect();
    let words = tokenizer.vocab_size();
    let told =
        json!({"words": words, "kept_bytes": kept_bytes, "peak_bytes": peak_bytes, "made_ms": made_ms, "forms": forms});
    println!("\ncost of masks {told}");
}

/// A form with an answer in it, token by token: each mask and the step over the token that came.
fn cost(inner: &Inner, name: &str, form: &TextForm) -> Value {
    let tokens = inner.tokenizer.encode(ANSWER).unwrap();
    let tokens: Vec<u32> = tokens.into_iter().filter(|token| !inner.tokenizer.bytes(*token).is_empty()).collect();
    let began = Instant::now();
    let start = inner.compile(form).unwrap();
    let compile_ms = milliseconds(began);
    let mut masks_us = Vec::with_capacity(ANSWERS * tokens.len());
    let mut kept_bytes = 0;
    for _ in 0..ANSWERS {
        let (state, bytes) = kept(|| {
            let mut state = start.another();
            for token in &tokens {
                let began = Instant::now();
                state.prepare().unwrap();
                let allowed = state.allowed().unwrap().allows(*token);
                state.push(*token).unwrap();
                masks_us.push(milliseconds(began) * 1e3);
                assert!(allowed, "{:?}", inner.tokenizer.bytes(*token));
            }
            state
        });
        assert!(state.is_complete());
        kept_bytes = bytes;
    }
    json!({"name": name, "compile_ms": compile_ms, "masks_us": masks_us, "kept_bytes": kept_bytes})
}
