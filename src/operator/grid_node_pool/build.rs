//! Pure: the nodes as the template wants them, and the names of new ones.

use kube::{ResourceExt, core::ObjectMeta};

use super::dereference::Refs;
use crate::{
    api::{grid_node::GridNode, grid_node_pool::GridNodePool},
    operator::grid_node::validate::POOL_LABEL,
};

/// What there is to be for a pool.
pub struct PoolResources {
    /// The nodes there are, as they should be.
    pub kept: Vec<GridNode>,
    /// New ones.
    pub added: Vec<GridNode>,
    /// How many are too many.
    pub surplus: usize,
}

pub fn build(pool: &GridNodePool, refs: &Refs) -> PoolResources {
    let wanted = usize::try_from(pool.spec.replicas).unwrap_or(0);
    let kept: Vec<_> = refs.live().map(|node| from_template(pool, node.name_any())).collect();
    let missing = wanted.saturating_sub(kept.len());
    let added = free_names(pool, refs).take(missing).map(|name| from_template(pool, name)).collect();
    PoolResources { surplus: kept.len().saturating_sub(wanted), kept, added }
}

/// `<pool>-0`, `<pool>-1`, …, without those that are taken. What is derived from what is there needs no memory: a reconcile that
/// broke off half-way is simply done again.
fn free_names<'a>(pool: &GridNodePool, refs: &'a Refs) -> impl Iterator<Item = String> + 'a {
    let name = pool.name_any();
    (0_u32..).map(move |number| format!("{name}-{number}")).filter(|name| !refs.taken.contains(name))
}

fn from_template(pool: &GridNodePool, name: String) -> GridNode {
    let metadata = pool.spec.template.metadata.clone().unwrap_or_default();
    let mut labels = metadata.labels.unwrap_or_default();
    // Last: it says whose the node is.
    labels.insert(POOL_LABEL.to_owned(), pool.name_any());
    GridNode {
        metadata: ObjectMeta {
            name: Some(name),
            labels: Some(labels),
            annotations: metadata.annotations,
            ..ObjectMeta::default()
        },
        spec: pool.spec.template.spec.clone(),
        status: None,
    }
}

#[cfg(test)]
pub(in crate::operator) mod tests {
    use super::*;

    pub(in crate::operator) fn pool(replicas: i32) -> GridNodePool {
        serde_yaml::from_str(&format!(
            r#"
            apiVersion: xdcgrid.io/v1alpha1
            kind: GridNodePool
            metadata: {{name: gpus, namespace: xdc-grid, uid: p1, generation: 1}}
            spec:
              replicas: {replicas}
              template:
                metadata: {{labels: {{team: research}}}}
                spec: {{networkRef: {{name: demo}}, mode: Managed, accelerators: {{cpuOnly: {{}}}}}}
            "#
        ))
        .unwrap()
    }

    pub(in crate::operator) fn node(name: &str) -> GridNode {
        let mut node = from_template(&pool(1), name.to_owned());
        node.metadata.uid = Some(format!("uid-{name}"));
        node
    }

    fn refs(nodes: &[&str], others: &[&str]) -> Refs {
        let taken = nodes.iter().chain(others).map(|name| (*name).to_owned()).collect();
        Refs { nodes: nodes.iter().map(|name| node(name)).collect(), taken }
    }

    fn names(nodes: &[GridNode]) -> Vec<String> {
        nodes.iter().map(ResourceExt::name_any).collect()
    }

    #[test]
    fn new_nodes_get_the_lowest_names_that_nobody_has() {
        let built = build(&pool(4), &refs(&["gpus-0", "gpus-3"], &["gpus-1"]));
        assert_eq!((names(&built.added), built.surplus), (vec!["gpus-2".to_owned(), "gpus-4".to_owned()], 0));
    }

    #[test]
    fn a_node_that_leaves_is_no_replica_but_keeps_its_name() {
        let mut found = refs(&["gpus-0"], &[]);
        found.nodes[0].metadata.deletion_timestamp =
            Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(jiff::Timestamp::UNIX_EPOCH));
        let built = build(&pool(1), &found);
        assert_eq!((built.kept.len(), names(&built.added)), (0, vec!["gpus-1".to_owned()]));
    }

    #[test]
    fn more_nodes_than_replicas_are_a_surplus_and_the_label_of_the_pool_cannot_be_lost() {
        let built = build(&pool(0), &refs(&["gpus-0", "gpus-1"], &[]));
        assert_eq!((built.added.len(), built.surplus), (0, 2));
        let labels = built.kept[0].labels();
        assert_eq!((labels[POOL_LABEL].as_str(), labels["team"].as_str()), ("gpus", "research"));
    }

    #[test]
    fn a_cordon_by_hand_is_not_the_templates() {
        let body = serde_json::to_value(&build(&pool(1), &refs(&["gpus-0"], &[])).kept[0]).unwrap();
        assert!(body["spec"].get("unschedulable").is_none(), "{body}");
    }
}
