//! `grid-worker batch` on a folder of shards: what it answers, what it leaves for the next try, and how it ends.

use std::{path::Path, sync::Arc};

use axum::{Router, body::Bytes, routing::get};
use clap::Parser;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;
use xdc_grid::{
    protocol::shard::{Exit, Part, Report},
    worker::{
        EngineProvider, LocalEngines,
        batch::{BatchOptions, run_until},
    },
};

use super::parrot::Parrots;
use crate::grid::node::eventually;

#[derive(Parser)]
struct Cli {
    #[command(flatten)]
    options: BatchOptions,
}

/// A folder with shard 3, and a server with a model.
struct Shard {
    folder: TempDir,
    url: String,
    sha256: String,
}

impl Shard {
    async fn new(lines: &[Value], model: &'static [u8]) -> Self {
        xdc_grid::telemetry::install_crypto_provider();
        let folder = tempfile::tempdir().unwrap();
        let input: String = lines.iter().map(|line| format!("{line}\n")).collect();
        std::fs::write(folder.path().join("3.input.jsonl"), input).unwrap();
        let served = Router::new().route("/model.gguf", get(|| async { Bytes::from_static(model) }));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/model.gguf", listener.local_addr().unwrap());
        tokio::spawn(async move { axum::serve(listener, served).await });
        Shard { folder, url, sha256: hex::encode(Sha256::digest(model)) }
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    fn options(&self) -> BatchOptions {
        let text = |path: std::path::PathBuf| path.display().to_string();
        Cli::parse_from([
            "batch",
            "--job-uid=u1",
            "--index=3",
            "--node-name=node-1",
            &format!("--model-url={}", self.url),
            &format!("--model-sha256={}", self.sha256),
            &format!("--shard-dir={}", text(self.path().to_owned())),
            &format!("--data-dir={}", text(self.path().join("data"))),
            &format!("--report-file={}", text(self.path().join("report"))),
        ])
        .options
    }

    async fn run(&self, engines: impl EngineProvider) -> Exit {
        run_until(self.options(), Arc::new(engines), CancellationToken::new()).await
    }

    fn report(&self) -> Report {
        serde_json::from_slice(&std::fs::read(self.path().join("report")).unwrap()).unwrap()
    }

    fn part(&self) -> Option<Part> {
        serde_json::from_slice(&std::fs::read(self.path().join("3.part.json")).ok()?).ok()
    }

    fn results(&self) -> Vec<Value> {
        let text = std::fs::read_to_string(self.path().join("3.results.jsonl")).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

fn line(index: u32, prompt: &str) -> Value {
    json!({"index": index, "customId": format!("line-{index}"), "prompt": prompt, "maxTokens": 4, "temperature": 0.0,
        "topP": 1.0, "topK": 0, "seed": 7})
}

#[tokio::test]
async fn a_shard_is_answered_in_input_order_and_counted() {
    let shard = Shard::new(&[line(6, "abc"), line(7, "xy"), line(8, "")], b"a model").await;
    assert_eq!(shard.run(Parrots::default()).await, Exit::Done);
    let results = shard.results();
    let found: Vec<_> = results
        .iter()
        .map(|result| {
            let outcome = &result["outcome"];
            (result["index"].as_u64().unwrap(), outcome["text"].as_str().or(outcome["reason"].as_str()).unwrap())
        })
        .collect();
    assert_eq!(found, [(6, "abca"), (7, "xyxy"), (8, "PromptRefused")]);
    assert_eq!(results[0]["outcome"]["nodeName"], "node-1");
    let part = shard.part().unwrap();
    assert!(part.complete);
    assert_eq!((part.counts.completed, part.counts.failed, part.counts.output_tokens), (2, 1, 8));
    assert_eq!((shard.report().reason.as_str(), shard.report().counts), ("Done", part.counts));
}

#[tokio::test]
async fn a_line_says_how_its_tokens_are_chosen_and_gets_their_likelihood() {
    let mut told = line(0, "abc");
    told["topLogprobs"] = json!(2);
    told["frequencyPenalty"] = json!(0.5);
    let mut wrong = line(1, "abc");
    wrong["minP"] = json!(7.0);
    let shard = Shard::new(&[told, wrong, line(2, "abc")], b"a model").await;
    assert_eq!(shard.run(Parrots::default()).await, Exit::Done);
    let results = shard.results();
    let logprobs = results[0]["outcome"]["logprobs"].as_array().unwrap();
    assert_eq!((logprobs.len(), logprobs[0]["top"].as_array().unwrap().len()), (4, 2));
    assert_eq!(results[1]["outcome"]["reason"], "MalformedRequest");
    assert!(results[1]["outcome"]["message"].as_str().unwrap().contains("min_p"));
    assert_eq!(results[2]["outcome"].get("logprobs"), None);
}

#[tokio::test]
async fn a_stopped_pod_hands_back_what_it_has_and_the_next_one_goes_on_from_there() {
    let shard = Shard::new(&[line(0, "abc"), line(1, "abc"), line(2, "abc")], b"a model").await;
    let mut options = shard.options();
    // One request at a time, and an interim copy within a second.
    (options.max_sequences, options.save_seconds) = (1, 1);
    let stop = CancellationToken::new();
    // Four tokens are the first answer.
    let (braked, brake) = Parrots::braked();
    brake.add_permits(4);
    let running = tokio::spawn(run_until(options, Arc::new(braked), stop.clone()));
    eventually("the first answer is kept", async || shard.part().is_some_and(|part| part.counts.completed > 0)).await;
    stop.cancel();
    assert_eq!(running.await.unwrap(), Exit::Stopped);
    let part = shard.part().unwrap();
    assert!(!part.complete && part.counts.completed == 1, "{part:?}");
    let before = shard.results();
    assert_eq!(shard.run(Parrots::default()).await, Exit::Done);
    let after = shard.results();
    assert_eq!(after[..before.len()], before[..], "what was done is not done again");
    assert_eq!((after.len(), shard.part().unwrap().complete), (3, true));
    // A third one finds nothing to do, not even a model to fetch.
    std::fs::remove_dir_all(shard.path().join("data")).unwrap();
    assert_eq!(shard.run(Parrots::default()).await, Exit::Done);
    assert!(!shard.path().join("data").exists());
}

#[tokio::test]
async fn a_shard_of_texts_is_answered_with_vectors() {
    let model = Vec::leak(std::fs::read(crate::encoder::encoder_path()).unwrap());
    let texts = |index: u32, inputs: &[&str]| {
        json!({"index": index, "customId": format!("line-{index}"), "inputs": inputs, "maxTokens": 1, "temperature": 0.0,
            "topP": 1.0, "topK": 0, "seed": 0})
    };
    let lines = [texts(0, &["a fox"]), texts(1, &["x", "a fox"]), texts(2, &[&"grid ".repeat(300)])];
    let shard = Shard::new(&lines, model).await;
    assert_eq!(shard.run(LocalEngines).await, Exit::Done);
    let outcomes: Vec<Value> = shard.results().iter().map(|result| result["outcome"].clone()).collect();
    assert_eq!((outcomes[0]["kind"].as_str(), outcomes[0]["promptTokens"].as_u64()), (Some("embedded"), Some(4)));
    assert!(outcomes[0]["vectors"][0].is_string());
    assert_eq!(outcomes[0]["vectors"][0], outcomes[1]["vectors"][1], "the same bits beside another text");
    assert_eq!(outcomes[2]["reason"], "ContextExceeded");
}

#[tokio::test]
async fn a_wrong_model_is_named_with_both_digests_and_nothing_is_kept() {
    let mut shard = Shard::new(&[line(0, "abc")], b"a model").await;
    let actual = std::mem::replace(&mut shard.sha256, "11".repeat(32));
    assert_eq!(shard.run(Parrots::default()).await, Exit::ModelDigestMismatch);
    let report = shard.report();
    assert_eq!(report.reason, "ModelDigestMismatch");
    assert!(report.message.contains(&actual) && report.message.contains(&shard.sha256), "{}", report.message);
    assert_eq!(std::fs::read_dir(shard.path().join("data/models")).unwrap().count(), 0);
}

#[tokio::test]
async fn a_file_that_is_no_model_and_a_shard_that_cannot_be_read_are_told_apart() {
    let shard = Shard::new(&[line(0, "abc")], b"no GGUF").await;
    assert_eq!(shard.run(LocalEngines).await, Exit::ModelUnusable);
    assert_eq!(shard.report().reason, "ModelLoadFailed");
    std::fs::write(shard.path().join("3.input.jsonl"), "nonsense\n").unwrap();
    assert_eq!(shard.run(Parrots::default()).await, Exit::BadShard);
    std::fs::remove_file(shard.path().join("3.input.jsonl")).unwrap();
    assert_eq!(shard.run(Parrots::default()).await, Exit::BadShard);
    assert!(shard.report().message.contains("3.input.jsonl"), "{}", shard.report().message);
}

#[tokio::test]
async fn a_source_that_has_no_such_file_can_be_tried_again() {
    let mut shard = Shard::new(&[line(0, "abc")], b"a model").await;
    shard.url = shard.url.replace("model.gguf", "nothing.gguf");
    assert_eq!(shard.run(Parrots::default()).await, Exit::ModelUnreachable);
    assert!(shard.report().message.contains("404"), "{}", shard.report().message);
}

#[tokio::test]
async fn a_half_written_part_is_worth_nothing() {
    let shard = Shard::new(&[line(0, "abc")], b"a model").await;
    assert_eq!(shard.run(Parrots::default()).await, Exit::Done);
    let whole = shard.results();
    std::fs::write(shard.path().join("3.results.jsonl"), "").unwrap();
    assert_eq!(shard.run(Parrots::default()).await, Exit::Done);
    assert_eq!(shard.results()[0]["outcome"]["text"], whole[0]["outcome"]["text"]);
}

#[tokio::test]
async fn a_template_makes_prompts_of_chats_only() {
    let mut chat = line(0, "");
    chat["messages"] = json!([{"role": "user", "content": "c"}]);
    let shard = Shard::new(&[chat, line(1, "xyz")], b"a model").await;
    let options = BatchOptions { chat_template: Some("ab".into()), ..shard.options() };
    assert_eq!(run_until(options, Arc::new(Parrots::default()), CancellationToken::new()).await, Exit::Done);
    let texts: Vec<_> = shard.results().into_iter().map(|result| result["outcome"]["text"].clone()).collect();
    assert_eq!(texts, ["abca", "xyzx"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_real_model_answers_a_shard() {
    let model: &'static [u8] = std::fs::read(crate::engine::model_path()).unwrap().leak();
    let mut request = line(0, "");
    request["messages"] = json!([
        {"role": "system", "content": "You are a helpful assistant."},
        {"role": "user", "content": "What is the capital of France?"},
    ]);
    request["maxTokens"] = json!(24);
    let shard = Shard::new(&[request], model).await;
    assert_eq!(shard.run(LocalEngines).await, Exit::Done);
    let text = shard.results()[0]["outcome"]["text"].as_str().unwrap().to_owned();
    assert!(text.contains("Paris"), "{text}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lines_of_a_shard_get_answers_in_their_form_or_the_reason_why_not() {
    let model: &'static [u8] = std::fs::read(crate::engine::model_path()).unwrap().leak();
    let formed = |index: u32, format: Value| {
        let mut request = line(index, "A list of numbers:");
        request["maxTokens"] = json!(40);
        request["responseFormat"] = format;
        request
    };
    let schema = json!({"type": "array", "items": {"type": "integer", "minimum": 10, "maximum": 99}, "minItems": 2, "maxItems": 2});
    let lines = [
        formed(0, json!({"jsonSchema": schema.to_string()})),
        formed(1, json!({"jsonSchema": r#"{"not": {}}"#})),
        formed(2, json!("jsonObject")),
    ];
    let shard = Shard::new(&lines, model).await;
    assert_eq!(shard.run(LocalEngines).await, Exit::Done, "{}", shard.report().message);
    let outcomes: Vec<Value> = shard.results().iter().map(|result| result["outcome"].clone()).collect();
    let numbers: Vec<u32> = serde_json::from_str(outcomes[0]["text"].as_str().unwrap()).unwrap();
    assert!(numbers.len() == 2 && numbers.iter().all(|number| (10..=99).contains(number)), "{numbers:?}");
    assert_eq!(outcomes[1]["reason"], "FormRefused");
    assert!(outcomes[1]["message"].as_str().unwrap().contains("JSON schema"), "{}", outcomes[1]);
    assert!(outcomes[2]["text"].as_str().unwrap().starts_with('{'), "{}", outcomes[2]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_real_encoder_makes_vectors_of_a_shard() {
    let model: &'static [u8] = std::fs::read(crate::encoder::encoder_path()).unwrap().leak();
    let request = json!({"index": 0, "customId": "line-0", "inputs": ["a cat", "a dog"], "maxTokens": 1, "temperature": 0.0,
        "topP": 1.0, "topK": 0, "seed": 0});
    let shard = Shard::new(&[request], model).await;
    assert_eq!(shard.run(LocalEngines).await, Exit::Done, "{}", shard.report().message);
    let outcome = shard.results()[0]["outcome"].clone();
    assert_eq!(outcome["kind"], "embedded", "{outcome}");
    assert_eq!(outcome["vectors"].as_array().unwrap().len(), 2);
    assert!(shard.part().unwrap().counts.prompt_tokens > 0);
}
