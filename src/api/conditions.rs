//! The conditions list: the contract between a kind and whoever waits for it. `phase` is only a display string.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::reasons::Reason;

/// Truth of a condition.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Truth {
    /// It holds.
    True,
    /// It does not hold.
    False,
    /// Not known, for example because the chain or the gateway is away.
    Unknown,
}

/// One aspect of an object's state.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Condition {
    /// What the condition is about, in CamelCase.
    #[serde(rename = "type")]
    #[schemars(length(min = 1, max = 64))]
    pub type_: String,
    /// Whether it holds.
    pub status: Truth,
    /// Generation of the spec that this was found for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// When the status last changed.
    #[schemars(length(max = 64))]
    pub last_transition_time: Time,
    /// Why, as a stable CamelCase code with a line in docs/reasons.md.
    #[schemars(length(min = 1, max = 128))]
    pub reason: String,
    /// A sentence a person can act on.
    #[schemars(length(max = 4096))]
    pub message: String,
}

/// What a controller found about one condition, before it is merged into the list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    pub truth: Truth,
    pub reason: String,
    pub message: String,
}

impl Finding {
    pub fn yes(reason: Reason, message: impl Into<String>) -> Self {
        Finding { truth: Truth::True, reason: reason.as_str().into(), message: message.into() }
    }

    pub fn no(reason: Reason, message: impl Into<String>) -> Self {
        Finding { truth: Truth::False, reason: reason.as_str().into(), message: message.into() }
    }

    pub fn unknown(reason: Reason, message: impl Into<String>) -> Self {
        Finding { truth: Truth::Unknown, reason: reason.as_str().into(), message: message.into() }
    }

    /// With a code that came from the gateway; one that is not CamelCase is replaced by `fallback`.
    pub fn with_code(truth: Truth, code: &str, fallback: Reason, message: impl Into<String>) -> Self {
        let sound = !code.is_empty() && code.len() <= 128 && code.bytes().all(|byte| byte.is_ascii_alphanumeric());
        let reason = if sound { code } else { fallback.as_str() };
        Finding { truth, reason: reason.into(), message: message.into() }
    }

    pub fn is_true(&self) -> bool {
        self.truth == Truth::True
    }
}

/// The longest message that a condition carries, in bytes.
const MAX_MESSAGE: usize = 1024;

/// Sets `type_` to `finding`. The transition time changes only with the status, so an unchanged object stays byte-identical.
pub fn set(conditions: &mut Vec<Condition>, type_: &str, finding: Finding, generation: Option<i64>, now: &Time) {
    let Finding { truth, reason, message } = finding;
    let message = shorten(message);
    match conditions.iter_mut().find(|condition| condition.type_ == type_) {
        Some(condition) => {
            if condition.status != truth {
                condition.last_transition_time = now.clone();
            }
            condition.status = truth;
            condition.observed_generation = generation;
            condition.reason = reason;
            condition.message = message;
        }
        None => conditions.push(Condition {
            type_: type_.into(),
            status: truth,
            observed_generation: generation,
            last_transition_time: now.clone(),
            reason,
            message,
        }),
    }
}

/// Removes a condition that no longer applies, for example an abnormal one that is over.
pub fn clear(conditions: &mut Vec<Condition>, type_: &str) {
    conditions.retain(|condition| condition.type_ != type_);
}

pub fn find<'a>(conditions: &'a [Condition], type_: &str) -> Option<&'a Condition> {
    conditions.iter().find(|condition| condition.type_ == type_)
}

pub fn is_true(conditions: &[Condition], type_: &str) -> bool {
    find(conditions, type_).is_some_and(|condition| condition.status == Truth::True)
}

/// The summary of `parts`, in the order of importance: the first False decides, then the first Unknown; else `ready`.
pub fn summarize<'a>(parts: impl IntoIterator<Item = (&'a str, &'a Finding)>, ready: Finding) -> Finding {
    let mut unknown = None;
    for (type_, finding) in parts {
        let named = || Finding { message: format!("{type_}: {}", finding.message), ..finding.clone() };
        match finding.truth {
            Truth::False => return named(),
            Truth::Unknown if unknown.is_none() => unknown = Some(named()),
            Truth::Unknown | Truth::True => {}
        }
    }
    unknown.unwrap_or(ready)
}

fn shorten(mut message: String) -> String {
    if message.len() > MAX_MESSAGE {
        let end = (0..=MAX_MESSAGE - 3).rev().find(|&at| message.is_char_boundary(at)).unwrap_or(0);
        message.truncate(end);
        message.push('…');
    }
    message
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Time {
        Time(jiff::Timestamp::from_second(second).unwrap())
    }

    #[test]
    fn the_transition_time_changes_only_with_the_status() {
        let mut list = Vec::new();
        set(&mut list, "Ready", Finding::no(Reason::GatewayUnavailable, "away"), Some(1), &at(1));
        set(&mut list, "Ready", Finding::no(Reason::ModelNotFound, "no model"), Some(2), &at(2));
        assert_eq!(list[0].last_transition_time, at(1));
        assert_eq!((list[0].reason.as_str(), list[0].observed_generation), ("ModelNotFound", Some(2)));
        set(&mut list, "Ready", Finding::yes(Reason::Ready, ""), Some(2), &at(3));
        assert_eq!(list[0].last_transition_time, at(3));
        assert_eq!(list.len(), 1);
    }

    #[test]
    fn a_false_part_outweighs_an_unknown_one_before_it() {
        let unknown = Finding::unknown(Reason::GatewayUnavailable, "away");
        let no = Finding::no(Reason::ModelNotFound, "no model");
        let ready = Finding::yes(Reason::Ready, "");
        let summary = summarize([("A", &unknown), ("B", &no)], ready.clone());
        assert_eq!((summary.truth, summary.message.as_str()), (Truth::False, "B: no model"));
        assert_eq!(summarize([("A", &unknown)], ready.clone()).truth, Truth::Unknown);
        assert_eq!(summarize([], ready.clone()), ready);
    }

    #[test]
    fn a_code_that_is_not_camel_case_does_not_reach_the_api_server() {
        let finding = Finding::with_code(Truth::False, "no such thing!", Reason::GatewayRefused, "");
        assert_eq!(finding.reason, "GatewayRefused");
    }

    #[test]
    fn a_long_message_is_cut_at_a_character() {
        let mut list = Vec::new();
        set(&mut list, "Ready", Finding::no(Reason::InvalidInput, "ü".repeat(2000)), None, &at(1));
        assert!(list[0].message.len() <= MAX_MESSAGE);
    }
}
