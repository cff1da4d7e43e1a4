//! What went wrong, in a sentence that says what to do.

use crate::api::ids::ParseIdError;

#[derive(Debug, thiserror::Error)]
pub enum CliError {
    #[error("{0}")]
    Kubeconfig(String),
    #[error("there is no {kind} {name:?}{place}{guess}")]
    NotFound {
        kind: &'static str,
        name: String,
        place: String,
        /// A sentence with what may have been meant, or nothing.
        guess: String,
    },
    #[error("the cluster does not know the kind {kind}: is the chart installed, with its CRDs? (helm list -A)")]
    KindUnknown { kind: &'static str },
    #[error("{message}{hint}")]
    Forbidden { message: String, hint: &'static str },
    #[error("there is already a {kind} {name:?}{place}")]
    AlreadyExists { kind: &'static str, name: String, place: String },
    #[error("{0}")]
    Refused(String),
    #[error("the API server cannot be reached: {0}")]
    Unreachable(String),
    #[error("{0}")]
    Id(#[from] ParseIdError),
    #[cfg(feature = "chain")]
    #[error("{0}")]
    Chain(String),
    /// Anything that is wrong with what was found, in a whole sentence.
    #[error("{0}")]
    Other(String),
    #[error("cannot write the output: {0}")]
    Output(#[from] std::io::Error),
}

impl CliError {
    /// Translates an error of the API server about `kind` `name` in `namespace` (none for a cluster-wide kind).
    pub fn from_kube(error: kube::Error, kind: &'static str, name: &str, namespace: Option<&str>) -> Self {
        match error {
            kube::Error::Api(status) if status.code == 404 => not_found(&status, kind, name, namespace),
            kube::Error::Api(status) if status.code == 403 => {
                CliError::Forbidden { message: status.message.clone(), hint: hint(kind) }
            }
            kube::Error::Api(status) if status.code == 401 => CliError::Refused(
                "the API server does not know you: the credentials of the kubeconfig are wrong or have expired".into(),
            ),
            kube::Error::Api(status) if status.code == 409 && status.reason == "AlreadyExists" => {
                CliError::AlreadyExists { kind, name: name.into(), place: place(namespace) }
            }
            kube::Error::Api(status) => CliError::Refused(status.message.clone()),
            kube::Error::SerdeError(error) => CliError::Other(format!(
                "the API server's answer about {kind} {name:?} cannot be read by this version of kubectl-grid: {error}"
            )),
            other => CliError::Unreachable(chain(&other)),
        }
    }
}

/// A 404 without details is about the path, so about the kind: its CRD is not installed.
fn not_found(status: &kube::core::Status, kind: &'static str, name: &str, namespace: Option<&str>) -> CliError {
    if status.details.is_none() || name.is_empty() {
        return CliError::KindUnknown { kind };
    }
    CliError::NotFound { kind, name: name.into(), place: place(namespace), guess: String::new() }
}

fn place(namespace: Option<&str>) -> String {
    namespace.map(|namespace| format!(" in the namespace {namespace:?}")).unwrap_or_default()
}

/// Which of the chart's roles gives the right.
fn hint(kind: &str) -> &'static str {
    match kind {
        "InferenceJob" => ". Ask who runs the namespace for its role `view` to look at jobs, `edit` to run them",
        "GridNode" | "GridModel" | "GridNetwork" | "ContributionReport" => {
            ". Ask a cluster admin for the chart's ClusterRole `xdc-grid-grid-viewer` to look, `xdc-grid-grid-admin` to change"
        }
        _ => "",
    }
}

/// An error with everything that caused it: the outermost alone is often "client error".
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}
