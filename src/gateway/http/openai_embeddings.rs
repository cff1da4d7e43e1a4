//! `POST /v1/embeddings`: reading the request, and the list of vectors.

use std::sync::Arc;

use axum::{
    Json,
    response::{IntoResponse, Response},
};
use serde_json::{Map, Value};

use super::{
    openai,
    openai_error::OpenAiError,
    openai_request::{Parsed, missing, object, take_string, unsupported},
};
use crate::{
    gateway::{Gateway, online::OnlineEvent},
    protocol::{
        embeddings::EmbeddingList,
        internal::{Encoding, Endpoint, InputLine, MAX_INPUTS},
    },
};

pub(super) async fn answer(gateway: &Arc<Gateway>, body: &[u8]) -> Result<Response, OpenAiError> {
    let (name, line) = parse(body)?;
    let encoding = line.encoding;
    let model = openai::served(gateway, &name, Endpoint::Embeddings).await?;
    let mut waiting = openai::leased(gateway, Endpoint::Embeddings, &model, line).await?;
    loop {
        if let OnlineEvent::Embedded { vectors, prompt_tokens } = waiting.next().await? {
            return Ok(Json(EmbeddingList::new(&model.source.name, &vectors, encoding, prompt_tokens)).into_response());
        }
    }
}

fn parse(body: &[u8]) -> Parsed<(String, InputLine)> {
    let fields = &mut object(body)?;
    let model = take_string(fields, "model")?.ok_or_else(|| missing("model"))?;
    let inputs = inputs(fields)?;
    let encoding = match take_string(fields, "encoding_format")?.as_deref() {
        None | Some("float") => Encoding::Float,
        Some("base64") => Encoding::Base64,
        Some(_) => return Err(OpenAiError::invalid("encoding_format", "encoding_format must be float or base64")),
    };
    // A label of the caller's that changes nothing.
    take_string(fields, "user")?;
    match fields.keys().next() {
        Some(field) => Err(unsupported(field)),
        None => Ok((model, InputLine::embedding(0, "online".into(), inputs, encoding))),
    }
}

fn inputs(fields: &mut Map<String, Value>) -> Parsed<Vec<String>> {
    let wrong = || {
        let message = format!("input must be a text or a list of 1 to {MAX_INPUTS} texts, none of them empty");
        OpenAiError::invalid("input", message)
    };
    let inputs: Vec<String> = match fields.remove("input") {
        Some(Value::String(text)) => vec![text],
        Some(Value::Array(list)) => {
            let text = |value: Value| match value {
                Value::String(text) => Ok(text),
                _ => Err(wrong()),
            };
            list.into_iter().map(text).collect::<Parsed<_>>()?
        }
        Some(_) => return Err(wrong()),
        None => return Err(missing("input")),
    };
    let sound = (1..=MAX_INPUTS).contains(&inputs.len()) && inputs.iter().all(|text| !text.is_empty());
    if sound { Ok(inputs) } else { Err(wrong()) }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::protocol::vector::Vector;

    fn read(body: Value) -> Parsed<(String, InputLine)> {
        parse(body.to_string().as_bytes())
    }

    #[test]
    fn one_text_or_many_are_taken() {
        let (model, line) = read(json!({"model": "m", "input": "a", "user": "u", "dimensions": null})).unwrap();
        assert_eq!((model.as_str(), line.inputs, line.encoding), ("m", vec!["a".to_owned()], Encoding::Float));
        let (_, line) = read(json!({"model": "m", "input": ["a", "b"], "encoding_format": "base64"})).unwrap();
        assert_eq!((line.inputs.len(), line.encoding), (2, Encoding::Base64));
    }

    #[test]
    fn what_is_not_supported_is_refused_by_name() {
        let with = |field: &str, value: Value| {
            let mut body = json!({"model": "m", "input": "a"});
            body[field] = value;
            read(body).unwrap_err()
        };
        for (field, value) in [
            ("input", json!("")),
            ("input", json!([])),
            ("input", json!(["a", ""])),
            ("input", json!([1, 2, 3])),
            ("input", json!(7)),
            ("input", json!(vec!["a"; MAX_INPUTS + 1])),
            ("encoding_format", json!("hex")),
            ("dimensions", json!(256)),
            ("messages", json!([])),
        ] {
            let error = with(field, value);
            assert_eq!((error.status.as_u16(), error.body.param.as_deref()), (400, Some(field)), "{field}");
        }
        assert_eq!(read(json!({"model": "m"})).unwrap_err().body.param.as_deref(), Some("input"));
    }

    #[test]
    fn numbers_are_written_so_that_the_same_bits_come_back() {
        let vector = Vector::new(vec![0.1, 1.0 / 3.0, -1e-7]).unwrap();
        let list = EmbeddingList::new("m", std::slice::from_ref(&vector), Encoding::Float, 3);
        let text = serde_json::to_string(&list).unwrap();
        assert!(text.contains("[0.1,0.33333334,"), "{text}");
        let back: Value = serde_json::from_str(&text).unwrap();
        let values: Vec<f32> = serde_json::from_value(back["data"][0]["embedding"].clone()).unwrap();
        assert_eq!(values, vector.values());
        assert_eq!(back["usage"], json!({"prompt_tokens": 3, "total_tokens": 3}));
    }
}
