//! The connection to the cluster, as kubectl's own flags describe it.

use std::{path::PathBuf, time::Duration};

use kube::{
    Client, Config,
    config::{KubeConfigOptions, Kubeconfig},
};
use reqwest::header::{HeaderName, HeaderValue};

use super::CliError;

/// A server that takes longer to accept a connection is taken for absent.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Flags that mean the same as kubectl's.
#[derive(Debug, Clone, Default, clap::Args)]
#[command(next_help_heading = "Cluster")]
pub struct ClusterOptions {
    /// Path of the kubeconfig (default: $KUBECONFIG, then ~/.kube/config, then the pod's own account).
    #[arg(long, global = true, value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,
    /// Context of the kubeconfig to use.
    #[arg(long, global = true, value_name = "NAME")]
    pub context: Option<String>,
    /// Cluster of the kubeconfig to use.
    #[arg(long, global = true, value_name = "NAME")]
    pub cluster: Option<String>,
    /// User of the kubeconfig to use.
    #[arg(long, global = true, value_name = "NAME")]
    pub user: Option<String>,
    /// Acts as somebody else, as far as you may impersonate.
    #[arg(long = "as", global = true, value_name = "USER")]
    pub as_user: Option<String>,
    /// Namespace (default: the context's).
    #[arg(short, long, global = true, value_name = "NAME")]
    pub namespace: Option<String>,
}

/// Where the operator and its workers are.
#[derive(Debug, Clone, clap::Args)]
pub struct GridNamespace {
    /// Namespace of the operator and the workers.
    #[arg(long, value_name = "NAME", env = "GRID_NAMESPACE", default_value = "xdc-grid")]
    pub grid_namespace: String,
}

/// A client and the namespace that commands work in.
#[derive(Clone)]
pub struct Session {
    pub client: Client,
    pub namespace: String,
}

impl Session {
    pub async fn open(options: &ClusterOptions) -> Result<Self, CliError> {
        let mut config = config(options).await?;
        config.connect_timeout = Some(CONNECT_TIMEOUT);
        if let Some(user) = &options.as_user {
            let user = HeaderValue::from_str(user)
                .map_err(|_| CliError::Kubeconfig(format!("--as {user:?} is no user name")))?;
            config.headers.push((HeaderName::from_static("impersonate-user"), user));
        }
        let namespace = options.namespace.clone().unwrap_or_else(|| config.default_namespace.clone());
        let client = Client::try_from(config).map_err(|error| CliError::Kubeconfig(error.to_string()))?;
        Ok(Session { client, namespace })
    }
}

async fn config(options: &ClusterOptions) -> Result<Config, CliError> {
    let unusable = |error: &dyn std::fmt::Display| CliError::Kubeconfig(format!("no usable kubeconfig: {error}"));
    let selection = KubeConfigOptions {
        context: options.context.clone(),
        cluster: options.cluster.clone(),
        user: options.user.clone(),
    };
    let selected = options.context.is_some() || options.cluster.is_some() || options.user.is_some();
    match &options.kubeconfig {
        Some(path) => {
            let kubeconfig = Kubeconfig::read_from(path)
                .map_err(|error| CliError::Kubeconfig(format!("cannot read {}: {error}", path.display())))?;
            Config::from_custom_kubeconfig(kubeconfig, &selection).await.map_err(|error| unusable(&error))
        }
        None if selected => Config::from_kubeconfig(&selection).await.map_err(|error| unusable(&error)),
        None => Config::infer().await.map_err(|error| {
            CliError::Kubeconfig(format!(
                "no cluster is configured: set KUBECONFIG or give --kubeconfig FILE ({error})"
            ))
        }),
    }
}
