//! Objects by name, with a guess at what was meant when there is none.

use std::fmt::Debug;

use kube::{Api, Resource, ResourceExt, api::ListParams};
use serde::de::DeserializeOwned;

use super::{CliError, session::Session};
use crate::api::{grid_node::GridNode, inference_job::InferenceJob};

/// Names among which a guess is looked for.
const PAGE: u32 = 500;
/// Guesses that are told.
const MAX_GUESSES: usize = 3;
/// Names that are listed where none is near.
const MAX_NAMES: usize = 10;

pub fn jobs(session: &Session) -> Api<InferenceJob> {
    Api::namespaced(session.client.clone(), &session.namespace)
}

pub fn nodes(session: &Session) -> Api<GridNode> {
    Api::all(session.client.clone())
}

/// The job of that name in the session's namespace.
pub async fn job(session: &Session, name: &str) -> Result<InferenceJob, CliError> {
    get(&jobs(session), "InferenceJob", name, Some(&session.namespace)).await
}

pub async fn node(session: &Session, name: &str) -> Result<GridNode, CliError> {
    get(&nodes(session), "GridNode", name, None).await
}

/// Reads one object; one that is not there is answered with names that are.
pub async fn get<K>(api: &Api<K>, kind: &'static str, name: &str, namespace: Option<&str>) -> Result<K, CliError>
where
    K: Resource + Clone + DeserializeOwned + Debug,
{
    match api.get(name).await {
        Ok(found) => Ok(found),
        Err(error) => Err(with_guess(api, CliError::from_kube(error, kind, name, namespace), name).await),
    }
}

/// Adds a guess to "there is no such object".
pub async fn with_guess<K>(api: &Api<K>, error: CliError, name: &str) -> CliError
where
    K: Resource + Clone + DeserializeOwned + Debug,
{
    match error {
        CliError::NotFound { kind, name: missing, place, .. } => {
            let guess = did_you_mean(name, names(api).await);
            let guess = if guess.is_empty() { guess } else { format!(". {guess}") };
            CliError::NotFound { kind, name: missing, place, guess }
        }
        other => other,
    }
}

/// Names of a kind; none where they cannot be listed.
pub async fn names<K>(api: &Api<K>) -> Vec<String>
where
    K: Resource + Clone + DeserializeOwned + Debug,
{
    let found = api.list_metadata(&ListParams::default().limit(PAGE)).await;
    found.map(|found| found.items.iter().map(ResourceExt::name_any).collect()).unwrap_or_default()
}

/// A sentence with the names nearest to the one that is missing, or with those that there are.
pub fn did_you_mean(wanted: &str, known: impl IntoIterator<Item = String>) -> String {
    let known: Vec<String> = known.into_iter().collect();
    let mut near: Vec<(usize, &String)> =
        known.iter().filter_map(|name| Some((likeness(wanted, name)?, name))).collect();
    near.sort_unstable();
    let guesses: Vec<String> = near.iter().take(MAX_GUESSES).map(|(_, name)| format!("{name:?}")).collect();
    if !guesses.is_empty() {
        return format!("Did you mean {}?", guesses.join(" or "));
    }
    match known.len() {
        0 => String::new(),
        n if n <= MAX_NAMES => format!("There are: {}.", known.join(", ")),
        n => format!("There are {n} others."),
    }
}

/// How far a name is from the wanted one; none when it is another word altogether.
fn likeness(wanted: &str, name: &str) -> Option<usize> {
    if wanted.len() > 253 || name.len() > 253 {
        return None;
    }
    let distance = edits(wanted, name);
    let close = distance <= 1.max(wanted.chars().count() / 4);
    let part = wanted.len() >= 3 && (name.contains(wanted) || (name.len() >= 3 && wanted.contains(name)));
    (close || part).then_some(distance)
}

/// Insertions, deletions, replacements and swaps of neighbours that make one word of the other (optimal string alignment).
fn edits(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut before: Vec<usize> = Vec::new();
    let mut last: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.iter().enumerate() {
        let mut row = vec![i + 1];
        for (j, to) in b.iter().enumerate() {
            let at = |row: &[usize], column: usize| row.get(column).copied().unwrap_or(usize::MAX / 2);
            let mut best = (at(&last, j) + usize::from(from != to)).min(at(&last, j + 1) + 1).min(at(&row, j) + 1);
            let swapped = i > 0 && j > 0 && a.get(i - 1) == Some(to) && b.get(j - 1) == Some(from);
            if swapped {
                best = best.min(at(&before, j - 1) + 1);
            }
            row.push(best);
        }
        before = std::mem::replace(&mut last, row);
    }
    last.last().copied().unwrap_or(a.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn guess(wanted: &str, known: &[&str]) -> String {
        did_you_mean(wanted, known.iter().map(|name| (*name).to_owned()))
    }

    #[test]
    fn a_slip_of_the_finger_is_recognised() {
        assert_eq!(guess("helo", &["hello", "other"]), r#"Did you mean "hello"?"#);
        assert_eq!(guess("hlelo", &["hello", "other"]), r#"Did you mean "hello"?"#);
        assert_eq!(guess("cpu", &["cpu-1", "gpu-1"]), r#"Did you mean "cpu-1"?"#);
    }

    #[test]
    fn without_a_near_name_the_few_that_there_are_are_listed() {
        assert_eq!(guess("hello", &["a", "b"]), "There are: a, b.");
        assert_eq!(guess("hello", &[]), "");
        assert_eq!(guess("hello", &["x"; 40]), "There are 40 others.");
    }

    #[test]
    fn edits_are_counted() {
        for (a, b, expected) in [("", "", 0), ("a", "", 1), ("", "ab", 2), ("kitten", "sitting", 3), ("ab", "ba", 1)] {
            assert_eq!(edits(a, b), expected, "{a} {b}");
        }
    }
}
