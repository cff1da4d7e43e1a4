//! A tenant reaches nothing of another tenant through a job: each reference that a job has, tried on a neighbour's things. The
//! operator runs with the rights of its ServiceAccount (`support::rbac`), against a real API server.

use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::{Api, ResourceExt, api::PostParams};
use serde_json::json;
use xdc_grid::api::inference_job::condition;

use crate::{
    operator_buckets::{at, message, secret, submit},
    operator_jobs::{Place, lines},
    support::{
        rbac,
        s3::{OWNER, credentials, s3},
        world::{SYSTEM, create_in},
    },
};

/// The owner of things, and somebody who wants them. Both may let the operator read their Secrets.
async fn neighbours(name: &str) -> (Place, Place) {
    let (owner, other) = (Place::new(&format!("{name}-owner")).await, Place::new(&format!("{name}-other")).await);
    for place in [&owner, &other] {
        rbac::grant_secrets(&place.client, &place.namespace).await;
    }
    (owner, other)
}

#[tokio::test]
async fn an_input_config_map_is_read_in_the_jobs_own_namespace_only() {
    let (owner, other) = neighbours("t-input").await;
    let _quiet = owner.world.quiet.read().await;
    let map = json!({"metadata": {"name": "prompts"}, "data": {"p": "a secret prompt\n"}});
    create_in::<ConfigMap>(&owner.client, &owner.namespace, map).await;
    let from = json!({"format": "Lines", "configMap": {"name": "prompts", "key": "p"}});
    submit(&other, "thief", from, json!({"store": {}})).await;
    let status = other.until_reason("thief", condition::ACCEPTED, "InputNotFound").await;
    assert!(message(&status, condition::ACCEPTED).contains("t-input-other"));
}

#[tokio::test]
async fn an_output_config_map_is_written_in_the_jobs_own_namespace_only() {
    let (owner, other) = neighbours("t-output").await;
    let _quiet = owner.world.quiet.read().await;
    let output = json!({"configMap": {"name": "results"}});
    submit(&owner, "hello", lines(&["mine"]), output.clone()).await;
    owner.until_true("hello", condition::COMPLETE).await;
    let maps: Api<ConfigMap> = Api::namespaced(owner.client.clone(), &owner.namespace);
    let before = maps.get("results").await.unwrap();
    submit(&other, "hello", lines(&["theirs"]), output).await;
    other.until_true("hello", condition::COMPLETE).await;
    assert_eq!(maps.get("results").await.unwrap(), before);
}

#[tokio::test]
async fn the_secret_of_a_bucket_is_read_in_the_jobs_own_namespace_only() {
    let (owner, other) = neighbours("t-secret").await;
    let _quiet = owner.world.quiet.read().await;
    let s3 = s3().await;
    secret(&owner, "bucket", OWNER).await;
    s3.bucket("tenant").put("in.txt", "a secret prompt\n").await;
    let from = json!({"format": "Lines", "s3": at(&s3.endpoint, "s3://tenant/in.txt")});
    submit(&other, "reader", from, json!({"store": {}})).await;
    let status = other.until_reason("reader", condition::ACCEPTED, "SecretNotFound").await;
    assert!(message(&status, condition::ACCEPTED).contains("t-secret-other"));
    let output = json!({"s3": at(&s3.endpoint, "s3://tenant/out/")});
    submit(&other, "writer", lines(&["a"]), output).await;
    other.until_reason("writer", condition::OUTPUT_PUBLISHED, "SecretNotFound").await;
    assert!(s3.bucket("tenant").list("out").await.is_empty());
}

/// The operator itself may read Secrets of the system's namespace: no job of another namespace may make it do so.
#[tokio::test]
async fn the_systems_secrets_are_out_of_reach() {
    let (_, other) = neighbours("t-system").await;
    let _quiet = other.world.quiet.read().await;
    let s3 = s3().await;
    let object = json!({"metadata": {"name": "system-bucket"}, "stringData": credentials(OWNER)});
    create_in::<Secret>(&other.client, SYSTEM, object).await;
    s3.bucket("system").put("there", "x").await;
    let mut output = at(&s3.endpoint, "s3://system/out/");
    output["secretRef"]["name"] = "system-bucket".into();
    submit(&other, "thief", lines(&["a"]), json!({"s3": output})).await;
    other.until_reason("thief", condition::OUTPUT_PUBLISHED, "SecretNotFound").await;
    // Names that would lead elsewhere as part of a path do not even come past the schema.
    for name in ["xdc-grid/system-bucket", "../../xdc-grid/secrets/system-bucket", "system-bucket?x", ".."] {
        let secret = json!({"uri": "s3://system/out/", "secretRef": {"name": name}});
        for output in [json!({"s3": secret}), json!({"configMap": {"name": name}})] {
            let spec = json!({"workload": {"modelRef": {"name": "m"}, "input": {"inline": "a"}, "output": output}});
            let job = serde_json::from_value(json!({
                "apiVersion": "xdcgrid.io/v1alpha1", "kind": "InferenceJob", "metadata": {"name": "path"}, "spec": spec,
            }));
            let refused = other.jobs().create(&PostParams::default(), &job.unwrap()).await.unwrap_err().to_string();
            assert!(refused.contains("name"), "{name}: {refused}");
        }
    }
    assert!(s3.bucket("system").list("out").await.is_empty());
}

#[tokio::test]
async fn without_credentials_a_closed_bucket_stays_closed() {
    let (_, other) = neighbours("t-anonymous").await;
    let _quiet = other.world.quiet.read().await;
    let s3 = s3().await;
    s3.bucket("closed").put("in.txt", "a secret prompt\n").await;
    let from = json!({"format": "Lines", "s3": {"uri": "s3://closed/in.txt", "endpoint": s3.endpoint}});
    submit(&other, "anonymous", from, json!({"store": {}})).await;
    other.until_reason("anonymous", condition::ACCEPTED, "InputForbidden").await;
}

#[tokio::test]
async fn a_job_does_not_make_the_operator_call_what_its_author_may_not() {
    let (_, other) = neighbours("t-address").await;
    let _quiet = other.world.quiet.read().await;
    let metadata = "http://169.254.169.254";
    let from = json!({"format": "Lines", "url": format!("{metadata}/latest/meta-data/"), "sha256": "00".repeat(32)});
    submit(&other, "url", from, json!({"store": {}})).await;
    other.until_reason("url", condition::ACCEPTED, "AddressRefused").await;
    let from = json!({"format": "Lines", "s3": {"uri": "s3://latest/meta-data/iam", "endpoint": metadata}});
    submit(&other, "s3", from, json!({"store": {}})).await;
    other.until_reason("s3", condition::ACCEPTED, "AddressRefused").await;
    let output = json!({"s3": {"uri": "s3://latest/meta-data/iam", "endpoint": metadata}});
    submit(&other, "output", lines(&["a"]), output).await;
    other.until_reason("output", condition::OUTPUT_PUBLISHED, "AddressRefused").await;
}

#[tokio::test]
async fn results_in_the_store_are_kept_under_the_jobs_own_uid() {
    let (owner, other) = neighbours("t-store").await;
    let _quiet = owner.world.quiet.read().await;
    let mine = submit(&owner, "hello", lines(&["mine"]), json!({"store": {}})).await.uid().unwrap();
    let theirs = submit(&other, "hello", lines(&["theirs"]), json!({"store": {}})).await.uid().unwrap();
    owner.until_true("hello", condition::COMPLETE).await;
    other.until_true("hello", condition::COMPLETE).await;
    let texts = |uid: &str| owner.world.gateway.kept(uid).into_values().collect::<String>();
    assert!(texts(&mine).contains("answer to mine") && !texts(&mine).contains("theirs"));
    assert!(texts(&theirs).contains("answer to theirs") && !texts(&theirs).contains("mine"));
}

#[tokio::test]
async fn a_job_that_names_another_manager_is_left_alone() {
    let place = Place::new("t-managed").await;
    let _quiet = place.world.quiet.read().await;
    let managed = json!({"managedBy": "kueue.x-k8s.io/multikueue"});
    let job = place.job("elsewhere", lines(&["a"]), managed).await;
    let ours = json!({"managedBy": "xdcgrid.io/grid-operator"});
    place.job("ours", lines(&["a"]), ours).await;
    place.until_true("ours", condition::COMPLETE).await;
    let job = place.jobs().get(&job.name_any()).await.unwrap();
    assert!(job.status.is_none() && job.finalizers().is_empty(), "{job:#?}");
}
