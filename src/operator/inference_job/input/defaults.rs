//! `spec.workload.generation`: what holds for lines that say nothing. Pure.

use crate::{
    api::inference_job::{GenerationSpec, LogitBiasSpec, ResponseFormatSpec},
    openai::{Defaults, form_of_schema},
    verify::sampler::{LogitBias, SamplerParams, TextForm},
};

/// The error is a sentence that names the field.
pub fn of(generation: &GenerationSpec) -> Result<Defaults, String> {
    let decimal = |name: &str, text: &str| {
        text.parse::<f32>().map_err(|_| format!("generation.{name} {text:?} is no decimal number"))
    };
    let or_off = |name: &str, text: &Option<String>, off: f32| match text {
        Some(text) => decimal(name, text),
        None => Ok(off),
    };
    let sampling = SamplerParams {
        temperature: decimal("temperature", &generation.temperature)?,
        top_p: decimal("topP", &generation.top_p)?,
        top_k: generation.top_k.unsigned_abs(),
        min_p: or_off("minP", &generation.min_p, 0.0)?,
        repetition_penalty: or_off("repetitionPenalty", &generation.repetition_penalty, 1.0)?,
        presence_penalty: or_off("presencePenalty", &generation.presence_penalty, 0.0)?,
        frequency_penalty: or_off("frequencyPenalty", &generation.frequency_penalty, 0.0)?,
        logit_bias: logit_bias(&generation.logit_bias),
        form: generation.response_format.as_ref().map_or(Ok(TextForm::Free), form)?,
    };
    sampling.validate().map_err(|error| format!("generation: {error}"))?;
    Ok(Defaults {
        max_tokens: Some(generation.max_tokens.unsigned_abs()),
        sampling,
        seed: Some(generation.seed.unsigned_abs()),
        stop: generation.stop.clone(),
    })
}

/// Which of the two is given, the schema of the API server has seen to.
fn form(format: &ResponseFormatSpec) -> Result<TextForm, String> {
    let Some(schema) = &format.json_schema else { return Ok(TextForm::JsonObject) };
    let wrong = |what: String| format!("generation.responseFormat.jsonSchema {what}");
    let schema = serde_json::from_str(schema).map_err(|error| wrong(format!("is not JSON: {error}")))?;
    form_of_schema(&schema).map_err(|must| wrong(format!("must be {must}")))
}

fn logit_bias(list: &[LogitBiasSpec]) -> Vec<LogitBias> {
    let one = |entry: &LogitBiasSpec| LogitBias { id: entry.token.unsigned_abs(), bias: entry.bias as f32 };
    let mut biases: Vec<LogitBias> = list.iter().map(one).collect();
    biases.sort_by_key(|bias| bias.id);
    biases
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn read(generation: Value) -> Result<Defaults, String> {
        of(&serde_json::from_value(generation).unwrap())
    }

    #[test]
    fn a_job_that_says_nothing_changes_no_logit() {
        let defaults = read(json!({})).unwrap();
        assert_eq!((defaults.max_tokens, defaults.seed), (Some(256), Some(0)));
        assert_eq!(defaults.sampling, SamplerParams::new(1.0, 1.0, 0));
    }

    #[test]
    fn every_field_reaches_the_lines() {
        let defaults = read(json!({
            "temperature": "0.5", "topP": "0.9", "topK": 40, "minP": "0.05", "repetitionPenalty": "1.1", "presencePenalty": "-0.5",
            "frequencyPenalty": "2", "logitBias": [{"token": 9, "bias": -100}, {"token": 3, "bias": 5}], "seed": 7,
            "responseFormat": {"jsonSchema": "{\"required\": [\"z\"],\n \"type\": \"object\"}"},
        }));
        let wanted = SamplerParams {
            min_p: 0.05,
            repetition_penalty: 1.1,
            presence_penalty: -0.5,
            frequency_penalty: 2.0,
            logit_bias: vec![LogitBias { id: 3, bias: 5.0 }, LogitBias { id: 9, bias: -100.0 }],
            form: TextForm::JsonSchema(r#"{"required":["z"],"type":"object"}"#.into()),
            ..SamplerParams::new(0.5, 0.9, 40)
        };
        assert_eq!(defaults.unwrap().sampling, wanted);
        let object = read(json!({"responseFormat": {"jsonObject": {}}})).unwrap();
        assert_eq!(object.sampling.form, TextForm::JsonObject);
    }

    #[test]
    fn what_no_worker_takes_is_refused_before_the_job_runs() {
        for (field, value, says) in [
            ("topP", json!("0"), "top_p must be above 0"),
            ("minP", json!("2"), "min_p must be between 0 and 1"),
            ("presencePenalty", json!("a lot"), "generation.presencePenalty"),
            ("responseFormat", json!({"jsonSchema": "{"}), "responseFormat.jsonSchema is not JSON"),
            (
                "responseFormat",
                json!({"jsonSchema": "[]"}),
                "responseFormat.jsonSchema must be a JSON Schema, an object",
            ),
        ] {
            let message = read(json!({ field: value })).unwrap_err();
            assert!(message.contains(says), "{message}");
        }
    }
}
