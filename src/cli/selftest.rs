//! One prompt through everything: API server, operator, gateway, a worker and back into a ConfigMap. What `helm test` runs, as
//! `grid-operator selftest`, with rights of its own.

use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::ConfigMap;
use kube::{
    Api, Client, ResourceExt,
    api::{DeleteParams, ListParams, PostParams},
    runtime::wait::{await_condition, conditions::is_deleted},
};
use tokio::time::timeout;

use super::CliError;
use crate::api::{
    conditions,
    grid_model::{self, GridModel, ModelFormat},
    inference_job::{
        EndpointSpec, GenerationSpec, InferenceJob, InferenceJobSpec, InputFormat, InputSpec, OutputSpec, Workload,
        condition, shard_size,
    },
    refs::{ConfigMapRef, NameRef},
};

/// Name of the job, and of its ConfigMap with `-results`: the chart's Role grants exactly these.
const JOB: &str = "xdc-grid-selftest";
const RESULTS: &str = "xdc-grid-selftest-results";
const PROMPT: &str = "What is the capital of France?";

/// Options of `grid-operator selftest`.
#[derive(Debug, Clone, clap::Args)]
pub struct SelftestOptions {
    /// Namespace for the job and its results.
    #[arg(long, env = "GRID_NAMESPACE", default_value = "default")]
    pub namespace: String,
    /// GridModel to ask (default: the first that is Ready).
    #[arg(long)]
    pub model: Option<String>,
    /// How long everything together may take.
    #[arg(long, default_value_t = 180, value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub timeout_seconds: u64,
}

/// Runs one prompt and waits for its answer. Prints what happens; the error says what to look at.
pub async fn selftest(client: Client, options: &SelftestOptions) -> Result<(), CliError> {
    let started = Instant::now();
    let limit = Duration::from_secs(options.timeout_seconds);
    let outcome = timeout(limit, ask(&client, options)).await;
    let answer = match outcome {
        Ok(answer) => answer?,
        Err(_) => return Err(explain_timeout(&client, options).await),
    };
    println!("answer after {:.1} s: {answer}", started.elapsed().as_secs_f64());
    Ok(())
}

async fn ask(client: &Client, options: &SelftestOptions) -> Result<String, CliError> {
    let jobs: Api<InferenceJob> = Api::namespaced(client.clone(), &options.namespace);
    let model = match &options.model {
        Some(name) => name.clone(),
        None => first_ready_model(client).await?,
    };
    remove(client, &options.namespace).await?;
    println!("asking {model}: {PROMPT}");
    let failure = |error| CliError::from_kube(error, "InferenceJob", JOB, Some(&options.namespace));
    jobs.create(&PostParams::default(), &job(&model)).await.map_err(failure)?;
    let ended = await_condition(jobs, JOB, |job: Option<&InferenceJob>| job.is_some_and(has_ended)).await;
    let job = ended.map_err(|error| CliError::Unreachable(error.to_string()))?;
    let job = job.ok_or_else(|| CliError::Other(format!("the job {JOB} was deleted while it ran")))?;
    verdict(&job)?;
    let answer = read_answer(client, &options.namespace).await?;
    remove(client, &options.namespace).await?;
    Ok(answer)
}

async fn first_ready_model(client: &Client) -> Result<String, CliError> {
    let models = Api::<GridModel>::all(client.clone()).list(&ListParams::default()).await;
    let models = models.map_err(|error| CliError::from_kube(error, "GridModel", "", None))?;
    // An encoder answers nobody.
    let ready = |model: &&GridModel| {
        let status = model.status.as_ref();
        model.spec.format != ModelFormat::Safetensors
            && status.is_some_and(|status| conditions::is_true(&status.conditions, grid_model::condition::READY))
    };
    models.items.iter().find(ready).map(|model| model.name_any()).ok_or_else(|| {
        CliError::Other(
            "no GridModel that writes text is Ready, so there is nothing to ask: kubectl get gridmodels,gridnodes"
                .into(),
        )
    })
}

fn job(model: &str) -> InferenceJob {
    InferenceJob::new(
        JOB,
        InferenceJobSpec {
            workload: Workload {
                model_ref: NameRef { name: model.into() },
                endpoint: EndpointSpec::ChatCompletions,
                input: InputSpec {
                    format: InputFormat::Lines,
                    inline: Some(PROMPT.into()),
                    config_map: None,
                    url: None,
                    s3: None,
                    sha256: None,
                },
                generation: GenerationSpec { max_tokens: 16, temperature: "0".into(), ..GenerationSpec::default() },
                output: OutputSpec { config_map: Some(ConfigMapRef { name: RESULTS.into() }), s3: None, store: None },
                shard_size: shard_size(),
            },
            placement: Default::default(),
            suspend: false,
            parallelism: None,
            cancel: false,
            retry: Default::default(),
            max_failed_requests: Some(0),
            verification: None,
            payment: None,
            start_deadline_seconds: None,
            active_deadline_seconds: None,
            ttl_seconds_after_finished: Some(600),
            managed_by: None,
        },
    )
}

fn has_ended(job: &InferenceJob) -> bool {
    job.status.as_ref().is_some_and(|status| {
        [condition::COMPLETE, condition::FAILED].iter().any(|type_| conditions::is_true(&status.conditions, type_))
    })
}

fn verdict(job: &InferenceJob) -> Result<(), CliError> {
    let found = job.status.as_ref().map(|status| status.conditions.as_slice()).unwrap_or_default();
    match conditions::find(found, condition::FAILED) {
        Some(failed) if conditions::is_true(found, condition::FAILED) => {
            Err(CliError::Other(format!("the job failed: {}: {}", failed.reason, failed.message)))
        }
        _ => Ok(()),
    }
}

async fn read_answer(client: &Client, namespace: &str) -> Result<String, CliError> {
    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), namespace);
    let map = maps.get(RESULTS).await;
    let map = map.map_err(|error| CliError::from_kube(error, "ConfigMap", RESULTS, Some(namespace)))?;
    let line = map.data.unwrap_or_default().remove("results.jsonl").unwrap_or_default();
    let line: serde_json::Value = serde_json::from_str(line.trim())
        .map_err(|error| CliError::Other(format!("results.jsonl holds no single JSON line: {error}")))?;
    let text = line.pointer("/response/body/choices/0/message/content").and_then(serde_json::Value::as_str);
    match text.map(str::trim) {
        Some(text) if !text.is_empty() => Ok(text.to_owned()),
        _ => Err(CliError::Other(format!("the answer is empty: {line}"))),
    }
}

/// Removes what an earlier test left, and waits until it is gone.
async fn remove(client: &Client, namespace: &str) -> Result<(), CliError> {
    let jobs: Api<InferenceJob> = Api::namespaced(client.clone(), namespace);
    match jobs.delete(JOB, &DeleteParams::default()).await {
        Ok(either) => {
            if let Some(uid) = either.left().and_then(|job| job.uid()) {
                let gone = await_condition(jobs, JOB, is_deleted(&uid)).await;
                gone.map_err(|error| CliError::Unreachable(error.to_string()))?;
            }
        }
        Err(error) => ignore_missing(CliError::from_kube(error, "InferenceJob", JOB, Some(namespace)))?,
    }
    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), namespace);
    match maps.delete(RESULTS, &DeleteParams::default()).await {
        Ok(_) => Ok(()),
        Err(error) => ignore_missing(CliError::from_kube(error, "ConfigMap", RESULTS, Some(namespace))),
    }
}

fn ignore_missing(error: CliError) -> Result<(), CliError> {
    match error {
        CliError::NotFound { .. } => Ok(()),
        other => Err(other),
    }
}

/// Where the job stands when time is up: its conditions are the diagnosis.
async fn explain_timeout(client: &Client, options: &SelftestOptions) -> CliError {
    let jobs: Api<InferenceJob> = Api::namespaced(client.clone(), &options.namespace);
    let job = timeout(Duration::from_secs(10), jobs.get_opt(JOB)).await.ok().and_then(Result::ok).flatten();
    let found = job.and_then(|job| job.status).map(|status| status.conditions).unwrap_or_default();
    let lines: Vec<_> = found
        .iter()
        .map(|condition| {
            format!("\n  {}={:?} {}: {}", condition.type_, condition.status, condition.reason, condition.message)
        })
        .collect();
    CliError::Other(format!(
        "no answer within {} s; the job {JOB} in {} says:{}",
        options.timeout_seconds,
        options.namespace,
        if lines.is_empty() { " nothing (is the operator running?)".into() } else { lines.concat() }
    ))
}
