//! The models that there are, from the cache of their controller: few and small, and asked for by every look at every job and node. Who
//! goes by them is told here too what changed, after the cache knows it: a watch of its own might be ahead of the cache.

use std::sync::OnceLock;

use futures::{Stream, StreamExt};
use kube::{
    ResourceExt,
    runtime::{
        reflector::{ObjectRef, Store},
        watcher::Event,
    },
};
use tokio::sync::broadcast;
use tokio_stream::wrappers::BroadcastStream;

use crate::{api::grid_model::GridModel, operator::runner::Guarded};

/// One who misses more than this many changes is told that anything may have changed.
const BUFFER: usize = 256;

/// Cheap to ask. What is not in it may all the same be there: the watch may be late, or not have begun.
pub struct KnownModels {
    models: OnceLock<Store<Guarded<GridModel>>>,
    news: broadcast::Sender<Option<String>>,
}

impl Default for KnownModels {
    fn default() -> Self {
        KnownModels { models: OnceLock::new(), news: broadcast::channel(BUFFER).0 }
    }
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

    /// Passes on what the watch saw. Call once the cache has it.
    pub fn tell(&self, event: &Event<Guarded<GridModel>>) {
        let news = match event {
            Event::Apply(model) | Event::Delete(model) => Some(model.name_any()),
            // Before that the cache has nothing of a listing.
            Event::InitDone => None,
            Event::Init | Event::InitApply(_) => return,
        };
        // Nobody listening yet is no error: who begins later looks at everything anyway.
        let _ = self.news.send(news);
    }

    /// Names of models that changed, came or went; `None`: any may have.
    pub fn news(&self) -> impl Stream<Item = Option<String>> + Send + 'static {
        BroadcastStream::new(self.news.subscribe()).map(|news| news.unwrap_or(None))
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;
    use kube::runtime::reflector;
    use serde_json::json;

    use super::*;

    fn model(name: &str, sha256: serde_json::Value) -> Guarded<GridModel> {
        let spec = json!({"source": {"url": "http://models/m.gguf"}, "sha256": sha256});
        let object =
            json!({"apiVersion": "xdcgrid.io/v1alpha1", "kind": "GridModel", "metadata": {"name": name}, "spec": spec});
        serde_json::from_value(object).unwrap()
    }

    fn sound(name: &str) -> Guarded<GridModel> {
        model(name, json!("11".repeat(32)))
    }

    #[test]
    fn a_model_is_found_once_its_controller_keeps_it_and_a_malformed_one_never_is() {
        let (store, mut writer) = reflector::store();
        writer.apply_watcher_event(&Event::Apply(sound("sound")));
        writer.apply_watcher_event(&Event::Apply(model("malformed", json!(7))));
        let known = KnownModels::default();
        assert!(known.find("sound").is_none());
        known.keep(store);
        assert!(known.find("sound").is_some());
        assert!(known.find("malformed").is_none() && known.find("other").is_none());
    }

    #[test]
    fn what_changed_is_told_by_name_and_a_listing_as_a_whole() {
        let known = KnownModels::default();
        let mut news = std::pin::pin!(known.news());
        let events = [
            Event::Init,
            Event::InitApply(sound("a")),
            Event::InitDone,
            Event::Apply(sound("b")),
            Event::Delete(sound("c")),
        ];
        events.iter().for_each(|event| known.tell(event));
        let told: Vec<_> = std::iter::from_fn(|| news.next().now_or_never()).flatten().collect();
        assert_eq!(told, [None, Some("b".into()), Some("c".into())]);
    }

    #[test]
    fn who_missed_changes_is_told_that_anything_may_have_changed() {
        let known = KnownModels::default();
        let mut news = std::pin::pin!(known.news());
        for _ in 0..=BUFFER {
            known.tell(&Event::Apply(sound("a")));
        }
        assert_eq!(news.next().now_or_never(), Some(Some(None)));
    }
}
