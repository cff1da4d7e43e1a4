//! The objects of a submission. Pure.

use k8s_openapi::{api::core::v1::ConfigMap, apimachinery::pkg::apis::meta::v1::ObjectMeta};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::{JobOptions, PromptFormat};

/// What an InferenceJob takes inline, in bytes.
const MAX_INLINE: usize = 131_072;
/// What a ConfigMap takes, less some room for its metadata.
const MAX_CONFIG_MAP: usize = 1_000_000;
/// Longest part of a generated name that comes from the model: a Local job's pods need room for an index.
const MAX_STEM: usize = 40;
const INPUT_KEY: &str = "input";
/// The endpoint of a job that names none, and the only one whose answers have a form.
const CHAT: &str = "/v1/chat/completions";

/// The job as it is sent, and the ConfigMap with its input where that does not fit into the job.
#[derive(Debug)]
pub struct Generated {
    pub job: Value,
    pub input: Option<ConfigMap>,
}

/// A job from prompts.
pub struct Wanted<'a> {
    pub model: &'a str,
    pub prompts: &'a str,
    /// The file's name says that it is an OpenAI batch.
    pub is_batch_file: bool,
    pub namespace: &'a str,
    pub suffix: &'a str,
    pub options: &'a JobOptions,
    /// What `options.response_format` stands for.
    pub form: Option<Value>,
}

/// The one InferenceJob of a file. It may leave its namespace out: then `asked`, that of the flag, counts, else `usual`.
pub fn from_file(text: &str, asked: Option<&str>, usual: &str) -> Result<Value, String> {
    let mut found = None;
    for document in serde_yaml::Deserializer::from_str(text) {
        let value = Value::deserialize(document).map_err(|error| format!("this is no YAML: {error}"))?;
        if value.is_null() {
            continue;
        }
        let kind = value.pointer("/kind").and_then(Value::as_str).unwrap_or_default();
        if kind != "InferenceJob" {
            return Err(format!(
                "the file holds a {kind:?} and not only an InferenceJob: use kubectl apply -f for the rest"
            ));
        }
        if found.replace(value).is_some() {
            return Err(
                "the file holds more than one InferenceJob: use kubectl apply -f, and kubectl grid results for each"
                    .into(),
            );
        }
    }
    let mut job = found.ok_or("the file holds no InferenceJob")?;
    let metadata = job.pointer_mut("/metadata").and_then(Value::as_object_mut).ok_or("metadata is missing")?;
    if metadata.get("name").and_then(Value::as_str).unwrap_or_default().is_empty()
        && metadata.get("generateName").and_then(Value::as_str).unwrap_or_default().is_empty()
    {
        return Err("metadata.name is missing".into());
    }
    let own = metadata.entry("namespace").or_insert_with(|| asked.unwrap_or(usual).into());
    if let Some(asked) = asked.filter(|asked| own.as_str() != Some(asked)) {
        return Err(format!("the file is for the namespace {own}, --namespace says {asked:?}"));
    }
    Ok(job)
}

pub fn from_prompts(wanted: &Wanted<'_>) -> Result<Generated, String> {
    let Wanted { model, prompts, namespace, options, ref form, .. } = *wanted;
    if prompts.trim().is_empty() {
        return Err("there are no prompts: the file is empty".into());
    }
    if let Some(endpoint) = options.endpoint.as_deref().filter(|endpoint| form.is_some() && *endpoint != CHAT) {
        return Err(format!("--response-format is for --endpoint {CHAT}, not for {endpoint}: leave one of both out"));
    }
    let name = options.name.clone().unwrap_or_else(|| format!("{}-{}", stem(model), wanted.suffix));
    let (input, config_map) = input(wanted, &name)?;
    let mut workload = Map::from_iter([
        ("modelRef".into(), json!({"name": model})),
        ("input".into(), input),
        ("output".into(), json!({"configMap": {"name": format!("{name}-results")}})),
    ]);
    let generation = given([
        ("maxTokens", options.max_tokens.map(Value::from)),
        ("temperature", options.temperature.clone().map(Value::from)),
        ("seed", options.seed.map(Value::from)),
        ("systemMessage", options.system_message.clone().map(Value::from)),
        ("responseFormat", form.clone()),
    ]);
    if !generation.is_empty() {
        workload.insert("generation".into(), generation.into());
    }
    if let Some(endpoint) = &options.endpoint {
        workload.insert("endpoint".into(), endpoint.as_str().into());
    }
    let mut spec = given([
        ("parallelism", options.parallelism.map(Value::from)),
        ("ttlSecondsAfterFinished", options.ttl.map(Value::from)),
    ]);
    spec.insert("workload".into(), workload.into());
    let job = json!({
        "apiVersion": "xdcgrid.io/v1alpha1", "kind": "InferenceJob",
        "metadata": {"name": name, "namespace": namespace}, "spec": spec
    });
    Ok(Generated { job, input: config_map })
}

/// The input, inline where it fits.
fn input(wanted: &Wanted<'_>, name: &str) -> Result<(Value, Option<ConfigMap>), String> {
    let format = match wanted.options.format {
        Some(PromptFormat::OpenAiBatch) => "OpenAIBatch",
        Some(PromptFormat::Lines) => "Lines",
        None if wanted.is_batch_file => "OpenAIBatch",
        None => "Lines",
    };
    let size = wanted.prompts.len();
    if size <= MAX_INLINE {
        return Ok((json!({"format": format, "inline": wanted.prompts}), None));
    }
    if size > MAX_CONFIG_MAP {
        return Err(format!(
            "the prompts have {size} bytes, and a ConfigMap holds about {MAX_CONFIG_MAP}: split them, or put them at a URL or into a bucket and name it in an InferenceJob (spec.workload.input)"
        ));
    }
    let map = format!("{name}-input");
    let config_map = ConfigMap {
        metadata: ObjectMeta {
            name: Some(map.clone()),
            namespace: Some(wanted.namespace.to_owned()),
            ..ObjectMeta::default()
        },
        data: Some([(INPUT_KEY.to_owned(), wanted.prompts.to_owned())].into()),
        ..ConfigMap::default()
    };
    Ok((json!({"format": format, "configMap": {"name": map, "key": INPUT_KEY}}), Some(config_map)))
}

fn given<const N: usize>(fields: [(&str, Option<Value>); N]) -> Map<String, Value> {
    fields.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))).collect()
}

/// The beginning of a model's name that is good for another name.
fn stem(model: &str) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' };
    let stem: String = model.chars().take(MAX_STEM).map(plain).collect();
    let stem = stem.trim_matches('-');
    if stem.is_empty() { "job".into() } else { stem.into() }
}

/// True when everything that `wanted` says is so in `found`, which has the API server's defaults as well.
pub fn covers(found: Option<&Value>, wanted: Option<&Value>) -> bool {
    match (found, wanted) {
        (_, None) => true,
        (None, Some(_)) => false,
        (Some(Value::Object(found)), Some(Value::Object(wanted))) => {
            wanted.iter().all(|(key, value)| covers(found.get(key), Some(value)))
        }
        (Some(found), Some(wanted)) => found == wanted,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::inference_job::InferenceJob;

    fn prompts(text: &str, options: JobOptions) -> Result<Generated, String> {
        formed(text, options, None)
    }

    fn formed(text: &str, options: JobOptions, form: Option<Value>) -> Result<Generated, String> {
        from_prompts(&Wanted {
            model: "Tiny.v1",
            prompts: text,
            is_batch_file: false,
            namespace: "team-a",
            suffix: "bcdfg",
            options: &options,
            form,
        })
    }

    #[test]
    fn prompts_become_a_job_that_the_schema_knows() {
        let options = JobOptions { max_tokens: Some(8), temperature: Some("0".into()), ..JobOptions::default() };
        let made = prompts("a\nb\n", options).unwrap();
        let job: InferenceJob = serde_json::from_value(made.job.clone()).unwrap();
        assert_eq!(job.metadata.name.as_deref(), Some("tiny-v1-bcdfg"));
        assert_eq!(job.spec.workload.generation.max_tokens, 8);
        assert_eq!(made.job["spec"]["workload"]["input"], json!({"format": "Lines", "inline": "a\nb\n"}));
        assert_eq!(made.job["spec"]["workload"]["output"]["configMap"]["name"], "tiny-v1-bcdfg-results");
    }

    #[test]
    fn a_form_is_for_chat_only() {
        let form = Some(json!({"jsonObject": {}}));
        let asking =
            |endpoint: Option<&str>| JobOptions { endpoint: endpoint.map(str::to_owned), ..JobOptions::default() };
        for endpoint in [None, Some(CHAT)] {
            let made = formed("a\n", asking(endpoint), form.clone()).unwrap();
            let job: InferenceJob = serde_json::from_value(made.job).unwrap();
            assert!(job.spec.workload.generation.response_format.unwrap().json_object.is_some());
        }
        let refused = formed("a\n", asking(Some("/v1/completions")), form).unwrap_err();
        assert!(refused.contains("--response-format") && refused.contains("/v1/completions"), "{refused}");
        assert!(prompts("a\n", asking(Some("/v1/completions"))).is_ok());
    }

    #[test]
    fn many_prompts_go_into_a_config_map_and_too_many_are_refused_with_a_way_out() {
        let made = prompts(&"a\n".repeat(MAX_INLINE), JobOptions::default()).unwrap();
        let input = made.input.unwrap();
        assert_eq!(made.job["spec"]["workload"]["input"]["configMap"]["name"], "tiny-v1-bcdfg-input");
        assert_eq!(input.data.unwrap()[INPUT_KEY].len(), 2 * MAX_INLINE);
        let refused = prompts(&"a\n".repeat(MAX_CONFIG_MAP), JobOptions::default()).unwrap_err();
        assert!(refused.contains("bucket"), "{refused}");
        assert!(prompts(" \n", JobOptions::default()).is_err());
    }

    #[test]
    fn a_file_is_sent_as_it_is_with_a_namespace() {
        let text =
            "apiVersion: xdcgrid.io/v1alpha1\nkind: InferenceJob\nmetadata: {name: a}\nspec: {unheard: 1}\n---\n";
        let job = from_file(text, None, "team-a").unwrap();
        assert_eq!((&job["metadata"]["namespace"], &job["spec"]["unheard"]), (&json!("team-a"), &json!(1)));
        let own = text.replace("name: a", "name: a, namespace: b");
        assert_eq!(from_file(&own, None, "team-a").unwrap()["metadata"]["namespace"], "b");
        assert_eq!(from_file(&own, Some("b"), "team-a").unwrap()["metadata"]["namespace"], "b");
        assert!(from_file(&own, Some("c"), "team-a").unwrap_err().contains("--namespace"));
    }

    #[test]
    fn files_that_are_no_single_job_are_refused() {
        let job = "kind: InferenceJob\nmetadata: {name: a}\n";
        for (text, expected) in [
            ("", "no InferenceJob"),
            ("a: [", "no YAML"),
            ("kind: Pod\nmetadata: {name: a}\n", "\"Pod\""),
            (&format!("{job}---\n{job}"), "more than one"),
            ("kind: InferenceJob\nmetadata: {}\n", "metadata.name"),
            ("kind: InferenceJob\n", "metadata is missing"),
        ] {
            let error = from_file(text, None, "x").unwrap_err();
            assert!(error.contains(expected), "{text:?}: {error}");
        }
    }

    #[test]
    fn defaults_of_the_api_server_make_no_other_workload() {
        let wanted = json!({"input": {"inline": "a"}});
        let found = json!({"input": {"inline": "a", "format": "OpenAIBatch"}, "generation": {"maxTokens": 256}});
        assert!(covers(Some(&found), Some(&wanted)));
        assert!(!covers(Some(&json!({"input": {"inline": "b"}})), Some(&wanted)));
        assert!(!covers(None, Some(&wanted)));
    }
}
