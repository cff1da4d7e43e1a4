//! Answers in a form, with the real model over real sockets: an honest one passes its audit, one of a worker that ignores the form does not,
//! and what cannot be kept to is refused.

use std::sync::Arc;

use futures::future::BoxFuture;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use xdc_grid::{
    inference::{
        AdmissionError, Benchmark, ChatMessage, GenerateEvent, GenerateRequest, ModelInfo, PromptError, ReplayOutcome,
        ReplayRequest,
    },
    protocol::wire::{self, Sampling, Start, infer_event},
    verify::{
        audit::{self, Verdict},
        sampler::TextForm,
    },
    worker::{AnswerEngine, WorkerHooks},
};

use super::gateway::{Blob, TestGateway, start};
use crate::engine::model_path;

/// The engine of a worker that takes no notice of forms, and says in its receipt that it did.
struct Formless(Arc<dyn AnswerEngine>);

impl AnswerEngine for Formless {
    fn info(&self) -> &ModelInfo {
        self.0.info()
    }

    fn render_chat(&self, messages: &[ChatMessage]) -> Result<Vec<u32>, PromptError> {
        self.0.render_chat(messages)
    }

    fn render_chat_by(&self, template: &str, messages: &[ChatMessage]) -> Result<Vec<u32>, PromptError> {
        self.0.render_chat_by(template, messages)
    }

    fn tokenize(&self, text: &str) -> Result<Vec<u32>, PromptError> {
        self.0.tokenize(text)
    }

    fn generate(
        &self,
        mut request: GenerateRequest,
    ) -> BoxFuture<'_, Result<mpsc::Receiver<GenerateEvent>, AdmissionError>> {
        request.sampling.form = TextForm::Free;
        self.0.generate(request)
    }

    fn replay(&self, request: ReplayRequest) -> BoxFuture<'_, Result<ReplayOutcome, AdmissionError>> {
        self.0.replay(request)
    }

    fn benchmark(&self) -> BoxFuture<'_, Result<Benchmark, AdmissionError>> {
        self.0.benchmark()
    }

    fn queued(&self) -> u32 {
        self.0.queued()
    }
}

/// A chat whose answer must fit a schema.
fn asking(blob: &Blob, number: u8, schema: &Value) -> Start {
    let message = |role: &str, content: &str| wire::ChatMessage { role: role.into(), content: content.into() };
    let sampling =
        Sampling { temperature: 0.8, top_p: 1.0, form: 2, json_schema: schema.to_string(), ..Default::default() };
    Start {
        messages: vec![message("system", "You are a helpful assistant."), message("user", "Make up a person.")],
        sampling: Some(sampling),
        ..start(blob, number, "", 80)
    }
}

fn person() -> Value {
    json!({
        "type": "object",
        "properties": {"name": {"enum": ["Ada", "Émile"]}, "age": {"type": "integer", "minimum": 1, "maximum": 99}},
        "required": ["name", "age"],
        "additionalProperties": false,
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_honest_answer_in_a_form_passes_its_audit_and_one_without_fails_it() {
    let blob = Blob::of(std::fs::read(model_path()).unwrap());
    let mut gateway = TestGateway::serving(blob.clone()).await;
    let honest = gateway.worker(WorkerHooks::default()).await;
    let ignores = WorkerHooks {
        answer_with: Some(Arc::new(|_, asked| -> Arc<dyn AnswerEngine> { Arc::new(Formless(asked)) })),
        ..WorkerHooks::default()
    };
    let liar = gateway.worker(ignores).await;
    let verifier = gateway.worker(WorkerHooks::default()).await;
    let info = gateway.ready(&honest.peer(), &blob, &["Compute"]).await;
    let profile = info.models[0].kernel_profile.clone();
    assert!(profile.contains("+form") && info.request_fields.contains(&"response_format".to_owned()), "{info:?}");
    gateway.ready(&liar.peer(), &blob, &["Compute"]).await;
    gateway.ready(&verifier.peer(), &blob, &["Verify"]).await;

    let request = asking(&blob, 1, &person());
    let answer = gateway.infer(&honest, &request).await;
    let value: Value = serde_json::from_str(&answer.text).unwrap_or_else(|error| panic!("{error}: {}", answer.text));
    assert!(["Ada", "Émile"].contains(&value["name"].as_str().unwrap()), "{value}");
    assert_eq!(answer.finish, "stop");
    let replay = gateway.audit(&verifier.peer(), &request, &answer.tokens).await.unwrap();
    assert_eq!(audit::compare(&answer.receipt, &profile, &replay), Verdict::Pass);

    let request = asking(&blob, 2, &person());
    let lie = gateway.infer(&liar, &request).await;
    assert_eq!(lie.receipt.sampler, answer.receipt.sampler, "it says that it kept to the form");
    let replay = gateway.audit(&verifier.peer(), &request, &lie.tokens).await.unwrap();
    let verdict = audit::compare(&lie.receipt, &profile, &replay);
    assert!(
        matches!(&verdict, Verdict::Mismatch(message) if message.contains("output token")),
        "{verdict:?}: {}",
        lie.text
    );

    // The form is part of what was asked: a replay without it finds another sampler.
    let free = Sampling { form: 0, json_schema: String::new(), ..request.sampling.clone().unwrap() };
    let replay =
        gateway.audit(&verifier.peer(), &Start { sampling: Some(free), ..request }, &lie.tokens).await.unwrap();
    assert_ne!(replay.sampler, lie.receipt.sampler.to_vec());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_form_that_cannot_be_kept_to_is_refused_with_its_reason_and_holds_no_place() {
    let blob = Blob::of(std::fs::read(model_path()).unwrap());
    let mut gateway = TestGateway::serving(blob.clone()).await;
    let worker = gateway.worker(WorkerHooks::default()).await;
    gateway.ready(&worker.peer(), &blob, &["Compute", "Verify"]).await;
    for (number, schema, says) in [
        (1, json!({"not": {}}), "cannot be compiled"),
        (2, json!({"enum": vec![0; 2_000]}), "1024"),
        (3, json!({"type": "string", "pattern": "(?=a)b"}), "cannot be compiled"),
    ] {
        let request = asking(&blob, number, &schema);
        let mut stream = gateway.start(&worker.peer(), &request).await;
        let refused = loop {
            match stream.next().await.unwrap().expect("the stream ended").kind {
                Some(infer_event::Kind::Error(refused)) => break refused,
                Some(infer_event::Kind::Heartbeat(_)) => {}
                other => panic!("not refused: {other:?}"),
            }
        };
        assert_eq!((refused.reason.as_str(), refused.retry_after_ms), ("FormRefused", 0));
        assert!(refused.message.contains(says), "{}", refused.message);
        let refused = gateway.audit(&worker.peer(), &request, &[1]).await.unwrap_err();
        assert_eq!(refused.reason, "FormRefused");
    }
    // More were refused than there are places.
    assert_eq!(gateway.infer(&worker, &asking(&blob, 9, &person())).await.finish, "stop");
}
