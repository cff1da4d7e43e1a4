//! Pure: the body of an embedding's result line, as OpenAI's batch output has it.

use serde::Serialize;

use super::output::Origin;
use crate::protocol::{embeddings::EmbeddingList, internal::Encoding, vector::Vector};

#[derive(Serialize)]
pub(super) struct Body<'a> {
    #[serde(flatten)]
    list: EmbeddingList<'a>,
    /// Who answered: nothing of OpenAI's, and clients ignore it.
    xdc_grid: Origin,
}

pub(super) fn body<'a>(
    vectors: &'a [Vector],
    encoding: Encoding,
    model: &'a str,
    prompt_tokens: u32,
    origin: Origin,
) -> Body<'a> {
    Body { list: EmbeddingList::new(model, vectors, encoding, prompt_tokens), xdc_grid: origin }
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
