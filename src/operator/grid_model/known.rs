//! The models that there are, from the cache of their controller: few and small, and asked for by every look at every job.

use std::sync::OnceLock;

use kube::runtime::reflector::{ObjectRef, Store};

use crate::{api::grid_model::GridModel, operator::runner::Guarded};

/// Cheap to ask. What is not in it may all the same be there: the watch may be late, or not have begun.
#[derive(Default)]
pub struct KnownModels {
    models: OnceLock<Store<Guarded<GridModel>>>,
}

impl KnownModels {
    /// Notes where the models are kept; the first one stays.
    pub fn keep(&self, models: Store<Guarded<GridModel>>) {
        // A second controller of the same kind would keep the same models.
        let _ = self.models.set(models);
    }

    pub fn find(&self, name: &str) -> Option<GridModel> {
        self.models.get()?.get(&ObjectRef::new(name))?.0.clone().ok()
    }
}

#[cfg(test)]
mod tests {
    use kube::runtime::{reflector, watcher};
    use serde_json::json;

    use super::*;

    fn model(name: &str, sha256: serde_json::Value) -> Guarded<GridModel> {
        let spec = json!({"source": {"url": "http://models/m.gguf"}, "sha256": sha256});
        let object =
            json!({"apiVersion": "xdcgrid.io/v1alpha1", "kind": "GridModel", "metadata": {"name": name}, "spec": spec});
        serde_json::from_value(object).unwrap()
    }

    #[test]
    fn a_model_is_found_once_its_controller_keeps_it_and_a_malformed_one_never_is() {
        let (store, mut writer) = reflector::store();
        writer.apply_watcher_event(&watcher::Event::Apply(model("sound", json!("11".repeat(32)))));
        writer.apply_watcher_event(&watcher::Event::Apply(model("malformed", json!(7))));
        let known = KnownModels::default();
        assert!(known.find("sound").is_none());
        known.keep(store);
        assert!(known.find("sound").is_some());
        assert!(known.find("malformed").is_none() && known.find("other").is_none());
    }
}
