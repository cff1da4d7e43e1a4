//! IO: jobs that are gone from the API server and of which the gateway is to keep nothing: no request of theirs runs on, no text
//! stays. The watch tells of a deletion at once; what a restart or a gap in the watch missed is found by comparing what the gateway
//! keeps with what there is. So a job needs no finalizer, which would cost two writes.
//!
//! A job is gone only when the API server says so of this very job. An API server that is away, a kind that is not served and a
//! cache that is not filled say nothing.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use kube::{
    Api, ResourceExt,
    runtime::reflector::{ObjectRef, Store},
};
use tokio::sync::Notify;

use super::{apply::control_key, known::KnownJob};
use crate::{
    api::inference_job::InferenceJob,
    operator::{
        context::Context,
        error::{Error, says_gone},
        gateway::GatewayError,
        runner::Guarded,
    },
    protocol::internal::JobName,
};

/// Between two comparisons: what one finds was missed by the watch.
const COMPARED_EVERY: Duration = Duration::from_secs(600);
/// After one that was cut short.
const COMPARED_AGAIN: Duration = Duration::from_secs(30);
/// After a gateway that did not answer.
const TOLD_AGAIN: Duration = Duration::from_secs(5);
/// A hand-over that was on its way when its job went has ended by then.
const REMEMBERED: Duration = Duration::from_secs(900);
/// What does not fit is found by the next comparison.
const MAX_REMEMBERED: usize = 20_000;
/// What one comparison asks the API server about at most, so that it never takes long.
const MAX_QUESTIONS: usize = 2_000;

/// Jobs that were seen going.
#[derive(Default)]
pub struct Gone {
    uids: Mutex<Uids>,
    news: Notify,
}

#[derive(Default)]
struct Uids {
    /// The gateway is still to be told.
    due: VecDeque<String>,
    seen: HashMap<String, Instant>,
}

impl Gone {
    /// A job is gone: the gateway is told as soon as it answers.
    pub fn note(&self, uid: &str) {
        let mut uids = self.uids.lock().unwrap_or_else(PoisonError::into_inner);
        if uids.seen.len() >= MAX_REMEMBERED {
            uids.seen.retain(|_, at| at.elapsed() < REMEMBERED);
        }
        if uids.seen.len() < MAX_REMEMBERED {
            uids.seen.insert(uid.to_owned(), Instant::now());
        }
        if uids.due.len() < MAX_REMEMBERED {
            uids.due.push_back(uid.to_owned());
        }
        drop(uids);
        self.news.notify_one();
    }

    /// Whether a job was seen going. A hand-over asks it when it is through.
    pub fn has(&self, uid: &str) -> bool {
        self.uids.lock().unwrap_or_else(PoisonError::into_inner).seen.contains_key(uid)
    }

    /// The next one of which the gateway is to be told.
    fn due(&self) -> Option<String> {
        self.uids.lock().unwrap_or_else(PoisonError::into_inner).due.pop_front()
    }

    async fn wait(&self) -> String {
        loop {
            match self.due() {
                Some(uid) => return uid,
                None => self.news.notified().await,
            }
        }
    }
}

/// Has the gateway forget jobs that go, until the process ends.
pub async fn tell(context: Arc<Context>) {
    loop {
        let uid = context.gone.wait().await;
        while let Err(error) = forget(&uid, &context).await {
            if matches!(error, GatewayError::Refused { .. }) {
                tracing::warn!(%error, job = uid, "the gateway does not forget a job that is gone");
                break;
            }
            tokio::time::sleep(TOLD_AGAIN).await;
        }
    }
}

/// Compares now and then, until the process ends. `known`: the jobs that there are, as the watch has them.
pub async fn compare_forever(known: Store<Guarded<KnownJob>>, context: Arc<Context>) {
    if known.wait_until_ready().await.is_err() {
        return;
    }
    let is_known = |job: &JobName| {
        let found = known.get(&ObjectRef::new(&job.name).within(&job.namespace));
        found.is_some_and(|found| found.uid().as_deref() == Some(&job.uid))
    };
    loop {
        let pause = match compare(is_known, &context).await {
            Ok(0) => COMPARED_EVERY,
            Ok(forgotten) => {
                tracing::info!(jobs = forgotten, "the gateway kept jobs that are gone; it forgot them");
                COMPARED_EVERY
            }
            Err(error) => {
                tracing::info!(%error, "the gateway's jobs cannot be compared now");
                COMPARED_AGAIN
            }
        };
        tokio::time::sleep(pause).await;
    }
}

/// Has the gateway forget every job that it keeps, that is not known and that the API server says is gone. How many.
pub async fn compare(is_known: impl Fn(&JobName) -> bool, context: &Context) -> Result<usize, Error> {
    let (mut after, mut questions, mut forgotten) = (String::new(), 0, 0);
    loop {
        let page = context.gateway.jobs(&after).await?;
        for job in page.jobs.iter().filter(|job| !is_known(job)) {
            questions += 1;
            if questions > MAX_QUESTIONS {
                return Ok(forgotten);
            }
            if is_gone(job, context).await? {
                forget(&job.uid, context).await?;
                forgotten += 1;
            }
        }
        match page.next {
            Some(next) => after = next,
            None => return Ok(forgotten),
        }
    }
}

/// Whether the API server says so, asked now.
async fn is_gone(job: &JobName, context: &Context) -> Result<bool, Error> {
    // The gateway faces the internet: what it calls a name is not put into a path unseen.
    if !is_name(&job.namespace) || !is_name(&job.name) {
        return Ok(false);
    }
    let jobs: Api<InferenceJob> = Api::namespaced(context.client.clone(), &job.namespace);
    match jobs.get_metadata(&job.name).await {
        Ok(found) => Ok(found.uid().is_some_and(|uid| uid != job.uid)),
        Err(error) if says_gone(&error, &job.name) => Ok(true),
        Err(error) => Err(error.into()),
    }
}

fn is_name(text: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-' || byte == b'.';
    !text.is_empty() && text.len() <= 253 && !text.starts_with('.') && text.bytes().all(plain)
}

/// Text and running requests of a job at the gateway, and what this process remembers of it.
pub async fn forget(uid: &str, context: &Context) -> Result<(), GatewayError> {
    context.sent.forget(&control_key(uid));
    context.pace.forget(uid);
    context.calm.forget(uid);
    context.gateway.delete_job(uid).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_that_went_is_told_once_and_remembered() {
        let gone = Gone::default();
        gone.note("a");
        assert!(gone.has("a") && !gone.has("b"));
        assert_eq!((gone.due().as_deref(), gone.due()), (Some("a"), None));
        assert!(gone.has("a"), "its hand-over may still be on its way");
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let gone = Gone::default();
        for number in 0..2 * MAX_REMEMBERED {
            gone.note(&number.to_string());
        }
        let uids = gone.uids.lock().unwrap();
        assert_eq!((uids.due.len(), uids.seen.len()), (MAX_REMEMBERED, MAX_REMEMBERED));
    }

    #[test]
    fn what_leads_elsewhere_in_a_path_is_no_name() {
        assert!(is_name("team-a") && is_name("hello.1"));
        for bad in ["", "..", "../secrets", "a/b", "a?b", "A"] {
            assert!(!is_name(bad), "{bad}");
        }
    }
}
