//! `kubectl grid submit`: makes an InferenceJob from a file or from prompts, waits for it and prints its results.
//!
//! `manifest` and `form` are pure and make the objects, `source` reads files and standard input, `wait` follows the job.

mod form;
mod manifest;
mod source;
pub(super) mod wait;

use std::{
    io::Write,
    path::{Path, PathBuf},
    time::Duration,
};

use k8s_openapi::api::core::v1::ConfigMap;
use kube::{
    Api, ResourceExt,
    api::{DeleteParams, DynamicObject, Patch, PatchParams, PostParams},
    core::{ApiResource, Request},
};
use serde_json::{Value, json};

use self::manifest::{Generated, Wanted};
use super::{
    CliError, Exit, FIELD_MANAGER,
    output::{self, Format, note},
    results,
    session::Session,
};
use crate::api::inference_job::InferenceJob;

#[derive(Debug, clap::Args)]
#[command(
    group = clap::ArgGroup::new("what").required(true).args(["filename", "prompts"]),
    after_help = "Examples:
  # A prompt a line; wait, and print the answers
  kubectl grid submit --model smollm2-135m-instruct --prompts prompts.txt
  # From another program
  echo Hello | kubectl grid submit --model smollm2-135m-instruct --prompts - --max-tokens 32
  # Every answer is JSON that fits the schema in a file
  kubectl grid submit --model smollm2-135m-instruct --prompts prompts.txt --response-format schema.json
  # A file with an InferenceJob, without waiting
  kubectl grid submit -f docs/examples/job.yaml --no-wait
  # Only write the InferenceJob that would be made
  kubectl grid submit --model smollm2-135m-instruct --prompts prompts.txt --dry-run

Interrupting it leaves the job running. Submitting the same file again waits for the job that is there.
Exit codes: 0 complete (or created, with --no-wait), 1 failed, 2 not complete when the time was up or it was interrupted."
)]
pub struct SubmitArgs {
    /// File with an InferenceJob in YAML or JSON; `-` is standard input.
    #[arg(short, long, value_name = "FILE")]
    pub filename: Option<PathBuf>,
    /// File with the requests: a prompt a line, or OpenAI batch lines in a file that ends in .jsonl; `-` is standard input.
    #[arg(long, value_name = "FILE", requires = "model")]
    pub prompts: Option<PathBuf>,
    /// GridModel that is to answer.
    #[arg(short, long, value_name = "NAME", conflicts_with = "filename")]
    pub model: Option<String>,
    #[command(flatten)]
    pub options: JobOptions,
    /// Only creates the job; waits for nothing.
    #[arg(long)]
    pub no_wait: bool,
    /// Gives up waiting after this time; the job goes on.
    #[arg(long, value_name = "SECONDS", conflicts_with = "no_wait", value_parser = clap::value_parser!(u64).range(1..=2_592_000))]
    pub timeout: Option<u64>,
    /// Writes the InferenceJob as YAML and creates nothing.
    #[arg(long)]
    pub dry_run: bool,
    /// URL of the gateway's API, for results in its store.
    #[arg(long, env = "GRID_GATEWAY_URL", value_name = "URL")]
    pub gateway: Option<String>,
    /// How to print the results, as `kubectl grid results` does. With --no-wait, `json`, `yaml` and `name` print the job itself.
    #[arg(short, long, value_enum, default_value_t)]
    pub output: Format,
}

/// What the job that --prompts makes is to be like.
#[derive(Debug, Clone, Default, clap::Args)]
#[group(id = "job")]
#[command(next_help_heading = "With --prompts")]
pub struct JobOptions {
    /// Name of the job (default: from the model, with a random end).
    #[arg(long, value_name = "NAME", conflicts_with = "filename")]
    pub name: Option<String>,
    /// How the file is read.
    #[arg(long, value_enum, conflicts_with = "filename")]
    pub format: Option<PromptFormat>,
    /// Most tokens of an answer.
    #[arg(long, value_name = "N", conflicts_with = "filename")]
    pub max_tokens: Option<u32>,
    /// 0 for the likeliest answer, up to 2.
    #[arg(long, value_name = "DECIMAL", conflicts_with = "filename")]
    pub temperature: Option<String>,
    /// The same seed gives the same answers.
    #[arg(long, value_name = "N", conflicts_with = "filename")]
    pub seed: Option<u64>,
    /// System message before every prompt.
    #[arg(long, value_name = "TEXT", conflicts_with = "filename")]
    pub system_message: Option<String>,
    /// Form of every answer: `json_object` for any JSON object, or a file with a JSON schema that it is to fit. Say in the prompts as well
    /// what you want.
    #[arg(long, value_name = "FORM", conflicts_with = "filename")]
    pub response_format: Option<String>,
    /// The OpenAI endpoint that the requests are for.
    #[arg(long, value_name = "PATH", conflicts_with = "filename")]
    pub endpoint: Option<String>,
    /// Requests in flight at once.
    #[arg(long, value_name = "N", conflicts_with = "filename")]
    pub parallelism: Option<u32>,
    /// Deletes the job, with its input and results, this long after it ended.
    #[arg(long, value_name = "SECONDS", conflicts_with = "filename")]
    pub ttl: Option<u64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum PromptFormat {
    /// A prompt a line.
    Lines,
    /// JSON lines of the OpenAI batch format.
    #[value(name = "openai-batch")]
    OpenAiBatch,
}

/// `namespace` is that of the flag, if it was given.
pub async fn run(
    session: &Session,
    namespace: Option<&str>,
    args: &SubmitArgs,
    out: &mut dyn Write,
) -> Result<Exit, CliError> {
    let generated = wanted(namespace, &session.namespace, args)?;
    if args.dry_run {
        return print_objects(&generated, out);
    }
    let job = create(session, generated).await?;
    let name = job.name_any();
    let place = Session { namespace: job.namespace().unwrap_or_default(), ..session.clone() };
    if args.no_wait {
        let full = format!("inferencejob.xdcgrid.io/{name}");
        let value = json!({"name": name, "namespace": place.namespace, "spec": job.spec, "status": job.status});
        output::print(out, args.output, &value, || vec![full.clone()], |out| Ok(writeln!(out, "{full} created")?))?;
        return Ok(Exit::Done);
    }
    note(format_args!("waiting for {name} in {}; interrupting leaves it running", place.namespace));
    match wait::until_over(&place, &name, args.timeout.map(Duration::from_secs)).await? {
        wait::Ended::Over => {
            let args =
                results::ResultsArgs { job: name, errors: false, gateway: args.gateway.clone(), output: args.output };
            results::run(&place, &args, out).await
        }
        wait::Ended::Deleted => Err(CliError::Other(format!("the job {name} was deleted while it ran"))),
        wait::Ended::TimeUp => {
            note(format_args!(
                "{name} goes on: kubectl grid results {name} -n {0}; kubectl grid why {name} -n {0}",
                place.namespace
            ));
            Ok(Exit::NotYet)
        }
    }
}

fn wanted(namespace: Option<&str>, usual: &str, args: &SubmitArgs) -> Result<Generated, CliError> {
    match (&args.filename, &args.prompts, &args.model) {
        (Some(path), ..) => {
            let text = source::read(path)?;
            let job = manifest::from_file(&text, namespace, usual).map_err(CliError::Other)?;
            Ok(Generated { job, input: None })
        }
        (None, Some(path), Some(model)) => {
            let form = form_of(&args.options)?;
            let prompts = source::read(path)?;
            let suffix = source::random_suffix();
            let wanted = Wanted {
                model,
                prompts: &prompts,
                is_batch_file: path.extension().is_some_and(|extension| extension == "jsonl"),
                namespace: usual,
                suffix: &suffix,
                options: &args.options,
                form,
            };
            manifest::from_prompts(&wanted).map_err(CliError::Other)
        }
        _ => Err(CliError::Other("give -f FILE, or --model NAME with --prompts FILE".into())),
    }
}

fn form_of(options: &JobOptions) -> Result<Option<Value>, CliError> {
    let Some(asked) = options.response_format.as_deref() else { return Ok(None) };
    let wrong = |what: String| {
        CliError::Other(format!("--response-format takes json_object, or a file with a JSON schema: {what}"))
    };
    match asked {
        form::ANY_OBJECT => Ok(Some(form::any_object())),
        "-" => Err(wrong("standard input is for the prompts".into())),
        file => {
            let text = source::read(Path::new(file)).map_err(|error| wrong(error.to_string()))?;
            form::of_schema(&text).map(Some).map_err(|what| wrong(format!("{file} {what}")))
        }
    }
}

fn print_objects(generated: &Generated, out: &mut dyn Write) -> Result<Exit, CliError> {
    if let Some(input) = &generated.input {
        output::yaml(out, input)?;
        writeln!(out, "---")?;
    }
    output::yaml(out, &generated.job)?;
    Ok(Exit::Done)
}

/// Creates what was asked for. A job of the same name with the same workload is the one that was meant: a script that was
/// interrupted may just run again.
async fn create(session: &Session, generated: Generated) -> Result<InferenceJob, CliError> {
    let namespace = text(&generated.job, "/metadata/namespace");
    if let Some(input) = &generated.input {
        let maps: Api<ConfigMap> = Api::namespaced(session.client.clone(), &namespace);
        let created = maps.create(&parameters(), input).await;
        created.map_err(|error| CliError::from_kube(error, "ConfigMap", &input.name_any(), Some(&namespace)))?;
    }
    let created = create_job(session, &generated.job, &namespace).await;
    if let Some(input) = generated.input {
        settle_input(session, &namespace, &input.name_any(), created.as_ref().ok()).await;
    }
    created
}

async fn create_job(session: &Session, wanted: &Value, namespace: &str) -> Result<InferenceJob, CliError> {
    let object: DynamicObject = serde_json::from_value(wanted.clone())
        .map_err(|error| CliError::Other(format!("this is no Kubernetes object: {error}")))?;
    let name = object.name_any();
    // As it was written, so that the API server and not this program says which fields there are.
    let jobs: Api<DynamicObject> =
        Api::namespaced_with(session.client.clone(), namespace, &ApiResource::erase::<InferenceJob>(&()));
    let error = match create_strictly(session, &jobs, &object).await? {
        Ok(created) => return typed(created),
        Err(error) => CliError::from_kube(error, "InferenceJob", &name, Some(namespace)),
    };
    if !matches!(error, CliError::AlreadyExists { .. }) {
        return Err(error);
    }
    let found = jobs.get(&name).await;
    let found = found.map_err(|error| CliError::from_kube(error, "InferenceJob", &name, Some(namespace)))?;
    let same = manifest::covers(found.data.pointer("/spec/workload"), wanted.pointer("/spec/workload"));
    if !same {
        return Err(CliError::Other(format!(
            "{error}, with another workload: give the job another name, or delete that one"
        )));
    }
    note(format_args!("{name} is there already, with the same workload"));
    typed(found)
}

fn typed(object: DynamicObject) -> Result<InferenceJob, CliError> {
    object.try_parse().map_err(|error| CliError::Other(format!("the API server's answer cannot be read: {error}")))
}

/// The input goes with its job; without a job it goes at once.
async fn settle_input(session: &Session, namespace: &str, name: &str, job: Option<&InferenceJob>) {
    let maps: Api<ConfigMap> = Api::namespaced(session.client.clone(), namespace);
    let done = match job {
        Some(job) => {
            let owner = kube::Resource::owner_ref(job, &());
            let patch = json!({"metadata": {"ownerReferences": owner.into_iter().collect::<Vec<_>>()}});
            let parameters = PatchParams { field_manager: Some(FIELD_MANAGER.into()), ..PatchParams::default() };
            maps.patch(name, &parameters, &Patch::Merge(&patch)).await.map(|_| ())
        }
        None => maps.delete(name, &DeleteParams::default()).await.map(|_| ()),
    };
    if let Err(error) = done {
        note(format_args!("the ConfigMap {name} stays behind: {error}"));
    }
}

fn parameters() -> PostParams {
    PostParams { field_manager: Some(FIELD_MANAGER.into()), ..PostParams::default() }
}

/// Creates an object of which every field must be known: a misspelt one is an error and not ignored, as with kubectl.
async fn create_strictly(
    session: &Session,
    api: &Api<DynamicObject>,
    object: &DynamicObject,
) -> Result<Result<DynamicObject, kube::Error>, CliError> {
    let unsendable = |error: &dyn std::fmt::Display| CliError::Other(format!("the job cannot be sent: {error}"));
    let body = serde_json::to_vec(object).map_err(|error| unsendable(&error))?;
    let mut request = Request::new(api.resource_url()).create(&parameters(), body).map_err(|e| unsendable(&e))?;
    let strict = format!("{}&fieldValidation=Strict", request.uri());
    match strict.parse() {
        Ok(uri) => *request.uri_mut() = uri,
        Err(_) => return Err(unsendable(&format!("{strict:?} is no URI"))),
    }
    Ok(session.client.request(request).await)
}

fn text(value: &Value, pointer: &str) -> String {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned()
}
