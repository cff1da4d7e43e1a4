//! Events, as `kubectl describe` shows them. The same one again within some minutes is counted and not repeated, as far as the last
//! few hundred are remembered: a list that grew with the objects would cost more than what it spares.

use std::{
    collections::VecDeque,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use jiff::Timestamp;
use k8s_openapi::{
    api::{
        core::v1::ObjectReference,
        events::v1::{Event as Stored, EventSeries},
    },
    apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta},
};
use kube::{
    Api, Client,
    api::{Patch, PatchParams, PostParams},
    runtime::events::{Event, EventType},
};
use serde_json::json;

const CONTROLLER: &str = "xdc-grid-operator";
/// Where Events about what has no namespace are kept.
const NO_NAMESPACE: &str = "default";
const REMEMBERED: usize = 512;
/// An Event that comes after this is news again.
const SERIES: Duration = Duration::from_secs(360);

/// Publishes Events of this process.
pub struct Recorder {
    client: Client,
    instance: String,
    recent: Mutex<Recent>,
}

impl Recorder {
    pub fn new(client: Client, instance: &str) -> Self {
        Recorder { client, instance: instance.to_owned(), recent: Mutex::default() }
    }

    pub async fn publish(&self, event: &Event, about: &ObjectReference) -> Result<(), kube::Error> {
        let key = key(event, about);
        let now = Instant::now();
        let api: Api<Stored> = Api::namespaced(self.client.clone(), namespace(about));
        let again = self.recent().again(&key, now);
        if let Some(Series { name, count }) = again {
            let series = EventSeries { count, last_observed_time: MicroTime(Timestamp::now()) };
            let patch = Patch::Merge(json!({"series": series}));
            return api.patch(&name, &PatchParams::default(), &patch).await.map(drop);
        }
        let stored = self.stored(event, about);
        let name = stored.metadata.name.clone().unwrap_or_default();
        api.create(&PostParams::default(), &stored).await?;
        self.recent().first(key, name, now);
        Ok(())
    }

    fn recent(&self) -> std::sync::MutexGuard<'_, Recent> {
        self.recent.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn stored(&self, event: &Event, about: &ObjectReference) -> Stored {
        let now = Timestamp::now();
        let type_ = match event.type_ {
            EventType::Normal => "Normal",
            EventType::Warning => "Warning",
        };
        Stored {
            metadata: ObjectMeta {
                name: Some(format!("{}.{:x}", about.name.as_deref().unwrap_or(CONTROLLER), now.as_nanosecond())),
                namespace: Some(namespace(about).to_owned()),
                ..ObjectMeta::default()
            },
            action: Some(event.action.clone()),
            reason: Some(event.reason.clone()),
            note: event.note.clone(),
            type_: Some(type_.into()),
            event_time: Some(MicroTime(now)),
            regarding: Some(about.clone()),
            related: event.secondary.clone(),
            reporting_controller: Some(CONTROLLER.into()),
            reporting_instance: Some(self.instance.clone()),
            ..Stored::default()
        }
    }
}

fn namespace(about: &ObjectReference) -> &str {
    about.namespace.as_deref().unwrap_or(NO_NAMESPACE)
}

/// Two Events with the same key are one Event twice, whatever their words.
fn key(event: &Event, about: &ObjectReference) -> blake3::Hash {
    let kind = if matches!(event.type_, EventType::Normal) { "Normal" } else { "Warning" };
    let of = |text: &Option<String>| text.clone().unwrap_or_default();
    let words: [&str; 7] =
        [kind, &event.action, &event.reason, namespace(about), &of(&about.kind), &of(&about.name), &of(&about.uid)];
    blake3::hash(words.join("\n").as_bytes())
}

/// The latest Events, newest last.
#[derive(Default)]
struct Recent {
    entries: VecDeque<Entry>,
}

struct Entry {
    key: blake3::Hash,
    name: String,
    count: i32,
    seen: Instant,
}

/// An Event that is there already.
#[derive(Debug, PartialEq)]
struct Series {
    name: String,
    /// How often it came, this time included.
    count: i32,
}

impl Recent {
    fn again(&mut self, key: &blake3::Hash, now: Instant) -> Option<Series> {
        self.entries.retain(|entry| now.saturating_duration_since(entry.seen) < SERIES);
        let entry = self.entries.iter_mut().find(|entry| entry.key == *key)?;
        entry.count = entry.count.saturating_add(1);
        entry.seen = now;
        Some(Series { name: entry.name.clone(), count: entry.count })
    }

    fn first(&mut self, key: blake3::Hash, name: String, now: Instant) {
        if self.entries.len() >= REMEMBERED {
            self.entries.pop_front();
        }
        self.entries.push_back(Entry { key, name, count: 1, seen: now });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key_of(number: usize) -> blake3::Hash {
        blake3::hash(&number.to_le_bytes())
    }

    #[test]
    fn the_same_event_again_is_counted_until_it_is_news_again() {
        let (mut recent, begin) = (Recent::default(), Instant::now());
        assert_eq!(recent.again(&key_of(1), begin), None);
        recent.first(key_of(1), "a.1".into(), begin);
        assert_eq!(recent.again(&key_of(1), begin), Some(Series { name: "a.1".into(), count: 2 }));
        assert_eq!(recent.again(&key_of(2), begin), None);
        assert_eq!(recent.again(&key_of(1), begin + SERIES), None);
    }

    #[test]
    fn what_is_remembered_does_not_grow_with_the_objects() {
        let (mut recent, now) = (Recent::default(), Instant::now());
        for number in 0..2 * REMEMBERED {
            recent.first(key_of(number), number.to_string(), now);
        }
        assert_eq!(recent.entries.len(), REMEMBERED);
        assert!(recent.again(&key_of(2 * REMEMBERED - 1), now).is_some());
    }

    #[test]
    fn events_differ_by_what_they_are_about_and_not_by_their_words() {
        let about = |name: &str| ObjectReference { name: Some(name.into()), ..ObjectReference::default() };
        let event = |type_, note: &str| Event {
            type_,
            reason: "R".into(),
            note: Some(note.into()),
            action: "A".into(),
            secondary: None,
        };
        let first = key(&event(EventType::Normal, "1 of 9"), &about("a"));
        assert_eq!(first, key(&event(EventType::Normal, "2 of 9"), &about("a")));
        assert_ne!(first, key(&event(EventType::Normal, "1 of 9"), &about("b")));
        assert_ne!(first, key(&event(EventType::Warning, "1 of 9"), &about("a")));
    }
}
