//! Paid jobs: real API server, real controllers, scripted gateway, simulated chain.

use std::time::{SystemTime, UNIX_EPOCH};

use kube::api::{Patch, PatchParams};
use serde_json::{Value, json};
use xdc_grid::{
    api::{
        conditions::find,
        grid_model::GridModel,
        ids::{EscrowId, NodeAddress, Wei},
        inference_job::{JobPhase, condition},
    },
    chain::escrow::JobEscrow,
    operator::inference_job::payment::salt,
};

use crate::{
    operator_jobs::{Place, lines, records},
    support::world::{create, model},
};

const PAYER: NodeAddress = NodeAddress([0x77; 20]);
const MODEL: &str = "priced";

/// One wei for a prompt token, eight for an output token: an answer of the scripted gateway costs 50.
async fn place(name: &str) -> Place {
    let place = Place::new(name).await;
    let mut priced = model(MODEL, "http://models/priced.gguf", 0x44);
    priced["spec"]["price"] = json!({"promptWeiPerMillionTokens": "1000000", "outputWeiPerMillionTokens": "8000000"});
    create::<GridModel>(&place.client, priced).await;
    place
}

fn escrow(namespace: &str, name: &str) -> EscrowId {
    EscrowId(JobEscrow::job_id(PAYER, salt(namespace, name)).0)
}

fn paid(escrow: EscrowId, max_spend: u128) -> Value {
    json!({
        "workload": {"modelRef": {"name": MODEL}},
        "payment": {"maxSpendWei": max_spend.to_string(), "escrowID": escrow.to_string()},
    })
}

fn next_week() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() + 7 * 86_400
}

#[tokio::test]
async fn a_paid_job_waits_for_its_escrow_and_is_settled_for_what_it_spent() {
    let place = place("payments").await;
    let _quiet = place.world.quiet.read().await;
    let id = escrow("payments", "paid");
    place.job("paid", lines(&["a", "b"]), paid(id, 1_000)).await;
    let waiting = place.until_reason("paid", condition::ADMITTED, "EscrowNotFound").await;
    let found = find(&waiting.conditions, condition::ADMITTED).unwrap();
    assert!(found.message.contains(&salt("payments", "paid").to_string()), "{}", found.message);

    place.world.chain.open_escrow(id.0, PAYER, 999, next_week());
    place.until_reason("paid", condition::ADMITTED, "EscrowTooSmall").await;
    place.world.chain.open_escrow(id.0, PAYER, 5_000, next_week());
    let done = place.until_true("paid", condition::COMPLETE).await;
    let spend = done.spend.unwrap();
    assert_eq!((spend.spent_wei.as_str(), spend.spent.as_str()), ("100", "0.0000"));

    let settled = place.until_true("paid", condition::SETTLED).await;
    assert_eq!(find(&settled.conditions, condition::SETTLED).unwrap().reason, "EscrowSettled");
    assert_eq!(settled.spend.unwrap().settled_wei.as_deref(), Some("100"));
    assert_eq!(place.world.chain.settled(id.0), Some(100), "no wei more than was spent");
    assert_eq!(place.world.gateway.settled(&id).map(|settled| settled.spent), Some(Wei(100)));
}

#[tokio::test]
async fn a_job_that_has_spent_all_it_may_ends_and_keeps_what_is_finished() {
    let place = place("spend-limit").await;
    let _quiet = place.world.quiet.read().await;
    let id = escrow("spend-limit", "held-paid");
    place.world.chain.open_escrow(id.0, PAYER, 10_000, next_week());
    // Half of its four answers are there while it runs, for 100 wei.
    place.job("held-paid", lines(&["a", "b", "c", "d"]), paid(id, 100)).await;
    let ended = place.until_true("held-paid", condition::FAILED).await;
    assert_eq!((ended.phase, ended.reason.as_deref()), (Some(JobPhase::Failed), Some("SpendLimitReached")));
    assert_eq!(ended.spend.unwrap().spent_wei, "100");
    assert_eq!(records(&place.output("held-paid").await["results.jsonl"]).len(), 2);
    place.until_reason("held-paid", condition::SETTLED, "EscrowSettled").await;
    assert_eq!(place.world.chain.settled(id.0), Some(100));
}

#[tokio::test]
async fn nobody_spends_what_was_put_down_for_another_job_and_nothing_is_free_that_has_a_price() {
    let place = place("thieves").await;
    let _quiet = place.world.quiet.read().await;
    let others = escrow("somebody", "else");
    place.world.chain.open_escrow(others.0, PAYER, 10_000, next_week());
    place.job("thief", lines(&["a"]), paid(others, 100)).await;
    let ended = place.until_true("thief", condition::FAILED).await;
    assert_eq!(ended.reason.as_deref(), Some("EscrowOfAnotherJob"));
    assert_eq!(place.world.chain.settled(others.0), None);

    place.job("free", lines(&["a"]), json!({"workload": {"modelRef": {"name": MODEL}}})).await;
    place.until_reason("free", condition::ACCEPTED, "PaymentRequired").await;
    place
        .job(
            "generous",
            lines(&["a"]),
            json!({
                "payment": {"maxSpendWei": "5", "escrowID": others.to_string()},
            }),
        )
        .await;
    place.until_reason("generous", condition::ACCEPTED, "ModelWithoutPrice").await;
}

#[tokio::test]
async fn what_a_job_may_spend_never_changes_and_is_not_for_local_jobs() {
    let place = place("payment-rules").await;
    let id = escrow("payment-rules", "fixed");
    place.job("fixed", lines(&["a"]), paid(id, 100)).await;
    let refused = async |spec: Value| {
        let patch = json!({"spec": spec});
        let error = place.jobs().patch("fixed", &PatchParams::default(), &Patch::Merge(&patch)).await.unwrap_err();
        error.to_string()
    };
    let message = refused(json!({"payment": {"maxSpendWei": "200"}})).await;
    assert!(message.contains("payment never changes"), "{message}");
    let message = refused(json!({"payment": null})).await;
    assert!(message.contains("payment never changes"), "{message}");
    let message = refused(json!({"payment": {"escrowID": "0x12"}})).await;
    assert!(message.contains("escrowID"), "{message}");
}
