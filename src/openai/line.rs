//! A request for text as the grid passes it on: a line of a job, or one that stands for itself.

use super::{Defaults, Prompt, TextRequest};
use crate::{
    protocol::internal::{InputLine, Message, ResponseFormat},
    verify::sampler::{SamplerParams, TextForm},
};

impl TextRequest {
    /// What neither the request nor the offer's defaults say is one token and seed 0. Tools are not the grid's: they must not have been
    /// offered.
    pub fn into_line(self, index: u32, custom_id: String) -> InputLine {
        let line = sampled(InputLine::blank(index, custom_id), &self.sampling);
        let message = |message: super::Message| Message { role: message.role, content: message.content };
        let (messages, prompt) = match self.prompt {
            Prompt::Chat(messages) => (messages.into_iter().map(message).collect(), String::new()),
            Prompt::Text(text) => (Vec::new(), text),
        };
        InputLine {
            messages,
            prompt,
            max_tokens: self.max_tokens.unwrap_or(line.max_tokens),
            top_logprobs: self.top_logprobs,
            seed: self.seed.unwrap_or(line.seed),
            stop: self.stop,
            ..line
        }
    }
}

impl Defaults {
    /// A request that says nothing, with nothing to answer yet.
    pub fn line(&self, index: u32, custom_id: String) -> InputLine {
        let line = sampled(InputLine::blank(index, custom_id), &self.sampling);
        InputLine {
            max_tokens: self.max_tokens.unwrap_or(line.max_tokens),
            seed: self.seed.unwrap_or(line.seed),
            stop: self.stop.clone(),
            ..line
        }
    }
}

fn sampled(line: InputLine, sampling: &SamplerParams) -> InputLine {
    InputLine {
        temperature: sampling.temperature,
        top_p: sampling.top_p,
        top_k: sampling.top_k,
        min_p: sampling.min_p,
        repetition_penalty: sampling.repetition_penalty,
        presence_penalty: sampling.presence_penalty,
        frequency_penalty: sampling.frequency_penalty,
        logit_bias: sampling.logit_bias.iter().map(|bias| (bias.id, bias.bias)).collect(),
        response_format: match &sampling.form {
            TextForm::Free => ResponseFormat::Text,
            TextForm::JsonObject => ResponseFormat::JsonObject,
            TextForm::JsonSchema(schema) => ResponseFormat::JsonSchema(schema.clone()),
        },
        ..line
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::{
        openai::Offer,
        protocol::{
            fields::{RequestField, RequestFields},
            internal::Endpoint,
        },
    };

    fn line(body: serde_json::Value) -> InputLine {
        let offer = Offer::of_the_grid(100, Defaults { max_tokens: Some(50), ..Defaults::OPENAI });
        let request = TextRequest::parse(body.to_string().as_bytes(), Endpoint::ChatCompletions, &offer).unwrap();
        request.into_line(3, "a".into())
    }

    #[test]
    fn every_field_reaches_the_worker() {
        let line = line(json!({
            "model": "m", "messages": [{"role": "user", "content": "x"}], "temperature": 0.5, "top_p": 0.9, "top_k": 40, "min_p": 0.1, "repetition_penalty": 1.1,
            "presence_penalty": 0.2, "frequency_penalty": -0.3, "logit_bias": {"7": -100, "5": 1.5}, "logprobs": true, "top_logprobs": 2, "seed": 9,
            "stop": "s", "response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": {"properties": {"b": {}, "a": {}}}}},
        }));
        assert_eq!((line.index, line.custom_id.as_str(), line.max_tokens, line.seed), (3, "a", 50, 9));
        assert_eq!(
            (line.top_logprobs, line.fields()),
            (Some(2), RequestFields::all().without(RequestField::ChatTemplate))
        );
        let written = serde_json::to_string(&line).unwrap();
        assert_eq!(serde_json::from_str::<InputLine>(&written).unwrap(), line);
        let params = SamplerParams::try_from(&line.sampling()).unwrap();
        assert_eq!((params.min_p, params.repetition_penalty, params.presence_penalty), (0.1, 1.1, 0.2));
        assert_eq!(
            params.logit_bias.iter().map(|bias| (bias.id, bias.bias)).collect::<Vec<_>>(),
            [(5, 1.5), (7, -100.0)]
        );
        assert_eq!(params.form, TextForm::JsonSchema(r#"{"properties":{"b":{},"a":{}}}"#.into()));
    }

    #[test]
    fn what_is_off_is_written_and_asked_of_nobody() {
        let line = line(json!({
            "model": "m", "messages": [{"role": "user", "content": "x"}], "min_p": 0, "repetition_penalty": 1, "logit_bias": {},
            "response_format": {"type": "text"},
        }));
        assert!(line.fields().is_empty());
        let written = serde_json::to_value(&line).unwrap();
        for field in [
            "minP",
            "repetitionPenalty",
            "presencePenalty",
            "frequencyPenalty",
            "logitBias",
            "topLogprobs",
            "responseFormat",
        ] {
            assert_eq!(written.get(field), None, "{field}");
        }
        assert_eq!(line.sampling().repetition_penalty, 0.0);
    }
}
