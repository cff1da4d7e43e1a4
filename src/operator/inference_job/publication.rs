//! IO: the last step of a job: its results, from the gateway to the place that it names. May be repeated until it succeeds: the
//! gateway keeps the results, and the same results give the same bytes.

use futures::{Stream, StreamExt};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::Api;

use super::{
    MANAGER,
    apply::{Applied, reader},
    build::Publication,
    input::source::{self, InputError},
    output::{
        self, Counts, Destination, FilePlace, Files, Frame,
        place::Place,
        publish::{self, PublishError, Published},
    },
    validate::Ending,
};
use crate::{
    api::{
        conditions::Finding,
        inference_job::{OutputStatus, StoreStatus, condition},
        reasons::Reason,
    },
    operator::{
        context::Context,
        error::{Error, is_forbidden, is_not_found},
        write::{self, api_beside},
    },
    protocol::internal::ResultLine,
};

/// The rejected lines as they were kept at submission; read from the input again when they are gone.
pub async fn rejections(publication: &Publication, context: &Context) -> Result<Result<String, Finding>, Error> {
    if publication.rejected == 0 {
        return Ok(Ok(String::new()));
    }
    let frame = &publication.frame;
    let kept = match kept(&publication.output, frame, context).await? {
        Ok(kept) => kept,
        Err(finding) => return Ok(Err(finding)),
    };
    if let Some(kept) = kept {
        return Ok(Ok(kept));
    }
    match source::survey(&publication.source, &publication.rules, &reader(frame, context)).await {
        Ok(survey) => Ok(Ok(output::rejection_lines(&survey.rejections))),
        Err(InputError::Kube(error)) => Err(Error::Kube(error)),
        Err(error) => {
            let place = publication.output.shown();
            let message = format!("what was kept in {place} is gone, and the input cannot be read again: {error}");
            Ok(Err(Finding::no(error.reason(), message)))
        }
    }
}

async fn kept(
    output: &Destination,
    frame: &Frame,
    context: &Context,
) -> Result<Result<Option<String>, Finding>, Error> {
    match output {
        Destination::ConfigMap(name) => {
            let api: Api<ConfigMap> = api_beside(context, &frame.namespace);
            match api.get_opt(name).await {
                Ok(found) => Ok(Ok(output::kept_rejections(found.as_ref(), &frame.uid, &frame.name))),
                Err(error) => unwritable(&frame.namespace, error.into()).map(Err),
            }
        }
        Destination::Files(place) => {
            let found = async { Place::open(place, frame, context).await?.kept_rejections(frame).await };
            match found.await {
                Ok(found) => Ok(Ok(found)),
                Err(error) => error.finding().map(Err),
            }
        }
    }
}

/// An output that is ready to be written, but for the results.
pub struct Output {
    pub destination: Destination,
    /// No ConfigMap of its name was seen: it is not looked for again before it is written.
    pub is_new: bool,
    pub frame: Frame,
    /// Rejected lines, as `output::rejection_lines` wrote them.
    pub rejected: String,
    /// Empty when nothing went to the grid.
    pub receipts_root: String,
}

/// Writes the output and ends the job with `ending`, or says why it cannot be written yet. Results that break off are an error.
pub async fn write(
    output: Output,
    results: impl Stream<Item = Result<ResultLine, Error>>,
    ending: Ending,
    applied: Applied,
    context: &Context,
) -> Result<Applied, Error> {
    let shown = output.destination.shown();
    let written = match output.destination.clone() {
        Destination::ConfigMap(name) => into_config_map(&name, output, results, context).await?,
        Destination::Files(place) => into_files(&place, output, results, context).await?,
    };
    Ok(match written {
        Written::Done(status, counts) => {
            let message = format!("{} results and {} errors in {}", counts.completed, counts.failed, shown);
            let done = Applied {
                output: Some(*status),
                ending: Some(ending),
                rejected: Some(u32::try_from(counts.rejected).unwrap_or(u32::MAX)),
                ..applied
            };
            done.found(condition::OUTPUT_PUBLISHED, Finding::yes(Reason::Published, message))
        }
        Written::NotYet(finding) => applied.unpublished(finding),
        Written::TooLarge(message) => {
            let ending = Ending::Stopped { reason: Reason::OutputTooLarge, message: message.clone() };
            Applied { ending: Some(ending), ..applied }.unpublished(Finding::no(Reason::OutputTooLarge, message))
        }
    })
}

enum Written {
    Done(Box<OutputStatus>, Counts),
    /// The place cannot be written now; it is tried again.
    NotYet(Finding),
    /// The place can never hold it.
    TooLarge(String),
}

async fn into_config_map(
    name: &str,
    output: Output,
    results: impl Stream<Item = Result<ResultLine, Error>>,
    context: &Context,
) -> Result<Written, Error> {
    let Output { destination, is_new, frame, rejected, receipts_root } = output;
    let mut files = Files::new(frame.clone(), rejected);
    let mut results = std::pin::pin!(results);
    while let Some(line) = results.next().await {
        if files.push(line?).is_err() {
            return Ok(Written::TooLarge(format!(
                "the results take more than {} bytes, which is what a ConfigMap can hold; split the input into several jobs, lower maxTokens, or let the output be s3 or store",
                output::MAX_BYTES
            )));
        }
    }
    let finished = files.finish(&receipts_root)?;
    let api: Api<ConfigMap> = api_beside(context, &frame.namespace);
    let wanted = output::config_map(name, &frame.uid, &frame.name, finished.files);
    let written = match is_new {
        true => write::apply_over(&api, MANAGER, wanted, None).await,
        false => write::apply(&api, MANAGER, wanted).await,
    };
    if let Err(error) = written {
        return unwritable(&frame.namespace, error).map(Written::NotYet);
    }
    let status = OutputStatus {
        place: destination.shown(),
        config_map: Some(name.to_owned()),
        results_sha256: finished.results_sha256,
        errors_sha256: finished.errors_sha256,
        manifest_sha256: Some(finished.manifest_sha256),
        bytes: i64::try_from(finished.bytes).unwrap_or(i64::MAX),
        ..OutputStatus::default()
    };
    Ok(Written::Done(Box::new(status), finished.counts))
}

async fn into_files(
    place: &FilePlace,
    output: Output,
    results: impl Stream<Item = Result<ResultLine, Error>>,
    context: &Context,
) -> Result<Written, Error> {
    let Output { destination, frame, rejected, receipts_root, .. } = output;
    let published = async {
        let place = Place::open(place, &frame, context).await?;
        place.claim(&frame).await?;
        let published = publish::publish(&place, &frame, rejected, &receipts_root, results).await?;
        Ok((place, published))
    };
    match published.await {
        Ok((place, published)) => {
            let counts = published.counts;
            let status = status(destination.shown(), &frame, &place, published, context);
            Ok(Written::Done(Box::new(status), counts))
        }
        Err(PublishError::Place(error)) => error.finding().map(Written::NotYet),
        Err(PublishError::Results(error)) => Err(error),
        Err(PublishError::Serialize(error)) => Err(error.into()),
        Err(error @ PublishError::TooLarge) => Ok(Written::TooLarge(error.to_string())),
    }
}

fn status(shown: String, frame: &Frame, place: &Place, published: Published, context: &Context) -> OutputStatus {
    let store = published.read_key.map(|read_key| StoreStatus {
        path: format!("/grid/v1/jobs/{}/files/", frame.uid),
        read_key,
        service: context.config.results_service.clone(),
    });
    OutputStatus {
        place: shown,
        config_map: None,
        s3: matches!(place, Place::Bucket(_)).then(|| place.shown(output::MANIFEST)),
        store,
        results_sha256: published.results_sha256,
        errors_sha256: published.errors_sha256,
        manifest_sha256: Some(published.manifest_sha256),
        parts: Some(i64::try_from(published.parts).unwrap_or(i64::MAX)),
        bytes: i64::try_from(published.bytes).unwrap_or(i64::MAX),
    }
}

/// A write that RBAC does not allow is told to the user; everything else is retried.
pub(super) fn unwritable(namespace: &str, error: Error) -> Result<Finding, Error> {
    match error {
        Error::Kube(error) if is_forbidden(&error) => {
            let message = format!("the operator may not write ConfigMaps in namespace {namespace}: {error}");
            Ok(Finding::no(Reason::Forbidden, message))
        }
        // The namespace is being deleted, and the job with it.
        Error::Kube(error) if is_not_found(&error) => Ok(Finding::no(Reason::Forbidden, error.to_string())),
        error => Err(error),
    }
}
