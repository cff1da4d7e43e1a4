//! A decoder's `tokenizer.json`, as the metadata of a GGUF file: byte-level BPE with a pre-tokenizer that the engine knows by name.

use std::collections::{BTreeMap, HashMap};

use serde::Deserialize;
use serde_json::Value as Json;

use super::bundle::{Bundle, CHAT_TEMPLATE, TOKENIZER, TOKENIZER_CONFIG};
use super::config::{Ids, Published};
use crate::LoadError;
use crate::config::{ConfigError, json};
use crate::gguf::Value;
use crate::text::{CONTROL, LLAMA_WORDS, NORMAL, QWEN_WORDS, UNUSED, USER_DEFINED};

/// The largest vocabulary, as everywhere in the engine.
const MAX_WORDS: u64 = 1 << 22;

#[derive(Deserialize)]
struct Tokenizer {
    #[serde(default)]
    added_tokens: Vec<Added>,
    normalizer: Option<Json>,
    pre_tokenizer: Option<Json>,
    model: Bpe,
}

#[derive(Deserialize)]
struct Added {
    id: u64,
    content: String,
    #[serde(default)]
    special: bool,
}

#[derive(Deserialize)]
struct Bpe {
    #[serde(rename = "type")]
    kind: Option<String>,
    #[serde(default)]
    byte_fallback: bool,
    vocab: HashMap<String, u64>,
    merges: Vec<Merge>,
}

/// As one text until tokenizers 0.20, as two since.
#[derive(Deserialize)]
#[serde(untagged)]
enum Merge {
    Text(String),
    Pair(String, String),
}

#[derive(Deserialize, Default)]
struct Additions {
    add_bos_token: Option<bool>,
    chat_template: Option<Template>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Template {
    One(String),
    Named(Vec<NamedTemplate>),
}

#[derive(Deserialize)]
struct NamedTemplate {
    name: String,
    template: String,
}

pub(super) fn metadata(bundle: &Bundle, config: &Published) -> Result<BTreeMap<String, Value>, LoadError> {
    let tokenizer: Tokenizer = json(TOKENIZER, bundle.text(TOKENIZER)?)?;
    let additions = bundle.optional(TOKENIZER_CONFIG).map(|text| json::<Additions>(TOKENIZER_CONFIG, text));
    let additions = additions.transpose()?.unwrap_or_default();
    let mut metadata = tokenizer.metadata(config.vocab_size)?;
    let mut set = |key: &str, value| metadata.insert(format!("tokenizer.{key}"), value);
    let ends = match config.eos_token_id.clone() {
        None => Vec::new(),
        Some(Ids::One(id)) => vec![id],
        Some(Ids::Several(ids)) => ids,
    };
    let keys = ["ggml.eos_token_id", "ggml.eot_token_id", "ggml.eom_token_id"];
    for (key, id) in keys.into_iter().zip(ends).chain(config.bos_token_id.map(|id| ("ggml.bos_token_id", id))) {
        set(key, Value::Int(id.into()));
    }
    if let Some(add) = additions.add_bos_token {
        set("ggml.add_bos_token", Value::Bool(add));
    }
    let in_file = bundle.optional(CHAT_TEMPLATE).map(|text| String::from_utf8_lossy(text).into_owned());
    let template = in_file.or_else(|| match additions.chat_template? {
        Template::One(template) => Some(template),
        Template::Named(all) => all.into_iter().find(|named| named.name == "default").map(|named| named.template),
    });
    if let Some(template) = template {
        set("chat_template", Value::String(template));
    }
    Ok(metadata)
}

impl Tokenizer {
    fn metadata(self, words: u64) -> Result<BTreeMap<String, Value>, ConfigError> {
        let unsupported = |what: &str| ConfigError::Unsupported(format!("{what}; a GGUF file of the model may do"));
        if self.model.kind.as_deref().is_some_and(|kind| kind != "BPE") || self.model.byte_fallback {
            return Err(unsupported("a tokenizer.json that is not byte-level BPE"));
        }
        // Text is tokenized as it is, as llama.cpp does: what is not in normal form gets other tokens than by Hugging Face.
        let nfc = |normalizer: &Json| normalizer["type"] == "NFC";
        if self.normalizer.as_ref().is_some_and(|normalizer| !nfc(normalizer)) {
            return Err(unsupported("a tokenizer.json with a normalizer other than NFC"));
        }
        let name = self.pre_tokenizer.as_ref().and_then(pre_tokenizer);
        let name =
            name.ok_or_else(|| unsupported("a tokenizer.json with a pre-tokenizer that this engine does not know"))?;
        if words > MAX_WORDS {
            return Err(ConfigError::Value { what: "vocabulary size", value: words.to_string() });
        }
        let mut tokens: Vec<(String, i32)> = (0..words).map(|id| (format!("[PAD{id}]"), UNUSED)).collect();
        let normal = self.model.vocab.into_iter().map(|(text, id)| (id, text, NORMAL));
        let added = self.added_tokens.into_iter();
        let added =
            added.map(|Added { id, content, special }| (id, content, if special { CONTROL } else { USER_DEFINED }));
        for (id, text, kind) in normal.chain(added) {
            let place = usize::try_from(id).ok().and_then(|id| tokens.get_mut(id));
            *place.ok_or(ConfigError::Value { what: "number of a token", value: id.to_string() })? = (text, kind);
        }
        let merges: Vec<String> = self.model.merges.into_iter().map(Merge::text).collect();
        let strings = |texts: &mut dyn Iterator<Item = &str>| Value::Strings(texts.collect());
        Ok(BTreeMap::from([
            ("tokenizer.ggml.model".to_owned(), Value::String("gpt2".to_owned())),
            ("tokenizer.ggml.pre".to_owned(), Value::String(name.to_owned())),
            ("tokenizer.ggml.tokens".to_owned(), strings(&mut tokens.iter().map(|(text, _)| text.as_str()))),
            ("tokenizer.ggml.token_type".to_owned(), Value::Ints(tokens.iter().map(|(_, kind)| *kind).collect())),
            ("tokenizer.ggml.merges".to_owned(), strings(&mut merges.iter().map(String::as_str))),
        ]))
    }
}

impl Merge {
    fn text(self) -> String {
        match self {
            Self::Text(text) => text,
            Self::Pair(a, b) => format!("{a} {b}"),
        }
    }
}

/// The name that llama.cpp has for a pre-tokenizer.
fn pre_tokenizer(published: &Json) -> Option<&'static str> {
    let parts = match published["pretokenizers"].as_array() {
        Some(parts) => parts.iter().collect::<Vec<_>>(),
        None => vec![published],
    };
    let byte_level =
        |part: &Json, cuts: bool| part["type"] == "ByteLevel" && part["use_regex"].as_bool().unwrap_or(true) == cuts;
    match parts.as_slice() {
        [only] if byte_level(only, true) => Some("gpt-2"),
        [digits, rest]
            if digits["type"] == "Digits" && digits["individual_digits"] == true && byte_level(rest, true) =>
        {
            Some("smollm")
        }
        [split, rest] if split["type"] == "Split" && split["behavior"] == "Isolated" && byte_level(rest, false) => {
            match split["pattern"]["Regex"].as_str()? {
                LLAMA_WORDS => Some("llama-bpe"),
                QWEN_WORDS => Some("qwen2"),
                _ => None,
            }
        }
        _ => None,
    }
}
