//! Shards as ConfigMaps. The pod's token may get and patch the ConfigMaps of its own job and nothing else.

use backon::Retryable;
use futures::{FutureExt, future::BoxFuture};
use reqwest::{Method, header};
use serde::Deserialize;
use serde_json::json;

use super::{
    BatchOptions,
    api_server::{ApiServer, patience},
    mailbox::{Found, Mailbox, MailboxError},
};
use crate::protocol::shard::{INPUT, PART, Part, RESULTS, config_map_name};

/// Owner of the fields that a pod writes.
const MANAGER: &str = "xdc-grid-batch";

pub(super) struct ConfigMaps {
    server: ApiServer,
    name: String,
}

/// The fields of a ConfigMap that are ours.
#[derive(Deserialize)]
struct ConfigMap {
    #[serde(default)]
    data: Data,
}

#[derive(Deserialize, Default)]
struct Data {
    #[serde(rename = "input.jsonl")]
    input: Option<String>,
    #[serde(rename = "results.jsonl")]
    results: Option<String>,
    #[serde(rename = "part.json")]
    part: Option<String>,
}

impl ConfigMaps {
    pub(super) fn open(options: &BatchOptions, prefix: &str) -> Result<Self, MailboxError> {
        Ok(ConfigMaps { server: ApiServer::open(options)?, name: config_map_name(prefix, options.index) })
    }

    async fn get(&self) -> Result<Found, MailboxError> {
        let request = self.server.request(Method::GET, &format!("/{}", self.name)).await?;
        let body = self.server.send(request, &self.what()).await?;
        let unreadable = |message: String| MailboxError::Unreadable { what: self.what(), message };
        let found: ConfigMap = serde_json::from_slice(&body).map_err(|error| unreadable(error.to_string()))?;
        let Data { input, results, part } = found.data;
        Ok(Found {
            input: input.ok_or_else(|| unreadable(format!("it has no key {INPUT}")))?,
            results: results.unwrap_or_default(),
            // One that cannot be read is as good as none: the work is done again.
            part: part.and_then(|text| serde_json::from_str(&text).ok()),
        })
    }

    /// Server-side apply, which owns what it writes and nothing else.
    async fn apply(&self, part: &Part, results: &str) -> Result<(), MailboxError> {
        let unreadable =
            |error: serde_json::Error| MailboxError::Unreadable { what: PART.into(), message: error.to_string() };
        let body = json!({
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": self.name},
            "data": {RESULTS: results, PART: serde_json::to_string(part).map_err(unreadable)?},
        });
        let path = format!("/{}?fieldManager={MANAGER}&force=true", self.name);
        let request = self.server.request(Method::PATCH, &path).await?;
        let request = request.header(header::CONTENT_TYPE, "application/apply-patch+yaml").body(body.to_string());
        self.server.send(request, &self.what()).await.map(drop)
    }

    fn what(&self) -> String {
        format!("ConfigMap {}", self.name)
    }
}

fn may_mend(error: &MailboxError) -> bool {
    matches!(error, MailboxError::Unreachable(_) | MailboxError::Conflict(_))
}

impl Mailbox for ConfigMaps {
    fn read(&self) -> BoxFuture<'_, Result<Found, MailboxError>> {
        let get = move || self.get();
        async move { get.retry(patience()).when(may_mend).await }.boxed()
    }

    fn write<'a>(&'a self, part: &'a Part, results: &'a str) -> BoxFuture<'a, Result<(), MailboxError>> {
        let apply = move || self.apply(part, results);
        async move { apply.retry(patience()).when(may_mend).await }.boxed()
    }
}
