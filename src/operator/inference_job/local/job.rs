//! Pure: the child Job and its pods.

use std::collections::BTreeMap;

use k8s_openapi::{
    api::{
        batch::v1::{
            Job, JobSpec, PodFailurePolicy, PodFailurePolicyOnExitCodesRequirement,
            PodFailurePolicyOnPodConditionsPattern, PodFailurePolicyRule,
        },
        core::v1::{
            ConfigMapProjection, Container, EnvVar, EnvVarSource, KeyToPath, LocalObjectReference, ObjectFieldSelector,
            PersistentVolumeClaimVolumeSource, PodSpec, PodTemplateSpec, ProjectedVolumeSource,
            ServiceAccountTokenProjection, Volume, VolumeProjection,
        },
        resource::v1::{ResourceClaimTemplate, ResourceClaimTemplateSpec},
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use serde::{Deserialize, Serialize};

use super::{
    NAME_ANNOTATION, access,
    carried::{ANSWERS, Mail},
    labels,
    shards::metadata,
    validate::LocalJob,
};
use crate::{
    operator::{config::OperatorConfig, inference_job::output::Frame, pods},
    protocol::shard::Exit,
};

/// Requests of each shard, in order, such as `200,200,37`.
pub const SIZES: &str = "xdcgrid.io/shard-sizes";
/// An [`Asked`] as JSON: what the operator last asked of the child. What somebody else changed since is left alone.
pub const ASKED: &str = "xdcgrid.io/asked";

const CONTAINER: &str = "worker";
const CREDENTIALS: &str = "credentials";
const CREDENTIALS_FOLDER: &str = "/var/run/secrets/xdc-grid/api";
const DATA: &str = "data";
const DATA_FOLDER: &str = "/var/lib/xdc-grid";
/// Where a container leaves its last words; Kubernetes makes the file.
const REPORT_FILE: &str = "/dev/termination-log";
/// The kubelet renews it long before.
const TOKEN_SECONDS: i64 = 3600;
/// A finished Job and its pods stay this long, for `kubectl logs`.
pub const KEPT_SECONDS: i32 = 3600;
/// What is finished is handed back within it.
const GRACE_SECONDS: i64 = 30;

/// What the operator asks of a child after it was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Asked {
    /// Absent once it is a queue's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub suspend: Option<bool>,
    pub parallelism: u32,
    /// It is to end: cancelled, too late, or with too many failures.
    #[serde(default)]
    pub stop: bool,
}

impl Asked {
    pub fn of(local: &LocalJob, shards: u32, stop: bool) -> Self {
        let suspend = (!local.is_queued()).then_some(local.suspend);
        Asked { suspend, parallelism: local.parallelism.min(shards).max(1), stop }
    }

    pub fn read(job: &Job) -> Option<Self> {
        serde_json::from_str(job.metadata.annotations.as_ref()?.get(ASKED)?).ok()
    }

    pub fn to_json(self) -> String {
        serde_json::to_string(&self).unwrap_or_default()
    }
}

/// Requests of each shard, as the child says.
pub fn sizes(job: &Job) -> Vec<u32> {
    let text = job.metadata.annotations.as_ref().and_then(|annotations| annotations.get(SIZES));
    text.map(|text| text.split(',').filter_map(|size| size.parse().ok()).collect()).unwrap_or_default()
}

/// How long a child stays once it is finished; `None` for ever.
pub fn kept(job: &Job) -> Option<i32> {
    job.spec.as_ref()?.ttl_seconds_after_finished
}

pub fn build(local: &LocalJob, frame: &Frame, sizes: &[u32], mail: &Mail, url: &str, config: &OperatorConfig) -> Job {
    let shards = u32::try_from(sizes.len()).unwrap_or(u32::MAX);
    let asked = Asked::of(local, shards, false);
    let mut metadata = metadata(local, frame, local.name.clone());
    metadata.labels.get_or_insert_default().extend(local.queue_labels.clone());
    let sizes = sizes.iter().map(u32::to_string).collect::<Vec<_>>().join(",");
    let annotations = [(SIZES.to_owned(), sizes), (ASKED.to_owned(), asked.to_json())];
    let annotated = metadata.annotations.get_or_insert_default();
    annotated.extend(annotations);
    // A large job must not go before its results are published: it would be computed again. A brief one is.
    let kept = match mail {
        Mail::Shards => None,
        Mail::Carried(carried) => {
            annotated.insert(ANSWERS.to_owned(), carried.answers.clone());
            Some(KEPT_SECONDS)
        }
    };
    Job {
        metadata,
        spec: Some(JobSpec {
            completion_mode: Some("Indexed".into()),
            completions: Some(signed(shards)),
            parallelism: Some(signed(asked.parallelism)),
            // A queue takes a job that is suspended and lets it go when there is quota.
            suspend: Some(asked.suspend.unwrap_or(true)),
            backoff_limit_per_index: Some(signed(local.max_attempts.saturating_sub(1))),
            max_failed_indexes: local.no_failure_allowed.then_some(0),
            pod_failure_policy: Some(failure_policy()),
            // A shard has one pod at a time: two would write the same results.
            pod_replacement_policy: Some("Failed".into()),
            ttl_seconds_after_finished: kept,
            template: PodTemplateSpec {
                metadata: Some(ObjectMeta {
                    labels: Some(labels(&frame.uid)),
                    annotations: Some([(NAME_ANNOTATION.to_owned(), frame.name.clone())].into()),
                    ..ObjectMeta::default()
                }),
                spec: Some(pod(local, frame, mail, url, config)),
            },
            ..JobSpec::default()
        }),
        ..Job::default()
    }
}

/// Devices of the pods, with dynamic resource allocation.
pub fn claim_template(local: &LocalJob, frame: &Frame) -> Option<ResourceClaimTemplate> {
    let spec = pods::claim_spec(&local.hardware)?;
    Some(ResourceClaimTemplate {
        metadata: metadata(local, frame, local.name.clone()),
        spec: ResourceClaimTemplateSpec { spec, ..ResourceClaimTemplateSpec::default() },
    })
}

/// The first rule that fits decides; what none fits counts as a try of its shard.
fn failure_policy() -> PodFailurePolicy {
    let on_exit = |action: &str, exits: &[Exit]| PodFailurePolicyRule {
        action: action.into(),
        on_exit_codes: Some(PodFailurePolicyOnExitCodesRequirement {
            container_name: Some(CONTAINER.into()),
            operator: "In".into(),
            values: exits.iter().map(|exit| i32::from(exit.code())).collect(),
        }),
        ..PodFailurePolicyRule::default()
    };
    let disrupted = PodFailurePolicyOnPodConditionsPattern { type_: "DisruptionTarget".into(), status: "True".into() };
    PodFailurePolicy {
        rules: vec![
            // Preempted, evicted, drained: no fault of the shard's.
            PodFailurePolicyRule {
                action: "Ignore".into(),
                on_pod_conditions: Some(vec![disrupted]),
                ..PodFailurePolicyRule::default()
            },
            // Every other pod would find the same file.
            on_exit("FailJob", &[Exit::ModelDigestMismatch, Exit::ModelUnusable]),
            on_exit("FailIndex", &[Exit::BadShard]),
        ],
    }
}

fn pod(local: &LocalJob, frame: &Frame, mail: &Mail, url: &str, config: &OperatorConfig) -> PodSpec {
    let account = match mail {
        Mail::Shards => &local.name,
        Mail::Carried(_) => access::SHARED,
    };
    let secrets = local.image_pull_secrets.iter().map(|name| LocalObjectReference { name: name.clone() });
    PodSpec {
        restart_policy: Some("Never".into()),
        service_account_name: Some(account.to_owned()),
        // The token comes in a volume of its own, with nothing beside it.
        automount_service_account_token: Some(false),
        enable_service_links: Some(false),
        termination_grace_period_seconds: Some(GRACE_SECONDS),
        security_context: Some(pods::pod_security()),
        node_selector: Some(local.node_selector.clone()).filter(|labels| !labels.is_empty()),
        tolerations: Some(local.tolerations.clone()).filter(|tolerations| !tolerations.is_empty()),
        runtime_class_name: local.runtime_class_name.clone(),
        priority_class_name: local.priority_class_name.clone(),
        image_pull_secrets: Some(secrets.collect::<Vec<_>>()).filter(|secrets| !secrets.is_empty()),
        resource_claims: pods::device_claims(&local.hardware, &local.name),
        containers: vec![container(local, frame, mail, url, config)],
        volumes: Some(vec![credentials(), data(local), pods::scratch("tmp", "64Mi")]),
        ..PodSpec::default()
    }
}

fn container(local: &LocalJob, frame: &Frame, mail: &Mail, url: &str, config: &OperatorConfig) -> Container {
    Container {
        name: CONTAINER.into(),
        image: Some(config.worker_image.clone()),
        image_pull_policy: Some(config.worker_image_pull_policy.clone()),
        command: Some(vec!["/usr/local/bin/grid-worker".into()]),
        args: Some(args(local, frame, mail, url)),
        env: Some(env(local, mail)),
        resources: Some(pods::resources(&local.hardware, &local.resources)),
        security_context: Some(pods::container_security()),
        termination_message_path: Some(REPORT_FILE.into()),
        volume_mounts: Some(vec![
            pods::mount(CREDENTIALS, CREDENTIALS_FOLDER, true),
            pods::mount(DATA, DATA_FOLDER, false),
            pods::mount("tmp", "/tmp", false),
        ]),
        ..Container::default()
    }
}

fn env(local: &LocalJob, mail: &Mail) -> Vec<EnvVar> {
    let node = ObjectFieldSelector { field_path: "spec.nodeName".into(), ..ObjectFieldSelector::default() };
    let mut variables = vec![EnvVar {
        name: "GRID_NODE_NAME".into(),
        value_from: Some(EnvVarSource { field_ref: Some(node), ..EnvVarSource::default() }),
        ..EnvVar::default()
    }];
    if !local.chat_template.is_empty() {
        // Kubernetes puts something in for $(NAME), and a dollar for two.
        let value = Some(local.chat_template.replace('$', "$$"));
        variables.push(EnvVar { name: "GRID_CHAT_TEMPLATE".into(), value, ..EnvVar::default() });
    }
    if let Mail::Carried(carried) = mail {
        variables.extend(carried.env());
    }
    variables
}

/// All but the shard's number, which the Job controller gives to each pod as JOB_COMPLETION_INDEX.
fn args(local: &LocalJob, frame: &Frame, mail: &Mail, url: &str) -> Vec<String> {
    let mut args = vec![
        "batch".to_owned(),
        format!("--job-uid={}", frame.uid),
        format!("--model-url={url}"),
        format!("--model-sha256={}", frame.model_digest),
        format!("--namespace={}", frame.namespace),
        format!("--credentials-dir={CREDENTIALS_FOLDER}"),
        format!("--data-dir={DATA_FOLDER}"),
        format!("--max-attempts={}", local.max_attempts),
        format!("--report-file={REPORT_FILE}"),
    ];
    match mail {
        Mail::Shards => args.push(format!("--shard-config-maps={}", local.name)),
        Mail::Carried(carried) => {
            args.extend([format!("--answers={}", carried.answers), format!("--owner-job={}", local.name)]);
        }
    }
    args.extend(local.context_length.map(|tokens| format!("--context-length={tokens}")));
    args
}

fn credentials() -> Volume {
    let token = ServiceAccountTokenProjection {
        path: "token".into(),
        expiration_seconds: Some(TOKEN_SECONDS),
        ..ServiceAccountTokenProjection::default()
    };
    // Kubernetes puts this ConfigMap into every namespace.
    let ca = ConfigMapProjection {
        name: "kube-root-ca.crt".into(),
        items: Some(vec![KeyToPath { key: "ca.crt".into(), path: "ca.crt".into(), ..KeyToPath::default() }]),
        ..ConfigMapProjection::default()
    };
    Volume {
        name: CREDENTIALS.into(),
        projected: Some(ProjectedVolumeSource {
            // Read by the group that fsGroup names.
            default_mode: Some(0o440),
            sources: Some(vec![
                VolumeProjection { service_account_token: Some(token), ..VolumeProjection::default() },
                VolumeProjection { config_map: Some(ca), ..VolumeProjection::default() },
            ]),
        }),
        ..Volume::default()
    }
}

fn data(local: &LocalJob) -> Volume {
    match &local.model_claim {
        Some(claim) => Volume {
            name: DATA.into(),
            persistent_volume_claim: Some(PersistentVolumeClaimVolumeSource {
                claim_name: claim.clone(),
                ..PersistentVolumeClaimVolumeSource::default()
            }),
            ..Volume::default()
        },
        None => pods::scratch(DATA, "20Gi"),
    }
}

fn signed(count: u32) -> i32 {
    i32::try_from(count).unwrap_or(i32::MAX)
}

/// Index of a pod of an Indexed Job.
pub fn index_of(annotations: &BTreeMap<String, String>) -> Option<u32> {
    annotations.get("batch.kubernetes.io/job-completion-index")?.parse().ok()
}

#[cfg(test)]
pub(in crate::operator) mod tests {
    use super::*;
    use crate::{
        api::{ids::ModelDigest, inference_job::InferenceJob},
        operator::{
            grid_node::build::tests::config,
            inference_job::local::{
                carried::Carried,
                validate::{
                    self,
                    tests::{job, model},
                },
            },
        },
        protocol::internal::Endpoint,
    };

    pub(in crate::operator) fn frame() -> Frame {
        Frame {
            namespace: "team-a".into(),
            name: "hello".into(),
            uid: "u1".into(),
            model: "m".into(),
            model_digest: ModelDigest([0x11; 32]),
            endpoint: Endpoint::ChatCompletions,
        }
    }

    pub(in crate::operator) fn child(job: &InferenceJob, sizes: &[u32]) -> Job {
        built(job, sizes, &Mail::Shards)
    }

    /// The child of a brief job.
    pub(in crate::operator) fn carrying(carried: &Carried) -> Job {
        built(&job(""), &[1], &Mail::Carried(carried.clone()))
    }

    fn built(job: &InferenceJob, sizes: &[u32], mail: &Mail) -> Job {
        let local = validate::validate(job, Some(&model()), None).unwrap();
        build(&local, &frame(), sizes, mail, "http://models/m.gguf", &config())
    }

    #[test]
    fn a_pod_that_carries_its_input_has_the_shared_identity_and_goes_by_itself() {
        let carried = Carried::new("hello", "the input".into(), [7; 16]);
        let spec = carrying(&carried).spec.unwrap();
        assert_eq!(spec.ttl_seconds_after_finished, Some(KEPT_SECONDS));
        assert_eq!(child(&job(""), &[1]).spec.unwrap().ttl_seconds_after_finished, None);
        let pod = pod_of(spec);
        assert_eq!(pod.service_account_name.as_deref(), Some(access::SHARED));
        let args = pod.containers[0].args.clone().unwrap();
        assert!(args.contains(&format!("--answers={}", carried.answers)), "{args:?}");
        assert!(!args.iter().any(|arg| arg.contains("shard-config-maps") || arg.contains("the input")), "{args:?}");
    }

    fn spec(more: &str) -> JobSpec {
        child(&job(more), &[200, 37]).spec.unwrap()
    }

    fn pod_of(spec: JobSpec) -> PodSpec {
        spec.template.spec.unwrap()
    }

    #[test]
    fn a_shard_is_an_index_with_tries_of_its_own() {
        let spec = spec("  retry: {maxAttempts: 4}\n  parallelism: 1");
        assert_eq!((spec.completion_mode.as_deref(), spec.completions), (Some("Indexed"), Some(2)));
        assert_eq!((spec.backoff_limit_per_index, spec.max_failed_indexes), (Some(3), None));
        assert_eq!((spec.parallelism, spec.suspend), (Some(1), Some(false)));
        assert_eq!(sizes(&child(&job(""), &[200, 37])), [200, 37]);
    }

    #[test]
    fn one_failed_shard_ends_a_job_that_allows_no_failure() {
        assert_eq!(spec("  maxFailedRequests: 0").max_failed_indexes, Some(0));
    }

    #[test]
    fn exit_codes_decide_what_a_failure_costs() {
        let rules = spec("").pod_failure_policy.unwrap().rules;
        let found: Vec<_> = rules
            .into_iter()
            .map(|rule| (rule.action, rule.on_exit_codes.map(|codes| codes.values).unwrap_or_default()))
            .collect();
        assert_eq!(
            found,
            [("Ignore".to_owned(), vec![]), ("FailJob".to_owned(), vec![4, 5]), ("FailIndex".to_owned(), vec![3])]
        );
    }

    #[test]
    fn a_queue_gets_a_suspended_job_with_its_labels() {
        let mut queued = job("");
        queued.metadata.labels = Some([("kueue.x-k8s.io/queue-name".to_owned(), "q".to_owned())].into());
        let child = child(&queued, &[1]);
        assert_eq!(child.metadata.labels.clone().unwrap()["kueue.x-k8s.io/queue-name"], "q");
        assert_eq!(child.spec.clone().unwrap().suspend, Some(true));
        assert_eq!(Asked::read(&child).unwrap().suspend, None, "suspend is the queue's");
    }

    #[test]
    fn the_pods_meet_the_restricted_standard_and_hold_one_token_of_their_own() {
        let pod = pod_of(spec(""));
        assert_eq!((pod.automount_service_account_token, pod.enable_service_links), (Some(false), Some(false)));
        assert_eq!(pod.restart_policy.as_deref(), Some("Never"));
        assert_eq!(pod.security_context.unwrap().run_as_non_root, Some(true));
        let container = &pod.containers[0];
        assert_eq!(container.security_context.clone().unwrap().read_only_root_filesystem, Some(true));
        let args = container.args.clone().unwrap();
        for expected in ["batch", "--job-uid=u1", "--model-url=http://models/m.gguf", "--namespace=team-a"] {
            assert!(args.iter().any(|arg| arg == expected), "{expected} in {args:?}");
        }
        let projected: Vec<_> = pod.volumes.unwrap().into_iter().filter_map(|volume| volume.projected).collect();
        assert_eq!(projected[0].sources.as_ref().unwrap().len(), 2);
    }

    #[test]
    fn a_chat_template_reaches_the_pods_as_it_was_written() {
        let mut model = model();
        model.spec.tokenizer = serde_yaml::from_str("{chatTemplate: '{{ messages }} $(HOME) $'}").unwrap();
        let local = validate::validate(&job(""), Some(&model), None).unwrap();
        let variables = env(&local, &Mail::Shards);
        let template = variables.iter().find(|variable| variable.name == "GRID_CHAT_TEMPLATE").unwrap();
        assert_eq!(template.value.as_deref(), Some("{{ messages }} $$(HOME) $$"));
        assert_eq!(env(&validate::validate(&job(""), None, None).unwrap(), &Mail::Shards).len(), 1);
    }

    #[test]
    fn placement_passes_through() {
        let mut job = job("");
        job.spec.placement.local = serde_yaml::from_str(
            "{accelerators: {extendedResource: {name: nvidia.com/gpu, count: 2}}, runtimeClassName: nvidia, priorityClassName: low, imagePullSecrets: [pull], nodeSelector: {zone: a}, tolerations: [{key: gpu, operator: Exists}], modelVolume: {claimName: models}}",
        )
        .unwrap();
        let pod = pod_of(child(&job, &[1]).spec.unwrap());
        let limits = pod.containers[0].resources.clone().unwrap().limits.unwrap();
        assert_eq!(limits["nvidia.com/gpu"].0, "2");
        assert_eq!(
            (pod.runtime_class_name.as_deref(), pod.priority_class_name.as_deref()),
            (Some("nvidia"), Some("low"))
        );
        assert_eq!(pod.image_pull_secrets.unwrap()[0].name, "pull");
        assert_eq!((pod.node_selector.unwrap()["zone"].as_str(), pod.tolerations.unwrap().len()), ("a", 1));
        let claims = pod.volumes.unwrap().into_iter().filter_map(|volume| volume.persistent_volume_claim);
        assert_eq!(claims.map(|claim| claim.claim_name).collect::<Vec<_>>(), ["models"]);
    }

    #[test]
    fn devices_are_claimed_from_a_template_beside_the_job() {
        let mut job = job("");
        job.spec.placement.local =
            serde_yaml::from_str("{accelerators: {dra: {deviceClassName: gpu, count: 2}}}").unwrap();
        let local = validate::validate(&job, Some(&model()), None).unwrap();
        let template = claim_template(&local, &frame()).unwrap();
        let pod = pod_of(child(&job, &[1]).spec.unwrap());
        assert_eq!(pod.resource_claims.unwrap()[0].resource_claim_template_name, template.metadata.name);
    }
}
