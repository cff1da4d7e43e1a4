//! One operator process as a test sees it: what happens to its calls, how old its cache is, and one reconcile at a time.

use std::{
    pin::Pin,
    sync::{Arc, Mutex},
};

use kube::runtime::controller::Action;
use serde::de::DeserializeOwned;
use serde_json::Value;
use xdc_grid::operator::{
    context::Context, error::Error, grid_model as model_controller, grid_network as network_controller,
    grid_node as node_controller, inference_job as job_controller,
};

use super::{
    scene::{Kind, Scene},
    unseen::Unseen,
};
use crate::support::faults::Faults;

type Draw<T> = Box<dyn Fn(usize) -> T + Send + Sync>;

/// What is to befall a process.
pub struct Fate {
    /// At the API server.
    pub api: Faults,
    /// At the chain's RPC.
    pub chain: Faults,
    /// How many versions of the object its cache is behind, at the n-th look.
    pub behind: Draw<usize>,
    /// What nobody sees happen, before the n-th look.
    pub unseen: Draw<Option<Unseen>>,
}

impl Fate {
    pub fn none() -> Self {
        Fate::at_api(Faults::none())
    }

    pub fn at_api(api: Faults) -> Self {
        Fate { api, chain: Faults::none(), behind: Box::new(|_| 0), unseen: Box::new(|_| None) }
    }
}

/// What one operator process knows.
pub struct Life {
    pub context: Arc<Context>,
    fate: Fate,
    cache: Mutex<Cache>,
}

/// How a look went.
#[derive(Debug, Clone, Copy, Default)]
pub struct Looked {
    /// At the object as it is.
    pub fresh: bool,
    /// Without an error.
    pub done: bool,
}

impl Life {
    pub fn new(context: Arc<Context>, fate: Fate) -> Self {
        Life { context, fate, cache: Mutex::default() }
    }

    /// What happens before the next look.
    pub fn unseen(&self) -> Option<Unseen> {
        (self.fate.unseen)(self.cache.lock().unwrap().looks)
    }

    /// One reconcile of the object as it is now, or as the cache still has it. What fails is left for the next look. `None` when
    /// the process died of it.
    pub async fn look(&self, kind: Kind, name: &str, scene: &Scene) -> Option<Looked> {
        let Some(newest) = scene.find(kind, name).await else { return Some(Looked::default()) };
        let (shown, fresh) = self.cache.lock().unwrap().look(newest, &self.fate.behind);
        Some(Looked { fresh, done: self.reconcile(kind, shown).await?.is_ok() })
    }

    /// One more reconcile of an object that is gone, which a cache may not know yet. `false` when the process died of it.
    pub async fn look_too_late(&self, kind: Kind) -> bool {
        let last = self.cache.lock().unwrap().last_shown();
        match last {
            Some(last) => self.reconcile(kind, last).await.is_some(),
            None => true,
        }
    }

    /// Compares the gateway's jobs with those that there are, as a process does when it begins and now and then. `None` when the
    /// process died of it, else whether it was done.
    pub async fn compare_jobs(&self) -> Option<bool> {
        let compared = job_controller::gone::compare(|_| false, &self.context);
        let outcome = self.fate.api.until_death(self.fate.chain.until_death(compared)).await.flatten();
        outcome.map(|outcome| outcome.is_ok())
    }

    /// As far as the process gets with it.
    async fn reconcile(&self, kind: Kind, shown: Value) -> Option<Result<Action, Error>> {
        let context = self.context.clone();
        let reconcile: Pin<Box<dyn Future<Output = Result<Action, Error>>>> = match kind {
            Kind::Network => Box::pin(network_controller::reconcile(object(shown), context)),
            Kind::Model => Box::pin(model_controller::reconcile(object(shown), context)),
            Kind::Node => Box::pin(node_controller::reconcile(object(shown), context)),
            Kind::Job => Box::pin(job_controller::reconcile(object(shown), context)),
        };
        self.fate.api.until_death(self.fate.chain.until_death(reconcile)).await.flatten()
    }
}

fn object<K: DeserializeOwned>(value: Value) -> Arc<K> {
    Arc::new(serde_json::from_value(value).unwrap())
}

/// The versions of one object that there were at a look, the newest last. Like a watch, it may be late but never goes back.
#[derive(Default)]
struct Cache {
    versions: Vec<Value>,
    shown: Option<usize>,
    looks: usize,
}

impl Cache {
    /// What the controller gets to see, and whether that is the newest.
    fn look(&mut self, newest: Value, behind: &Draw<usize>) -> (Value, bool) {
        let version = |object: &Value| object["metadata"]["resourceVersion"].clone();
        if self.versions.last().map(version) != Some(version(&newest)) {
            self.versions.push(newest);
        }
        let last = self.versions.len() - 1;
        let shown = last.saturating_sub(behind(self.looks)).max(self.shown.unwrap_or(0));
        self.looks += 1;
        self.shown = Some(shown);
        (self.versions[shown].clone(), shown == last)
    }

    fn last_shown(&self) -> Option<Value> {
        self.shown.map(|at| self.versions[at].clone())
    }
}
