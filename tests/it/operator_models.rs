//! Sources of GridModels: real API server, real controllers, a real S3 server, a scripted gateway that keeps what it is told.

use base64::prelude::{BASE64_STANDARD, Engine};
use k8s_openapi::api::{batch::v1::Job, core::v1::Secret};
use kube::{
    Api, Client,
    api::{DeleteParams, Patch, PatchParams},
};
use serde_json::{Value, json};
use xdc_grid::{
    api::{
        conditions::{Condition, find},
        grid_model::{GridModel, condition},
        inference_job::{self, InferenceJob},
    },
    protocol::internal::{ModelOrder, SourceAccess},
};

use crate::{
    operator_jobs::Place,
    operator_local::Team,
    support::{
        client, eventually,
        s3::{READER, credentials, s3},
        world::{SYSTEM, World, create, create_in, world},
    },
};

struct Model {
    world: &'static World,
    client: Client,
    name: String,
    digest: String,
}

impl Model {
    async fn create(name: &str, source: Value) -> Self {
        let (world, client) = (world().await, client().await);
        let digest = blake3::hash(name.as_bytes()).to_hex().to_string();
        create::<GridModel>(&client, json!({"metadata": {"name": name}, "spec": {"source": source, "sha256": digest}}))
            .await;
        Model { world, client, name: name.into(), digest }
    }

    fn api(&self) -> Api<GridModel> {
        Api::all(self.client.clone())
    }

    async fn secret(&self, name: &str, kind: &str, data: Value) {
        create_in::<Secret>(
            &self.client,
            SYSTEM,
            json!({"metadata": {"name": name}, "type": kind, "stringData": data}),
        )
        .await;
    }

    /// Has it looked at now, where a test would else wait half a minute.
    async fn look_again(&self) {
        let patch = json!({"spec": {"replicas": rand::random_range(1..64)}});
        self.api().patch(&self.name, &PatchParams::default(), &Patch::Merge(&patch)).await.unwrap();
    }

    async fn until_reason(&self, reason: &str) -> Condition {
        let what = format!("model {}: {reason}", self.name);
        eventually(&what, async || {
            let conditions = self.api().get(&self.name).await.unwrap().status?.conditions;
            find(&conditions, condition::RESOLVED).filter(|found| found.reason == reason).cloned()
        })
        .await
    }

    async fn told(&self) -> ModelOrder {
        eventually(&format!("the gateway knows {}", self.name), async || self.world.gateway.model_order(&self.digest))
            .await
    }

    async fn delete(self) {
        self.api().delete(&self.name, &DeleteParams::default()).await.unwrap();
        eventually("the model is gone", async || self.api().get_opt(&self.name).await.unwrap().is_none().then_some(()))
            .await;
        assert!(self.world.gateway.model_order(&self.digest).is_none());
    }
}

#[tokio::test]
async fn every_kind_of_source_becomes_a_place() {
    let _quiet = world().await.quiet.read().await;
    for (name, source, place) in [
        ("from-oci", json!({"oci": {"repository": "ghcr.io/you/m"}}), "oci://ghcr.io/you/m"),
        (
            "from-plain",
            json!({"oci": {"repository": "registry:5000/m", "plainHTTP": true}}),
            "oci+http://registry:5000/m",
        ),
        (
            "from-pvc",
            json!({"pvc": {"claimName": "model-files", "path": "gguf/m.gguf"}}),
            "pvc://model-files/gguf/m.gguf",
        ),
        ("from-grid", json!({"blob": {}}), "grid:"),
        (
            "from-open-s3",
            json!({"s3": {"uri": "s3://models/m", "endpoint": "http://s3:8333"}}),
            "http://s3:8333/models/m",
        ),
    ] {
        let model = Model::create(name, source).await;
        let told = model.told().await;
        assert_eq!((told.source.url.as_str(), &told.access), (place, &None));
        model.until_reason("DigestVerified").await;
        model.delete().await;
    }
}

#[tokio::test]
async fn a_bucket_is_opened_by_a_url_and_its_keys_stay_here() {
    let _quiet = world().await.quiet.read().await;
    let s3 = s3().await;
    s3.bucket("model-files").put("gguf/m.gguf", "the file").await;
    let source = json!({"s3": {"uri": "s3://model-files/gguf/m.gguf", "endpoint": s3.endpoint,
                               "secretRef": {"name": "model-bucket"}}});
    let model = Model::create("from-s3", source).await;
    let missing = model.until_reason("MissingSecret").await;
    assert!(missing.message.contains("model-bucket") && missing.message.contains(SYSTEM), "{}", missing.message);
    assert!(model.world.gateway.model_order(&model.digest).is_none());

    model.secret("model-bucket", "Opaque", credentials(READER)).await;
    model.look_again().await;
    let told = model.told().await;
    assert_eq!(told.source.url, format!("{}/model-files/gguf/m.gguf", s3.endpoint));
    let Some(SourceAccess::SignedUrl(url)) = told.access else { panic!("{told:?}") };
    assert!(!url.contains(READER.1), "{url}");
    assert_eq!(reqwest::get(&url).await.unwrap().text().await.unwrap(), "the file");
    assert_eq!(reqwest::get(&told.source.url).await.unwrap().status(), 403);

    // A gateway that has the file needs no key any more.
    let secrets: Api<Secret> = Api::namespaced(model.client.clone(), SYSTEM);
    secrets.delete("model-bucket", &DeleteParams::default()).await.unwrap();
    model.look_again().await;
    eventually("it is told without", async || {
        let told = model.world.gateway.model_order(&model.digest)?;
        told.access.is_none().then_some(())
    })
    .await;
    model.until_reason("DigestVerified").await;
    model.delete().await;
}

#[tokio::test]
async fn a_registry_gets_the_login_that_is_for_it() {
    let _quiet = world().await.quiet.read().await;
    let source = json!({"oci": {"repository": "registry.example/team/m", "secretRef": {"name": "model-pull"}}});
    let model = Model::create("from-registry", source).await;
    model.until_reason("MissingSecret").await;
    let docker = |registry: &str| {
        let auth = BASE64_STANDARD.encode("puller:let-me-in");
        json!({".dockerconfigjson": json!({"auths": {registry: {"auth": auth}}}).to_string()})
    };
    let kind = "kubernetes.io/dockerconfigjson";
    model.secret("model-pull", kind, docker("another.example")).await;
    model.look_again().await;
    eventually("it says for which registry", async || {
        let found = model.until_reason("MissingSecret").await;
        found.message.contains("no login for registry.example").then_some(())
    })
    .await;
    let secrets: Api<Secret> = Api::namespaced(model.client.clone(), SYSTEM);
    let right = json!({"stringData": docker("registry.example")});
    secrets.patch("model-pull", &PatchParams::default(), &Patch::Merge(&right)).await.unwrap();
    model.look_again().await;
    let told = model.told().await;
    let login = SourceAccess::Login { username: "puller".into(), password: "let-me-in".into() };
    assert_eq!((told.source.url.as_str(), told.access), ("oci://registry.example/team/m", Some(login)));
    secrets.delete("model-pull", &DeleteParams::default()).await.unwrap();
    model.delete().await;
}

#[tokio::test]
async fn a_chat_template_is_told_with_the_model_and_with_the_jobs_that_chat() {
    let place = Place::new("templates").await;
    let _quiet = place.world.quiet.read().await;
    let model = Model::create("templated", json!({"url": "http://models/templated.gguf"})).await;
    let tokenizer = json!({"spec": {"tokenizer": {"chatTemplate": "{{ messages }}"}}});
    model.api().patch("templated", &PatchParams::default(), &Patch::Merge(&tokenizer)).await.unwrap();
    eventually("the gateway knows the template", async || {
        let told = model.world.gateway.model_order(&model.digest)?;
        (told.source.chat_template == "{{ messages }}").then_some(())
    })
    .await;
    for (name, endpoint, template) in
        [("chats", "/v1/chat/completions", "{{ messages }}"), ("completes", "/v1/completions", "")]
    {
        let workload = json!({
            "modelRef": {"name": "templated"}, "endpoint": endpoint, "input": {"format": "Lines", "inline": "Hello?"},
            "generation": {"maxTokens": 4}, "output": {"configMap": {"name": format!("{name}-results")}},
        });
        let job: InferenceJob = create_in(
            &place.client,
            &place.namespace,
            json!({"metadata": {"name": name}, "spec": {"workload": workload}}),
        )
        .await;
        place.until_true(name, inference_job::condition::COMPLETE).await;
        let spec = model.world.gateway.job_spec(&job.metadata.uid.unwrap()).unwrap();
        assert_eq!(spec.chat_template, template);
    }
    model.delete().await;
}

#[tokio::test]
async fn local_jobs_get_from_the_gateway_what_only_it_can_read() {
    let team = Team::new("local-closed").await;
    let model = Model::create("closed", json!({"pvc": {"claimName": "slow", "path": "m"}})).await;
    let workload = json!({
        "modelRef": {"name": "closed"}, "endpoint": "/v1/completions", "input": {"format": "Lines", "inline": "Hello?"},
        "generation": {"maxTokens": 4}, "output": {"configMap": {"name": "closed-results"}},
    });
    let job = team.job("hello", &[], json!({}), json!({"workload": workload})).await;
    team.until_reason("hello", inference_job::condition::ADMITTED, "ModelFetching").await;

    let arrives = json!({"spec": {"source": {"pvc": {"claimName": "files", "path": "m"}}}});
    model.api().patch("closed", &PatchParams::default(), &Patch::Merge(&arrives)).await.unwrap();
    let child: Job = team.child(&job).await;
    let containers = child.spec.unwrap().template.spec.unwrap().containers;
    let url =
        format!("--model-url=http://gateway-api.xdc-grid.svc:8080/grid/v1/models/{}/file?key=opens-it", model.digest);
    let args = containers[0].args.clone().unwrap();
    assert!(args.contains(&url), "{args:?}");
    team.api::<InferenceJob>().delete("hello", &DeleteParams::default()).await.unwrap();
    model.delete().await;
}
