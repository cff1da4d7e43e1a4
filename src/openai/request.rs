//! Requests for text: what is offered is taken, what has no effect is let pass in its neutral form, and everything else is refused by
//! name, so that nobody gets an answer to another question than the one they asked.

use serde_json::{Map, Value};

use super::{
    Message, OpenAiError, Parsed,
    fields::Fields,
    messages::{self, ToolUse, Tools},
};
use crate::{
    protocol::{internal::Endpoint, logprobs::MAX_TOP_LOGPROBS},
    verify::sampler::{LogitBias, MAX_LOGIT_BIASES, MAX_SCHEMA_BYTES, SamplerParams, TextForm},
};

/// Stop strings, and bytes of each.
const MAX_STOPS: usize = 16;
const MAX_STOP_BYTES: usize = 256;

/// What a server offers. The rest is refused by name.
#[derive(Debug, Clone, PartialEq)]
pub struct Offer {
    /// Largest answer, in tokens.
    pub most_tokens: u32,
    /// Most answers to one request (`n`).
    pub most_choices: u32,
    pub tools: ToolUse,
    pub defaults: Defaults,
}

/// What holds for a request that says nothing.
#[derive(Debug, Clone, PartialEq)]
pub struct Defaults {
    /// `None`: the request then names no limit.
    pub max_tokens: Option<u32>,
    pub sampling: SamplerParams,
    pub seed: Option<u64>,
    pub stop: Vec<String>,
}

impl Defaults {
    /// OpenAI's own.
    pub const OPENAI: Self =
        Defaults { max_tokens: None, sampling: SamplerParams::new(1.0, 1.0, 0), seed: None, stop: Vec::new() };
}

impl Offer {
    /// What the grid offers.
    pub fn of_the_grid(most_tokens: u32, defaults: Defaults) -> Self {
        Offer { most_tokens, most_choices: 1, tools: ToolUse::NotOffered, defaults }
    }
}

/// What is to be continued.
#[derive(Debug, Clone, PartialEq)]
pub enum Prompt {
    Chat(Vec<Message>),
    Text(String),
}

/// A request for text, parsed.
#[derive(Debug, Clone, PartialEq)]
pub struct TextRequest {
    pub model: String,
    pub prompt: Prompt,
    /// `None`: the request names no limit.
    pub max_tokens: Option<u32>,
    pub sampling: SamplerParams,
    /// `None`: any.
    pub seed: Option<u64>,
    pub stop: Vec<String>,
    /// How many answers.
    pub choices: u32,
    /// Log-probabilities with so many alternatives.
    pub top_logprobs: Option<u32>,
    pub tools: Tools,
    pub stream: bool,
    pub include_usage: bool,
    /// The caller's name for who asks.
    pub user: Option<String>,
}

impl TextRequest {
    /// Parses the body of a request to `endpoint`.
    pub fn parse(body: &[u8], endpoint: Endpoint, offer: &Offer) -> Parsed<Self> {
        Self::read(Fields::of_body(body)?, endpoint, offer)
    }

    /// Reads the `body` of a line of a batch.
    pub fn of_batch(body: Value, endpoint: Endpoint, offer: &Offer) -> Parsed<Self> {
        Self::read(Fields::of(body, "body")?, endpoint, offer)
    }

    fn read(mut fields: Fields, endpoint: Endpoint, offer: &Offer) -> Parsed<Self> {
        let model = fields.string("model")?.ok_or_else(|| fields.missing("model"))?;
        let is_chat = match endpoint {
            Endpoint::ChatCompletions => true,
            Endpoint::Completions => false,
            // Theirs is another body: `EmbeddingRequest`.
            Endpoint::Embeddings => return Err(OpenAiError::not_found()),
        };
        let (prompt, tools) = if is_chat {
            let messages = messages::messages(&mut fields, offer.tools)?;
            (Prompt::Chat(messages), messages::tools(&mut fields, offer.tools)?)
        } else {
            (Prompt::Text(prompt(&mut fields)?), Tools::default())
        };
        let (stream, defaults) = (fields.flag("stream")?.unwrap_or(false), &offer.defaults);
        let request = TextRequest {
            model,
            prompt,
            tools,
            max_tokens: max_tokens(&mut fields, is_chat, offer.most_tokens)?.or(defaults.max_tokens),
            sampling: sampling(&mut fields, &defaults.sampling, is_chat)?,
            // Any 64-bit number is a seed; a negative one keeps its bits.
            seed: fields.integer("seed", i64::MIN, i64::MAX)?.map(i64::cast_unsigned).or(defaults.seed),
            stop: stop(&mut fields)?.unwrap_or_else(|| defaults.stop.clone()),
            choices: fields.integer("n", 1, offer.most_choices.into())?.map_or(1, |n| n as u32),
            top_logprobs: logprobs(&mut fields, is_chat)?,
            stream,
            include_usage: stream_options(&mut fields, stream)?,
            user: fields.string("user")?,
        };
        neutral(&mut fields, is_chat)?;
        fields.finish()?;
        Ok(request)
    }
}

fn prompt(fields: &mut Fields) -> Parsed<String> {
    let one = "a string that is not empty, or a list of one";
    let text = match fields.take("prompt") {
        Some(Value::String(text)) => text,
        Some(Value::Array(mut list)) if list.len() == 1 => match list.pop() {
            Some(Value::String(text)) => text,
            _ => return Err(fields.invalid("prompt", one)),
        },
        Some(_) => return Err(fields.invalid("prompt", one)),
        None => return Err(fields.missing("prompt")),
    };
    if text.is_empty() { Err(fields.invalid("prompt", one)) } else { Ok(text) }
}

fn max_tokens(fields: &mut Fields, is_chat: bool, most: u32) -> Parsed<Option<u32>> {
    let mut asked = fields.integer("max_tokens", 1, most.into())?;
    if is_chat {
        // The newer name wins, as with OpenAI.
        asked = fields.integer("max_completion_tokens", 1, most.into())?.or(asked);
    }
    Ok(asked.and_then(|tokens| u32::try_from(tokens).ok()))
}

fn sampling(fields: &mut Fields, defaults: &SamplerParams, is_chat: bool) -> Parsed<SamplerParams> {
    Ok(SamplerParams {
        temperature: fields.number("temperature", 0.0, 2.0)?.unwrap_or(defaults.temperature),
        top_p: top_p(fields)?.unwrap_or(defaults.top_p),
        // Some clients say -1 for "all".
        top_k: fields.integer("top_k", -1, i64::from(u32::MAX))?.map_or(defaults.top_k, |top_k| top_k.max(0) as u32),
        min_p: fields.number("min_p", 0.0, 1.0)?.unwrap_or(defaults.min_p),
        repetition_penalty: fields.number("repetition_penalty", 0.1, 10.0)?.unwrap_or(defaults.repetition_penalty),
        presence_penalty: fields.number("presence_penalty", -2.0, 2.0)?.unwrap_or(defaults.presence_penalty),
        frequency_penalty: fields.number("frequency_penalty", -2.0, 2.0)?.unwrap_or(defaults.frequency_penalty),
        logit_bias: logit_bias(fields)?.unwrap_or_else(|| defaults.logit_bias.clone()),
        form: form(fields, is_chat)?.unwrap_or_else(|| defaults.form.clone()),
    })
}

fn top_p(fields: &mut Fields) -> Parsed<Option<f32>> {
    match fields.take("top_p").map(|value| value.as_f64()) {
        None => Ok(None),
        // What is above 0 must stay so in single precision.
        Some(Some(top_p)) if top_p > 0.0 && top_p <= 1.0 => Ok(Some((top_p as f32).max(f32::MIN_POSITIVE))),
        Some(_) => Err(fields.invalid("top_p", "a number above 0, at most 1")),
    }
}

fn logit_bias(fields: &mut Fields) -> Parsed<Option<Vec<LogitBias>>> {
    let taken = fields.take("logit_bias");
    let wrong = || {
        let must = format!("an object of at most {MAX_LOGIT_BIASES} token ids with numbers from -100 to 100");
        fields.invalid("logit_bias", must)
    };
    let map = match taken {
        None => return Ok(None),
        Some(Value::Object(map)) if map.len() <= MAX_LOGIT_BIASES => map,
        Some(_) => return Err(wrong()),
    };
    let bias = |(id, bias): (String, Value)| {
        let bias = bias.as_f64().filter(|bias| (-100.0..=100.0).contains(bias))?;
        // "7" and "07" would be the same token twice.
        let number: u32 = id.parse().ok().filter(|number: &u32| number.to_string() == id)?;
        Some(LogitBias { id: number, bias: bias as f32 })
    };
    let mut biases: Vec<LogitBias> = map.into_iter().map(bias).collect::<Option<_>>().ok_or_else(wrong)?;
    biases.sort_by_key(|bias| bias.id);
    Ok(Some(biases))
}

fn form(fields: &mut Fields, is_chat: bool) -> Parsed<Option<TextForm>> {
    const NAME: &str = "response_format";
    // Completions have no such field: it is left, and refused with what is unknown.
    if !is_chat {
        return Ok(None);
    }
    let Some(value) = fields.take(NAME) else { return Ok(None) };
    let mut format = Fields::of(value, &fields.name(NAME))?;
    let form = match format.string("type")?.as_deref() {
        Some("text") => TextForm::Free,
        Some("json_object") => TextForm::JsonObject,
        Some("json_schema") => {
            let schema = format.take("json_schema").ok_or_else(|| format.missing("json_schema"))?;
            json_schema(Fields::of(schema, &format.name("json_schema"))?)?
        }
        _ => return Err(format.invalid("type", "text, json_object or json_schema")),
    };
    format.finish()?;
    Ok(Some(form))
}

fn json_schema(mut fields: Fields) -> Parsed<TextForm> {
    fields.string("name")?;
    fields.string("description")?;
    // The form is kept to in any case.
    fields.flag("strict")?;
    let schema = fields.take("schema").ok_or_else(|| fields.missing("schema"))?;
    let form = form_of_schema(&schema).map_err(|must| fields.invalid("schema", must))?;
    fields.finish()?;
    Ok(form)
}

/// The form of a JSON Schema, with its properties in the order in which they stand. The error says what it must be.
pub fn form_of_schema(schema: &Value) -> Result<TextForm, String> {
    if !schema.is_object() {
        return Err("a JSON Schema, an object".into());
    }
    let text = schema.to_string();
    match text.len() > MAX_SCHEMA_BYTES {
        true => Err(format!("at most {MAX_SCHEMA_BYTES} bytes")),
        false => Ok(TextForm::JsonSchema(text)),
    }
}

/// Chat says whether and how many; completions only how many.
fn logprobs(fields: &mut Fields, is_chat: bool) -> Parsed<Option<u32>> {
    let most = i64::from(MAX_TOP_LOGPROBS);
    if !is_chat {
        return Ok(fields.integer("logprobs", 0, most)?.map(|top| top as u32));
    }
    let wanted = fields.flag("logprobs")?.unwrap_or(false);
    match fields.integer("top_logprobs", 0, most)? {
        Some(top) if top > 0 && !wanted => Err(needs(fields, "top_logprobs", "logprobs")),
        top => Ok(wanted.then_some(top.unwrap_or(0) as u32)),
    }
}

fn stop(fields: &mut Fields) -> Parsed<Option<Vec<String>>> {
    let must = format!("a string or a list of at most {MAX_STOPS} strings of 1 to {MAX_STOP_BYTES} bytes");
    let stops = match fields.take("stop") {
        None => return Ok(None),
        Some(Value::String(stop)) => vec![stop],
        Some(Value::Array(list)) => {
            let texts: Option<Vec<String>> = list.iter().map(|stop| stop.as_str().map(str::to_owned)).collect();
            texts.ok_or_else(|| fields.invalid("stop", &must))?
        }
        Some(_) => return Err(fields.invalid("stop", must)),
    };
    let sound = stops.len() <= MAX_STOPS && stops.iter().all(|stop| (1..=MAX_STOP_BYTES).contains(&stop.len()));
    if sound { Ok(Some(stops)) } else { Err(fields.invalid("stop", must)) }
}

fn stream_options(fields: &mut Fields, stream: bool) -> Parsed<bool> {
    match fields.take("stream_options") {
        None => Ok(false),
        Some(_) if !stream => Err(needs(fields, "stream_options", "stream")),
        Some(value) => {
            let mut options = Fields::of(value, &fields.name("stream_options"))?;
            let usage = options.flag("include_usage")?.unwrap_or(false);
            options.finish()?;
            Ok(usage)
        }
    }
}

fn needs(fields: &Fields, field: &str, flag: &str) -> OpenAiError {
    let name = fields.name(field);
    OpenAiError::invalid(&name, format!("{name} needs {flag}: true"))
}

/// Removes what asks for nothing that is not done anyway.
fn neutral(fields: &mut Fields, is_chat: bool) -> Parsed<()> {
    fields.neutral("store", |value| value.as_bool() == Some(false))?;
    fields.neutral("metadata", is_empty)?;
    fields.neutral("service_tier", |value| matches!(value.as_str(), Some("auto" | "default")))?;
    if !is_chat {
        fields.neutral("best_of", |value| value.as_u64() == Some(1))?;
        fields.neutral("echo", |value| value.as_bool() == Some(false))?;
        fields.neutral("suffix", |value| value.as_str() == Some(""))?;
    }
    Ok(())
}

fn is_empty(value: &Value) -> bool {
    value.as_object().is_some_and(Map::is_empty) || value.as_array().is_some_and(Vec::is_empty)
}

#[cfg(test)]
mod tests;
