//! A server of an encoder.

use std::sync::Arc;

use serde_json::json;
use xdc_grid::worker::LocalEngines;

use super::Serving;
use crate::encoder::encoder_path;

#[tokio::test]
async fn an_encoder_serves_vectors_and_no_text() {
    let s = Serving::start_with(&encoder_path(), &["--model-name", "mini"], Arc::new(LocalEngines)).await.ready().await;
    let one = s.ask("/v1/embeddings", &json!({"model": "mini", "input": ["a cat", "a dog"]})).await;
    assert_eq!(one["data"][1]["embedding"].as_array().unwrap().len(), 384);
    let packed =
        s.ask("/v1/embeddings", &json!({"model": "mini", "input": "a cat", "encoding_format": "base64"})).await;
    assert_eq!(packed["data"][0]["embedding"].as_str().unwrap().len(), 384 * 4 / 3 * 4);
    let (status, error) = s.refused("/v1/completions", &json!({"model": "mini", "prompt": "x"})).await;
    assert_eq!((status, error["param"].as_str()), (400, Some("model")));
    assert!(s.ask("/tokenize", &json!({"prompt": "a cat"})).await["count"].as_u64() >= Some(3));
}
