use std::collections::BTreeMap;

use proptest::prelude::*;
use serde_json::{Map, Value, json};

use super::*;
use crate::gguf::{self, Header};
use xdc_grid_exact::sampler::TokenMask;

/// GGUF's token types.
const NORMAL: i32 = 1;
const CONTROL: i32 = 3;
const BYTE: i32 = 6;
/// The token that ends an answer.
pub(crate) const END: u32 = 1;
/// A control token whose name would fit into any object.
const TRAP: u32 = 2;
/// The token of byte 0, the others after it.
const BYTES: u32 = 3;
/// Words of several bytes, and some that are the same as others.
const WORDS: [&str; 22] = [
    "{\"",
    "\":",
    " \"",
    "\"}",
    ", \"",
    "true",
    "tru",
    "null",
    "[[",
    "]}",
    "12",
    "-1",
    "\"a",
    "a",
    "é",
    "\u{20ac}",
    "    ",
    "\n",
    "\n  ",
    "0.5",
    "\\u",
    "name\": \"",
];

fn tokenizer(model: &str, tokens: Vec<(String, i32)>) -> Arc<Tokenizer> {
    let mut metadata = BTreeMap::new();
    let mut set = |key: &str, value| metadata.insert(format!("tokenizer.ggml.{key}"), value);
    set("model", gguf::Value::String(model.into()));
    set("tokens", gguf::Value::Strings(tokens.iter().map(|(name, _)| name.as_str()).collect()));
    set("scores", gguf::Value::Floats(vec![0.0; tokens.len()]));
    set("token_type", gguf::Value::Ints(tokens.iter().map(|(_, kind)| *kind).collect()));
    set("merges", gguf::Value::Strings(std::iter::empty::<&str>().collect()));
    set("pre", gguf::Value::String("gpt-2".into()));
    set("eos_token_id", gguf::Value::Int(END.into()));
    Arc::new(Tokenizer::from_header(&Header { metadata, ..Header::default() }, 4096).unwrap())
}

fn controls() -> Vec<(String, i32)> {
    ["<s>", "<end>", "{\"a\":"].map(|name| (name.to_owned(), CONTROL)).into()
}

/// A SentencePiece vocabulary: the bytes and some words.
fn sentence_piece(words: &[&str]) -> Arc<Tokenizer> {
    let mut tokens = controls();
    tokens.extend((0..=255u8).map(|byte| (format!("<0x{byte:02X}>"), BYTE)));
    tokens.extend(words.iter().map(|word| (word.replace(' ', "▁"), NORMAL)));
    tokenizer("llama", tokens)
}

/// The same as byte-level BPE spells it.
fn byte_level(words: &[&str]) -> Arc<Tokenizer> {
    let mut next = 255;
    let names: Vec<char> = (0..=255u8)
        .map(|byte| match byte {
            b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff => char::from(byte),
            _ => {
                next += 1;
                char::from_u32(next).unwrap()
            }
        })
        .collect();
    let mut tokens = controls();
    tokens.extend(names.iter().map(|name| (name.to_string(), NORMAL)));
    let spelled = |word: &&str| (word.bytes().map(|byte| names[usize::from(byte)]).collect::<String>(), NORMAL);
    tokens.extend(words.iter().map(spelled));
    tokenizer("gpt2", tokens)
}

/// A vocabulary of bytes and words, for tests of what uses forms.
pub(crate) fn vocabulary() -> Arc<Tokenizer> {
    sentence_piece(&WORDS)
}

fn schema(schema: &Value) -> TextForm {
    TextForm::JsonSchema(schema.to_string())
}

async fn begin(forms: &Forms, form: &TextForm) -> FormState {
    forms.begin(None, form).await.unwrap().unwrap()
}

fn allowed(state: &mut FormState) -> TokenMask {
    state.prepare().unwrap();
    state.allowed().unwrap().clone()
}

/// Whether a value fits.
type Fits = fn(&Value) -> bool;

/// Forms whose texts end soon, with what holds of each.
fn forms() -> Vec<(TextForm, Fits)> {
    let forms: [(TextForm, Fits); 5] = [
        (schema(&json!({"type": "integer", "minimum": -5, "maximum": 40})), |v| {
            // Also -0, which is a whole number.
            v.as_f64().is_some_and(|n| n.fract() == 0.0 && (-5.0..=40.0).contains(&n))
        }),
        (schema(&json!({"enum": ["aa", "é€", 12, null, true, {"a": [1]}]})), |v| {
            [json!("aa"), json!("é€"), json!(12), json!(null), json!(true), json!({"a": [1]})].contains(v)
        }),
        (
            schema(&json!({
                "type": "object",
                "properties": {"name": {"type": "string", "maxLength": 4}, "a": {"type": ["boolean", "null"]}},
                "required": ["name"],
                "additionalProperties": false,
            })),
            |v| {
                let length = v["name"].as_str().map(|name| name.chars().count());
                length.is_some_and(|length| length <= 4)
                    && v.as_object().unwrap().keys().all(|key| key == "name" || key == "a")
                    && (v["a"].is_boolean() || v["a"].is_null())
            },
        ),
        (schema(&json!({"type": "array", "items": {"type": "boolean"}, "minItems": 2, "maxItems": 3})), |v| {
            v.as_array().is_some_and(|list| (2..=3).contains(&list.len()) && list.iter().all(Value::is_boolean))
        }),
        (schema(&json!({"type": "string", "pattern": "^[a-c]{2}-[0-9]$"})), |v| {
            let text = v.as_str().unwrap_or_default().as_bytes();
            text.len() == 4 && text[..2].iter().all(|c| (b'a'..=b'c').contains(c)) && text[3].is_ascii_digit()
        }),
    ];
    forms.into()
}

/// Numbers that are always the same.
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((self.0 >> 33) as usize) % bound
    }
}

/// Goes through a form by tokens drawn from those that are allowed; `look` sees the text, the state and the mask before each.
fn walk(
    tokenizer: &Tokenizer,
    start: &FormState,
    dice: &mut Dice,
    mut look: impl FnMut(&[u8], &TokenMask),
) -> Option<Vec<u8>> {
    let (mut state, mut text) = (start.another(), Vec::new());
    for _ in 0..400 {
        let mask = allowed(&mut state);
        look(&text, &mask);
        let tokens: Vec<u32> = (0..tokenizer.vocab_size() as u32).filter(|token| mask.allows(*token)).collect();
        let token = tokens[dice.below(tokens.len())];
        state.push(token).unwrap();
        text.extend_from_slice(tokenizer.bytes(token));
        if token == END || state.is_complete() {
            return Some(text);
        }
    }
    None
}

#[tokio::test]
async fn whatever_is_drawn_from_the_masks_has_the_form() {
    for tokenizer in [sentence_piece(&WORDS), byte_level(&WORDS)] {
        let forms_of = Forms::new(tokenizer.clone());
        for (form, holds) in forms() {
            let start = begin(&forms_of, &form).await;
            let mut ended = 0;
            for seed in 0..30 {
                let Some(text) = walk(&tokenizer, &start, &mut Dice(seed), |_, _| {}) else { continue };
                let text = String::from_utf8(text).unwrap();
                let value: Value = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"));
                assert!(holds(&value), "{form:?}: {text}");
                ended += 1;
            }
            assert!(ended >= 15, "{form:?}: {ended} of 30 ended");
        }
    }
}

/// The mask of words is what a vocabulary of bytes alone says, byte by byte.
#[tokio::test]
async fn a_word_is_allowed_when_each_of_its_bytes_is() {
    let bytes_only = Forms::new(sentence_piece(&[]));
    for tokenizer in [sentence_piece(&WORDS), byte_level(&WORDS)] {
        let forms_of = Forms::new(tokenizer.clone());
        for (form, _) in forms() {
            let (start, by_bytes) = (begin(&forms_of, &form).await, begin(&bytes_only, &form).await);
            walk(&tokenizer, &start, &mut Dice(7), |text, mask| {
                let mut at = by_bytes.another();
                assert!(spells(&mut at, text));
                let next = allowed(&mut at);
                for token in 0..tokenizer.vocab_size() as u32 {
                    let word = tokenizer.bytes(token);
                    let expected = match word.first() {
                        None => token == END && next.allows(END),
                        Some(byte) => next.allows(BYTES + u32::from(*byte)) && spells(&mut at.another(), word),
                    };
                    assert_eq!(mask.allows(token), expected, "{form:?}: {word:?} after {text:?}");
                }
            });
        }
    }
}

fn spells(state: &mut FormState, text: &[u8]) -> bool {
    text.iter().all(|byte| {
        let token = BYTES + u32::from(*byte);
        allowed(state).allows(token) && state.push(token).is_ok()
    })
}

#[tokio::test]
async fn control_tokens_are_no_text_and_the_end_comes_only_where_the_text_may_end() {
    let forms_of = Forms::new(sentence_piece(&WORDS));
    let mut number = begin(&forms_of, &schema(&json!({"type": "integer"}))).await;
    let byte = |byte: u8| BYTES + u32::from(byte);
    assert!(!allowed(&mut number).allows(END) && allowed(&mut number).allows(byte(b'-')));
    number.push(byte(b'-')).unwrap();
    assert!(!allowed(&mut number).allows(END));
    number.push(byte(b'7')).unwrap();
    assert!(allowed(&mut number).allows(END) && allowed(&mut number).allows(byte(b'0')) && !number.is_complete());
    number.push(END).unwrap();
    assert!(number.is_complete());
    let mut object = begin(&forms_of, &TextForm::JsonObject).await;
    let first = allowed(&mut object);
    assert!(first.allows(byte(b'{')) && !first.allows(TRAP) && !first.allows(0) && !first.allows(byte(b'[')));
}

#[tokio::test]
async fn a_text_ends_where_nothing_can_follow_and_is_given_up_where_it_leaves_the_form() {
    let forms_of = Forms::new(sentence_piece(&WORDS));
    let byte = |byte: u8| BYTES + u32::from(byte);
    let start = begin(&forms_of, &schema(&json!({"type": "object", "additionalProperties": false}))).await;
    let mut state = start.another();
    assert!(spells(&mut state, b"{}") && state.is_complete());
    let last = allowed(&mut state);
    assert_eq!((0..300).filter(|token| last.allows(*token)).collect::<Vec<_>>(), [END]);
    state.push(byte(b' ')).unwrap();
    assert!(!state.is_complete() && state.allowed().is_none());
    let mut state = start.another();
    allowed(&mut state);
    state.push(byte(b'x')).unwrap();
    state.prepare().unwrap();
    assert!(state.allowed().is_none());
    // Neither has moved the beginning.
    assert!(allowed(&mut start.another()).allows(byte(b'{')));
}

#[tokio::test]
async fn white_space_is_bounded_and_options_of_strangers_have_no_effect() {
    let forms_of = Forms::new(sentence_piece(&WORDS));
    let list =
        json!({"type": "array", "items": {"type": "integer"}, "x-guidance": {"item_separator": "!", "lenient": true}});
    let start = begin(&forms_of, &schema(&list)).await;
    let deep = format!("[\n{}1]", " ".repeat(24));
    for text in ["[1,2]", "[ 1,\n\t2 ]", &deep] {
        let mut state = start.another();
        assert!(spells(&mut state, text.as_bytes()) && state.is_complete(), "{text:?}");
    }
    for text in ["[1!", "[\n\n", "[          1", " [", "[1] "] {
        assert!(!spells(&mut start.another(), text.as_bytes()), "{text:?}");
    }
}

#[tokio::test]
async fn masks_do_not_depend_on_who_compiled_them() {
    let tokenizer = byte_level(&WORDS);
    let (ours, theirs) = (Forms::new(tokenizer.clone()), Forms::new(tokenizer.clone()));
    for (form, _) in forms() {
        let (ours, theirs) = (begin(&ours, &form).await, begin(&theirs, &form).await);
        for seed in 0..4 {
            let (mut a, mut b) = (Vec::new(), Vec::new());
            let text = walk(&tokenizer, &ours, &mut Dice(seed), |_, mask| a.push(mask.clone()));
            assert_eq!(text, walk(&tokenizer, &theirs, &mut Dice(seed), |_, mask| b.push(mask.clone())));
            assert_eq!(a, b);
        }
    }
}

#[tokio::test]
async fn compiled_forms_are_kept_for_the_tenant_that_asked() {
    let forms_of = Forms::new(vocabulary());
    let (a, b) = (Tenant::of(b"a"), Tenant::of(b"b"));
    forms_of.begin(Some(a), &TextForm::JsonObject).await.unwrap();
    forms_of.begin(None, &schema(&json!({"type": "null"}))).await.unwrap();
    assert!(forms_of.inner.kept(a, &TextForm::JsonObject).is_some());
    assert!(forms_of.inner.kept(b, &TextForm::JsonObject).is_none());
    assert_eq!(forms_of.inner.kept.lock().unwrap().len(), 1);
    let kept = forms_of.begin(Some(a), &TextForm::JsonObject).await.unwrap();
    assert_eq!(allowed(&mut kept.unwrap()), allowed(&mut begin(&forms_of, &TextForm::JsonObject).await));
    for most in 0..2 * KEPT {
        forms_of.begin(Some(b), &schema(&json!({"maximum": most}))).await.unwrap();
    }
    assert_eq!(forms_of.inner.kept.lock().unwrap().len(), KEPT);
    assert_eq!(forms_of.begin(None, &TextForm::Free).await.map(|form| form.is_none()), Ok(true));
}

#[tokio::test]
async fn one_schema_is_compiled_at_a_time_and_the_others_come_back() {
    let forms_of = Forms { waiting_time: Duration::from_millis(20), ..Forms::new(vocabulary()) };
    let _turn = forms_of.turn.clone().acquire_owned().await.unwrap();
    let outcome = forms_of.begin(None, &TextForm::JsonObject).await.map(drop);
    assert!(matches!(outcome, Err(AdmissionError::Busy { .. })), "{outcome:?}");
}

#[tokio::test]
async fn a_model_whose_answers_cannot_end_keeps_to_no_form() {
    let mut metadata = BTreeMap::new();
    let mut set = |key: &str, value| metadata.insert(format!("tokenizer.ggml.{key}"), value);
    set("model", gguf::Value::String("llama".into()));
    set("tokens", gguf::Value::Strings(["{", "}"].into_iter().collect()));
    set("scores", gguf::Value::Floats(vec![0.0; 2]));
    let tokenizer = Tokenizer::from_header(&Header { metadata, ..Header::default() }, 16).unwrap();
    let outcome = Forms::new(Arc::new(tokenizer)).begin(None, &TextForm::JsonObject).await.map(drop);
    assert_eq!(outcome, Err(AdmissionError::Form(FormError::NoEnd)));
}

/// A chain of references, each from deep inside of the one before.
fn chain(links: usize, levels: usize) -> Value {
    let inside = |value: Value| (0..levels).fold(value, |inner, _| json!({"items": inner}));
    let link = |n: usize| (n.to_string(), inside(json!({"$ref": format!("#/$defs/{}", n + 1)})));
    let mut links: Map<String, Value> = (0..links).map(link).collect();
    links.insert(links.len().to_string(), json!({"type": "null"}));
    json!({"$defs": links, "$ref": "#/$defs/0"})
}

fn hostile() -> Vec<Value> {
    let strings = |count: usize| (0..count).map(|n| json!(format!("{n:050}"))).collect::<Value>();
    let optional: Map<String, Value> = (0..1_000).map(|n| (format!("p{n}"), json!({"type": "integer"}))).collect();
    let any_of = |count: usize| json!({"anyOf": (0..count).map(|n| json!({"minLength": n})).collect::<Value>()});
    let objects = |n: usize| json!({"type": "object", "properties": {format!("p{n}"): {"type": "string"}}});
    let one_of = (0..200).map(objects).collect::<Value>();
    let nested_one_of = (0..8)
        .fold(json!({"type": "null"}), |inner, n| json!({"oneOf": [inner, {"const": n}, {"items": {"const": n}}]}));
    let mut all = vec![
        chain(500, 10),
        (0..60).fold(json!({}), |inner, _| json!({"type": "array", "items": inner})),
        (0..30).fold(json!({}), |inner, _| json!({"anyOf": [inner, {"type": "null"}]})),
        json!({"enum": strings(1_000)}),
        json!({"type": "object", "properties": optional}),
        json!({"allOf": (0..7).map(|_| any_of(12)).collect::<Value>()}),
        json!({"oneOf": one_of}),
        json!({"type": "string", "allOf": (0..200).map(|n| json!({"pattern": format!("a.*{n}.*b")})).collect::<Value>()}),
        nested_one_of,
        json!({"type": "array", "minItems": 1_000_000_000_000u64}),
        json!({"type": "array", "maxItems": u64::MAX, "items": {"type": "array", "minItems": 77_777}}),
        json!({"type": "string", "minLength": 100_000_000}),
        json!({"type": "string", "maxLength": u64::MAX}),
        json!({"type": "integer", "multipleOf": 4_294_967_291u64}),
        json!({"type": "number", "multipleOf": 1e-300, "minimum": -1e308, "maximum": 1e308}),
        json!({"allOf": [{"multipleOf": 4_294_967_291u64}, {"multipleOf": 4_294_967_279u64}]}),
        json!({"patternProperties": {"(a|b)*c{50}": {}, "(b|a)*c{60}": {}, "^.{1000}$": {}}}),
        json!({"$ref": "#"}),
        json!({"allOf": [{"$ref": "#"}]}),
        json!({"$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}, "$ref": "#/$defs/a"}),
        json!({"$defs": {"a": {"type": "array", "items": {"$ref": "#/$defs/a"}, "minItems": 2}}, "$ref": "#/$defs/a"}),
        json!({"minimum": "é".repeat(200)}),
        json!({"type": 5}),
        json!({"enum": []}),
        json!({"required": "x"}),
        json!({"properties": []}),
        json!({"$ref": "http://localhost/x"}),
        json!({"format": "nope"}),
        json!({"not": {}}),
        json!({"type": "string", "enum": [1]}),
    ];
    for pattern in [
        "(a+)+$",
        "^(([a-z])+.)+[A-Z]([a-z])+$",
        "(.*a){30}",
        "(x+x+)+y",
        "a{1000}{1000}{1000}",
        "(?=a)b",
        "(a)\\1",
        "\\p{L}{500}",
        "[",
        "(a|aa)*b.{200}",
        "^(.*){1000}$",
        "(((((((((a*)*)*)*)*)*)*)*)*)*b",
    ] {
        all.push(json!({"type": "string", "pattern": pattern}));
        all.push(json!({"type": "object", "patternProperties": {pattern: {"type": "string", "pattern": pattern}}}));
    }
    all
}

#[tokio::test]
async fn hostile_schemas_are_refused_or_served_within_bounds() {
    let tokenizer = vocabulary();
    let forms_of = Forms::new(tokenizer.clone());
    let mut refused = 0;
    for schema_of in hostile() {
        let text = schema_of.to_string().chars().take(80).collect::<String>();
        let outcome = tokio::time::timeout(Duration::from_secs(120), forms_of.begin(None, &schema(&schema_of))).await;
        match outcome.unwrap_or_else(|_| panic!("no outcome for {text}")) {
            Ok(Some(mut state)) => {
                let mut dice = Dice(1);
                for _ in 0..60 {
                    if state.prepare().is_err() || state.is_complete() {
                        break;
                    }
                    let mask = state.allowed().unwrap();
                    let tokens: Vec<u32> =
                        (0..tokenizer.vocab_size() as u32).filter(|token| mask.allows(*token)).collect();
                    if state.push(tokens[dice.below(tokens.len())]).is_err() {
                        break;
                    }
                }
            }
            Err(AdmissionError::Form(error)) => {
                let message = error.to_string();
                assert!(
                    message.len() < 500 && !message.contains("panic") && !message.contains('\n'),
                    "{text}: {message}"
                );
                refused += 1;
            }
            other => panic!("{text}: {:?}", other.map(|state| state.is_some())),
        }
    }
    assert!(refused >= 10, "{refused}");
}

fn anything() -> impl Strategy<Value = Value> {
    let keyword = prop::sample::select(vec![
        "type",
        "properties",
        "items",
        "enum",
        "const",
        "anyOf",
        "oneOf",
        "allOf",
        "$ref",
        "$defs",
        "required",
        "minItems",
        "maxItems",
        "pattern",
        "format",
        "minimum",
        "additionalProperties",
        "prefixItems",
        "x",
        "$id",
        "$schema",
    ]);
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        (-3i64..200).prop_map(Value::from),
        prop::sample::select(vec!["string", "object", "array", "integer", "#", "#/$defs/x", "[a-z]+", "date", "é"])
            .prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 24, 4, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::vec((keyword.clone(), inner), 0..5).prop_map(|members| {
                Value::Object(members.into_iter().map(|(key, value)| (key.to_owned(), value)).collect())
            }),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn no_schema_breaks_the_compiler(schema_of in anything()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let outcome = runtime.block_on(Forms::new(vocabulary()).begin(None, &schema(&schema_of)));
        prop_assert!(matches!(outcome, Ok(Some(_)) | Err(AdmissionError::Form(_))), "{:?}", outcome.err());
    }
}

#[test]
fn the_profile_names_the_grammar_crate_that_is_built_in() {
    let lock = include_str!("../../../Cargo.lock");
    let version = |name: &str| {
        let package = lock.split("[[package]]").find(|package| package.contains(&format!("name = \"{name}\"\n")));
        let line = package.and_then(|package| package.lines().find_map(|line| line.strip_prefix("version = ")));
        line.unwrap_or_default().trim_matches('"')
    };
    let (_, named) = FORM_PROFILE.split_once("-llguidance").unwrap();
    assert_eq!(named, version("llguidance"), "FORM_PROFILE must name the new version");
    // Masks and bounds rest on these, too: raise the number in FORM_PROFILE with another version of them, then the version here.
    assert_eq!((version("derivre"), version("toktrie")), ("0.3.13", "1.9.1"));
}

#[tokio::test]
async fn alternatives_that_nobody_sees_exclude_one_another_are_refused_with_what_to_do() {
    let forms_of = Forms::new(vocabulary());
    let part = |kind: &str| json!({"type": "object", "properties": {"kind": {"const": kind}}, "required": ["kind"]});
    let defs = json!({"a": part("a"), "b": part("b")});
    let by_reference = json!({"oneOf": [{"$ref": "#/$defs/a"}, {"$ref": "#/$defs/b"}], "$defs": defs});
    let refused = forms_of.begin(None, &schema(&by_reference)).await.map(drop).unwrap_err().to_string();
    assert!(refused.contains("not behind a $ref; or use anyOf"), "{refused}");
    assert!(forms_of.begin(None, &schema(&json!({"oneOf": [part("a"), part("b")]}))).await.is_ok());
    let any_of = json!({"anyOf": by_reference["oneOf"], "$defs": by_reference["$defs"]});
    assert!(forms_of.begin(None, &schema(&any_of)).await.is_ok());
}
