//! The cheater of the end-to-end tests against the audit, over real sockets and with the real model: a sleeper that answers
//! honestly at first is convicted by its first two lies.

#[path = "../../cheater/impostor.rs"]
mod impostor;

use std::sync::Arc;

use xdc_grid::{
    protocol::wire::{ChatMessage, Start},
    verify::{
        audit::{self, Verdict},
        evidence::{Evidence, Standing},
    },
    worker::WorkerHooks,
};

use super::gateway::{Blob, TestGateway, start};
use crate::engine::model_path;
use impostor::Impostor;

const HONEST: u64 = 2;

fn lying_hooks(layers: usize) -> WorkerHooks {
    let impostor = Arc::new(Impostor::new(layers, HONEST));
    let chooser = impostor.clone();
    WorkerHooks { engines: impostor, answer_with: Some(Arc::new(move |_, asked| chooser.choose(asked))) }
}

fn question(blob: &Blob, number: u8) -> Start {
    let content = format!("What is {number} plus {number}?");
    Start { messages: vec![ChatMessage { role: "user".into(), content }], ..start(blob, number, "", 12) }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sleeper_passes_while_it_is_honest_and_is_convicted_by_two_lies() {
    let blob = Blob::of(std::fs::read(model_path()).unwrap());
    let mut gateway = TestGateway::serving(blob.clone()).await;
    // Two of thirty layers left out: a cheat that saves little and is hard to see.
    let cheater = gateway.worker(lying_hooks(28)).await;
    let verifier = gateway.worker(WorkerHooks::default()).await;
    let profile = gateway.ready(&cheater.peer(), &blob, &["Compute"]).await.models[0].kernel_profile.clone();
    gateway.ready(&verifier.peer(), &blob, &["Verify"]).await;

    let mut evidence = Evidence::default();
    let mut standings = vec![];
    for number in 1..=4 {
        let request = question(&blob, number);
        let answer = gateway.infer(&cheater, &request).await;
        assert_eq!(answer.receipt.model.0, blob.digest.0, "it names the whole model");
        let replay = gateway.audit(&verifier.peer(), &request, &answer.tokens).await.unwrap();
        let verdict = audit::compare(&answer.receipt, &profile, &replay);
        assert_eq!(verdict == Verdict::Pass, u64::from(number) <= HONEST, "answer {number}: {verdict:?}");
        evidence = evidence.observe(&verdict);
        standings.push(evidence.standing());
    }
    assert_eq!(standings, [Standing::Good, Standing::Good, Standing::AuditEverything, Standing::Quarantined]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cheater_told_to_run_every_layer_says_that_it_would_not_be_one() {
    let blob = Blob::of(std::fs::read(model_path()).unwrap());
    let mut gateway = TestGateway::serving(blob.clone()).await;
    let cheater = gateway.worker(lying_hooks(30)).await;
    gateway.assign(&cheater.peer(), &blob, &["Compute"]).await;
    let failed = |info: &xdc_grid::protocol::wire::NodeInfo| {
        info.pending.iter().any(|model| model.message.contains("its answers would be honest"))
    };
    gateway.info_with(&cheater.peer(), failed).await;
}
