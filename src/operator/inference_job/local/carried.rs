//! The one shard of a brief job, without a ConfigMap of its own: the pod carries the input, and makes a ConfigMap of the answers
//! under a name that nobody else knows. Pure, but for reading them.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use futures::{Stream, stream};
use k8s_openapi::api::{
    batch::v1::Job,
    core::v1::{ConfigMap, EnvVar, EnvVarSource, ObjectFieldSelector},
};
use kube::{Api, ResourceExt};

use super::{
    observe,
    results::{Totals, Unanswered, lines},
    shards::Shard,
};
use crate::{
    operator::{error::Error, gateway::ndjson},
    protocol::shard::{CARRIED_INPUT, MAX_CARRIED_BYTES, MAX_CARRIED_TOKENS, MAX_UNFINISHED, unfinished_name},
};

/// Name of the ConfigMap that the pod makes, on the child Job.
pub const ANSWERS: &str = "xdcgrid.io/answers";
/// Label of the Job controller on the pods of a Job: its uid.
const CONTROLLER_UID: &str = "batch.kubernetes.io/controller-uid";

/// How input and results go between the operator and the pods.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Mail {
    /// A ConfigMap a shard.
    Shards,
    Carried(Carried),
}

/// What the pod of a brief job carries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Carried {
    pub input: String,
    /// Name of the ConfigMap with the answers.
    pub answers: String,
}

impl Carried {
    /// For the job whose other names begin with `name`. `secret` makes the name of the answers: no other pod of the namespace, all
    /// of which may make ConfigMaps, can guess it.
    pub fn new(name: &str, input: String, secret: [u8; 16]) -> Self {
        Carried { input, answers: format!("{name}-{}", hex::encode(secret)) }
    }

    /// What the child Job says.
    pub fn read(child: &Job) -> Option<Self> {
        let answers = child.annotations().get(ANSWERS)?.clone();
        let pod = child.spec.as_ref()?.template.spec.as_ref()?;
        let variables = pod.containers.iter().flat_map(|container| container.env.iter().flatten());
        let text = variables.into_iter().find(|variable| variable.name == CARRIED_INPUT)?.value.as_ref()?;
        let input = String::from_utf8(STANDARD.decode(text).ok()?).ok()?;
        Some(Carried { input, answers })
    }

    /// In base64, because Kubernetes reads `$(…)` in a value.
    pub fn env(&self) -> Vec<EnvVar> {
        let owner = ObjectFieldSelector {
            field_path: format!("metadata.labels['{CONTROLLER_UID}']"),
            ..ObjectFieldSelector::default()
        };
        vec![
            EnvVar { name: CARRIED_INPUT.into(), value: Some(STANDARD.encode(&self.input)), ..EnvVar::default() },
            EnvVar {
                name: "GRID_OWNER_UID".into(),
                value_from: Some(EnvVarSource { field_ref: Some(owner), ..EnvVarSource::default() }),
                ..EnvVar::default()
            },
        ]
    }
}

/// Whether a pod can carry it: it is small, and what is lost with the pod is soon computed again.
pub fn fits_a_pod(shard: &Shard) -> bool {
    shard.input.len() <= MAX_CARRIED_BYTES && shard.tokens <= MAX_CARRIED_TOKENS
}

/// Whether the pods of a child carry their input.
pub fn is_carried(child: &Job) -> bool {
    child.annotations().contains_key(ANSWERS)
}

/// NDJSON of `ResultLine` from what the pods of the child `name` made, as `results::stream` gives it for shards.
pub fn stream(
    jobs: Api<Job>,
    maps: Api<ConfigMap>,
    name: String,
    uid: String,
    unanswered: Unanswered,
    totals: Totals,
) -> impl Stream<Item = Result<Bytes, Error>> + Send {
    stream::once(async move {
        let child = jobs.get_opt(&name).await?;
        let missing = || Error::ShardMissing(name.clone());
        let child = child.filter(|child| child.labels().get(super::UID_LABEL) == Some(&uid)).ok_or_else(missing)?;
        let carried = Carried::read(&child).ok_or_else(missing)?;
        let made = made(&maps, &carried.answers).await?;
        if made.is_empty() && observe::is_answered(&child, 0) {
            return Err(Error::ShardMissing(carried.answers));
        }
        let mut bytes = Vec::new();
        for line in lines(&carried.input, &made, &uid, &unanswered) {
            totals.add(&line);
            bytes.extend_from_slice(&ndjson(&line)?);
        }
        Ok(Bytes::from(bytes))
    })
}

/// All answers in one, or what pods left that were stopped.
async fn made(maps: &Api<ConfigMap>, answers: &str) -> Result<Vec<ConfigMap>, Error> {
    if let Some(all) = maps.get_opt(answers).await? {
        return Ok(vec![all]);
    }
    let mut made = Vec::new();
    for number in 1..=MAX_UNFINISHED {
        match maps.get_opt(&unfinished_name(answers, number)).await? {
            Some(some) => made.push(some),
            None => break,
        }
    }
    Ok(made)
}

#[cfg(test)]
mod tests {
    use super::{super::job::tests::carrying, *};

    #[test]
    fn what_a_pod_carries_is_read_back_from_its_job_whatever_is_in_it() {
        let input = "a $(HOME) and a \"quote\"\n";
        let carried = Carried::new("hello", input.into(), [0xab; 16]);
        assert_eq!(carried.answers, format!("hello-{}", "ab".repeat(16)));
        let child = carrying(&carried);
        assert!(is_carried(&child));
        assert_eq!(Carried::read(&child), Some(carried));
    }

    #[test]
    fn a_job_that_somebody_took_the_note_from_is_read_as_one_of_shards() {
        let mut child = carrying(&Carried::new("hello", "a".into(), [1; 16]));
        child.metadata.annotations.as_mut().unwrap().remove(ANSWERS);
        assert!(!is_carried(&child));
        assert_eq!(Carried::read(&child), None);
    }

    #[test]
    fn a_variable_holds_the_largest_input_that_is_carried() {
        let carried = Carried::new("hello", "x".repeat(MAX_CARRIED_BYTES), [1; 16]);
        let longest = carried.env().iter().filter_map(|variable| variable.value.as_ref()).map(String::len).max();
        assert!(longest.is_some_and(|length| length + CARRIED_INPUT.len() + 2 < 128 << 10));
    }

    #[test]
    fn what_is_large_or_takes_long_is_not_carried() {
        let shard = |bytes: usize, tokens: u64| Shard { index: 0, requests: 1, tokens, input: "x".repeat(bytes) };
        assert!(fits_a_pod(&shard(MAX_CARRIED_BYTES, MAX_CARRIED_TOKENS)));
        assert!(!fits_a_pod(&shard(MAX_CARRIED_BYTES + 1, 1)) && !fits_a_pod(&shard(1, MAX_CARRIED_TOKENS + 1)));
    }
}
