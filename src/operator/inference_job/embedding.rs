//! Pure: the body of an embedding's result line, as OpenAI's batch output has it.

use serde::Serialize;

use super::output::Origin;
use crate::protocol::{internal::Encoding, vector::Vector};

#[derive(Serialize)]
pub(super) struct Body<'a> {
    object: &'static str,
    data: Vec<Embedding<'a>>,
    model: &'a str,
    usage: Usage,
    /// Who answered: nothing of OpenAI's, and clients ignore it.
    xdc_grid: Origin,
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

pub(super) fn body<'a>(
    vectors: &'a [Vector],
    encoding: Encoding,
    model: &'a str,
    prompt_tokens: u32,
    origin: Origin,
) -> Body<'a> {
    let written = |vector: &'a Vector| match encoding {
        Encoding::Float => Written::Float(vector.values()),
        Encoding::Base64 => Written::Base64(vector.to_base64()),
    };
    let data = vectors.iter().enumerate().map(|(index, vector)| Embedding {
        object: "embedding",
        index,
        embedding: written(vector),
    });
    Body {
        object: "list",
        data: data.collect(),
        model,
        usage: Usage { prompt_tokens, total_tokens: prompt_tokens },
        xdc_grid: origin,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn written(encoding: Encoding) -> Value {
        let vectors = [Vector::new(vec![0.1, -2.5]).unwrap(), Vector::new(vec![1.0, 0.0]).unwrap()];
        let origin = Origin { node: "n".into(), address: "0x01".into() };
        // As text and back: what a reader of the line sees.
        let text = serde_json::to_string(&body(&vectors, encoding, "m", 7, origin)).unwrap();
        serde_json::from_str(&text).unwrap()
    }

    #[test]
    fn the_body_is_openais_list_of_embeddings() {
        let body = written(Encoding::Float);
        assert_eq!(body["object"], "list");
        assert_eq!(body["data"][0], json!({"object": "embedding", "index": 0, "embedding": [0.1, -2.5]}));
        assert_eq!(body["data"][1]["index"], 1);
        assert_eq!(body["usage"], json!({"prompt_tokens": 7, "total_tokens": 7}));
        assert_eq!(body["xdc_grid"]["node"], "n");
    }

    #[test]
    fn base64_holds_the_little_endian_bytes() {
        assert_eq!(written(Encoding::Base64)["data"][1]["embedding"], "AACAPwAAAAA=");
    }
}
