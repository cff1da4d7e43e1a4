//! Getting a model's file: one task for each, from wherever its source says, until it is here or nobody can give it.

use std::{
    collections::HashMap,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
};

use super::format;
use crate::{
    api::ids::ModelDigest,
    download::{FetchError, Fetching, Login, Origin},
    gateway::Gateway,
    protocol::{
        internal::{ModelSource, ModelState, SourceAccess},
        place::ModelPlace,
    },
    store::{LedgerError, ModelRecord},
};

/// Fetches that are under way.
#[derive(Debug, Default)]
pub struct Fetches {
    running: Mutex<HashMap<ModelDigest, Underway>>,
}

#[derive(Debug)]
struct Underway {
    progress: Fetching,
    /// The newest, which may have come after the fetch had begun.
    access: Option<SourceAccess>,
}

impl Fetches {
    /// `None` when it is being fetched already, which from now on knows this access.
    fn begin(&self, digest: &ModelDigest, access: Option<SourceAccess>) -> Option<Fetching> {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(underway) = running.get_mut(digest) {
            underway.access = access.or(underway.access.take());
            return None;
        }
        let progress = Fetching::default();
        running.insert(*digest, Underway { progress: progress.clone(), access });
        Some(progress)
    }

    fn end(&self, digest: &ModelDigest) {
        self.running.lock().unwrap_or_else(PoisonError::into_inner).remove(digest);
    }

    fn access(&self, digest: &ModelDigest) -> Option<SourceAccess> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner).get(digest)?.access.clone()
    }

    pub(super) fn bytes(&self, digest: &ModelDigest) -> u64 {
        let running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        running.get(digest).map_or(0, |underway| underway.progress.bytes())
    }
}

impl Gateway {
    /// Goes on with what a restart interrupted, and fetches again what the blob store lost.
    pub(in crate::gateway) async fn resume_models(self: &Arc<Self>) -> Result<(), LedgerError> {
        for model in self.ledger.models().await? {
            if model.state != ModelState::Failed {
                self.spawn_fetch(model, None);
            }
        }
        Ok(())
    }

    pub(super) fn spawn_fetch(self: &Arc<Self>, model: ModelRecord, access: Option<SourceAccess>) {
        let digest = model.source.digest;
        let Some(progress) = self.fetches.begin(&digest, access) else { return };
        let gateway = self.clone();
        self.spawn(async move {
            if let Err(error) = gateway.fetch_until_settled(model, &progress).await {
                gateway.ledger_failed("fetching a model", &error);
            }
            gateway.fetches.end(&digest);
        });
    }

    /// Fetches, and again if the model was given another source or a new access in between, and lets go of what was removed in between.
    async fn fetch_until_settled(
        self: &Arc<Self>,
        mut model: ModelRecord,
        progress: &Fetching,
    ) -> Result<(), LedgerError> {
        let digest = model.source.digest;
        loop {
            let access = self.fetches.access(&digest);
            let fetched = self.fetch(&model, access.as_ref(), progress).await;
            match self.ledger.model(&digest).await? {
                None => {
                    if let Err(error) = self.blobs.remove(&digest).await {
                        tracing::warn!(%digest, "cannot remove a blob: {error}");
                    }
                    return Ok(());
                }
                Some(now)
                    if fetched.is_err() && (now.source != model.source || self.fetches.access(&digest) != access) =>
                {
                    model = now;
                }
                Some(now) => return self.settle(&now, fetched).await,
            }
        }
    }

    async fn fetch(
        self: &Arc<Self>,
        model: &ModelRecord,
        access: Option<&SourceAccess>,
        progress: &Fetching,
    ) -> Result<u64, FetchError> {
        let (source, limits) = (&model.source, &self.settings.fetch);
        // Whether it is of the format that is named was seen when it came, and is seen again when it is named anew.
        if let Some(bytes) = self.blobs.size(&source.digest).await {
            progress.set(bytes);
            return Ok(bytes);
        }
        let target = self.blobs.target(&source.digest);
        let bytes = match self.origin(source, access)? {
            Some(origin) => crate::download::fetch(&origin, &source.digest, &target, limits, progress).await?,
            None => self.fetch_from_members(&source.digest, &target, progress).await?,
        };
        tracing::info!(model = source.name, digest = %source.digest, bytes, "model fetched and verified");
        // Another GridModel may name the same file rightly, so it stays.
        self.contradiction(source).await?.map_or(Ok(bytes), |message| Err(FetchError::Format(message)))
    }

    /// Why a file that is here cannot be what its source says it is.
    pub(super) async fn contradiction(&self, source: &ModelSource) -> std::io::Result<Option<String>> {
        let (path, format) = (self.blobs.path(&source.digest), source.format);
        let looked = tokio::task::spawn_blocking(move || format::contradiction(&path, format)).await;
        looked.map_err(std::io::Error::other)?
    }

    /// Writes down what came of it, and tells the members that are to serve it.
    async fn settle(
        self: &Arc<Self>,
        model: &ModelRecord,
        fetched: Result<u64, FetchError>,
    ) -> Result<(), LedgerError> {
        let source = &model.source;
        match fetched {
            Ok(bytes) => {
                let cost = super::cost_per_token(source, bytes);
                if model.state != ModelState::Ready || (model.bytes, model.cost_per_token) != (bytes, cost) {
                    self.ledger.model_ready(&source.digest, bytes, cost).await?;
                }
                self.assign_everywhere(&source.digest);
            }
            Err(error) => {
                tracing::warn!(model = source.name, reason = error.reason(), "{error}");
                self.ledger.model_failed(&source.digest, error.reason(), &error.to_string()).await?;
            }
        }
        Ok(())
    }

    /// Where to read it; `None`: from the members.
    fn origin(&self, source: &ModelSource, access: Option<&SourceAccess>) -> Result<Option<Origin>, FetchError> {
        let unreachable = |message: String| FetchError::Unreachable { from: source.name.clone(), message };
        let place = source.url.parse().map_err(|error| unreachable(format!("{error}")))?;
        Ok(Some(match (place, access) {
            (ModelPlace::Grid, _) => return Ok(None),
            (ModelPlace::Web(_), Some(SourceAccess::SignedUrl(url))) => Origin::Web(url.clone()),
            (ModelPlace::Web(url), _) => Origin::Web(url),
            (ModelPlace::Registry(repository), Some(SourceAccess::Login { username, password })) => {
                Origin::Registry(repository, Some(Login { username: username.clone(), password: password.clone() }))
            }
            (ModelPlace::Registry(repository), _) => Origin::Registry(repository, None),
            (ModelPlace::Volume { claim, path }, _) => {
                let shown = source.url.clone();
                Origin::File { path: self.on_volume(&claim, &path, &shown)?, shown }
            }
        }))
    }

    /// A file on a claim that is mounted here. Not one that a link leads to elsewhere.
    fn on_volume(&self, claim: &str, path: &str, shown: &str) -> Result<PathBuf, FetchError> {
        let missing = |message: String| FetchError::Volume { from: shown.to_owned(), message };
        let mounted = self.settings.model_claims.as_ref().map(|folder| folder.join(claim)).filter(|at| at.is_dir());
        let Some(folder) = mounted.and_then(|folder| folder.canonicalize().ok()) else {
            return Err(missing(format!(
                "the gateway does not mount claim {claim}; an admin does: helm upgrade … --set 'gateway.modelClaims={{{claim}}}'"
            )));
        };
        let file = folder.join(path).canonicalize().map_err(|error| missing(error.kind().to_string()))?;
        if file.starts_with(&folder) { Ok(file) } else { Err(missing("it leads out of the volume".into())) }
    }

    fn assign_everywhere(self: &Arc<Self>, digest: &ModelDigest) {
        for record in self.members.all() {
            if record.member.models.contains(digest) && self.peers.is_connected(&record.member.peer_id) {
                self.spawn_assign(record.member.peer_id);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fetch_under_way_learns_of_a_new_access_and_forgets_none() {
        let (fetches, digest) = (Fetches::default(), ModelDigest([1; 32]));
        let signed = |url: &str| Some(SourceAccess::SignedUrl(url.into()));
        assert!(fetches.begin(&digest, signed("a")).is_some());
        assert!(fetches.begin(&digest, None).is_none());
        assert_eq!(fetches.access(&digest), signed("a"));
        assert!(fetches.begin(&digest, signed("b")).is_none());
        assert_eq!(fetches.access(&digest), signed("b"));
        fetches.end(&digest);
        assert_eq!(fetches.access(&digest), None);
    }
}
