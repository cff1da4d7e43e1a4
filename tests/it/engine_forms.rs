//! Do answers of the real model have the form that was asked for, whatever the seed, and can an auditor derive it again?

use std::sync::OnceLock;
use std::time::Duration;

use futures::future::join_all;
use serde_json::{Value, json};
use tokio::sync::mpsc::Receiver;
use xdc_grid::inference::{
    AdmissionError, ChatMessage, Engine, EngineConfig, FinishReason, GenerateEvent, GenerateRequest, ReplayRequest,
    Tenant,
};
use xdc_grid::verify::sampler::{MARGIN_CAP, SamplerParams, TextForm};

use crate::engine::model_path;

const WARM: SamplerParams = SamplerParams::new(1.0, 1.0, 0);
const SEEDS: u8 = 3;

fn engine() -> &'static Engine {
    static ENGINE: OnceLock<Engine> = OnceLock::new();
    ENGINE.get_or_init(|| {
        let config = EngineConfig { threads: 2, max_sequences: 8, max_queue: 256, ..EngineConfig::default() };
        Engine::load(&model_path(), EngineConfig { kv_budget_bytes: 384 << 20, ..config }).unwrap()
    })
}

fn prompt(question: &str) -> Vec<u32> {
    let message = |role: &str, content: &str| ChatMessage { role: role.into(), content: content.into() };
    let messages = [message("system", "You are a helpful assistant."), message("user", question)];
    engine().render_chat(&messages).unwrap()
}

fn form(schema: &Value) -> TextForm {
    TextForm::JsonSchema(schema.to_string())
}

fn request(form: TextForm, seed: u8, max_tokens: u32) -> GenerateRequest {
    GenerateRequest {
        prompt: prompt("Make something up and say it in JSON."),
        max_tokens,
        sampling: SamplerParams { form, ..WARM },
        seed: [seed; 32],
        ..GenerateRequest::default()
    }
}

#[derive(Debug, Default, PartialEq)]
struct Answer {
    ids: Vec<u32>,
    text: String,
    finish: Option<FinishReason>,
    root: [u8; 32],
}

async fn collect(mut events: Receiver<GenerateEvent>) -> Answer {
    let next = || Duration::from_secs(300);
    while let Some(event) = tokio::time::timeout(next(), events.recv()).await.expect("an event within five minutes") {
        match event {
            GenerateEvent::Token { .. } => {}
            GenerateEvent::Done { finish, output_ids, text, trace_root, .. } => {
                return Answer { ids: output_ids, text, finish: Some(finish), root: trace_root };
            }
            event => panic!("{event:?}"),
        }
    }
    panic!("the stream ended without Done")
}

async fn generate(request: GenerateRequest) -> Answer {
    collect(engine().generate(request).await.unwrap()).await
}

fn replay(request: &GenerateRequest, output: Vec<u32>) -> ReplayRequest {
    let GenerateRequest { prompt, sampling, seed, .. } = request.clone();
    ReplayRequest { prompt, output, sampling, seed, top_logprobs: None }
}

/// Schemas of every kind that is common, and some that are not.
fn schemas() -> Vec<Value> {
    let object = |properties: Value, required: &[&str]| json!({"type": "object", "properties": properties, "required": required, "additionalProperties": false});
    let short = json!({"type": "string", "maxLength": 12});
    vec![
        object(json!({"name": short, "age": {"type": "integer", "minimum": 0, "maximum": 130}}), &["name", "age"]),
        object(
            json!({"city": object(json!({"name": short, "at": object(json!({"x": {"type": "integer", "minimum": -9, "maximum": 9}}), &["x"])}), &["name", "at"])}),
            &["city"],
        ),
        object(
            json!({"colour": {"enum": ["red", "green", "blue"]}, "size": {"enum": [1, 2.5, null, true]}}),
            &["colour", "size"],
        ),
        json!({"type": "array", "items": {"type": "integer", "minimum": 10, "maximum": 99}, "minItems": 2, "maxItems": 4}),
        json!({
            "$defs": {"tree": object(json!({"value": {"type": "integer", "minimum": 0, "maximum": 9}, "children": {"type": "array", "items": {"$ref": "#/$defs/tree"}, "maxItems": 1}}), &["value"])},
            "$ref": "#/$defs/tree",
        }),
        json!({
            "$defs": {"list": {"anyOf": [{"type": "null"}, object(json!({"head": {"type": "boolean"}, "tail": {"$ref": "#/$defs/list"}}), &["head", "tail"])]}},
            "type": "object", "properties": {"list": {"$ref": "#/$defs/list"}}, "required": ["list"], "additionalProperties": false,
        }),
        object(
            json!({"größe": {"enum": ["groß", "klein"]}, "名前": {"enum": ["東京", "😀 \"quoted\" \\ / \u{1}", "été"]}}),
            &["größe", "名前"],
        ),
        json!({"anyOf": [{"type": "integer", "minimum": 0, "maximum": 999}, {"type": "boolean"}, {"type": "array", "items": {"const": "x"}, "maxItems": 2}]}),
        object(json!({"version": {"const": "1.0"}, "kind": {"const": {"a": [1, 2]}}}), &["version", "kind"]),
        object(json!({"code": {"type": "string", "pattern": "^[A-Z]{2}-[0-9]{3}$"}}), &["code"]),
        object(json!({"day": {"type": "string", "format": "date"}}), &["day"]),
        object(json!({"id": {"type": "string", "format": "uuid"}}), &["id"]),
        json!({"type": "integer", "minimum": -1000, "maximum": -17}),
        json!({"type": "integer", "exclusiveMinimum": 100, "exclusiveMaximum": 1000, "multipleOf": 25}),
        object(json!({"a": {"type": ["boolean", "null"]}, "b": {"type": "null"}}), &["a", "b"]),
        json!({"type": "array", "prefixItems": [{"enum": ["N", "S"]}, {"type": "integer", "minimum": 0, "maximum": 90}], "items": false, "minItems": 2}),
        json!({"allOf": [
            {"type": "object", "properties": {"a": {"type": "integer", "minimum": 3, "maximum": 50}}, "required": ["a"]},
            {"type": "object", "properties": {"a": {"maximum": 7}, "b": {"type": "boolean"}}, "required": ["b"], "additionalProperties": false},
        ]}),
        json!({"type": "object", "additionalProperties": {"type": "boolean"}, "propertyOrder": 1, "minProperties": 1, "maxProperties": 2}),
        json!({"type": "object", "patternProperties": {"^x_[a-z]{1,3}$": {"type": "integer", "minimum": 0, "maximum": 9}}, "additionalProperties": false, "maxProperties": 2}),
        json!({"type": "string", "minLength": 3, "maxLength": 9}),
        object(json!({"a": {"type": "boolean"}, "b": {"type": "boolean"}, "c": {"type": "boolean"}}), &["b"]),
        json!({"oneOf": [
            object(json!({"kind": {"const": "cat"}, "lives": {"type": "integer", "minimum": 1, "maximum": 9}}), &["kind", "lives"]),
            object(json!({"kind": {"const": "dog"}, "good": {"const": true}}), &["kind", "good"]),
        ]}),
        json!({"type": "array", "items": {"type": "array", "items": {"enum": [0, 1]}, "minItems": 2, "maxItems": 2}, "minItems": 2, "maxItems": 2}),
        object(json!({}), &[]),
    ]
}

/// Whether a value fits a schema: the keywords above, read straight from the standard.
fn fits(root: &Value, schema: &Value, value: &Value) -> bool {
    let Some(schema) = schema.as_object() else { return schema != &json!(false) };
    schema.iter().all(|(keyword, wanted)| keyword_fits(root, &Value::Object(schema.clone()), keyword, wanted, value))
}

fn keyword_fits(root: &Value, schema: &Value, keyword: &str, wanted: &Value, value: &Value) -> bool {
    let each = |wanted: &Value| wanted.as_array().unwrap().clone();
    let number = |compare: fn(f64, f64) -> bool| value.as_f64().is_none_or(|n| compare(n, wanted.as_f64().unwrap()));
    let count = |count: Option<usize>, compare: fn(usize, usize) -> bool| {
        count.is_none_or(|count| compare(count, wanted.as_u64().unwrap() as usize))
    };
    let (list, members) = (value.as_array(), value.as_object());
    let length = value.as_str().map(|text| text.chars().count());
    match keyword {
        "$ref" => fits(root, root.pointer(wanted.as_str().unwrap().trim_start_matches('#')).unwrap(), value),
        "type" if wanted.is_array() => each(wanted).iter().any(|kind| is_of(kind, value)),
        "type" => is_of(wanted, value),
        "enum" => each(wanted).contains(value),
        "const" => wanted == value,
        "anyOf" => each(wanted).iter().any(|schema| fits(root, schema, value)),
        "allOf" => each(wanted).iter().all(|schema| fits(root, schema, value)),
        "oneOf" => each(wanted).iter().filter(|schema| fits(root, schema, value)).count() == 1,
        "minimum" => number(|n, bound| n >= bound),
        "maximum" => number(|n, bound| n <= bound),
        "exclusiveMinimum" => number(|n, bound| n > bound),
        "exclusiveMaximum" => number(|n, bound| n < bound),
        "multipleOf" => number(|n, bound| n % bound == 0.0),
        "minLength" => count(length, |count, bound| count >= bound),
        "maxLength" => count(length, |count, bound| count <= bound),
        "minItems" => count(list.map(Vec::len), |count, bound| count >= bound),
        "maxItems" => count(list.map(Vec::len), |count, bound| count <= bound),
        "minProperties" => count(members.map(|members| members.len()), |count, bound| count >= bound),
        "maxProperties" => count(members.map(|members| members.len()), |count, bound| count <= bound),
        "pattern" | "format" => value.as_str().is_none_or(|text| looks(wanted.as_str().unwrap(), text)),
        "required" => {
            members.is_none_or(|members| each(wanted).iter().all(|name| members.contains_key(name.as_str().unwrap())))
        }
        "properties" | "patternProperties" | "additionalProperties" => members
            .is_none_or(|members| members.iter().all(|(name, value)| fits(root, &of_member(schema, name), value))),
        "prefixItems" | "items" => list.is_none_or(|list| {
            let first = schema["prefixItems"].as_array().cloned().unwrap_or_default();
            let of = |at: usize| first.get(at).or_else(|| schema.get("items")).cloned().unwrap_or(json!({}));
            list.iter().enumerate().all(|(at, value)| fits(root, &of(at), value))
        }),
        "$defs" | "propertyOrder" => true,
        other => panic!("this test does not know {other}"),
    }
}

fn of_member(schema: &Value, name: &str) -> Value {
    let named = schema["properties"].get(name);
    let patterns = schema["patternProperties"].as_object();
    let by_pattern = patterns.and_then(|patterns| patterns.iter().find(|(pattern, _)| looks(pattern, name)));
    let found = named.or(by_pattern.map(|(_, schema)| schema)).or(schema.get("additionalProperties"));
    found.cloned().unwrap_or(json!({}))
}

fn is_of(kind: &Value, value: &Value) -> bool {
    match kind.as_str().unwrap() {
        "null" => value.is_null(),
        "boolean" => value.is_boolean(),
        "integer" => value.as_f64().is_some_and(|n| n.fract() == 0.0),
        "number" => value.is_number(),
        "string" => value.is_string(),
        "array" => value.is_array(),
        "object" => value.is_object(),
        other => panic!("no type {other}"),
    }
}

/// The patterns and formats above, by hand.
fn looks(pattern: &str, text: &str) -> bool {
    let shape: String = text
        .chars()
        .map(|c| match c {
            '0'..='9' => '9',
            'A'..='Z' => 'A',
            'a'..='z' => 'a',
            c => c,
        })
        .collect();
    match pattern {
        "^[A-Z]{2}-[0-9]{3}$" => shape == "AA-999",
        "^x_[a-z]{1,3}$" => text.starts_with("x_") && ["a_a", "a_aa", "a_aaa"].contains(&shape.as_str()),
        "date" => {
            let part = |range: std::ops::Range<usize>| text.get(range).and_then(|part| part.parse::<u32>().ok());
            shape == "9999-99-99"
                && part(5..7).is_some_and(|month| (1..=12).contains(&month))
                && part(8..10).is_some_and(|day| (1..=31).contains(&day))
        }
        "uuid" => {
            let parts: Vec<usize> = text.split('-').map(str::len).collect();
            parts == [8, 4, 4, 4, 12] && text.chars().all(|c| c == '-' || c.is_ascii_hexdigit())
        }
        other => panic!("this test does not know {other}"),
    }
}

#[test]
fn the_check_of_this_test_can_fail() {
    for (schema, wrong) in [
        (0, json!({"name": "x", "age": 131})),
        (0, json!({"name": "x"})),
        (0, json!({"name": "x", "age": 3, "more": 1})),
        (3, json!([10])),
        (3, json!([10, 100])),
        (4, json!({"value": 1, "children": [{"value": 10, "children": []}]})),
        (6, json!({"größe": "mittel", "名前": "été"})),
        (9, json!({"code": "ab-123"})),
        (10, json!({"day": "2024-13-01"})),
        (13, json!(130)),
        (15, json!(["N", 3, 3])),
        (16, json!({"a": 8, "b": true})),
        (18, json!({"y": 1})),
        (19, json!("ab")),
        (21, json!({"kind": "dog", "lives": 3})),
    ] {
        assert!(!fits(&schemas()[schema], &schemas()[schema], &wrong), "{schema}: {wrong}");
    }
}

#[tokio::test]
async fn answers_have_the_form_that_was_asked_for_and_an_auditor_derives_it_again() {
    let schemas = schemas();
    assert!(schemas.len() >= 20);
    let asked: Vec<(&Value, GenerateRequest)> = schemas
        .iter()
        .flat_map(|schema| (0..SEEDS).map(move |seed| (schema, request(form(schema), seed, 160))))
        .collect();
    let answers = join_all(asked.iter().map(|(_, request)| generate(request.clone()))).await;
    for schema in &schemas {
        let of_schema = || asked.iter().zip(&answers).filter(|((asked, _), _)| *asked == schema);
        let ended = of_schema().filter(|(_, answer)| answer.finish == Some(FinishReason::Stop)).count();
        assert!(ended > 0, "no answer ended: {schema}: {:?}", of_schema().map(|(_, a)| &a.text).collect::<Vec<_>>());
    }
    for ((schema, request), answer) in asked.iter().zip(&answers) {
        if answer.finish == Some(FinishReason::Stop) {
            let value: Value = serde_json::from_str(&answer.text).unwrap_or_else(|e| panic!("{e}: {}", answer.text));
            assert!(fits(schema, schema, &value), "{schema}: {}", answer.text);
        }
        if request.seed[0] == 0 {
            let outcome = engine().replay(replay(request, answer.ids.clone())).await.unwrap();
            assert_eq!((outcome.first_mismatch, outcome.max_margin), (None, 0.0), "{schema}: {}", answer.text);
            assert_eq!(outcome.trace_root, answer.root);
        }
    }
}

#[tokio::test]
async fn any_object_will_do_where_no_schema_is_given() {
    let answers = join_all((0..4).map(|seed| generate(request(TextForm::JsonObject, seed, 200)))).await;
    for answer in &answers {
        assert!(answer.text.starts_with('{'), "{}", answer.text);
        if answer.finish == Some(FinishReason::Stop) {
            assert!(serde_json::from_str::<Value>(&answer.text).unwrap().is_object(), "{}", answer.text);
        }
    }
}

#[tokio::test]
async fn an_answer_ends_with_its_form_and_is_cut_at_its_length() {
    let list = json!({"type": "array", "items": {"type": "integer", "minimum": 100, "maximum": 999}, "minItems": 5, "maxItems": 5});
    let whole = generate(request(form(&list), 1, 120)).await;
    assert_eq!(whole.finish, Some(FinishReason::Stop));
    // No end token was needed.
    assert!(whole.text.ends_with(']') && !engine().token_bytes(*whole.ids.last().unwrap()).is_empty());
    let cut = generate(request(form(&list), 1, 3)).await;
    assert_eq!((cut.finish, &cut.ids[..]), (Some(FinishReason::Length), &whole.ids[..3]));
}

#[tokio::test]
async fn plain_answers_are_the_same_beside_answers_in_a_form() {
    let plain = |seed: u8| GenerateRequest {
        sampling: SamplerParams { frequency_penalty: if seed == 2 { 0.5 } else { 0.0 }, ..WARM },
        tenant: Some(Tenant::of(b"plain")),
        ..request(TextForm::Free, seed, 40)
    };
    let mut alone = Vec::new();
    for seed in 0..3 {
        alone.push(generate(plain(seed)).await);
    }
    let schemas = schemas();
    let formed = |seed: u8| request(form(&schemas[usize::from(seed)]), seed, 60);
    let alone_formed = generate(formed(0)).await;
    let mixed = (0..3).flat_map(|seed| [plain(seed), formed(seed)]);
    let together = join_all(mixed.map(generate)).await;
    assert_eq!(together.iter().step_by(2).collect::<Vec<_>>(), alone.iter().collect::<Vec<_>>());
    assert_eq!(together[1], alone_formed);
}

#[tokio::test]
async fn a_form_holds_when_another_worker_goes_on() {
    let asked = request(form(&schemas()[0]), 5, 80);
    let whole = generate(asked.clone()).await;
    for cut in [1, whole.ids.len() / 2, whole.ids.len() - 1] {
        let rest = generate(GenerateRequest { prefix: whole.ids[..cut].to_vec(), ..asked.clone() }).await;
        assert_eq!(rest, whole);
    }
    // What a cheat may have sent before is noticed and not built upon.
    let outside = GenerateRequest { prefix: prompt("No JSON at all")[..4].to_vec(), ..asked };
    let mut events = engine().generate(outside).await.unwrap();
    let mut last = None;
    while let Some(event) = events.recv().await {
        last = Some(event);
    }
    assert!(matches!(last, Some(GenerateEvent::Refused(_))), "{last:?}");
}

#[tokio::test]
async fn an_auditor_finds_what_the_form_does_not_allow() {
    let asked = request(form(&schemas()[0]), 6, 80);
    let answer = generate(asked.clone()).await;
    assert_eq!(answer.finish, Some(FinishReason::Stop), "{}", answer.text);
    let plain = engine().tokenize("Hello you").unwrap();
    let outcome = engine().replay(replay(&asked, plain)).await.unwrap();
    assert_eq!((outcome.first_mismatch, outcome.max_margin), (Some(0), MARGIN_CAP));
    let at = answer.ids.len() / 2;
    let mut changed = answer.ids.clone();
    changed[at] = prompt("x")[0];
    let outcome = engine().replay(replay(&asked, changed)).await.unwrap();
    assert_eq!((outcome.first_mismatch, outcome.max_margin), (Some(at as u32), MARGIN_CAP));
    // One token more, behind the end.
    let outcome = engine().replay(replay(&asked, [&answer.ids[..], &answer.ids[..1]].concat())).await.unwrap();
    assert_eq!((outcome.first_mismatch, outcome.max_margin), (Some(answer.ids.len() as u32), MARGIN_CAP));
}

#[tokio::test]
async fn a_schema_that_cannot_be_compiled_is_refused_and_leaves_the_place_free() {
    let engine =
        Engine::load(&model_path(), EngineConfig { threads: 1, kv_budget_bytes: 64 << 20, ..EngineConfig::default() })
            .unwrap();
    for schema in [json!({"not": {}}), json!({"type": "string", "pattern": "(?=a)b"}), json!({"$ref": "#/$defs/none"})]
    {
        let refused = engine.generate(request(form(&schema), 0, 8)).await;
        assert!(matches!(refused, Err(AdmissionError::Form(_))), "{schema}: {refused:?}");
    }
    let outcome = engine.replay(replay(&request(form(&json!({"not": {}})), 0, 8), vec![1])).await;
    assert!(matches!(outcome, Err(AdmissionError::Form(_))), "{outcome:?}");
    assert_eq!((engine.load_now().queued, engine.load_now().running), (0, 0));
}
