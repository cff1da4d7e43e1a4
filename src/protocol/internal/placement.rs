//! Which nodes may get the requests of a job.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Most regions, and most labels, that one filter names; labels of one member, too.
pub const MAX_PLACEMENT_ITEMS: usize = 32;
/// Longest region, label key (prefix and name) and label value, in bytes.
pub const MAX_PLACEMENT_TEXT: usize = 317;

/// How far a node is trusted with prompts, least first. Answers of all of them are verified alike; this is about who may read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Trust {
    /// Somebody else's machine that has not yet proven itself. It gets canaries of the gateway's own only.
    Probation,
    /// Somebody else's machine that the network's admin approved and that has passed its probation.
    Approved,
    /// Run by the network's admin (`mode: Managed`).
    Managed,
}

impl Trust {
    /// As it is written in YAML and JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Trust::Probation => "Probation",
            Trust::Approved => "Approved",
            Trust::Managed => "Managed",
        }
    }
}

/// What a job asks of the nodes that get its requests. The default asks nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct PlacementFilter {
    /// Any of these; empty = anywhere. A node's region is its GridNode's label `topology.kubernetes.io/region`, or else what
    /// its worker was started with (`--region`).
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub regions: Vec<String>,
    /// At least this much.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub require_trust: Option<Trust>,
    /// Labels of the GridNode, all of which must be there with these values.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub node_labels: BTreeMap<String, String>,
}

impl PlacementFilter {
    /// Asks nothing.
    pub fn is_empty(&self) -> bool {
        *self == PlacementFilter::default()
    }

    /// Whether its lists and strings have sane sizes; else a sentence for people.
    pub fn check(&self) -> Result<(), String> {
        if self.regions.len() > MAX_PLACEMENT_ITEMS || self.node_labels.len() > MAX_PLACEMENT_ITEMS {
            return Err(format!("placement names at most {MAX_PLACEMENT_ITEMS} regions and as many labels"));
        }
        let labels = self.node_labels.iter().flat_map(|(key, value)| [key, value]);
        match self.regions.iter().chain(labels).any(|text| text.len() > MAX_PLACEMENT_TEXT) {
            true => Err(format!("regions and labels of placement are at most {MAX_PLACEMENT_TEXT} bytes long")),
            false => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_that_asks_nothing_is_an_empty_object() {
        assert_eq!(serde_json::to_string(&PlacementFilter::default()).unwrap(), "{}");
        assert!(serde_json::from_str::<PlacementFilter>("{}").unwrap().is_empty());
    }

    #[test]
    fn a_filter_is_written_as_a_job_writes_it() {
        let filter: PlacementFilter =
            serde_json::from_str(r#"{"regions": ["eu"], "requireTrust": "Managed", "nodeLabels": {"tier": "gold"}}"#)
                .unwrap();
        assert_eq!(filter.require_trust, Some(Trust::Managed));
        assert_eq!(filter.node_labels["tier"], "gold");
        assert!(serde_json::from_str::<PlacementFilter>(r#"{"requireTrust": "Someone"}"#).is_err());
    }

    #[test]
    fn trust_is_ordered_from_strangers_to_the_networks_own() {
        assert!(Trust::Probation < Trust::Approved && Trust::Approved < Trust::Managed);
    }

    #[test]
    fn a_filter_of_any_size_is_refused() {
        let many =
            PlacementFilter { regions: vec!["eu".into(); MAX_PLACEMENT_ITEMS + 1], ..PlacementFilter::default() };
        assert!(many.check().is_err());
        let long = PlacementFilter { regions: vec!["x".repeat(400)], ..PlacementFilter::default() };
        assert!(long.check().is_err());
        assert_eq!(PlacementFilter::default().check(), Ok(()));
    }
}
