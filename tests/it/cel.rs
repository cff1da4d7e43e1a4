//! Every rule of the schemas against the real API server: an object that it must refuse, with the sentence that it must say,
//! and one that it must take. Nothing is stored but what transition rules need.

use std::fmt::Debug;

use kube::{
    Api, Client, Resource,
    api::{DeleteParams, DynamicObject, Patch, PatchParams, PostParams},
    core::{ApiResource, ClusterResourceScope, NamespaceResourceScope},
};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use xdc_grid::api::{
    contribution_report::ContributionReport, grid_model::GridModel, grid_network::GridNetwork, grid_node::GridNode,
    grid_node_pool::GridNodePool, inference_job::InferenceJob,
};

use crate::support::{client, world::install_crds};

const ADDRESS: &str = "0x00000000000000000000000000000000000000aa";
const PEER: &str = "16Uiu2HAmPRR6AWmKz5QVUMFbCaByyGZHNbePs3QPaLCBx7ctVnB6";

/// A change of the sound object: a JSON pointer and its new value; null removes.
type Edit = (&'static str, Value);

fn edited(mut object: Value, edits: &[Edit]) -> Value {
    for (pointer, value) in edits {
        let (parent, key) = pointer.rsplit_once('/').unwrap();
        let parent = object.pointer_mut(parent).unwrap_or_else(|| panic!("{pointer} has no parent"));
        match (parent, value) {
            (Value::Object(fields), Value::Null) => drop(fields.remove(key)),
            (Value::Object(fields), value) => drop(fields.insert(key.to_owned(), value.clone())),
            (Value::Array(entries), value) => entries[key.parse::<usize>().unwrap()] = value.clone(),
            _ => panic!("{pointer} is no place"),
        }
    }
    object
}

fn dry_run() -> PostParams {
    PostParams { dry_run: true, ..PostParams::default() }
}

/// One kind on the server, with its sound object.
struct Kind {
    api: Api<DynamicObject>,
    base: Value,
}

impl Kind {
    async fn cluster<K: Resource<DynamicType = (), Scope = ClusterResourceScope>>(
        client: &Client,
        spec: Value,
        name: &str,
    ) -> Self {
        let resource = ApiResource::erase::<K>(&());
        Kind { api: Api::all_with(client.clone(), &resource), base: base::<K>(name, spec) }
    }

    async fn namespaced<K: Resource<DynamicType = (), Scope = NamespaceResourceScope>>(
        client: &Client,
        spec: Value,
        name: &str,
    ) -> Self {
        let resource = ApiResource::erase::<K>(&());
        Kind { api: Api::namespaced_with(client.clone(), "default", &resource), base: base::<K>(name, spec) }
    }

    async fn create(&self, edits: &[Edit]) -> Result<DynamicObject, String> {
        let object = parse(edited(self.base.clone(), edits));
        self.api.create(&dry_run(), &object).await.map_err(|error| error.to_string())
    }

    async fn takes(&self, edits: &[Edit]) {
        if let Err(error) = self.create(edits).await {
            panic!("{edits:?} was refused: {error}");
        }
    }

    async fn refuses(&self, edits: &[Edit], words: &str) {
        match self.create(edits).await {
            Ok(_) => panic!("{edits:?} was taken"),
            Err(error) => assert!(error.contains(words), "{edits:?}: {error} does not say {words:?}"),
        }
    }

    /// Stores the sound object, tries changes of it, and removes it.
    async fn changes(&self, taken: &[Vec<Edit>], refused: &[(Vec<Edit>, &str)]) {
        let name = self.base["metadata"]["name"].as_str().unwrap();
        let owner = PatchParams::apply("it-cel").force();
        self.api.patch(name, &owner, &Patch::Apply(&self.base)).await.unwrap();
        let trial = PatchParams { dry_run: true, ..PatchParams::apply("it-cel").force() };
        for edits in taken {
            let wanted = edited(self.base.clone(), edits);
            self.api
                .patch(name, &trial, &Patch::Apply(&wanted))
                .await
                .unwrap_or_else(|error| panic!("{edits:?} was refused: {error}"));
        }
        for (edits, words) in refused {
            let wanted = edited(self.base.clone(), edits);
            match self.api.patch(name, &trial, &Patch::Apply(&wanted)).await {
                Ok(_) => panic!("{edits:?} was taken"),
                Err(error) => assert!(error.to_string().contains(words), "{edits:?}: {error} does not say {words:?}"),
            }
        }
        self.api.delete(name, &DeleteParams::default()).await.unwrap();
    }
}

fn base<K: Resource<DynamicType = ()>>(name: &str, spec: Value) -> Value {
    json!({"apiVersion": K::api_version(&()), "kind": K::kind(&()), "metadata": {"name": name}, "spec": spec})
}

fn parse<K: DeserializeOwned + Debug>(value: Value) -> K {
    serde_json::from_value(value).unwrap()
}

async fn server() -> Client {
    let client = client().await;
    install_crds(&client).await;
    client
}

#[tokio::test]
async fn grid_network_rules() {
    let spec = json!({
        "chain": {"chainID": 51, "rpcEndpoints": ["https://rpc.example.org"], "contract": ADDRESS, "reporterSecretRef": {"name": "r", "key": "k"}},
        "rewards": {"epochSeconds": 60, "budgetPerEpochWei": "10"},
    });
    let kind = Kind::cluster::<GridNetwork>(&server().await, spec, "cel-network").await;
    kind.takes(&[]).await;
    kind.takes(&[("/spec/chain/contract", json!("xdc00000000000000000000000000000000000000AA"))]).await;
    kind.takes(&[("/spec/rewards/split", json!({"work": 100, "capacity": 0, "storage": 0}))]).await;
    kind.refuses(&[("/spec/rewards/split", json!({"work": 60, "capacity": 30, "storage": 15}))], "must sum to 100")
        .await;
    kind.refuses(&[("/metadata/name", json!("n".repeat(41)))], "at most 40 characters").await;
    for (pointer, value) in [
        ("/spec/chain/contract", json!("00000000000000000000000000000000000000aa")),
        ("/spec/chain/contract", json!("0x00")),
        ("/spec/chain/rpcEndpoints", json!([])),
        ("/spec/chain/rpcEndpoints", json!(["ftp://x"])),
        ("/spec/chain/rpcEndpoints", json!(vec!["https://x"; 6])),
        ("/spec/chain/chainID", json!(0)),
        ("/spec/rewards/budgetPerEpochWei", json!("1e18")),
        ("/spec/rewards/budgetPerEpochWei", json!("-1")),
        ("/spec/rewards/epochSeconds", json!(0)),
        ("/spec/libp2p", json!({"externalAddresses": ["not a multiaddress"]})),
        ("/spec/verification", json!({"samplePercent": 101})),
    ] {
        kind.refuses(
            &[(pointer, value)],
            pointer.rsplit('/').next().unwrap().trim_end_matches("libp2p").trim_end_matches("verification"),
        )
        .await;
    }
    let frozen = "identity of a grid";
    kind.changes(
        &[vec![("/spec/paused", json!(true))], vec![("/spec/chain/rpcEndpoints", json!(["https://other"]))]],
        &[
            (vec![("/spec/chain/chainID", json!(50))], frozen),
            (vec![("/spec/chain/contract", json!("0x00000000000000000000000000000000000000bb"))], frozen),
            (vec![("/spec/libp2p", json!({"networkSalt": "x"}))], frozen),
        ],
    )
    .await;
}

#[tokio::test]
async fn managed_grid_node_rules() {
    let spec = json!({
        "networkRef": {"name": "nowhere"}, "mode": "Managed", "accelerators": {"cpuOnly": {}},
        "storage": {"capacity": "1Gi"}, "rewards": {"payoutAddress": ADDRESS, "stakeWei": "1000000000000000000"},
    });
    let kind = Kind::cluster::<GridNode>(&server().await, spec, "cel-managed").await;
    kind.takes(&[]).await;
    kind.takes(&[("/spec/accelerators", json!({"extendedResource": {"name": "nvidia.com/gpu", "count": 2}}))]).await;
    kind.takes(&[("/spec/accelerators", json!({"dra": {"deviceClassName": "gpu.example.com"}}))]).await;
    kind.takes(&[("/spec/resources", json!({"cpu": 2, "memory": "1.5Gi"}))]).await;
    kind.refuses(&[("/spec/accelerators", json!(null))], "mode Managed needs accelerators").await;
    kind.refuses(&[("/spec/accelerators", json!({}))], "exactly one of extendedResource, dra, cpuOnly").await;
    kind.refuses(
        &[("/spec/accelerators", json!({"cpuOnly": {}, "dra": {"deviceClassName": "x"}}))],
        "exactly one of extendedResource",
    )
    .await;
    kind.refuses(&[("/spec/peerID", json!(PEER))], "peerID is for mode External").await;
    kind.refuses(&[("/spec/rewards/stakeWei", json!("999999999999999999"))], "at least 1 XDC").await;
    kind.refuses(&[("/spec/rewards/stakeWei", json!("0100000000000000000000"))], "stakeWei").await;
    kind.refuses(&[("/spec/rewards/payoutAddress", json!("0x1"))], "payoutAddress").await;
    kind.refuses(&[("/spec/resources", json!({"cpu": "many"}))], "cpu").await;
    kind.refuses(&[("/spec/models", json!(["a", "a"]))], "models").await;
    kind.refuses(&[("/spec/roles", json!(["Cook"]))], "roles").await;
    kind.refuses(&[("/spec/roles", json!([]))], "roles").await;
    kind.refuses(&[("/spec/drain", json!({"deadlineSeconds": 86_401}))], "deadlineSeconds").await;
    kind.refuses(&[("/metadata/name", json!("n".repeat(45)))], "at most 44 characters").await;
    kind.refuses(&[("/metadata/name", json!("a.b"))], "no dots").await;
    kind.changes(
        &[vec![("/spec/unschedulable", json!(true))], vec![("/spec/models", json!(["m"]))]],
        &[
            (vec![("/spec/networkRef/name", json!("other"))], "networkRef and mode are fixed"),
            (vec![("/spec/storage/capacity", json!("2Gi"))], "storage cannot change"),
            (vec![("/spec/storage", json!(null))], "storage cannot change"),
        ],
    )
    .await;
}

#[tokio::test]
async fn grid_node_pod_rules() {
    let spec = json!({"networkRef": {"name": "nowhere"}, "mode": "Managed", "accelerators": {"cpuOnly": {}}});
    let kind = Kind::cluster::<GridNode>(&server().await, spec, "cel-pod").await;
    kind.takes(&[
        ("/spec/runtimeClassName", json!("nvidia")),
        ("/spec/priorityClassName", json!("spare")),
        ("/spec/topologySpreadConstraints", json!([{"topologyKey": "zone", "whenUnsatisfiable": "ScheduleAnyway"}])),
        ("/spec/imagePullSecrets", json!([{"name": "registry"}])),
        ("/spec/podLabels", json!({"team": "research", "kueue.x-k8s.io/queue-name": "q"})),
        ("/spec/podAnnotations", json!({"example.com/owner": "anna"})),
        ("/spec/updatePolicy", json!("Immediate")),
        ("/spec/tolerations", json!([{"key": "gpu", "effect": "NoExecute", "tolerationSeconds": 300}])),
    ])
    .await;
    for key in [
        "xdcgrid.io/node",
        "app.kubernetes.io/name",
        "apps.kubernetes.io/pod-index",
        "statefulset.kubernetes.io/pod-name",
        "controller-revision-hash",
    ] {
        kind.refuses(&[("/spec/podLabels", json!({key: "x"}))], "podLabels may not have keys under").await;
    }
    kind.refuses(&[("/spec/podAnnotations", json!({"xdcgrid.io/applied": ""}))], "podAnnotations may not have keys")
        .await;
    kind.refuses(&[("/spec/podLabels", json!({"team": "no label value"}))], "podLabels").await;
    let many: serde_json::Map<String, Value> = (0..17).map(|n| (format!("k{n}"), json!("v"))).collect();
    kind.refuses(&[("/spec/podLabels", json!(many))], "podLabels").await;
    kind.refuses(&[("/spec/podAnnotations", json!({"a": "x".repeat(1025)}))], "podAnnotations").await;
    kind.refuses(&[("/spec/imagePullSecrets", json!([{"name": "a"}, {"name": "a"}]))], "Duplicate").await;
    kind.refuses(&[("/spec/updatePolicy", json!("Now"))], "updatePolicy").await;
    kind.refuses(&[("/spec/limits", json!({"maxRequests": 0}))], "maxRequests").await;
}

#[tokio::test]
async fn availability_rules() {
    let spec = json!({"networkRef": {"name": "nowhere"}, "mode": "Managed", "accelerators": {"cpuOnly": {}},
        "availability": {"windows": [{"days": ["Monday"], "start": "08:00", "end": "20:00", "timeZone": "Europe/Berlin"}]}});
    let kind = Kind::cluster::<GridNode>(&server().await, spec, "cel-windows").await;
    let window = "/spec/availability/windows/0";
    kind.takes(&[]).await;
    kind.takes(&[("/spec/availability", json!({"windows": []}))]).await;
    kind.takes(&[(window, json!({"start": "22:00", "end": "06:00"}))]).await;
    kind.takes(&[(window, json!({"start": "00:00", "end": "24:00", "timeZone": "+08:00"}))]).await;
    kind.refuses(&[(window, json!({"start": "08:00", "end": "08:00"}))], "the whole day is 00:00 to 24:00").await;
    for (bad, field) in [
        (json!({"start": "8:00", "end": "09:00"}), "start"),
        (json!({"start": "24:00", "end": "09:00"}), "start"),
        (json!({"start": "08:00", "end": "25:00"}), "end"),
        (json!({"start": "08:00", "end": "09:00", "days": []}), "days"),
        (json!({"start": "08:00", "end": "09:00", "days": ["Caturday"]}), "days"),
        (json!({"start": "08:00", "end": "09:00", "timeZone": "no zone"}), "timeZone"),
    ] {
        kind.refuses(&[(window, bad)], field).await;
    }
    let fifteen = vec![json!({"start": "08:00", "end": "09:00"}); 15];
    kind.refuses(&[("/spec/availability/windows", json!(fifteen))], "windows").await;
    kind.changes(&[vec![("/spec/availability", json!(null))]], &[]).await;
}

#[tokio::test]
async fn grid_node_pool_rules() {
    let node = json!({"networkRef": {"name": "nowhere"}, "mode": "Managed", "accelerators": {"cpuOnly": {}},
        "storage": {"capacity": "1Gi"}});
    let spec = json!({"replicas": 2, "template": {"metadata": {"labels": {"team": "research"}}, "spec": node}});
    let kind = Kind::namespaced::<GridNodePool>(&server().await, spec, "cel-pool").await;
    kind.takes(&[]).await;
    kind.takes(&[("/spec/replicas", json!(0))]).await;
    kind.takes(&[("/spec/replicas", json!(null))]).await;
    kind.refuses(&[("/spec/replicas", json!(-1))], "replicas").await;
    kind.refuses(&[("/spec/replicas", json!(1001))], "replicas").await;
    kind.refuses(&[("/spec/template", json!(null))], "template").await;
    kind.refuses(&[("/metadata/name", json!("n".repeat(40)))], "at most 39 characters").await;
    kind.refuses(&[("/metadata/name", json!("a.b"))], "no dots").await;
    let external = json!({"networkRef": {"name": "nowhere"}, "mode": "External", "peerID": PEER});
    kind.refuses(&[("/spec/template/spec", external)], "a pool makes Managed nodes").await;
    let labels = "/spec/template/metadata/labels";
    kind.refuses(&[(labels, json!({"xdcgrid.io/pool": "x"}))], "labels may not have keys under xdcgrid.io/").await;
    let annotations = "/spec/template/metadata/annotations";
    kind.refuses(&[(annotations, json!({"xdcgrid.io/x": ""}))], "annotations may not have keys").await;
    kind.refuses(&[("/spec/template/spec/accelerators", json!({}))], "exactly one of extendedResource").await;
    kind.changes(
        &[
            vec![("/spec/replicas", json!(5))],
            vec![("/spec/template/spec/models", json!(["m"]))],
            vec![("/spec/template/metadata", json!(null))],
        ],
        &[
            (vec![("/spec/template/spec/networkRef/name", json!("other"))], "networkRef and mode are fixed"),
            (vec![("/spec/template/spec/storage/capacity", json!("2Gi"))], "storage cannot change"),
        ],
    )
    .await;
}

#[tokio::test]
async fn external_grid_node_rules() {
    let spec = json!({"networkRef": {"name": "nowhere"}, "mode": "External", "peerID": PEER});
    let kind = Kind::cluster::<GridNode>(&server().await, spec, "cel-external").await;
    kind.takes(&[]).await;
    kind.takes(&[("/spec/rewards", json!({"payoutAddress": ADDRESS}))]).await;
    kind.refuses(&[("/spec/peerID", json!(null))], "mode External needs peerID").await;
    kind.refuses(&[("/spec/peerID", json!("QmYyQSo1c1Ym7orWxLYvCrM2EmxFTANf8wXmmE7DWjhx5N"))], "peerID").await;
    for field in ["accelerators", "nodeSelector", "tolerations", "resources", "storage"] {
        let value = match field {
            "accelerators" => json!({"cpuOnly": {}}),
            "nodeSelector" => json!({"a": "b"}),
            "tolerations" => json!([{"operator": "Exists"}]),
            "resources" => json!({}),
            _ => json!({"capacity": "1Gi"}),
        };
        let mut object = kind.base.clone();
        object["spec"][field] = value;
        let refused = kind.api.create(&dry_run(), &parse(object)).await.unwrap_err().to_string();
        assert!(refused.contains("are for mode Managed"), "{field}: {refused}");
    }
    for (field, value) in [
        ("runtimeClassName", json!("nvidia")),
        ("priorityClassName", json!("spare")),
        ("topologySpreadConstraints", json!([{"topologyKey": "zone"}])),
        ("imagePullSecrets", json!([{"name": "registry"}])),
        ("podLabels", json!({"a": "b"})),
        ("podAnnotations", json!({"a": "b"})),
    ] {
        let mut object = kind.base.clone();
        object["spec"][field] = value;
        let refused = kind.api.create(&dry_run(), &parse(object)).await.unwrap_err().to_string();
        assert!(refused.contains("runtimeClassName, priorityClassName"), "{field}: {refused}");
    }
    let other = "16Uiu2HAm7Fwi7ocWmLW8HGVBvQU6scKgxzgXL51KHXXqXVVqpJwk";
    kind.changes(
        &[vec![("/spec/approved", json!(true))]],
        &[
            (vec![("/spec/peerID", json!(other))], "never changes"),
            (
                vec![
                    ("/spec/mode", json!("Managed")),
                    ("/spec/peerID", json!(null)),
                    ("/spec/accelerators", json!({"cpuOnly": {}})),
                ],
                "networkRef and mode are fixed",
            ),
        ],
    )
    .await;
}

#[tokio::test]
async fn grid_model_rules() {
    let spec = json!({"source": {"url": "https://models.example.org/m.gguf"}, "sha256": "ab".repeat(32)});
    let kind = Kind::cluster::<GridModel>(&server().await, spec, "cel-model").await;
    kind.takes(&[]).await;
    kind.refuses(&[("/spec/source", json!({}))], "exactly one place").await;
    kind.refuses(&[("/spec/source/url", json!("file:///etc/passwd"))], "url").await;
    kind.refuses(&[("/spec/source/blob", json!({}))], "exactly one place").await;
    let secret = json!({"name": "keys"});
    for source in [
        json!({"s3": {"uri": "s3://models/a/m.gguf", "endpoint": "http://s3:8333", "secretRef": secret}}),
        json!({"oci": {"repository": "ghcr.io/you/models/m", "secretRef": secret}}),
        json!({"oci": {"repository": "registry.registry.svc:5000/m_1.x", "plainHTTP": true}}),
        json!({"pvc": {"claimName": "model-files", "path": "gguf/m.gguf"}}),
        json!({"blob": {}}),
    ] {
        kind.takes(&[("/spec/source", source)]).await;
    }
    for (source, says) in [
        (json!({"s3": {"uri": "https://models/m"}}), "uri"),
        (json!({"oci": {"repository": "ghcr.io/you/m:v1"}}), "repository"),
        (json!({"oci": {"repository": "ghcr.io/you/m@sha256:00"}}), "repository"),
        (json!({"oci": {"repository": "ghcr.io"}}), "repository"),
        (json!({"pvc": {"claimName": "c", "path": "/etc/passwd"}}), "path"),
        (json!({"pvc": {"claimName": "c", "path": "a/../../b"}}), "stay on the volume"),
        (json!({"pvc": {"claimName": "c", "path": "a//b"}}), "stay on the volume"),
        (json!({"pvc": {"claimName": "C", "path": "a"}}), "claimName"),
    ] {
        kind.refuses(&[("/spec/source", source)], says).await;
    }
    kind.refuses(&[("/spec/sha256", json!("AB".repeat(32)))], "sha256").await;
    kind.takes(&[("/spec/format", json!("Safetensors"))]).await;
    kind.refuses(&[("/spec/format", json!("ONNX"))], "format").await;
    kind.refuses(&[("/spec/contextLength", json!(0))], "contextLength").await;
    let template = json!({"chatTemplate": "{% for m in messages %}{{ m.content }}{% endfor %}"});
    kind.takes(&[("/spec/tokenizer", template.clone())]).await;
    kind.refuses(&[("/spec/tokenizer", json!({"chatTemplate": ""}))], "chatTemplate").await;
    kind.refuses(&[("/spec/tokenizer", json!({"chatTemplate": "x".repeat(16_385)}))], "chatTemplate").await;
    kind.refuses(&[("/spec/format", json!("Safetensors")), ("/spec/tokenizer", template)], "no chats").await;
    kind.refuses(&[("/spec/costPerToken", json!(0))], "costPerToken").await;
    kind.refuses(&[("/spec/replicas", json!(-1))], "replicas").await;
    kind.changes(
        &[
            vec![("/spec/source/url", json!("https://mirror.example.org/m.gguf"))],
            vec![("/spec/source", json!({"blob": {}}))],
            vec![("/spec/tokenizer", json!({"chatTemplate": "x"}))],
            vec![("/spec/replicas", json!(2))],
        ],
        &[(vec![("/spec/sha256", json!("cd".repeat(32)))], "what a model is")],
    )
    .await;
}

#[tokio::test]
async fn inference_job_rules() {
    let spec = json!({"workload": {
        "modelRef": {"name": "m"}, "input": {"format": "Lines", "inline": "Hello?"}, "output": {"configMap": {"name": "out"}},
    }});
    let kind = Kind::namespaced::<InferenceJob>(&server().await, spec, "cel-job").await;
    kind.takes(&[]).await;
    kind.takes(&[("/spec/workload/input", json!({"configMap": {"name": "c", "key": "k"}}))]).await;
    kind.takes(&[("/spec/workload/input", json!({"url": "https://x/y", "sha256": "ab".repeat(32)}))]).await;
    kind.takes(&[(
        "/spec/workload/generation",
        json!({"temperature": "0.7", "topP": "0.95", "maxTokens": 1, "stop": ["x"]}),
    )])
    .await;
    kind.refuses(&[("/spec/workload/input", json!({"format": "Lines"}))], "exactly one of inline, configMap, url, s3")
        .await;
    let s3 = |uri: &str| json!({"s3": {"uri": uri, "endpoint": "http://s3:8333", "secretRef": {"name": "bucket"}}});
    kind.takes(&[("/spec/workload/input", s3("s3://bucket/folder/input.jsonl"))]).await;
    kind.takes(&[("/spec/workload/input", json!({"s3": {"uri": "s3://bucket/x"}, "sha256": "ab".repeat(32)}))]).await;
    for uri in ["s3://bucket", "s3://bucket/", "s3://bucket/folder/"] {
        kind.refuses(&[("/spec/workload/input", s3(uri))], "names one object").await;
    }
    for uri in ["s3://B/x", "https://bucket/x", "s3://bucket/x?y", "s3://bucket/x y"] {
        kind.refuses(&[("/spec/workload/input", s3(uri))], "uri").await;
    }
    for endpoint in ["s3:8333", "http://user:password@s3", "http://s3/path", "ftp://s3"] {
        let input = json!({"s3": {"uri": "s3://bucket/x", "endpoint": endpoint}});
        kind.refuses(&[("/spec/workload/input", input)], "endpoint").await;
    }
    let both = json!({"s3": {"uri": "s3://bucket/x"}, "inline": "a"});
    kind.refuses(&[("/spec/workload/input", both)], "exactly one of inline").await;
    kind.takes(&[("/spec/workload/output", s3("s3://bucket"))]).await;
    kind.takes(&[("/spec/workload/output", s3("s3://bucket/folder/"))]).await;
    kind.takes(&[("/spec/workload/output", json!({"store": {}}))]).await;
    kind.refuses(&[("/spec/workload/output", json!({"store": {}, "configMap": {"name": "c"}}))], "exactly one place")
        .await;
    kind.refuses(&[("/spec/workload/output", json!({"configMap": {"name": "a/b"}}))], "name").await;
    kind.refuses(
        &[("/spec/workload/output", json!({"s3": {"uri": "s3://b-b", "secretRef": {"name": "../x"}}}))],
        "name",
    )
    .await;
    kind.takes(&[("/spec/verification", json!({"mode": "Full"}))]).await;
    kind.takes(&[("/spec/verification", json!({"samplePercent": 10}))]).await;
    kind.refuses(&[("/spec/verification", json!({"mode": "Full", "samplePercent": 10}))], "mode Full").await;
    kind.refuses(&[("/spec/verification", json!({"mode": "Never"}))], "mode").await;
    let placement = json!({"regions": ["eu"], "nodeSelector": {"tier": "gold"}, "requireTrust": "Managed"});
    kind.takes(&[("/spec/placement", placement)]).await;
    kind.refuses(&[("/spec/placement", json!({"requireTrust": "Probation"}))], "requireTrust").await;
    kind.refuses(&[("/spec/placement", json!({"regions": vec!["x"; 17]}))], "regions").await;
    kind.refuses(&[("/spec/placement", json!({"regions": ["eu", "eu"]}))], "regions").await;
    kind.takes(&[("/spec/managedBy", json!("kueue.x-k8s.io/multikueue"))]).await;
    kind.refuses(&[("/spec/managedBy", json!("somebody"))], "managedBy").await;
    kind.refuses(&[("/spec/startDeadlineSeconds", json!(0))], "startDeadlineSeconds").await;
    kind.refuses(&[("/spec/ttlSecondsAfterFinished", json!(-1))], "ttlSecondsAfterFinished").await;
    kind.refuses(
        &[("/spec/workload/input", json!({"inline": "a", "configMap": {"name": "c", "key": "k"}}))],
        "exactly one of inline",
    )
    .await;
    kind.refuses(&[("/spec/workload/input", json!({"url": "https://x/y"}))], "url and sha256 go together").await;
    kind.refuses(
        &[("/spec/workload/input", json!({"inline": "a", "sha256": "ab".repeat(32)}))],
        "url and sha256 go together",
    )
    .await;
    kind.refuses(&[("/spec/workload/input/inline", json!("x".repeat(131_073)))], "inline").await;
    kind.refuses(&[("/spec/workload/output", json!({}))], "exactly one place").await;
    let local = json!({"target": "Local", "local": {
        "accelerators": {"extendedResource": {"name": "nvidia.com/gpu"}}, "resources": {"cpu": 2, "memory": "4Gi"},
        "nodeSelector": {"zone": "a"}, "tolerations": [{"operator": "Exists"}], "runtimeClassName": "nvidia",
        "priorityClassName": "low", "imagePullSecrets": ["pull"], "modelVolume": {"claimName": "models"},
    }});
    kind.takes(&[("/spec/placement", json!({"target": "Local"}))]).await;
    kind.takes(&[("/spec/placement", local.clone())]).await;
    kind.refuses(&[("/spec/placement", json!({"target": "Grid", "local": {}}))], "placement.local is for target Local")
        .await;
    kind.refuses(&[("/spec/placement", json!({"target": "Local", "local": {"accelerators": {}}}))], "exactly one of")
        .await;
    kind.refuses(&[("/spec/workload/shardSize", json!(501))], "shardSize").await;
    kind.refuses(&[("/spec/placement", json!({"target": "Moon"}))], "target").await;
    kind.takes(&[("/spec/workload/endpoint", json!("/v1/embeddings"))]).await;
    kind.refuses(&[("/spec/workload/endpoint", json!("/v1/images"))], "endpoint").await;
    kind.refuses(&[("/spec/placement", json!({"target": "Local", "regions": ["eu"]}))], "for target Grid").await;
    let store = ("/spec/workload/output", json!({"store": {}}));
    kind.takes(std::slice::from_ref(&store)).await;
    kind.refuses(&[store, ("/spec/placement", json!({"target": "Local"}))], "store").await;
    kind.refuses(&[("/spec/workload/generation", json!({"temperature": "2.5"}))], "temperature").await;
    kind.refuses(&[("/spec/workload/generation", json!({"topP": "1.5"}))], "topP").await;
    kind.refuses(&[("/spec/workload/generation", json!({"stop": ["a", "b", "c", "d", "e"]}))], "stop").await;
    let form = |format: Value| ("/spec/workload/generation", json!({ "responseFormat": format }));
    kind.takes(&[form(json!({"jsonObject": {}}))]).await;
    kind.takes(&[form(json!({"jsonSchema": "{\"type\": \"array\"}"}))]).await;
    for (format, says) in [
        (json!({}), "exactly one of jsonObject, jsonSchema"),
        (json!({"jsonObject": {}, "jsonSchema": "{}"}), "exactly one of jsonObject, jsonSchema"),
        (json!({"jsonSchema": "x".repeat(16_385)}), "jsonSchema"),
    ] {
        kind.refuses(&[form(format)], says).await;
    }
    let completions = ("/spec/workload/endpoint", json!("/v1/completions"));
    kind.takes(std::slice::from_ref(&completions)).await;
    kind.refuses(&[completions, form(json!({"jsonObject": {}}))], "is for endpoint /v1/chat/completions").await;
    kind.refuses(&[("/spec/parallelism", json!(0))], "parallelism").await;
    kind.refuses(&[("/spec/retry", json!({"maxAttempts": 11}))], "maxAttempts").await;
    kind.refuses(&[("/spec/maxFailedRequests", json!(-1))], "maxFailedRequests").await;
    kind.refuses(&[("/spec/activeDeadlineSeconds", json!(0))], "activeDeadlineSeconds").await;
    kind.changes(
        &[
            vec![("/spec/suspend", json!(true))],
            vec![("/spec/cancel", json!(true))],
            vec![("/spec/parallelism", json!(2))],
            vec![("/spec/startDeadlineSeconds", json!(60))],
            vec![("/spec/activeDeadlineSeconds", json!(60))],
            vec![("/spec/ttlSecondsAfterFinished", json!(60))],
            vec![("/spec/maxFailedRequests", json!(1))],
        ],
        &[
            (vec![("/spec/workload/modelRef/name", json!("other"))], "workload never changes"),
            (vec![("/spec/placement", json!({"regions": ["eu"]}))], "placement never changes"),
            (vec![("/spec/placement", local.clone())], "placement never changes"),
            (vec![("/spec/retry", json!({"maxAttempts": 5}))], "retry never changes"),
            (vec![("/spec/verification", json!({"mode": "Full"}))], "verification never changes"),
            (vec![("/spec/managedBy", json!("kueue.x-k8s.io/multikueue"))], "managedBy never changes"),
        ],
    )
    .await;
    let cancelled = Kind {
        base: edited(kind.base.clone(), &[("/spec/cancel", json!(true)), ("/metadata/name", json!("cel-cancelled"))]),
        ..kind
    };
    cancelled.changes(&[], &[(vec![("/spec/cancel", json!(false))], "cancel cannot be taken back")]).await;
}

#[tokio::test]
async fn contribution_report_rules() {
    let spec = json!({
        "networkRef": {"name": "cel"}, "epoch": 3, "root": format!("0x{}", "ab".repeat(32)), "cumulativeWei": "10", "allocatedWei": "1",
        "allocated": "0.0000", "leaves": {"configMap": "x", "dataHash": "0x"}, "reporter": ADDRESS, "auditSecret": "",
        "totals": {"nodes": 0, "requests": 0, "promptTokens": 0, "outputTokens": 0, "units": "0"},
    });
    let kind = Kind::cluster::<ContributionReport>(&server().await, spec, "cel-3").await;
    kind.takes(&[]).await;
    kind.refuses(&[("/metadata/name", json!("cel-4"))], "named <network>-<epoch>").await;
    kind.refuses(&[("/spec/root", json!("0x12"))], "root").await;
    kind.refuses(&[("/spec/cumulativeWei", json!("01"))], "cumulativeWei").await;
    kind.changes(&[vec![]], &[(vec![("/spec/allocatedWei", json!("2"))], "never changes once it is written")]).await;
}

#[tokio::test]
async fn a_field_that_does_not_exist_is_refused_by_name() {
    let client = server().await;
    let spec = json!({"source": {"url": "https://x/y"}, "sha256": "ab".repeat(32), "licence": "Apache-2.0"});
    let kind = Kind::cluster::<GridModel>(&client, spec, "cel-typo").await;
    let strict = PatchParams {
        dry_run: true,
        field_validation: Some(kube::api::ValidationDirective::Strict),
        ..PatchParams::apply("it-cel")
    };
    let refused = kind.api.patch("cel-typo", &strict, &Patch::Apply(&kind.base)).await.unwrap_err().to_string();
    assert!(refused.contains("licence"), "{refused}");
}
