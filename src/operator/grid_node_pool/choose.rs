//! Pure: which nodes go when there are too many.

use std::cmp::Reverse;

use jiff::Timestamp;
use kube::ResourceExt;

use crate::api::grid_node::GridNode;

/// A node and what is known of it.
pub struct Candidate<'a> {
    pub node: &'a GridNode,
    /// Nothing runs on it, as the gateway says.
    pub idle: bool,
    pub ready: bool,
}

/// The first `count` of: idle before busy, not Ready before Ready, younger before older. Equals go by name, so that doing it
/// again gives the same.
pub fn to_remove<'a>(candidates: &[Candidate<'a>], count: usize) -> Vec<&'a GridNode> {
    let mut ranked: Vec<&Candidate<'a>> = candidates.iter().collect();
    ranked.sort_by_cached_key(|one| {
        let age = one.node.creation_timestamp().map_or(Timestamp::MAX, |time| time.0);
        (!one.idle, one.ready, Reverse(age), one.node.name_any())
    });
    ranked.into_iter().take(count).map(|one| one.node).collect()
}

#[cfg(test)]
mod tests {
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

    use super::{super::build::tests::node, *};

    fn aged(name: &str, created: i64) -> GridNode {
        let mut node = node(name);
        node.metadata.creation_timestamp = Some(Time(Timestamp::from_second(created).unwrap()));
        node
    }

    #[test]
    fn idle_nodes_go_first_then_those_that_are_not_ready_then_the_youngest() {
        let nodes = [aged("busy", 9), aged("old", 1), aged("young", 5), aged("broken", 2), aged("busy-broken", 8)];
        let candidates: Vec<_> = nodes
            .iter()
            .map(|node| Candidate {
                node,
                idle: !node.name_any().starts_with("busy"),
                ready: !node.name_any().ends_with("broken"),
            })
            .collect();
        let order: Vec<_> = to_remove(&candidates, 5).into_iter().map(ResourceExt::name_any).collect();
        assert_eq!(order, ["broken", "young", "old", "busy-broken", "busy"]);
        assert_eq!(to_remove(&candidates, 1).len(), 1);
        assert!(to_remove(&candidates, 0).is_empty());
    }

    #[test]
    fn nodes_of_the_same_second_go_by_name() {
        let nodes = [aged("b", 1), aged("a", 1)];
        let candidates: Vec<_> = nodes.iter().map(|node| Candidate { node, idle: true, ready: true }).collect();
        assert_eq!(to_remove(&candidates, 1)[0].name_any(), "a");
    }
}
