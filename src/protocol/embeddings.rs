//! OpenAI's list of embeddings, as the gateway answers it and as a job's result lines hold it.

use serde::Serialize;

use super::{internal::Encoding, vector::Vector};

/// Written without a detour over JSON values: those hold numbers in double precision, and every number would have twice the
/// digits.
#[derive(Serialize)]
pub struct EmbeddingList<'a> {
    object: &'static str,
    data: Vec<Embedding<'a>>,
    model: &'a str,
    usage: Usage,
}

#[derive(Serialize)]
struct Embedding<'a> {
    object: &'static str,
    index: usize,
    embedding: Written<'a>,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Written<'a> {
    Float(&'a [f32]),
    Base64(String),
}

#[derive(Serialize)]
struct Usage {
    prompt_tokens: u32,
    total_tokens: u32,
}

impl<'a> EmbeddingList<'a> {
    pub fn new(model: &'a str, vectors: &'a [Vector], encoding: Encoding, prompt_tokens: u32) -> Self {
        let written = |vector: &'a Vector| match encoding {
            Encoding::Float => Written::Float(vector.values()),
            Encoding::Base64 => Written::Base64(vector.to_base64()),
        };
        let items = vectors.iter().enumerate();
        let data = items.map(|(index, vector)| Embedding { object: "embedding", index, embedding: written(vector) });
        let usage = Usage { prompt_tokens, total_tokens: prompt_tokens };
        EmbeddingList { object: "list", data: data.collect(), model, usage }
    }
}
