//! Writing to the API server: server-side apply of children, status and Events. Nothing is sent when nothing changed.

use std::fmt::Debug;

use kube::{
    Api, Resource, ResourceExt,
    api::{Patch, PatchParams},
    core::NamespaceResourceScope,
    runtime::events::{Event, EventType},
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};

use super::{context::Context, error::Error};
use crate::api::{
    conditions::{Condition, Truth},
    reasons::Reason,
};

/// Hash of what was applied. Part of the object itself, so that a field that is no longer wanted is noticed as well.
pub const APPLIED: &str = "xdcgrid.io/applied";

/// Applies `wanted` as `manager` unless the object is as wanted already. Returns what is there now.
pub async fn apply<K>(api: &Api<K>, manager: &str, wanted: K) -> Result<K, Error>
where
    K: Resource<DynamicType = ()> + Clone + Debug + Serialize + DeserializeOwned,
{
    let name = wanted.meta().name.clone().ok_or(Error::Incomplete("a name"))?;
    let found = api.get_opt(&name).await?;
    apply_over(api, manager, wanted, found.as_ref()).await
}

/// The same over what a list has found already.
pub async fn apply_over<K>(api: &Api<K>, manager: &str, mut wanted: K, found: Option<&K>) -> Result<K, Error>
where
    K: Resource<DynamicType = ()> + Clone + Debug + Serialize + DeserializeOwned,
{
    let name = wanted.meta().name.clone().ok_or(Error::Incomplete("a name"))?;
    let hash = blake3::hash(&serde_json::to_vec(&wanted)?).to_hex()[..16].to_owned();
    wanted.annotations_mut().insert(APPLIED.into(), hash);
    let body = typed(&wanted)?;
    if let Some(found) = found
        && covers(&serde_json::to_value(found)?, &body)
    {
        return Ok(found.clone());
    }
    Ok(api.patch(&name, &PatchParams::apply(manager).force(), &Patch::Apply(&body)).await?)
}

/// Applies `status` to `object` as `manager`, and publishes an Event for each condition whose status changed. Sends nothing
/// when the status is what the object has. Returns whether it wrote.
pub async fn status<K, S>(
    api: &Api<K>,
    context: &Context,
    manager: &str,
    object: &K,
    change: Change<'_, S>,
) -> Result<bool, Error>
where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned,
    S: Serialize,
{
    let status = serde_json::to_value(change.new)?;
    if serde_json::to_value(change.old)? == status {
        return Ok(false);
    }
    let body = json!({
        "apiVersion": K::api_version(&()),
        "kind": K::kind(&()),
        // With the version that was read: a status computed from an older object must not overwrite a newer one.
        "metadata": {"name": object.name_any(), "resourceVersion": object.resource_version()},
        "status": status,
    });
    api.patch_status(&object.name_any(), &PatchParams::apply(manager).force(), &Patch::Apply(&body)).await?;
    for event in events(&change) {
        publish(context, object, &event).await;
    }
    Ok(true)
}

/// A status before and after.
pub struct Change<'a, S> {
    pub old: Option<&'a S>,
    pub new: &'a S,
    pub old_conditions: &'a [Condition],
    pub new_conditions: &'a [Condition],
    /// Condition types that are bad news when true.
    pub abnormal: &'a [&'a str],
    /// Reasons that are no bad news, whatever the condition: it changed because things went as they should.
    pub expected: &'a [Reason],
}

/// Publishes an Event. An Event that cannot be written is logged and no reason to stop.
pub async fn publish<K: Resource<DynamicType = ()>>(context: &Context, object: &K, event: &Event) {
    if let Err(error) = context.recorder.publish(event, &object.object_ref(&())).await {
        tracing::warn!(%error, reason = event.reason, "cannot publish an Event");
    }
}

/// A Normal Event.
pub fn note(action: &str, reason: &str, note: impl Into<String>) -> Event {
    Event { type_: EventType::Normal, ..warning(action, reason, note) }
}

/// A Warning Event about `object`.
pub fn warning(action: &str, reason: &str, note: impl Into<String>) -> Event {
    Event {
        type_: EventType::Warning,
        reason: reason.into(),
        note: note_of(note.into()),
        action: action.into(),
        secondary: None,
    }
}

/// Events are for what a person would want to see: a condition that became true or false, not one that became unknown.
fn events<S>(change: &Change<'_, S>) -> Vec<Event> {
    let mut events = Vec::new();
    for condition in change.new_conditions {
        let previous = change.old_conditions.iter().find(|other| other.type_ == condition.type_);
        let changed = previous.map(|other| other.status) != Some(condition.status);
        let worse_news = previous.is_some_and(|other| other.reason != condition.reason);
        let expected = change.expected.iter().any(|reason| reason.as_str() == condition.reason);
        let abnormal = change.abnormal.contains(&condition.type_.as_str());
        let good = expected || (condition.status == Truth::True) != abnormal;
        // A condition that starts as False only says that work has not been done yet.
        let started_false = previous.is_none() && condition.status == Truth::False;
        if condition.status == Truth::Unknown || started_false || !(changed || (worse_news && !good)) {
            continue;
        }
        events.push(Event {
            type_: if good { EventType::Normal } else { EventType::Warning },
            reason: condition.reason.clone(),
            note: note_of(format!("{}: {}", condition.type_, condition.message)),
            action: "Reconcile".into(),
            secondary: None,
        });
    }
    events
}

/// The API server takes at most 1 kB.
fn note_of(mut note: String) -> Option<String> {
    if note.len() > 1000 {
        let end = (0..=1000).rev().find(|&at| note.is_char_boundary(at)).unwrap_or(0);
        note.truncate(end);
    }
    Some(note)
}

/// The object as JSON with its apiVersion and kind.
fn typed<K: Resource<DynamicType = ()> + Serialize>(object: &K) -> Result<Value, Error> {
    let mut body = serde_json::to_value(object)?;
    if let Value::Object(fields) = &mut body {
        fields.insert("apiVersion".into(), K::api_version(&()).as_ref().into());
        fields.insert("kind".into(), K::kind(&()).as_ref().into());
    }
    Ok(body)
}

/// True when everything that `wanted` says is so in `found`. What `wanted` does not say belongs to others.
fn covers(found: &Value, wanted: &Value) -> bool {
    match (found, wanted) {
        (Value::Object(found), Value::Object(wanted)) => wanted.iter().all(|(key, value)| {
            // The API server does not always repeat these two, and drops empty maps and lists.
            key == "apiVersion"
                || key == "kind"
                || is_empty(value)
                || found.get(key).is_some_and(|entry| covers(entry, value))
        }),
        (Value::Array(found), Value::Array(wanted)) => {
            found.len() == wanted.len() && found.iter().zip(wanted).all(|(found, wanted)| covers(found, wanted))
        }
        (Value::String(found), Value::String(wanted)) => found == wanted || same_quantity(found, wanted),
        (found, wanted) => found == wanted,
    }
}

/// The API server writes quantities its own way: 1.5Gi becomes 1536Mi, and 0.5 becomes 500m.
fn same_quantity(found: &str, wanted: &str) -> bool {
    match (quantity(found), quantity(wanted)) {
        (Some(found), Some(wanted)) => (found - wanted).abs() <= wanted.abs() * 1e-12,
        _ => false,
    }
}

fn quantity(text: &str) -> Option<f64> {
    const SCALES: [(&str, f64); 12] = [
        ("Ki", 1024.0),
        ("Mi", 1_048_576.0),
        ("Gi", 1_073_741_824.0),
        ("Ti", 1_099_511_627_776.0),
        ("m", 1e-3),
        ("u", 1e-6),
        ("n", 1e-9),
        ("k", 1e3),
        ("M", 1e6),
        ("G", 1e9),
        ("T", 1e12),
        ("", 1.0),
    ];
    let (suffix, scale) = SCALES.iter().find(|(suffix, _)| text.ends_with(suffix))?;
    let number = text.strip_suffix(suffix)?;
    // Not everything that reads as a number is written as a quantity: no signs, no exponents, no "inf".
    let plain = !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
    plain.then(|| number.parse::<f64>().ok()).flatten().map(|number| number * scale)
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Object(fields) => fields.is_empty(),
        Value::Array(entries) => entries.is_empty(),
        _ => false,
    }
}

/// The namespaced API of an object's own namespace.
pub fn api_beside<K>(context: &Context, namespace: &str) -> Api<K>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
{
    Api::namespaced(context.client.clone(), namespace)
}

#[cfg(test)]
mod tests {
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

    use super::*;

    fn condition(type_: &str, status: Truth, reason: &str) -> Condition {
        Condition {
            type_: type_.into(),
            status,
            observed_generation: None,
            last_transition_time: Time(jiff::Timestamp::UNIX_EPOCH),
            reason: reason.into(),
            message: String::new(),
        }
    }

    #[test]
    fn defaults_of_the_api_server_are_no_difference_but_another_value_is() {
        let wanted = json!({"spec": {"replicas": 1, "ports": [{"port": 1}], "empty": {}}});
        let found = json!({"kind": "X", "spec": {"replicas": 1, "ports": [{"port": 1, "protocol": "TCP"}], "more": 2}});
        assert!(covers(&found, &wanted));
        assert!(!covers(&json!({"spec": {"replicas": 2, "ports": [{"port": 1}]}}), &wanted));
        assert!(!covers(&json!({"spec": {"replicas": 1, "ports": []}}), &wanted));
    }

    #[test]
    fn a_quantity_in_other_words_is_no_difference() {
        for (found, wanted) in [("1536Mi", "1.5Gi"), ("500m", "0.5"), ("1", "1000m"), ("2Gi", "2048Mi")] {
            assert!(covers(&json!({"cpu": found}), &json!({"cpu": wanted})), "{found} {wanted}");
        }
        for (found, wanted) in [("1Gi", "1G"), ("1", "2"), ("a1", "a1.0"), ("m", "0"), ("", "0")] {
            assert!(!covers(&json!({"cpu": found}), &json!({"cpu": wanted})), "{found} {wanted}");
        }
    }

    fn told(old: &[Condition], new: &[Condition], abnormal: &[&str], expected: &[Reason]) -> Vec<Event> {
        events(&Change::<()> { old: None, new: &(), old_conditions: old, new_conditions: new, abnormal, expected })
    }

    #[test]
    fn an_event_tells_of_changes_only() {
        let old = [condition("Ready", Truth::False, "A"), condition("Stalled", Truth::False, "A")];
        let told = |new: &[Condition]| told(&old, new, &["Stalled"], &[]);
        assert_eq!(told(&[condition("Ready", Truth::True, "B")])[0].type_, EventType::Normal);
        assert_eq!(told(&[condition("Stalled", Truth::True, "B")])[0].type_, EventType::Warning);
        assert!(told(&old).is_empty());
        assert!(told(&[condition("Ready", Truth::Unknown, "B")]).is_empty());
        assert!(told(&[condition("New", Truth::False, "A")]).is_empty(), "not yet is no news");
    }

    #[test]
    fn a_condition_that_ends_as_expected_is_no_warning() {
        let old = [condition("Running", Truth::True, "RequestsRunning")];
        let new = [condition("Running", Truth::False, "AllRequestsDone")];
        assert_eq!(told(&old, &new, &[], &[])[0].type_, EventType::Warning);
        assert_eq!(told(&old, &new, &[], &[Reason::AllRequestsDone])[0].type_, EventType::Normal);
    }
}
