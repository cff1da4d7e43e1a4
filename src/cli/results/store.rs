//! Results in the gateway's store: the manifest says which parts there are, and the job's status vouches for the manifest.

use std::collections::BTreeMap;

use kube::{api::GetParams, core::Request};
use serde::Deserialize;
use sha2::{Digest, Sha256};

use super::{ResultsArgs, wanted};
use crate::{
    api::inference_job::{OutputStatus, StoreStatus},
    cli::{CliError, session::Session},
    protocol::internal::READ_KEY_HEADER,
};

const MANIFEST: &str = "manifest.json";

#[derive(Deserialize)]
struct Manifest {
    parts: BTreeMap<String, Vec<Part>>,
}

#[derive(Deserialize)]
struct Part {
    name: String,
    sha256: String,
}

/// The file that is asked for, part by part, each of them checked.
pub async fn fetch(
    session: &Session,
    at: &StoreStatus,
    published: &OutputStatus,
    args: &ResultsArgs,
) -> Result<String, CliError> {
    let reader = Reader { session, at, gateway: args.gateway.as_deref() };
    let text = reader.file(MANIFEST, published.manifest_sha256.as_deref().unwrap_or_default()).await?;
    let manifest: Manifest = serde_json::from_str(&text).map_err(|error| {
        CliError::Other(format!("{MANIFEST} cannot be read by this version of kubectl-grid: {error}"))
    })?;
    let (name, _) = wanted(published, args.errors);
    let mut whole = String::new();
    for part in manifest.parts.get(name).into_iter().flatten() {
        whole.push_str(&reader.file(&part.name, &part.sha256).await?);
    }
    Ok(whole)
}

struct Reader<'a> {
    session: &'a Session,
    at: &'a StoreStatus,
    gateway: Option<&'a str>,
}

impl Reader<'_> {
    async fn file(&self, name: &str, sha256: &str) -> Result<String, CliError> {
        let text = match self.gateway {
            Some(gateway) => self.straight_from(gateway, name).await?,
            None => self.through_api_server(name).await?,
        };
        let found = hex::encode(Sha256::digest(text.as_bytes()));
        if found == sha256 {
            return Ok(text);
        }
        Err(CliError::Other(format!("{name} in the store has sha256 {found}, the job says {sha256}")))
    }

    async fn straight_from(&self, gateway: &str, name: &str) -> Result<String, CliError> {
        let url = format!("{}{}{name}", gateway.trim_end_matches('/'), self.at.path);
        let unreachable = |error: reqwest::Error| CliError::Other(format!("the gateway at {gateway}: {error}"));
        let request = reqwest::Client::new().get(url).header(READ_KEY_HEADER, &self.at.read_key);
        let response = request.send().await.map_err(unreachable)?;
        response.error_for_status().map_err(unreachable)?.text().await.map_err(unreachable)
    }

    async fn through_api_server(&self, name: &str) -> Result<String, CliError> {
        let no_way = |why: &str| {
            CliError::Other(format!(
                "{why}; name the gateway's API with --gateway http://HOST:PORT, or ask your admin for it"
            ))
        };
        let (namespace, service) =
            self.at.service.split_once('/').ok_or_else(|| no_way("the job does not name the gateway's Service"))?;
        let folder = self.at.path.trim_end_matches('/');
        let path = format!("/api/v1/namespaces/{namespace}/services/{service}/proxy{folder}");
        let unusable = |error: &dyn std::fmt::Display| CliError::Other(format!("cannot ask for {name}: {error}"));
        let mut request = Request::new(path).get(name, &GetParams::default()).map_err(|error| unusable(&error))?;
        let key = self.at.read_key.parse().map_err(|_| unusable(&"the job's read key is no header value"))?;
        request.headers_mut().insert(READ_KEY_HEADER, key);
        match self.session.client.request_text(request).await {
            Err(kube::Error::Api(status)) if status.code == 403 => {
                Err(no_way("you may not use the gateway's Service as a proxy"))
            }
            outcome => outcome.map_err(|error| CliError::from_kube(error, "file", name, Some(namespace))),
        }
    }
}
