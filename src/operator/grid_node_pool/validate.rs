//! Pure: what the schema cannot say of a pool.

use super::build::PoolResources;
use crate::{
    api::{conditions::Finding, grid_node::NodeModeSpec, reasons::Reason},
    operator::grid_node::validate::validate_pod,
};

/// A template that no GridNode can be made from is told at the pool, and not once per node.
pub fn validate(wanted: &PoolResources) -> Result<(), Finding> {
    let Some(node) = wanted.kept.iter().chain(&wanted.added).next() else { return Ok(()) };
    if node.spec.mode != NodeModeSpec::Managed {
        return Err(Finding::no(Reason::InvalidObject, "spec.template.spec.mode must be Managed"));
    }
    validate_pod(node).map_err(|finding| Finding { message: format!("spec.template: {}", finding.message), ..finding })
}

#[cfg(test)]
mod tests {
    use super::{
        super::build::{PoolResources, tests::node},
        *,
    };

    #[test]
    fn a_template_that_no_node_can_be_made_from_is_told_at_the_pool() {
        let of = |node| PoolResources { kept: vec![node], added: Vec::new(), surplus: 0 };
        assert!(validate(&of(node("gpus-0"))).is_ok());
        let mut bad = node("gpus-0");
        bad.spec.pod_labels = Some([("no key".to_owned(), String::new())].into());
        let finding = validate(&of(bad)).unwrap_err();
        assert!(finding.message.starts_with("spec.template: spec.podLabels"), "{}", finding.message);
        let mut external = node("gpus-0");
        external.spec.mode = NodeModeSpec::External;
        assert!(validate(&of(external)).is_err());
    }
}
