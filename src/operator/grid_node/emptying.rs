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
    // The gateway hears of a cordon in the pass that first sees it, after it was asked what runs: only the next pass knows that
    // nothing was given out in between.
    let told = node.status.as_ref().and_then(|status| status.observed_generation) == node.metadata.generation;
    match report {
        Err(error) => Some(Finding { truth: Truth::Unknown, ..error.finding() }),
        Ok(_) if !told => at_work(),
        Ok(Some(report)) if report.running > 0 => at_work(),
        Ok(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn node(unschedulable: bool, generation: i64) -> GridNode {
        serde_json::from_value(json!({
            "apiVersion": "xdcgrid.io/v1alpha1", "kind": "GridNode", "metadata": {"name": "a", "generation": generation},
            "spec": {
                "networkRef": {"name": "main"}, "mode": "Managed", "accelerators": {"cpuOnly": {}},
                "unschedulable": unschedulable
            },
            "status": {"observedGeneration": 1}
        }))
        .unwrap()
    }

    #[test]
    fn a_cordoned_node_is_empty_only_when_the_gateway_was_told_before_it_was_asked() {
        assert_eq!(of(&node(false, 1), &Ok(None)), None);
        assert_eq!(of(&node(true, 2), &Ok(None)).unwrap().reason, "DrainInProgress");
        assert_eq!(of(&node(true, 1), &Ok(None)), None);
    }

    #[test]
    fn a_gateway_that_is_away_says_nothing_about_what_runs() {
        let away = Err(GatewayError::Unavailable("refused".into()));
        assert_eq!(of(&node(true, 1), &away).unwrap().truth, Truth::Unknown);
    }
}
