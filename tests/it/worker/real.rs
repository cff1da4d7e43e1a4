//! The real model, end to end over loopback: one worker answers, another re-computes the answer.

use xdc_grid::{
    protocol::wire::{ChatMessage, LogitBias, Sampling, Start},
    verify::told,
    worker::WorkerHooks,
};

use super::gateway::{Blob, TestGateway, start};
use crate::engine::model_path;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_of_the_real_model_is_signed_right_and_replayed_bit_by_bit_elsewhere() {
    let blob = Blob::of(std::fs::read(model_path()).unwrap());
    let mut gateway = TestGateway::serving(blob.clone()).await;
    let worker = gateway.worker(WorkerHooks::default()).await;
    let verifier = gateway.worker(WorkerHooks::default()).await;
    gateway.ready(&worker.peer(), &blob, &["Compute"]).await;
    let info = gateway.ready(&verifier.peer(), &blob, &["Verify"]).await;
    assert!(info.models[0].decode_rate_milli > 0 && info.models[0].prefill_rate_milli > 0);

    let message = |role: &str, content: &str| ChatMessage { role: role.into(), content: content.into() };
    let chat = |number, temperature| Start {
        // The template's default system message leads this model astray (in llama.cpp too).
        messages: vec![
            message("system", "You are a helpful assistant."),
            message("user", "What is the capital of France?"),
        ],
        sampling: Some(Sampling { temperature, top_p: 0.95, top_k: 40, ..Default::default() }),
        ..start(&blob, number, "", 24)
    };
    let bias = LogitBias { id: 28, bias: -100.0 };
    let full = |number| Start {
        sampling: Some(Sampling {
            temperature: 0.8,
            top_p: 1.0,
            min_p: 0.05,
            repetition_penalty: 1.2,
            presence_penalty: 0.3,
            frequency_penalty: 0.2,
            logit_bias: vec![bias],
            ..Default::default()
        }),
        top_logprobs: Some(3),
        ..chat(number, 0.8)
    };
    for (request, temperature) in [(chat(1, 0.0), 0.0), (chat(2, 0.8), 0.8), (full(3), 0.8)] {
        let answer = gateway.infer(&worker, &request).await;
        if temperature == 0.0 {
            assert!(answer.text.contains("Paris"), "{}", answer.text);
        }
        let replay = gateway.audit(&verifier.peer(), &request, &answer.tokens).await.unwrap();
        assert_eq!(replay.first_mismatch, 0);
        assert_eq!(replay.trace_root, answer.receipt.traceRoot.to_vec());
        assert_eq!(replay.prompt_hash, answer.receipt.promptHash.to_vec());
        assert_eq!(replay.sampler, answer.receipt.sampler.to_vec());
        assert_eq!(replay.seed, answer.receipt.seed.to_vec());
        let told = told::hash(&answer.logprobs);
        assert_eq!(replay.logprobs_hash, if request.top_logprobs.is_some() { told.to_vec() } else { vec![] });
        // One token changed is noticed.
        let mut forged = answer.tokens.clone();
        forged[3] += 1;
        let replay = gateway.audit(&verifier.peer(), &request, &forged).await.unwrap();
        assert_eq!(replay.first_mismatch, 4);
    }
    assert_eq!(worker.claims(3).await.len(), 3);
}
