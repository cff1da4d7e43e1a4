//! Pure: a cordoned node that still runs something. `kubectl grid drain` waits until this is over.

use crate::{
    api::{
        conditions::{Finding, Truth},
        grid_node::GridNode,
        reasons::Reason,
    },
    operator::gateway::GatewayError,
    protocol::internal::NodeReport,
};

/// The Draining condition of a node that is not being deleted; none when nothing runs on it, or when it takes work.
pub fn of(node: &GridNode, report: &Result<Option<NodeReport>, GatewayError>) -> Option<Finding> {
    if !node.spec.unschedulable {
        return None;
    }
    let at_work = || Some(Finding::yes(Reason::DrainInProgress, "it is cordoned and finishes what it runs"));
    match report {
        Err(error) => Some(Finding { truth: Truth::Unknown, ..error.finding() }),
        Ok(Some(report)) if !report.is_emptied() => at_work(),
        Ok(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::operator::grid_node::registration::tests::report;

    fn node(unschedulable: bool) -> GridNode {
        serde_json::from_value(json!({
            "apiVersion": "xdcgrid.io/v1alpha1", "kind": "GridNode", "metadata": {"name": "a"},
            "spec": {
                "networkRef": {"name": "main"}, "mode": "Managed", "accelerators": {"cpuOnly": {}},
                "unschedulable": unschedulable
            },
        }))
        .unwrap()
    }

    fn told(running: u32, schedulable: bool) -> Result<Option<NodeReport>, GatewayError> {
        Ok(Some(NodeReport { running, schedulable, ..report(true) }))
    }

    #[test]
    fn a_cordoned_node_is_empty_only_when_the_gateway_had_heard_of_it_and_nothing_runs() {
        assert_eq!(of(&node(false), &told(1, true)), None, "nobody empties it");
        assert_eq!(of(&node(true), &told(0, true)).unwrap().reason, "DrainInProgress", "it may be given work yet");
        assert_eq!(of(&node(true), &told(1, false)).unwrap().reason, "DrainInProgress");
        assert_eq!(of(&node(true), &told(0, false)), None);
        assert_eq!(of(&node(true), &Ok(None)), None, "no member: it never had work");
    }

    #[test]
    fn a_gateway_that_is_away_says_nothing_about_what_runs() {
        let away = Err(GatewayError::Unavailable("refused".into()));
        assert_eq!(of(&node(true), &away).unwrap().truth, Truth::Unknown);
    }
}
