//! IO: gives a job to the gateway: in one call with its input, or, when that is long, its spec first and the input after it. Every
//! step may be repeated under the job's uid.

use bytes::Bytes;
use futures::{Stream, StreamExt, stream};

use super::{
    apply::control_key,
    build::Submission,
    input::source::{self, InputError, Reader, Survey},
};
use crate::{
    operator::{context::Context, gateway::GatewayError},
    protocol::internal::{JobControl, JobReport, JobSpec, JobState, MAX_WHOLE_INPUT, WholeJob},
};

#[derive(Debug, thiserror::Error)]
pub enum HandOverError {
    #[error(transparent)]
    Gateway(#[from] GatewayError),
    #[error(transparent)]
    Input(#[from] InputError),
}

/// What the gateway says of the job once it has it.
pub async fn hand_over(
    submission: &Submission,
    survey: &Survey,
    reader: &Reader,
    context: &Context,
) -> Result<JobReport, HandOverError> {
    let uid = &submission.frame.uid;
    let spec = JobSpec {
        total_requests: survey.usable,
        rejected_lines: u32::try_from(survey.rejections.len()).unwrap_or(u32::MAX),
        ..submission.spec.clone()
    };
    let mut lines = source::replay(&submission.source, &submission.rules, reader, survey.sha256).await?.boxed();
    let (begun, is_whole) = beginning(&mut lines).await?;
    if is_whole && let Some(report) = whole(uid, &spec, submission.control, &begun, context).await? {
        return Ok(report);
    }
    let begun = stream::iter([Ok(Bytes::from(begun))]);
    in_two(uid, &spec, submission.control, begun.chain(lines), context).await
}

/// As much as goes into one call, or a little more; and whether that is all.
async fn beginning(
    lines: &mut (impl Stream<Item = Result<Bytes, InputError>> + Unpin),
) -> Result<(Vec<u8>, bool), InputError> {
    let mut begun = Vec::new();
    while begun.len() <= MAX_WHOLE_INPUT {
        match lines.next().await {
            Some(line) => begun.extend_from_slice(&line?),
            None => return Ok((begun, true)),
        }
    }
    Ok((begun, false))
}

/// `None` when the gateway is one that does not take it so.
async fn whole(
    uid: &str,
    spec: &JobSpec,
    control: JobControl,
    input: &[u8],
    context: &Context,
) -> Result<Option<JobReport>, HandOverError> {
    // It is JSON that was written here.
    let input = String::from_utf8_lossy(input).into_owned();
    let job = WholeJob { spec: spec.clone(), control, input };
    match context.gateway.take_job(uid, &job).await {
        Ok(report) => {
            context.sent.sent(&control_key(uid), &control);
            Ok(Some(report))
        }
        Err(GatewayError::Refused { status: 405, .. }) => Ok(None),
        Err(error @ GatewayError::Refused { status: 409, .. }) => had_already(uid, error, context).await.map(Some),
        Err(error) => Err(error.into()),
    }
}

/// An earlier try got through, with an input or a spec that was another one then, and nobody came to write that down.
async fn had_already(uid: &str, refused: GatewayError, context: &Context) -> Result<JobReport, HandOverError> {
    match context.gateway.job(uid).await? {
        Some(report) if report.state != JobState::Created => Ok(report),
        _ => Err(refused.into()),
    }
}

async fn in_two(
    uid: &str,
    spec: &JobSpec,
    control: JobControl,
    lines: impl Stream<Item = Result<Bytes, InputError>> + Send + 'static,
    context: &Context,
) -> Result<JobReport, HandOverError> {
    // Another spec than that of an earlier try takes its place as long as it has no input: the input changed between two tries.
    match context.gateway.put_job(uid, spec).await {
        Ok(_) => {}
        Err(error @ GatewayError::Refused { status: 409, .. }) => return had_already(uid, error, context).await,
        Err(error) => return Err(error.into()),
    }
    // An earlier try may have left another control.
    context.gateway.patch_job(uid, &control).await?;
    context.sent.sent(&control_key(uid), &control);
    match context.gateway.put_input(uid, lines).await {
        Err(error @ GatewayError::Refused { status: 409, .. }) => had_already(uid, error, context).await,
        taken => Ok(taken?),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_small_input_is_read_to_its_end_and_of_a_large_one_the_beginning_only() {
        let line = || Ok(Bytes::from(vec![b'x'; 64 << 10]));
        let (begun, is_whole) = beginning(&mut stream::iter([line(), line()])).await.unwrap();
        assert_eq!((begun.len(), is_whole), (128 << 10, true));
        let mut large = stream::iter((0..9).map(|_| line()));
        let (begun, is_whole) = beginning(&mut large).await.unwrap();
        assert_eq!((begun.len(), is_whole, large.count().await), (320 << 10, false, 4));
    }
}
