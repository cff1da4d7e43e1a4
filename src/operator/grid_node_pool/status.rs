//! The status of a pool. Pure but for `update`, which sends it.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::{Api, ResourceExt};

use super::{
    MANAGER,
    apply::Applied,
    dereference::{Refs, is_ready},
};
use crate::{
    api::{
        conditions::{self, Condition, Finding, Truth},
        grid_node_pool::{GridNodePool, GridNodePoolStatus, condition},
        reasons::Reason,
    },
    operator::{
        context::Context,
        error::Error,
        grid_node::validate::POOL_LABEL,
        write::{self, Change},
    },
};

pub fn of(pool: &GridNodePool, refs: &Refs, outcome: &Result<Applied, Finding>, now: Timestamp) -> GridNodePoolStatus {
    let mut status = begun(pool);
    let removed = outcome.as_ref().map_or(0, |applied| applied.removed);
    let added = outcome.as_ref().map_or(0, |applied| applied.added);
    let live = (refs.live().count() + added).saturating_sub(removed);
    status.replicas = count(live);
    status.ready_replicas = count(refs.live().filter(|node| is_ready(node)).count().min(live));
    status.draining_replicas = count(refs.nodes.len() - refs.live().count() + removed);
    let ready = match outcome {
        Err(finding) => finding.clone(),
        Ok(applied) => ready(pool.spec.replicas, &status, applied),
    };
    conclude(status, pool, ready, outcome.is_err(), now)
}

/// The status of a pool outside the operator's namespace.
pub fn elsewhere(pool: &GridNodePool, context: &Context) -> GridNodePoolStatus {
    let message = format!(
        "pools work in namespace {} only, where the worker pods are; move this one there",
        context.config.namespace
    );
    conclude(begun(pool), pool, Finding::no(Reason::WrongNamespace, message), true, (context.clock)())
}

fn begun(pool: &GridNodePool) -> GridNodePoolStatus {
    let mut status = pool.status.clone().unwrap_or_default();
    status.observed_generation = pool.metadata.generation;
    status.selector = Some(format!("{POOL_LABEL}={}", pool.name_any()));
    status
}

fn ready(wanted: i32, status: &GridNodePoolStatus, applied: &Applied) -> Finding {
    let GridNodePoolStatus { replicas, ready_replicas, draining_replicas, .. } = status;
    if let Some(error) = &applied.held_back {
        let Finding { reason, message, .. } = error.finding();
        return Finding {
            truth: Truth::Unknown,
            reason,
            message: format!("nodes are removed once it is known which are idle: {message}"),
        };
    }
    if *replicas > wanted || *draining_replicas > 0 && *ready_replicas >= wanted {
        let message = format!("{draining_replicas} nodes finish their work and leave");
        // As many as there are to be take part already.
        return match *ready_replicas >= wanted {
            true => Finding::yes(Reason::ScalingDown, message),
            false => Finding::no(Reason::ScalingDown, message),
        };
    }
    if applied.added > 0 {
        return Finding::no(Reason::ScalingUp, format!("{ready_replicas} of {wanted} nodes are Ready"));
    }
    if *ready_replicas < wanted {
        let message =
            format!("{ready_replicas} of {wanted} nodes are Ready; see kubectl get gridnodes -l {}", selector(status));
        return Finding::no(Reason::NodesNotReady, message);
    }
    Finding::yes(Reason::PoolComplete, format!("{wanted} nodes are Ready"))
}

fn selector(status: &GridNodePoolStatus) -> &str {
    status.selector.as_deref().unwrap_or_default()
}

/// Ready, and the two of kstatus that follow from it.
fn conclude(
    mut status: GridNodePoolStatus,
    pool: &GridNodePool,
    ready: Finding,
    needs_a_person: bool,
    now: Timestamp,
) -> GridNodePoolStatus {
    let now = Time(now);
    let mut put = |type_: &str, finding: Option<Finding>| match finding {
        Some(finding) => conditions::set(&mut status.conditions, type_, finding, pool.metadata.generation, &now),
        None => conditions::clear(&mut status.conditions, type_),
    };
    let abnormal = || Finding { truth: Truth::True, ..ready.clone() };
    let moving = !needs_a_person && (ready.truth == Truth::False || ready.reason == Reason::ScalingDown.as_str());
    put(condition::STALLED, needs_a_person.then(abnormal));
    put(condition::RECONCILING, moving.then(abnormal));
    put(condition::READY, Some(ready.clone()));
    status
}

fn count(number: usize) -> i32 {
    i32::try_from(number).unwrap_or(i32::MAX)
}

pub async fn update(pool: &GridNodePool, status: &GridNodePoolStatus, context: &Context) -> Result<bool, Error> {
    let namespace = pool.namespace().ok_or(Error::Incomplete("a namespace"))?;
    let api: Api<GridNodePool> = Api::namespaced(context.client.clone(), &namespace);
    let old = pool.status.as_ref();
    let old_conditions = old.map(|status| newsworthy(&status.conditions)).unwrap_or_default();
    let change = Change {
        old,
        new: status,
        old_conditions: &old_conditions,
        new_conditions: &newsworthy(&status.conditions),
        abnormal: &[condition::STALLED],
        expected: &[],
    };
    write::status(&api, context, MANAGER, pool, change).await
}

/// Reconciling repeats what Ready says; one Event is enough.
fn newsworthy(conditions: &[Condition]) -> Vec<Condition> {
    conditions.iter().filter(|found| found.type_ != condition::RECONCILING).cloned().collect()
}

#[cfg(test)]
mod tests {
    use super::{
        super::build::tests::{node, pool},
        *,
    };
    use crate::{api::grid_node::GridNodeStatus, operator::gateway::GatewayError};

    fn refs(ready: &[bool]) -> Refs {
        let nodes: Vec<_> = ready
            .iter()
            .enumerate()
            .map(|(number, ready)| {
                let mut node = node(&format!("gpus-{number}"));
                let mut status = GridNodeStatus::default();
                let finding =
                    if *ready { Finding::yes(Reason::Ready, "") } else { Finding::no(Reason::NotConnected, "") };
                conditions::set(&mut status.conditions, "Ready", finding, None, &Time(Timestamp::UNIX_EPOCH));
                node.status = Some(status);
                node
            })
            .collect();
        Refs { taken: nodes.iter().map(ResourceExt::name_any).collect(), nodes }
    }

    fn status(replicas: i32, found: &[bool], applied: Applied) -> GridNodePoolStatus {
        of(&pool(replicas), &refs(found), &Ok(applied), Timestamp::UNIX_EPOCH)
    }

    fn reason(status: &GridNodePoolStatus, type_: &str) -> Option<String> {
        conditions::find(&status.conditions, type_).map(|found| format!("{:?} {}", found.status, found.reason))
    }

    #[test]
    fn a_pool_counts_its_nodes_and_says_what_they_are_selected_by() {
        let found = status(2, &[true, true], Applied::default());
        assert_eq!((found.replicas, found.ready_replicas, found.draining_replicas), (2, 2, 0));
        assert_eq!(found.selector.as_deref(), Some("xdcgrid.io/pool=gpus"));
        assert_eq!(reason(&found, "Ready").unwrap(), "True PoolComplete");
        assert_eq!(reason(&found, "Reconciling"), None);
        let again = of(
            &GridNodePool { status: Some(found.clone()), ..pool(2) },
            &refs(&[true, true]),
            &Ok(Applied::default()),
            Timestamp::MAX,
        );
        assert_eq!(again, found, "nothing changed, so nothing is written");
    }

    #[test]
    fn growing_shrinking_and_broken_nodes_are_told_apart() {
        let growing = status(2, &[true], Applied { added: 1, ..Applied::default() });
        assert_eq!((growing.replicas, reason(&growing, "Ready").unwrap()), (2, "False ScalingUp".into()));
        let shrinking = status(1, &[true, true], Applied { removed: 1, ..Applied::default() });
        assert_eq!((shrinking.replicas, shrinking.draining_replicas), (1, 1));
        assert_eq!(reason(&shrinking, "Ready").unwrap(), "True ScalingDown");
        assert_eq!(reason(&shrinking, "Reconciling").unwrap(), "True ScalingDown");
        let broken = status(2, &[true, false], Applied::default());
        assert_eq!(reason(&broken, "Ready").unwrap(), "False NodesNotReady");
    }

    #[test]
    fn while_the_gateway_is_away_nothing_is_removed_and_nothing_is_known() {
        let away = Some(GatewayError::Unavailable("connection refused".into()));
        let found = status(1, &[true, true], Applied { held_back: away, ..Applied::default() });
        assert_eq!((found.replicas, reason(&found, "Ready").unwrap()), (2, "Unknown GatewayUnavailable".into()));
    }

    #[test]
    fn a_template_that_cannot_work_stalls_the_pool() {
        let bad = Err(Finding::no(Reason::InvalidObject, "spec.template: …"));
        let found = of(&pool(1), &refs(&[]), &bad, Timestamp::UNIX_EPOCH);
        assert_eq!(reason(&found, "Stalled").unwrap(), "True InvalidObject");
        assert_eq!(reason(&found, "Reconciling"), None);
    }
}
