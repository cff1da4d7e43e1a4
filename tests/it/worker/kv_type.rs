//! How keys and values are stored is part of the kernel profile: nodes of one type audit one another, and those of the other accuse nobody.

use xdc_grid::{
    inference::KvType,
    protocol::wire::{ChatMessage, Start},
    verify::{
        audit::{self, Verdict},
        evidence::{Evidence, Standing},
    },
    worker::{WorkerHooks, WorkerOptions},
};

use super::gateway::{Blob, TestGateway, start};
use crate::engine::model_path;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_from_keys_and_values_in_half_precision_are_judged_by_nodes_of_the_same_type_alone() {
    let blob = Blob::of(std::fs::read(model_path()).unwrap());
    let mut gateway = TestGateway::serving(blob.clone()).await;
    let half = |options: &mut WorkerOptions| options.kv_type = KvType::F16;
    let worker = gateway.worker_with(WorkerHooks::default(), half).await;
    let same = gateway.worker_with(WorkerHooks::default(), half).await;
    let other = gateway.worker(WorkerHooks::default()).await;
    let profile = gateway.ready(&worker.peer(), &blob, &["Compute"]).await.models[0].kernel_profile.clone();
    gateway.ready(&same.peer(), &blob, &["Verify"]).await;
    gateway.ready(&other.peer(), &blob, &["Verify"]).await;

    let content = "Tell me a story about a lighthouse.".to_owned();
    let messages = vec![ChatMessage { role: "user".into(), content }];
    let request = Start { messages, ..start(&blob, 1, "", 48) };
    let answer = gateway.infer(&worker, &request).await;
    let replay = gateway.audit(&same.peer(), &request, &answer.tokens).await.unwrap();
    assert_eq!(audit::compare(&answer.receipt, &profile, &replay), Verdict::Pass);

    let replay = gateway.audit(&other.peer(), &request, &answer.tokens).await.unwrap();
    assert_ne!(replay.trace_root, answer.receipt.traceRoot.to_vec(), "it computes something else");
    let verdict = audit::compare(&answer.receipt, &profile, &replay);
    assert!(matches!(&verdict, Verdict::Inconclusive(why) if why.contains("kvf16")), "{verdict:?}");
    assert_eq!(Evidence::default().observe(&verdict).standing(), Standing::Good);
}
