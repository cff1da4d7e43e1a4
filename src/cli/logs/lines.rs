//! Lines of events and logs. Pure.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Event, Pod};
use kube::ResourceExt;

use crate::cli::{CliError, output::one_line, why};

/// Events, the oldest first, as `TIME  TYPE  REASON  MESSAGE`.
pub fn events(events: &[Event]) -> Vec<String> {
    let mut events: Vec<&Event> = events.iter().collect();
    events.sort_by_key(|event| why::when(event));
    events.into_iter().map(event).collect()
}

fn event(event: &Event) -> String {
    let at = Timestamp::from_second(why::when(event)).map(|at| at.to_string()).unwrap_or_default();
    let type_ = event.type_.as_deref().unwrap_or("Normal");
    let times = event.series.as_ref().and_then(|series| series.count).or(event.count).filter(|count| *count > 1);
    let times = times.map(|count| format!(" (×{count})")).unwrap_or_default();
    let reason = event.reason.as_deref().unwrap_or_default();
    let message = one_line(event.message.as_deref().unwrap_or_default());
    format!("{at}  {type_:<7}  {}  {message}{times}", one_line(reason))
}

pub fn heading(pod: &Pod) -> String {
    let node = pod.labels().get(why::NODE_LABEL).map(|node| format!(" (gridnode/{node})")).unwrap_or_default();
    format!("pod/{}{node}", pod.name_any())
}

/// Why a pod's log cannot be shown.
pub fn no_log(pod: &Pod, error: kube::Error, namespace: &str) -> String {
    let name = pod.name_any();
    format!("pod/{name}: {}", CliError::from_kube(error, "Pod", &name, Some(namespace)))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn events_are_told_in_the_order_in_which_they_happened() {
        let event = |name: &str, reason: &str, at: &str| -> Event {
            serde_json::from_value(json!({
                "metadata": {"name": name}, "involvedObject": {}, "type": "Warning", "reason": reason,
                "message": "line\none", "count": 3, "lastTimestamp": at
            }))
            .unwrap()
        };
        let found = [event("b", "Later", "2026-11-24T00:00:02Z"), event("a", "Earlier", "2026-11-24T00:00:01Z")];
        let lines = events(&found);
        assert_eq!(lines[0], "2026-11-24T00:00:01Z  Warning  Earlier  line one (×3)");
        assert!(lines[1].contains("Later"));
    }
}
