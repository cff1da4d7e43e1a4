//! The one shard of a brief job: its pod carries the input in its environment and makes a ConfigMap of the answers. Its token may
//! make ConfigMaps and read none, so nothing is found here that an earlier try left, and nothing is written twice: what exists was
//! made by an earlier pod of the same job, because only its pods know the name.

use backon::Retryable;
use base64::{Engine as _, engine::general_purpose::STANDARD};
use futures::{FutureExt, future::BoxFuture};
use reqwest::Method;
use serde_json::{Value, json};

use super::{
    BatchOptions,
    api_server::{ApiServer, patience},
    mailbox::{Found, Mailbox, MailboxError},
};
use crate::protocol::shard::{CARRIED_INPUT, JOB_UID_LABEL, MAX_UNFINISHED, PART, Part, RESULTS, unfinished_name};

pub(super) struct Carried {
    server: ApiServer,
    input: String,
    answers: String,
    job_uid: String,
    /// With which the answers go.
    owner: Value,
}

impl Carried {
    pub(super) fn open(options: &BatchOptions, answers: &str) -> Result<Self, MailboxError> {
        let unreadable =
            |message: String| MailboxError::Unreadable { what: format!("the variable {CARRIED_INPUT}"), message };
        let text = options.shard_input.as_deref().ok_or_else(|| MailboxError::Missing(CARRIED_INPUT.into()))?;
        let bytes = STANDARD.decode(text).map_err(|error| unreadable(error.to_string()))?;
        let owner = match (&options.owner_job, &options.owner_uid) {
            (Some(name), Some(uid)) => json!([{"apiVersion": "batch/v1", "kind": "Job", "name": name, "uid": uid}]),
            _ => json!([]),
        };
        Ok(Carried {
            server: ApiServer::open(options)?,
            input: String::from_utf8(bytes).map_err(|error| unreadable(error.to_string()))?,
            answers: answers.to_owned(),
            job_uid: options.job_uid.clone(),
            owner,
        })
    }

    /// False when it is there already.
    async fn make(&self, name: &str, part: &Part, results: &str) -> Result<bool, MailboxError> {
        let body = self.config_map(name, part, results)?.to_string();
        let make = || async {
            let request = self.server.request(Method::POST, "").await?;
            let request = request.header(reqwest::header::CONTENT_TYPE, "application/json").body(body.clone());
            self.server.send(request, &format!("ConfigMap {name}")).await
        };
        let mends = |error: &MailboxError| matches!(error, MailboxError::Unreachable(_));
        match make.retry(patience()).when(mends).await {
            Ok(_) => Ok(true),
            Err(MailboxError::Conflict(_)) => Ok(false),
            // A namespace that is not there is no fault of the input.
            Err(MailboxError::Missing(what)) => Err(MailboxError::Refused(format!("{what} cannot be made: 404"))),
            Err(error) => Err(error),
        }
    }

    fn config_map(&self, name: &str, part: &Part, results: &str) -> Result<Value, MailboxError> {
        let unreadable =
            |error: serde_json::Error| MailboxError::Unreadable { what: PART.into(), message: error.to_string() };
        Ok(json!({
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": name, "labels": {JOB_UID_LABEL: self.job_uid}, "ownerReferences": self.owner},
            "data": {RESULTS: results, PART: serde_json::to_string(part).map_err(unreadable)?},
        }))
    }

    async fn hand_back(&self, part: &Part, results: &str) -> Result<(), MailboxError> {
        if part.complete {
            return self.make(&self.answers, part, results).await.map(drop);
        }
        for number in 1..=MAX_UNFINISHED {
            if self.make(&unfinished_name(&self.answers, number), part, results).await? {
                return Ok(());
            }
        }
        tracing::warn!(pods = MAX_UNFINISHED, "so many were stopped before; what this one answered is not kept");
        Ok(())
    }
}

impl Mailbox for Carried {
    fn read(&self) -> BoxFuture<'_, Result<Found, MailboxError>> {
        async { Ok(Found { input: self.input.clone(), ..Found::default() }) }.boxed()
    }

    fn write<'a>(&'a self, part: &'a Part, results: &'a str) -> BoxFuture<'a, Result<(), MailboxError>> {
        self.hand_back(part, results).boxed()
    }

    fn keeps_copies(&self) -> bool {
        false
    }
}
