//! A tree of causes: what is wrong with which object, what to do, and what in turn is behind it.

use std::fmt;

use serde::Serialize;

use crate::api::remedies::{self, Tier};

/// An object, as kubectl names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct About {
    /// `inferencejob`, `gridnode`, `pod`, …
    pub kind: &'static str,
    pub name: String,
    /// Empty for a cluster-wide kind.
    pub namespace: String,
}

impl About {
    pub fn new(kind: &'static str, name: impl Into<String>, namespace: impl Into<String>) -> Self {
        About { kind, name: name.into(), namespace: namespace.into() }
    }
}

impl fmt::Display for About {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.kind, self.name)
    }
}

/// One cause, with the causes behind it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Cause {
    /// The object that it is about, such as `gridnode/cpu-1`.
    pub about: String,
    pub kind_of_cause: Tier,
    pub reason: String,
    pub message: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remedy: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub causes: Vec<Cause>,
}

impl Cause {
    /// With the remedy from the table; a code that is not in it is taken for something that does not work.
    pub fn new(about: &About, reason: &str, message: impl Into<String>) -> Self {
        let remedy = remedies::of(reason);
        Cause {
            about: about.to_string(),
            kind_of_cause: remedy.map_or(Tier::Unavailable, |remedy| remedy.tier),
            reason: reason.to_owned(),
            message: message.into(),
            remedy: remedy.map(|remedy| filled_in(remedy.text, about)),
            causes: Vec::new(),
        }
    }

    pub fn because(mut self, causes: Vec<Cause>) -> Self {
        self.causes = causes;
        self
    }

    /// Adds a sentence to what can be done.
    pub fn hint(mut self, sentence: &str) -> Self {
        if !sentence.is_empty() {
            let remedy = self.remedy.take().map(|remedy| remedy + " ").unwrap_or_default();
            self.remedy = Some(remedy + sentence);
        }
        self
    }
}

fn filled_in(text: &str, about: &About) -> String {
    text.replace("<name>", &about.name).replace("<namespace>", &about.namespace)
}

/// Most useful first; equals stay in the order in which they were found. The same reason about the same object is told once.
pub fn ordered(causes: Vec<Cause>) -> Vec<Cause> {
    let mut kept: Vec<Cause> = Vec::new();
    for cause in causes {
        if !kept.iter().any(|other| other.about == cause.about && other.reason == cause.reason) {
            kept.push(cause);
        }
    }
    kept.sort_by_key(|cause| cause.kind_of_cause);
    kept
}

/// How it is with an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum Verdict {
    /// A job that is complete; a node, model or network that is ready.
    Done,
    /// A job that failed for good.
    Failed,
    NotYet,
}

/// The answer to "why".
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Explanation {
    pub about: String,
    pub verdict: Verdict,
    /// One sentence.
    pub summary: String,
    pub causes: Vec<Cause>,
    /// What could not be looked at, and why.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub not_seen: Vec<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_most_useful_cause_is_told_first_and_only_once() {
        let about = About::new("inferencejob", "hello", "team-a");
        let cause = |reason| Cause::new(&about, reason, "");
        let found = ordered(vec![cause("RequestsRunning"), cause("ModelNotFound"), cause("ModelNotFound")]);
        let reasons: Vec<_> = found.iter().map(|cause| cause.reason.as_str()).collect();
        assert_eq!(reasons, ["ModelNotFound", "RequestsRunning"]);
    }

    #[test]
    fn a_remedy_names_the_object_at_hand() {
        let cause = Cause::new(&About::new("inferencejob", "hello", "team-a"), "Suspended", "");
        let remedy = cause.remedy.unwrap();
        assert!(remedy.contains("inferencejob hello -n team-a"), "{remedy}");
    }
}
