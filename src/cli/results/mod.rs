//! `kubectl grid results`: the answers of a job, from its ConfigMap or from the gateway's store.

mod lines;
mod store;

use std::{collections::BTreeMap, io::Write};

use k8s_openapi::api::core::v1::ConfigMap;
use kube::{Api, ResourceExt};
use serde_json::Value;
use sha2::{Digest, Sha256};

use self::lines::AnswerLine;
use super::{
    CliError, Exit, lookup,
    output::{self, Format, note, one_line},
    session::Session,
};
use crate::api::{
    conditions::{self, Condition, Truth},
    inference_job::{InferenceJob, OutputStatus, condition},
};

/// Keys of the output ConfigMap.
const RESULTS: &str = "results.jsonl";
const ERRORS: &str = "errors.jsonl";

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  kubectl grid results hello
  # Which requests failed, and why
  kubectl grid results hello --errors
  # Only the texts, with jq
  kubectl grid results hello -o json | jq -r .[].response.body.choices[0].message.content

Exit codes: 0 done, 1 failed (what there is was printed), 2 not yet.")]
pub struct ResultsArgs {
    /// Name of the InferenceJob.
    pub job: String,
    /// Prints the requests that failed, not the answers.
    #[arg(long)]
    pub errors: bool,
    /// URL of the gateway's API, for results in its store (default: through the API server, which needs the right to use the
    /// Service as a proxy).
    #[arg(long, env = "GRID_GATEWAY_URL", value_name = "URL")]
    pub gateway: Option<String>,
    /// `table` for people; `json` and `yaml` are a list of the lines as they are stored (OpenAI batch output), `name` the
    /// custom_ids.
    #[arg(short, long, value_enum, default_value_t)]
    pub output: Format,
}

pub async fn run(session: &Session, args: &ResultsArgs, out: &mut dyn Write) -> Result<Exit, CliError> {
    let job = lookup::job(session, &args.job).await?;
    let status = job.status.clone().unwrap_or_default();
    let Some(published) = &status.output else { return Ok(explain(&job)) };
    let jsonl = match (&published.config_map, &published.store) {
        (Some(name), _) => {
            let data = fetch_output(session, name).await?;
            checked(&data, name, published, args.errors)?.to_owned()
        }
        (None, Some(at)) => store::fetch(session, at, published, args).await?,
        (None, None) => {
            elsewhere(published);
            return Ok(ending(&job));
        }
    };
    let lines = lines::read_lines(&jsonl).map_err(|why| CliError::Other(format!("the results are damaged: {why}")))?;
    print(&lines, args, out)?;
    Ok(ending(&job))
}

/// A job that failed or was cancelled may have published what was done.
fn ending(job: &InferenceJob) -> Exit {
    let conditions = job.status.as_ref().map(|status| status.conditions.as_slice()).unwrap_or_default();
    if conditions::is_true(conditions, condition::FAILED) { explain(job) } else { Exit::Done }
}

async fn fetch_output(session: &Session, name: &str) -> Result<BTreeMap<String, String>, CliError> {
    let maps: Api<ConfigMap> = Api::namespaced(session.client.clone(), &session.namespace);
    let map = maps.get(name).await;
    let map = map.map_err(|error| CliError::from_kube(error, "ConfigMap", name, Some(&session.namespace)))?;
    Ok(map.data.unwrap_or_default())
}

/// Results in a bucket are read with the tools of that bucket, and with its credentials, which this command does not have.
fn elsewhere(published: &OutputStatus) {
    let folder = one_line(&published.place);
    note(format_args!("the results are in {folder}; read them with: aws s3 cp --recursive {folder} ."));
}

/// Name and digest of the file that is asked for.
fn wanted(published: &OutputStatus, errors: bool) -> (&'static str, &str) {
    if errors { (ERRORS, &published.errors_sha256) } else { (RESULTS, &published.results_sha256) }
}

/// The lines, if they are the ones that the job's status vouches for.
fn checked<'a>(
    data: &'a BTreeMap<String, String>,
    name: &str,
    published: &OutputStatus,
    errors: bool,
) -> Result<&'a str, CliError> {
    let (key, expected) = wanted(published, errors);
    let text = data.get(key).ok_or_else(|| CliError::Other(format!("the ConfigMap {name:?} has no {key}")))?;
    let found = hex::encode(Sha256::digest(text.as_bytes()));
    if found != expected {
        return Err(CliError::Other(format!(
            "{key} in the ConfigMap {name:?} was changed after it was published: its sha256 is {found}, the job says {expected}"
        )));
    }
    Ok(text)
}

/// Says on standard error why there are no (or not all) results, and whether waiting helps.
fn explain(job: &InferenceJob) -> Exit {
    let status = job.status.clone().unwrap_or_default();
    let name = job.name_any();
    if let Some(failed) = conditions::find(&status.conditions, condition::FAILED)
        && failed.status == Truth::True
    {
        note(format_args!("{name} failed: {}: {}", failed.reason, one_line(&failed.message)));
        return Exit::Failed;
    }
    let progress = status.progress.unwrap_or_else(|| "0 requests".into());
    let waiting = waiting_for(&status.conditions).map(|c| format!(": {}: {}", c.reason, c.message)).unwrap_or_default();
    note(format_args!("{name} has no results yet ({progress}){waiting}"));
    Exit::NotYet
}

/// The first condition on the way to Complete that does not hold.
fn waiting_for(found: &[Condition]) -> Option<&Condition> {
    use condition::{ACCEPTED, ADMITTED, MODEL_READY, OUTPUT_PUBLISHED, RUNNING};
    let way = [ACCEPTED, ADMITTED, MODEL_READY, RUNNING, OUTPUT_PUBLISHED];
    way.iter().filter_map(|type_| conditions::find(found, type_)).find(|condition| condition.status != Truth::True)
}

fn print(lines: &[Value], args: &ResultsArgs, out: &mut dyn Write) -> Result<(), CliError> {
    let ids = || lines.iter().map(|line| lines::answer(line).custom_id).collect();
    output::print(out, args.output, &lines, ids, |out| {
        if !args.errors {
            return print_answers(lines.iter().map(lines::answer), out);
        }
        let rows = lines.iter().map(lines::failure).map(|line| vec![line.custom_id, line.ending, line.text]);
        output::table(out, &["id", "reason", "message"], rows.collect())
    })
}

/// Answers are text of many lines: a heading each, not a table cell.
fn print_answers(answers: impl Iterator<Item = AnswerLine>, out: &mut dyn Write) -> Result<(), CliError> {
    for answer in answers {
        let id = one_line(&answer.custom_id);
        writeln!(out, "── {id} ({} tokens, {})", answer.output_tokens, one_line(&answer.ending))?;
        writeln!(out, "{}\n", output::printable(answer.text.trim()))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn published(results: &str) -> (BTreeMap<String, String>, OutputStatus) {
        let sha = |text: &str| hex::encode(Sha256::digest(text.as_bytes()));
        let data = BTreeMap::from([(RESULTS.to_owned(), results.to_owned()), (ERRORS.to_owned(), String::new())]);
        let status = OutputStatus {
            config_map: Some("out".into()),
            results_sha256: sha(results),
            errors_sha256: sha(""),
            bytes: results.len() as i64,
            ..OutputStatus::default()
        };
        (data, status)
    }

    #[test]
    fn results_that_were_changed_are_refused() {
        let (mut data, status) = published("{}\n");
        assert_eq!(checked(&data, "out", &status, false).unwrap(), "{}\n");
        data.insert(RESULTS.into(), "{} \n".into());
        assert!(checked(&data, "out", &status, false).unwrap_err().to_string().contains("was changed"));
    }

    #[test]
    fn an_answer_of_many_lines_is_printed_under_its_id() {
        let answer =
            AnswerLine { custom_id: "q1".into(), text: "a\nb\n".into(), ending: "stop".into(), output_tokens: 2 };
        let mut out = Vec::new();
        print_answers([answer].into_iter(), &mut out).unwrap();
        assert_eq!(String::from_utf8(out).unwrap(), "── q1 (2 tokens, stop)\na\nb\n\n");
    }
}
