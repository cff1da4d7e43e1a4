//! Nodes with the same trouble, told together. Pure.

use std::collections::BTreeMap;

use super::cause::{Cause, ordered};

/// Nodes whose names are told when many have the same trouble.
const MAX_NAMES: usize = 8;
/// Different troubles of nodes that are told.
const MAX_GROUPS: usize = 8;

/// One cause for each reason, the most useful first.
pub fn together(troubles: impl IntoIterator<Item = Cause>) -> Vec<Cause> {
    let mut groups: BTreeMap<String, Vec<Cause>> = BTreeMap::new();
    for cause in troubles {
        groups.entry(cause.reason.clone()).or_default().push(cause);
    }
    let mut causes = ordered(groups.into_values().filter_map(grouped).collect());
    causes.truncate(MAX_GROUPS);
    causes
}

/// One cause for all nodes that have it; what is behind the first one stands for all.
fn grouped(mut causes: Vec<Cause>) -> Option<Cause> {
    let names: Vec<String> = causes.iter().map(|cause| cause.about.clone()).collect();
    let first = if causes.is_empty() { return None } else { causes.swap_remove(0) };
    if names.len() == 1 {
        return Some(first);
    }
    let about = format!("{}, such as {}", counted(names.len()), first.about);
    let message = format!("{} ({})", first.message, some(&names));
    Some(Cause { about, message, ..first })
}

pub fn counted(nodes: usize) -> String {
    if nodes == 1 { "1 node".into() } else { format!("{nodes} nodes") }
}

pub fn some(names: &[String]) -> String {
    let shown: Vec<&str> = names.iter().take(MAX_NAMES).map(String::as_str).collect();
    let more = names.len().saturating_sub(MAX_NAMES);
    if more == 0 { shown.join(", ") } else { format!("{} and {more} more", shown.join(", ")) }
}
