//! Why a job waits, in numbers.

use serde::{Deserialize, Serialize};

/// What stands between a job and its next request, for conditions and for people.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Waiting {
    /// Connected nodes on which the model is ready.
    pub serving: u32,
    /// Connected nodes that are fetching or loading it.
    pub loading: u32,
    /// Of both, those that may take the job's requests when they have a free slot.
    pub matching: u32,
    /// Why the others may not.
    pub refusals: Vec<WaitingRefusal>,
    /// About when the next request starts; absent when nothing tells.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expected_wait_ms: Option<u64>,
}

/// So many nodes may not take a request, for one reason.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct WaitingRefusal {
    /// CamelCase: `OtherRegion`, `LabelsDiffer`, `NotTrusted`, `Unschedulable`, …
    pub reason: String,
    /// For people, to be read after the number: "in another region than asked for".
    pub message: String,
    pub nodes: u32,
}
