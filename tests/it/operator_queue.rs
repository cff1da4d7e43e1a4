//! Local jobs in a queue of Kueue: what Kueue says about them reaches the people who wait. Kueue is played: the operator and
//! `kubectl grid why` only read what it writes.

use kube::{
    Api, ResourceExt,
    api::{Patch, PatchParams},
};
use serde_json::json;
use xdc_grid::api::{
    conditions::find,
    inference_job::{InferenceJobStatus, condition},
};

use crate::{
    operator_local::{QUEUE, Team},
    support::kueue::{local_queue, workload},
};

fn admitted(status: &InferenceJobStatus) -> (String, String) {
    let found = find(&status.conditions, condition::ADMITTED);
    found.map(|found| (found.reason.clone(), found.message.clone())).unwrap_or_default()
}

#[tokio::test]
async fn a_job_in_a_queue_says_which_quota_it_waits_for_and_follows_what_kueue_says() {
    let team = Team::new("queue-words").await;
    let _quiet = team.world.quiet.read().await;
    local_queue(&team.client, &team.namespace, "team", "gpus").await;
    let job = team.job("waits", &["abc"], json!({QUEUE: "team"}), json!({})).await;
    let child = team.child(&job).await;
    let says = async |words: &str| {
        let wanted = ("WaitingForQuota".to_owned(), words.to_owned());
        team.until("waits", words, |status| admitted(status) == wanted).await
    };
    let short =
        "couldn't assign flavors to pod set main: insufficient unused quota for cpu in flavor default, 1 more needed";
    workload(&team.client, &child, "team", &[("QuotaReserved", "False", short)]).await;
    let status = says(&format!("waiting for quota in ClusterQueue gpus: {short}")).await;
    assert_eq!(status.start_time, None, "no deadline runs while it waits");
    // Nobody touches the Job: what changed is the Workload.
    let stopped = "ClusterQueue gpus is inactive";
    workload(&team.client, &child, "team", &[("QuotaReserved", "False", stopped)]).await;
    says(&format!("waiting for quota in ClusterQueue gpus: {stopped}")).await;
    // Kueue lets it go.
    workload(&team.client, &child, "team", &[("QuotaReserved", "True", ""), ("Admitted", "True", "")]).await;
    let go = Patch::Merge(json!({"spec": {"suspend": false}}));
    let jobs: Api<k8s_openapi::api::batch::v1::Job> = team.api();
    jobs.patch(&child.name_any(), &PatchParams::default(), &go).await.unwrap();
    team.until_reason("waits", condition::ADMITTED, "JobCreated").await;
}

#[tokio::test]
async fn a_queue_that_kueue_has_not_looked_at_is_named_by_its_label() {
    let team = Team::new("queue-silent").await;
    let _quiet = team.world.quiet.read().await;
    let job = team.job("unseen", &["abc"], json!({QUEUE: "nowhere"}), json!({})).await;
    team.child(&job).await;
    let status = team.until_reason("unseen", condition::ADMITTED, "WaitingForQuota").await;
    let (_, message) = admitted(&status);
    assert!(message.starts_with("queue nowhere holds Job unseen-"), "{message}");
}
