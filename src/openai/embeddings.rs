//! Requests for embeddings.

use serde_json::Value;

use super::{Parsed, fields::Fields};
use crate::protocol::internal::{Encoding, MAX_INPUTS};

/// A request for the vectors of some texts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EmbeddingRequest {
    pub model: String,
    /// 1 to [`MAX_INPUTS`], none of them empty.
    pub inputs: Vec<String>,
    pub encoding: Encoding,
}

impl EmbeddingRequest {
    pub fn parse(body: &[u8]) -> Parsed<Self> {
        Self::read(Fields::of_body(body)?)
    }

    /// Reads the `body` of a line of a batch.
    pub fn of_batch(body: Value) -> Parsed<Self> {
        Self::read(Fields::of(body, "body")?)
    }

    fn read(mut fields: Fields) -> Parsed<Self> {
        let model = fields.string("model")?.ok_or_else(|| fields.missing("model"))?;
        let inputs = inputs(&mut fields)?;
        let encoding = match fields.string("encoding_format")?.as_deref() {
            None | Some("float") => Encoding::Float,
            Some("base64") => Encoding::Base64,
            Some(_) => return Err(fields.invalid("encoding_format", "float or base64")),
        };
        // A label of the caller's that changes nothing.
        fields.string("user")?;
        fields.finish()?;
        Ok(EmbeddingRequest { model, inputs, encoding })
    }
}

fn inputs(fields: &mut Fields) -> Parsed<Vec<String>> {
    let must = format!("a text or a list of 1 to {MAX_INPUTS} texts, none of them empty");
    let inputs: Vec<String> = match fields.take("input") {
        Some(Value::String(text)) => vec![text],
        Some(Value::Array(list)) => {
            let text = |value: Value| match value {
                Value::String(text) => Ok(text),
                _ => Err(fields.invalid("input", &must)),
            };
            list.into_iter().map(text).collect::<Parsed<_>>()?
        }
        Some(_) => return Err(fields.invalid("input", must)),
        None => return Err(fields.missing("input")),
    };
    let sound = (1..=MAX_INPUTS).contains(&inputs.len()) && inputs.iter().all(|text| !text.is_empty());
    if sound { Ok(inputs) } else { Err(fields.invalid("input", must)) }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(body: &Value) -> Parsed<EmbeddingRequest> {
        EmbeddingRequest::parse(body.to_string().as_bytes())
    }

    #[test]
    fn one_text_or_many_are_taken() {
        let request = read(&json!({"model": "m", "input": "a", "user": "u", "dimensions": null})).unwrap();
        assert_eq!(
            (request.model.as_str(), request.inputs, request.encoding),
            ("m", vec!["a".to_owned()], Encoding::Float)
        );
        let request = read(&json!({"model": "m", "input": ["a", "b"], "encoding_format": "base64"})).unwrap();
        assert_eq!((request.inputs.len(), request.encoding), (2, Encoding::Base64));
    }

    #[test]
    fn what_is_not_supported_is_refused_by_name() {
        let with = |field: &str, value: Value| {
            let mut body = json!({"model": "m", "input": "a"});
            body[field] = value;
            read(&body).unwrap_err()
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
        assert_eq!(read(&json!({"model": "m"})).unwrap_err().body.param.as_deref(), Some("input"));
    }
}
