//! The body of a line for `/v1/embeddings`. Pure.

use serde::Deserialize;
use serde_json::{Map, Value};

use super::parse::{Refusal, Rules, invalid, known_fields, known_model};
use crate::protocol::internal::{Encoding, InputLine, MAX_INPUTS};

/// The fields that are served.
#[derive(Deserialize)]
struct Body {
    model: Option<String>,
    input: Option<Input>,
    encoding_format: Option<Encoding>,
    /// A label of the caller's that changes nothing.
    #[serde(rename = "user")]
    _user: Option<String>,
    #[serde(flatten)]
    unknown: Map<String, Value>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Input {
    One(String),
    Many(Vec<String>),
}

pub(super) fn request(rules: &Rules, index: u32, custom_id: String, body: Value) -> Result<InputLine, Refusal> {
    let body: Body = serde_json::from_value(body).map_err(|error| invalid(format!("body: {error}")))?;
    known_fields(&body.unknown, "body.")?;
    known_model(rules, body.model.as_deref())?;
    let inputs = match body.input {
        Some(Input::One(text)) => vec![text],
        Some(Input::Many(texts)) => texts,
        None => return Err(invalid("body.input is missing")),
    };
    if inputs.is_empty() || inputs.len() > MAX_INPUTS || inputs.iter().any(String::is_empty) {
        return Err(invalid(format!("body.input must be a text or 1 to {MAX_INPUTS} texts, none of them empty")));
    }
    Ok(InputLine::embedding(index, custom_id, inputs, body.encoding_format.unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::{
        api::{inference_job::InputFormat, reasons::Reason},
        operator::inference_job::input::{
            lines::{Line, LineContent},
            parse::{Defaults, LineParser, Rejection},
        },
        protocol::internal::Endpoint,
    };

    fn rules(format: InputFormat) -> Rules {
        Rules {
            format,
            endpoint: Endpoint::Embeddings,
            model: "m".into(),
            defaults: Defaults {
                max_tokens: 32,
                temperature: 0.5,
                top_p: 1.0,
                top_k: 0,
                seed: 7,
                stop: Vec::new(),
                system_message: None,
            },
        }
    }

    fn parse(format: InputFormat, text: &str) -> Result<InputLine, Rejection> {
        LineParser::new(rules(format)).parse(Line { index: 0, content: LineContent::Bytes(text.as_bytes().to_vec()) })
    }

    fn batch(body: Value) -> Result<InputLine, Rejection> {
        let line = json!({"custom_id": "a", "method": "POST", "url": "/v1/embeddings", "body": body});
        parse(InputFormat::OpenAiBatch, &line.to_string())
    }

    #[test]
    fn a_plain_line_is_one_text_and_nothing_is_sampled() {
        let line = parse(InputFormat::Lines, "the quick brown fox\r").unwrap();
        assert_eq!(line, InputLine::embedding(0, "line-1".into(), vec!["the quick brown fox".into()], Encoding::Float));
        assert_eq!((line.max_tokens, line.temperature), (1, 0.0));
    }

    #[test]
    fn a_batch_line_has_one_text_or_many() {
        let one = batch(json!({"model": "m", "input": "a", "encoding_format": "base64", "user": "u"})).unwrap();
        assert_eq!((one.inputs, one.encoding), (vec!["a".to_owned()], Encoding::Base64));
        assert_eq!(batch(json!({"model": "m", "input": ["a", "b"], "dimensions": null})).unwrap().inputs.len(), 2);
    }

    #[test]
    fn what_is_not_served_is_rejected_and_not_ignored() {
        for (body, reason) in [
            (json!({"model": "m"}), Reason::InvalidRequest),
            (json!({"model": "m", "input": []}), Reason::InvalidRequest),
            (json!({"model": "m", "input": ["a", ""]}), Reason::InvalidRequest),
            (json!({"model": "m", "input": [1, 2]}), Reason::InvalidRequest),
            (json!({"model": "m", "input": "a", "encoding_format": "hex"}), Reason::InvalidRequest),
            (json!({"model": "m", "input": "a", "dimensions": 8}), Reason::UnknownField),
            (json!({"model": "m", "input": "a", "max_tokens": 8}), Reason::UnknownField),
            (json!({"model": "x", "input": "a"}), Reason::OtherModel),
        ] {
            assert_eq!(batch(body.clone()).unwrap_err().reason, reason, "{body}");
        }
    }
}
